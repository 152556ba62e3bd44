"""The kinds that are made of the project itself (copy, run, skeleton, code): what is locked, and what the layer then is."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from reprobox.digest import Entry, read_index
from reprobox.errors import BuildError, LockError, ManifestError, ReproboxError
from reprobox.graph import EVERYTHING
from reprobox.layers.bootstrap import Bootstrap
from reprobox.layers.code import CodeKind, code_hash
from reprobox.layers.copy import Copy
from reprobox.layers.kind import Commands, Files, ResolveRequest, StepRequest
from reprobox.layers.run import RunKind
from reprobox.layers.skeleton import Skeleton
from reprobox.lock import LockedLayer
from reprobox.manifest import Layer, Manifest
from reprobox.manifest_reader import parse
from reprobox.normalise import Changes, normalise
from reprobox.tree import Tree

KINDS: dict[str, Any] = {kind.name: kind for kind in (Bootstrap(), Copy(), RunKind())}


@dataclass
class World:
    project: Path


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "conf" / "sub").mkdir(parents=True)
    (folder / "conf" / "a.ini").write_text("a")
    (folder / "conf" / "sub" / "run").write_text("#!/bin/sh\n")
    (folder / "conf" / "sub" / "run").chmod(0o775)
    (folder / "conf" / "outside").symlink_to("/etc/passwd")
    (folder / "one.txt").write_text("1")
    return folder


def manifest(more: str) -> Manifest:
    return parse(f"[project]\nname = 'x'\n[base]\nbootstrap = 'debian:bookworm'\n{more}", kinds=KINDS)


def copying(*files: tuple[str, str], more: str = "") -> Manifest:
    listed = ", ".join(f"{{ from = '{source}', to = '{to}' }}" for source, to in files)
    return manifest(f"[[layers]]\nname = 'settings'\nkind = 'copy'\nfiles = [{listed}]\n{more}")


def locked(kind: Any, asked: Manifest, project: Path) -> LockedLayer:
    layer = asked.layers[0] if asked.layers else Layer(name=kind.name, kind=kind.name)
    found = kind.resolve(
        ResolveRequest(
            manifest=asked,
            layer=layer,
            key="layers[0]",
            platform="linux/amd64",
            below=(),
            previous=None,
            upgrade=False,
            world=World(project),  # type: ignore[arg-type]  # what these kinds need of it
        )
    )
    return LockedLayer(
        name=layer.name,
        kind=kind.name,
        recipe=1,
        request="",
        options=found.options,
        facts=found.facts,
        inputs=found.inputs,
    )


def step(kind: Any, layer: LockedLayer, project: Path) -> Any:
    return kind.step(StepRequest(layer=layer, files={}, platform="linux/amd64", epoch=0, project=project))


def tree(**entries: str) -> Tree:
    made = {}
    for name, what in entries.items():
        path = name.replace("__", "/").encode()
        if what.startswith("-> "):
            made[path] = Entry("l", 0o777, what[3:], path)
        else:
            made[path] = Entry(what[0], int(what[1:], 8), "-" if what[0] == "d" else "0" * 64, path)
    return Tree(made)


def build(kind: Any, asked: Manifest, project: Path, tmp_path: Path, parents: Tree | None = None) -> dict[str, str]:
    """The layer as the engine makes it: what enters, by path."""
    return written(step(kind, locked(kind, asked, project), project), tmp_path, parents or Tree())


def written(made: Files, tmp_path: Path, parents: Tree) -> dict[str, str]:
    number = len(list(tmp_path.iterdir()))
    root, output = tmp_path / f"files{number}", tmp_path / f"layer{number}"
    root.mkdir()
    output.mkdir()
    made.write(root, parents)
    normalise(Changes(root=root, epoch=0, started=0.0), parents, output)
    entries = read_index((output / "index").read_bytes())
    return {
        entry.path.decode(): f"-> {entry.detail}" if entry.kind == "l" else f"{entry.kind}{entry.mode:04o}"
        for entry in entries
    }


# -- copy --------------------------------------------------------------------------------------------------------------


def test_a_folder_gives_its_content_and_a_file_becomes_what_is_said(project, tmp_path):
    asked = copying(("conf/", "/etc/xor"), ("one.txt", "/opt/uno"), ("one.txt", "/opt/dir/"), ("conf/sub", "/opt/sub/"))
    assert build(Copy(), asked, project, tmp_path) == {
        "etc": "d0755",
        "etc/xor": "d0755",
        "etc/xor/a.ini": "f0644",
        "etc/xor/outside": "-> /etc/passwd",
        "etc/xor/sub": "d0755",
        "etc/xor/sub/run": "f0755",
        "opt": "d0755",
        "opt/dir": "d0755",
        "opt/dir/one.txt": "f0644",
        "opt/sub": "d0755",
        "opt/sub/run": "f0755",
        "opt/uno": "f0644",
    }


def test_destinations_resolve_through_the_links_of_the_parents(project, tmp_path):
    parents = tree(lib="-> usr/lib", usr="d0755", usr__lib="d0711", srv="-> /data", etc="d0750", etc__conf="-> ../opt")
    asked = copying(("one.txt", "/lib/x"), ("one.txt", "/srv/y"), ("one.txt", "/etc/conf/z"), ("conf/sub", "/etc/conf"))
    assert build(Copy(), asked, project, tmp_path, parents) == {
        "data": "d0755",
        "data/y": "f0644",
        "opt": "d0755",
        "opt/run": "f0755",
        "opt/z": "f0644",
        "usr": "d0755",
        "usr/lib": "d0711",
        "usr/lib/x": "f0644",
    }


def test_a_file_goes_into_a_folder_that_is_there(project, tmp_path):
    assert "etc/one.txt" in build(Copy(), copying(("one.txt", "/etc")), project, tmp_path, tree(etc="d0755"))
    assert build(Copy(), copying(("one.txt", "/etc")), project, tmp_path, tree()) == {"etc": "f0644"}


def test_what_is_the_same_already_does_not_enter(project, tmp_path):
    first = step(Copy(), locked(Copy(), copying(("one.txt", "/one")), project), project)
    root = tmp_path / "first"
    root.mkdir()
    first.write(root, Tree())
    (tmp_path / "out").mkdir()
    normalise(Changes(root=root, epoch=0, started=0.0), Tree(), tmp_path / "out")
    assert written(first, tmp_path, Tree.load(tmp_path / "out" / "index")) == {}


def test_an_empty_folder_is_made(project, tmp_path):
    (project / "nothing").mkdir()
    assert build(Copy(), copying(("nothing", "/var/data")), project, tmp_path) == {"var": "d0755", "var/data": "d0755"}


def test_the_identity_is_the_content_and_the_place(project):
    def identity(*files: tuple[str, str]) -> object:
        return locked(Copy(), copying(*files), project).options

    before = identity(("conf", "/etc/xor"))
    os.utime(project / "conf" / "a.ini", (0, 0))
    assert identity(("conf/", "/etc/xor")) == before
    assert identity(("conf/", "/etc/other")) != before
    (project / "conf").rename(project / "moved")
    assert identity(("moved", "/etc/xor")) == before, "where it stands in the project is not told to the layer"
    (project / "moved" / "a.ini").write_text("b")
    assert identity(("moved", "/etc/xor")) != before


def test_mount_sources_below_are_left_out(project, tmp_path):
    (project / "conf" / "out").mkdir()
    (project / "conf" / "out" / "result").write_text("x")
    more = "[mounts]\n'/out' = { mode = 'rw', source = 'conf/out' }\n'/later' = { mode = 'rw' }\n"
    found = build(Copy(), copying(("conf", "/c"), more=more), project, tmp_path)
    assert "c/a.ini" in found
    assert "c/out" not in found
    assert "r" in build(Copy(), copying(("conf/out/result", "/r"), more=more), project, tmp_path), (
        "but what is named is meant"
    )


def test_what_changed_after_locking_is_not_built(project):
    layer = locked(Copy(), copying(("conf", "/etc/xor"), ("one.txt", "/one")), project)
    (project / "one.txt").write_text("2")
    with pytest.raises(LockError, match=r"one\.txt is not what was locked for layer 'settings'") as caught:
        step(Copy(), layer, project)
    assert caught.value.hint == "restore it, or run `reprobox lock`"
    (project / "one.txt").unlink()
    with pytest.raises(LockError, match=r"one\.txt is not what was locked"):
        step(Copy(), layer, project)


def test_every_file_that_cannot_be_copied_is_named_with_its_key(project, tmp_path):
    (tmp_path / "secret").write_text("s")
    (project / "way-out").symlink_to("..")
    asked = copying(("gone", "/a"), ("conf", "/b"), ("way-out/secret", "/c"))
    with pytest.raises(ManifestError) as caught:
        locked(Copy(), asked, project)
    first, second = caught.value.problems
    assert (first.key, first.line) == ("layers[0].files[0].from", 8)
    assert first.message.endswith("gone: there is no such file or folder")
    assert second.key == "layers[0].files[2].from"
    assert "leads out of the project through a link" in second.message
    assert first.hint
    assert second.hint


def test_what_is_in_the_way(project, tmp_path):
    for to, parents, said in (
        ("/etc/passwd/x", tree(etc="d0755", etc__passwd="f0644"), "/etc/passwd: a file is in the way"),
        ("/a/x", tree(a="-> a"), "too many symbolic links"),
    ):
        with pytest.raises(BuildError, match=said):
            build(Copy(), copying(("one.txt", to)), project, tmp_path, parents)
    with pytest.raises(BuildError, match="/etc/sub: a file is in the way"):
        build(Copy(), copying(("conf", "/etc")), project, tmp_path, tree(etc="d0755", etc__sub="f0644"))
    with pytest.raises(BuildError, match=r"/etc/a\.ini: a folder is in the way"):
        build(
            Copy(),
            copying(("conf", "/etc")),
            project,
            tmp_path,
            Tree({p: Entry("d", 0o755, "-", p) for p in (b"etc", b"etc/a.ini")}),
        )


@pytest.mark.parametrize("to", ["relative", "/a/../b", "//a", "", "//", "/a//"])
def test_destinations_that_are_none(to):
    with pytest.raises(ManifestError):
        copying(("conf", to))


# -- run ---------------------------------------------------------------------------------------------------------------


def running(script: str) -> Manifest:
    return manifest(f"[[layers]]\nname = 'compile'\nkind = 'run'\nscript = {script!r}\n")


def test_a_script_stops_at_what_fails_and_at_names_that_are_unset(project, tmp_path):
    made = step(RunKind(), locked(RunKind(), running("false; echo no"), project), project)
    assert made == Commands(commands=(("/bin/sh", "-eu", "-c", "false; echo no"),))
    for script, status, said in (("false\necho no", 1, ""), ("echo $nosuch", 2, ""), ("echo yes", 0, "yes\n")):
        (command,) = step(RunKind(), locked(RunKind(), running(script), project), project).commands
        done = subprocess.run(command, capture_output=True, text=True, env={}, check=False)
        assert (bool(done.returncode), done.stdout) == (bool(status), said)


def test_it_follows_everything():
    asked = running("true")
    assert RunKind().needs(asked.layers[0], ()) == EVERYTHING


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("  ", "the script is empty"),
        ("#!/bin/bash\necho", "its first line asks for another program"),
        ("x" * (128 << 10), "longer than 128 KiB"),
    ],
)
def test_scripts_that_cannot_be_run(script, said):
    with pytest.raises(ManifestError, match=said) as caught:
        running(script)
    assert caught.value.problems[0].key == "layers[0].script"
    assert caught.value.problems[0].hint


def test_the_longest_script_is_taken():
    assert running("x" * ((128 << 10) - 1)).layers


def test_secrets_count_by_their_names_and_the_network_by_its_use(project):
    def resolved(keys):
        layer = f"[[layers]]\nname = 'compile'\nkind = 'run'\nscript = 'true'\n{keys}\n"
        return locked(RunKind(), manifest(f"{layer}[secrets]\na = {{ env = 'A' }}\nb = {{ env = 'B' }}\n"), project)

    plain, asked = resolved("network = false\nsecrets = []"), resolved("network = true\nsecrets = ['b', 'a', 'b']")
    assert (dict(plain.options), dict(plain.facts)) == ({"script": "true"}, {})
    assert asked.options == {"script": "true", "secrets": ["a", "b"], "network": True}
    assert asked.facts == {"unpinned": True}


# -- skeleton ----------------------------------------------------------------------------------------------------------

MOUNTS = (
    "[mounts]\n'/dataset' = { source = 'd' }\n'/var/results/final' = { mode = 'rw' }\n[run]\nworkdir = '/home/me'\n"
)


def test_what_every_engine_needs_and_the_mount_points(project, tmp_path):
    assert build(Skeleton(), manifest(MOUNTS), project, tmp_path) == {
        "dataset": "d0755",
        "dev": "d0755",
        "etc": "d0755",
        "home": "d0755",
        "home/me": "d0755",
        "proc": "d0755",
        "run": "d0755",
        "sys": "d0755",
        "tmp": "d1777",
        "var": "d0755",
        "var/results": "d0755",
        "var/results/final": "d0755",
        "work": "d0755",
    }


def test_only_what_is_missing_enters(project, tmp_path):
    there = dict.fromkeys(("dev", "etc", "proc", "run", "sys", "work", "home", "home__me", "dataset"), "d0755")
    parents = tree(**there, tmp="d1777", var="d0700")
    assert build(Skeleton(), manifest(MOUNTS), project, tmp_path, parents) == {
        "var": "d0700",
        "var/results": "d0755",
        "var/results/final": "d0755",
    }


def test_a_tmp_that_is_not_for_everybody_becomes_so(project, tmp_path):
    there = dict.fromkeys(("dev", "etc", "proc", "run", "sys", "work", "tmp"), "d0755")
    assert build(Skeleton(), manifest(""), project, tmp_path, tree(**there)) == {"tmp": "d1777"}


def test_mount_points_through_links(project, tmp_path):
    there = dict.fromkeys(("dev", "etc", "proc", "run", "sys", "work"), "d0755")
    parents = tree(**there, tmp="d1777", data="-> /srv/data", srv="d0755")
    found = build(Skeleton(), manifest("[mounts]\n'/data/in' = { source = 'd' }\n"), project, tmp_path, parents)
    assert found == {"srv": "d0755", "srv/data": "d0755", "srv/data/in": "d0755"}


def test_a_file_where_a_mount_point_should_be(project, tmp_path):
    with pytest.raises(BuildError, match="/dataset cannot be a folder of the environment: /dataset: a file") as caught:
        build(Skeleton(), manifest(MOUNTS), project, tmp_path, tree(dataset="f0644"))
    assert caught.value.hint == "choose another mount point or working directory"


# -- code --------------------------------------------------------------------------------------------------------------


def test_the_code_is_what_git_would_keep_without_what_is_mounted_or_excluded(project, tmp_path):
    for name in ("research.toml", "research.lock", "data/x", "out/y", "big.ckpt", "notes.tmp", ".git/config"):
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).write_text("x")
    (project / ".gitignore").write_text("*.tmp\n")
    asked = manifest(
        "[code]\nexclude = ['*.ckpt', 'conf/sub']\n[mounts]\n'/d' = { source = 'data' }\n'/o' = { mode = 'rw', source = './out/' }\n"
    )
    assert sorted(build(CodeKind(), asked, project, tmp_path)) == [
        "work",
        "work/.gitignore",
        "work/conf",
        "work/conf/a.ini",
        "work/conf/outside",
        "work/one.txt",
        "work/research.toml",
    ]


@pytest.mark.tool("git")
def test_the_hash_of_a_clean_checkout_is_that_of_its_tree(project):
    (project / ".gitignore").write_text("*.tmp\n")
    (project / "x.tmp").write_text("x")
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    subprocess.run(["git", "add", "-A"], cwd=project, check=True)
    written_by_git = subprocess.run(
        ["git", "write-tree"], cwd=project, check=True, capture_output=True, text=True
    ).stdout.strip()
    assert code_hash(project, manifest("")) == written_by_git


def test_code_in_a_folder_of_the_project_heeds_the_ignore_file_above(project, tmp_path):
    (project / ".gitignore").write_text("a.ini\n")
    found = build(CodeKind(), manifest("[code]\npath = 'conf'\ntarget = '/src/code'\n"), project, tmp_path)
    assert sorted(found) == ["src", "src/code", "src/code/outside", "src/code/sub", "src/code/sub/run"]


def test_a_change_of_the_code_changes_its_identity_and_no_build_uses_other_code(project):
    layer = locked(CodeKind(), manifest(""), project)
    (project / "one.txt").write_text("2")
    assert locked(CodeKind(), manifest(""), project).options != layer.options
    with pytest.raises(LockError, match="the code changed"):
        step(CodeKind(), layer, project)


def test_no_code(project):
    with pytest.raises(ReproboxError, match="there is no such file or folder"):
        code_hash(project, manifest("[code]\npath = 'nosuch'\n"))
    with pytest.raises(ReproboxError, match="the code is not a folder"):
        code_hash(project, manifest("[code]\npath = 'one.txt'\n"))


def test_code_where_a_file_is(project, tmp_path):
    with pytest.raises(BuildError, match="the code cannot be put at /work: /work: a file is in the way"):
        build(CodeKind(), manifest(""), project, tmp_path, tree(work="f0644"))
