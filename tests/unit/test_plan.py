"""The plan: what is missing, in which order, and what waits for what. From values alone."""

from __future__ import annotations

import builtins
import os
import socket
from collections.abc import Callable
from dataclasses import FrozenInstanceError

import pytest

from reprobox.digest import sha256
from reprobox.lock import Input, LockedLayer, LockedTarget, with_ids
from reprobox.plan import Plan, plan
from tests.unit.fastest import fastest, growth


def layer(name: str, *parents: str, blobs: tuple[str, ...] = ()) -> LockedLayer:
    inputs = tuple(Input(type="deb", name=f"{blob}.deb", sha256=sha256(blob.encode()), size=1) for blob in blobs)
    return LockedLayer(
        name=name, kind="run", recipe=1, request="", parents=parents, inputs=inputs, options={"name": name}
    )


def target(*layers: LockedLayer) -> LockedTarget:
    return LockedTarget(name="default", platform="linux/amd64", layers=with_ids(layers, 0))


#     base - a - b - end
#         \- c ------/
DIAMOND = target(
    layer("base", blobs=("libc", "dpkg")),
    layer("a", "base", blobs=("libc", "x")),
    layer("b", "a"),
    layer("c", "base", blobs=("y",)),
    layer("end", "b", "c"),
)


def plan_with(has: str, blobs: str = "", **options: bool) -> Plan:
    ids = {item.id for item in DIAMOND.layers if item.name in has.split()}
    have = {sha256(blob.encode()) for blob in blobs.split()}
    return plan(DIAMOND, has_layer=ids.__contains__, has_blob=have.__contains__, **options)


def steps(found: Plan) -> dict[str, tuple[str, ...]]:
    return {step.layer.name: step.waits_for for step in found.steps}


def missing(found: Plan) -> list[str]:
    return [item.name.removesuffix(".deb") for item in found.missing]


def test_with_an_empty_store_everything_is_done_once():
    found = plan_with("")
    assert steps(found) == {"base": (), "a": ("base",), "b": ("a",), "c": ("base",), "end": ("b", "c")}
    assert missing(found) == ["libc", "dpkg", "x", "y"]
    assert found.cached == frozenset()
    assert found.layers == DIAMOND.layers


def test_with_a_full_store_there_is_nothing_to_do():
    found = plan_with("base a b c end")
    assert (found.steps, found.missing) == ((), ())
    assert found.cached == {item.id for item in DIAMOND.layers}


def test_a_layer_in_the_store_needs_neither_step_nor_inputs():
    found = plan_with("base a c")
    assert steps(found) == {"b": (), "end": ("b",)}
    assert missing(found) == []


def test_blobs_in_the_store_are_not_fetched():
    assert missing(plan_with("base", "x")) == ["libc", "y"]


def test_a_step_waits_for_what_is_missing_below_a_layer_that_is_there():
    found = plan_with("a b")  # somebody took the base away
    assert steps(found) == {"base": (), "c": ("base",), "end": ("base", "c")}


def test_what_a_step_stands_on_is_in_stacking_order():
    found = plan_with("")
    assert [[item.name for item in step.below] for step in found.steps] == [
        [],
        ["base"],
        ["base", "a"],
        ["base"],
        ["base", "a", "b", "c"],
    ]


def test_an_image_wants_the_blobs_of_its_base_too():
    assert missing(plan_with("base a b c end", image=True)) == ["libc", "dpkg"]
    assert missing(plan_with("base a b c end", "libc dpkg", image=True)) == []
    assert missing(plan_with("base b c end", image=True)) == ["libc", "dpkg", "x"]


def test_waiting_for_steps_in_any_order_builds_parents_first():
    found = plan_with("a")
    done = {"a"}
    todo = list(reversed(found.steps))
    while todo:
        ready = [step for step in todo if done.issuperset(step.waits_for)]
        assert ready
        for step in ready:
            assert {item.name for item in step.below} <= done
        done |= {step.layer.name for step in ready}
        todo = [step for step in todo if step not in ready]


def test_the_plan_is_pure(monkeypatch):
    """The same values in, the same plan out, and the world is not asked."""

    def world(*_: object, **__: object) -> None:
        raise AssertionError("the plan looked at the world")

    for where, name in ((builtins, "open"), (os, "stat"), (os, "scandir"), (os, "listdir"), (socket, "socket")):
        monkeypatch.setattr(where, name, world)
    first, second = plan_with("base", "x"), plan_with("base", "x")
    monkeypatch.undo()
    assert first == second
    with pytest.raises(FrozenInstanceError):
        first.steps = ()


def large(count: int, shape: str) -> LockedTarget:
    layers = [layer("base")]
    for number in range(count):
        parent = f"l{number - 1}" if shape == "chain" and number else "base"
        layers.append(layer(f"l{number}", parent))
    ends = [item.name for item in layers[1:]] if shape == "wide" else [layers[-1].name]
    layers.append(layer("end", *ends))
    return LockedTarget(name="default", platform="", layers=tuple(layers))


def planning(target: LockedTarget, *, have: bool) -> Callable[[], object]:
    return lambda: plan(target, has_layer=lambda _: have, has_blob=lambda _: False)


@pytest.mark.parametrize("shape", ["wide", "chain"])
@pytest.mark.parametrize("have", [False, True])
def test_the_cost_grows_with_the_number_of_layers(shape, have):
    # Five times as many: ten times the cost leaves room for noise, a square would need twenty-five.
    small, big = (planning(large(count, shape), have=have) for count in (2_000, 10_000))
    assert growth(small, big) < 10


def test_100_000_layers_are_planned_in_seconds():
    assert fastest(planning(large(100_000, "chain"), have=False), 5) < 3


def test_one_missing_layer_below_many():
    big = large(2_000, "chain")
    found = plan(big, has_layer=lambda _: True, has_blob=lambda _: True)
    assert found.steps == ()
    absent = iter([False])
    found = plan(big, has_layer=lambda _: next(absent, True), has_blob=lambda _: True)
    assert [step.layer.name for step in found.steps] == ["base"]
