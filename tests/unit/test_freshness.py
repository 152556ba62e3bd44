"""What is told of a lock that is not of the manifest and its files as they are now, and what stales nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reprobox.errors import LockError
from reprobox.freshness import ensure_fresh, stale_keys
from tests.local import Local, copying, running

pytestmark = pytest.mark.userns


@pytest.fixture
def local(tmp_path, store) -> Local:
    """A project whose base is next to nothing: nothing is built here."""
    local = Local(tmp_path / "project", store)
    return local.file("base/etc/os-release", "ID=none\n").file("conf/x", "x").file("code.py", "print()")


def stale(local: Local) -> tuple[str, ...]:
    session = local.session
    return stale_keys(session, local.manifest(), local.project.lock(session.store))


def test_a_fresh_lock_is_fresh(local):
    local.write(copying("conf", "conf", "/etc/conf")).lock()
    assert stale(local) == ()
    local.write("# a comment\n" + copying("conf", "conf", "/etc/conf"))
    assert stale(local) == ()


def test_a_lock_that_knew_what_data_is_private_is_fresh(local):
    mount = '[mounts]\n"/data" = { source = "data", private = true, files = [{ url = "https://example.org/x" }] }\n'
    manifest = local.write(mount).manifest()
    (*_, older) = manifest.digests()
    keys = {**manifest.keys(), "mounts./data": "0" * 16}
    session = local.session
    lock = replace(local.write("").lock(), keys=keys)
    assert stale_keys(session, manifest, replace(lock, manifest=older)) == ()
    assert stale_keys(session, manifest, replace(lock, manifest="0" * 64)) == ("mounts./data (changed)",)


def test_each_changed_key_is_named(local):
    local.write(copying("conf", "conf", "/etc/conf") + '[env]\nLANG = "C"\n').lock()
    local.write(copying("conf", "conf", "/etc/other") + running("new", "true") + '[env]\nLC_ALL = "C"\n')
    session = local.session
    with pytest.raises(LockError) as caught:
        ensure_fresh(session, local.manifest(), local.project.lock(session.store), "here/research.lock")
    assert caught.value.status == 3
    assert caught.value.where == "here/research.lock"
    assert caught.value.hint == "run `reprobox lock`"
    assert [line.strip() for line in caught.value.message.splitlines()[1:]] == [
        "env.LANG (removed)",
        "env.LC_ALL (new)",
        "layers (changed)",
        "layers.conf.files (changed)",
        "layers.new.kind (new)",
        "layers.new.script (new)",
    ]


def test_files_that_layers_are_made_of_are_watched(local):
    local.write(copying("conf", "conf", "/etc/conf")).lock()
    local.file("conf/x", "y")
    assert stale(local) == ("layers.conf (its files changed)",)
    local.file("conf/x", "x").file("base/etc/os-release", "ID=other\n")
    assert stale(local) == ("base (its files changed)",)
    local.file("base/etc/os-release", "ID=none\n")
    assert stale(local) == ()
    (local.path / "conf").rename(local.path / "gone")
    assert stale(local) == ("layers.conf (its files are missing)",)


def test_a_changed_file_locks_its_layer_anew_and_keeps_the_others(local):
    text = copying("one", "conf", "/one") + copying("two", "code.py", "/two")
    first = local.write(text).lock()
    local.file("conf/x", "y")
    second = local.lock()
    assert stale(local) == ()
    ids = [{layer.name: layer.id for layer in lock.targets["default"].layers} for lock in (first, second)]
    assert {name for name, _ in ids[0].items() & ids[1].items()} == {"base", "two"}


def test_code_is_locked_and_stales_nothing(local):
    first = local.write(copying("conf", "conf", "/etc/conf")).lock()
    local.file("code.py", "print('edited')")
    assert stale(local) == ()
    second = local.lock()
    assert second.code != first.code
    assert second.targets == first.targets
