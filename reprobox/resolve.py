"""Manifest to lock: every layer is asked, in stacking order, for the bytes it needs. The only arrow with network."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from reprobox import graph
from reprobox.backend import Bind, ToolRequest, ToolResult
from reprobox.digest import Json
from reprobox.engine import BUILD_ENVIRONMENT, Session, available, build, image_environment
from reprobox.errors import LockError, ManifestError, Problem, ReproboxError, StaleLockError
from reprobox.layers.code import code_hash
from reprobox.layers.git import Git, checkout_layer, resolve_checkout
from reprobox.layers.kind import Resolution, ResolveRequest
from reprobox.lock import (
    Input,
    Lock,
    LockedLayer,
    LockedTarget,
    ancestors,
    changed_keys,
    request_digest,
    with_ids,
)
from reprobox.manifest import Manifest
from reprobox.pins import KEEP, Pins, Upgrade, match, old_target
from reprobox.providers import Found
from reprobox.registry import Registries
from reprobox.store import StoredLayer
from reprobox.tree import Tree, opened

#: More layers than this in one image are refused: Docker stops at 125.
MOST_LAYERS = 120
#: The epoch of an environment whose base knows no date: the first moment that a zip file can say.
NO_DATE = 315_532_800


@dataclass(kw_only=True)
class _World:
    """What kinds may do while they resolve: see :class:`reprobox.layers.kind.World`."""

    session: Session
    platform: str
    base: LockedLayer | None = None
    epoch: int = NO_DATE
    _tree: Tree | None = None

    @property
    def store(self) -> object:
        return self.session.store

    @property
    def project(self) -> object:
        return self.session.project

    @property
    def offline(self) -> bool:
        return self.session.offline

    @property
    def archives(self) -> Mapping[str, Sequence[str]]:
        return self.session.config.archives

    @property
    def registries(self) -> Registries:
        return self.session.registries

    @property
    def index(self) -> Mapping[str, str]:
        return self.session.config.index

    def get(self, url: str, *, fresh: bool = True, limit: int = 64 << 20) -> bytes:
        return self.session.documents.get(url, fresh=fresh, limit=limit)

    def fetch(self, inputs: Sequence[Input]) -> None:
        self.session.fetch(inputs)

    def obtain(self, urls: Sequence[str]) -> list[Found]:
        return self.session.obtain(urls)

    def remember(self, item: Input, urls: Sequence[str]) -> None:
        self.session.hints.remember(item, urls)

    def say(self, text: str) -> None:
        self.session.reporter.say(text)

    def read(self, path: str) -> bytes | None:
        base = self._built_base()
        if self._tree is None:
            self._tree = Tree.load(base.index)
        place = self._tree.resolve(os.fsencode(path), final=True)
        entry = self._tree.get(place)
        if entry is None or entry.kind != "f":
            return None
        with opened(os.fsencode(base.tree) + b"/" + place) as file:
            return file.read()

    def tool(self, argv: Sequence[str], *, binds: Sequence[Bind] = (), stdin: bytes = b"") -> ToolResult:
        base = self.session.store.own(self._built_base())
        environment = {**image_environment(base.record), **BUILD_ENVIRONMENT}
        return self.session.builder.tool(
            ToolRequest(
                parents=(base.tree,), argv=tuple(argv), environment=environment, binds=tuple(binds), stdin=stdin
            )
        )

    def _built_base(self) -> StoredLayer:
        if self.base is None:
            raise ReproboxError("the base cannot be looked into while it is being resolved")
        build(self.session, LockedTarget(name="", platform=self.platform, layers=(self.base,)), self.epoch)
        stored = self.session.store.layer(self.base.id)
        assert stored is not None
        return stored


def resolve(session: Session, manifest: Manifest, previous: Lock | None, *, upgrade: Upgrade = KEEP) -> Lock:
    """The lock of ``manifest``. Pins of ``previous`` that still satisfy it are kept, but for what ``upgrade`` frees."""
    refuse_unavailable(manifest)
    session.manifest = manifest
    targets: dict[str, LockedTarget] = {}
    epoch = previous.epoch if previous else NO_DATE
    for name in manifest.targets:
        old = old_target(previous, name, manifest.targets[name].platform, manifest.targets)
        targets[name], epoch = _resolve_target(session, manifest.select(name), name, old, epoch, upgrade)
    world = _World(session=session, platform=next(iter(targets.values())).platform)
    checkout = _checkout(manifest, previous, epoch, upgrade, world)
    lock = Lock(
        epoch=epoch,
        manifest=manifest.digest(),
        keys=dict(manifest.keys()),
        targets=targets,
        code=str(checkout.facts["tree"]) if checkout else code_hash(session.project, manifest),
        checkout=checkout,
    )
    return _with_seals(lock, previous)


def refuse_unavailable(manifest: Manifest) -> None:
    """Keys whose behaviour comes later are never ignored: using them is an error that says so."""
    if manifest.unavailable:
        raise ManifestError(manifest.unavailable)


def _checkout(
    manifest: Manifest, previous: Lock | None, epoch: int, upgrade: Upgrade, world: _World
) -> LockedLayer | None:
    """The code as a layer that stands alone, where it comes from a repository."""
    if manifest.code.git is None:
        return None
    node = checkout_layer(manifest.code)
    old = previous.checkout if previous else None
    asked = request_digest(node.document())
    if old is None or upgrade.everything or (old.request, old.recipe) != (asked, Git.recipe):
        found = resolve_checkout(
            ResolveRequest(
                manifest=manifest,
                layer=node,
                key="code",
                platform=world.platform,
                below=(),
                previous=old,
                upgrade=upgrade.everything,
                world=world,  # type: ignore[arg-type]  # properties stand for the protocol's attributes
            )
        )
        old = LockedLayer(
            name=node.name,
            kind=node.kind,
            recipe=Git.recipe,
            request=asked,
            inputs=found.inputs,
            options=found.options,
            facts=found.facts,
        )
    return with_ids([old], epoch)[0]


def _resolve_target(
    session: Session, manifest: Manifest, name: str, old: LockedTarget | None, epoch: int, upgrade: Upgrade
) -> tuple[LockedTarget, int]:
    platform = manifest.targets[name].platform
    world = _World(session=session, platform=platform)
    layers: list[LockedLayer] = []
    available(session.builder, session.store)
    layer_graph = graph.build(manifest, session.plugins.kinds)
    asked = {node.name: (node.kind, _asked(manifest, node)) for node in layer_graph.nodes}
    pins = match(old.layers if old else (), asked, upgrade)
    _check_destinations(session, manifest, layer_graph)
    for node in layer_graph.nodes:
        layer, dates = _resolve_layer(session, manifest, node, layers, pins, world)
        if node.name == graph.BASE:
            kept = pins.matched.get(node.name)
            if kept is None or upgrade.everything or _content(kept) != _content(layer):
                epoch = max(dates, default=NO_DATE)
            world.epoch = epoch
            layer = with_ids([layer], epoch)[0]
            world.base = layer
        layers.append(layer)
    target = LockedTarget(name=name, platform=platform, layers=with_ids(layers, epoch))
    _check_count(target)
    return target, epoch


def _resolve_layer(
    session: Session,
    manifest: Manifest,
    node: graph.Node,
    done: Sequence[LockedLayer],
    pins: Pins,
    world: _World,
) -> tuple[LockedLayer, tuple[int, ...]]:
    kind = session.kind(node.kind)
    layer = LockedLayer(name=node.name, kind=node.kind, recipe=kind.recipe, request="", parents=node.parents)
    below = ancestors([*done, layer], node.name)
    files = _files_read(session, kind, manifest, node)
    given: dict[str, Json] = {"below": [_content(item) for item in below], **files}
    asked = request_digest({"layer": _asked(manifest, node), **given})
    old = pins.matched.get(node.name)
    if old is not None and kind.pinned and not pins.upgrade.touches(old):
        under_old_name = request_digest({"layer": _asked(manifest, node, name=old.name), **given})
        if (old.request, old.kind, old.recipe) == (under_old_name, node.kind, kind.recipe):
            environment = dict(node.layer.env)
            return replace(old, name=node.name, request=asked, parents=node.parents, environment=environment), ()
    if kind.pinned:
        session.reporter.say(f"resolving {node.name}")
    found: Resolution = kind.resolve(
        ResolveRequest(
            manifest=manifest,
            layer=node.layer,
            key="base" if node.name == graph.BASE else f"layers[{node.layer.index}]",
            platform=world.platform,
            below=below,
            previous=pins.offered(node.name, node.kind, below),
            upgrade=pins.upgrade.everything,
            world=world,  # type: ignore[arg-type]  # properties stand for the protocol's attributes
        )
    )
    locked = replace(
        layer,
        request=asked,
        inputs=found.inputs,
        options=found.options,
        facts={**found.facts, **files},
        environment=dict(node.layer.env),
    )
    return locked, found.dates


def _files_read(session: Session, kind: Any, manifest: Manifest, node: graph.Node) -> dict[str, Json]:
    """``files``: digests of the local files that say what a layer asks for, by path; nothing where there are none."""
    reads = getattr(kind, "reads", None)
    found = reads(manifest, node.layer, session.project) if reads and node.layer.options is not None else {}
    return {"files": dict(found)} if found else {}


def _check_destinations(session: Session, manifest: Manifest, layers: graph.LayerGraph) -> None:
    """Layers that may be built side by side must write to different places; told before anything is fetched."""
    below: dict[str, frozenset[str]] = {}
    owners: dict[str, list[str]] = {}
    for node in layers.nodes:
        below[node.name] = frozenset(node.parents).union(*(below[name] for name in node.parents))
        for place in getattr(session.kind(node.kind), "destinations", _nowhere)(node.layer):
            owners.setdefault(place.rstrip("/"), []).append(node.name)
    for place in sorted(owners):
        above = [place[:end] for end, char in enumerate(place) if char == "/" and end]
        for other in (name for path in (*above, place) for name in owners.get(path, ())):
            for name in owners[place]:
                if other != name and other not in below[name] and name not in below[other]:
                    first, second = sorted((other, name), key=[node.name for node in layers.nodes].index)
                    raise ManifestError([_side_by_side(manifest, first, second, place)])


def _side_by_side(manifest: Manifest, first: str, second: str, place: str) -> Problem:
    return manifest.problem(
        ("layers", next(layer.index for layer in manifest.layers if layer.name == second)),
        f"layers {first!r} and {second!r} both write at {place}, and neither stands on the other",
        f'say which comes first: add `after = ["{first}"]` to layer {second!r}, or let them write to other places',
    )


def _nowhere(_: object) -> tuple[str, ...]:
    return ()


def _asked(manifest: Manifest, node: graph.Node, name: str = "") -> Json:
    """What the manifest says of a layer; as it would be under another ``name``."""
    if node.name == graph.BASE:
        return manifest.document()["base"]
    if node.layer.options is None:
        return {}
    return {**node.layer.document(), "name": name or node.name}


def _content(layer: LockedLayer) -> list[Json]:
    files: list[Json] = [[item.type, item.name, item.sha256] for item in layer.inputs]
    return [layer.kind, layer.recipe, files, dict(layer.options)]


def _check_count(target: LockedTarget) -> None:
    base_layers = sum(1 for item in target.base.inputs if ".layer." in item.facts.get("media_type", ""))
    count = max(base_layers, 1) + len(target.layers) - 1
    if count <= MOST_LAYERS:
        return
    kinds: dict[str, list[str]] = {}
    for layer in target.layers[1:]:
        kinds.setdefault(layer.kind, []).append(layer.name)
    kind, names = max(kinds.items(), key=lambda item: len(item[1]))
    raise LockError(
        f"the image would have {count} layers, and container engines stop at 125",
        hint=f"join layers of kind {kind!r}, such as {', '.join(names[:5])}",
    )


def _with_seals(lock: Lock, previous: Lock | None) -> Lock:
    """A seal stays true while nothing that the image is made of changed."""
    if previous is None or previous.epoch != lock.epoch or previous.manifest != lock.manifest:
        return lock
    targets = {}
    for name, target in lock.targets.items():
        old = previous.targets.get(name)
        same = old is not None and [layer.id for layer in old.layers] == [layer.id for layer in target.layers]
        targets[name] = replace(target, seal=old.seal) if old is not None and same else target
    return replace(lock, targets=targets)


def with_code_layer(session: Session, manifest: Manifest, lock: Lock, name: str) -> LockedTarget:
    """The target ``name`` with the project's code as its last layer: ``--with-code``."""
    target, epoch = lock.targets[name], lock.epoch
    if lock.checkout:
        options = {**lock.checkout.options, "to": manifest.code.target}
        baked = replace(lock.checkout, parents=(graph.SKELETON,), options=options)
        return replace(target, layers=with_ids([*target.layers, baked], epoch))
    world = _World(session=session, platform=target.platform)
    node = graph.build(manifest, session.plugins.kinds, with_code=True).node(graph.CODE)
    layer, _ = _resolve_layer(session, manifest, node, target.layers, Pins(), world)
    return replace(target, layers=with_ids([*target.layers, layer], epoch))


# -- freshness ---------------------------------------------------------------------------------------------------------


def stale_keys(session: Session, manifest: Manifest, lock: Lock) -> tuple[str, ...]:
    """Manifest keys, and local files that layers are made of, that changed since the lock was made."""
    changes = changed_keys(lock, manifest.keys())
    return (*changes, *_changed_local_layers(session, manifest, lock, changes))


def _changed_local_layers(
    session: Session, manifest: Manifest, lock: Lock, changes: Collection[str]
) -> Collection[str]:
    """Local files that are not what they were, of layers that are asked for as before."""
    changed: list[str] = []
    for name in (name for name in lock.targets if name in manifest.targets):
        target = lock.targets[name]
        world = _World(session=session, platform=target.platform)
        selected = manifest.select(name)
        locked = {layer.name: layer for layer in target.layers}
        for node in graph.build(selected, session.plugins.kinds).nodes:
            if node.layer.options is None:  # made of manifest keys alone
                continue
            key = graph.BASE if node.name == graph.BASE else f"layers.{node.name}"
            if node.name not in locked or any(change.startswith((f"{key}.", f"{key} ")) for change in changes):
                continue
            if session.kind(node.kind).pinned:
                states = _changed_files(session, selected, node, locked[node.name])
            else:
                states = [_local_state(session, selected, node, locked[node.name], target, world)]
            changed += [f"{key} ({state})" for state in states if state and f"{key} ({state})" not in changed]
    return changed


def _changed_files(session: Session, manifest: Manifest, node: graph.Node, locked: LockedLayer) -> list[str]:
    """What became of the local files that a pinned layer was resolved from: ``requirements.txt changed``."""
    before: Any = locked.facts.get("files", {})
    try:
        now: Any = _files_read(session, session.kind(node.kind), manifest, node).get("files", {})
    except ManifestError as error:
        return [error.problems[0].message if error.problems[0].key else f"{error.problems[0].file} is not sound"]
    return [f"{path} changed" for path in sorted(before.keys() | now.keys()) if before.get(path) != now.get(path)]


def _local_state(
    session: Session, manifest: Manifest, node: graph.Node, locked: LockedLayer, target: LockedTarget, world: _World
) -> str:
    """What became of the local files of one layer since they were locked; empty if nothing did."""
    node = replace(node, parents=locked.parents)
    try:
        layer, _ = _resolve_layer(session, manifest, node, target.layers, Pins(), world)
    except ManifestError:
        return "its files are missing"
    return "its files changed" if _content(replace(layer, recipe=locked.recipe)) != _content(locked) else ""


def ensure_fresh(session: Session, manifest: Manifest, lock: Lock, where: str) -> None:
    """Raise :class:`StaleLockError`, naming every key that changed, unless the lock is of this manifest."""
    changes = stale_keys(session, manifest, lock)
    if changes:
        raise StaleLockError(changes, where=where, hint="run `reprobox lock`")
