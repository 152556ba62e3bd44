"""The layers of a lock, joined into the environment that a backend realizes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from reprobox import image
from reprobox.backend import ImageLayer
from reprobox.building import stored_layer
from reprobox.digest import Entry, read_index, tree_digest
from reprobox.errors import BuildError
from reprobox.lock import LockedLayer, LockedTarget, ancestors
from reprobox.manifest import IN_IMAGE
from reprobox.store import Store, StoredLayer
from reprobox.tree import Tree


@dataclass(frozen=True, kw_only=True, slots=True)
class Outside:
    """A layer that is no part of the image, as locked and as stored."""

    layer: LockedLayer
    stored: StoredLayer


@dataclass(frozen=True, kw_only=True, slots=True)
class Environment:
    """A target whose layers are all in the store: the image it is, and both digests (sha256 hex).

    ``target`` and ``layers`` are the image's; ``outside`` are layers that stand on it and are no part of it. ``shared``
    has the shared stores that layers are used from, by layer id.
    """

    target: LockedTarget
    layers: tuple[ImageLayer, ...]
    records: tuple[Mapping[str, Any], ...]
    image: image.Image
    tree_digest: str
    shared: Mapping[str, Path] = field(default_factory=dict)
    outside: tuple[Outside, ...] = ()

    @property
    def image_digest(self) -> str:
        return self.image.digest()

    def layer_ids(self) -> list[str]:
        """Of all layers, those outside the image too."""
        return [*(layer.id for layer in self.layers), *(item.layer.id for item in self.outside)]

    def diff_ids(self) -> dict[str, str]:
        """``sha256:`` diff ids by layer name, of layers outside the image too."""
        records = {layer.name: record for layer, record in zip(self.layers, self.records, strict=True)}
        records |= {item.layer.name: item.stored.record for item in self.outside}
        return {name: f"sha256:{record['diff_id']}" for name, record in records.items()}


def assemble(store: Store, target: LockedTarget, epoch: int, settings: Callable[[Any], image.Settings]) -> Environment:
    """Join the stored layers of ``target``. ``settings`` makes the image's settings from the base image's config.

    Raises :class:`BuildError` when two layers that do not stand on one another touch one path.
    """
    others = (layer for layer in target.layers if layer.placement != IN_IMAGE)
    outside = tuple(Outside(layer=layer, stored=stored_layer(store, layer)) for layer in others)
    target = replace(target, layers=target.image_layers)
    stored = [stored_layer(store, layer) for layer in target.layers]
    indexes = [read_index(layer.index.read_bytes()) for layer in stored]
    _check_overlaps(target, indexes)
    merged = Tree.merged(indexes)
    return Environment(
        target=target,
        layers=tuple(
            ImageLayer(id=layer.id, name=locked.name, tree=layer.tree, index=layer.index)
            for locked, layer in zip(target.layers, stored, strict=True)
        ),
        records=tuple(layer.record for layer in stored),
        image=image.Image(
            settings=settings(stored[0].record.get("config", {})),
            layers=tuple(itertools.chain.from_iterable(_image_layers(store, layer) for layer in stored)),
            epoch=epoch,
        ),
        tree_digest=tree_digest(merged.entries.values()),
        shared={layer.id: layer.shared for layer in stored if layer.shared is not None},
        outside=outside,
    )


def _check_overlaps(target: LockedTarget, indexes: Sequence[Sequence[Entry]]) -> None:
    """Layers that may be built side by side must not touch one path: how they are stacked would decide the result."""
    owner: dict[bytes, tuple[str, Entry]] = {}
    for layer, index in list(zip(target.layers, indexes, strict=True))[1:]:
        below = frozenset(item.name for item in ancestors(target.layers, layer.name))
        for entry in index:
            other, found = owner.get(entry.path, ("", entry))
            if other and other not in below and (entry.kind != "d" or entry != found):
                path = entry.path.decode(errors="replace")
                raise BuildError(
                    f"layers {other!r} and {layer.name!r} both write /{path}, and neither stands on the other",
                    hint=f'say which comes first: add `after = ["{other}"]` to layer {layer.name!r}',
                )
            owner[entry.path] = (layer.name, entry)


def _image_layers(store: Store, layer: StoredLayer) -> Iterator[image.Layer]:
    verbatim = layer.record.get("verbatim")
    if verbatim is None:
        descriptor = image.Descriptor(
            media_type=image.LAYER_TYPE, digest=layer.record["diff_id"], size=layer.record["size"]
        )
        yield image.Layer(descriptor=descriptor, diff_id=layer.record["diff_id"], tree=layer.tree, index=layer.index)
        return
    for blob in verbatim:
        descriptor = image.Descriptor(media_type=blob["media_type"], digest=blob["digest"], size=blob["size"])
        yield image.Layer(descriptor=descriptor, diff_id=blob["diff_id"], blob=store.blob(blob["digest"]))
