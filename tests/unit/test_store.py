"""The store: what many processes, kills, full disks and hostile surroundings leave of it is always valid."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import multiprocessing
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from reprobox.digest import sha256
from reprobox.errors import ReproboxError
from reprobox.staging import flocked
from reprobox.store import Store

ROOT = Path(__file__).resolve().parents[2]
FORK = multiprocessing.get_context("fork")


@pytest.fixture
def here(store) -> Store:
    return Store(store)


def stage_layer(folder: Path, content: bytes = b"content") -> Path:
    staged = folder / "layer"
    (staged / "tree").mkdir(parents=True)
    (staged / "tree/file").write_bytes(content)
    (staged / "index").write_text(f"f 0644 {sha256(content)} file\n")
    return staged


def publish(store: Store, identity: str = "a" * 64, content: bytes = b"content") -> None:
    with store.scratch() as folder:
        store.publish_layer(identity, stage_layer(folder, content), {"diff_id": sha256(content)})


def assert_valid(store: Store) -> None:
    """Nothing under a final name is incomplete, and what is staged can be swept away."""
    for folder in (store.root / "layers").iterdir():
        layer = store.layer(folder.name)
        assert layer is not None
        content = (layer.tree / "file").read_bytes()
        assert layer.record["diff_id"] == sha256(content)
        assert layer.index.read_text() == f"f 0644 {sha256(content)} file\n"
    for blob in (store.root / "blobs").glob("*/*"):
        assert sha256(blob.read_bytes()) == blob.name
    for memo in (store.root / "memo").glob("*/*"):
        json.loads(memo.read_bytes())
    store.sweep()
    assert not list((store.root / "tmp").glob("*/"))
    assert not list((store.root / "tmp").glob("*.lock"))


# -- blobs and layers --------------------------------------------------------------------------------------------------


def test_a_blob_is_there_when_it_is_complete(here):
    digest = here.add_blob(b"some bytes")
    assert digest == hashlib.sha256(b"some bytes").hexdigest()
    assert here.has_blob(digest)
    assert here.blob(digest).read_bytes() == b"some bytes"
    assert stat.S_IMODE(here.blob(digest).stat().st_mode) == 0o444
    assert not here.has_blob("0" * 64)
    assert here.add_blob(b"some bytes") == digest
    assert_valid(here)


def test_an_adopted_file_is_moved_and_replaces_its_like(here):
    digest = sha256(b"x")
    for _ in range(2):
        partial = here.partial(digest)
        partial.write_bytes(b"x")
        assert here.adopt(partial, digest) == here.blob(digest)
        assert not partial.exists()
    assert_valid(here)


def test_a_layer_is_there_when_it_is_published(here):
    assert here.layer("a" * 64) is None
    publish(here)
    layer = here.layer("a" * 64)
    assert layer.record == {"diff_id": sha256(b"content")}
    assert (layer.tree / "file").read_bytes() == b"content"
    assert_valid(here)


def test_the_first_to_publish_wins(here):
    publish(here)
    publish(here, content=b"another")
    assert (here.layer("a" * 64).tree / "file").read_bytes() == b"content"
    assert_valid(here)


def test_a_forgotten_layer_can_be_built_again(here):
    publish(here)
    here.forget_layer("a" * 64)
    here.forget_layer("a" * 64)
    assert here.layer("a" * 64) is None
    publish(here, content=b"another")
    assert (here.layer("a" * 64).tree / "file").read_bytes() == b"another"
    assert_valid(here)


def test_a_layer_without_its_record_is_not_there(here):
    (here.root / "layers" / ("b" * 64)).mkdir()
    assert here.layer("b" * 64) is None


def test_what_is_remembered_is_replaced_at_once(here):
    path = here.remember("locks", "key", b"[1]")
    with path.open("rb") as reader:
        here.remember("locks", "key", b"[2]")
        assert reader.read() == b"[1]"
    assert here.memo("locks", "key").read_bytes() == b"[2]"


def test_what_follows_from_a_key_is_made_once(here):
    made = []

    def make() -> bytes:
        made.append(b"value")
        return b"value"

    assert [here.derived("kind", "key", make) for _ in range(3)] == [b"value"] * 3
    assert Store(here.root).derived("kind", "key", make) == b"value"
    assert len(made) == 1
    assert here.derived("kind", "other", make) == b"value"
    assert len(made) == 2


def test_a_program_that_follows_from_a_key_is_made_once_and_again_where_it_is_torn(here):
    made = []

    def make(path: Path) -> None:
        made.append(path)
        path.write_bytes(b"#!/bin/sh\necho 42\n")

    program = here.derived_program("kind", "key", make)
    assert subprocess.run([program], capture_output=True, check=True).stdout == b"42\n"
    assert here.derived_program("kind", "key", make) == program
    assert len(made) == 1
    program.write_bytes(b"#!/bin/sh\necho 43\n")
    assert here.derived_program("kind", "key", make) == program
    assert subprocess.run([program], capture_output=True, check=True).stdout == b"42\n"
    program.chmod(0o600)
    assert os.access(here.derived_program("kind", "key", make), os.X_OK)


@pytest.mark.parametrize("torn", [b"", b"value", b"x" * 64, b"x" * 64 + b"value", b"0" * 63])
def test_a_torn_memo_is_made_anew(here, torn):
    here.derived("kind", "key", lambda: b"value")
    here.remember("kind", "key", torn)
    assert here.derived("kind", "key", lambda: b"value") == b"value"
    assert here.memo("kind", "key").read_bytes() == sha256(b"value").encode() + b"value"


def test_staging_is_gone_afterwards_whatever_happened(here):
    def fail() -> None:
        with here.scratch() as folder:
            (folder / "shut").mkdir()
            (folder / "shut/file").touch()
            (folder / "shut").chmod(0)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert not list((here.root / "tmp").iterdir())


# -- many processes ----------------------------------------------------------------------------------------------------


def in_processes(count: int, work: Callable[[int], None]) -> list[int | None]:
    """Exit statuses of ``count`` processes that do ``work`` at the same time."""
    barrier = FORK.Barrier(count)

    def run(number: int) -> None:
        barrier.wait()
        work(number)

    processes = [FORK.Process(target=run, args=(number,)) for number in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


def test_many_processes_publish_the_same(store):
    def work(number: int) -> None:
        mine = Store(store)  # made by all at once, too
        for turn in range(10):
            mine.add_blob(b"blob %d" % turn)
            publish(mine, f"{turn:064x}")
            assert mine.has_blob(sha256(b"blob %d" % turn))
            mine.remember("kind", "key", json.dumps([number]).encode())
            mine.sweep()

    assert in_processes(4, work) == [0] * 4
    assert len(list((store / "layers").iterdir())) == 10
    assert_valid(Store(store))


def test_many_processes_derive_the_same(store):
    def work(number: int) -> None:
        for turn in range(10):
            assert Store(store).derived("kind", str(turn), lambda turn=turn: bytes([turn]) * 100_000) is not None

    assert in_processes(4, work) == [0] * 4
    here = Store(store)
    assert [here.derived("kind", str(turn), lambda: b"")[:1] for turn in range(10)] == [bytes([n]) for n in range(10)]
    assert not list((store / "tmp").iterdir())


def test_only_one_works_on_a_thing(here, tmp_path):
    counter = tmp_path / "counter"
    counter.write_text("0")

    def work(_: int) -> None:
        for _ in range(20):
            with here.working_on("layer-x"):
                value = int(counter.read_text())
                time.sleep(0.0005)
                counter.write_text(str(value + 1))

    assert in_processes(4, work) == [0] * 4
    assert counter.read_text() == "80"


def test_threads_exclude_each_other_too(here):
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        for _ in range(20):
            with here.working_on("layer-x"):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.0005)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1


def test_different_things_are_worked_on_at_once(here):
    with here.working_on("layer-x"), here.working_on("layer-y"):
        pass


def test_a_killed_worker_lets_the_next_one_work(here):
    def hold(_: int) -> None:
        with here.working_on("layer-x"):
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_processes(1, hold) == [-signal.SIGKILL]
    with here.working_on("layer-x"):
        pass


def test_a_lock_whose_file_went_away_while_one_waited_is_taken_anew(tmp_path):
    """Who waited for a file that was removed meanwhile would hold a lock that nobody else can see."""
    path = tmp_path / "lock"
    seen: list[bool] = []

    def work() -> None:
        with flocked(path, fcntl.LOCK_EX):
            seen.append(path.exists())

    with flocked(path, fcntl.LOCK_EX):
        waiting = threading.Thread(target=work)
        waiting.start()
        time.sleep(0.1)
        path.unlink()
    waiting.join()
    assert seen == [True]


# -- kills and power cuts ----------------------------------------------------------------------------------------------


def killed_at(store: Path, number: int) -> bool:
    """Do everything the store can do in a process that dies before its ``number``-th effect; False if it had fewer."""

    def work(_: int) -> None:
        left = number

        def die(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            if event == "open" or (event.startswith(("os.", "tempfile.", "fcntl.")) and event != "os.kill"):
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(die)
        mine = Store(store)
        mine.add_blob(b"blob")
        publish(mine)
        mine.remember("kind", "key", b"[1, 2, 3]")
        mine.forget_layer("a" * 64)
        publish(mine, content=b"again")
        os._exit(0)

    (status,) = in_processes(1, work)
    assert status in (0, -signal.SIGKILL)
    return status != 0


def test_a_kill_at_any_moment_leaves_a_valid_store(store):
    number = 0
    leftovers = 0
    while killed_at(store / str(number), number):
        mine = Store(store / str(number))
        leftovers += bool(list((mine.root / "tmp").glob("*/")))
        assert_valid(mine)
        publish(mine)
        mine.add_blob(b"blob")
        mine.remember("kind", "key", b"[]")
        assert_valid(mine)
        number += 1
    assert number > 40
    assert leftovers > 10


def test_what_is_still_used_is_not_swept(here):
    with here.scratch() as folder:
        other = FORK.Process(target=here.sweep)
        other.start()
        other.join()
        assert here.sweep() == 0
        assert folder.is_dir()


def test_files_that_a_killed_writer_left_are_swept_when_they_are_old(here):
    old, new = here.root / "tmp/old", here.root / "tmp/new"
    for path in (old, new):
        path.touch()
    os.utime(old, (time.time() - 7200, time.time() - 7200))
    here.sweep()
    assert (old.exists(), new.exists()) == (False, True)


@pytest.mark.tool("strace")
def test_nothing_gets_its_final_name_before_it_is_flushed(store, tmp_path):
    """A power cut after a rename must not leave an empty file under a final name: order of the system calls."""
    program = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from tests.unit.test_store import Store, publish
from pathlib import Path
store = Store(Path({str(store)!r}))
store.add_blob(b"blob")
publish(store)
"""
    trace = tmp_path / "trace"
    calls = "trace=rename,renameat,renameat2,fsync,fdatasync,syncfs"
    argv = ["strace", "-f", "-y", "-e", calls, "-o", str(trace), sys.executable, "-c", program]
    subprocess.run(argv, check=True, cwd=ROOT)
    told = re.findall(r"(syncfs|fsync|rename)\w*\((?:\d+<([^>]*)>|\"([^\"]*)\", \"([^\"]*)\")", trace.read_text())
    calls_made = [(name, at or source, target) for name, at, source, target in told if str(store) in at + source]

    def position(name: str, part: str) -> int:
        return next(n for n, (call, path, target) in enumerate(calls_made) if call == name and part in (target or path))

    blob, layer = position("rename", "/blobs/"), position("rename", "/layers/")
    assert calls_made[blob - 1][0] == "fsync"  # of the folder that is new
    assert any(call == "fsync" and path == calls_made[blob][1] for call, path, _ in calls_made[:blob])
    assert calls_made[blob + 1][:2] == ("fsync", str(Path(calls_made[blob][2]).parent))
    assert any(call == "syncfs" for call, _, _ in calls_made[blob:layer])
    assert calls_made[layer + 1][:2] == ("fsync", str(store / "layers"))


# -- surroundings ------------------------------------------------------------------------------------------------------


@pytest.mark.tool("setfacl")
def test_umask_setgid_and_acls_around_do_not_enter(store):
    store.parent.mkdir(parents=True, exist_ok=True)
    around = store.parent / f"{store.name}-around"
    around.mkdir()
    around.chmod(0o2777)
    subprocess.run(["setfacl", "-d", "-m", "u:1234:rwx,g::rwx,o::rwx", around], check=True)
    old = os.umask(0o077)
    try:
        mine = Store(around / "store")
        with mine.scratch() as folder:
            (folder / "made").mkdir()
            os.umask(0o022)
            (folder / "file").touch()
            assert stat.S_IMODE(folder.stat().st_mode) == 0o755
            assert stat.S_IMODE((folder / "file").stat().st_mode) == 0o644
            assert [os.listxattr(path) for path in (folder, folder / "made", folder / "file")] == [[], [], []]
        publish(mine)
        mine.add_blob(b"x")
    finally:
        os.umask(old)
    for folder in (mine.root, *mine.root.iterdir()):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700, folder
        assert os.listxattr(folder) == []
    assert_valid(mine)


@pytest.mark.tool("setfacl")
def test_a_folder_that_was_made_for_a_store_may_be_hostile_too(store):
    store.mkdir(parents=True)
    store.chmod(0o2777)
    subprocess.run(["setfacl", "-d", "-m", "u:1234:rwx,g::rwx,o::rwx", store], check=True)
    mine = Store(store)
    publish(mine)
    for folder in mine.root.iterdir():
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700, folder
        assert os.listxattr(folder) == []
    with mine.scratch() as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o755
        assert os.listxattr(folder) == []


def test_a_store_in_a_place_that_is_no_folder_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ReproboxError, match="cannot be used") as caught:
        Store(tmp_path / "file" / "store")
    assert caught.value.where == str(tmp_path / "file/store")
    assert "REPROBOX_STORE" in caught.value.hint


IN_NAMESPACE = """
import os, sys
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.unit.test_store import Store, ReproboxError, assert_valid, publish, sha256
store = Path({store!r})
{body}
"""


def in_namespace(mount: str, store: Path, body: str) -> str:
    """Run ``body`` in a mount namespace of its own, after the shell command ``mount``; returns what it printed."""
    program = IN_NAMESPACE.format(root=str(ROOT), store=str(store), body=body)
    words = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-euc", f'{mount}\nexec "$@"', "sh"]
    done = subprocess.run(
        [*words, sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.userns
def test_a_read_only_store_is_read_and_says_why_it_is_not_written(here):
    publish(here)
    digest = here.add_blob(b"x")
    told = in_namespace(
        f"mount --bind '{here.root}' '{here.root}'; mount -o remount,bind,ro '{here.root}'",
        here.root,
        f"""
here = Store(store)
print(here.layer("a" * 64).record, here.has_blob({digest!r}), here.memo("kind", "key").exists())
print(here.derived("kind", "key", lambda: b"made"), here.derived("kind", "key", lambda: b"again"))
for attempt in (
    lambda: publish(here, "b" * 64),
    lambda: here.add_blob(b"new"),
    lambda: here.remember("kind", "key", b""),
    lambda: here.working_on("layer-x").__enter__(),
):
    try:
        attempt()
    except ReproboxError as error:
        print(error.message, error.where == str(store), error.hint)
try:
    Store(store / "layers/inside")
except ReproboxError as error:
    print(error.message)
""",
    )
    lines = told.splitlines()
    assert lines[0].endswith("True False")
    assert lines.pop(1) == "b'made' b'again'"  # nothing is remembered
    reason = "the store cannot be written: Read-only file system True set REPROBOX_STORE to a folder that you may write"
    assert lines[1:] == [reason] * 4 + ["the store cannot be used: Read-only file system"]


@pytest.mark.userns  # only for this: CI runs these as an ordinary user
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_store_of_somebody_else_says_so(here):
    for folder in ("tmp", "locks"):
        (here.root / folder).chmod(0o500)
    try:
        with pytest.raises(ReproboxError, match="cannot be written: Permission denied"), here.scratch():
            pass
        with pytest.raises(ReproboxError, match="cannot be written: Permission denied"), here.working_on("x"):
            pass
    finally:
        for folder in ("tmp", "locks"):
            (here.root / folder).chmod(0o700)


def test_an_error_of_the_work_stays_what_it_is(here):
    with pytest.raises(PermissionError), here.scratch():
        raise PermissionError(errno.EACCES, "not the store's")
    with pytest.raises(PermissionError), here.working_on("x"):
        raise PermissionError(errno.EACCES, "not the store's")


@pytest.mark.userns
def test_a_full_disk_leaves_a_valid_store(tmp_path):
    told = in_namespace(
        f"mount -t tmpfs -o size=512k tmpfs '{tmp_path}'",
        tmp_path / "store",
        """
import errno
here = Store(store)
kept = here.add_blob(b"kept")
publish(here)
for attempt in (
    lambda: here.add_blob(bytes(1 << 20)),
    lambda: publish(here, "b" * 64, bytes(1 << 20)),
    lambda: here.remember("kind", "key", bytes(1 << 20)),
):
    try:
        attempt()
    except OSError as error:
        print(error.errno == errno.ENOSPC, list((store / "tmp").iterdir()))
assert_valid(here)
print(here.layer("b" * 64), here.has_blob(kept), here.layer("a" * 64) is not None)
here.add_blob(b"goes on")
""",
    )
    assert told.splitlines() == ["True []"] * 3 + ["None True True"]
