"""The layers of a target as a drawing: DOT, Mermaid, and SVG made here, so that no other program is needed.

The drawing is layered (Sugiyama, Tagawa and Toda 1981): a row for each distance from the base, boxes ordered within
their row by where their parents are, lines through the gaps between boxes. The same layers give the same bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise
from typing import Literal, TypeAlias

State: TypeAlias = Literal["stored", "remote", "missing", "unlocked"]

#: How each state looks: fill, line, dashes, words. Colour is never the only sign.
_LOOKS: dict[State, tuple[str, str, str]] = {
    "stored": ("#e3f4e6", "#1f7a37", ""),
    "remote": ("#e2eefb", "#1c5d99", "8 3"),
    "missing": ("#fff3d6", "#a15c00", "5 3"),
    "unlocked": ("#eeeeee", "#666666", "2 3"),
}
_LEGEND: dict[State, str] = {
    "stored": "in the store",
    "remote": "at the remote",
    "missing": "to be built",
    "unlocked": "not locked",
}
_USUAL: tuple[State, ...] = ("stored", "missing", "unlocked")  # what a picture explains whether or not it has it


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """One layer: ``lines`` are what is said below its name."""

    name: str
    kind: str
    parents: tuple[str, ...]
    state: State
    lines: tuple[str, ...] = ()


# -- DOT and Mermaid ---------------------------------------------------------------------------------------------------


def dot(boxes: Sequence[Box], title: str) -> str:
    """A digraph for Graphviz."""
    lines = [f"digraph {_quoted(title)} {{", "    rankdir = TB;", '    node [shape = box, fontname = "sans-serif"];']
    for box in boxes:
        fill, line, dashes = _LOOKS[box.state]
        style = "filled,dashed" if dashes else "filled"
        label = _quoted("\n".join((f"{box.name} ({box.kind})", *box.lines)))
        look = f'style = "{style}", fillcolor = "{fill}", color = "{line}"'
        lines.append(f"    {_quoted(box.name)} [label = {label}, {look}];")
    lines += [f"    {_quoted(parent)} -> {_quoted(box.name)};" for box in boxes for parent in box.parents]
    return "\n".join((*lines, "}"))


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def mermaid(boxes: Sequence[Box], title: str) -> str:
    """A flowchart, as GitHub and many documentation tools draw it."""
    numbers = {box.name: f"n{number}" for number, box in enumerate(boxes)}
    lines = ["flowchart TD", f"    accTitle: {title}"]
    for box in boxes:
        label = "<br>".join(map(_entities, (f"{box.name} ({box.kind})", *box.lines)))
        lines.append(f'    {numbers[box.name]}["{label}"]:::{box.state}')
    lines += [f"    {numbers[parent]} --> {numbers[box.name]}" for box in boxes for parent in box.parents]
    for state, (fill, line, dashes) in _LOOKS.items():
        dashed = f",stroke-dasharray:{dashes}" if dashes else ""
        lines.append(f"    classDef {state} fill:{fill},stroke:{line},color:#111111{dashed}")
    return "\n".join(lines)


def _entities(text: str) -> str:
    return text.replace("#", "#35;").replace('"', "#quot;").replace("<", "#lt;").replace(">", "#gt;")


# -- SVG ---------------------------------------------------------------------------------------------------------------

_LETTER = 7.2  # width of a letter at 13 pixels: the widest of the usual sans-serif fonts, so that text always fits
_LINE = 17
_ROW_GAP, _GAP, _MARGIN, _LANE = 44, 26, 24, 14
_MOST_LANES = 4_000  # bends; more are not drawn around boxes
_SWEEPS = 6


@dataclass(slots=True)
class _Place:
    """A box or, where a line passes a row, a lane for it. ``x`` is its middle."""

    row: int
    width: float
    height: float
    box: Box | None = None
    above: list[_Place] = field(default_factory=list)
    below: list[_Place] = field(default_factory=list)
    x: float = 0
    y: float = 0


def svg(boxes: Sequence[Box], title: str, description: str) -> str:
    """A picture of its own, with title and description for those who do not see it."""
    rows, lines = _rows(boxes)
    _order(rows)
    width, height = _spread(rows)
    return "\n".join(_svg(rows, lines, title, description, (max(width, 420), height)))


def inline(boxes: Sequence[Box], title: str) -> str:
    """A picture for a page, which styles it: the classes ``line``, ``layer``, ``name`` and ``fact``, and no colours.

    States are not shown: a reader has no store. What stands on what must be told beside it in words.
    """
    rows, lines = _rows(boxes)
    _order(rows)
    width, height = (round(size) for size in _spread(rows))
    parts = [
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img"',
        f' aria-label="{escape(title)}">',
        '<g class="line">',
        *(f'<path d="{_path(line)}"/>' for line in lines),
        "</g>",
    ]
    for place in (place for row in rows for place in row):
        if place.box is not None:
            parts += _plainly_drawn(place, place.box)
    return "\n".join((*parts, "</svg>"))


def _plainly_drawn(place: _Place, box: Box) -> Iterator[str]:
    left, x, y = _n(place.x - place.width / 2), _n(place.x), place.y + _LINE + 4
    yield f'<g class="layer {box.kind if box.kind.isalnum() and box.kind.isascii() else "other"}">'
    yield (
        f'<rect x="{left}" y="{_n(place.y)}" width="{_n(place.width)}" height="{_n(place.height)}" rx="6"/>'
        f'<text class="name" x="{x}" y="{_n(y)}">{escape(_short(box.name))}</text>'
    )
    for number, text in enumerate(_told(box), 1):
        yield f'<text class="fact" x="{x}" y="{_n(y + number * _LINE)}">{escape(text)}</text>'
    yield "</g>"


def _rows(boxes: Sequence[Box]) -> tuple[list[list[_Place]], list[list[_Place]]]:
    """Places row by row, and lines as the places that they pass."""
    places: dict[str, _Place] = {}
    rows: list[list[_Place]] = []
    lines: list[list[_Place]] = []
    lanes = 0
    for box in boxes:
        row = max((places[parent].row + 1 for parent in box.parents if parent in places), default=0)
        texts = (_short(box.name), *_told(box))
        width = max(len(text) for text in texts) * _LETTER + 28
        place = _Place(row=row, width=width, height=_LINE * len(texts) + 16, box=box)
        places[box.name] = place
        rows += [[] for _ in range(row + 1 - len(rows))]
        rows[row].append(place)
        for parent in (places[name] for name in box.parents if name in places):
            passed = [_Place(row=at, width=_LANE, height=0) for at in range(parent.row + 1, row)]
            lanes += len(passed)
            passed = passed if lanes <= _MOST_LANES else []
            for lane in passed:
                rows[lane.row].append(lane)
            line = [parent, *passed, place]
            lines.append(line)
            for upper, lower in pairwise(line):
                upper.below.append(lower)
                lower.above.append(upper)
    return rows, lines


def _order(rows: list[list[_Place]]) -> None:
    """Put each place near its neighbours: barycentres, down and up in turn."""
    _number(rows)
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        for row in rows if down else reversed(rows):
            wanted = [_mean(place.above if down else place.below, place.x) for place in row]
            row[:] = [place for _, _, place in sorted(zip(wanted, range(len(row)), row, strict=True), key=_first_two)]
            _number([row])


def _first_two(item: tuple[float, int, _Place]) -> tuple[float, int]:
    return item[:2]


def _number(rows: Sequence[Sequence[_Place]]) -> None:
    for row in rows:
        for number, place in enumerate(row):
            place.x = number - (len(row) - 1) / 2


def _mean(places: Sequence[_Place], otherwise: float) -> float:
    return sum(place.x for place in places) / len(places) if places else otherwise


def _spread(rows: Sequence[Sequence[_Place]]) -> tuple[float, float]:
    """Give every place its coordinates; returns the width and height that are needed."""
    y = float(_MARGIN)
    for row in rows:
        _line_up(row, [0.0] * len(row))
        height = max(place.height for place in row)
        for place in row:
            place.y = y + (height - place.height) / 2
        y += height + _ROW_GAP
    for sweep in range(2 * _SWEEPS):
        down = sweep % 2 == 0
        for row in rows if down else reversed(rows):
            _line_up(row, [_mean(place.above if down else place.below, place.x) for place in row])
    left = min(place.x - place.width / 2 for row in rows for place in row)
    right = max(place.x + place.width / 2 for row in rows for place in row)
    for row in rows:
        for place in row:
            place.x += _MARGIN - left
    return right - left + 2 * _MARGIN, y - _ROW_GAP + _MARGIN


def _line_up(row: Sequence[_Place], wanted: Sequence[float]) -> None:
    """Move a row's places as near to where they are wanted as the others allow, in their order.

    Pool adjacent violators: places that would overlap become one block, at the mean of what its places want.
    """
    blocks: list[tuple[float, int, float]] = []  # sum of wishes, places, room from the first place's middle
    starts: list[float] = []
    offset = 0.0
    offsets = []
    for number, place in enumerate(row):
        if number:
            offset += (row[number - 1].width + place.width) / 2 + _GAP
        offsets.append(offset)
        blocks.append((wanted[number] - offset, 1, 0.0))
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            total, count, _ = blocks.pop()
            blocks[-1] = (blocks[-1][0] + total, blocks[-1][1] + count, 0.0)
    for total, count, _ in blocks:
        starts += [total / count] * count
    for place, start, shift in zip(row, starts, offsets, strict=True):
        place.x = start + shift


def _svg(
    rows: Sequence[Sequence[_Place]],
    lines: Sequence[Sequence[_Place]],
    title: str,
    description: str,
    size: tuple[float, float],
) -> Iterator[str]:
    width, height = round(size[0]), round(size[1]) + 34
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img" aria-labelledby="title description" font-family="DejaVu Sans, Verdana, sans-serif" font-size="12">'
    )
    yield f'<title id="title">{escape(title)}</title>'
    yield f'<desc id="description">{escape(description)}</desc>'
    yield f'<rect width="{width}" height="{height}" fill="#ffffff"/>'
    yield '<g fill="none" stroke="#777777" stroke-width="1.5">'
    yield from (f'<path d="{_path(line)}"/>' for line in lines)
    yield "</g>"
    states: set[State] = set()
    for place in (place for row in rows for place in row):
        if place.box is not None:
            states.add(place.box.state)
            yield from _drawn(place, place.box)
    yield from _legend(height - 18, {*_USUAL, *states})
    yield "</svg>"


def _path(line: Sequence[_Place]) -> str:
    """A smooth line from the lower edge of the first to the upper edge of the last, upright through the lanes."""
    first = line[0]
    x, y = first.x, first.y + first.height
    parts = [f"M{_n(x)} {_n(y)}"]
    for place in line[1:]:
        middle = (y + place.y) / 2
        parts.append(f"C{_n(x)} {_n(middle)} {_n(place.x)} {_n(middle)} {_n(place.x)} {_n(place.y)}")
        x, y = place.x, place.y + place.height
    return "".join(parts)


def _n(value: float) -> str:
    """A coordinate of at most one decimal, never ``-0``."""
    text = f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text


def _drawn(place: _Place, box: Box) -> Iterator[str]:
    fill, stroke, dashes = _LOOKS[box.state]
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    left, x = _n(place.x - place.width / 2), _n(place.x)
    yield f'<g text-anchor="middle" fill="#111111"><title>{escape("; ".join((box.name, *_told(box))))}</title>'
    yield (
        f'<rect x="{left}" y="{_n(place.y)}" width="{_n(place.width)}" height="{_n(place.height)}" rx="6" '
        f'fill="{fill}" stroke="{stroke}" stroke-width="1.5"{dashed}/>'
    )
    y = place.y + _LINE + 4
    yield f'<text x="{x}" y="{_n(y)}" font-size="13" font-weight="bold">{escape(_short(box.name))}</text>'
    for number, text in enumerate(_told(box), 1):
        yield f'<text x="{x}" y="{_n(y + number * _LINE)}">{escape(text)}</text>'
    yield "</g>"


def _told(box: Box) -> tuple[str, ...]:
    return (box.kind, *box.lines)


def _short(name: str) -> str:
    return name if len(name) <= 40 else f"{name[:39]}…"


def _legend(y: float, states: Collection[State]) -> Iterator[str]:
    x = _MARGIN
    for state, words in _LEGEND.items():
        if state not in states:
            continue
        fill, stroke, dashes = _LOOKS[state]
        dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
        yield (
            f'<rect x="{x}" y="{_n(y - 10)}" width="16" height="12" rx="3" fill="{fill}" stroke="{stroke}"{dashed}/>'
            f'<text x="{x + 22}" y="{_n(y)}" fill="#111111">{words}</text>'
        )
        x += 40 + round(len(words) * _LETTER)
