"""One target while it is resolved: what is asked of each layer, which pins satisfy it, and what its kind finds else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from reprobox import graph, tables
from reprobox.digest import Json
from reprobox.errors import ResolveError
from reprobox.layers.kind import Kind, Resolution, ResolveRequest
from reprobox.lock import Lock, LockedLayer, ancestors, request_digest
from reprobox.manifest import IN_IMAGE, Manifest
from reprobox.pins import KEEP, Pins, Upgrade, match, old_target
from reprobox.session import Session
from reprobox.world import ProjectWorld


class Shared:
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
class Draft:
    """One target while it is resolved: the manifest narrowed to it, its graph, its old pins, and its layers so far."""

    name: str
    label: str  # "gpu: " where there are several targets
    request: str
    manifest: Manifest
    graph: graph.LayerGraph
    world: ProjectWorld
    pins: Pins
    shared: Shared
    layers: list[LockedLayer] = field(default_factory=list)
    dates: tuple[int, ...] = ()
    moved: bool = True  # whether its base is another one than before


def draft_of(
    session: Session,
    manifest: Manifest,
    name: str,
    previous: Lock | None = None,
    upgrade: Upgrade = KEEP,
    shared: Shared | None = None,
    *,
    layers: graph.LayerGraph | None = None,
) -> Draft:
    selected = manifest.select(name)
    platform = selected.targets[name].platform
    layers = layers or graph.build(selected, session.plugins.kinds)
    old = old_target(previous, name, platform, manifest.targets)
    asked = {node.name: (node.kind, _asked(selected, node)) for node in layers.nodes}
    return Draft(
        name=name,
        label=f"{name}: " if len(manifest.targets) > 1 else "",
        request=target_request(manifest, name),
        manifest=selected,
        graph=layers,
        world=ProjectWorld(session=session, platform=platform),
        pins=match(old.layers if old else (), asked, upgrade),
        shared=shared or Shared(),
    )


def target_request(manifest: Manifest, name: str) -> str:
    """Short digest of all that the manifest says of one target; empty where it is the only one."""
    return manifest.select(name).digest()[:16] if len(manifest.targets) > 1 else ""


def target_requests(manifest: Manifest, name: str) -> tuple[str, ...]:
    """All that a lock which fits may have for :func:`target_request`."""
    return tuple(digest[:16] for digest in manifest.select(name).digests()) if len(manifest.targets) > 1 else ("",)


def key_of(draft: Draft, node: graph.Node) -> str:
    """Where the manifest asks for the node, for messages."""
    if node.name != graph.BASE:
        return f"layers[{node.layer.index}]"
    return f"targets.{draft.name}.base" if draft.manifest.targets[draft.name].base is not None else "base"


def files_read(session: Session, kind: Any, manifest: Manifest, node: graph.Node) -> dict[str, Json]:
    """``files``: digests of the local files that say what a layer asks for, by path; nothing where there are none."""
    reads = getattr(kind, "reads", None)
    found = reads(manifest, node.layer, session.project) if reads and node.layer.options is not None else {}
    return {"files": dict(found)} if found else {}


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


def content_of(layer: LockedLayer) -> list[Json]:
    files: list[Json] = [[item.type, item.name, item.sha256] for item in layer.inputs]
    return [layer.kind, layer.recipe, files, dict(layer.options)]


def request_of(draft: Draft, node: graph.Node, below: tuple[LockedLayer, ...]) -> ResolveRequest:
    return ResolveRequest(
        manifest=draft.manifest,
        layer=node.layer,
        key=key_of(draft, node),
        platform=draft.world.platform,
        below=below,
        previous=draft.pins.offered(node.name, node.kind, below),
        upgrade=draft.pins.upgrade.everything,
        world=draft.world,  # type: ignore[arg-type]  # properties stand for the protocol's attributes
    )


def stays(draft: Draft, node: graph.Node, old: LockedLayer, below: Sequence[LockedLayer]) -> bool:
    """Whether an old layer is what is asked for, over these layers."""
    files = files_read(draft.world.session, draft.world.session.kind(node.kind), draft.manifest, node)
    asked = {
        "layer": _asked(draft.manifest, node, name=old.name),
        "below": [content_of(item) for item in below],
        **files,
    }
    return old.request == request_digest(asked) and not draft.pins.upgrade.touches(old)


def resolve_layer(draft: Draft, node: graph.Node, done: Sequence[LockedLayer]) -> tuple[LockedLayer, tuple[int, ...]]:
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
    files = files_read(session, kind, draft.manifest, node)
    given: dict[str, Json] = {"below": [content_of(item) for item in below], **files}
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
    found = _resolved(kind, draft, request_of(draft, node, below))
    locked = replace(layer, inputs=found.inputs, options=found.options, facts={**found.facts, **files})
    draft.shared.add(locked, platform, found.dates)
    return locked, found.dates


def _resolved(kind: Kind, draft: Draft, request: ResolveRequest) -> Resolution:
    """What the kind finds; where it finds nothing, it is told for which of several targets."""
    try:
        return kind.resolve(request)
    except ResolveError as error:
        if draft.label and error.where:
            error.message = f"target {draft.name!r}: {error.message}"
        raise


def _known(
    draft: Draft, node: graph.Node, layer: LockedLayer, given: Mapping[str, Json]
) -> tuple[LockedLayer, tuple[int, ...]] | None:
    """Pins that satisfy what is asked: the target's own, under an older name too; else what another target has."""
    old = draft.pins.matched.get(node.name)
    if old is not None and not draft.pins.upgrade.touches(old):
        under_old_name = request_digest({"layer": _asked(draft.manifest, node, name=old.name), **given})
        if (old.request, old.kind, old.recipe) == (under_old_name, layer.kind, layer.recipe):
            return old, ()
    return draft.shared.get(layer, draft.world.platform)
