"""A store that others read: used in place, copied only where something is built upon it, never written by readers."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from reprobox.cli import main
from reprobox.store import Store
from reprobox.store_gc import Wanted, collect
from reprobox.tree import remove
from tests.local import Local, copying, programs_in, running

pytestmark = pytest.mark.userns
KEEPING = running("keep", "echo kept >/kept")
HIDING = "mkdir -p /opt/a; echo one >/opt/a/file; chmod 0 /opt/a/file /opt/a /opt; rm /usr/share/gone; ln /kept /twin"


def cli(*argv: str | Path, status: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "reprobox.cli", *map(str, argv)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == status, done.stderr
    return done


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """``project``, realized in ``store``, and all of it in ``group``, by somebody with a hostile umask."""
    place = tmp_path_factory.mktemp("shared")
    programs_in(place / "project")
    base = place / "project/base"
    (base / "usr/share").mkdir(parents=True, exist_ok=True)
    (base / "usr/share/gone").write_text("gone")
    made = Local(place / "project", place / "store").file("new/name", "three\n")
    made.write(KEEPING + running("hide", HIDING) + copying("into", "new", "/srv", after="hide"))
    mine = {"REPROBOX_STORE": str(place / "store")}
    cli("lock", "-C", made.path, "-q", **mine)
    cli("realize", "-C", made.path, "-q", **mine)
    old = os.umask(0o077)
    try:
        cli("cache", "share", "-C", made.path, "-q", place / "group", **mine)
    finally:
        os.umask(old)
    yield place
    remove(place)


def copied(template: Path, name: str, place: Path) -> Path:
    subprocess.run(["cp", "--archive", template / name, place / name], check=True)
    return place / name


@pytest.fixture
def local(template, tmp_path, store):
    yield Local(copied(template, "project", tmp_path), store)
    remove(tmp_path)


@pytest.fixture
def group(template, tmp_path, monkeypatch) -> Path:
    """The shared store; the reader's own is empty."""
    monkeypatch.setenv("REPROBOX_STORE", str(tmp_path / "mine"))
    monkeypatch.setenv("REPROBOX_SHARED_STORES", str(tmp_path / "group"))
    return copied(template, "group", tmp_path)


def snapshot(root: Path) -> dict[str, tuple[int, int, float]]:
    found = {}
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            status = os.lstat(os.path.join(folder, name))
            found[os.path.join(folder, name)] = (status.st_mode, status.st_size, status.st_mtime)
    return found


def test_everybody_may_read_what_is_shared(group):
    for folder in ("blobs", "layers"):
        for path in (group / folder).rglob("*"):
            if not path.is_symlink() and not stat.S_ISCHR(path.lstat().st_mode):
                wanted = 0o555 if path.is_dir() else 0o444
                assert path.stat().st_mode & wanted == wanted, path
    assert stat.S_IMODE(group.stat().st_mode) == 0o755
    assert not any(os.lstat(path).st_mode & 0o6000 for path in group.rglob("*"))


def test_layers_are_used_in_place_and_nothing_is_written_there(group, local, tmp_path):
    before = snapshot(group)
    told = json.loads(cli("realize", "-C", local.path, "--json", "-q").stdout)
    assert {layer["shared"] for layer in told["layers"]} == {str(group)}
    assert all(layer["cached"] for layer in told["layers"])
    assert f"shared: {group}" in cli("realize", "-C", local.path, "-q").stdout
    assert (
        cli("run", "-C", local.path, "--", "sh", "-c", "cat /kept /twin; test ! -e /usr/share/gone").stdout
        == "kept\n" * 2
    )
    assert not list((tmp_path / "mine/layers").iterdir())
    assert snapshot(group) == before


def test_what_is_shared_has_the_same_digests(template, group, local, tmp_path):
    store = template / "store"
    ours = json.loads(cli("realize", "-C", local.path, "--json", "-q", REPROBOX_STORE=str(store)).stdout)
    told = json.loads(cli("realize", "-C", local.path, "--json", "-q").stdout)
    assert (told["tree_digest"], told["image_digest"]) == (ours["tree_digest"], ours["image_digest"])
    for place, own in (("one", str(store)), ("two", str(tmp_path / "mine"))):
        cli("export", "-C", local.path, "-q", "--format", "docker-archive", "-o", tmp_path / place, REPROBOX_STORE=own)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_what_is_built_upon_shared_layers_is_what_it_is_elsewhere(group, local, store):
    local.write(KEEPING + running("hide", HIDING) + running("more", "echo x >/more; chmod 755 /opt"))
    cli("lock", "-C", local.path, "-q")
    told = json.loads(cli("realize", "-C", local.path, "--json", "-q").stdout)
    elsewhere = json.loads(cli("realize", "-C", local.path, "--json", "-q", REPROBOX_STORE=str(store)).stdout)
    assert told["tree_digest"] == elsewhere["tree_digest"]
    assert [layer["diff_id"] for layer in told["layers"]] == [layer["diff_id"] for layer in elsewhere["layers"]]
    cli("cache", "verify")
    cli("cache", "verify", REPROBOX_STORE=str(store))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a store to somebody else")
def test_the_store_of_another_user(group, local, tmp_path):
    subprocess.run(["chown", "-R", "12345:12345", group], check=True)
    told = json.loads(cli("realize", "-C", local.path, "--json", "-q").stdout)
    assert {layer["shared"] for layer in told["layers"]} == {str(group)}
    assert cli("run", "-C", local.path, "--", "sh", "-c", "cat /kept; cat /etc/hosts >/dev/null").stdout == "kept\n"
    assert cli("run", "-C", local.path, "--offline", "--", "cat", "/twin").stdout == "kept\n"
    cli("export", "-C", local.path, "-q", "--format", "rootfs", "-o", tmp_path / "rootfs")
    local.write(KEEPING + running("more", "echo more >>/kept"))
    cli("lock", "-C", local.path, "-q")
    cli("realize", "-C", local.path, "-q")
    assert cli("run", "-C", local.path, "--", "cat", "/kept").stdout == "kept\nmore\n"


def test_its_owners_gc_leaves_what_others_read(group, local):
    reading = Store(Path(os.environ["REPROBOX_STORE"]))
    cli("realize", "-C", local.path, "-q")
    argv = [
        sys.executable,
        "-m",
        "reprobox.cli",
        "run",
        "-C",
        str(local.path),
        "--",
        "sh",
        "-c",
        "echo on; read go; cat /twin",
    ]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout.readline() == "on\n"
        outcome = collect(Store(group), Wanted(age=0))
        assert {item.kind for item in outcome.in_use} >= {"layers"}
        assert not [item for item in outcome.taken if item.kind == "layers"]
        assert run.communicate("go\n", timeout=60)[0] == "kept\n"
    collect(Store(group), Wanted(age=0))
    assert not list((group / "layers").iterdir())
    assert reading.root.is_dir()
    cli("realize", "-C", local.path, "-q")  # without it, everybody builds again


def test_a_private_store_of_ones_own_may_be_looked_into_too(template, local):
    told = json.loads(
        cli("realize", "-C", local.path, "--json", "-q", REPROBOX_SHARED_STORES=str(template / "store")).stdout
    )
    assert all(layer["cached"] for layer in told["layers"])


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_a_missing_shared_store_is_told_and_done_without(local, tmp_path):
    done = cli("cache", "info", "-C", local.path, REPROBOX_SHARED_STORES=f"{tmp_path}/none:{local.path}")
    assert f"warning: the shared store {tmp_path}/none is left out: No such file or directory\n" in done.stderr
    assert f"warning: the shared store {local.path} is left out: No such file or directory\n" in done.stderr
    assert not cli("cache", "info", "-q", REPROBOX_SHARED_STORES=f"{tmp_path}/none").stderr


def test_a_relative_shared_store_is_refused(store, monkeypatch, capsys):
    monkeypatch.setenv("REPROBOX_SHARED_STORES", "/a:b")
    assert main(["cache", "info"]) == 2
    text = 'error: REPROBOX_SHARED_STORES: expected an absolute path, found "b"\n  hint: begin it with / or ~/\n'
    assert capsys.readouterr().err == text


def test_nothing_is_built_in_a_shared_store(group, local):
    done = cli("realize", "-C", local.path, status=2, REPROBOX_STORE=str(group))
    assert done.stderr == (
        f"error: {group}: this store is shared: people read it, and nothing is built in it\n"
        "  hint: name it in REPROBOX_SHARED_STORES, and fill it with `reprobox cache share`\n"
    )


def test_a_folder_that_holds_something_else_does_not_become_a_shared_store(template, local, tmp_path):
    done = cli("cache", "share", "-C", local.path, tmp_path / "new", status=2)
    assert "nothing of this project is in the store" in done.stderr
    place = template / "store"
    done = cli("cache", "share", "-C", local.path, place, status=1, REPROBOX_STORE=str(place))
    assert done.stderr == (
        f"error: {place}: it is not a shared store, and it is not empty\n"
        "  hint: give a new folder: a store of your own stays private\n"
    )
