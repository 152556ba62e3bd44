"""What is done for steps before their turn: here, packages are decompressed while the base is built."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from reprobox import building
from reprobox.building import build_ahead, step_request
from reprobox.debian import deb
from reprobox.digest import Entry
from reprobox.early import Early
from reprobox.errors import BuildError
from reprobox.layers.apt import Apt
from reprobox.layers.kind import INPUTS, AheadRequest, BeforeRequest, Commands, StepRequest
from reprobox.lock import Input, LockedLayer, LockedTarget
from reprobox.plan import Step
from reprobox.session import Session, this_platform
from reprobox.store import Store, StoredLayer
from tests.debs import make_deb


def noise(seed: int) -> bytes:
    return random.Random(seed).randbytes(30_000)


@dataclass
class World:
    """A layer of two packages and a small one, all in the store, over a base that is not, and one above them.

    ``asked`` are the requests for what can be done for that one ahead of its turn.
    """

    store: Store
    step: Step
    later: Step
    early: Early
    arrived: threading.Event
    asked: list[AheadRequest]

    def publish(self, layer: str) -> None:
        with self.store.scratch() as stage:
            (stage / "layer" / "tree").mkdir(parents=True)
            (stage / "layer" / "index").touch()
            self.store.publish_layer(layer, stage / "layer", {})

    @property
    def names(self) -> list[str]:
        return [item.name for item in self.step.layer.inputs]

    def let_go(self) -> None:
        """Wait until what was made is gone."""
        self.early.let_go(self.step.layer.id)
        for thread in threading.enumerate():
            if thread.name == "reprobox-early-going":
                thread.join(10)

    def filled(self) -> Path | None:
        """The folder when all is done that can be."""
        self.arrived.set()
        [thread] = [thread for thread in threading.enumerate() if thread.name == "reprobox-early"]
        thread.join(10)
        return self.folder()

    def folder(self) -> Path | None:
        self.arrived.set()
        return self.early.result(self.step.layer.id)


def locked(store: Store, path: Path) -> Input:
    data = path.read_bytes()
    facts = {"package": path.name, "version": "1.0", "architecture": "all"}
    return Input(type="deb", name=path.name, sha256=store.add_blob(data), size=len(data), facts=facts)


def small_world(tmp_path: Path, *, plain: bool = False, removed: tuple[str, ...] = ()) -> World:
    store = Store(tmp_path / "store")
    files = {"one": noise(1), "two": noise(2) + bytes(5000), "small": b"x"}
    made = [make_deb(tmp_path, name, architecture="all", files={"opt/x": data}) for name, data in files.items()]
    options = {"architectures": [], "manual": [], "removed": list(removed)}
    inputs = tuple(locked(store, path) for path in made)
    base = LockedLayer(name="base", kind="image", recipe=1, request="", id="0" * 64)
    layer = LockedLayer(
        name="system", kind="apt", recipe=1, request="", parents=("base",), inputs=inputs, options=options, id="1" * 64
    )
    above = LockedLayer(name="above", kind="other", recipe=1, request="", parents=("system",), id="3" * 64)
    target = LockedTarget(name="default", platform=this_platform(), layers=(base, layer, above))
    step = Step(layer=layer, target=target, waits_for=("base",))
    later = Step(layer=above, target=target, waits_for=("system",))
    asked: list[AheadRequest] = []
    session = SimpleNamespace(
        store=store,
        project=tmp_path,
        config=SimpleNamespace(plain=plain),
        kind=lambda name: Apt() if name == "apt" else SimpleNamespace(ahead=asked.append),
        builder=SimpleNamespace(overlay=lambda: True),
    )
    arrived = threading.Event()
    early = Early(cast("Session", session), target, 1, lambda _: arrived.wait(10) and None)
    return World(store, step, later, early, arrived, asked)


def test_packages_are_decompressed_while_the_base_is_built(tmp_path):
    world = small_world(tmp_path)
    with world.early:
        world.early.begin([world.step])
        world.early.begin([world.step])
        folder = world.filled()
        assert folder is not None
        assert sorted(path.name for path in folder.iterdir()) == world.names[:2]
        for item in world.step.layer.inputs[:2]:
            before, after = world.store.blob(item.sha256).read_bytes(), (folder / item.name).read_bytes()
            assert deb.data_tar(after) == deb.data_tar(before)
            assert deb.control_tar(after) == deb.control_tar(before)
            assert b"data.tar " in after
            assert b"data.tar.xz" in before
            assert b"data.tar.xz" not in after
    assert not folder.exists()


def test_what_was_decompressed_stands_for_the_packages(tmp_path):
    """Not for those of other layers, nor for what was too small to be worth it."""
    world = small_world(tmp_path)
    layer = world.step.layer
    other = LockedLayer(name="more", kind="apt", recipe=1, request="", inputs=layer.inputs, id="2" * 64)
    with world.early:
        world.early.begin([world.step])
        world.arrived.set()
        found = world.early.stand_ins((other, layer))
        assert {digest: path.name for digest, path in found.items()} == {
            item.sha256: item.name for item in layer.inputs[:2]
        }
        assert all(path.stat().st_size > 0 for path in found.values())
        assert world.early.stand_ins((other,)) == {}


def test_later_layers_are_given_what_was_decompressed_while_it_is_there(tmp_path):
    world = small_world(tmp_path)
    with world.early:
        world.early.begin([world.step, world.later])
        folder = world.filled()
        assert folder is not None
        world.publish("0" * 64)
        world.early.begin([world.later])
        assert world.early.result(world.later.layer.id) is None
        [request] = world.asked
        packages = world.step.layer.inputs
        blobs = [world.store.blob(item.sha256) for item in packages]
        assert [request.input(item) for item in packages] == [*(folder / name for name in world.names[:2]), blobs[2]]
        world.let_go()
        assert [request.input(item) for item in packages] == blobs
        assert world.early.stand_ins([world.step.layer]) == {}


def test_what_was_made_for_a_layer_goes_when_it_is_built(tmp_path):
    world = small_world(tmp_path)
    with world.early:
        world.early.begin([world.step])
        folder = world.filled()
        assert folder is not None
        world.early.begin([])
        assert folder.exists()
        world.let_go()
        assert not folder.exists()


def test_an_end_does_not_wait_for_what_is_fetched(tmp_path):
    world = small_world(tmp_path)
    with world.early:
        world.early.begin([world.step])
    assert not world.arrived.is_set()
    assert world.folder() is None


@pytest.mark.parametrize("more", [{"plain": True}, {"removed": ("three",)}], ids=["plain", "removing"])
def test_nothing_is_decompressed_for(tmp_path, more):
    world = small_world(tmp_path, **more)
    with world.early:
        world.early.begin([world.step])
        assert world.folder() is None


@pytest.mark.parametrize("awaited", [False, True], ids=["no package", "awaited"])
def test_what_is_no_package_is_left_as_it_is_and_a_step_is_not_kept_waiting(tmp_path, awaited):
    world = small_world(tmp_path)
    (tmp_path / "folder").mkdir()
    wrong = world.store.add_blob(noise(3))
    request = BeforeRequest(
        layer=world.step.layer,
        input=lambda item: world.store.blob(item.sha256 if awaited else wrong),
        folder=tmp_path / "folder",
        awaited=lambda: awaited,
    )
    assert not Apt().before(request)


@pytest.mark.parametrize("plain", [False, True])
def test_a_quick_step_finds_them_where_the_others_are(tmp_path, plain):
    layer, ahead = small_world(tmp_path).step.layer, tmp_path / "ahead"
    ahead.mkdir()
    (ahead / "two_1.0_all.deb").touch()
    files = {item.name: Path("/store") / item.sha256 for item in layer.inputs}
    request = StepRequest(
        layer=layer, files=files, platform="linux/amd64", epoch=1, project=Path("/"), plain=plain, ahead=ahead
    )
    found = {bind.target: bind.source for bind in Apt().step(request).binds}
    expected = dict(files) if plain else files | {"two_1.0_all.deb": ahead / "two_1.0_all.deb"}
    assert {name: found[f"{INPUTS}/{name}"] for name in files} == expected


@pytest.mark.parametrize(
    ("options", "step"),
    [
        ({}, Commands(commands=(("true",),), kept=(Entry("d", 0o755, "-", b"opt"),))),
        ({"secrets": ["token"]}, Commands(commands=(("true",),))),
        ({"network": True}, Commands(commands=(("true",),))),
    ],
    ids=["kept", "secrets", "network"],
)
def test_a_step_that_needs_more_than_its_commands_is_not_carried_out_ahead(tmp_path, options, step):
    layer = replace(small_world(tmp_path).step.layer, options=options)
    base = StoredLayer(id="0" * 64, tree=tmp_path, index=tmp_path, record={})
    with pytest.raises(BuildError, match="not carried out ahead"):
        build_ahead(cast("Session", None), layer, step, base, tmp_path, tmp_path, 1)


def test_what_another_build_has_published_meanwhile_is_not_left_out_ahead(tmp_path):
    """A step that keeps what an earlier layer has is no step to be carried out over other parents."""
    world = small_world(tmp_path)
    with world.early:
        world.publish("0" * 64)
        world.early.begin([world.later])
        like = world.later.layer.identity(1, [item.id for item in world.later.below]).document()
        world.store.remember("like", building._likeness(like), b"9" * 64)
        with world.store.scratch() as stage:
            (stage / "layer" / "tree").mkdir(parents=True)
            (stage / "layer" / "index").touch()
            world.store.publish_layer("9" * 64, stage / "layer", {"inputs": {"files": []}})
        world.arrived.set()
        assert world.early.result(world.later.layer.id) is None
    session = cast("Session", SimpleNamespace(store=world.store, project=tmp_path))
    assert step_request(session, world.later.layer, world.later.below, 1).earlier is not None
    assert world.asked[0].step.earlier is None
