"""The layer graph: edges, one stable order, cycles as a path."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from types import SimpleNamespace

import pytest

from reprobox import graph, manifest_reader
from reprobox.errors import ManifestError
from reprobox.graph import EVERYTHING, LayerGraph
from reprobox.layers.code import CodeKind
from reprobox.layers.copy import Copy
from reprobox.layers.run import RunKind
from reprobox.layers.skeleton import Skeleton
from reprobox.manifest import Layer, Manifest
from tests.unit.fastest import fastest, growth
from tests.unit.manifest_kinds import EXAMPLE, KINDS

Needs = Callable[[Layer, Sequence[Layer]], Iterable[str]]


def needing(needs: Needs) -> SimpleNamespace:
    return SimpleNamespace(needs=needs)


def of_its_kind(layer: Layer, above: Sequence[Layer]) -> Iterable[str]:
    return tuple(other.name for other in above if other.kind == layer.kind)


NEEDS = {
    "copy": needing(lambda *_: ()),
    "run": needing(lambda *_: EVERYTHING),
    "apt": needing(of_its_kind),
}


def manifest_of(*layers: tuple[str, str] | tuple[str, str, Sequence[str]]) -> Manifest:
    """A manifest with these layers: ``(name, kind[, after])``."""
    text = '[project]\nname = "x"\n[base]\nimage = "debian:12"\n'
    for name, kind, *after in layers:
        text += f'[[layers]]\nname = "{name}"\nkind = "{kind}"\nafter = {list(*after) if after else []}\n'
        text += {
            "copy": 'files = [{ from = "a", to = "/a" }]\n',
            "run": 'script = "x"\n',
            "apt": 'packages = ["git"]\n',
        }[kind]
    return manifest_reader.parse(text, kinds=KINDS, file="here/research.toml")


def order(found: LayerGraph) -> list[str]:
    return [node.name for node in found.nodes]


def edges(found: LayerGraph) -> dict[str, tuple[str, ...]]:
    return {node.name: node.parents for node in found.nodes}


def test_without_layers_there_are_base_and_skeleton():
    found = graph.build(manifest_of(), NEEDS)
    assert edges(found) == {"base": (), "skeleton": ("base",)}
    assert [node.kind for node in found.nodes] == ["image", "skeleton"]
    assert found.node("base").layer.options == manifest_of().base


@pytest.mark.parametrize(
    "layers", [(), (("a", "copy"), ("b", "run"), ("c", "apt", ["b"])), (("a", "run"), ("b", "apt", ["a"]))]
)
def test_what_there_is_can_be_asked_without_an_order(layers):
    asked, built = graph.unordered(manifest_of(*layers)), graph.build(manifest_of(*layers), NEEDS)
    assert order(asked) == order(built)
    assert [(node.kind, node.layer) for node in asked.nodes] == [(node.kind, node.layer) for node in built.nodes]


def test_the_code_is_the_last_layer_where_it_is_baked_in():
    found = graph.build(manifest_of(("a", "copy")), NEEDS, with_code=True)
    assert edges(found) == {"base": (), "a": ("base",), "skeleton": ("a",), "code": ("skeleton",)}


def test_edges_come_from_needs_and_after():
    found = graph.build(
        manifest_of(("a", "apt"), ("files", "copy"), ("b", "apt"), ("more", "copy", ["files"]), ("all", "run")), NEEDS
    )
    assert edges(found) == {
        "base": (),
        "a": ("base",),
        "files": ("base",),
        "b": ("a",),
        "more": ("files",),
        "all": ("b", "more"),
        "skeleton": ("all",),
    }


def test_everything_is_all_that_stands_above_and_nothing_that_stands_below():
    found = graph.build(manifest_of(("a", "copy"), ("b", "copy"), ("one", "run"), ("c", "copy"), ("two", "run")), NEEDS)
    assert edges(found)["one"] == ("a", "b")
    assert edges(found)["c"] == ("base",)
    assert edges(found)["two"] == ("one", "c")
    assert edges(found)["skeleton"] == ("two",)


def test_everything_counts_what_a_later_after_already_covers():
    # "b" follows a layer below the run; the run must follow "b" all the same.
    found = graph.build(manifest_of(("a", "copy"), ("b", "copy", ["late"]), ("all", "run"), ("late", "copy")), NEEDS)
    assert order(found) == ["base", "a", "late", "b", "all", "skeleton"]
    assert edges(found)["all"] == ("a", "b")


def test_layers_keep_the_order_of_the_manifest_as_far_as_edges_allow():
    found = graph.build(manifest_of(("c", "copy", ["z"]), ("b", "copy"), ("a", "copy"), ("z", "copy")), NEEDS)
    assert order(found) == ["base", "b", "a", "z", "c", "skeleton"]


def test_generations_are_what_can_be_built_side_by_side():
    found = graph.build(manifest_of(("a", "copy"), ("b", "copy"), ("c", "copy", ["a"]), ("all", "run")), NEEDS)
    assert [set(names) for names in found.generations()] == [{"base"}, {"a", "b"}, {"c"}, {"all"}, {"skeleton"}]


def test_the_built_in_kinds_say_what_they_need():
    layers = [Layer(name=name, kind=kind, options=None) for name, kind in (("a", "apt"), ("b", "copy"), ("c", "run"))]
    assert RunKind().needs(layers[2], layers[:2]) == EVERYTHING
    assert (
        Copy().needs(layers[1], layers[:1]) == Skeleton().needs(layers[0], []) == CodeKind().needs(layers[0], []) == ()
    )


def test_a_target_leaves_out_layers_and_what_followed_them():
    text = EXAMPLE.replace('name = "gym"\n', 'name = "gym"\ntargets = ["gpu"]\n')
    text = text.replace('name = "settings"\n', 'name = "settings"\nafter = ["gym"]\n')
    parsed = manifest_reader.parse(text, kinds=KINDS)
    kinds = {name: needing(lambda *_: ()) for name in KINDS}
    assert "gym" not in order(graph.build(parsed.select("cpu"), kinds))
    found = graph.build(parsed.select("gpu"), kinds)
    assert edges(found)["settings"] == ("gym",)


# -- cycles ------------------------------------------------------------------------------------------------------------


def test_a_cycle_is_printed_as_a_path():
    with pytest.raises(ManifestError) as caught:
        graph.build(
            manifest_of(("x", "copy"), ("a", "copy", ["c"]), ("b", "copy", ["a"]), ("c", "copy", ["x", "b"])), NEEDS
        )
    (problem,) = caught.value.problems
    assert problem.message == "the layers stand on one another in a circle: a -> b -> c -> a"
    assert (problem.file, problem.line, problem.key) == ("here/research.toml", 10, "layers[1]")
    assert problem.hint == "remove one `after`, or move a layer: a layer follows those above it that it needs"
    assert caught.value.status == 2


def test_a_cycle_through_what_a_kind_needs():
    with pytest.raises(ManifestError, match="a -> all -> a"):
        graph.build(manifest_of(("a", "copy", ["all"]), ("all", "run")), NEEDS)


# -- size --------------------------------------------------------------------------------------------------------------


def large(count: int, shape: str) -> Manifest:
    base = manifest_of(("l0", "copy"))
    options = base.layers[0].options

    def layer(number: int) -> Layer:
        after: tuple[str, ...] = ()
        if shape == "chain":
            after = (f"l{number - 1}",) if number else ()
        elif shape == "random" and number:
            after = tuple({f"l{chance.randrange(number)}" for _ in range(2)})
        kind = "run" if shape == "runs" or (shape == "mixed" and number % 10 == 0) else "copy"
        return Layer(name=f"l{number}", kind=kind, options=options, after=after, index=number)

    chance = random.Random(7)
    return SimpleNamespace(layers=tuple(map(layer, range(count))), base=base.base)


@pytest.mark.parametrize("shape", ["wide", "chain", "mixed"])
def test_the_cost_grows_with_the_number_of_layers(shape):
    small, big = (large(count, shape) for count in (2_000, 8_000))
    # Four times as many: eight times the cost leaves room for logarithms and noise, a square would need sixteen.
    assert growth(lambda: graph.build(small, NEEDS), lambda: graph.build(big, NEEDS)) < 8


def test_100_000_layers_are_ordered_in_seconds():
    found = []
    assert fastest(lambda: found.append(graph.build(large(100_000, "mixed"), NEEDS)), 1) < 10
    assert len(found[0].nodes) == 100_002
    assert [node.name for node in found[0].nodes[1:-1]] == [f"l{number}" for number in range(100_000)]
