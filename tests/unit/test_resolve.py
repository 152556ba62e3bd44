"""From manifest to lock: what is kept, what moves, and what is refused before anything is built."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from reprobox import resolve
from reprobox.backend import Availability
from reprobox.errors import BackendError, LockError, ManifestError
from reprobox.layers.kind import Commands, Resolution, ResolveRequest, StepRequest
from reprobox.lock import Lock, LockedLayer, with_ids
from reprobox.manifest import Layer
from reprobox.pins import Upgrade
from reprobox.tables import key
from reprobox.world import NO_DATE
from tests import images
from tests.local import HEAD, Local, copying, running

pytestmark = pytest.mark.userns

OCI = '[project]\nname = "test"\n[base]\noci = "layout"\n'


@pytest.fixture
def local(tmp_path, store) -> Local:
    """A project whose base is next to nothing: nothing is built here."""
    local = Local(tmp_path / "project", store)
    return local.file("base/etc/os-release", "ID=none\n").file("conf/x", "x").file("code.py", "print()")


def layer(lock: Lock, name: str) -> LockedLayer:
    return next(item for item in lock.targets["default"].layers if item.name == name)


def layout(local: Local, created: str, name: str = "layout") -> None:
    """An OCI layout of one small image that says when it was made."""
    made = images.Layout(local.path / name)
    manifest = made.image(images.tar(images.entry("made", created.encode())))
    config = json.loads(made.path(json.loads(made.path(manifest).read_text())["config"]).read_text())
    described = json.loads(made.path(manifest).read_text())
    described["config"] = made.blob(json.dumps({**config, "created": created}).encode(), images.CONFIG)
    made.tag(
        made.blob(json.dumps(described).encode(), images.MANIFEST, platform={"os": "linux", "architecture": "amd64"})
    )


# -- what a lock says --------------------------------------------------------------------------------------------------


def test_every_node_of_the_graph_is_locked_in_stacking_order(local):
    lock = local.write(copying("conf", "conf", "/etc/conf") + running("all", "true")).lock()
    target = lock.targets["default"]
    assert [(item.name, item.kind, item.parents) for item in target.layers] == [
        ("base", "rootfs", ()),
        ("conf", "copy", ("base",)),
        ("all", "run", ("conf",)),
        ("skeleton", "skeleton", ("all",)),
    ]
    assert target.platform == "linux/amd64"
    assert lock.epoch == NO_DATE
    assert lock.manifest == local.manifest().digest()
    assert not list((local.store / "layers").iterdir())


def test_locking_again_writes_the_same_bytes(local):
    local.write(copying("conf", "conf", "/etc/conf")).lock()
    before = local.project.lock_path.read_bytes()
    local.lock()
    assert local.project.lock_path.read_bytes() == before
    local.lock(upgrade=Upgrade(everything=True))
    assert local.project.lock_path.read_bytes() == before


def test_folder_store_and_times_are_not_in_a_lock(local, tmp_path, monkeypatch):
    local.write(copying("conf", "conf", "/etc/conf")).lock()
    moved = tmp_path / "elsewhere" / "a b"
    moved.parent.mkdir()
    subprocess.run(["cp", "-r", local.path, moved], check=True)
    (moved / "research.lock").unlink()
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    monkeypatch.setenv("LC_ALL", "C")
    Local(moved, tmp_path / "store").lock()
    assert (moved / "research.lock").read_bytes() == local.project.lock_path.read_bytes()
    assert str(tmp_path) not in (moved / "research.lock").read_text()


def test_the_epoch_is_the_date_of_the_base_and_stays(local):
    layout(local, "2024-05-06T07:08:09Z")
    first = local.write("", head=OCI).lock()
    assert first.epoch == images.CREATED_SECONDS
    more = local.write(copying("conf", "conf", "/etc/conf"), head=OCI).lock()
    assert more.epoch == first.epoch
    assert layer(more, "base").id == layer(first, "base").id


def test_the_epoch_moves_with_another_base(local):
    layout(local, "2024-05-06T07:08:09Z")
    first = local.write("", head=OCI).lock()
    layout(local, "2025-05-06T07:08:09Z", "other")
    second = local.write("", head=OCI.replace("layout", "other")).lock()
    assert second.epoch > first.epoch
    assert layer(second, "skeleton").id != layer(first, "skeleton").id


def test_the_same_base_under_another_name_changes_no_id(local):
    layout(local, "2024-05-06T07:08:09Z")
    first = local.write("", head=OCI).lock()
    (local.path / "layout").rename(local.path / "moved")
    second = local.write("", head=OCI.replace("layout", "moved")).lock()
    assert [item.id for item in second.targets["default"].layers] == [
        item.id for item in first.targets["default"].layers
    ]


def two_bases(local: Local, first: str = "cpu", gpu: str = "layout") -> Lock:
    targets = {"cpu": "", "gpu": f'base = {{ oci = "{gpu}" }}\n'}
    names = [first, *(name for name in targets if name != first)]
    return local.write("".join(f"[targets.{name}]\n{targets[name]}" for name in names)).lock()


@pytest.mark.parametrize("first", ["cpu", "gpu"])
def test_one_epoch_for_all_targets_is_that_of_the_newest_base(local, first):
    layout(local, "2024-05-06T07:08:09Z")
    lock = two_bases(local, first)
    assert lock.epoch == images.CREATED_SECONDS  # the other base knows no date
    for target in lock.targets.values():
        assert with_ids(target.layers, lock.epoch) == target.layers


def test_the_epoch_is_the_same_whichever_target_comes_first(local):
    layout(local, "2024-05-06T07:08:09Z")
    first, second = two_bases(local, "cpu"), two_bases(local, "gpu")
    assert (first.epoch, first.targets) == (second.epoch, second.targets)


def test_the_epoch_moves_only_with_a_base_that_is_newer(local):
    for name, year in (("layout", 2024), ("older", 2020), ("newer", 2025)):
        layout(local, f"{year}-05-06T07:08:09Z", name)
    first = two_bases(local)
    assert two_bases(local, gpu="older").epoch == first.epoch  # cpu's base is as it was, and so is its clock
    assert two_bases(local, gpu="newer").epoch > first.epoch


def test_a_target_that_is_not_locked_now_has_the_new_epoch_too(local):
    layout(local, "2024-05-06T07:08:09Z")
    layout(local, "2025-05-06T07:08:09Z", "newer")
    first = two_bases(local)
    local.write('[targets.cpu]\n[targets.gpu]\nbase = { oci = "newer" }\n')
    second = local.lock(only=["gpu"])
    assert second.targets["cpu"].layers == with_ids(first.targets["cpu"].layers, second.epoch)
    assert second.targets["cpu"].layers[1].id != first.targets["cpu"].layers[1].id


def test_the_environment_of_a_layer_is_part_of_its_id_alone(local):
    text = running("one", "true") + running("two", "true")
    first = local.write(text).lock()
    second = local.write(text.replace("script", 'env = { A = "1" }\nscript', 1) + '[env]\nLANG = "C"\n').lock()
    assert layer(second, "one").environment == {"A": "1"}
    assert layer(second, "two").environment == {}
    assert layer(second, "base").id == layer(first, "base").id
    assert layer(second, "one").id != layer(first, "one").id


# -- what is begun early -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    words: tuple[str, ...] = key("Words to say.")


@dataclass
class Asking:
    """A kind that would have to wait for somebody. It tells which layers were foreseen, over what, and resolved."""

    name: ClassVar[str] = "asking"
    recipe: ClassVar[int] = 1
    pinned: ClassVar[bool] = True
    options: ClassVar[type] = Words
    told: list[str] = field(default_factory=list)

    def needs(self, layer: Layer, above: Sequence[Layer]) -> tuple[str, ...]:
        return tuple(other.name for other in above if other.kind == self.name)[-1:]

    def foresee(self, request: ResolveRequest) -> None:
        self.told.append(f"foreseen {self._said(request)}")

    def resolve(self, request: ResolveRequest) -> Resolution:
        self.told.append(self._said(request))
        return Resolution(options={"words": sorted(request.layer.options.words)})

    def _said(self, request: ResolveRequest) -> str:
        below = [str(layer.options["words"]) for layer in request.below if layer.kind == self.name]
        return " over ".join([request.layer.name, *below])

    def step(self, request: StepRequest) -> Commands:
        raise NotImplementedError


def asking(local: Local, layers: Mapping[str, str], **options: Any) -> list[str]:
    """Lock layers of this kind, each with its word; tells what was done for it."""
    kind = Asking()
    tables = (f'[[layers]]\nname = "{name}"\nkind = "asking"\nwords = ["{word}"]\n' for name, word in layers.items())
    local.write("".join(tables))
    session = local.session
    session.plugins.kinds[kind.name] = kind
    manifest = local.project.manifest(session.plugins.kinds)
    lock = resolve.resolve(session, manifest, local.project.lock_or_none(session.store), **options)
    local.project.write_lock(lock)
    return kind.told


def test_what_will_be_asked_is_begun_as_if_all_below_stayed(local):
    assert asking(local, {"a": "1", "b": "1"}) == ["foreseen a", "a", "b over ['1']"]
    assert asking(local, {"a": "1", "b": "1"}) == []
    assert asking(local, {"a": "1", "b": "2"}) == ["foreseen b over ['1']", "b over ['1']"]
    assert asking(local, {"a": "3", "b": "2"}) == ["foreseen a", "a", "b over ['3']"]
    assert asking(local, {"a": "3", "b": "2"}, upgrade=Upgrade(everything=True)) == ["foreseen a", "a", "b over ['3']"]


def test_a_builder_that_does_not_work_is_told_whatever_else_fails(local, monkeypatch):
    (local.path / "base/etc/os-release").unlink()
    (local.path / "base/etc").rmdir()
    (local.path / "base").rmdir()
    local.write("")
    session = local.session
    lame = Availability(ok=False, reason="it lost a leg", hint="carry it")
    session.builder.probe = lambda: lame  # type: ignore[method-assign]
    with pytest.raises(BackendError, match="sandbox does not work here: it lost a leg") as caught:
        resolve.resolve(session, local.manifest(), None)
    assert caught.value.hint == "carry it"
    with pytest.raises(ManifestError):
        local.lock()


# -- seals -------------------------------------------------------------------------------------------------------------


def test_a_seal_stays_while_nothing_changes(local):
    local.write(copying("conf", "conf", "/etc/conf")).lock()
    local.realize(seal=True)
    sealed = local.project.lock_path.read_bytes()
    assert b"[targets.default.seal]" in sealed
    local.lock()
    assert local.project.lock_path.read_bytes() == sealed


@pytest.mark.parametrize("change", ["file", "description"])
def test_a_seal_goes_with_what_it_was_for(local, change):
    local.write(copying("conf", "conf", "/etc/conf")).lock()
    local.realize(seal=True)
    if change == "file":
        local.file("conf/x", "y")
    else:  # the image's labels have it
        local.write(copying("conf", "conf", "/etc/conf"), head=HEAD.replace("[base]", 'description = "new"\n[base]'))
    assert local.lock().targets["default"].seal is None


# -- what is refused ---------------------------------------------------------------------------------------------------


def refused(local: Local) -> str:
    with pytest.raises(ManifestError) as caught:
        local.lock()
    assert not local.project.lock_path.exists()
    (problem,) = caught.value.problems
    assert problem.line
    assert problem.hint
    return f"{problem.key}: {problem.message}"


def test_a_missing_file(local):
    assert "layers[0].files[0].from" in refused(local.write(copying("conf", "nowhere", "/etc")))


def test_a_missing_base(local):
    assert (
        refused(local.write("", head=HEAD.replace('"base"', '"nowhere"'))) == "base.rootfs: there is no folder nowhere"
    )


def test_what_is_not_available_yet(local):
    assert refused(local.write("", head=HEAD.replace("rootfs", "sif"))).startswith("base.sif")


def test_a_cycle(local):
    text = copying("a", "conf", "/a", after="b") + copying("b", "conf", "/b", after="a")
    assert refused(local.write(text)).endswith("a -> b -> a")


@pytest.mark.parametrize("one", ["/etc/conf", "/etc/conf/inside", "/etc/conf/"])
def test_unordered_layers_with_one_destination(local, one):
    told = refused(local.write(copying("one", "code.py", one) + copying("two", "code.py", "/etc/conf")))
    assert "'one' and 'two' both write at" in told
    local.write(copying("one", "conf", one) + copying("two", "conf", "/etc/conf", after="one")).lock()


def test_disjoint_destinations(local):
    local.write(
        copying("one", "conf", "/etc/a") + copying("two", "conf", "/etc/b") + copying("c", "conf", "/etc/ab")
    ).lock()


def test_more_layers_than_engines_take(local, monkeypatch):
    monkeypatch.setattr(resolve, "MOST_LAYERS", 5)
    text = "".join(copying(f"l{number}", "code.py", f"/l{number}") for number in range(3))
    local.write(text).lock()
    with pytest.raises(LockError, match="would have 6 layers, and container engines stop at 125") as caught:
        local.write(text + running("one more", "true").replace("one more", "one-more")).lock()
    assert caught.value.hint == "join layers of kind 'copy', such as l0, l1, l2"


def test_the_limit_is_below_what_docker_takes():
    assert resolve.MOST_LAYERS <= 125 - 5


def test_the_layers_of_a_base_image_count(local, monkeypatch):
    made = images.Layout(local.path / "layout")
    made.tag(made.image(*(images.tar(images.entry(f"f{number}")) for number in range(4))))
    monkeypatch.setattr(resolve, "MOST_LAYERS", 4)
    with pytest.raises(LockError, match="would have 5 layers"):
        local.write("", head=OCI).lock()


def test_a_project_needs_no_store_to_be_refused(local, tmp_path):
    local.write("", head=HEAD + "nonsense = 1\n")
    with pytest.raises(ManifestError):
        local.manifest()
    assert not Path(local.store).exists()
