"""Laws of the core: canonical bytes, trees and layers, locks, graphs."""

from __future__ import annotations

import itertools
import json
import random
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import rfc8785
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from reprobox import graph, lock_text
from reprobox.digest import Entry, canonical, escape, read_index, tree_digest, unescape, write_index
from reprobox.errors import LockError, ManifestError, Problem
from reprobox.lock import Input, Lock, LockedLayer, LockedTarget, Seal, with_ids
from reprobox.manifest import Layer
from reprobox.tree import Tree

ROOT = Path(__file__).resolve().parents[2]

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)

# -- canonical JSON ----------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_canonical_bytes_are_those_of_rfc_8785(value: Any):
    assert canonical(value) == rfc8785.dumps(value)
    assert json.loads(canonical(value)) == value


@settings(max_examples=30)
@given(st.dictionaries(TEXTS, JSON), st.randoms(use_true_random=False))
def test_the_order_of_keys_does_not_count(value: dict[str, Any], order: Any):
    items = list(value.items())
    order.shuffle(items)
    assert canonical(dict(items)) == canonical(value)


# -- indices and merged trees ------------------------------------------------------------------------------------------

NAMES = st.binary(min_size=1, max_size=6).filter(lambda name: not set(name) & set(b"/\0") and name not in (b".", b".."))
ENTRIES = st.builds(
    Entry,
    st.sampled_from("dflw"),
    st.integers(0, 0o7777),
    st.binary(min_size=1, max_size=8).map(escape),
    st.lists(NAMES, min_size=1, max_size=3).map(b"/".join),
)


@given(st.binary())
def test_escapes_are_undone(raw: bytes):
    assert unescape(escape(raw)) == raw


@given(st.lists(ENTRIES, unique_by=lambda entry: entry.path), st.randoms(use_true_random=False))
def test_an_index_is_read_as_it_was_written(entries: list[Entry], order: Any):
    assert read_index(write_index(entries)) == entries
    shuffled = list(entries)
    order.shuffle(shuffled)
    assert tree_digest(shuffled) == tree_digest(entries)


# -- layers: a real overlay and a merged copy --------------------------------------------------------------------------

PLAIN = ["a", "a/b", "a/b/c", "a/x", "a.txt", "a-", "b", "b/x", "usr/lib", "usr/lib/x", "lib", "\xff\xe9 \\", "a/n\nl"]
SPECIAL = [
    *("etc", "etc/shadow", "etc/machine-id", "etc/hosts", "etc/ssh", "etc/ssh/ssh_host_key", "etc/ssh/config"),
    *(
        "var/cache/apt/archives",
        "var/cache/apt/archives/x",
        "var/cache/apt",
        "var/cache",
        "var/log/apt",
        "var/log/apt/h",
    ),
    *("tmp", "tmp/x", "tmp/y/z", "run/x", "dev/x", "environment", "environment/x", "singularity", ".singularity.d/x"),
    *(".wh.z", ".wh.z/y", "a/.wh.b", "a/.wh..wh..opq"),
]
CONTENTS = ["", "x", "root:*:19000:0:99999:7:::\n", "longer " * 50]
MODES = st.sampled_from([0o644, 0o600, 0o755, 0o711, 0o000, 0o444, 0o4755, 0o2755, 0o1777])
TIMES = st.sampled_from([0, 1_500_000_000, 1_700_000_000, 1_700_000_001, 1_900_000_000])


def edits(paths: list[str]) -> st.SearchStrategy[list[tuple[Any, ...]]]:
    path = st.sampled_from(paths)
    return st.lists(
        st.tuples(st.just("write"), path, st.sampled_from(CONTENTS), MODES)
        | st.tuples(st.just("mkdir"), path, MODES)
        | st.tuples(st.sampled_from(["append", "rm", "rm", "fifo"]), path)
        | st.tuples(st.sampled_from(["chmod", "renew"]), path, MODES)
        | st.tuples(st.just("touch"), path, TIMES)
        | st.tuples(st.just("symlink"), path, st.sampled_from(["b", "x", "usr/lib", "not there \\"]))
        | st.tuples(st.sampled_from(["link", "rename"]), path, path),
        max_size=12,
    )


def examples(paths: list[str]) -> st.SearchStrategy[tuple[list[Any], list[list[Any]]]]:
    """A base and some steps over it. No base has names that images read as whiteouts: they were read so."""
    path = st.sampled_from([path for path in paths if ".wh." not in path])
    base = st.lists(
        st.tuples(st.just("write"), path, st.sampled_from(CONTENTS), MODES)
        | st.tuples(st.just("mkdir"), path, MODES)
        | st.tuples(st.just("link"), path, path),
        max_size=15,
    )
    return st.tuples(base, st.lists(edits(paths), min_size=1, max_size=3))


Worker = Callable[[tuple[list[Any], list[list[Any]]]], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def worker(session_folder) -> Iterator[Worker]:
    argv = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-IS"]
    argv += [str(Path(__file__).with_name("overlay_worker.py")), str(ROOT)]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin
    assert process.stdout
    numbers = itertools.count()
    folder = session_folder / "overlays"
    folder.mkdir()

    def ask(example: tuple[list[Any], list[list[Any]]]) -> list[dict[str, Any]]:
        base, steps = example
        request = {"folder": str(folder / str(next(numbers))), "base": base, "steps": steps}
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        if not select.select([process.stdout], [], [], 120)[0]:
            process.kill()
        answer = process.stdout.readline()
        assert answer, "the worker died: what it said is on standard error"
        found: list[dict[str, Any]] = json.loads(answer)
        return found

    yield ask
    process.stdin.close()
    process.wait()
    process.stdout.close()


def index(text: str) -> list[Entry]:
    return read_index(text.encode("latin-1"))


def without_set_id(entries: list[Entry], parents: list[Entry]) -> list[Entry]:
    """What is left of a result: files lose their set-id bits, unless they are the parents' own."""
    known = set(parents)
    return [
        entry._replace(mode=entry.mode & 0o1777) if entry.kind == "f" and entry not in known else entry
        for entry in entries
    ]


def check(answer: dict[str, Any]) -> None:
    """What holds whatever the step did."""
    assert answer["left_whole"] == answer["left"]  # else the test itself is wrong
    assert answer["whole"] == answer["layer"]
    layer = index(answer["layer"]["index"])
    paths = [entry.path for entry in layer]
    assert paths == sorted(set(paths))
    for path in paths:
        above = path.rpartition(b"/")[0]
        assert not above or Entry("d", dict(zip(paths, layer, strict=True))[above].mode, "-", above) in layer
    assert index(answer["layer"]["on_disk"]) == [entry for entry in layer if entry.kind != "w"]
    merged = Tree.merged([index(answer["parents"]), layer])
    assert answer["shown"] == answer["copied"] == write_index(merged.sorted()).decode("latin-1")


@pytest.mark.userns
@settings(max_examples=35)
@given(examples(PLAIN))
def test_a_layer_over_its_parents_is_the_result(worker: Worker, example: tuple[list[Any], list[list[Any]]]):
    for answer in worker(example):
        check(answer)
        parents = index(answer["parents"])
        merged = Tree.merged([parents, index(answer["layer"]["index"])])
        assert merged.sorted() == without_set_id(index(answer["left"]), parents)


@pytest.mark.userns
@settings(max_examples=35)
@given(examples(PLAIN[:4] + SPECIAL))
def test_special_paths_are_the_same_with_and_without_overlay(
    worker: Worker, example: tuple[list[Any], list[list[Any]]]
):
    for answer in worker(example):
        check(answer)


@pytest.mark.userns
@settings(max_examples=15)
@given(examples(PLAIN))
def test_a_step_that_changes_nothing_is_an_empty_layer(worker: Worker, example: tuple[list[Any], list[list[Any]]]):
    base, steps = example
    touched = [("chmod", entry, mode) for entry, mode in (("a", 0o700), ("a", 0o755))]
    *_, answer = worker(([*base, ("mkdir", "a", 493)], [[*steps[0], ("rm", "a"), ("mkdir", "a", 0o755)], touched]))
    check(answer)
    assert answer["layer"]["index"] == ""


# -- locks -------------------------------------------------------------------------------------------------------------

TOML = st.recursive(
    st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
TABLES = st.dictionaries(TEXTS, TOML, max_size=3)
HASHES = st.binary(min_size=32, max_size=32).map(bytes.hex)
INPUTS = st.builds(
    Input,
    type=TEXTS,
    name=TEXTS.filter(lambda name: not set(name) & set("/\0") and name not in ("", ".", "..")),
    sha256=HASHES,
    size=st.integers(0, 2**53 - 1),
    facts=st.dictionaries(
        TEXTS.filter(lambda name: name not in ("name", "type", "size", "sha256")),
        TEXTS | st.just('"""\n\\'),
        max_size=3,
    ),
)
SEALS = st.none() | st.builds(
    Seal, image_digest=TEXTS, tree_digest=TEXTS, layers=st.dictionaries(TEXTS, TEXTS, max_size=2)
)


@st.composite
def targets(draw: st.DrawFn, epoch: int) -> LockedTarget:
    names = draw(st.lists(TEXTS, min_size=1, max_size=5, unique=True))
    layers = [
        LockedLayer(
            name=name,
            kind=draw(TEXTS),
            recipe=draw(st.integers(0, 100)),
            request=draw(TEXTS),
            parents=tuple(draw(st.lists(st.sampled_from(names[:number]), unique=True))) if number else (),
            inputs=tuple(draw(st.lists(INPUTS, max_size=2))),
            options=draw(TABLES),
            facts=draw(TABLES | st.dictionaries(TEXTS, st.text('a"\\\n\t\r\x85 ü', max_size=9), max_size=2)),
            environment=draw(st.dictionaries(TEXTS, TEXTS, max_size=2)),
        )
        for number, name in enumerate(names)
    ]
    made = with_ids(layers, epoch)
    return LockedTarget(name="", platform=draw(TEXTS), layers=made, seal=draw(SEALS), request=draw(TEXTS))


@st.composite
def locks(draw: st.DrawFn) -> Lock:
    epoch = draw(st.integers(0, 2**40))
    found = draw(st.dictionaries(TEXTS, targets(epoch), min_size=1, max_size=2))
    whole = next(iter(found.values()))
    start = draw(st.integers(1, len(whole.layers)))
    found |= draw(st.dictionaries(TEXTS, st.just(replace(whole, layers=whole.layers[:start])), max_size=1))
    return Lock(
        epoch=epoch,
        manifest=draw(TEXTS),
        keys=draw(st.dictionaries(TEXTS, TEXTS, max_size=3)),
        targets={name: replace(target, name=name) for name, target in found.items()},
        code=draw(TEXTS),
    )


@settings(max_examples=30)
@given(locks())
def test_a_lock_is_read_as_it_was_written(value: Lock):
    text = lock_text.write(value)
    assert lock_text.read(text) == value
    assert lock_text.write(lock_text.read(text)) == text
    assert lock_text.decode(json.loads(json.dumps(lock_text.parse(text)))) == value


def rebuilt(value: Any, order: random.Random) -> Any:
    if isinstance(value, dict):
        items = [(key, rebuilt(item, order)) for key, item in value.items()]
        order.shuffle(items)
        return dict(items)
    return [rebuilt(item, order) for item in value] if isinstance(value, list) else value


@settings(max_examples=30)
@given(locks(), st.randoms(use_true_random=False))
def test_equal_locks_are_equal_bytes(value: Lock, order: random.Random):
    def other(layer: LockedLayer) -> LockedLayer:
        tables = {name: rebuilt(getattr(layer, name), order) for name in ("options", "facts", "environment")}
        return replace(layer, **tables)

    found = {name: replace(item, layers=tuple(map(other, item.layers))) for name, item in value.targets.items()}
    same = replace(value, keys=rebuilt(value.keys, order), targets=rebuilt(found, order))
    assert same == value
    assert lock_text.write(same) == lock_text.write(value)


@settings(max_examples=30)
@given(locks(), st.data())
def test_a_changed_character_is_noticed_or_says_the_same(value: Lock, data: st.DataObject):
    text = lock_text.write(
        replace(value, targets={name: replace(item, seal=None) for name, item in value.targets.items()})
    )
    place = data.draw(st.integers(0, len(text) - 1))
    edited = text[:place] + data.draw(st.sampled_from('a0 "=[]{}.\n#')) + text[place + 1 :]
    try:
        found = lock_text.read(edited)
    except LockError:
        return
    assert lock_text.write(found) == text


# -- graphs ------------------------------------------------------------------------------------------------------------


@st.composite
def layers_with_edges(draw: st.DrawFn) -> list[Layer]:
    """Layers in the order of a manifest, with ``after`` edges that make no cycle: they follow a hidden order."""
    names = draw(st.permutations([f"l{number}" for number in range(draw(st.integers(1, 8)))]))
    edges = {
        name: tuple(draw(st.lists(st.sampled_from(names[:number]), unique=True))) if number else ()
        for number, name in enumerate(names)
    }
    return [Layer(name=name, kind="copy", options=None, after=edges[name]) for name in draw(st.permutations(names))]


def graph_of(layers: list[Layer]) -> graph.LayerGraph:
    manifest: Any = SimpleNamespace(layers=tuple(layers), base=SimpleNamespace(kind="rootfs"))
    return graph.build(manifest, {"copy": SimpleNamespace(needs=lambda *_: ())})


@given(layers_with_edges())
def test_layers_are_stacked_as_near_to_the_manifest_as_edges_allow(layers: list[Layer]):
    wanted, waiting = [], list(layers)
    while waiting:  # always the first of the manifest that may come
        layer = next(item for item in waiting if set(item.after) <= set(wanted))
        wanted.append(layer.name)
        waiting.remove(layer)
    assert [node.name for node in graph_of(layers).nodes] == ["base", *wanted, "skeleton"]


@given(layers_with_edges(), st.randoms(use_true_random=False))
def test_the_order_in_the_manifest_changes_no_edge(layers: list[Layer], order: random.Random):
    shuffled = list(layers)
    order.shuffle(shuffled)
    one, other = graph_of(layers), graph_of(shuffled)
    assert {node.name: set(node.parents) for node in one.nodes} == {
        node.name: set(node.parents) for node in other.nodes
    }
    places = {node.name: number for number, node in enumerate(other.nodes)}
    assert all(places[parent] < places[node.name] for node in other.nodes for parent in node.parents)


@given(layers_with_edges())
def test_the_skeleton_stands_on_everything(layers: list[Layer]):
    above: dict[str, set[str]] = {}
    for node in graph_of(layers).nodes:
        above[node.name] = set(node.parents).union(*(above[parent] for parent in node.parents))
    assert above["skeleton"] == {"base", *(layer.name for layer in layers)}


@given(layers_with_edges(), st.data())
def test_a_cycle_is_found_and_is_one(layers: list[Layer], data: st.DataObject):
    """Turn one edge round: what is then reported stands on itself, step by step."""
    with_edges = [layer for layer in layers if layer.after]
    assume(with_edges)
    last = data.draw(st.sampled_from(with_edges))
    first = data.draw(st.sampled_from(last.after))
    closed = [replace(layer, after=(*layer.after, last.name)) if layer.name == first else layer for layer in layers]
    edges = {(parent, layer.name) for layer in closed for parent in layer.after}
    told = SimpleNamespace(
        layers=tuple(closed),
        base=SimpleNamespace(kind="rootfs"),
        problem=lambda path, message, hint: Problem(file="", line=1, key=str(path), message=message, hint=hint),
    )
    with pytest.raises(ManifestError) as caught:
        graph.build(told, {"copy": SimpleNamespace(needs=lambda *_: ())})  # type: ignore[arg-type]
    path = caught.value.problems[0].message.partition(": ")[2].split(" -> ")
    assert path[0] == path[-1]
    assert all(edge in edges for edge in itertools.pairwise(path))
    assert path[0] == min(path, key=[layer.name for layer in closed].index)
