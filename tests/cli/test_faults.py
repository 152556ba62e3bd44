"""Mirrors and snapshot services, made of real .debs, that throttle, lose files, exchange them and hang up."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from reprobox.debian import provider as debian
from reprobox.lock import Input, LockedLayer
from reprobox.store import Store
from tests.cli.conftest import Project, Told
from tests.cli.test_outlook import MOMENT, apt_layer, deb_of, locked_project
from tests.debs import Key
from tests.servers import Handler, Server, half, status, wrong

MANIFEST = '[project]\nname = "x"\n[base]\nbootstrap = "debian:bookworm"\n'


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@dataclass
class World:
    """A project whose base is one small package, at a mirror and at a snapshot service."""

    project: Project
    server: Server
    item: Input
    data: bytes
    store: Path

    @property
    def mirror(self) -> str:
        return f"/mirror/{self.item.facts['path']}"

    @property
    def snapshot(self) -> str:
        return f"/snapshot/archive/debian/{MOMENT}/{self.item.facts['path']}"

    @property
    def base(self) -> str:
        return self.server.url("/").rstrip("/")

    def keep(self) -> Told:
        """Fetch all of it, as `realize` does, into a vault: nothing is built of it."""
        return self.project("vault", "--without-reprobox", "-q", self.project.root.parent / "vault")

    def left(self) -> list[Path]:
        """What lies in the store of this file, whole or in part."""
        found = self.store.rglob(f"*{self.item.sha256}*")
        return [path for path in found if path.is_file() and "memo" not in path.parts]


@pytest.fixture
def world(server: Server, tmp_path: Path, monkeypatch, capsys) -> World:
    monkeypatch.setattr(debian, "host_sources", tuple)
    base = server.url("/").rstrip("/")
    (tmp_path / "config.toml").write_text(
        f'[archives]\ndebian = ["{base}/mirror"]\n[snapshots]\ndebian = ["{base}/snapshot/archive/debian"]\n'
    )
    monkeypatch.setenv("REPROBOX_CONFIG", str(tmp_path / "config.toml"))
    item, data = deb_of(tmp_path, "jq")
    layer = apt_layer([item], Key())
    root = LockedLayer(name="base", kind="bootstrap", recipe=1, request="", inputs=layer.inputs, facts=layer.facts)
    locked_project(tmp_path / "project", MANIFEST, [root])
    monkeypatch.chdir(tmp_path / "project")
    project = Project(tmp_path / "project", capsys)
    return World(project=project, server=server, item=item, data=data, store=Path(os.environ["REPROBOX_STORE"]))


def test_a_package_replaced_under_the_same_name_is_refused_and_named(world: World):
    world.server.files[world.mirror] = world.data[::-1]
    done = world.project("realize", "-q")
    found = hashlib.sha256(world.data[::-1]).hexdigest()
    assert done.status == 5
    assert done.err == (
        "error: 1 input could only be had with other bytes than those that are locked\n"
        f"  jq_1.0_amd64.deb (sha256 {world.item.sha256}, {world.item.size} bytes)\n"
        f"    debian ({world.base}/mirror): it has other bytes: their sha256 is {found}\n"
        f"    debian of {MOMENT} ({world.base}/snapshot/archive/debian): it answered 404 Not Found\n"
        f"    debian by hash ({world.base}/snapshot): it answered 404 Not Found\n"
        "  hint: the places named have changed or are broken: name another mirror in the settings\n"
    )
    assert world.left() == []


@pytest.mark.parametrize("fault", [wrong(), status(404), status(403), status(410)], ids=["wrong", "404", "403", "410"])
def test_the_next_place_is_asked(world: World, fault: Callable[[Handler], None]):
    world.server.files |= {world.mirror: world.data, world.snapshot: world.data}
    world.server.always[world.mirror] = fault
    assert world.keep().status == 0
    assert world.server.paths() == [world.mirror, world.snapshot]
    assert world.left() == [Store(world.store).blob(world.item.sha256)]


def test_a_mirror_that_throttles_and_then_hangs_up(world: World):
    world.server.files[world.mirror] = world.data
    world.server.faults[world.mirror] = [
        status(503, retry_after="1"),
        half(100),
        status(429, retry_after="0"),
        half(50),
    ]
    before = time.monotonic()
    done = world.keep()
    assert done.status == 0, done.err
    assert time.monotonic() - before >= 1
    asked = [request.headers.get("Range") for request in world.server.seen]
    assert asked == [None, None, "bytes=100-", "bytes=100-", "bytes=150-"]


def test_a_file_that_changes_between_two_halves_is_taken_from_the_start(world: World):
    """As at a mirror that is being brought up to date, or behind two servers of which one is behind."""
    world.server.files[world.mirror] = world.data

    def old(handler: Handler) -> None:
        handler.send(200, {}, world.data[::-1][:100], promised=len(world.data))
        handler.hang_up()

    world.server.faults[world.mirror] = [old]
    done = world.keep()
    assert done.status == 0, done.err
    asked = [request.headers.get("Range") for request in world.server.seen]
    assert asked == [None, "bytes=100-", None]


def test_what_no_place_has_is_named_with_all_that_were_asked(world: World):
    world.server.always[world.snapshot] = status(503, retry_after="7200")
    done = world.project("realize", "-q")
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith(
        "error: 1 input could not be had from any place\n"
        f"  jq_1.0_amd64.deb (sha256 {world.item.sha256}, {world.item.size} bytes)\n"
        f"    debian ({world.base}/mirror): it answered 404 Not Found\n"
        f"    debian of {MOMENT} ({world.base}/snapshot/archive/debian): it answered 503 Service Unavailable\n"
        f"    debian by hash ({world.base}/snapshot): it answered 404 Not Found\n"
    )
    assert world.left() == []
    done = world.project("realize", "-q", "--offline")
    assert (done.status, "the store lacks 1 input" in done.err) == (6, True)


def test_many_packages_from_a_mirror_that_fails_now_and_then(world: World, tmp_path: Path):
    found = [deb_of(tmp_path, f"p{number}") for number in range(12)]
    layer = apt_layer([item for item, _ in found], Key())
    root = LockedLayer(name="base", kind="bootstrap", recipe=1, request="", inputs=layer.inputs, facts=layer.facts)
    locked_project(world.project.root, MANIFEST, [replace(root)])
    faults = (half(), status(502), wrong(), status(404), status(429, retry_after="0"))
    for number, (item, data) in enumerate(found):
        world.server.files |= {f"/mirror/{item.facts['path']}": data}
        world.server.files |= {f"/snapshot/archive/debian/{MOMENT}/{item.facts['path']}": data}
        world.server.faults[f"/mirror/{item.facts['path']}"] = [faults[number % len(faults)]]
    done = world.keep()
    assert done.status == 0, done.err
    from_snapshot = [path for path in world.server.paths() if path.startswith("/snapshot")]
    assert len(from_snapshot) == 4  # those of which the mirror had other bytes or none
