"""Manifest to lock: every layer is asked, in stacking order, for the bytes it needs. The only arrow with network."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from reprobox import graph
from reprobox.backend import Backend
from reprobox.draft import Draft, Shared, content_of, draft_of, files_read, request_of, resolve_layer, stays
from reprobox.errors import LockError, ManifestError, PlatformError, Problem, ReproboxError
from reprobox.layers.code import code_hash
from reprobox.layers.fetch import MOUNTS, Fetch, download_layer
from reprobox.layers.git import Git, checkout_layer, resolve_checkout
from reprobox.layers.kind import ResolveRequest
from reprobox.lock import Lock, LockedLayer, LockedTarget, Seal, ancestors, request_digest, root_lock, with_ids
from reprobox.locked_data import lock_data, lock_downloads
from reprobox.manifest import DEFAULT_TARGETS, Manifest
from reprobox.pins import KEEP, Upgrade
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
    shared = Shared(previous, upgrade)
    drafts = [
        draft_of(session, manifest, name, previous, upgrade, shared)
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


def _resolve_base(draft: Draft, previous: Lock | None, upgrade: Upgrade) -> None:
    session = draft.world.session
    _check_destinations(session, draft.manifest, draft.graph)
    for node in draft.graph.nodes:  # a file that is missing is told before anything is fetched
        files_read(session, session.kind(node.kind), draft.manifest, node)
    try:
        base, draft.dates = resolve_layer(draft, draft.graph.node(graph.BASE), ())
    except PlatformError as error:
        path = ("targets", draft.name) if draft.manifest.targets != DEFAULT_TARGETS else ("base",)
        message = f"{error.where}: {error.message}" if error.where else error.message
        raise ManifestError([draft.manifest.problem(path, message, error.hint or "")]) from None
    draft.layers.append(base)
    before = [content_of(target.base) for target in previous.targets.values()] if previous else []
    draft.moved = upgrade.everything or content_of(base) not in before


def _foresee(draft: Draft) -> None:
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
        if not stays(draft, node, old, below) or not moving.isdisjoint(layer.name for layer in below):
            if foresee and not any(layer.name in moving and layer.kind == node.kind for layer in below):
                foresee(request_of(draft, node, below))
            moving.add(node.name)


def _epoch(drafts: Sequence[Draft], others: Mapping[str, LockedTarget], previous: Lock | None) -> int:
    """The newest date of all bases. It moves only with a base, so that one package more rebuilds one layer."""
    moved = [max(draft.dates, default=NO_DATE) for draft in drafts if draft.moved]
    stay = previous is not None and (others or len(moved) < len(drafts))
    return max([*moved, previous.epoch] if previous is not None and stay else moved)


def _native_roots(
    manifest: Manifest, drafts: Sequence[Draft], others: Mapping[str, LockedTarget], epoch: int
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


def _resolve_target(draft: Draft, epoch: int, roots: Mapping[str, Lock]) -> LockedTarget:
    draft.world.epoch, draft.world.roots = epoch, roots
    draft.world.base = with_ids(draft.layers, epoch)[0]
    for node in draft.graph.nodes[1:]:
        draft.layers.append(resolve_layer(draft, node, draft.layers)[0])
    target = LockedTarget(
        name=draft.name, platform=draft.world.platform, layers=with_ids(draft.layers, epoch), request=draft.request
    )
    _check_count(target)
    return target


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
    draft = draft_of(session, manifest, name, layers=layers)
    layer, _ = resolve_layer(draft, draft.graph.node(graph.CODE), target.layers)
    return replace(target, layers=with_ids([*target.layers, layer], epoch))
