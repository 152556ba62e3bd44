"""Manifest to lock: every layer is asked, in stacking order, for the bytes it needs. The only arrow with network."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from reprobox import graph, tables
from reprobox.backend import Backend
from reprobox.digest import Json
from reprobox.errors import (
    LockError,
    ManifestError,
    PlatformError,
    Problem,
    ReproboxError,
    ResolveError,
    StaleLockError,
)
from reprobox.layers.code import code_hash
from reprobox.layers.fetch import MOUNTS, Fetch, download_layer
from reprobox.layers.git import Git, checkout_layer, resolve_checkout
from reprobox.layers.kind import Kind, Resolution, ResolveRequest
from reprobox.lock import (
    Lock,
    LockedLayer,
    LockedTarget,
    Seal,
    ancestors,
    changed_keys,
    request_digest,
    root_lock,
    with_ids,
)
from reprobox.locked_data import lock_data, lock_downloads
from reprobox.manifest import DEFAULT_TARGETS, IN_IMAGE, Manifest
from reprobox.pins import KEEP, Pins, Upgrade, match, old_target
from reprobox.session import Session, available, this_platform
from reprobox.tables import EMPTY
from reprobox.world import NO_DATE, ProjectWorld

#: More layers than this in one image are refused: Docker stops at 125.
MOST_LAYERS = 120
_BUILDER = "the builder"


def resolve(
    session: Session,
    manifest: Manifest,
    previous: Lock | None,
    *,
    upgrade: Upgrade = KEEP,
    only: Collection[str] = (),
    mounts: Mapping[str, str] = EMPTY,
) -> Lock:
    """The lock of ``manifest``. Pins of ``previous`` that still satisfy it are kept, but for what ``upgrade`` frees.

    ``only`` names targets: the others stay as ``previous`` has them. ``mounts`` are sources of data folders, by mount
    point, that stand in for the manifest's.
    """
    refuse_unavailable(manifest)
    session.manifest = manifest
    with _builder(session):
        return _resolved_manifest(session, manifest, previous, upgrade, only, mounts)


@contextlib.contextmanager
def _builder(session: Session) -> Iterator[None]:
    """See meanwhile whether the builder works here. Where it does not, that is what is told, whatever else fails."""

    def look() -> Backend:
        return available(session.builder, session.store)

    session.ahead.begin(_BUILDER, look)
    try:
        try:
            yield
        finally:
            session.ahead.answer(_BUILDER, look)
    finally:
        session.ahead.stop()


def _resolved_manifest(
    session: Session,
    manifest: Manifest,
    previous: Lock | None,
    upgrade: Upgrade,
    only: Collection[str],
    mounts: Mapping[str, str],
) -> Lock:
    data = lock_data(session, manifest, previous, mounts)
    shared = _Shared(previous, upgrade)
    drafts = [
        _draft(session, manifest, name, previous, upgrade, shared)
        for name in manifest.targets
        if not only or name in only
    ]
    for draft in drafts:
        with contextlib.suppress(ReproboxError):  # it is told when the layer is resolved
            _foresee(draft)
    others = _other_targets(manifest, previous, {draft.name for draft in drafts})
    for draft in drafts:
        _resolve_base(draft, previous, upgrade)
    epoch = _epoch(drafts, others, previous)
    roots = _native_roots(manifest, drafts, others, epoch)
    targets = {draft.name: _resolve_target(draft, epoch, roots) for draft in drafts}
    world = ProjectWorld(session=session, platform=drafts[0].world.platform)
    checkout = _checkout(manifest, previous, epoch, upgrade, world)
    downloads = _downloads(manifest, previous, epoch, upgrade, world)
    data |= lock_downloads(session, manifest, downloads, data, epoch)
    lock = Lock(
        epoch=epoch,
        manifest=manifest.digest(),
        keys=dict(manifest.keys()),
        targets={**targets, **{name: _dated(target, epoch) for name, target in others.items()}},
        code=str(checkout.facts["tree"]) if checkout else code_hash(session.project, manifest),
        checkout=checkout,
        mounts=data,
        downloads=downloads,
    )
    return _with_seals(lock, previous)


def refuse_unavailable(manifest: Manifest) -> None:
    """Keys whose behaviour comes later are never ignored: using them is an error that says so."""
    if manifest.unavailable:
        raise ManifestError(manifest.unavailable)


def _checkout(
    manifest: Manifest, previous: Lock | None, epoch: int, upgrade: Upgrade, world: ProjectWorld
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


def _downloads(
    manifest: Manifest, previous: Lock | None, epoch: int, upgrade: Upgrade, world: ProjectWorld
) -> dict[str, LockedLayer]:
    """The files of mounts that can be downloaded, as layers that stand alone, by mount point."""
    layers = {}
    for path, mount in manifest.mounts.items():
        if not mount.files:
            continue
        node, old = download_layer(path, mount), previous.downloads.get(path) if previous else None
        asked = request_digest(node.document())
        if old is None or upgrade.everything or (old.request, old.recipe) != (asked, Fetch.recipe):
            found = Fetch().resolve(
                ResolveRequest(
                    manifest=manifest,
                    layer=node,
                    key=MOUNTS,
                    platform=world.platform,
                    below=(),
                    previous=old,
                    upgrade=upgrade.everything,
                    world=world,  # type: ignore[arg-type]  # properties stand for the protocol's attributes
                )
            )
            old = LockedLayer(
                name=path,
                kind=node.kind,
                recipe=Fetch.recipe,
                request=asked,
                inputs=found.inputs,
                options=found.options,
                facts=found.facts,
            )
        layers[path] = with_ids([old], epoch)[0]
    return layers


def _other_targets(manifest: Manifest, previous: Lock | None, wanted: Collection[str]) -> dict[str, LockedTarget]:
    """Targets that are not to be resolved now, as they were locked."""
    locked = previous.targets if previous else {}
    return {name: locked[name] for name in manifest.targets if name in locked and name not in wanted}


def _dated(target: LockedTarget, epoch: int) -> LockedTarget:
    return replace(target, layers=with_ids(target.layers, epoch))


class _Shared:
    """Pins by just what was asked, in the older lock and in this run: a layer of several targets is resolved once."""

    def __init__(self, previous: Lock | None = None, upgrade: Upgrade = KEEP) -> None:
        self._found: dict[tuple[str, ...], tuple[LockedLayer, tuple[int, ...]]] = {}
        for target in previous.targets.values() if previous else ():
            for layer in target.layers:
                if not upgrade.touches(layer):
                    self.add(layer, target.platform)

    def get(self, layer: LockedLayer, platform: str) -> tuple[LockedLayer, tuple[int, ...]] | None:
        """The layer with its pins, and the dates of a base that was resolved in this run."""
        return self._found.get(self._key(layer, platform))

    def add(self, layer: LockedLayer, platform: str, dates: tuple[int, ...] = ()) -> None:
        """Remember it for other targets, unless an equal one is known already."""
        self._found.setdefault(self._key(layer, platform), (layer, dates))

    @staticmethod
    def _key(layer: LockedLayer, platform: str) -> tuple[str, ...]:
        return platform, layer.name, layer.kind, str(layer.recipe), layer.request


@dataclass(kw_only=True)
class _Draft:
    """One target while it is resolved: the manifest narrowed to it, its graph, its old pins, and its layers so far."""

    name: str
    label: str  # "gpu: " where there are several targets
    request: str
    manifest: Manifest
    graph: graph.LayerGraph
    world: ProjectWorld
    pins: Pins
    shared: _Shared
    layers: list[LockedLayer] = field(default_factory=list)
    dates: tuple[int, ...] = ()
    moved: bool = True  # whether its base is another one than before


def _draft(
    session: Session,
    manifest: Manifest,
    name: str,
    previous: Lock | None = None,
    upgrade: Upgrade = KEEP,
    shared: _Shared | None = None,
    *,
    layers: graph.LayerGraph | None = None,
) -> _Draft:
    selected = manifest.select(name)
    platform = selected.targets[name].platform
    layers = layers or graph.build(selected, session.plugins.kinds)
    old = old_target(previous, name, platform, manifest.targets)
    asked = {node.name: (node.kind, _asked(selected, node)) for node in layers.nodes}
    return _Draft(
        name=name,
        label=f"{name}: " if len(manifest.targets) > 1 else "",
        request=target_request(manifest, name),
        manifest=selected,
        graph=layers,
        world=ProjectWorld(session=session, platform=platform),
        pins=match(old.layers if old else (), asked, upgrade),
        shared=shared or _Shared(),
    )


def target_request(manifest: Manifest, name: str) -> str:
    """Short digest of all that the manifest says of one target; empty where it is the only one."""
    return manifest.select(name).digest()[:16] if len(manifest.targets) > 1 else ""


def target_requests(manifest: Manifest, name: str) -> tuple[str, ...]:
    """All that a lock which fits may have for :func:`target_request`."""
    return tuple(digest[:16] for digest in manifest.select(name).digests()) if len(manifest.targets) > 1 else ("",)


def _resolve_base(draft: _Draft, previous: Lock | None, upgrade: Upgrade) -> None:
    session = draft.world.session
    _check_destinations(session, draft.manifest, draft.graph)
    for node in draft.graph.nodes:  # a file that is missing is told before anything is fetched
        _files_read(session, session.kind(node.kind), draft.manifest, node)
    try:
        base, draft.dates = _resolve_layer(draft, draft.graph.node(graph.BASE), ())
    except PlatformError as error:
        path = ("targets", draft.name) if draft.manifest.targets != DEFAULT_TARGETS else ("base",)
        message = f"{error.where}: {error.message}" if error.where else error.message
        raise ManifestError([draft.manifest.problem(path, message, error.hint or "")]) from None
    draft.layers.append(base)
    before = [_content(target.base) for target in previous.targets.values()] if previous else []
    draft.moved = upgrade.everything or _content(base) not in before


def _foresee(draft: _Draft) -> None:
    """Let kinds that wait for others ask them now, as if all that is below their layers were locked again as it was.

    Where that turns out otherwise, the answer is to a question that nobody asks.
    """
    before = draft.pins.matched
    known: list[LockedLayer] = []
    moving: set[str] = set()
    for node in draft.graph.nodes:
        old = before.get(node.name)
        if old is None or old.kind != node.kind:
            moving.add(node.name)
            old = LockedLayer(name=node.name, kind=node.kind, recipe=0, request="")
        known.append(replace(old, name=node.name, parents=node.parents))
        kind = draft.world.session.kind(node.kind)
        if not kind.pinned:
            continue
        below = ancestors(known, node.name)
        foresee = getattr(kind, "foresee", None)
        if not _stays(draft, node, old, below) or not moving.isdisjoint(layer.name for layer in below):
            if foresee and not any(layer.name in moving and layer.kind == node.kind for layer in below):
                foresee(_request(draft, node, below))
            moving.add(node.name)


def _stays(draft: _Draft, node: graph.Node, old: LockedLayer, below: Sequence[LockedLayer]) -> bool:
    """Whether an old layer is what is asked for, over these layers."""
    files = _files_read(draft.world.session, draft.world.session.kind(node.kind), draft.manifest, node)
    asked = {"layer": _asked(draft.manifest, node, name=old.name), "below": [_content(item) for item in below], **files}
    return old.request == request_digest(asked) and not draft.pins.upgrade.touches(old)


def _request(draft: _Draft, node: graph.Node, below: tuple[LockedLayer, ...]) -> ResolveRequest:
    return ResolveRequest(
        manifest=draft.manifest,
        layer=node.layer,
        key=_key(draft, node),
        platform=draft.world.platform,
        below=below,
        previous=draft.pins.offered(node.name, node.kind, below),
        upgrade=draft.pins.upgrade.everything,
        world=draft.world,  # type: ignore[arg-type]  # properties stand for the protocol's attributes
    )


def _epoch(drafts: Sequence[_Draft], others: Mapping[str, LockedTarget], previous: Lock | None) -> int:
    """The newest date of all bases. It moves only with a base, so that one package more rebuilds one layer."""
    moved = [max(draft.dates, default=NO_DATE) for draft in drafts if draft.moved]
    stay = previous is not None and (others or len(moved) < len(drafts))
    return max([*moved, previous.epoch] if previous is not None and stay else moved)


def _native_roots(
    manifest: Manifest, drafts: Sequence[_Draft], others: Mapping[str, LockedTarget], epoch: int
) -> dict[str, Lock]:
    """Bases that run on this machine, by what the manifest calls them: tools for other machines' targets run there."""
    bases = {name: target.base for name, target in others.items()}
    bases |= {draft.name: draft.layers[0] for draft in drafts}
    roots = {}
    for name, base in bases.items():
        selected = manifest.select(name)
        if selected.targets[name].platform == this_platform() and base.kind == selected.base.kind:
            roots[selected.base.reference] = root_lock(base, this_platform(), epoch)
    return roots


def _resolve_target(draft: _Draft, epoch: int, roots: Mapping[str, Lock]) -> LockedTarget:
    draft.world.epoch, draft.world.roots = epoch, roots
    draft.world.base = with_ids(draft.layers, epoch)[0]
    for node in draft.graph.nodes[1:]:
        draft.layers.append(_resolve_layer(draft, node, draft.layers)[0])
    target = LockedTarget(
        name=draft.name, platform=draft.world.platform, layers=with_ids(draft.layers, epoch), request=draft.request
    )
    _check_count(target)
    return target


def _resolve_layer(draft: _Draft, node: graph.Node, done: Sequence[LockedLayer]) -> tuple[LockedLayer, tuple[int, ...]]:
    """The node as it is pinned already, else as its kind pins it now; and the dates that a base is of."""
    session, platform = draft.world.session, draft.world.platform
    kind = session.kind(node.kind)
    layer = LockedLayer(
        name=node.name,
        kind=node.kind,
        recipe=kind.recipe,
        request="",
        parents=node.parents,
        placement=node.layer.placement,
    )
    below = ancestors([*done, layer], node.name)
    files = _files_read(session, kind, draft.manifest, node)
    given: dict[str, Json] = {"below": [_content(item) for item in below], **files}
    asked = request_digest({"layer": _asked(draft.manifest, node), **given})
    layer = replace(layer, request=asked, environment=dict(node.layer.env))
    known = _known(draft, node, layer, given) if kind.pinned else None
    if known is not None:
        old, dates = known
        pinned = replace(layer, inputs=old.inputs, options=old.options, facts=old.facts)
        draft.shared.add(pinned, platform, dates)
        return pinned, dates
    if kind.pinned:
        session.reporter.say(f"resolving {draft.label}{node.name}")
    found = _resolved(kind, draft, _request(draft, node, below))
    locked = replace(layer, inputs=found.inputs, options=found.options, facts={**found.facts, **files})
    draft.shared.add(locked, platform, found.dates)
    return locked, found.dates


def _resolved(kind: Kind, draft: _Draft, request: ResolveRequest) -> Resolution:
    """What the kind finds; where it finds nothing, it is told for which of several targets."""
    try:
        return kind.resolve(request)
    except ResolveError as error:
        if draft.label and error.where:
            error.message = f"target {draft.name!r}: {error.message}"
        raise


def _known(
    draft: _Draft, node: graph.Node, layer: LockedLayer, given: Mapping[str, Json]
) -> tuple[LockedLayer, tuple[int, ...]] | None:
    """Pins that satisfy what is asked: the target's own, under an older name too; else what another target has."""
    old = draft.pins.matched.get(node.name)
    if old is not None and not draft.pins.upgrade.touches(old):
        under_old_name = request_digest({"layer": _asked(draft.manifest, node, name=old.name), **given})
        if (old.request, old.kind, old.recipe) == (under_old_name, layer.kind, layer.recipe):
            return old, ()
    return draft.shared.get(layer, draft.world.platform)


def _files_read(session: Session, kind: Any, manifest: Manifest, node: graph.Node) -> dict[str, Json]:
    """``files``: digests of the local files that say what a layer asks for, by path; nothing where there are none."""
    reads = getattr(kind, "reads", None)
    found = reads(manifest, node.layer, session.project) if reads and node.layer.options is not None else {}
    return {"files": dict(found)} if found else {}


def _key(draft: _Draft, node: graph.Node) -> str:
    """Where the manifest asks for the node, for messages."""
    if node.name != graph.BASE:
        return f"layers[{node.layer.index}]"
    return f"targets.{draft.name}.base" if draft.manifest.targets[draft.name].base is not None else "base"


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
    document = {**node.layer.document(), "name": name or node.name}
    if node.layer.placement == IN_IMAGE:
        return document
    return {**document, "code": tables.document(manifest.code), "target": next(iter(manifest.targets))}  # where it goes


def _content(layer: LockedLayer) -> list[Json]:
    files: list[Json] = [[item.type, item.name, item.sha256] for item in layer.inputs]
    return [layer.kind, layer.recipe, files, dict(layer.options)]


def _check_count(target: LockedTarget) -> None:
    base_layers = sum(1 for item in target.base.inputs if ".layer." in item.facts.get("media_type", ""))
    count = max(base_layers, 1) + len(target.image_layers) - 1
    if count <= MOST_LAYERS:
        return
    kinds: dict[str, list[str]] = {}
    for layer in target.image_layers[1:]:
        kinds.setdefault(layer.kind, []).append(layer.name)
    kind, names = max(kinds.items(), key=lambda item: len(item[1]))
    raise LockError(
        f"the image would have {count} layers, and container engines stop at 125",
        hint=f"join layers of kind {kind!r}, such as {', '.join(names[:5])}",
    )


def _with_seals(lock: Lock, previous: Lock | None) -> Lock:
    """A seal stays true while nothing that the image is made of changed."""
    if previous is None:
        return lock
    targets = {}
    for name, target in lock.targets.items():
        old = previous.targets.get(name)
        same = old is not None and _same_request(lock, target, previous, old)
        targets[name] = replace(target, seal=_kept_seal(target, old) if old is not None and same else None)
    return replace(lock, targets=targets)


def _kept_seal(target: LockedTarget, old: LockedTarget) -> Seal | None:
    """The old seal while the image is as it was; of the layers outside it, for those that are as they were."""
    if old.seal is None or [layer.id for layer in old.image_layers] != [layer.id for layer in target.image_layers]:
        return None
    before, now = ({layer.name: layer.id for layer in each.layers} for each in (old, target))
    same = {name for name, identity in now.items() if before.get(name) == identity}
    return replace(old.seal, layers={name: digest for name, digest in old.seal.layers.items() if name in same})


def _same_request(lock: Lock, target: LockedTarget, previous: Lock, old: LockedTarget) -> bool:
    """Whether both were locked from one manifest, as far as it is about this target."""
    return previous.manifest == lock.manifest or bool(target.request and target.request == old.request)


def with_code_layer(session: Session, manifest: Manifest, lock: Lock, name: str) -> LockedTarget:
    """The target ``name`` with the project's code as its last layer: ``--with-code``."""
    target, epoch = lock.targets[name], lock.epoch
    if lock.checkout:
        options = {**lock.checkout.options, "to": manifest.code.target}
        baked = replace(lock.checkout, parents=(graph.SKELETON,), options=options)
        return replace(target, layers=with_ids([*target.layers, baked], epoch))
    layers = graph.build(manifest.select(name), session.plugins.kinds, with_code=True)
    draft = _draft(session, manifest, name, layers=layers)
    layer, _ = _resolve_layer(draft, draft.graph.node(graph.CODE), target.layers)
    return replace(target, layers=with_ids([*target.layers, layer], epoch))


# -- freshness ---------------------------------------------------------------------------------------------------------


def stale_keys(session: Session, manifest: Manifest, lock: Lock, target: str | None = None) -> tuple[str, ...]:
    """Manifest keys, and local files that layers are made of, that changed since the lock was made.

    With ``target``, only what is about that one of several targets.
    """
    names = list(manifest.targets) if target is None else [target]
    changes = tuple(_changed_keys(manifest, lock, names, whole=target is None))
    return (*changes, *_changed_local_layers(session, manifest, lock, names, changes))


def _changed_keys(manifest: Manifest, lock: Lock, names: Sequence[str], *, whole: bool) -> Iterator[str]:
    """What the manifest says otherwise than the lock; then the targets that were locked before it said so."""
    changed = changed_keys(lock, manifest.keys())
    if len(manifest.targets) == 1:
        yield from changed
        return
    outdated = [name for name in names if _outdated(manifest, lock, name)]
    about = [item for item in changed if whole or any(_is_about(item, manifest, lock, name) for name in outdated)]
    yield from about
    for name in outdated:
        if not about or (name not in lock.targets and f"targets.{name} (new)" not in about):
            yield f"targets.{name} ({_outdated(manifest, lock, name)})"


def _outdated(manifest: Manifest, lock: Lock, name: str) -> str:
    """Why a target of several is not as the manifest says; empty if it is."""
    if name not in lock.targets:
        return "not locked"
    same = lock.targets[name].request in target_requests(manifest, name)
    return "" if same else "locked before the manifest changed"


def _is_about(change: str, manifest: Manifest, lock: Lock, name: str) -> bool:
    """Whether a changed key such as ``layers.gym.rev (changed)`` has to do with the target."""
    key = change.rpartition(" (")[0]
    if key.startswith("targets."):
        return key == f"targets.{name}" or key.startswith(f"targets.{name}.")
    if not key.startswith("layers."):
        return True
    layers = {layer.name for layer in manifest.select(name).layers}
    layers |= {layer.name for layer in lock.targets[name].layers} if name in lock.targets else set()
    return any(key == f"layers.{layer}" or key.startswith(f"layers.{layer}.") for layer in layers)


def _changed_local_layers(
    session: Session, manifest: Manifest, lock: Lock, names: Sequence[str], changes: Collection[str]
) -> Collection[str]:
    """Local files that are not what they were, of layers that are asked for as before."""
    changed: list[str] = []
    for name in (name for name in names if name in lock.targets):
        target = lock.targets[name]
        layers = None if changes else graph.unordered(manifest.select(name))  # as it was locked, so it is in order
        draft = _draft(session, manifest, name, layers=layers)
        locked = {layer.name: layer for layer in target.layers}
        for node in draft.graph.nodes:
            if node.layer.options is None:  # made of manifest keys alone
                continue
            key = _key(draft, node) if node.name == graph.BASE else f"layers.{node.name}"
            if node.name not in locked or any(change.startswith((f"{key}.", f"{key} ")) for change in changes):
                continue
            if session.kind(node.kind).pinned:
                states = _changed_files(draft, node, locked[node.name])
            else:
                states = [_local_state(draft, node, locked[node.name], target)]
            changed += [f"{key} ({state})" for state in states if state and f"{key} ({state})" not in changed]
    return changed


def _changed_files(draft: _Draft, node: graph.Node, locked: LockedLayer) -> list[str]:
    """What became of the local files that a pinned layer was resolved from: ``requirements.txt changed``."""
    session = draft.world.session
    before: Any = locked.facts.get("files", {})
    try:
        now: Any = _files_read(session, session.kind(node.kind), draft.manifest, node).get("files", {})
    except ManifestError as error:
        return [error.problems[0].message if error.problems[0].key else f"{error.problems[0].file} is not sound"]
    return [f"{path} changed" for path in sorted(before.keys() | now.keys()) if before.get(path) != now.get(path)]


def _local_state(draft: _Draft, node: graph.Node, locked: LockedLayer, target: LockedTarget) -> str:
    """What became of the local files of one layer since they were locked; empty if nothing did."""
    node = replace(node, parents=locked.parents)
    try:
        layer, _ = _resolve_layer(draft, node, target.layers)
    except ManifestError:
        return _unusable(draft, node)
    return "its files changed" if _content(replace(layer, recipe=locked.recipe)) != _content(locked) else ""


def _unusable(draft: _Draft, node: graph.Node) -> str:
    """What to say of a layer whose local files cannot be read: nothing where they are not here, and not needed."""
    kind: Any = draft.world.session.kind(node.kind)
    if not getattr(kind, "complete", False):
        return "its files are missing"
    there = any((draft.world.session.project / path).exists() for path in kind.sources(node.layer))
    return "its files changed" if there else ""


def ensure_fresh(session: Session, manifest: Manifest, lock: Lock, where: str, target: str | None = None) -> None:
    """Raise :class:`StaleLockError`, naming every key that changed, unless the lock is of this manifest.

    With ``target``, as far as the manifest is about that one of several targets.
    """
    changes = stale_keys(session, manifest, lock, target)
    if changes:
        raise StaleLockError(changes, where=where, hint="run `reprobox lock`")
