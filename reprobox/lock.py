"""What a lock says: layers, inputs, targets and seals as frozen values, the ids that follow from them, and what changed
since it was made.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from operator import attrgetter

from reprobox.digest import Ancestry, Json, LayerInputs, canonical, sha256
from reprobox.manifest import IN_IMAGE, PUBLISHED_KEYS

FORMAT = 1
FILE_NAME = "research.lock"
BASE = "base"

_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
OWN_KEYS = frozenset(("name", "type", "size", "sha256"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Input:
    """A locked file: its identity, and host-free facts by which providers find it.

    ``type`` says which providers know it (``deb``, ``wheel``, ``uv``, ``blob``); ``name`` is the file name a build step
    sees;
    ``sha256`` is lower-case hex; ``size`` is in bytes.
    """

    type: str
    name: str
    sha256: str
    size: int
    facts: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _DIGEST.match(self.sha256):
            raise ValueError(f"not a sha256: {self.sha256!r}")
        if "/" in self.name or self.name in ("", ".", "..") or "\0" in self.name:
            raise ValueError(f"not a file name: {self.name!r}")
        if self.size < 0:
            raise ValueError(f"not a size: {self.size}")
        if taken := OWN_KEYS & self.facts.keys():
            raise ValueError(f"facts of {self.name!r} have the name of a field: {', '.join(sorted(taken))}")


@dataclass(frozen=True, kw_only=True, slots=True)
class LockedLayer:
    """One layer as locked. ``options`` are hashed into the id; ``facts`` are only told; ``parents`` are names.

    ``request`` is the digest of what the manifest asked for when it was resolved: equal means the pins still satisfy
    it. ``placement`` is ``image``, or ``project`` for a layer that is put into the project's folder instead.
    """

    name: str
    kind: str
    recipe: int
    request: str
    parents: tuple[str, ...] = ()
    inputs: tuple[Input, ...] = ()
    options: Mapping[str, Json] = field(default_factory=dict)
    facts: Mapping[str, Json] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    placement: str = IN_IMAGE
    id: str = ""

    def identity(self, epoch: int, ancestors: Sequence[str]) -> LayerInputs:
        """What the layer id is made of."""
        return LayerInputs(
            kind=self.kind,
            recipe=self.recipe,
            files=tuple((item.type, item.name, item.sha256) for item in self.inputs),
            options=self.options,
            environment=self.environment,
            epoch=epoch,
            ancestors=tuple(ancestors),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Seal:
    """What a build gave: diff ids by layer name (``sha256:`` hex), image digest and tree digest."""

    image_digest: str
    tree_digest: str
    layers: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class LockedTarget:
    """One target: its platform, all its layers in stacking order (the base first), and the seal if there is one.

    Layers that are no part of the image come last: nothing stands on them. ``request`` is the short digest of the
    manifest narrowed to this target, where the manifest has several: each may be locked, and be stale, by itself.
    """

    name: str
    platform: str
    layers: tuple[LockedLayer, ...]
    seal: Seal | None = None
    request: str = ""

    @property
    def base(self) -> LockedLayer:
        return self.layers[0]

    def unpinned(self) -> tuple[str, ...]:
        """Names of layers that only a seal can pin, since their steps use the network, while they have none."""
        sealed = self.seal.layers if self.seal else {}
        return tuple(layer.name for layer in self.layers if layer.facts.get("unpinned") and layer.name not in sealed)

    @property
    def image_layers(self) -> tuple[LockedLayer, ...]:
        """The layers that the image is made of."""
        return tuple(layer for layer in self.layers if layer.placement == IN_IMAGE)


@dataclass(frozen=True, kw_only=True, slots=True)
class LockedMount:
    """The content of a data folder: its tree hash (sha256 hex, see ``reprobox.data``), how many files, their bytes."""

    tree: str
    files: int
    size: int

    def __post_init__(self) -> None:
        if not _DIGEST.match(self.tree):
            raise ValueError(f"not a sha256: {self.tree!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Lock:
    """Everything that an environment needs, by hash.

    ``manifest`` is the digest of the canonical manifest, ``keys`` a short digest for each of its keys; ``code`` the git
    tree hash of the code; ``checkout`` the code as a layer of kind ``git``, where it comes from a repository;
    ``mounts`` the content of data folders, by mount point, where it is asked for; ``downloads`` the files of
    mounts that can be downloaded, as layers of kind ``fetch``, by mount point; ``epoch`` the one clock of all built
    layers, in unix seconds.
    """

    epoch: int
    manifest: str
    keys: Mapping[str, str]
    targets: Mapping[str, LockedTarget]
    code: str = ""
    checkout: LockedLayer | None = None
    mounts: Mapping[str, LockedMount] = field(default_factory=dict)
    downloads: Mapping[str, LockedLayer] = field(default_factory=dict)
    version: int = FORMAT


def with_ids(layers: Sequence[LockedLayer], epoch: int) -> tuple[LockedLayer, ...]:
    """The same layers, in stacking order, each with its id; ancestors follow from ``parents``."""
    ids: list[str] = []
    place: dict[str, int] = {}
    below: list[Ancestry] = []
    above: dict[int, Ancestry] = {}  # of what stands on this layer alone
    for number, layer in enumerate(layers):
        parents = [place[name] for name in layer.parents]
        if len(parents) == 1:
            (parent,) = parents
            if parent not in above:
                above[parent] = below[parent].then(ids[parent])
            below.append(above[parent])
        else:
            below.append(Ancestry(ids[at] for at in _places(layers, place, parents)))
        place[layer.name] = number
        ids.append(below[number].layer_id(layer.identity(epoch, ())))
    return tuple(
        layer if layer.id == identity else LockedLayer(id=identity, **dict(zip(_BUT_ID, _but_id(layer), strict=True)))
        for layer, identity in zip(layers, ids, strict=True)
    )


_BUT_ID = tuple(item.name for item in fields(LockedLayer) if item.name != "id")
_but_id = attrgetter(*_BUT_ID)


def _places(layers: Sequence[LockedLayer], place: Mapping[str, int], parents: Sequence[int]) -> list[int]:
    """Positions of all ancestors, in stacking order."""
    found = set(parents)
    queue = list(parents)
    while queue:
        more = {place[name] for name in layers[queue.pop()].parents} - found
        found |= more
        queue.extend(more)
    return sorted(found)


def root_lock(base: LockedLayer, platform: str, epoch: int) -> Lock:
    """A lock of nothing but a base: a root in which tools can run."""
    target = LockedTarget(name=BASE, platform=platform, layers=with_ids((base,), epoch))
    return Lock(epoch=epoch, manifest="", keys={}, targets={BASE: target})


def ancestors(layers: Sequence[LockedLayer], name: str) -> tuple[LockedLayer, ...]:
    """All layers below ``name``, in stacking order."""
    by_name = {layer.name: layer for layer in layers}
    wanted: set[str] = set()
    queue = list(by_name[name].parents)
    while queue:
        parent = queue.pop()
        if parent not in wanted:
            wanted.add(parent)
            queue.extend(by_name[parent].parents)
    return tuple(layer for layer in layers if layer.name in wanted)


def request_digest(document: Json) -> str:
    """Short digest of what a manifest asks of one layer; see :class:`LockedLayer`."""
    return sha256(canonical(document))[:16]


def changed_keys(lock: Lock, keys: Mapping[str, str]) -> tuple[str, ...]:
    """Manifest keys that differ from those the lock was made of: ``env.LANG (changed)``, ``layers.gym (new)``."""
    changes = []
    for key in sorted((keys.keys() | lock.keys.keys()) - PUBLISHED_KEYS):  # which older locks have
        if key not in lock.keys:
            changes.append(f"{key} (new)")
        elif key not in keys:
            changes.append(f"{key} (removed)")
        elif keys[key] != lock.keys[key]:
            changes.append(f"{key} (changed)")
    return tuple(changes)
