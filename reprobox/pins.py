"""Which pins of the old lock a layer is offered when it is locked again, and which are let go. Pure.

A layer that was renamed, split, or whose packages moved to another layer keeps its versions: a pin belongs to a
package, not to the name of a layer.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches

from reprobox.digest import Json
from reprobox.errors import UsageError
from reprobox.lock import Input, Lock, LockedLayer, LockedTarget


@dataclass(frozen=True, kw_only=True, slots=True)
class Upgrade:
    """What may move: ``everything``, or the packages that are named, as (layer or ``""`` for any, package)."""

    everything: bool = False
    packages: frozenset[tuple[str, str]] = frozenset()

    def frees(self, layer: str, item: Input) -> bool:
        """Whether the pin ``item`` of ``layer`` is let go."""
        name = normalised(item.facts.get("package", ""))
        return not self.packages.isdisjoint((("", name), (layer, name)))

    def touches(self, layer: LockedLayer) -> bool:
        """Whether ``layer`` must be asked anew, since a pin of it is let go."""
        return self.everything or (bool(self.packages) and any(self.frees(layer.name, item) for item in layer.inputs))


KEEP = Upgrade()
"""Nothing moves that need not."""


def normalised(package: str) -> str:
    """One spelling for each package: PEP 503 for Python's; Debian's names have no other."""
    return re.sub(r"[-_.]+", "-", package).lower() if "_" in package or not package.islower() else package


def upgrade_of(words: Iterable[str], lock: Lock | None) -> Upgrade:
    """What ``--upgrade-package`` names: ``NAME`` in any layer, or ``LAYER:NAME``.

    Raises :class:`UsageError` with near names for a package that the lock does not have.
    """
    layers = _packages(lock)
    everywhere = {name for names in layers.values() for name in names}
    chosen = set()
    for word in words:
        layer, colon, name = word.partition(":")
        if colon and layer in layers:
            chosen.add((layer, _known(name, layers[layer], f"layer {layer!r} of the lock", word)))
        else:
            chosen.add(("", _known(layer, everywhere, "the lock", word)))
    return Upgrade(packages=frozenset(chosen))


def _packages(lock: Lock | None) -> dict[str, set[str]]:
    """Package names by layer, of all targets."""
    found: dict[str, set[str]] = {}
    for layer in (layer for target in (lock.targets.values() if lock else ()) for layer in target.layers):
        found.setdefault(layer.name, set()).update(map(normalised, _names(layer)))
    return found


def _known(name: str, names: Collection[str], where: str, word: str) -> str:
    for spelling in (name, normalised(name), re.sub(r"[-_.]+", "-", name).lower()):
        if spelling in names:
            return spelling
    near = " or ".join(map(repr, get_close_matches(name.lower(), names, n=3, cutoff=0.65)))
    raise UsageError(
        f"there is no package {name!r} in {where}",
        where=f"--upgrade-package {word}",
        hint=f"did you mean {near}?"
        if near
        else "only what is locked can be upgraded: `reprobox lock` adds what is new",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Pins:
    """The old layers of one target: ``matched`` by the name that each has now, all of them, and what may move."""

    matched: Mapping[str, LockedLayer] = field(default_factory=dict)
    layers: Sequence[LockedLayer] = ()
    upgrade: Upgrade = KEEP

    def offered(self, name: str, kind: str, below: Sequence[LockedLayer]) -> LockedLayer | None:
        """The old layer with what its packages, and those that are new in it, were locked as.

        What the layers ``below`` have now, and what the upgrade frees, is left out.
        """
        own = self.matched.get(name)
        if own is not None and own.kind != kind:
            own = None
        kept = [item for item in own.inputs if not self.upgrade.frees(own.name, item)] if own else []
        taken = {name for layer in (*below, *((own,) if own else ())) for name in _names(layer)}
        for layer in self.layers:
            if layer.kind == kind and layer is not own:
                more = [item for item in layer.inputs if item.facts.get("package", "") not in {"", *taken}]
                kept += [item for item in more if not self.upgrade.frees(layer.name, item)]
                taken.update(_names(layer))
        if own is not None:
            return replace(own, inputs=tuple(kept))
        return LockedLayer(name=name, kind=kind, recipe=0, request="", inputs=tuple(kept)) if kept else None


def _names(layer: LockedLayer) -> Iterable[str]:
    return (item.facts["package"] for item in layer.inputs if "package" in item.facts)


def match(old: Sequence[LockedLayer], asked: Mapping[str, tuple[str, Json]], upgrade: Upgrade = KEEP) -> Pins:
    """Find the old layer of each layer that is ``asked`` for (kind and manifest document by name).

    A name that is new takes the pins of a layer of its kind whose name is gone, the one that has most of what it asks.
    """
    matched = {layer.name: layer for layer in old if layer.name in asked}
    gone = [layer for layer in old if layer.name not in asked]
    for name, (kind, document) in asked.items():
        if name in matched:
            continue
        words = set(_words(document))
        alike = [(len(words & _said(layer)), layer) for layer in gone if layer.kind == kind]
        shared, best = max(alike, key=lambda pair: pair[0], default=(0, None))
        if best is not None and shared:
            matched[name] = best
            gone.remove(best)
    return Pins(matched=matched, layers=old, upgrade=upgrade)


def _words(document: Json) -> Iterable[str]:
    """All that a document says in strings, packages without their versions."""
    if isinstance(document, str):
        yield document
        yield normalised(re.split(r"[\s=<>~!:;@\[(]", document, maxsplit=1)[0])
    elif isinstance(document, Mapping):
        for key, value in document.items():
            yield from () if key in ("name", "kind", "after", "targets") else _words(value)
    elif isinstance(document, Sequence):
        for item in document:
            yield from _words(item)


def _said(layer: LockedLayer) -> set[str]:
    files = layer.facts.get("files")  # what a project's own files asked for
    return (
        {*_names(layer), *(files if isinstance(files, Mapping) else ())}
        | set(_words(layer.options))
        | set(_words(layer.facts))
    )


def old_target(lock: Lock | None, name: str, platform: str, names: Collection[str]) -> LockedTarget | None:
    """The target of the old lock whose pins ``name`` takes: its own, one that was renamed, or any of its platform."""
    if lock is None:
        return None
    own = lock.targets.get(name)
    if own is not None:
        return own if own.platform == platform else None
    alike = [target for target in lock.targets.values() if target.platform == platform]
    return min(alike, key=lambda target: target.name in names, default=None)
