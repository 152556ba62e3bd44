"""``reprobox verify --sign`` and ``--attestations``: from a rebuild to people who vouch for it, and what is wrong use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reprobox import lock_text
from reprobox.attestation.keys import Keyring
from tests.attesting import vouched

pytestmark = pytest.mark.userns

FOLDER = "research.attestations"


@pytest.fixture(autouse=True)
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Keyring:
    monkeypatch.setenv("REPROBOX_KEYS", str(tmp_path / "keys"))
    monkeypatch.delenv("REPROBOX_KEY_PASSPHRASE", raising=False)
    return Keyring(tmp_path / "keys")


@pytest.fixture
def sealed(project):
    """The project with a seal, its layers in the store."""
    assert project("lock", "--seal").status == 0
    return project


@pytest.fixture
def vouched_for(sealed, keys):
    """And an attestation by this user."""
    vouched(sealed.root, lock_text.read(sealed.lock.read_text()), keys, "ada")
    return sealed


def only(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def test_a_rebuild_is_signed_and_somebody_else_believes_it(sealed, keys, tmp_path, monkeypatch):
    keys.make("ada")
    told = sealed("verify", "--rebuild", "--sign")
    assert told.status == 0, told.err
    path = only(sealed.root / FOLDER)
    assert told.out.splitlines()[-1] == f"signed: {path}"

    monkeypatch.setenv("REPROBOX_KEYS", str(tmp_path / "of grace"))
    told = sealed("verify", "--attestations")
    assert told.status == 5
    assert "no key that you believe vouches for this lock" in told.err
    assert "it claims: target default (linux/" in told.out
    assert sealed("key", "trust", tmp_path / "keys/ada.pub").status == 0
    told = sealed("verify", "--attestations")
    assert told.status == 0, told.err
    lines = told.out.splitlines()
    assert lines[0] == f"valid          {path.name}"
    assert "built again with sandbox" in lines[2]
    assert lines[-1].startswith("1 key vouches for the lock sha256:")
    assert lines[-1].endswith(": ada")


def test_what_is_signed_is_what_was_built(sealed, keys):
    keys.make("ada")
    told = sealed("verify", "--rebuild", "--sign", "--json")
    assert told.status == 0, told.err
    (target,) = told.json["targets"]
    checked = sealed("verify", "--attestations", told.json["attestation"], "--json").json
    (said,) = checked["attestations"][0]["says"]["targets"]
    assert (said["tree_digest"], said["image_digest"]) == (target["tree_digest"], target["image_digest"])
    assert checked["lock"] == told.json["lock"]
    assert [key["name"] for key in checked["keys"]] == ["ada"]


@pytest.mark.docker
def test_two_builders_are_both_named(sealed, keys):
    keys.make("ada")
    told = sealed("verify", "--rebuild", "--builder", "sandbox", "--builder", "docker", "--sign")
    assert told.status == 0, told.err
    assert "built again with sandbox, docker" in sealed("verify", "--attestations").out


def test_what_did_not_come_out_the_same_is_not_signed(fresh, keys):
    keys.make("ada")
    fresh.add('[[layers]]\nname = "stamp"\nkind = "run"\nscript = "cat /proc/uptime > /stamp; true"\n')
    assert fresh("lock", "--seal").status == 0
    told = fresh("verify", "--rebuild", "--sign")
    assert told.status == 5
    assert "signed" not in told.out
    assert not (fresh.root / FOLDER).exists()


def test_an_attestation_changes_no_lock(vouched_for):
    assert vouched_for("lock", "--check").status == 0
    assert vouched_for("verify").status == 0


def test_the_threshold_counts_keys(vouched_for, keys, tmp_path):
    told = vouched_for("verify", "--attestations", "--threshold", "2")
    assert told.status == 5
    assert "1 of the keys that you believe vouches for this lock, and 2 are asked for" in told.err
    other = Keyring(tmp_path / "of grace")
    vouched(vouched_for.root, lock_text.read(vouched_for.lock.read_text()), other, "grace")
    assert vouched_for("verify", "--attestations", "--threshold", "2").status == 5
    told = vouched_for("verify", "--attestations", "--threshold", "2", "--trust", other.folder / "grace.pub")
    assert told.status == 0, told.err
    assert told.out.splitlines()[-1].endswith(": ada, grace")


def test_what_is_wrong_is_named_beside_what_is_right(vouched_for):
    good = only(vouched_for.root / FOLDER)
    bad = good.with_name("z.dsse.json")
    document = json.loads(good.read_text())
    document["payload"] = document["payload"][:-8] + "AAAAAAA="
    bad.write_text(json.dumps(document))
    told = vouched_for("verify", "--attestations")
    assert told.status == 5
    assert f"valid          {good.name}\n" in told.out
    assert f"bad signature  {bad.name}\n" in told.out
    assert (
        f"error: {vouched_for.lock}: not every attestation holds:\n  {bad}: its signature is not the one of ada"
        in told.err
    )
    assert told.err.endswith("  hint: take these files away, or get others from those who signed them\n")


def test_a_new_lock_has_nobody_who_vouches_for_it(vouched_for):
    (vouched_for.root / "src/main.sh").write_text("exit 1\n")
    assert vouched_for("lock").status == 0
    told = vouched_for("verify", "--attestations")
    assert told.status == 5
    assert "it is for the lock sha256:" in told.err
    assert "which gave the same as this one: default" in told.err


def test_no_attestation_at_all(sealed):
    told = sealed("verify", "--attestations")
    assert told.status == 1
    assert told.err == (
        f"error: {sealed.root / FOLDER}: there are no attestations of this lock\n"
        "  hint: vouch for it yourself with `reprobox verify --rebuild --sign`, or give the files that others sent\n"
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--sign"], "--sign: only what was built again can be vouched for\n  hint: add --rebuild"),
        (["--rebuild", "--key", "ada"], "--key says which key signs\n  hint: add --sign"),
        (["--threshold", "2"], "--threshold is about attestations\n  hint: add --attestations"),
        (["--trust", "x.pub"], "--trust is about attestations\n  hint: add --attestations"),
        (["--attestations", "--rebuild"], "--attestations builds nothing and signs nothing\n  hint: give it alone"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_that_ask_for_nothing_together(project, options, said):
    told = project("verify", *options)
    assert told.status == 2
    assert said in told.err


def test_without_a_key_nothing_is_built_in_vain(sealed):
    told = sealed("verify", "--rebuild", "--sign")
    assert told.status == 2
    assert "you have no key\n  hint: make one with `reprobox key new`" in told.err
    assert "building" not in told.err


def test_without_a_seal_nothing_is_built_in_vain(project, keys):
    keys.make("ada")
    told = project("verify", "--rebuild", "--sign")
    assert told.status == 3
    assert "target 'default' is not sealed, and people vouch for what a seal says" in told.err
    assert "building" not in told.err


def test_the_passphrase_comes_from_the_environment(sealed, keys, monkeypatch):
    keys.make("ada", b"correct horse")
    monkeypatch.setenv("REPROBOX_KEY_PASSPHRASE", "wrong")
    told = sealed("verify", "--rebuild", "--sign")
    assert told.status == 2
    assert "the passphrase is not the one of this key" in told.err
    assert "wrong\n" not in told.err
    monkeypatch.setenv("REPROBOX_KEY_PASSPHRASE", "correct horse")
    assert sealed("verify", "--rebuild", "--sign").status == 0


def test_only_some_layers_are_not_a_whole(sealed, keys):
    keys.make("ada")
    told = sealed("verify", "--rebuild", "--layer", "settings", "--sign")
    assert told.status == 2
    assert "--sign: only some layers would be built again\n  hint: leave out --layer" in told.err
    assert "building" not in told.err
