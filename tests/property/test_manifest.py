"""Laws of the manifest: any document is read or refused as it should be, and only what it says counts."""

from __future__ import annotations

import copy
import json
import random
import tomllib
from typing import Any

import jsonschema
from hypothesis import given
from hypothesis import strategies as st

from reprobox import manifest_reader
from reprobox.errors import ManifestError, Problem
from reprobox.manifest import Base, Manifest, Mount, Target
from reprobox.manifest_reader import parse
from reprobox.tables import declared
from tests.unit.manifest_kinds import EXAMPLE, KINDS

TREE = tomllib.loads(EXAMPLE)
SCHEMA = jsonschema.Draft202012Validator(json.loads(json.dumps(manifest_reader.schema(KINDS))))

KEYS = sorted(
    {name for cls in (Manifest, Base, Mount, Target) for name in declared(cls)}
    | {name for kind in KINDS.values() for name in declared(kind.options)}
)
TEXTS = st.sampled_from(
    ["", ".", "..", "/", "/x", "a/../..", "git", "Git", "rw", "debian:sid", "A_B", "\0", "~", "-x", "10.1234/x", "ü \n"]
)
VALUES = st.recursive(
    TEXTS | st.text(max_size=5) | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.dates(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(KEYS) | TEXTS, inner, max_size=2),
    max_leaves=5,
)


def spots(tree: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a document."""
    inside = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [(tree, key) for key, _ in inside] + [spot for _, item in inside for spot in spots(item)]


def toml(value: Any) -> str:
    """``value`` as TOML on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(name)} = {toml(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, str):
        return '"' + "".join(letter if letter.isalnum() else f"\\U{ord(letter):08x}" for letter in value) + '"'
    return str(value).lower()


def dumps(tree: dict[str, Any]) -> str:
    return "".join(f"{toml(name)} = {toml(item)}\n" for name, item in tree.items())


@st.composite
def mutants(draw: st.DrawFn) -> str:
    """The example with a few things replaced, dropped or added; seldom sound."""
    tree = copy.deepcopy(TREE)
    for _ in range(draw(st.integers(0, 3))):
        container, key = draw(st.sampled_from(spots(tree)))
        change = draw(st.sampled_from(["replace", "drop", "add"]))
        if change == "replace":
            container[key] = draw(VALUES)
        elif change == "drop":
            del container[key]
        elif isinstance(container, dict):
            container[draw(st.sampled_from(KEYS) | TEXTS)] = draw(VALUES)
    return dumps(tree)


OPTIONAL = [
    "authors",
    "doi",
    "version",
    "after",
    "source",
    "mode",
    "env",
    "run",
    "mounts",
    "/tmp_log",
    "exclude",
    "workdir",
]
SOUND = {
    "mode": ["ro", "rw"],
    "recommends": [True, False],
    "packages": [["git"], ["git", "jq"], ["jq", "git"]],
    "target": ["/work", "/code"],
    "LANG": ["C", ""],
    "layers": [[], TREE["layers"], TREE["layers"][::-1]],
    "image": ["debian:12", "debian:13"],
    "cpu": [{"platform": "linux/arm64"}, {}],
}


@st.composite
def sound(draw: st.DrawFn) -> dict[str, Any]:
    """A manifest without problems, near the example."""
    tree = copy.deepcopy(TREE)
    for container, key in draw(st.lists(st.sampled_from(spots(tree)), max_size=6)):
        if key in OPTIONAL:
            container.pop(key, None)
        elif key in SOUND and isinstance(container.get(key), type(SOUND[key][0])):
            container[key] = draw(st.sampled_from(SOUND[key]))
    return tree


def outcome(source: str | bytes) -> Manifest | tuple[Problem, ...]:
    try:
        return parse(source, kinds=KINDS)
    except ManifestError as error:
        return error.problems


def read(tree: dict[str, Any]) -> Manifest:
    return parse(dumps(tree), kinds=KINDS)


@given(mutants())
def test_any_document_is_read_or_refused_with_places(text: str):
    found = outcome(text)
    if isinstance(found, Manifest):
        SCHEMA.validate(tomllib.loads(text))
    else:
        assert found
        assert all(1 <= problem.line <= text.count("\n") + 1 for problem in found)
        assert [problem for problem in found if not (problem.key and problem.hint)] == []


@given(sound(), st.randoms(use_true_random=False))
def test_order_of_tables_and_comments_do_not_count(tree: dict[str, Any], order: random.Random):
    shuffled = list(tree.items())
    order.shuffle(shuffled)
    text = "# a comment\n" + dumps(dict(shuffled))
    assert parse(text, kinds=KINDS).digest() == read(tree).digest()


@given(sound(), sound())
def test_two_manifests_have_the_same_digest_when_all_their_keys_have(one: dict[str, Any], other: dict[str, Any]):
    first, second = read(one), read(other)
    assert (first.digest() == second.digest()) == (first.keys() == second.keys())


@given(sound())
def test_what_a_manifest_says_can_be_said_again(tree: dict[str, Any]):
    """The canonical form, written as TOML, is a manifest of the same canonical form, and fits the schema."""
    document = read(tree).document()
    said = {name: table for name, table in document.items() if name != "format"}
    SCHEMA.validate(said)
    assert read(said).document() == document


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_with_a_line(data: bytes):
    found = outcome(data)
    assert not isinstance(found, Manifest)
    assert all(problem.line for problem in found)
