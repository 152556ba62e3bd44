"""``reprobox lock``: what moves, and what stays where it is."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from tests.cli.shelf import Shelf, layer

pytestmark = pytest.mark.userns


@pytest.fixture
def shelf(project, offered) -> Shelf:
    """The project with two layers of things, locked; and then every thing got a new version."""
    shelf = Shelf(apple="1.0", pear="1.0", plum="1.0")
    offered(shelf=shelf)
    project.add(layer("fruit", "apple", "pear") + layer("more", "plum"))
    assert project("lock").status == 0
    shelf.versions |= dict.fromkeys(shelf.versions, "2.0") | {"fig": "2.0"}
    shelf.asked = 0
    return shelf


def pins(project: Any) -> dict[str, list[str]]:
    (target,) = tomllib.loads(project.lock.read_text())["targets"].values()
    found = {item["name"]: item.get("inputs", ()) for item in target["layers"] if item["kind"] == "shelf"}
    return {name: [item["name"] for item in inputs] for name, inputs in found.items()}


def test_what_is_added_moves_nothing(project, shelf):
    project.edit('["apple", "pear"]', '["apple", "fig", "pear"]')
    assert project("lock").status == 0
    assert pins(project) == {"fruit": ["apple-1.0", "fig-2.0", "pear-1.0"], "more": ["plum-1.0"]}


def test_what_is_removed_moves_nothing(project, shelf):
    project.edit('["apple", "pear"]', '["pear"]')
    assert project("lock").status == 0
    assert pins(project) == {"fruit": ["pear-1.0"], "more": ["plum-1.0"]}


def test_a_renamed_layer_is_not_even_asked_again(project, shelf):
    project.edit('name = "fruit"', 'name = "food"')
    assert project("lock").status == 0
    assert pins(project) == {"food": ["apple-1.0", "pear-1.0"], "more": ["plum-1.0"]}
    assert shelf.asked == 0
    assert project("lock", "--check").status == 0


def test_a_renamed_and_changed_layer_keeps_its_pins(project, shelf):
    project.edit('name = "fruit"', 'name = "food"')
    project.edit('["apple", "pear"]', '["apple", "fig"]')
    assert project("lock").status == 0
    assert pins(project) == {"food": ["apple-1.0", "fig-2.0"], "more": ["plum-1.0"]}


def test_packages_that_move_to_another_layer_keep_their_pins(project, shelf):
    project.edit('["apple", "pear"]', '["apple"]')
    project.edit('["plum"]', '["plum", "pear"]')
    assert project("lock").status == 0
    assert pins(project) == {"fruit": ["apple-1.0"], "more": ["pear-1.0", "plum-1.0"]}


def test_a_renamed_target_keeps_its_pins(project, shelf):
    project.manifest.write_text(f'{project.manifest.read_text()}\n[targets.cpu]\nplatform = "linux/amd64"\n')
    assert project("lock").status == 0
    assert pins(project) == {"fruit": ["apple-1.0", "pear-1.0"], "more": ["plum-1.0"]}
    assert shelf.asked == 0


def test_everything_is_upgraded(project, shelf):
    assert project("lock", "--upgrade").status == 0
    assert pins(project) == {"fruit": ["apple-2.0", "pear-2.0"], "more": ["plum-2.0"]}


@pytest.mark.parametrize(
    ("words", "moved"),
    [
        (["pear"], {"fruit": ["apple-1.0", "pear-2.0"], "more": ["plum-1.0"]}),
        (["pear", "plum"], {"fruit": ["apple-1.0", "pear-2.0"], "more": ["plum-2.0"]}),
        (["more:plum"], {"fruit": ["apple-1.0", "pear-1.0"], "more": ["plum-2.0"]}),
    ],
)
def test_only_what_is_named_is_upgraded(project, shelf, words, moved):
    assert project("lock", *(part for word in words for part in ("--upgrade-package", word))).status == 0
    assert pins(project) == moved


def test_a_name_that_is_not_locked_is_refused(project, shelf):
    before = project.lock.read_bytes()
    told = project("lock", "--upgrade-package", "aple")
    assert told.status == 2
    assert told.err == (
        "error: --upgrade-package aple: there is no package 'aple' in the lock\n  hint: did you mean 'apple'?\n"
    )
    assert project.lock.read_bytes() == before
