"""Which pins of an old lock a layer is offered, and which are let go."""

from __future__ import annotations

import hashlib

import pytest

from reprobox.errors import UsageError
from reprobox.lock import Input, Lock, LockedLayer, LockedTarget
from reprobox.pins import KEEP, Upgrade, match, old_target, upgrade_of


def pin(package: str, version: str = "1") -> Input:
    digest = hashlib.sha256(f"{package} {version}".encode()).hexdigest()
    facts = {"package": package, "version": version}
    return Input(type="wheel", name=f"{package}-{version}.whl", sha256=digest, size=1, facts=facts)


def layer(name: str, *pins: Input, kind: str = "pip", **more) -> LockedLayer:
    return LockedLayer(name=name, kind=kind, recipe=1, request=name, inputs=pins, **more)


def asks(*packages: str, kind: str = "pip") -> tuple[str, dict[str, list[str]]]:
    return kind, {"packages": list(packages)}


def versions(offered: LockedLayer | None) -> list[str]:
    return [f"{item.facts['package']} {item.facts['version']}" for item in offered.inputs] if offered else []


def lock(*layers: LockedLayer) -> Lock:
    target = LockedTarget(name="default", platform="linux/amd64", layers=(layer("base", kind="oci"), *layers))
    return Lock(epoch=0, manifest="", keys={}, targets={"default": target})


OLD = (layer("python", pin("numpy"), pin("scipy")), layer("plots", pin("matplotlib"), pin("pillow")))


def test_a_layer_keeps_its_own_and_is_offered_what_moves_into_it():
    pins = match(OLD, {"python": asks("numpy", "pillow"), "plots": asks("matplotlib")})
    assert versions(pins.offered("python", "pip", ())) == ["numpy 1", "scipy 1", "matplotlib 1", "pillow 1"]
    assert pins.offered("python", "pip", ()).request == "python"


def test_what_a_layer_below_has_now_is_not_offered_again():
    pins = match(OLD, {"python": asks("numpy", "pillow"), "plots": asks("matplotlib")})
    below = layer("python", pin("numpy"), pin("pillow", "2"))
    assert versions(pins.offered("plots", "pip", (below,))) == ["matplotlib 1", "pillow 1", "scipy 1"]
    assert versions(pins.offered("new", "pip", (below,))) == ["scipy 1", "matplotlib 1"]


def test_a_new_layer_takes_the_pins_of_those_it_was_split_from():
    pins = match(OLD, {"python": asks("numpy"), "plots": asks("matplotlib"), "more": asks("scipy")})
    assert "more" not in pins.matched
    assert "scipy 1" in versions(pins.offered("more", "pip", ()))


def test_a_renamed_layer_is_found_by_what_it_asks_for():
    pins = match(OLD, {"figures": asks("matplotlib>=3"), "numbers": asks("NumPy[extra] >= 2", "new")})
    assert {name: old.name for name, old in pins.matched.items()} == {"figures": "plots", "numbers": "python"}
    assert match(OLD, {"other": asks("jax")}).matched == {}


def test_one_old_layer_is_the_past_of_one_new_layer():
    pins = match(OLD[:1], {"a": asks("numpy"), "b": asks("scipy")})
    assert {name: old.name for name, old in pins.matched.items()} == {"a": "python"}


def test_pins_stay_within_a_kind():
    pins = match(OLD, {"python": asks("numpy", kind="apt"), "system": asks("numpy", kind="apt")})
    assert pins.offered("python", "apt", ()) is None
    assert pins.offered("system", "apt", ()) is None


def test_layers_without_packages_are_found_by_what_they_say():
    old = layer("data", kind="fetch", options={"files": [{"to": "/opt/a"}]})
    pins = match([old], {"archive": ("fetch", {"files": [{"url": "https://x.example/a", "to": "/opt/a"}]})})
    assert pins.matched == {"archive": old}


def test_an_upgrade_frees_what_it_names():
    upgrade = upgrade_of(["NumPy", "plots:pillow"], lock(*OLD))
    assert upgrade.packages == {("", "numpy"), ("plots", "pillow")}
    pins = match(OLD, {"python": asks("numpy"), "plots": asks("matplotlib")}, upgrade)
    assert versions(pins.offered("python", "pip", ())) == ["scipy 1", "matplotlib 1"]
    assert [upgrade.touches(old) for old in (*OLD, layer("x", pin("pillow")))] == [True, True, False]
    assert not KEEP.touches(OLD[0])
    assert Upgrade(everything=True).touches(OLD[0])


def test_names_of_debian_with_an_architecture():
    assert upgrade_of(["libc6"], lock(layer("system", pin("libc6"), kind="apt"))).packages == {("", "libc6")}


@pytest.mark.parametrize(
    ("word", "text"),
    [
        (
            "nunpy",
            "--upgrade-package nunpy: there is no package 'nunpy' in the lock\n  hint: did you mean 'numpy'?",
        ),
        (
            "plots:numpy",
            (
                "--upgrade-package plots:numpy: there is no package 'numpy' in layer 'plots' of the lock\n"
                "  hint: only what is locked can be upgraded: `reprobox lock` adds what is new"
            ),
        ),
        (
            "jax",
            (
                "--upgrade-package jax: there is no package 'jax' in the lock\n"
                "  hint: only what is locked can be upgraded: `reprobox lock` adds what is new"
            ),
        ),
    ],
)
def test_a_package_that_is_not_locked(word, text):
    with pytest.raises(UsageError) as caught:
        upgrade_of([word], lock(*OLD))
    assert str(caught.value) == text
    assert caught.value.status == 2


def test_a_renamed_target_keeps_its_pins():
    old = lock(*OLD)
    target = old.targets["default"]
    assert old_target(old, "default", "linux/amd64", ["default"]) == target
    assert old_target(old, "cpu", "linux/amd64", ["cpu"]) == target
    assert old_target(old, "cpu", "linux/arm64", ["cpu"]) is None
    assert old_target(old, "default", "linux/arm64", ["default"]) is None
    assert old_target(None, "cpu", "linux/amd64", ["cpu"]) is None
