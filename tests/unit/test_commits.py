"""Commits as bundles: the same bytes whoever makes them, readable by git, and refused when they are not the commit."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from reprobox.git.commits import Bundle, CommitError, bundle, entries, subtree, tree_of, walk
from reprobox.git.repository import Clone, Remote
from tests.repositories import Repository

pytestmark = pytest.mark.tool("git")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository(tmp_path / "r")
    made.write(a="hi\n", d__x="#!/bin/sh\n", d__e__deep="deep", empty="", big="0123456789abcdef" * 20_000)
    (made.path / "d/x").chmod(0o755)
    (made.path / "d/l").symlink_to("../a")
    (made.path / "exact").write_bytes(b"x" * 0xFFFF)
    (made.path / "twice").write_bytes(b"y" * 0x1FFFE)
    made.commit("first")
    made.write(a="second\n", copy="hi\n")
    made.commit("second")
    return made


def bundled(repository: Repository, path: Path, rev: str = "HEAD") -> Path:
    path.mkdir()
    clone = Clone(path / "clone", Remote.of(str(repository.path), path))
    with clone.objects() as objects:
        commit = clone.fetch(rev)
    with clone.objects() as objects:
        (path / "bundle").write_bytes(b"".join(bundle(objects.read, commit)))
    return path / "bundle"


def test_it_has_the_commit_and_all_its_files(repository: Repository, tmp_path: Path):
    with Bundle(bundled(repository, tmp_path / "b")) as files:
        assert files.commit == repository.git("rev-parse", "HEAD")
        tree = tree_of(files.read, files.commit)
        assert tree == repository.tree()
        found = {item.path.decode(): (item.mode, item.oid) for item in walk(files.read, tree)}
        listed = (line.split(None, 3) for line in repository.git("ls-tree", "-r", "-t", "HEAD").splitlines())
        assert found == {name: (mode.lstrip("0"), oid) for mode, _, oid, name in listed}
        for path, (mode, oid) in found.items():
            if mode in ("100644", "100755"):
                assert b"".join(files.content(oid)) == (repository.path / path).read_bytes()
        assert subtree(files.read, tree, "d/e") == repository.git("rev-parse", "HEAD:d/e")
        assert subtree(files.read, tree, "d/x") is None


def test_the_bytes_depend_on_the_commit_alone(repository: Repository, tmp_path: Path):
    before = bundled(repository, tmp_path / "one").read_bytes()
    repository.git("repack", "-adfq", "--depth=50")
    repository.git("config", "core.compression", "9")
    repository.git("config", "core.autocrlf", "true")
    assert bundled(repository, tmp_path / "two").read_bytes() == before
    # A vector: what one machine locks, another must make.
    fixed = Repository(tmp_path / "fixed").write(a="hi\n", d__b="")
    fixed.commit()
    data = bundled(fixed, tmp_path / "three").read_bytes()
    assert hashlib.sha256(data).hexdigest() == "19baad844f8d6e200e1806e77b0715f38c72f7776be522c97e1abdc6a7009d80"


def test_git_reads_it(repository: Repository, tmp_path: Path):
    path = bundled(repository, tmp_path / "b")
    commit = repository.git("rev-parse", "HEAD")
    assert repository.git("bundle", "list-heads", path) == f"{commit} HEAD\n{commit} refs/heads/main"
    other = Repository(tmp_path / "other")
    pack = path.read_bytes().partition(b"\n\n")[2]
    subprocess.run(["git", "unpack-objects", "-q"], cwd=other.path, input=pack, check=True)
    assert other.tree(commit) == repository.tree()
    assert other.git("cat-file", "-p", f"{commit}:a") == "second"


def test_a_commit_without_parents_can_be_cloned(repository: Repository, tmp_path: Path):
    path = bundled(repository, tmp_path / "b", repository.git("rev-list", "--max-parents=0", "HEAD"))
    subprocess.run(["git", "clone", "-q", path, tmp_path / "cloned"], check=True)
    assert (tmp_path / "cloned/a").read_text() == "hi\n"


def read_all(path: Path) -> None:
    with Bundle(path) as files:
        for item in walk(files.read, tree_of(files.read, files.commit)):
            files.read(item.oid)


def test_bundles_that_are_broken(repository: Repository, tmp_path: Path):
    path = bundled(repository, tmp_path / "b")
    data = path.read_bytes()
    read_all(path)
    for broken, said in (
        (b"", "its first line is another one"),
        (data.replace(b"PACK", b"PICK", 1), "it has no pack"),
        (data[:-1000], "is no bundle of reprobox"),
        (data.replace(b"second\n\x00", b"other\n\x00", 1)[:200], "is no bundle of reprobox"),
        (data.replace(b"0123456789abcdef", b"0123456789ABCDEF", 1), "is missing"),
        (data.replace(b"author A", b"author B", 1), "its commit is not in it"),
    ):
        path.write_bytes(broken)
        with pytest.raises(CommitError) as caught:
            read_all(path)
        assert said in str(caught.value)


def test_a_bundle_of_objects_that_are_not_what_their_id_says(repository: Repository, tmp_path: Path):
    with Bundle(bundled(repository, tmp_path / "b")) as files:
        oid = repository.git("rev-parse", "HEAD:a")

        def read(wanted: str) -> tuple[str, int, Iterator[bytes]]:
            return ("blob", 7, iter([b"SECOND\n"])) if wanted == oid else files.read(wanted)

        with pytest.raises(CommitError, match=f"the blob {oid} has other bytes than its id says"):
            list(bundle(read, files.commit))


def test_objects_that_are_not_what_their_id_says():
    tree = b"100644 a\0" + bytes(20)
    with pytest.raises(CommitError, match="has other bytes than its id says"):
        list(walk(lambda _: ("tree", len(tree), iter([tree])), "0" * 40))
    with pytest.raises(CommitError, match="is a blob, and a commit is needed"):
        tree_of(lambda _: ("blob", 1, iter([b"x"])), "0" * 40)


@pytest.mark.parametrize("name", ["..", ".", "", ".git", ".GIT", "a/b", "n" * 256])
def test_names_that_no_checkout_can_have(name):
    with pytest.raises(CommitError, match="which no checkout can have"):
        list(entries(b"100644 " + name.encode() + b"\0" + bytes(20), "t"))


def test_trees_that_are_broken():
    sound = b"100644 a\0" + bytes(20)
    assert list(entries(b"100664 a\0" + bytes(20), "t")) == [(b"a", "100644", "00" * 20)]
    for data, said in (
        (sound[:-1], "the tree t is broken"),
        (b"100644", "the tree t is broken"),
        (sound * 2, "has the entry 'a', which"),
        (sound.replace(b"100644", b"060000"), "'a' has the unknown mode 60000"),
    ):
        with pytest.raises(CommitError, match=said):
            list(entries(data, "t"))
