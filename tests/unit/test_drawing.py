"""Drawings of layers: what they hold, that they are sound, and that nothing in them overlaps."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
import time
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprobox.drawing import Box, dot, mermaid, svg

SVG = "{http://www.w3.org/2000/svg}"
BOXES = (
    Box(name="base", kind="image", parents=(), state="stored", lines=("in the store, 1 MB",)),
    Box(name="system", kind="apt", parents=("base",), state="missing"),
    Box(name="conf", kind="copy", parents=("base",), state="unlocked"),
    Box(name="python", kind="pip", parents=("system",), state="missing"),
    Box(name='a<b>&"c"', kind="run", parents=("conf", "python"), state="missing", lines=("#1; \\n",)),
)


def drawn(boxes, title="Layers of x") -> ElementTree.Element:
    return ElementTree.fromstring(svg(boxes, title, "what it is"))


def rectangles(root: ElementTree.Element) -> list[tuple[float, float, float, float]]:
    found = [group.find(f"{SVG}rect") for group in root.iter(f"{SVG}g") if group.find(f"{SVG}title") is not None]
    return [tuple(float(item.get(key, "")) for key in ("x", "y", "width", "height")) for item in found]  # type: ignore[union-attr,misc]


def test_the_picture_says_what_it_is():
    root = drawn(BOXES, "Layers of <x>")
    assert (root.get("role"), root.get("aria-labelledby")) == ("img", "title description")
    assert root.find(f"{SVG}title").text == "Layers of <x>"
    assert root.find(f"{SVG}desc").text == "what it is"
    texts = [item.text for item in root.iter(f"{SVG}text")]
    assert texts[:3] == ["base", "image", "in the store, 1 MB"]
    assert 'a<b>&"c"' in texts
    assert texts[-3:] == ["in the store", "to be built", "not locked"]
    assert len(list(root.iter(f"{SVG}path"))) == 5


def test_the_same_layers_give_the_same_bytes():
    assert svg(BOXES, "t", "d") == svg(BOXES, "t", "d")
    assert not re.search(r'[ "MC]-0[ ".]|[0-9]e-[0-9]', svg(BOXES, "t", "d"))


@st.composite
def stacks(draw: st.DrawFn) -> list[Box]:
    boxes: list[Box] = []
    for number in range(draw(st.integers(1, 14))):
        parents = (
            draw(st.sets(st.sampled_from([box.name for box in boxes]), min_size=1, max_size=4)) if boxes else set()
        )
        name = f"{'x' * draw(st.integers(0, 50))}{number}"
        boxes.append(Box(name=name, kind="run", parents=tuple(sorted(parents)), state="missing"))
    return boxes


@given(stacks())
def test_boxes_stand_below_their_parents_inside_the_picture_and_do_not_overlap(boxes):
    root = drawn(boxes)
    places = rectangles(root)
    width, height = float(root.get("width", "")), float(root.get("height", ""))
    assert len(places) == len(boxes)
    for x, y, wide, high in places:
        assert min(x, y) >= 0
        assert x + wide <= width
        assert y + high <= height
    for one, other in itertools.combinations(places, 2):
        apart = one[0] + one[2] <= other[0] or other[0] + other[2] <= one[0]
        assert apart or one[1] + one[3] <= other[1] or other[1] + other[3] <= one[1]
    titles = [
        group.find(f"{SVG}title").text.split(";")[0]
        for group in root.iter(f"{SVG}g")
        if group.find(f"{SVG}title") is not None
    ]
    top = dict(zip(titles, (place[1] for place in places), strict=True))
    assert all(top[parent] < top[box.name] for box in boxes for parent in box.parents)


def test_many_layers_are_drawn_quickly():
    boxes = [Box(name="base", kind="image", parents=(), state="stored")]
    boxes += [Box(name=f"l{n}", kind="copy", parents=("base",), state="stored") for n in range(100)]
    boxes.append(Box(name="end", kind="run", parents=tuple(f"l{n}" for n in range(100)), state="stored"))
    boxes += [
        Box(name=f"s{n}", kind="apt", parents=(boxes[-1].name, f"s{n - 1}") if n else ("end",), state="stored")
        for n in range(1000)
    ]
    started = time.process_time()
    drawn(boxes)
    assert time.process_time() - started < 5


def test_dot_is_quoted():
    text = dot(BOXES, 'Layers of "x"')
    assert text.startswith('digraph "Layers of \\"x\\"" {')
    assert '    "python" -> "a<b>&\\"c\\"";' in text
    assert '[label = "a<b>&\\"c\\" (run)\\n#1; \\\\n", style = "filled,dashed"' in text
    if shutil.which("dot"):
        subprocess.run(["dot", "-Tsvg"], input=text, text=True, capture_output=True, check=True)


def test_mermaid_has_ids_of_its_own():
    text = mermaid(BOXES, "Layers of x")
    assert text.startswith("flowchart TD\n    accTitle: Layers of x\n")
    assert '    n4["a#lt;b#gt;&#quot;c#quot; (run)<br>#35;1; \\n"]:::missing' in text
    assert "    n3 --> n4" in text


@pytest.mark.tool("rsvg-convert")
def test_another_program_can_draw_it(tmp_path):
    (tmp_path / "x.svg").write_text(svg(BOXES, "t", "d"))
    subprocess.run(["rsvg-convert", tmp_path / "x.svg", "-o", tmp_path / "x.png"], check=True)
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
