"""Layers of kind ``git`` and code from a repository: real repositories, the real git, servers on loopback."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reprobox.git.repository import Clone, Remote
from tests.cli.conftest import Project, Told
from tests.repositories import Repository, daemon, web

pytestmark = pytest.mark.tool("git")


@pytest.fixture(autouse=True)
def _hostile_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings and variables of a machine that would change what git gives, if they counted."""
    home = tmp_path / "home"
    command = f'[url "ext::sh -c touch% {home}/ran% "]\ninsteadOf = git://elsewhere/\n'
    (home / "hooks").mkdir(parents=True)
    for hook in ("post-checkout", "reference-transaction", "pre-auto-gc"):
        (home / "hooks" / hook).write_text(f"#!/bin/sh\ntouch {home}/hook-ran\nexit 1\n")
        (home / "hooks" / hook).chmod(0o755)
    (home / ".gitconfig").write_text(
        f"[core]\nautocrlf = true\nhooksPath = {home}/hooks\n[protocol]\nallow = always\n[submodule]\nrecurse = true\n"
        + command
    )
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_DIR", str(home / "nowhere"))
    monkeypatch.setenv("GIT_OBJECT_DIRECTORY", str(home / "nowhere"))
    yield
    assert not (home / "hook-ran").exists()
    assert not (home / "nowhere").exists()
    assert not (home / "ran").exists()


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository(tmp_path / "served" / "gym")
    made.write(
        src__main_o_py="print(1)\r\n",
        bin__run="#!/bin/sh\necho $Format:%H$\n",
        _o_gitattributes="* text=auto eol=crlf\nbin/run export-subst\nsecret export-ignore\n*.py filter=evil\n",
        secret="kept",
        docs__a="a",
    )
    (made.path / "bin/run").chmod(0o755)
    (made.path / "latest").symlink_to("/opt/elsewhere")
    made.commit("one", tag="v1.0")
    made.write(secret="newer")
    made.git("checkout", "-q", "-b", "topic")
    made.commit("two")
    made.git("checkout", "-q", "main")
    return made


@pytest.fixture
def other_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Call it to be somebody whose store is empty."""

    def change() -> None:
        monkeypatch.setenv("REPROBOX_STORE", str(tmp_path / os.urandom(4).hex()))

    return change


def cloning(project: Project, repository: object, rev: str, more: str = "", *, name: str = "gym") -> None:
    project.add(
        f'[[layers]]\nname = "{name}"\nkind = "git"\nrepository = "{repository}"\nrev = "{rev}"\nto = "/opt/{name}"\n{more}'
    )


def layer(project: Project, name: str = "gym") -> dict[str, Any]:
    layers = tomllib.loads(project.lock.read_text())["targets"]["default"]["layers"]
    return next(item for item in layers if item["name"] == name)


def realized(project: Project) -> Path:
    done = project("realize", "--output", "tree")
    assert done.status == 0, done.err
    return project.root / "tree"


def problem(told: Told) -> str:
    assert told.status == 2, told.err
    return told.err.partition("research.toml:")[2].strip()


def test_the_files_of_a_tag_as_they_are_in_the_repository(fresh: Project, repository: Repository):
    cloning(fresh, repository.path, "v1.0")
    done = fresh("lock")
    assert done.status == 0, done.err
    commit, tree = repository.git("rev-parse", "v1.0^{commit}"), repository.tree("v1.0")
    locked = layer(fresh)
    assert locked["facts"] == {"commit": commit, "tree": tree, "swhid": [f"swh:1:rev:{commit}", f"swh:1:dir:{tree}"]}
    assert locked["options"] == {"to": "/opt/gym", "bundle": "gym.bundle"}
    (item,) = locked["inputs"]
    assert (item["type"], item["commit"], item["rev"]) == ("git", commit, "v1.0")
    assert str(repository.path) not in fresh.lock.read_text()
    root = realized(fresh) / "opt/gym"
    assert (root / "src/main.py").read_bytes() == b"print(1)\n", "a checkout would have other line ends"
    assert (root / "bin/run").read_text() == "#!/bin/sh\necho $Format:%H$\n"
    assert (root / "secret").read_text() == "kept"
    assert os.readlink(root / "latest") == "/opt/elsewhere"
    assert [stat.S_IMODE((root / name).stat().st_mode) for name in ("bin/run", "secret", "src")] == [
        0o755,
        0o644,
        0o755,
    ]
    assert not (root / ".git").exists()


def test_another_machine_makes_the_same_bundle(fresh: Project, repository: Repository, other_store, tmp_path: Path):
    cloning(fresh, repository.path, "topic")
    assert fresh("lock").status == 0
    first = fresh("realize", "--json").json["layers"]
    repository.git("repack", "-adfq")
    other_store()
    assert [item["diff_id"] for item in fresh("realize", "--json").json["layers"]] == [
        item["diff_id"] for item in first
    ]
    # The branch goes on, and its history is written anew: what is locked is still had by its commit, or told.
    repository.git("branch", "keep", "topic")
    repository.git("branch", "-f", "topic", "main")
    other_store()
    assert fresh("realize").status == 0
    repository.git("branch", "-D", "keep")
    repository.git("-c", "gc.reflogExpire=now", "reflog", "expire", "--expire=now", "--all")
    repository.git("gc", "-q", "--prune=now")
    other_store()
    told = fresh("realize")
    assert told.status == 1
    assert f"{repository.path}: it has no commit '{layer(fresh)['facts']['commit']}'" in told.err
    assert "check the commit: it may have been removed upstream" in told.err


def test_a_pin_stays_until_it_is_upgraded(fresh: Project, repository: Repository, other_store):
    cloning(fresh, repository.path, "main")
    assert fresh("lock").status == 0
    before = fresh.lock.read_bytes()
    old = repository.git("rev-parse", "main")
    new = repository.write(secret="newest").commit("three")
    assert fresh("lock").status == 0
    assert fresh.lock.read_bytes() == before
    other_store()
    fresh.edit('to = "/opt/gym"', 'to = "/opt/other"')
    assert fresh("lock").status == 0
    assert layer(fresh)["facts"]["commit"] == old, "another place is no other commit"
    before = fresh.root / "before.lock"
    before.write_bytes(fresh.lock.read_bytes())
    assert fresh("lock", "--upgrade-package", "gym").status == 0
    assert layer(fresh)["facts"]["commit"] == new
    (moved,) = fresh("diff", before, fresh.lock, "--json").json["targets"][0]["layers"][0]["packages"]
    assert (moved["name"], moved["old"]["version"], moved["new"]["version"]) == ("gym", old[:12], new[:12])
    fresh.edit('rev = "main"', 'rev = "v1.0"')
    assert fresh("lock").status == 0
    assert layer(fresh)["facts"]["commit"] == old


def test_every_way_to_name_a_commit(repository: Repository, tmp_path: Path):
    commit = repository.git("rev-parse", "main")
    for number, rev in enumerate(("v1.0", "main", "HEAD", commit, commit[:8], "refs/tags/v1.0")):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert Clone(folder / "clone", Remote.of(str(repository.path), tmp_path)).fetch(rev) == commit


def test_from_a_git_server_and_from_a_plain_one(fresh: Project, repository: Repository, other_store):
    repository.git("tag", "-a", "signed", "-m", "a tag with words", "topic")
    older = repository.git("rev-parse", "main")
    repository.write(more="1").commit("later")
    repository.git("update-server-info")
    served = repository.path.parent
    seen = set()
    with daemon(served) as git, web(served) as plain:
        for url, rev in (
            (f"{git}/gym/.git", "signed"),
            (f"{git}/gym/.git", older),
            (f"{plain}/gym/.git", "signed"),
            (f"{plain}/gym/.git", older),
        ):
            fresh.manifest.write_text(fresh.manifest.read_text().split('[[layers]]\nname = "gym"')[0].split("[env]")[0])
            fresh.manifest.write_text(fresh.manifest.read_text() + "[env]\n")
            cloning(fresh, url, rev)
            other_store()
            done = fresh("lock")
            assert done.status == 0, done.err
            assert "127.0.0.1" not in fresh.lock.read_text()
            (item,) = layer(fresh)["inputs"]
            seen.add((item["commit"], item["sha256"]))
            other_store()
            assert fresh("realize").status == 0
    assert {commit for commit, _ in seen} == {older, repository.git("rev-parse", "topic")}
    assert len(seen) == 2, "however it is had, it is the same file"


def test_a_folder_of_it(fresh: Project, repository: Repository):
    cloning(fresh, repository.path, "v1.0", 'subdirectory = "bin/"')
    assert fresh("lock").status == 0
    assert layer(fresh)["facts"]["swhid"][1] == f"swh:1:dir:{repository.git('rev-parse', 'v1.0:bin')}"
    assert os.listdir(realized(fresh) / "opt/gym") == ["run"]
    fresh.edit('"bin/"', '"bim"')
    assert problem(fresh("lock")) == (
        '28: layers[2].subdirectory: the commit has no folder "bim"\n  hint: did you mean "bin"?'
    )


@pytest.fixture
def nested(repository: Repository, tmp_path: Path) -> Repository:
    """A repository with a submodule that has one itself, at relative places."""
    served = repository.path.parent
    middle = Repository(served / "middle").write(middle="1")
    middle.commit()
    middle.git("submodule", "add", "-q", "../gym", "deep/gym")
    middle.commit()
    top = Repository(served / "top").write(top="1")
    top.commit()
    top.git("submodule", "add", "-q", "../middle", "third party/middle")
    top.commit(tag="v1")
    return top


def test_submodules_within_submodules(fresh: Project, nested: Repository, repository: Repository, other_store):
    cloning(fresh, nested.path, "v1", name="top")
    done = fresh("lock")
    assert done.status == 0, done.err
    locked = layer(fresh, "top")
    assert [item["path"] for item in locked["options"]["modules"]] == [
        "third party/middle",
        "third party/middle/deep/gym",
    ]
    assert [item["name"] for item in locked["inputs"]] == ["top.bundle", "middle.bundle", "gym.bundle"]
    other_store()
    root = realized(fresh) / "opt/top/third party/middle"
    assert (root / "middle").read_text() == "1"
    assert (root / "deep/gym/secret").read_text() == "kept"
    fresh.edit('to = "/opt/top"', 'to = "/opt/top"\nsubmodules = false')
    assert fresh("lock").status == 0
    assert len(layer(fresh, "top")["inputs"]) == 1
    fresh("realize", "--output", "without")
    assert os.listdir(fresh.root / "without/opt/top/third party/middle") == []


def test_submodules_that_are_nowhere(fresh: Project, repository: Repository, tmp_path: Path):
    commit = repository.git("rev-parse", "HEAD")
    repository.git("update-index", "--add", "--cacheinfo", f"160000,{commit},vendor/x")
    repository.git("commit", "-qm", "a module without a place")
    cloning(fresh, repository.path, "main")
    head = repository.git("rev-parse", "HEAD")
    assert problem(fresh("lock")) == (
        f"26: layers[2].rev: {repository.path}: the commit {head} has a submodule at vendor/x, and .gitmodules does not say"
        " where it is\n  hint: choose another `rev`, or leave submodules out with `submodules = false`"
    )
    repository.git("reset", "-q", "--hard", "v1.0")
    repository.write(_o_gitmodules='[submodule "x"]\npath = vendor/x\nurl = ext::sh -c touch% /tmp/pwned\n')
    repository.git("add", "-A")
    repository.git("update-index", "--add", "--cacheinfo", f"160000,{commit},vendor/x")
    repository.git("commit", "-qm", "a module that is a command")
    assert 'the submodule at vendor/x is said to be at "ext::sh -c touch% /tmp/pwned", which is no server' in problem(
        fresh("lock")
    )


def test_large_files_that_are_elsewhere_are_told(fresh: Project, repository: Repository):
    repository.write(model="version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n").commit()
    cloning(fresh, repository.path, "main")
    done = fresh("lock")
    assert "1 file of it are pointers to Git LFS" in done.err or "1 file of it is a pointer to Git LFS" in done.err


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rev", "said"),
    [
        ("v1.1", "it has no commit, tag or branch 'v1.1'\n  hint: did you mean 'v1.0'?"),
        ("zzzzzzz", "it has no commit, tag or branch 'zzzzzzz'\n  hint: it has main, topic, v1.0"),
        (
            "0" * 39 + "1",
            (
                f"it has no commit '{'0' * 39}1'\n"
                "  hint: check the commit: it may have been removed upstream, or be of another repository"
            ),
        ),
    ],
)
def test_a_repository_without_the_commit(rev, said, fresh: Project, repository: Repository):
    cloning(fresh, repository.path, rev)
    told = fresh("lock")
    assert told.status == 1
    assert told.err.endswith(f"error: {repository.path}: {said}\n")


def test_a_repository_that_is_none(fresh: Project, tmp_path: Path):
    cloning(fresh, "../gone", "main")
    told = fresh("lock")
    assert told.status == 1
    assert told.err.endswith(
        f"error: {tmp_path}/gone: '{tmp_path}/gone' does not appear to be a git repository; Could not read from remote"
        " repository.\n  hint: check the repository: `git ls-remote` must be able to list it\n"
    )


def test_commands_are_no_way_to_a_repository(fresh: Project):
    cloning(fresh, "git://elsewhere/x", "main")
    told = fresh("lock")
    assert told.status == 1
    assert "transport 'ext' not allowed" in told.err
    assert "hint: git is told not to use this way: begin the repository with https:// or ssh://" in told.err


def test_no_network_and_no_git(fresh: Project, repository: Repository, other_store, monkeypatch, tmp_path: Path):
    cloning(fresh, "git://127.0.0.1:9/gym", "main")
    told = fresh("lock")
    assert (told.status, "git://127.0.0.1:9/gym: " in told.err) == (1, True)
    assert "hint: check the network connection, the name of the server, and the proxy settings" in told.err
    told = fresh("lock", "--offline")
    assert (told.status, "error: git://127.0.0.1:9/gym: the network may not be used" in told.err) == (6, True)
    fresh.edit('"git://127.0.0.1:9/gym"', f'"{repository.path}"')
    assert fresh("lock", "--offline").status == 0, "a folder of this machine is no network"
    other_store()
    monkeypatch.setenv("PATH", str(tmp_path))
    told = fresh("realize")
    assert told.status == 1
    assert "the program git is needed to get this, and it is not on this machine" in told.err
    assert "hint: install git (package `git` of most systems), and look that it is on PATH" in told.err


@pytest.mark.parametrize(
    ("repository", "said"),
    [
        ("htps://h/x", '25: layers[2].repository: "htps" is no way to a repository\n  hint: did you mean "https"?'),
        (
            "ext::sh -c true",
            (
                '25: layers[2].repository: expected one word, found "ext::sh -c true"\n'
                "  hint: write it without spaces; it cannot begin with -"
            ),
        ),
        (
            "ext::touch",
            (
                '25: layers[2].repository: expected a repository, found "ext::touch"\n'
                "  hint: write a URL, user@host:path, or the path of a folder"
            ),
        ),
        (
            "--upload-pack=touch",
            (
                '25: layers[2].repository: expected one word, found "--upload-pack=touch"\n'
                "  hint: write it without spaces; it cannot begin with -"
            ),
        ),
    ],
)
def test_repositories_that_are_none(repository, said, fresh: Project):
    cloning(fresh, repository, "main")
    assert problem(fresh("lock")) == said


def test_an_unknown_key(fresh: Project):
    cloning(fresh, "../x", "main", "submodule = false")
    assert problem(fresh("lock")) == '28: layers[2].submodule: unknown key\n  hint: did you mean "submodules"?'


def test_side_by_side_with_others(fresh: Project, repository: Repository):
    cloning(fresh, repository.path, "main")
    cloning(fresh, repository.path, "topic", name="gym2")
    assert fresh("lock").status == 0
    assert layer(fresh, "gym2")["parents"] == ["base"]
    fresh.edit('to = "/opt/gym2"', 'to = "/opt/gym/src"')
    told = fresh("lock")
    assert (told.status, "layers 'gym' and 'gym2' both write at /opt/gym/src" in told.err) == (2, True)


def running(text: str) -> list[str]:
    """Command lines of processes that have ``text`` in them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(path.read_bytes().decode(errors="replace"))
    return [line for line in found if text in line]


def wait_until(reached: Callable[[], bool]) -> None:
    for _ in range(600):
        if reached():
            return
        time.sleep(0.05)
    raise AssertionError("it never came")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_server_that_says_nothing_and_a_lock_that_ends(number, fresh: Project):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"http://127.0.0.1:{silent.getsockname()[1]}/x"
        cloning(fresh, place, "main")
        command = [sys.executable, "-m", "reprobox.cli", "lock", "-q"]
        with subprocess.Popen(command, cwd=fresh.root, stderr=subprocess.DEVNULL) as process:
            wait_until(lambda: any("remote-http" in line for line in running(place)))
            process.send_signal(number)
            assert process.wait(20) in (130, -number)
        wait_until(lambda: not running(place))


# -- code --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def code(fresh: Project, repository: Repository) -> Project:
    """The project with its code in a repository."""
    repository.write(main_o_sh="cat /work/secret; touch /work/new 2>/dev/null || echo read-only\n").commit(tag="v2")
    fresh.edit('path = "src"', f'git = "{repository.path}"\nrev = "v2"')
    return fresh


def test_code_from_a_repository_runs_from_the_store(code: Project, repository: Repository, other_store):
    done = code("lock")
    assert done.status == 0, done.err
    lock = tomllib.loads(code.lock.read_text())
    commit = repository.git("rev-parse", "v2^{commit}")
    assert lock["code"] == lock["checkout"]["facts"]["tree"] == repository.tree("v2")
    assert lock["checkout"]["facts"]["swhid"] == [f"swh:1:rev:{commit}", f"swh:1:dir:{repository.tree('v2')}"]
    assert str(repository.path) not in code.lock.read_text()
    repository.write(secret="later").commit()
    for _ in range(2):  # the long way, and the quick one
        done = code.process("run", "--locked")
        assert (done.status, done.out) == (0, "keptread-only\n"), done.err
    assert code("cache", "gc", "--older-than", "0d").status == 0
    done = code.process("run")
    assert (done.out, done.err) == ("keptread-only\n", ""), "the code is needed as its environment is"
    other_store()
    assert code.process("run").out == "keptread-only\n"
    assert code("lock", "--check").status == 0


def test_code_from_a_repository_is_baked_in(code: Project, repository: Repository):
    assert code("lock").status == 0
    assert code("realize", "--with-code", "--output", "tree").status == 0
    work = code.root / "tree/work"
    assert (work / "secret").read_text() == "kept"
    assert (work / "bin/run").stat().st_mode & 0o777 == 0o755
    without = code("realize", "--json").json
    assert [item["name"] for item in without["layers"]] == ["base", "settings", "greeting", "skeleton"]


def test_code_from_a_repository_moves_when_it_is_told_to(code: Project, repository: Repository):
    code.edit('rev = "v2"', 'rev = "main"')
    assert code("lock").status == 0
    before = code.lock.read_bytes()
    repository.write(secret="later").commit()
    assert code("lock").status == 0
    assert code.lock.read_bytes() == before
    assert code("lock", "--upgrade").status == 0
    assert tomllib.loads(code.lock.read_text())["code"] == repository.tree()
    code.edit('rev = "main"', 'rev = "v1.0"')
    told = code("lock", "--check")
    assert (told.status, "code.rev (changed)" in told.err) == (3, True)


def test_code_that_is_not_there(code: Project, repository: Repository):
    code.edit('rev = "v2"', 'rev = "v3"')
    told = code("lock")
    assert told.status == 1
    assert told.err.endswith(
        f"error: {repository.path}: it has no commit, tag or branch 'v3'\n  hint: it has main, topic, v1.0, v2\n"
    )
    code.edit('rev = "v3"', 'rev = "v3"\nexclude = ["x"]')
    assert problem(code("lock")) == "8: code: exclude and git cannot go together\n  hint: keep one of them"


def test_targets_of_other_bases_have_the_same_commit_and_file(fresh: Project, repository: Repository, tmp_path: Path):
    """They are resolved one after the other; what is asked for is the same."""
    (tmp_path / "weights").write_bytes(b"1")
    cloning(fresh, repository.path, "main")
    fresh.add(
        f'[[layers]]\nname = "w"\nkind = "fetch"\nfiles = [{{ url = "{(tmp_path / "weights").as_uri()}", to = "/w" }}]\n'
    )
    (tmp_path / "other").mkdir()
    targets = f'[targets.one]\n[targets.two]\nbase = {{ rootfs = "{tmp_path / "other"}" }}\n'
    fresh.manifest.write_text(fresh.manifest.read_text() + targets)
    done = fresh("lock")
    assert done.status == 0, done.err
    assert done.err.count("looking for main") == 1
    assert done.err.count("fetching 1 file") == 1
    locked = tomllib.loads(fresh.lock.read_text())["targets"]
    assert len({item["id"] for target in locked.values() for item in target["layers"] if item["name"] == "gym"}) == 2
