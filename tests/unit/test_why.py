"""Why a layer must be built: compared with what was built before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from reprobox.lock import Input, LockedLayer, LockedTarget, ancestors, with_ids
from reprobox.why import Built, Reason, why

BASE = LockedLayer(name="base", kind="rootfs", recipe=1, request="")


def file(name: str, content: str = "0", type: str = "blob") -> Input:  # noqa: A002
    return Input(type=type, name=name, sha256=content * 64, size=1)


def layer(name: str, *inputs: Input, kind: str = "pip", below: Sequence[str] = ("base",), **more: Any) -> LockedLayer:
    return LockedLayer(name=name, kind=kind, recipe=1, request="", parents=tuple(below), inputs=inputs, **more)


def target(*layers: LockedLayer, epoch: int = 0) -> LockedTarget:
    return LockedTarget(name="default", platform="linux/amd64", layers=with_ids((BASE, *layers), epoch))


def built(made: LockedTarget, epoch: int = 0, when: float = 0) -> list[Built]:
    """The records that building every layer leaves."""
    return [
        Built(
            id=item.id,
            name=item.name,
            kind=item.kind,
            document=item.identity(epoch, [lower.id for lower in ancestors(made.layers, item.name)]).document(),
            when=when,
        )
        for item in made.layers
    ]


def said(reason: Reason) -> list[tuple[str, str]]:
    return [(cause.layer, str(change)) for cause in reason.causes for change in cause.changes]


def changed(old: LockedLayer, new: LockedLayer) -> list[tuple[str, str]]:
    reason = why(target(new), 0, new.name, built(target(old)))
    assert reason.state == "changed"
    return said(reason)


def test_a_hit_and_what_was_never_built():
    now = target(layer("python", file("a_1_all.deb")))
    assert why(now, 0, "python", built(now)).state == "stored"
    assert why(now, 0, "python", []) == Reason(state="never")
    assert why(now, 0, "python", built(target(layer("python", kind="apt")))).state == "never"
    assert why(now, 0, "python", built(target(layer("other")))).state == "never"


def test_packages_by_their_versions():
    old = layer(
        "x", file("numpy-2.1.0-cp311-x.whl"), file("git_2.39_amd64.deb"), file("a_1_all.deb"), file("d_1_all.deb")
    )
    new = layer(
        "x",
        file("numpy-2.1.2-cp311-x.whl", "1"),
        file("git_2.40_amd64.deb", "1"),
        file("b_1_all.deb"),
        file("d_1_all.deb"),
    )
    assert changed(old, new) == [
        ("x", "package a 1, which is gone"),
        ("x", "package b 1, which is new"),
        ("x", "package git 2.39 → 2.40"),
        ("x", "package numpy 2.1.0 → 2.1.2"),
    ]


def test_files_by_their_hashes():
    pairs = [("manifest.json", "manifest.json"), ("git_1_amd64.deb", "git_1_amd64.deb")]
    for one, other in pairs:
        ((_, words),) = changed(layer("x", file(one)), layer("x", file(other, "1")))
        assert words.endswith("sha256:000000000000 → " + ("1 " if "git" in one else "") + "sha256:111111111111")
    assert changed(layer("x"), layer("x", file("z.tar")))[0][1] == "file z.tar sha256:000000000000, which is new"


def test_scripts_line_by_line_and_other_options():
    old = layer("x", options={"script": "make\ntrue\n", "list": ["a", "b"], "on": True, "word": "one", "gone": "q"})
    new = layer("x", options={"script": "make\n--all\n", "list": ["b", "c"], "on": False, "word": "two"})
    assert changed(old, new) == [
        ("x", "option gone changed:\n  - q"),
        ("x", "option list changed:\n  - a\n  + c"),
        ("x", "option on true → false"),
        ("x", "option script changed:\n  - true\n  + --all"),
        ("x", "option word one → two"),
    ]


def test_environment_recipe_and_epoch():
    old, new = layer("x", environment={"CC": "gcc"}), layer("x", environment={"CC": "clang"})
    assert changed(old, replace(new, recipe=2)) == [("x", "variable CC gcc → clang"), ("x", "recipe 1 → 2")]
    reason = why(target(old, epoch=5), 5, "x", built(target(old, epoch=3), 3))
    assert said(reason) == [("base", "epoch 3 → 5")]


def test_the_first_cause_is_below_and_layers_between_say_nothing():
    def stack(version: str) -> LockedTarget:
        system = layer("system", file(f"git_{version}_amd64.deb", version), kind="apt")
        return target(system, layer("python", below=["system"]), layer("all", kind="run", below=["python"]))

    reason = why(stack("2"), 0, "all", built(stack("1")))
    assert said(reason) == [("system", "package git 1 → 2")]


def test_layers_that_come_and_go_below():
    old = target(layer("a", file("x_1_all.deb")), layer("top", below=["a"]))
    new = target(layer("b", file("y_1_all.deb")), layer("top", below=["b"]))
    assert said(why(new, 0, "top", built(old))) == [
        ("b", "the layer is new below top"),
        ("a", "the layer is no longer below top"),
    ]


def test_what_it_was_may_be_gone_from_the_store():
    old = target(layer("a", file("x_1_all.deb")), layer("top", below=["a"]))
    new = target(layer("a", file("x_2_all.deb", "1")), layer("top", below=["a"]))
    left = [item for item in built(old) if item.name != "a"]
    assert said(why(new, 0, "top", left)) == [("a", "the layer was another, which is not in the store any more")]


def test_a_layer_below_that_is_the_same_needs_no_record():
    def stack(version: str) -> LockedTarget:
        return target(layer("a", file("x_1_all.deb")), layer("top", file(f"y_{version}_all.deb", version), below=["a"]))

    left = [item for item in built(stack("1")) if item.name != "a"]
    assert said(why(stack("2"), 0, "top", left)) == [("top", "package y 1 → 2")]


def test_the_nearest_of_several_and_of_equals_the_last():
    files = [file(f"p{number}_1_all.deb") for number in range(3)]
    near, far = target(layer("x", *files)), target(layer("x"))
    now = target(layer("x", *files, file("new_1_all.deb")))
    assert why(now, 0, "x", [*built(far, when=9), *built(near, when=1)]).nearest == near.layers[1].id
    one, other = target(layer("x", file("new_2_all.deb"))), target(layer("x", file("new_3_all.deb")))
    assert why(now, 0, "x", [*built(one, when=2), *built(other, when=3)]).nearest == other.layers[1].id
