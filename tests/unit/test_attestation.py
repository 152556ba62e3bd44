"""Attestations: keys, envelopes, statements, and what each attestation of a lock is worth."""

from __future__ import annotations

import base64
import json
import os
import stat
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement as TheirStatement

from reprobox import lock_text
from reprobox.attestation.check import Finding, Report, check_attestations
from reprobox.attestation.dependencies import MOST, dependencies, purl
from reprobox.attestation.envelope import MOST_BYTES, PAYLOAD_TYPE, sign
from reprobox.attestation.folder import attestations_in, vouch
from reprobox.attestation.keys import Keyring, open_keyring
from reprobox.attestation.statement import Statement, read_statement
from reprobox.cli import main
from reprobox.digest import canonical, sha256
from reprobox.errors import UsageError
from reprobox.lock import Input, Lock
from tests.attesting import statement_of, vouched

LOCK_TEXT = (Path(__file__).parents[1] / "golden/research.lock").read_text()


@dataclass
class Desk:
    """A project with a sealed lock, Ada's own keys, and the keyring of Grace, who is somewhere else."""

    path: Path
    lock: Lock
    ada: Keyring
    grace: Keyring

    @property
    def digest(self) -> str:
        return sha256((self.path / "research.lock").read_bytes())

    def check(self, *files: Path) -> Report:
        """As Ada sees it."""
        return check_attestations(attestations_in(files), self.digest, self.lock, self.ada.believed())

    def only(self, file: Path) -> Finding:
        (found,) = self.check(file).findings
        return found


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    project = tmp_path / "project"
    project.mkdir()
    (project / "research.toml").write_text('[project]\nname = "xor"\n[base]\nbootstrap = "debian:bookworm"\n')
    (project / "research.lock").write_text(LOCK_TEXT)
    return Desk(project, lock_text.read(LOCK_TEXT), Keyring(tmp_path / "ada"), Keyring(tmp_path / "grace"))


def envelope(file: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(file.read_bytes())
    return found


def payload(file: Path) -> bytes:
    return base64.b64decode(str(envelope(file)["payload"]))


# -- statements --------------------------------------------------------------------------------------------------------


def test_a_statement_comes_back_as_it_was(desk: Desk):
    statement = statement_of(desk.path, desk.lock)
    assert read_statement(statement.data(), "x") == statement
    assert statement.builders == ("sandbox", "docker")


def test_in_totos_own_library_finds_the_statement_sound(desk: Desk):
    document = json.loads(statement_of(desk.path, desk.lock).data())
    read = json_format.ParseDict(document, statement_pb2.Statement())  # refuses a field that it does not know
    TheirStatement.copy_from_pb(read).validate()
    assert [item.name for item in read.subject][:3] == ["research.lock", "default/image", "default/tree"]
    assert read.subject[0].digest["sha256"] == desk.digest


def test_slsas_own_messages_take_the_provenance(desk: Desk):
    predicate = json.loads(statement_of(desk.path, desk.lock).data())["predicate"]
    extension = predicate.pop("reprobox_verified")
    assert extension["sealed"] is True
    assert extension["fromEmptyStores"] is True
    read = json_format.ParseDict(predicate, provenance_pb2.Provenance())
    assert read.build_definition.build_type == "urn:reprobox:rebuild:v1"
    assert read.run_details.builder.version["reprobox"] == "0.1.0"
    assert read.run_details.metadata.finished_on.ToJsonString() == "2026-11-22T13:30:00Z"
    named = {item.uri: item.digest["sha256"] for item in read.build_definition.resolved_dependencies}
    inputs = {item.sha256 for target in desk.lock.targets.values() for layer in target.layers for item in layer.inputs}
    assert set(named.values()) == inputs


def test_the_same_statement_under_the_same_key_has_the_same_bytes(desk: Desk):
    first = vouched(desk.path, desk.lock, desk.ada, "ada").read_bytes()
    assert vouched(desk.path, desk.lock, desk.ada, "ada").read_bytes() == first


@pytest.mark.parametrize(
    ("kind", "facts", "name", "wanted"),
    [
        (
            "deb",
            {"package": "libc6", "version": "2.36-9+deb12u10", "architecture": "amd64", "archive": "debian-security"},
            "libc6_2.36-9+deb12u10_amd64.deb",
            "pkg:deb/debian/libc6@2.36-9%2Bdeb12u10?arch=amd64",
        ),
        (
            "deb",
            {"package": "jq", "version": "1:1.7", "architecture": "arm64", "archive": "ubuntu-ports"},
            "jq_1.7_arm64.deb",
            "pkg:deb/ubuntu/jq@1:1.7?arch=arm64",
        ),
        (
            "wheel",
            {"package": "Typing_Extensions", "version": "4.16.0"},
            "typing_extensions-4.16.0-py3-none-any.whl",
            "pkg:pypi/typing-extensions@4.16.0?file_name=typing_extensions-4.16.0-py3-none-any.whl",
        ),
        ("file", {}, "model.tar.gz", "pkg:generic/model.tar.gz?checksum=sha256:" + "a" * 64),
    ],
    ids=["deb", "deb of ubuntu", "wheel", "file"],
)
def test_inputs_have_package_urls(kind: str, facts: dict[str, str], name: str, wanted: str):
    assert purl(Input(type=kind, name=name, sha256="a" * 64, size=1, facts=facts)) == wanted


def test_more_inputs_than_anyone_reads_are_left_to_the_lock(desk: Desk):
    target = desk.lock.targets["default"]
    many = tuple(Input(type="file", name=f"f{n}", sha256=sha256(b"%d" % n), size=1) for n in range(MOST + 1))
    layer = replace(target.layers[-1], inputs=many)
    lock = replace(desk.lock, targets={"default": replace(target, layers=(*target.layers[:-1], layer))})
    assert dependencies(lock) == ()


# -- keys --------------------------------------------------------------------------------------------------------------


def test_a_private_key_is_for_nobody_else(desk: Desk):
    key = desk.ada.make("ada")
    private = desk.ada.folder / "ada.key"
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert stat.S_IMODE(desk.ada.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(key.path.stat().st_mode) & 0o077 == 0o044
    private.chmod(0o640)
    with pytest.raises(UsageError) as caught:
        desk.ada.signer("ada")
    assert str(caught.value) == (
        f"{private}: others may read this private key: its mode is 0640\n  hint: chmod 600 {private}"
    )


@pytest.mark.parametrize("room", [0, 60, 115])
def test_a_full_disk_leaves_no_half_of_a_key(tmp_path: Path, room: int):
    """There is room for nothing, for a part of either half, and for the public one alone."""
    command = [sys.executable, "-m", "reprobox.cli", "key", "new", "--name", "ada"]
    done = subprocess.run(
        ["prlimit", f"--fsize={room}", *command],
        env={**os.environ, "REPROBOX_KEYS": str(tmp_path / "keys"), "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "keys cannot be written: File too large" in done.stderr
    assert list((tmp_path / "keys").iterdir()) == []


@pytest.mark.tool("openssl")
def test_openssl_reads_both_halves_and_verifies_what_is_signed(desk: Desk, tmp_path: Path):
    """DSSE's pre-authentication encoding written out here by hand, and checked by another program."""
    file = vouched(desk.path, desk.lock, desk.ada, "ada")
    (signature,) = envelope(file)["signatures"]
    body = payload(file)
    message = b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(body), body)
    (tmp_path / "message").write_bytes(message)
    (tmp_path / "signature").write_bytes(base64.b64decode(signature["sig"]))
    verify = [
        "openssl",
        "pkeyutl",
        "-verify",
        "-rawin",
        "-in",
        tmp_path / "message",
        "-sigfile",
        tmp_path / "signature",
    ]
    public = subprocess.run([*verify, "-pubin", "-inkey", desk.ada.folder / "ada.pub"], capture_output=True, check=True)
    assert b"Signature Verified Successfully" in public.stdout
    subprocess.run([*verify, "-inkey", desk.ada.folder / "ada.key"], capture_output=True, check=True)
    (tmp_path / "message").write_bytes(message + b" ")
    with pytest.raises(subprocess.CalledProcessError):
        subprocess.run([*verify, "-inkey", desk.ada.folder / "ada.key"], capture_output=True, check=True)


def test_a_passphrase_is_wanted_and_must_be_the_right_one(desk: Desk):
    desk.ada.make("ada", b"correct horse")
    assert desk.ada.is_locked("ada")
    assert b"ENCRYPTED" in (desk.ada.folder / "ada.key").read_bytes()
    desk.ada.signer("ada", b"correct horse")
    with pytest.raises(UsageError, match="the passphrase is not the one of this key\n  hint: try again"):
        desk.ada.signer("ada", b"battery staple")
    with pytest.raises(UsageError, match="this key wants its passphrase\n  hint: type it when you are asked, or set"):
        desk.ada.signer("ada")


def test_a_pair_that_does_not_belong_together_signs_nothing(desk: Desk):
    desk.ada.make("ada")
    desk.ada.make("other")
    (desk.ada.folder / "other.pub").rename(desk.ada.folder / "ada.pub")
    with pytest.raises(UsageError, match=r"ada\.pub is the public half of another key"):
        desk.ada.signer("ada")


def test_which_key_signs_is_said_or_clear(desk: Desk):
    with pytest.raises(UsageError, match="you have no key\n  hint: make one with `reprobox key new`"):
        desk.ada.chosen()
    desk.ada.make("ada")
    assert desk.ada.chosen().name == "ada"
    desk.ada.make("work")
    with pytest.raises(UsageError, match="you have 2 keys: ada, work\n  hint: choose one with --key NAME"):
        desk.ada.chosen()
    assert desk.ada.chosen("work").name == "work"
    with pytest.raises(UsageError, match="you have no key 'home'\n  hint: you have ada, work"):
        desk.ada.chosen("home")


@pytest.mark.tool("openssl")
def test_a_key_of_another_kind_is_not_trusted(desk: Desk, tmp_path: Path):
    made = subprocess.run(
        ["openssl", "ecparam", "-genkey", "-name", "prime256v1", "-noout"], capture_output=True, check=True
    )
    public = subprocess.run(["openssl", "ec", "-pubout"], input=made.stdout, capture_output=True, check=True)
    (tmp_path / "grace.pub").write_bytes(public.stdout)
    with pytest.raises(UsageError, match="it is a key of kind EC, and must be Ed25519"):
        desk.ada.trust(tmp_path / "grace.pub")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is no public key in PEM"),
        (b"\xff\xfe", "it is no public key in PEM"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "it is no public key in PEM"),
        (
            b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            "it is a private key: nobody else may have it",
        ),
    ],
    ids=["empty", "no text", "no key", "private"],
)
def test_what_is_no_public_key_is_not_trusted(desk: Desk, tmp_path: Path, content: bytes, message: str):
    (tmp_path / "grace.pub").write_bytes(content)
    with pytest.raises(UsageError) as caught:
        desk.ada.trust(tmp_path / "grace.pub")
    assert str(caught.value) == (
        f"{tmp_path / 'grace.pub'}: {message}\n  hint: give the .pub file that `reprobox key new` wrote"
    )


def test_a_name_stands_for_one_key(desk: Desk):
    first = desk.grace.make("grace")
    assert desk.ada.trust(first.path).id == first.id
    desk.ada.trust(first.path)  # the same again changes nothing
    second = desk.grace.make("second")
    with pytest.raises(UsageError, match="you trust another key by the name 'grace'"):
        desk.ada.trust(second.path, "grace")
    desk.ada.distrust("grace")
    assert desk.ada.trust(second.path, "grace").id == second.id


@pytest.mark.parametrize("name", ["", "../ada", "a/b", ".ada", "a b", "x" * 65, "ada\n"])
def test_a_key_has_a_plain_name(desk: Desk, name: str):
    with pytest.raises(UsageError, match="cannot be the name of a key"):
        desk.ada.make(name)


def test_the_folder_of_keys_is_named_by_a_variable():
    assert open_keyring({"REPROBOX_KEYS": "/srv/keys"}).folder == Path("/srv/keys")
    with pytest.raises(UsageError, match="REPROBOX_KEYS: expected an absolute path, found 'keys'"):
        open_keyring({"REPROBOX_KEYS": "keys"})


# -- what an attestation is worth --------------------------------------------------------------------------------------


def test_several_people_vouch_for_one_lock(desk: Desk):
    vouched(desk.path, desk.lock, desk.ada, "ada")
    vouched(desk.path, desk.lock, desk.grace, "grace")
    folder = desk.path / "research.attestations"
    report = desk.check(folder)
    assert [item.state for item in report.findings] == ["valid", "unknown key"]
    desk.ada.trust(desk.grace.folder / "grace.pub")
    report = desk.check(folder)
    assert [item.message.partition(" (")[0] for item in report.findings] == ["signed by ada", "signed by grace"]
    assert len(report.keys) == 2
    assert not report.wrong


def test_a_signature_counts_for_the_targets_that_were_built(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """The other target of the lock is not sealed, and nobody has built it."""
    monkeypatch.setenv("REPROBOX_KEYS", str(desk.ada.folder))
    vouched(desk.path, desk.lock, desk.ada, "ada")

    def verify(*words: str) -> int:
        return main(["verify", "-C", str(desk.path), "--attestations", *words])

    assert verify() == 5
    out, err = capsys.readouterr()
    assert out.splitlines()[-2:] == ["  1 of them for target default", "  0 of them for target my gpu"]
    assert "no key that you believe vouches for target 'my gpu' of this lock" in err
    assert "; --target asks about one target alone" in err
    assert verify("--json") == 5
    (ada,) = desk.ada.own()
    assert json.loads(capsys.readouterr().out)["targets"] == {"default": [ada.id], "my gpu": []}
    assert verify("--target", "default") == 0
    assert verify("--target", "my gpu") == 5
    assert verify("--target", "none") == 2
    assert "hint: there are default, my gpu" in capsys.readouterr().err


def test_one_key_that_signs_twice_counts_once(desk: Desk, tmp_path: Path):
    first = vouched(desk.path, desk.lock, desk.ada, "ada")
    (tmp_path / "copy.dsse.json").write_bytes(first.read_bytes())
    assert len(desk.check(first, tmp_path / "copy.dsse.json").keys) == 1


def test_a_key_that_is_believed_no_longer_is_unknown(desk: Desk):
    desk.ada.trust(desk.grace.make("grace").path)
    file = vouched(desk.path, desk.lock, desk.grace, "grace")
    assert desk.only(file).state == "valid"
    desk.ada.distrust("grace")
    found = desk.only(file)
    assert (found.state, found.message) == ("unknown key", f"nobody here knows the key {found.keyid[:16]}…")


def test_a_name_in_the_envelope_makes_nobody_another(desk: Desk):
    """A stranger writes Ada's key id beside his own signature."""
    ada = desk.ada.make("ada")
    file = vouched(desk.path, desk.lock, desk.grace, "grace")
    forged = envelope(file)
    forged["signatures"][0]["keyid"] = ada.id
    file.write_text(json.dumps(forged))
    found = desk.only(file)
    assert found.state == "bad signature"
    assert found.message == f"its signature is not the one of ada (key {ada.id[:16]}…): it was changed"
    assert found.statement is None


def test_every_byte_of_what_is_said_counts(desk: Desk):
    file = vouched(desk.path, desk.lock, desk.ada, "ada")
    original, body = envelope(file), payload(file)
    for at in range(0, len(body), max(1, len(body) // 40)):
        changed = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
        file.write_text(json.dumps(original | {"payload": base64.b64encode(changed).decode()}))
        assert desk.only(file).state == "bad signature", at


def test_the_type_of_the_payload_is_signed_too(desk: Desk):
    file = vouched(desk.path, desk.lock, desk.ada, "ada")
    file.write_text(json.dumps(envelope(file) | {"payloadType": "application/json"}))
    found = desk.only(file)
    assert (found.state, found.message) == (
        "damaged",
        "its payload is of type 'application/json', not 'application/vnd.in-toto+json'",
    )


def test_an_attestation_of_another_lock_says_nothing_of_this_one(desk: Desk):
    file = vouched(desk.path, desk.lock, desk.ada, "ada")
    before = desk.digest
    (desk.path / "research.lock").write_text(LOCK_TEXT + "# other bytes\n")
    found = desk.only(file)
    assert (found.state, found.message) == (
        "another lock",
        f"it is for the lock sha256:{before[:12]}…, and this one is {desk.digest[:12]}…, which gave the same as this one: default",
    )


def test_who_says_other_digests_than_the_seal_is_not_believed(desk: Desk):
    desk.ada.make("ada")
    honest = statement_of(desk.path, desk.lock)
    other = replace(honest, outcomes=(replace(honest.outcomes[0], tree="0" * 64),))
    found = desk.only(vouch(desk.path, other, desk.ada.chosen(), desk.ada.signer("ada")))
    assert (found.state, found.message) == (
        "not the seal",
        f"of target 'default' it says another tree digest than the seal: sha256:{'0' * 64}",
    )


def test_a_target_that_the_lock_does_not_have_is_not_believed(desk: Desk):
    desk.ada.make("ada")
    honest = statement_of(desk.path, desk.lock)
    other = replace(honest, outcomes=(*honest.outcomes, replace(honest.outcomes[0], target="gpu")))
    found = desk.only(vouch(desk.path, other, desk.ada.chosen(), desk.ada.signer("ada")))
    assert (found.state, found.message) == ("not the seal", "the lock has no target 'gpu'")


def signed(desk: Desk, body: bytes) -> Path:
    """What Ada signs, whatever it is."""
    desk.ada.make("ada")
    file = desk.path / "x.dsse.json"
    file.write_bytes(sign(body, desk.ada.signer("ada")))
    return file


def changed(statement: Statement, **predicate: object) -> bytes:
    document = json.loads(statement.data())
    document["predicate"] |= predicate
    return canonical(document)


def test_a_statement_of_another_kind_is_none(desk: Desk):
    body = json.loads(statement_of(desk.path, desk.lock).data()) | {"predicateType": "https://slsa.dev/provenance/v0.2"}
    found = desk.only(signed(desk, canonical(body)))
    assert found.state == "damaged"
    assert found.message == (
        "it is no attestation of a lock: predicateType is 'https://slsa.dev/provenance/v0.2', and must be"
        " 'https://slsa.dev/provenance/v1'"
    )


def test_a_statement_whose_subjects_are_others_is_none(desk: Desk):
    """Other tools go by the subjects, and we by what was done: both must say the same."""
    body = json.loads(statement_of(desk.path, desk.lock).data())
    body["subject"][0]["digest"]["sha256"] = "0" * 64
    found = desk.only(signed(desk, canonical(body)))
    assert found.state == "damaged"
    assert found.message.endswith("its subjects are not the lock and the targets that it says were built")


def test_a_statement_that_claims_less_is_none(desk: Desk):
    statement = statement_of(desk.path, desk.lock)
    verified = json.loads(statement.data())["predicate"]["reprobox_verified"]
    found = desk.only(signed(desk, changed(statement, reprobox_verified=verified | {"fromEmptyStores": False})))
    assert found.message == "it is no attestation of a lock: fromEmptyStores is False, and must be True"


def test_what_a_later_reprobox_adds_is_ignored(desk: Desk):
    body = json.loads(statement_of(desk.path, desk.lock).data())
    body["subject"].append({"name": "default/sif", "digest": {"sha256": "1" * 64}})
    body["predicate"]["reprobox_other"] = 1
    assert desk.only(signed(desk, canonical(body))).state == "valid"


HOSTILE = {
    "empty": b"",
    "cut": b'{"payload": "e30=", "payloadTy',
    "no JSON": b"\x00\xff\x00",
    "a list": b"[]",
    "a number": b"1",
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "many digits": b"9" * 10_000,
    "no signatures": b'{"payload": "e30=", "payloadType": "application/vnd.in-toto+json", "signatures": []}',
    "signatures of the wrong kind": b'{"payload": "e30=", "payloadType": "application/vnd.in-toto+json", "signatures": 1}',
    "key id of the wrong kind": b'{"payload": "e30=", "payloadType": "x", "signatures": [{"keyid": 1, "sig": "eA=="}]}',
    "key id that moves the cursor": b'{"payload": "e30=", "payloadType": "x", "signatures": [{"keyid": "\\u001b[2J", "sig": "eA=="}]}',
    "no base64": b'{"payload": "*", "payloadType": "x", "signatures": [{"keyid": "a", "sig": "eA=="}]}',
    "the same key twice": b'{"payload": "e30=", "payloadType": "application/vnd.in-toto+json", "signatures": [{"keyid": "a", "sig": "eA=="}, {"keyid": "a", "sig": "eA=="}]}',
    "another payload": b'{"payload": "e30=", "payloadType": "application/vnd.in-toto+json", "signatures": [{"keyid": "a", "sig": "eA=="}]}',
    "deep payload": b'{"payload": "'
    + base64.b64encode(b"[" * 100_000)
    + b'", "payloadType": "application/vnd.in-toto+json", "signatures": [{"keyid": "a", "sig": "eA=="}]}',
}


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_hostile_files_are_named_and_hide_no_other(desk: Desk, name: str):
    good = vouched(desk.path, desk.lock, desk.ada, "ada")
    bad = good.with_name("0-bad.dsse.json")
    bad.write_bytes(HOSTILE[name])
    report = desk.check(good.parent)
    assert [(Path(item.file).name, item.state) for item in report.findings] == [
        ("0-bad.dsse.json", "damaged"),
        (good.name, "valid"),
    ]
    assert report.findings[0].message.startswith(
        ("it is no DSSE envelope: ", "it is no attestation of a lock: ", "it has 0")
    )


def test_a_huge_file_is_not_read(desk: Desk):
    file = desk.path / "huge.dsse.json"
    with file.open("wb") as sparse:
        sparse.truncate(1 << 40)
    assert desk.only(file).message == f"it is larger than {MOST_BYTES} bytes"


def test_what_is_no_file_is_not_waited_for(desk: Desk):
    file = desk.path / "pipe.dsse.json"
    os.mkfifo(file)
    assert desk.only(file).message == "it is no file"


def test_what_is_not_there_is_said(desk: Desk):
    with pytest.raises(UsageError, match="there is no such file or folder"):
        desk.check(desk.path / "none.dsse.json")
