"""Images pushed to a registry: byte for byte what they are, or with layers packed for the journey.

Uncompressed, the manifest in the registry is the one that the image digest is of. Packed, it is another one, over the
same config and diff ids, whose digest is the transport digest; an annotation of it says the image digest.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from reprobox.crew import Crew, Errand, Progress
from reprobox.digest import Json, canonical, prefixed, sha256
from reprobox.image import CONFIG_TYPE, INDEX_TYPE, MANIFEST_TYPE, Descriptor, Image, Layer
from reprobox.oci.packed import NONE, known, pack
from reprobox.oci.push import Blob, Writer
from reprobox.store import Store

#: What the manifest of an image with packed layers says of the image that it is.
IMAGE_DIGEST = "reprobox.image-digest"
_AT_ONCE = 4  # layers, each with a scratch file of its own


@dataclass(frozen=True, kw_only=True, slots=True)
class Pushing:
    """An image on its way: its ``platform`` as OCI says it, and repositories of the registry that may have its base."""

    image: Image
    platform: str
    mounts: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Pushed:
    """What is in the registry now. Digests are sha256 hex: of what was pushed under the name, and of each manifest.

    ``sent`` counts the blobs that were not there, ``there`` those that were.
    """

    digest: str
    manifests: tuple[str, ...]
    sent: int
    there: int


def push(
    writer: Writer,
    store: Store,
    images: Sequence[Pushing],
    tag: str,
    progress: Progress,
    *,
    compression: str = NONE,
    index: bool = False,
) -> Pushed:
    """Push the images under ``tag``: one as itself, several as an index of platforms, which ``index`` asks for too.

    Raises :class:`PushError`, and :class:`FetchError` where the registry does not answer.
    """
    descriptors: dict[str, Descriptor] = {}
    counts: list[bool] = []
    tasks = [
        partial(_push_layer, writer, store, layer, (item.image.epoch, compression, item.mounts), descriptors, counts)
        for item in images
        for layer in item.image.layers
    ]
    tasks = list({task.args[2].descriptor.digest: task for task in tasks}.values())
    progress.start(sum(task.args[2].descriptor.size for task in tasks) if compression == NONE else 0, len(tasks))
    try:
        Crew().work(tasks, progress, _AT_ONCE)
    finally:
        progress.stop()
    several = index or len(images) > 1
    manifests = []
    for item in images:
        counts.append(writer.blob(Blob.of(item.image.config(), CONFIG_TYPE)))
        data = manifest(item.image, [descriptors[layer.descriptor.digest] for layer in item.image.layers])
        name = prefixed(sha256(data)) if several else tag
        manifests.append((writer.manifest(data, MANIFEST_TYPE, name), len(data), item.platform))
    digest = writer.manifest(_index(manifests), INDEX_TYPE, tag) if several else manifests[0][0]
    return Pushed(
        digest=digest, manifests=tuple(item[0] for item in manifests), sent=sum(counts), there=counts.count(False)
    )


def _push_layer(
    writer: Writer,
    store: Store,
    layer: Layer,
    how: tuple[int, str, Sequence[str]],
    descriptors: dict[str, Descriptor],
    counts: list[bool],
    errand: Errand,
) -> None:
    epoch, compression, mounts = how
    blob, sent = send_layer(writer, store, layer, epoch, compression, errand, mounts)
    descriptors[layer.descriptor.digest] = blob.descriptor
    counts.append(sent)
    errand.done(blob.digest)


def send_layer(
    writer: Writer,
    store: Store,
    layer: Layer,
    epoch: int,
    compression: str,
    errand: Errand,
    mounts: Sequence[str] = (),
) -> tuple[Blob, bool]:
    """Have one layer's blob in the registry, packed only where it is missing; whether it had to be sent."""
    blob = known(store, layer, compression)
    if blob is not None and (blob.path is not None or writer.has(blob.digest)):
        sent = writer.blob(blob, errand, mounts=mounts) if blob.path is not None else False
        if blob.path is None:
            errand.advance(blob.size)
        return blob, sent
    with store.scratch() as folder:
        blob = pack(store, layer, epoch, compression, folder / "layer")
        return blob, writer.blob(blob, errand)


def manifest(image: Image, layers: Sequence[Descriptor]) -> bytes:
    """The image's own manifest where ``layers`` are as they are in it; else the one over packed layers."""
    own = image.manifest()
    if [layer.descriptor for layer in image.layers] == list(layers):
        return own
    document: dict[str, Json] = json.loads(own)
    document["layers"] = [item.document() for item in layers]
    document["annotations"] = {IMAGE_DIGEST: prefixed(sha256(own))}
    return canonical(document)


def _index(manifests: Sequence[tuple[str, int, str]]) -> bytes:
    entries: list[Json] = []
    for digest, size, platform in manifests:
        os, _, rest = platform.partition("/")
        architecture, _, variant = rest.partition("/")
        said = {"os": os, "architecture": architecture} | ({"variant": variant} if variant else {})
        entry = Descriptor(media_type=MANIFEST_TYPE, digest=digest, size=size).document()
        entries.append({**entry, "platform": said})
    return canonical({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries})
