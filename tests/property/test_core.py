"""Laws of the core: canonical bytes, trees and layers, locks, graphs."""

from __future__ import annotations

import itertools
import json
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from reprobox.digest import Entry, canonical, escape, read_index, tree_digest, unescape, write_index
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
        assert select.select([process.stdout], [], [], 60)[0], "the worker does not answer"
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
@settings(max_examples=60)
@given(examples(PLAIN))
def test_a_layer_over_its_parents_is_the_result(worker: Worker, example: tuple[list[Any], list[list[Any]]]):
    for answer in worker(example):
        check(answer)
        parents = index(answer["parents"])
        merged = Tree.merged([parents, index(answer["layer"]["index"])])
        assert merged.sorted() == without_set_id(index(answer["left"]), parents)


@pytest.mark.userns
@settings(max_examples=60)
@given(examples(PLAIN[:4] + SPECIAL))
def test_special_paths_are_the_same_with_and_without_overlay(
    worker: Worker, example: tuple[list[Any], list[list[Any]]]
):
    for answer in worker(example):
        check(answer)


@pytest.mark.userns
@settings(max_examples=30)
@given(examples(PLAIN))
def test_a_step_that_changes_nothing_is_an_empty_layer(worker: Worker, example: tuple[list[Any], list[list[Any]]]):
    base, steps = example
    touched = [("chmod", entry, mode) for entry, mode in (("a", 0o700), ("a", 0o755))]
    *_, answer = worker(([*base, ("mkdir", "a", 493)], [[*steps[0], ("rm", "a"), ("mkdir", "a", 0o755)], touched]))
    check(answer)
    assert answer["layer"]["index"] == ""
