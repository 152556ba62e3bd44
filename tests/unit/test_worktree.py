"""Tree hashes against git itself, what is left out against git itself, and files put in place without leaving the root."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reprobox.digest import Entry
from reprobox.errors import IntegrityError, ReproboxError
from reprobox.git.worktree import Placing, collect, one, tree_hash, within
from reprobox.tree import Tree

pytestmark = pytest.mark.tool("git")

NOBODY = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@b",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@b",
    "PATH": os.environ["PATH"],
    "HOME": "/nonexistent",
}


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, env=NOBODY, capture_output=True, check=True)
    return done.stdout.decode("utf-8", "surrogateescape")


def git_tree(folder: Path) -> str:
    """The tree id that git gives everything in ``folder``."""
    git(folder, "init", "-q")
    git(folder, "-c", "core.autocrlf=false", "add", "-A", "-f")
    return git(folder, "write-tree").strip()


def fill(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "a").mkdir()
    (folder / "a.b").write_bytes(b"sorts between a and a/\n")
    (folder / "a" / "x").write_bytes(b"1")
    (folder / "a0").write_bytes(b"")
    (folder / "run.sh").write_bytes(b"#!/bin/sh\n")
    (folder / "run.sh").chmod(0o750)
    (folder / "secret").write_bytes(b"s")
    (folder / "secret").chmod(0o600)
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "file").write_bytes(b"\0" * 3_000_000)
    (folder / "empty" / "er").mkdir(parents=True)
    (folder / "link").symlink_to("../outside")
    (folder / "to-folder").symlink_to("a")
    (folder / "name with space \\ and\nnewline").write_bytes(b"x")
    Path(os.fsdecode(os.fsencode(folder) + b"/latin-\xe9")).write_bytes(b"x")
    return folder


# -- hashes ------------------------------------------------------------------------------------------------------------


def test_the_tree_hash_is_git_own(tmp_path):
    folder = fill(tmp_path / "f")
    assert tree_hash(collect(folder)) == git_tree(folder)


def test_of_an_empty_folder_too(tmp_path):
    assert tree_hash(collect(tmp_path)) == git_tree(tmp_path) == "4b825dc642cb6eb9a060e54bf8d69288fbee4904"


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(st.lists(st.text("ab.-0_", min_size=1, max_size=3), min_size=1, max_size=4).map(tuple), st.binary())
)
def test_of_any_folder(tmp_path_factory, files):
    folder = tmp_path_factory.mktemp("any")
    for parts, data in files.items():
        path = folder.joinpath(*parts)
        if {".", ".."} & set(parts):
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        except (NotADirectoryError, IsADirectoryError, FileExistsError):
            continue
    assert tree_hash(collect(folder)) == git_tree(folder)


def test_times_owners_and_other_modes_do_not_count(tmp_path):
    folder = fill(tmp_path / "f")
    before = tree_hash(collect(folder))
    for path in (folder / "a" / "x", folder / "a"):
        os.utime(path, (1, 1))
    (folder / "a" / "x").chmod(0o664)
    (folder / "a").chmod(0o700)
    assert tree_hash(collect(folder)) == before
    (folder / "a" / "x").chmod(0o764)
    assert tree_hash(collect(folder)) != before


def test_fifos_and_sockets_are_left_out_and_nobody_waits_for_them(tmp_path):
    (tmp_path / "a").write_bytes(b"x")
    before = tree_hash(collect(tmp_path))
    os.mkfifo(tmp_path / "fifo")
    assert tree_hash(collect(tmp_path)) == before
    with pytest.raises(ReproboxError, match="neither a file nor a folder"):
        one(tmp_path / "fifo")


def test_what_cannot_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "closed").write_bytes(b"x")
    (tmp_path / "f" / "closed").chmod(0)
    if os.access(tmp_path / "f" / "closed", os.R_OK):  # root reads everything
        monkeypatch.setattr("builtins.open", _refuse)
    with pytest.raises(ReproboxError, match="it cannot be read: Permission denied") as caught:
        collect(tmp_path / "f")
    monkeypatch.undo()
    assert caught.value.where == str(tmp_path / "f" / "closed")


def _refuse(*_: object, **__: object) -> None:
    raise PermissionError(13, "Permission denied")


def test_a_path_may_not_lead_out_through_a_link(tmp_path):
    project = tmp_path / "project"
    (project / "real").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "key").write_bytes(b"secret")
    (project / "real" / "x").write_bytes(b"x")
    (project / "out").symlink_to("../outside")
    (project / "in").symlink_to("real")
    (project / "file").symlink_to("../outside/key")
    assert within(project, "in/x") == project / "in" / "x"
    assert within(project, "file") == project / "file", "a link itself is no way out: it stays a link"
    assert within(project, ".") == project
    with pytest.raises(ReproboxError, match="out/key leads out of the project through a link"):
        within(project, "out/key")
    with pytest.raises(ReproboxError, match="there is no such file or folder"):
        within(project, "nothing")
    (tmp_path / "alias").symlink_to("project")
    assert within(tmp_path / "alias", "real/x") == tmp_path / "alias" / "real" / "x"


def test_locks_and_version_control_are_never_part(tmp_path):
    for name in ("research.lock", "sub/research.lock", "sub/.git", ".git/config", "research.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [os.fsdecode(item.path) for item in collect(tmp_path)] == ["research.toml"]


def test_skipped_paths_with_everything_below(tmp_path):
    for name in ("data/x", "data2/x"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    assert [item.path for item in collect(tmp_path, skip={os.fsencode(tmp_path / "data")})] == [b"data2/x"]


# -- putting them in place ---------------------------------------------------------------------------------------------


def tree(**entries: str) -> Tree:
    """A tree of ``path="d0755"``, ``path="f0644"`` or ``path="-> target"``; ``__`` stands for a slash."""
    made = {}
    for name, what in entries.items():
        path = name.replace("__", "/").encode()
        if what.startswith("-> "):
            made[path] = Entry("l", 0o777, what[3:], path)
        else:
            made[path] = Entry(what[0], int(what[1:], 8), "-" if what[0] == "d" else "0" * 64, path)
    return Tree(made)


@pytest.fixture
def source(tmp_path):
    (tmp_path / "source").write_bytes(b"content")
    return one(tmp_path / "source")


@pytest.fixture
def root(tmp_path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def modes(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): f"{stat.S_IMODE(path.lstat().st_mode):04o}"
        for path in sorted(root.rglob("*"))
        if not path.is_symlink()
    }


def test_folders_keep_their_modes_and_new_ones_are_plain_whatever_the_umask(root, source):
    before = os.umask(0o077)
    try:
        with Placing(root, tree(opt="d0711", opt__closed="d0555")) as placing:
            placing.file(source, b"opt/closed/new/file")
    finally:
        os.umask(before)
    assert modes(root) == {"opt": "0711", "opt/closed": "0555", "opt/closed/new": "0755", "opt/closed/new/file": "0644"}
    (root / "opt" / "closed").chmod(0o755)


def test_links_of_the_environment_are_followed_inside_it(root, source):
    parents = tree(lib="-> usr/lib", usr="d0755", usr__lib="d0755", opt="-> /data/opt", up="-> ../../../up2")
    with Placing(root, parents) as placing:
        placing.file(source, b"lib/x")
        placing.file(source, b"opt/y")
        placing.file(source, b"up/z")
    assert [name for name in modes(root) if name[-1] in "xyz"] == ["data/opt/y", "up2/z", "usr/lib/x"]


def test_a_link_of_the_same_layer_leads_nowhere(root, source, tmp_path):
    (tmp_path / "victim").mkdir()
    (tmp_path / "evil").symlink_to(tmp_path / "victim")
    with Placing(root, tree()) as placing:
        placing.file(one(tmp_path / "evil"), b"opt/evil")
        with pytest.raises(NotADirectoryError):
            placing.file(source, b"opt/evil/file")
        placing.file(source, b"opt/evil")
    assert (root / "opt" / "evil").read_bytes() == b"content"
    assert list((tmp_path / "victim").iterdir()) == []


def test_what_is_in_the_way(root, source):
    parents = tree(etc="d0755", etc__conf="f0644", loop="-> loop", link="-> etc")
    with Placing(root, parents) as placing:
        with pytest.raises(NotADirectoryError) as caught:
            placing.file(source, b"etc/conf/x")
        assert caught.value.filename == "/etc/conf"
        with pytest.raises(IsADirectoryError):
            placing.file(source, b"etc")
        with pytest.raises(OSError, match="too many"):
            placing.file(source, b"loop/x")
        placing.file(source, b"new")
        with pytest.raises(NotADirectoryError):
            placing.folder(b"new/sub")
        placing.folder(b"made")
        with pytest.raises(IsADirectoryError):
            placing.file(source, b"made")
        placing.file(source, b"link")
    assert (root / "link").read_bytes() == b"content", "a link at the very end is replaced"


def test_a_file_that_changed_meanwhile_is_refused(root, tmp_path, source):
    (tmp_path / "source").write_bytes(b"CONTENT")
    with Placing(root, tree()) as placing, pytest.raises(IntegrityError, match="changed while it was copied"):
        placing.file(source, b"x")
    (tmp_path / "source").unlink()
    with Placing(root, tree()) as placing, pytest.raises(ReproboxError, match="there is no such file"):
        placing.file(source, b"y")
