"""``reprobox graph``: what is in the store, what is not, and why."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

pytestmark = pytest.mark.userns


def test_hits_and_misses_with_sizes(project):
    lines = project("graph").out.splitlines()
    assert [line.split(" · ")[0] for line in lines[:-1]] == [
        "base (rootfs)",
        "└── settings (copy)",
        "    └── greeting (run)",
        "        └── skeleton (skeleton)",
    ]
    assert all(" · in the store, " in line for line in lines[:-1])
    assert lines[-1].startswith("4 of 4 layers in the store (")
    project.edit("mkdir -p /opt/deep", "mkdir -p /opt/wide")
    project.add('[[layers]]\nname = "more"\nkind = "copy"\nfiles = [{ from = "data/", to = "/more" }]')
    assert project("lock", "-q").status == 0
    project.add('[[layers]]\nname = "later"\nkind = "run"\nscript = "true"')
    told = project("graph", "--json").json["layers"]
    assert {row["name"]: row["state"] for row in told} == {
        "base": "stored",
        "settings": "stored",
        "greeting": "missing",
        "more": "missing",
        "later": "unlocked",
        "skeleton": "missing",
    }
    assert project("graph").out.splitlines()[-1].endswith("3 to be built, 1 not locked")


def test_drawings_go_to_standard_output_or_into_a_file(project):
    starts = {"dot": 'digraph "Layers of small" {', "mermaid": "flowchart TD\n", "svg": "<svg xmlns="}
    for form, start in starts.items():
        told = project("graph", "--format", form)
        assert told.out.startswith(start)
        assert project("graph", "--format", form, "-o", "drawing").out == ""
        assert (project.root / "drawing").read_text() == told.out
    root = ElementTree.fromstring((project.root / "drawing").read_bytes())
    assert "settings on base" in "".join(root.itertext())


def test_a_place_that_cannot_be_written(project):
    told = project("graph", "--format", "svg", "-o", "none/x.svg")
    assert told.status == 2
    assert told.err == (
        "error: none/x.svg: it cannot be written: No such file or directory\n"
        "  hint: give -o a file in a folder that is there\n"
    )


def test_why(fresh):
    """In a store of its own: which layer was built last before decides what is told."""
    assert fresh("realize", "-q").status == 0
    assert fresh("graph", "--why", "greeting").out == (
        "greeting is in the store: nothing of it changed since it was built\n"
    )
    (fresh.root / "conf" / "name").write_text("large\n")
    fresh.edit("mkdir -p /opt/deep", "mkdir -p /opt/wide")
    told = fresh("graph", "--why", "greeting")
    assert told.out.startswith("greeting is in the store")
    assert "the lock is stale, this is of the lock: layers.greeting.script (changed)" in told.err
    assert fresh("lock", "-q").status == 0
    told = fresh("graph", "--why", "greeting")
    assert (told.status, told.err) == (0, "")
    assert told.out.startswith(
        "greeting must be built, because\n  settings, below it:\n    option files changed:\n      - tree: "
    )
    assert told.out.endswith(
        "  greeting:\n    option script changed:\n"
        "      - cat /etc/small/name > /greeting; mkdir -p /opt/deep\n"
        "      + cat /etc/small/name > /greeting; mkdir -p /opt/wide\n"
    )
    told = fresh("graph", "--why", "greeting", "--json").json
    assert told["state"] == "changed"
    assert [cause["layer"] for cause in told["causes"]] == ["settings", "greeting"]
    assert fresh("realize", "-q").status == 0
    assert fresh("graph", "--why", "greeting", "--json").json["state"] == "stored"


def test_why_of_what_was_never_built_or_is_not_there(fresh):
    assert fresh("graph", "--why", "settings").out == (
        "settings must be built: no layer of that name and kind is in the store\n"
    )
    told = fresh("graph", "--why", "seting")
    assert told.status == 2
    assert told.err == "error: --why: the lock has no layer 'seting'\n  hint: did you mean 'settings'?\n"
    fresh.lock.unlink()
    assert fresh("graph", "--why", "settings").status == 3
