"""Locks that end with their processes; and file systems that have none: flock(2) is really denied to a process here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from reprobox import leases
from reprobox.cli import main
from reprobox.store import Store
from reprobox.tree import remove
from tests.local import Local, programs_in, running

ROOT = Path(__file__).resolve().parents[2]
#: A program without flock: the kernel answers ENOSYS to it, as Lustre does where it is mounted without `flock`.
WITHOUT = """
import ctypes, errno, os, struct, sys
flock = {{"x86_64": 73, "aarch64": 32}}[os.uname().machine]
code = [(0x20, 0, 0, 0), (0x15, 0, 1, flock), (0x06, 0, 0, 0x00050000 | errno.ENOSYS), (0x06, 0, 0, 0x7FFF0000)]
filters = b"".join(struct.pack("=HBBI", *line) for line in code)
class Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, ctypes.byref(Program(len(code), filters)), 0, 0) == 0
sys.path.insert(0, {root!r})
{body}
"""
MAIN = "from reprobox.cli import main\nsys.exit(main(sys.argv[1:]))"


def without_locks(*argv: str | Path, body: str = MAIN, status: int = 0) -> subprocess.CompletedProcess[str]:
    program = WITHOUT.format(root=str(ROOT), body=body)
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, argv)],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == status, done.stderr
    return done


@pytest.fixture
def local(tmp_path, store):
    programs_in(tmp_path / "project")
    yield Local(tmp_path / "project", store).write(running("one", "echo one >/one"))
    remove(tmp_path)


@pytest.mark.userns
def test_everything_but_gc_works_without_locks(local):
    without_locks("lock", "-C", local.path, "-q")
    without_locks("realize", "-C", local.path, "-q")
    assert without_locks("run", "-C", local.path, "--", "cat", "/one").stdout == "one\n"
    assert without_locks("run", "-C", local.path, "--offline", "--", "cat", "/one").stdout == "one\n"
    assert "0 things damaged" in without_locks("cache", "verify").stdout
    assert "would free" in without_locks("cache", "info").stdout
    told = json.loads(without_locks("doctor", "--json").stdout)
    assert told["store"]["locks"] is False
    refused = without_locks("cache", "gc", "--older-than", "0d", status=1)
    assert refused.stderr == (
        f"error: {local.store}: its file system has no locks, so nobody can tell what is in use\n"
        "  hint: run it when no reprobox command uses this store, on any machine, and add --assume-idle\n"
    )
    assert list((local.store / "layers").iterdir())
    without_locks("cache", "forget", "-C", local.path)
    without_locks("cache", "gc", "--older-than", "0d", "--assume-idle")
    assert not list((local.store / "layers").iterdir())


def test_a_download_without_locks(store, tmp_path):
    body = """
from pathlib import Path
from reprobox.lock import Input
from reprobox.digest import sha256
from reprobox.providers import Location, fetch
from reprobox.store import Store
class Places:
    name = "mirror"
    def locate(self, inputs):
        return {item.sha256: [Location(url=sys.argv[2])] for item in inputs}
store = Store(Path(sys.argv[1]))
fetch([Input(type="deb", name="a.deb", sha256=sha256(bytes(9999)), size=9999)], [Places()], store)
print(store.blob(sha256(bytes(9999))).stat().st_size, os.listdir(store.root / "partial"))
"""
    (tmp_path / "file").write_bytes(bytes(9999))
    assert without_locks(store, (tmp_path / "file").as_uri(), body=body).stdout == "9999 []\n"


def test_staging_that_nobody_could_lock_is_left_for_a_week(store):
    here = Store(store)
    for name, days in (("new", 1), ("old", 8)):
        (here.root / "tmp" / name).mkdir()
        beside = here.root / "tmp" / f"{name}.lock"
        beside.touch()
        os.utime(beside, (beside.stat().st_mtime - days * 86400,) * 2)
    body = "from pathlib import Path\nfrom reprobox.store import Store\nprint(Store(Path(sys.argv[1])).sweep())"
    assert without_locks(store, body=body).stdout == "1\n"
    assert sorted(path.name for path in (here.root / "tmp").glob("*/")) == ["new"]


def test_a_store_of_an_earlier_version_that_is_only_read_has_no_leases(store):
    here = Store(store)
    assert leases.has_locks(store)
    digest = here.add_blob(b"x")
    del here
    for path in (store / "leases").iterdir():
        path.unlink()
    (store / "leases").rmdir()
    store.chmod(0o500)
    try:
        assert Store(store).has_blob(digest)
    finally:
        store.chmod(0o700)


@pytest.mark.userns
def test_doctor_goes_on_where_the_store_cannot_be_used(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPROBOX_STORE", str(tmp_path / "file/store"))
    monkeypatch.setenv("REPROBOX_SHARED_STORES", "/none")
    assert main(["doctor"]) == 1
    told = capsys.readouterr().out
    assert f"store {tmp_path}/file/store: the store cannot be used: Not a directory\n  hint: set REPROBOX_STORE" in told
    assert "shared store /none: No such file or directory\n" in told
    assert "backend sandbox: works\n" in told
