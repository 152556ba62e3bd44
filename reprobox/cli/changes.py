"""What moved between two locks, for people, for pull requests and for programs."""

from __future__ import annotations

import difflib
import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from reprobox.cli.report import human
from reprobox.digest import Json
from reprobox.lock import LockedMount
from reprobox.lock_diff import LayerDiff, LockDiff, Package, PackageMove, Setting, TargetDiff

_MARKS = {"added": "+", "removed": "-", "up": "↑", "down": "↓", "changed": "~", "rebuilt": "~", "below": "~"}
_COLOURS = {"added": "32", "up": "32", "removed": "31", "down": "33", "changed": "33", "rebuilt": "33", "title": "1"}
_WORDS = {"added": "added", "removed": "removed", "up": "moved up", "down": "moved down", "changed": "changed"}
_WORDS["rebuilt"] = "same version, other file"
_WIDE = 60  # letters of two values that are read beside each other
_MOST = 40  # lines that `lock` says of itself


def counted(diff: LockDiff) -> str:
    """``1 added, 2 moved up``, and what became of the size of all inputs."""
    counts = diff.counts()
    said = [f"{counts[move]} {word}" for move, word in _WORDS.items() if counts.get(move)]
    parts = [", ".join(said) or "no package moved"]
    if diff.sizes[0] != diff.sizes[1]:
        parts.append(f"inputs {human(diff.sizes[0])} → {human(diff.sizes[1])}")
    return "; ".join(parts)


def brief(diff: LockDiff) -> list[str]:
    """One line for each package, and each data folder, that moved, as ``lock`` tells it."""
    verbs = {"added": "Added", "removed": "Removed", "up": "Updated", "down": "Downgraded"}
    lines = []
    for layer, move in diff.moves():
        versions = [side.version for side in (move.old, move.new) if side is not None]
        version = " → ".join(dict.fromkeys(versions)) + (", another file" if move.move == "rebuilt" else "")
        lines.append(f"{verbs.get(move.move, 'Changed')} {move.package.name} {version} ({layer.name})")
    order = ("Removed", "Updated", "Downgraded", "Changed", "Added")
    lines.sort(key=lambda line: order.index(line.partition(" ")[0]))
    if len(lines) > _MOST:
        lines[_MOST:] = [f"… and {len(lines) - _MOST} more: `reprobox diff` shows all"]
    return lines + _data_lines(diff)


# -- text --------------------------------------------------------------------------------------------------------------


def text(diff: LockDiff, *, colour: bool) -> str:
    """Aligned lines; with ``colour``, in those of the terminal (ECMA-48)."""
    lines = []
    for names, target in _grouped(diff.targets):
        if names != ["default"] or target.state != "changed":
            lines.append(_title(names, target))
        lines += [f"  {line}" if names != ["default"] else line for line in _target_lines(target, colour=colour)]
    if diff.checkout:
        lines += _layer_lines(diff.checkout, colour=colour)
    lines += _whole(diff)
    return "\n".join((*lines, counted(diff))) if diff else "nothing moved"


def _grouped(targets: Iterable[TargetDiff]) -> Iterator[tuple[list[str], TargetDiff]]:
    """Targets in which the same happened, together."""
    groups: dict[str, tuple[list[str], TargetDiff]] = {}
    for target in targets:
        key = repr((target.state, target.platforms, target.layers, target.trees))
        groups.setdefault(key, ([], target))[0].append(target.name)
    yield from groups.values()


def _title(names: Sequence[str], target: TargetDiff) -> str:
    platform = " → ".join(name for name in dict.fromkeys(target.platforms) if name)
    state = "" if target.state == "changed" else f", {target.state}"
    return f"target{'s' if len(names) > 1 else ''} {', '.join(names)} ({platform}){state}"


def _whole(diff: LockDiff) -> list[str]:
    lines = []
    if diff.epochs[0] != diff.epochs[1]:
        lines.append(f"epoch: {_change(*map(_date, diff.epochs))}")
    if diff.codes[0] != diff.codes[1]:
        lines.append(f"code: {_change(*(code[:12] for code in diff.codes))}")
    lines += _data_lines(diff)
    if diff.keys:
        lines.append(f"manifest: {', '.join(diff.keys)}")
    return lines


def _data_lines(diff: LockDiff) -> list[str]:
    return [f"data {path}: {_change(*map(_data, sides))}" for path, sides in diff.mounts.items()]


def _data(mount: LockedMount | None) -> str:
    return f"{mount.tree[:12]} ({mount.files} files, {human(mount.size)})" if mount else ""


def _date(epoch: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch)) if epoch else ""


def _change(old: str, new: str) -> str:
    return f"{old or 'none'} → {new or 'none'}"


def _target_lines(target: TargetDiff, *, colour: bool) -> Iterator[str]:
    for layer in target.layers:
        if layer.state == "below":
            continue
        yield from _layer_lines(layer, colour=colour)
    if below := [layer.name for layer in target.layers if layer.state == "below"]:
        yield f"built anew only because of what is below, or of the epoch: {', '.join(below)}"
    if target.trees[0] != target.trees[1]:
        yield f"sealed tree: {_change(*(tree.removeprefix('sha256:')[:12] for tree in target.trees))}"


def _layer_lines(layer: LayerDiff, *, colour: bool) -> Iterator[str]:
    yield _painted(_heading(layer), "title", colour=colour)
    yield from (f"  {line}" for line in _package_lines(layer.packages, colour=colour))
    for setting in layer.settings:
        yield from (f"  {_painted(line, _line_move(line), colour=colour)}" for line in _setting_lines(setting))


def _heading(layer: LayerDiff) -> str:
    renamed = f", was {layer.was}" if layer.was else ""
    if layer.state in ("added", "removed"):
        size = f", {human(max(layer.sizes))}" if any(layer.sizes) else ""
        return f"{layer.name} ({layer.kind}){renamed}: {layer.state}{size}"
    return f"{layer.name} ({layer.kind}){renamed}"


def _package_lines(moves: Sequence[PackageMove], *, colour: bool) -> Iterator[str]:
    rows = [_cells(move) for move in moves]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(2)]
    for move, (name, version, size) in zip(moves, rows, strict=True):
        line = f"{_MARKS[move.move]} {name:{widths[0]}}  {version:{widths[1]}}  {size}"
        yield _painted(line.rstrip(), move.move, colour=colour)


def _cells(move: PackageMove) -> tuple[str, str, str]:
    versions = [side.version for side in (move.old, move.new) if side is not None]
    note = " (another file)" if move.move == "rebuilt" else ""
    return move.package.name, " → ".join(dict.fromkeys(versions)) + note, _growth(move.growth)


def _growth(size: int) -> str:
    return f"{'+' if size > 0 else '-'}{human(abs(size))}" if size else ""


def _setting_lines(setting: Setting) -> Iterator[str]:
    key = _key(setting)
    old, new = setting.old, setting.new
    if isinstance(old, str) and isinstance(new, str) and _long(old, new):
        yield f"{key}:"
        yield from (f"  {line}" for line in _line_diff(old, new))
    elif isinstance(old, list) or isinstance(new, list):
        yield f"{key}:"
        yield from (f"  - {_plain(item)}" for item in _items(old))
        yield from (f"  + {_plain(item)}" for item in _items(new))
    else:
        yield f"{key}: {_plain(old)} → {_plain(new)}"


def _long(*texts: str) -> bool:
    return any("\n" in text.strip() for text in texts) or sum(map(len, texts)) > _WIDE


def _key(setting: Setting) -> str:
    return setting.key.removeprefix("options.").removeprefix("facts.").replace("environment.", "env.")


def _items(value: Json) -> Sequence[Json]:
    return value if isinstance(value, list | tuple) else [] if value is None else [value]


def _plain(value: Json) -> str:
    if value is None:
        return "none"
    return value.strip() if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=list)


def _line_diff(old: str, new: str) -> Iterator[str]:
    """Only the lines that differ."""
    for line in list(difflib.unified_diff(old.splitlines(), new.splitlines(), n=0, lineterm=""))[2:]:
        if line[0] in "+-":
            yield f"{line[0]} {line[1:]}"


def _line_move(line: str) -> str:
    return {"+": "added", "-": "removed"}.get(line.strip()[:1], "")


def _painted(line: str, what: str, *, colour: bool) -> str:
    return f"\033[{_COLOURS[what]}m{line}\033[0m" if colour and what in _COLOURS else line


# -- Markdown ----------------------------------------------------------------------------------------------------------


def markdown(diff: LockDiff) -> str:
    """GitHub-flavoured Markdown for a pull request: the sum, then each layer in a section that folds."""
    if not diff:
        return "**research.lock**: nothing moved"
    blocks = [f"**research.lock**: {counted(diff)}"]
    for names, target in _grouped(diff.targets):
        if names != ["default"] or target.state != "changed":
            blocks.append(f"### {_cell(_title(names, target))}")
        blocks += [_section(layer) for layer in target.layers if layer.state != "below"]
        if below := [f"`{layer.name}`" for layer in target.layers if layer.state == "below"]:
            blocks.append(f"Built anew only because of what is below, or of the epoch: {', '.join(below)}")
        if target.trees[0] != target.trees[1]:
            blocks.append(f"Sealed tree: {_change(*(f'`{tree[:19]}`' if tree else '' for tree in target.trees))}")
    blocks += [_section(diff.checkout)] if diff.checkout else []
    blocks += [_cell(line[0].upper() + line[1:]) for line in _whole(diff)]
    return "\n\n".join(blocks)


def _section(layer: LayerDiff) -> str:
    count = len(layer.packages)
    told = f": {count} package{'s' if count != 1 else ''}" if count and layer.state == "changed" else ""
    parts = [f"<details>\n<summary>{_html(_heading(layer))}{told}</summary>"]
    if layer.packages:
        rows = ["| | package | old | new | size |", "| --- | --- | --- | --- | ---: |"]
        parts.append("\n".join((*rows, *map(_row, layer.packages))))
    for setting in layer.settings:
        lines = list(_setting_lines(setting))
        fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", "\n".join(lines))), 3)
        body = "\n".join((f"{fence}diff", *(line.removeprefix("  ") for line in lines), fence))
        parts.append(body)
    return "\n\n".join((*parts, "</details>"))


def _row(move: PackageMove) -> str:
    old, new = (_cell(side.version) if side else "" for side in (move.old, move.new))
    return f"| {_WORDS[move.move]} | {_cell(move.package.name)} | {old} | {new} | {_growth(move.growth)} |"


def _cell(value: str) -> str:
    """Text that Markdown leaves alone; a tilde or an underscore of a version is no emphasis."""
    return re.sub(r"([\\`*_~|<>\[\]])", r"\\\1", value).replace("\n", " ")


def _html(value: str) -> str:
    return value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


# -- JSON --------------------------------------------------------------------------------------------------------------


def document(diff: LockDiff) -> dict[str, Any]:
    """The difference as one JSON object."""
    return {
        "changed": bool(diff),
        "epoch": _sides(*diff.epochs),
        "code": _sides(*diff.codes),
        "mounts": {path: _sides(*(mount and asdict(mount) for mount in sides)) for path, sides in diff.mounts.items()},
        "size": _sides(*diff.sizes),
        "keys": list(diff.keys),
        "checkout": _layer_document(diff.checkout) if diff.checkout else None,
        "counts": dict(sorted(diff.counts().items())),
        "targets": [_target_document(target) for target in diff.targets],
    }


def _sides(old: Any, new: Any) -> dict[str, Any]:
    return {"old": old or None, "new": new or None}


def _target_document(target: TargetDiff) -> dict[str, Any]:
    return {
        "name": target.name,
        "change": target.state,
        "platform": _sides(*target.platforms),
        "tree_digest": _sides(*target.trees),
        "layers": [_layer_document(layer) for layer in target.layers],
    }


def _layer_document(layer: LayerDiff) -> dict[str, Any]:
    return {
        "name": layer.name,
        "kind": layer.kind,
        "change": layer.state,
        "was": layer.was or None,
        "id": _sides(*(f"sha256:{item}" if item else "" for item in layer.ids)),
        "size": _sides(*layer.sizes),
        "packages": [
            {
                "name": move.package.name,
                "type": move.package.type,
                "change": move.move,
                "old": _package_document(move.old),
                "new": _package_document(move.new),
            }
            for move in layer.packages
        ],
        "settings": [{"key": item.key, "old": item.old, "new": item.new} for item in layer.settings],
    }


def _package_document(package: Package | None) -> Mapping[str, Any] | None:
    if package is None:
        return None
    return {"version": package.version, "size": package.size, "sha256": package.sha256}
