"""The hash of data: what counts, what is refused, and when a file is read again."""

from __future__ import annotations

import hashlib
import os
import socket
import tempfile
import threading
import time
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprobox import data
from reprobox.data import content, differences, listing
from reprobox.errors import IntegrityError, ReproboxError
from reprobox.store import Store


@pytest.fixture
def folder(tmp_path) -> Path:
    root = tmp_path / "data"
    (root / "tmp" / "deep").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "tmp" / "deep" / "a").write_text("a\n")
    (root / "two words").write_text("b\n")
    (root / os.fsdecode(b"caf\xe9")).write_text("not UTF-8\n")
    (root / "link").symlink_to("tmp/deep/a")
    (root / "dangling").symlink_to("nowhere")
    return root


@pytest.fixture
def at_rest(monkeypatch) -> None:
    """Files written a moment ago count as if they had been at rest."""
    monkeypatch.setattr(data, "_TICK", -60.0)


@pytest.fixture
def read(monkeypatch) -> list[str]:
    """The files that are hashed, as they are."""
    seen: list[str] = []
    real = data._hash

    def noting(root, path, state):
        seen.append(os.fsdecode(path))
        return real(root, path, state)

    monkeypatch.setattr(data, "_hash", noting)
    return seen


def by_hand(root: Path) -> str:
    """The hash as the documentation explains it, by other code."""
    lines = []
    for path in sorted(root.rglob("*"), key=lambda path: os.fsencode(path.relative_to(root))):
        name = (
            os.fsencode(path.relative_to(root))
            .replace(b"\\", b"\\x5C")
            .replace(b" ", b"\\x20")
            .replace(b"\n", b"\\x0A")
        )
        if path.is_symlink():
            lines.append(b"l 0777 " + os.fsencode(os.readlink(path)) + b" " + name + b"\n")
        elif path.is_dir():
            lines.append(b"d 0755 - " + name + b"\n")
        else:
            lines.append(b"f 0644 " + hashlib.sha256(path.read_bytes()).hexdigest().encode() + b" " + name + b"\n")
    return hashlib.sha256(b"".join(lines)).hexdigest()


def test_the_hash_is_the_documented_one(folder, kept):
    found = content(folder, kept)
    assert found.tree == by_hand(folder)
    assert (found.files, found.size) == (3, 14)
    assert listing(kept, found.tree) == found.listing
    assert listing(kept, "0" * 64) is None


def test_modes_times_and_ways_to_the_folder_do_not_count(folder, kept, tmp_path):
    before = content(folder, kept).tree
    (folder / "two words").chmod(0o755)
    (folder / "empty").chmod(0o700)
    os.utime(folder / "two words", (1, 1))
    (tmp_path / "way").symlink_to(folder)
    assert content(tmp_path / "way", kept).tree == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda root: (root / "two words").write_text("c\n"), ["changed two words"]),
        (lambda root: (root / "empty").rmdir(), ["missing empty"]),
        (lambda root: (root / "new\nline").touch(), ["new     new\nline"]),
        (lambda root: (root / os.fsdecode(b"caf\xe9")).unlink(), ["missing caf\\xe9"]),
        (lambda root: ((root / "link").unlink(), (root / "link").symlink_to("empty")), ["changed link"]),
        (lambda root: ((root / "link").unlink(), (root / "link").write_text("a\n")), ["changed link"]),
    ],
)
def test_what_counts_and_how_it_is_told(folder, kept, change, said):
    before = content(folder, kept)
    change(folder)
    after = content(folder, kept)
    assert after.tree != before.tree
    assert differences(before.listing, after.listing) == said


def test_a_single_file(tmp_path, kept):
    (tmp_path / "file").write_text("x")
    found = content(tmp_path / "file", kept)
    digest = hashlib.sha256(b"x").hexdigest()
    assert (found.listing, found.files, found.size) == (f"f 0644 {digest} .\n".encode(), 1, 1)


@given(st.binary(min_size=1, max_size=20).filter(lambda name: name not in (b".", b"..") and not set(name) & {0, 47}))
def test_any_name_can_be_listed(name):
    one = f"f 0644 {'0' * 64} {data.escape(name)}\n".encode("latin-1")
    assert differences(one, one) == []
    assert differences(one, b"") == ["missing " + name.decode(errors="backslashreplace")]


# -- refused -----------------------------------------------------------------------------------------------------------


def refused(folder: Path, kept: Store) -> tuple[str, str]:
    with pytest.raises(ReproboxError) as caught:
        content(folder, kept)
    return f"{caught.value.where}: {caught.value.message}", caught.value.hint or ""


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "tmp/../../outside"])
def test_links_that_lead_out(folder, kept, target):
    (folder / "tmp" / "out").symlink_to(target if target.startswith("/") else f"../{target}")
    said, hint = refused(folder, kept)
    assert said.startswith(f"{folder}/tmp/out: a link that leads out of the folder, to ")
    assert hint == "put the files themselves into the folder, or mount the place that the link leads to"


def test_special_files(folder, kept):
    os.mkfifo(folder / "pipe")
    said, hint = refused(folder, kept)
    assert said == f"{folder}/pipe: a device, FIFO or socket cannot be locked"
    assert hint == "data is files, folders and links: remove it, or keep it in another folder"
    (folder / "pipe").unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        place = os.getcwd()
        os.chdir(folder)
        listener.bind("socket")
        os.chdir(place)
        assert refused(folder, kept)[0] == f"{folder}/socket: a device, FIFO or socket cannot be locked"


def as_anybody(work) -> str:
    """What ``work`` raises, in a child that is no administrator."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about threads
        child = os.fork()
    if child == 0:
        try:
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            work()
        except BaseException as error:  # noqa: BLE001
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as pipe:
        return pipe.read()


@pytest.mark.parametrize("name", ["file", "folder"])
def test_what_cannot_be_read(name):
    with tempfile.TemporaryDirectory(prefix="reprobox-tests-") as place:
        root = Path(place, "data")
        (root / "folder").mkdir(parents=True)
        (root / "file").touch()
        (root / name).chmod(0)
        for path in (Path(place), root, root / "folder", root / "file") if os.getuid() == 0 else ():
            os.chown(path, 65534, 65534)
        told = as_anybody(lambda: content(root, Store(Path(place, "store"))))
        (root / name).chmod(0o700)
    assert told == f"{root}/{name}: it cannot be read: Permission denied\n  hint: make it readable, or remove it"


def test_a_file_that_changes_while_it_is_read(folder, kept, monkeypatch):
    real = hashlib.file_digest

    def slow(file, name):
        digest = real(file, name)
        (folder / "two words").write_text("another\n")
        return digest

    monkeypatch.setattr(data.hashlib, "file_digest", slow)
    with pytest.raises(IntegrityError, match="it changed while it was read") as caught:
        content(folder, kept)
    assert caught.value.hint == "wait until nothing writes to the folder any more, and run it again"


def test_a_file_that_became_a_pipe_is_not_waited_for(folder, kept, monkeypatch):
    real = data._hash

    def late(root, path, state):
        full = os.path.join(root, path)
        os.unlink(full)
        os.mkfifo(full)
        return real(root, path, state)

    monkeypatch.setattr(data, "_hash", late)
    done = threading.Timer(20, os._exit, (1,))
    done.start()
    with pytest.raises(IntegrityError, match="it changed"):
        content(folder, kept)
    done.cancel()


# -- remembering -------------------------------------------------------------------------------------------------------


def test_a_second_look_reads_nothing(folder, kept, at_rest, read):
    first = content(folder, kept)
    assert len(read) == 3
    read.clear()
    assert content(folder, kept) == first
    assert read == []


def test_what_changed_is_read_again_and_only_that(folder, kept, at_rest, read):
    before = content(folder, kept)
    read.clear()
    stamp = (folder / "two words").stat()
    time.sleep(0.02)
    (folder / "two words").write_text("c\n")  # as long as before, and as old
    os.utime(folder / "two words", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert content(folder, kept).tree != before.tree
    assert read == ["two words"]


def test_a_file_replaced_by_an_older_one_is_read(folder, kept, at_rest, read, tmp_path):
    before = content(folder, kept)
    (tmp_path / "other").write_text("c\n")
    stamp = (folder / "two words").stat()
    os.utime(tmp_path / "other", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    (tmp_path / "other").rename(folder / "two words")
    assert content(folder, kept).tree != before.tree


def test_a_file_that_had_just_changed_is_not_trusted(folder, kept, read):
    content(folder, kept)
    read.clear()
    content(folder, kept)
    assert sorted(read) == sorted(["tmp/deep/a", "two words", os.fsdecode(b"caf\xe9")])


@pytest.mark.parametrize(
    "memo", [b"", b"{", b'{"format": 0}', b'{"format": 1, "files": []}', b'{"format": 1, "files": {"two words": [1]}}']
)
def test_a_broken_memory_is_no_memory(folder, kept, at_rest, memo):
    before = content(folder, kept)
    (path,) = (kept.root / "memo" / "data-seen").iterdir()
    path.write_bytes(memo)
    assert content(folder, kept) == before


def test_a_listing_that_was_tampered_with_is_none(folder, kept):
    found = content(folder, kept)
    path = kept.memo("data", found.tree)
    path.write_bytes(found.listing + b"\n")
    assert listing(kept, found.tree) is None


def test_many_files_in_threads(tmp_path, kept):
    root = tmp_path / "many"
    root.mkdir()
    for number in range(300):
        (root / str(number)).write_bytes(b"%d" % number * 1000)
    assert content(root, kept).tree == by_hand(root)
