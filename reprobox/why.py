"""Why a layer must be built: what its identity differs in from what was built before. Pure.

A built layer's record keeps what its id was made of (:meth:`reprobox.digest.LayerInputs.document`) beside the id, so
that two ids can be compared field by field.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from reprobox.lock import LockedLayer, LockedTarget, ancestors

_HASH = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Built:
    """A built layer as its record has it. ``document`` is what its id was made of; ``when`` is unix seconds."""

    id: str
    name: str
    kind: str
    document: Mapping[str, Any]
    when: float = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One thing that differs: ``what`` it is (``package numpy``, ``option script``), as it was and as it is.

    ``lines`` are those of a longer text that differ, marked ``-`` and ``+``; ``note`` is what else there is to say.
    """

    what: str
    old: str = ""
    new: str = ""
    lines: tuple[str, ...] = ()
    note: str = ""

    def __str__(self) -> str:
        if self.note:
            return f"{self.what} {self.note}"
        if self.lines:
            return "\n".join((f"{self.what} changed:", *(f"  {line}" for line in self.lines)))
        if self.old and self.new:
            return f"{self.what} {self.old} → {self.new}"
        return f"{self.what} {self.new}, which is new" if self.new else f"{self.what} {self.old}, which is gone"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cause:
    """The changes of one layer, the one that is asked about or one that it stands on."""

    layer: str
    changes: tuple[Change, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reason:
    """Why a layer is built, or not: ``stored`` if it is in the store, ``never`` if none of its name was built here.

    Where it is ``changed``, ``nearest`` is the id of what was built, and ``causes`` has the first cause first.
    """

    state: Literal["stored", "never", "changed"]
    nearest: str = ""
    causes: tuple[Cause, ...] = field(default=())


def why(target: LockedTarget, epoch: int, name: str, built: Sequence[Built]) -> Reason:
    """Compare layer ``name`` of ``target`` with the nearest of ``built`` that has its name and kind."""
    layer = next(item for item in target.layers if item.name == name)
    if any(item.id == layer.id for item in built):
        return Reason(state="stored", nearest=layer.id)
    now = _document(target, epoch, layer)
    nearest = _nearest(layer, now, built)
    if nearest is None:
        return Reason(state="never")
    causes = (*_below(target, epoch, layer, nearest, built), *_own(name, nearest.document, now))
    return Reason(state="changed", nearest=nearest.id, causes=tuple(_epoch_once(causes)))


def _epoch_once(causes: Iterable[Cause]) -> Iterator[Cause]:
    """Every layer has the epoch; that it moved is said of the first."""
    said = False
    for cause in causes:
        changes = tuple(change for change in cause.changes if change.what != "epoch" or not said)
        said = said or any(change.what == "epoch" for change in changes)
        if changes:
            yield Cause(layer=cause.layer, changes=changes)


def _document(target: LockedTarget, epoch: int, layer: LockedLayer) -> Mapping[str, Any]:
    return layer.identity(epoch, [item.id for item in ancestors(target.layers, layer.name)]).document()


def _nearest(layer: LockedLayer, now: Mapping[str, Any], built: Iterable[Built]) -> Built | None:
    """The built layer of that name that differs in least; of several, the one built last."""
    alike = [item for item in built if (item.name, item.kind) == (layer.name, layer.kind) and item.document]
    return min(alike, key=lambda item: (_distance(item.document, now), -item.when), default=None)


def _distance(one: Mapping[str, Any], other: Mapping[str, Any]) -> int:
    files = {tuple(item) for item in one["files"]} ^ {tuple(item) for item in other["files"]}
    below = set(one["ancestors"]) ^ set(other["ancestors"])
    others = (one.keys() | other.keys()) - {"files", "ancestors"}
    return len(files) + len(below) + len([key for key in others if one.get(key) != other.get(key)])


# -- what is below -----------------------------------------------------------------------------------------------------


def _below(
    target: LockedTarget, epoch: int, layer: LockedLayer, nearest: Built, built: Sequence[Built]
) -> Iterator[Cause]:
    """Changes of the layers below, lowest first: what changed only because of what is below it says nothing new."""
    by_id = {item.id: item for item in built}
    before: list[str] = list(nearest.document["ancestors"])
    known = {by_id[digest].name: by_id[digest] for digest in before if digest in by_id}
    forgotten = any(digest not in by_id for digest in before)
    now = ancestors(target.layers, layer.name)
    for lower in now:
        if lower.id in before:
            continue
        document = _document(target, epoch, lower)
        old = known.get(lower.name) or (_nearest(lower, document, built) if forgotten else None)
        if old is None:
            note = "was another, which is not in the store any more" if forgotten else f"is new below {layer.name}"
            yield Cause(layer=lower.name, changes=(Change(what="the layer", note=note),))
        elif old.kind != lower.kind:
            yield Cause(layer=lower.name, changes=(Change(what="kind", old=old.kind, new=lower.kind),))
        else:
            yield from _own(lower.name, old.document, document)
    names = {lower.name for lower in now}
    for name in (name for name in known if name not in names):
        yield Cause(layer=name, changes=(Change(what="the layer", note=f"is no longer below {layer.name}"),))


# -- what is its own ---------------------------------------------------------------------------------------------------


def _own(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Cause]:
    changes = tuple(_changes(old, new))
    if changes:
        yield Cause(layer=name, changes=changes)


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    yield from _file_changes(old["files"], new["files"])
    for key in ("options", "environment"):
        words = {"options": "option", "environment": "variable"}[key]
        for name in sorted(old[key].keys() | new[key].keys()):
            one, other = old[key].get(name), new[key].get(name)
            if one != other:
                yield _value_change(f"{words} {name}", one, other)
    for key in ("epoch", "recipe", "normaliser", "format"):
        if old.get(key) != new.get(key):
            yield Change(what=key, old=str(old.get(key)), new=str(new.get(key)))


def _file_changes(old: Iterable[Sequence[str]], new: Iterable[Sequence[str]]) -> Iterator[Change]:
    before, after = _files(old), _files(new)
    for what in sorted(before.keys() | after.keys()):
        one, other = before.get(what), after.get(what)
        if one != other:
            same = one and other and one[0] == other[0]  # of one version, or of none that is known
            sides = (_file(item, hashed=bool(same)) if item else "" for item in (one, other))
            yield Change(what=what, old=next(sides), new=next(sides))


def _file(item: tuple[str, str], *, hashed: bool) -> str:
    version, digest = item
    return f"{version} sha256:{digest[:_HASH]}".strip() if hashed or not version else version


def _files(files: Iterable[Sequence[str]]) -> dict[str, tuple[str, str]]:
    """Version and hash by what a file is; a package's version stands in its file's name."""
    found: dict[str, tuple[str, str]] = {}
    for _, name, digest in files:
        what, version = _named(name)
        found[f"{what} ({name})" if what in found else what] = (version, digest)
    return found


def _named(name: str) -> tuple[str, str]:
    """``package numpy`` and its version, or ``file NAME``. deb(5), and the binary distribution format of PyPA."""
    if match := re.fullmatch(r"([^_]+)_([^_]+)_[^_]+\.deb", name):
        return f"package {match[1]}", match[2]
    if match := re.fullmatch(r"([^-]+)-([^-]+)-.*\.whl", name):
        return f"package {match[1].replace('_', '-').lower()}", match[2]
    return f"file {name}", ""


def _value_change(what: str, old: Any, new: Any) -> Change:
    if isinstance(old, str) and isinstance(new, str) and "\n" not in old.strip() + new.strip() and len(old + new) < 60:
        return Change(what=what, old=old.strip() or '""', new=new.strip() or '""')
    if isinstance(old, bool | int) and isinstance(new, bool | int):
        return Change(what=what, old=str(old).lower(), new=str(new).lower())
    lines = list(difflib.unified_diff(_lines(old), _lines(new), n=0, lineterm=""))[2:]
    return Change(what=what, lines=tuple(f"{line[0]} {line[1:]}" for line in lines if line[0] in "+-"))


def _lines(value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, str):
        return value.splitlines()
    if isinstance(value, list | tuple):
        return [line for item in value for line in _lines(item)]
    if isinstance(value, Mapping):
        return [f"{key}: {line}" for key in sorted(value) for line in _lines(value[key])]
    return [str(value).lower()]
