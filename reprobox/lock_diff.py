"""What moved between two locks: by target, layer and package. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from reprobox.debian.version import sort_key
from reprobox.digest import Json
from reprobox.lock import Input, Lock, LockedLayer, LockedMount, LockedTarget, changed_keys
from reprobox.pins import match

Move: TypeAlias = Literal["added", "removed", "up", "down", "changed", "rebuilt"]
"""``up`` and ``down`` in the order of the package's own versions; ``rebuilt`` is another file of the same version."""
State: TypeAlias = Literal["added", "removed", "changed", "below"]
"""``below``: the layer is as it was, and has another id because of what it stands on, or of the epoch."""

_SHORT = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """A locked package, or another input: ``version`` is the beginning of its hash where it has none; size in bytes."""

    name: str
    type: str
    version: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PackageMove:
    """One package in both locks; None where it is not."""

    old: Package | None
    new: Package | None

    @property
    def package(self) -> Package:
        found = self.new or self.old
        assert found is not None
        return found

    @property
    def move(self) -> Move:
        if self.old is None:
            return "added"
        if self.new is None:
            return "removed"
        if self.old.version == self.new.version:
            return "rebuilt"
        return _direction(self.new.type, self.old.version, self.new.version)

    @property
    def growth(self) -> int:
        """Bytes more."""
        return (self.new.size if self.new else 0) - (self.old.size if self.old else 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What else decides a layer's bytes, or is told of it: ``options.script``; None where it is not said."""

    key: str
    old: Json
    new: Json


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerDiff:
    """One layer in both locks. ``was`` is its old name where it has another; ``ids`` are old and new."""

    name: str
    kind: str
    state: State
    was: str = ""
    ids: tuple[str, str] = ("", "")
    sizes: tuple[int, int] = (0, 0)
    packages: tuple[PackageMove, ...] = ()
    settings: tuple[Setting, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetDiff:
    """The layers of one target that are not what they were. ``trees`` are the sealed tree digests, old and new."""

    name: str
    state: State
    platforms: tuple[str, str]
    layers: tuple[LayerDiff, ...]
    trees: tuple[str, str] = ("", "")


@dataclass(frozen=True, kw_only=True, slots=True)
class LockDiff:
    """All that moved. ``epochs`` (unix seconds), ``codes`` (tree hashes) and ``sizes`` (of all inputs, bytes) are old
    and new; ``mounts`` are those whose content moved; ``keys`` are those of the manifest."""

    epochs: tuple[int, int]
    codes: tuple[str, str]
    mounts: Mapping[str, tuple[LockedMount | None, LockedMount | None]]
    keys: tuple[str, ...]
    targets: tuple[TargetDiff, ...]
    sizes: tuple[int, int]
    checkout: LayerDiff | None = None

    def __bool__(self) -> bool:
        """Whether anything moved."""
        moved = self.epochs[0] != self.epochs[1] or self.codes[0] != self.codes[1]
        return bool(self.targets or self.checkout or self.keys or self.mounts) or moved

    def moves(self) -> tuple[tuple[LayerDiff, PackageMove], ...]:
        """Every package that moved with its layer; one that did in several targets counts once."""
        seen: dict[tuple[str, str, PackageMove], tuple[LayerDiff, PackageMove]] = {}
        layers = [layer for target in self.targets for layer in target.layers]
        for layer in (*layers, *((self.checkout,) if self.checkout else ())):
            for package in layer.packages:
                seen.setdefault((layer.name, layer.kind, package), (layer, package))
        return tuple(seen.values())

    def counts(self) -> Mapping[str, int]:
        """How many packages moved, by how."""
        return Counter(package.move for _, package in self.moves())


def diff(old: Lock | None, new: Lock | None) -> LockDiff:
    """What moved from ``old`` to ``new``; None is a lock that is not there."""
    before = old.targets if old else {}
    after = new.targets if new else {}
    targets = (_target(before.get(name), after.get(name)) for name in (*after, *_gone(before, after)))
    return LockDiff(
        epochs=(old.epoch if old else 0, new.epoch if new else 0),
        codes=(old.code if old else "", new.code if new else ""),
        mounts=_mounts(old.mounts if old else {}, new.mounts if new else {}),
        keys=changed_keys(old, new.keys) if old is not None and new is not None else (),
        targets=tuple(target for target in targets if target is not None),
        sizes=(_total(old), _total(new)),
        checkout=_checkout(old.checkout if old else None, new.checkout if new else None),
    )


def _mounts(
    old: Mapping[str, LockedMount], new: Mapping[str, LockedMount]
) -> Mapping[str, tuple[LockedMount | None, LockedMount | None]]:
    sides = {path: (old.get(path), new.get(path)) for path in sorted(old.keys() | new.keys())}
    return {path: (before, after) for path, (before, after) in sides.items() if before != after}


def _gone(before: Mapping[str, object], after: Mapping[str, object]) -> list[str]:
    return [name for name in before if name not in after]


def _total(lock: Lock | None) -> int:
    if lock is None:
        return 0
    layers = [layer for target in lock.targets.values() for layer in target.layers]
    layers += [lock.checkout] if lock.checkout else []
    return sum({item.sha256: item.size for layer in layers for item in layer.inputs}.values())


def _checkout(old: LockedLayer | None, new: LockedLayer | None) -> LayerDiff | None:
    same = (old and (old.id, _told(old))) == (new and (new.id, _told(new)))
    return None if same else _layer(old, new)


def _target(old: LockedTarget | None, new: LockedTarget | None) -> TargetDiff | None:
    found = new or old
    assert found is not None
    trees = tuple(side.seal.tree_digest if side and side.seal else "" for side in (old, new))
    diff = TargetDiff(
        name=found.name,
        state="changed" if old and new else "added" if new else "removed",
        platforms=(old.platform if old else "", new.platform if new else ""),
        layers=tuple(_layers(old.layers if old else (), new.layers if new else ())),
        trees=(trees[0], trees[1]),
    )
    same = diff.state == "changed" and not diff.layers and len({*diff.platforms}) == len({*diff.trees}) == 1
    return None if same else diff


# -- layers ------------------------------------------------------------------------------------------------------------


def _layers(old: Sequence[LockedLayer], new: Sequence[LockedLayer]) -> Iterator[LayerDiff]:
    """In stacking order; what is gone comes last."""
    pairs = _matched(old, new)
    for layer in new:
        before = pairs.get(layer.name)
        if before is None or (before.id, before.name, _told(before)) != (layer.id, layer.name, _told(layer)):
            yield _layer(before, layer)
    known = {layer.name for layer in pairs.values()}
    yield from (_layer(layer, None) for layer in old if layer.name not in known)


def _matched(old: Sequence[LockedLayer], new: Sequence[LockedLayer]) -> dict[str, LockedLayer]:
    """The old layer of each new one: by name, or the one of its kind whose name is gone that has most of the same."""
    asked: dict[str, tuple[str, Json]] = {
        layer.name: (layer.kind, [*(item.facts.get("package", item.sha256) for item in layer.inputs), layer.options])
        for layer in new
    }
    found = dict(match(old, asked).matched)
    kinds = {layer.name: layer.kind for layer in new}
    return {name: layer for name, layer in found.items() if layer.kind == kinds[name] or name == "base"}


def _layer(old: LockedLayer | None, new: LockedLayer | None) -> LayerDiff:
    found = new or old
    assert found is not None
    diff = LayerDiff(
        name=found.name,
        kind=found.kind,
        state="changed" if old and new else "added" if new else "removed",
        was=old.name if old and new and old.name != new.name else "",
        ids=(old.id if old else "", new.id if new else ""),
        sizes=(_size(old), _size(new)),
        packages=tuple(_packages(old, new)),
        settings=tuple(_settings(old, new)) if old and new else (),
    )
    alone = diff.state == "changed" and not (diff.packages or diff.settings or diff.was)
    return replace(diff, state="below") if alone else diff


def _size(layer: LockedLayer | None) -> int:
    return sum(item.size for item in layer.inputs) if layer else 0


# -- packages ----------------------------------------------------------------------------------------------------------


def _packages(old: LockedLayer | None, new: LockedLayer | None) -> Iterator[PackageMove]:
    before, after = _by_name(old), _by_name(new)
    for key in sorted(before.keys() | after.keys()):
        one, other = before.get(key), after.get(key)
        if one is None or other is None or one.sha256 != other.sha256:
            yield PackageMove(old=one, new=other)


def _by_name(layer: LockedLayer | None) -> dict[tuple[str, str], Package]:
    """Packages by type and name; the blobs of an image are one thing, since they move together."""
    if layer is None:
        return {}
    blobs = [item for item in layer.inputs if item.type == "blob"]
    counts = Counter((item.type, item.facts.get("package", "")) for item in layer.inputs)
    found: dict[tuple[str, str], Package] = {}
    for item in layer.inputs:
        if item.type != "blob":
            package = _package(item, several=counts[item.type, item.facts.get("package", "")] > 1)
            found[package.type, package.name] = package
    if blobs:
        head = next((item for item in blobs if item.name == "manifest.json"), blobs[0])
        size = sum(item.size for item in blobs)
        image = Package(name="image", type="blob", version=head.sha256[:_SHORT], size=size, sha256=head.sha256)
        found["blob", "image"] = image
    return found


def _package(item: Input, *, several: bool) -> Package:
    name = item.facts.get("package") or (item.type if item.type == "uv" else item.name)
    if several and "package" in item.facts:  # one package for two architectures
        name = f"{name}:{item.facts.get('architecture', item.name)}"
    version = item.facts.get("version") or item.facts.get("commit", item.sha256)[:_SHORT]
    return Package(name=name, type=item.type, version=version, size=item.size, sha256=item.sha256)


def _direction(kind: str, old: str, new: str) -> Move:
    """Which of two versions is newer, in the order that the package's world has."""
    if kind == "deb":
        one, other = sort_key(old), sort_key(new)
        return "up" if other > one else "down" if other < one else "changed"
    if kind not in ("wheel", "sdist", "uv"):
        return "changed"
    from packaging.version import InvalidVersion, Version

    try:
        return "up" if Version(new) > Version(old) else "down"
    except InvalidVersion:
        return "changed"


# -- settings ----------------------------------------------------------------------------------------------------------


def _told(layer: LockedLayer) -> dict[str, Json]:
    """The facts that people ask about: single values, such as what the name of a base is."""
    return {name: value for name, value in layer.facts.items() if isinstance(value, str)}


def _settings(old: LockedLayer, new: LockedLayer) -> Iterator[Setting]:
    before, after = _said(old), _said(new)
    files = {item.name for layer in (old, new) for item in layer.inputs}
    for key in sorted(before.keys() | after.keys()):
        one, other = before.get(key), after.get(key)
        if one != other:
            one, other = _without_common(one, other, files)
            if one or other:
                yield Setting(key=key, old=one, new=other)


def _said(layer: LockedLayer) -> dict[str, Json]:
    return {
        "kind": layer.kind,
        "recipe": layer.recipe,
        **{f"environment.{name}": value for name, value in layer.environment.items()},
        **{f"options.{name}": value for name, value in layer.options.items()},
        **{f"facts.{name}": value for name, value in _told(layer).items()},
    }


def _without_common(old: Json, new: Json, files: Collection[str]) -> tuple[Json, Json]:
    """Of two lists, what only one of them has; ``files`` are told as packages already."""
    lists = isinstance(old, list | tuple | None) and isinstance(new, list | tuple | None)
    if not lists or (isinstance(old, list | tuple) and isinstance(new, list | tuple) and _alike(old, new)):
        return old, new
    return _only(old, new, files), _only(new, old, files)


def _alike(one: Sequence[Json], other: Sequence[Json]) -> bool:
    """Whether only the order differs."""
    return sorted(map(repr, one)) == sorted(map(repr, other))


def _only(one: Json, other: Json, files: Collection[str]) -> list[Json]:
    assert isinstance(one, list | tuple | None)
    assert isinstance(other, list | tuple | None)
    known = {repr(item) for item in other or ()}
    return [item for item in one or () if repr(item) not in known and not (isinstance(item, str) and item in files)]
