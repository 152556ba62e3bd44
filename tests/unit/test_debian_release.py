"""Signatures and dates of Release files: who is believed, and what is said when nobody is."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from reprobox.debian import release as trust
from reprobox.debian.release import Keyring
from reprobox.errors import IntegrityError, ResolveError
from tests.debs import NOW, Key, Suite

SUITE = Suite("bookworm")


def keyring(*keys: Key) -> Keyring:
    found = Keyring()
    for number, item in enumerate(keys):
        found.add(item.armored, f"key{number}.asc")
    return found


def signed(suite: Suite, key: Key) -> bytes:
    return suite.files(key)[f"dists/{suite.name}/InRelease"]


def opened(suite: Suite, key: Key) -> trust.Release:
    data = signed(suite, key)
    content, signer = trust.verify(data, keyring(key), where="here")
    return trust.parse(data, content, signer, where="here")


def test_a_signed_release(key):
    found = opened(Suite("bookworm", valid=NOW + 100), key)
    assert found.signer == key.fingerprint
    assert found.date == SUITE.date
    assert found.valid_until == NOW + 100
    assert found.archive == "debian"
    assert found.by_hash
    assert "main/binary-amd64/Packages.xz" in found.files
    trust.check(found, "bookworm", where="here", now=NOW)


def test_a_detached_signature(key):
    files = SUITE.files(key, in_release=False)
    release, signature = files["dists/bookworm/Release"], files["dists/bookworm/Release.gpg"]
    content, signer = trust.verify(release, keyring(key), where="here", detached=signature)
    assert (content, signer) == (release, key.fingerprint)
    with pytest.raises(IntegrityError, match="the signature is bad"):
        trust.verify(release.replace(b"Debian", b"Debiam"), keyring(key), where="here", detached=signature)


def test_changed_text_is_noticed(key):
    with pytest.raises(IntegrityError, match=r"here: the signature is bad: .* \(by key [0-9A-F]{40}\)"):
        trust.verify(signed(SUITE, key).replace(b"Debian", b"Debiam", 1), keyring(key), where="here")


def test_text_outside_the_signature_does_not_count(key):
    data = b"SHA256:\n 00 0 evil\n" + signed(SUITE, key)
    try:
        content, _ = trust.verify(data, keyring(key), where="here")
    except IntegrityError:
        return
    assert b"evil" not in content


def test_an_unknown_key_is_named_with_the_places_that_were_searched(key):
    other = Key("Somebody Else <else@example.org>")
    with pytest.raises(IntegrityError) as caught:
        trust.verify(signed(SUITE, key), keyring(other), where="here")
    assert "keys that are not known here" in caught.value.message
    assert caught.value.message.endswith("looked in key0.asc")
    assert "[base] key" in (caught.value.hint or "")


@pytest.mark.parametrize("data", [b"", b"<html>please log in</html>", b"Origin: Debian\n"])
def test_what_is_not_signed_at_all(key, data):
    with pytest.raises(IntegrityError, match="not a signed Release file"):
        trust.verify(data, keyring(key), where="here")


@pytest.fixture
def gpg(tmp_path):
    """GnuPG with a key that was good in 2020 alone, in a home of its own; the argument says what time it believes it is."""
    home = Path(tempfile.mkdtemp(prefix="gpg-"))  # a socket's path must be short

    def run(moment: str, *argv: str, stdin: bytes = b"") -> bytes:
        command = ["gpg", "--homedir", home, "--batch", "--passphrase", "", "--faked-system-time", f"{moment}!", *argv]
        return subprocess.run(command, input=stdin, capture_output=True, check=True).stdout

    run("20200101T000000", "--quick-gen-key", "old@example.org", "ed25519", "sign", "1y")
    yield run
    subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False, capture_output=True)
    shutil.rmtree(home, ignore_errors=True)


def old_keyring(gpg) -> Keyring:
    found = Keyring()
    found.add(gpg("20200102T000000", "--export"), "old.gpg")
    return found


@pytest.mark.tool("gpg")
def test_a_key_that_expired_after_it_signed_is_good(gpg):
    data = gpg("20200601T000000", "--clearsign", stdin=b"Origin: Old\n")
    content, _ = trust.verify(data, old_keyring(gpg), where="here")
    assert content == b"Origin: Old"


@pytest.mark.tool("gpg")
def test_a_key_that_had_expired_when_it_signed_is_not(gpg):
    old = old_keyring(gpg)
    (fingerprint,) = old.certs
    gpg("20200601T000000", "--quick-set-expire", fingerprint, "9y")
    data = gpg("20220601T000000", "--clearsign", stdin=b"Origin: Old\n")
    with pytest.raises(trust.ExpiredKeyError) as caught:
        trust.verify(data, old, where="here")
    name = fingerprint.upper()
    assert caught.value.message == f"it is signed by key {name}, which expired on 2020-12-31 00:00 UTC"
    renewed = Keyring()
    renewed.add(gpg("20200602T000000", "--export"), "new.gpg")
    assert trust.verify(data, renewed, where="here")[1] == name


def test_one_of_several_keys_is_enough(key):
    other = Key("Somebody Else <else@example.org>")
    assert trust.verify(signed(SUITE, key), keyring(other, key), where="here")[1] == key.fingerprint


def test_the_kept_key_is_enough_to_check_again(key):
    armored = keyring(key, Key("Somebody Else <else@example.org>")).armored([key.fingerprint])
    kept = Keyring()
    kept.add(armored.encode(), "the lock")
    assert list(kept.certs) == [key.fingerprint.lower()]
    assert trust.verify(signed(SUITE, key), kept, where="here")[1] == key.fingerprint


def test_kept_keys_are_the_same_bytes_whatever_their_order(key):
    other = Key("Somebody Else <else@example.org>")
    both = [key.fingerprint, other.fingerprint]
    assert keyring(key, other).armored(both) == keyring(other, key).armored(both[::-1])


def test_the_wrong_suite(key):
    with pytest.raises(IntegrityError, match="asked for suite 'trixie', it answers with bookworm"):
        trust.check(opened(SUITE, key), "trixie", where="here", now=NOW)


def test_old_names_of_security_suites(key):
    found = opened(Suite("buster"), key)
    trust.check(found, "buster/updates", where="here", now=NOW)


def test_a_clock_that_is_behind(key):
    with pytest.raises(IntegrityError, match="in the future") as caught:
        trust.check(opened(Suite("bookworm", date=NOW + 90_000), key), "bookworm", where="here", now=NOW)
    assert "clock" in (caught.value.hint or "")


def test_a_mirror_that_is_stale(key):
    found = opened(Suite("bookworm", valid=NOW - 1), key)
    with pytest.raises(IntegrityError, match="only good until") as caught:
        trust.check(found, "bookworm", where="here", now=NOW)
    assert "Check-Valid-Until: no" in (caught.value.hint or "")
    trust.check(found, "bookworm", where="here", now=NOW, expires=False)


def test_a_release_without_hashes(key):
    data = key.clear(b"Origin: Debian\nSuite: x\nDate: Sat, 11 Jul 2026 10:16:37 UTC\n")
    content, signer = trust.verify(data, keyring(key), where="here")
    with pytest.raises(IntegrityError, match="without a usable 'SHA256'"):
        trust.parse(data, content, signer, where="here")


def test_signed_by(key, tmp_path):
    path = tmp_path / "a.asc"
    path.write_bytes(key.armored)
    trusted = keyring(key, Key("Somebody Else <else@example.org>"))
    assert trust.keys_for((), trusted) is trusted
    assert list(trust.keys_for((str(path),), Keyring()).certs) == [key.fingerprint.lower()]
    assert list(trust.keys_for((key.armored.decode(),), Keyring()).certs) == [key.fingerprint.lower()]
    assert list(trust.keys_for((key.fingerprint,), trusted).certs) == [key.fingerprint.lower()]
    missing = trust.keys_for((str(tmp_path / "b.gpg"),), trusted)
    assert not missing.certs
    assert missing.places == [f"{tmp_path}/b.gpg (not there)"]


def test_key_files(key, tmp_path):
    (tmp_path / "a.asc").write_bytes(key.armored)
    (tmp_path / "a.gpg").write_bytes(bytes(key.certificate))
    (tmp_path / "bad.gpg").write_bytes(b"junk")
    for name in ("a.asc", "a.gpg"):
        assert list(trust.read_key_file(tmp_path / name).certs) == [key.fingerprint.lower()]
    with pytest.raises(ResolveError, match="not a keyring"):
        trust.read_key_file(tmp_path / "bad.gpg")
    with pytest.raises(ResolveError, match="cannot be read"):
        trust.read_key_file(tmp_path / "none.gpg")
    (tmp_path / "secret.asc").write_text("-----BEGIN PGP PRIVATE KEY BLOCK-----\n\n…\n")
    with pytest.raises(ResolveError, match="holds a secret key"):
        trust.read_key_file(tmp_path / "secret.asc")
