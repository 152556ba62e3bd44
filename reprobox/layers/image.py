"""``image`` and ``oci``: a base that somebody built, from a registry or from an OCI layout on this machine.

Both are locked as the blobs that they are: manifest, config and layers by hash. The index that named the manifest is
told, not locked, so that an image for another platform can change without a rebuild here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from reprobox import oci
from reprobox.digest import Json, prefixed, sha256
from reprobox.errors import FetchError, IntegrityError, ManifestError
from reprobox.image import INDEX_TYPE, Descriptor
from reprobox.layers.kind import Resolution, ResolveRequest, StepRequest, Verbatim
from reprobox.lock import Input
from reprobox.manifest import Base, Layer
from reprobox.registry import Reference
from reprobox.unpack import Archive, unpack

_MANIFEST, _CONFIG = "manifest.json", "config.json"
_SUFFIXES = {"+gzip": ".tar.gz", "+zstd": ".tar.zst"}


class _Base:
    """What the two kinds share: how they are built."""

    recipe = 1
    options = Base

    def needs(self, layer: Layer, above: Sequence[Layer]) -> tuple[str, ...]:  # noqa: ARG002 - the protocol's names
        """A base stands on nothing."""
        return ()

    def step(self, request: StepRequest) -> Verbatim:
        """Unpack the layers over each other, each checked against the diff id that the config has for it."""
        where = request.layer.name
        manifest = oci.read_manifest(request.files[_MANIFEST].read_bytes(), "", where)
        assert isinstance(manifest, oci.Manifest)
        config = oci.read_config(request.files[_CONFIG].read_bytes(), manifest, request.platform, where)
        layers = [
            (request.files[_layer_name(number, item)], item.media_type) for number, item in enumerate(manifest.layers)
        ]
        archives = [
            Archive(path=path, diff_id=diff_id) for (path, _), diff_id in zip(layers, config.diff_ids, strict=True)
        ]
        return Verbatim(unpack=partial(_unpack, archives), config=request.files[_CONFIG], layers=tuple(layers))


class Image(_Base):
    """The kind: ``[base] image = "python:3.11-slim"``."""

    name = "image"
    pinned = True

    def resolve(self, request: ResolveRequest) -> Resolution:
        """Ask the registry what the name stands for now."""
        reference = Reference.parse(request.manifest.base.reference)
        found = request.world.registries.image(reference, request.platform)
        for document in found.documents.values():
            request.world.store.add_blob(document)
        return _resolution(found, {"reference": str(reference)}, {"repository": reference.name})


class OciLayout(_Base):
    """The kind: ``[base] oci = "layout/"``. The layout is read anew each time, so a changed one stales the lock."""

    name = "oci"
    pinned = False

    def sources(self, layer: Layer) -> tuple[str, ...]:
        """The layout's index: it names all else by hash."""
        return (f"{layer.options.reference}/index.json",)

    def resolve(self, request: ResolveRequest) -> Resolution:
        """Find the image for the platform; its blobs are fetched from the layout when they are needed."""
        path = request.manifest.base.reference
        folder = (request.world.project / path).absolute()
        if not (folder / "index.json").is_file():
            hint = "give a folder with `oci-layout`, `index.json` and `blobs/`, as skopeo and buildah write it"
            problem = request.manifest.problem(("base", "oci"), f"there is no OCI image layout at {path}", hint)
            raise ManifestError([problem])
        chosen = _chosen((folder / "index.json").read_bytes(), request.platform, str(folder))
        read = partial(_blob, folder)
        found = oci.open_image(read(chosen), chosen.media_type, read, request.platform, str(folder))
        resolution = _resolution(found, {"path": path}, {})
        for item in resolution.inputs:
            request.world.remember(item, [_blob_path(folder, item.sha256, item.size).as_uri()])
        return resolution


def _resolution(found: oci.Image, origin: dict[str, Json], hints: dict[str, str]) -> Resolution:
    described = [(_MANIFEST, found.descriptor), (_CONFIG, found.manifest.config)]
    described += [(_layer_name(number, item), item) for number, item in enumerate(found.manifest.layers)]
    inputs = tuple(
        Input(
            type="blob", name=name, sha256=item.digest, size=item.size, facts={"media_type": item.media_type, **hints}
        )
        for name, item in described
    )
    facts: dict[str, Json] = {**origin, "config": found.config.settings, "created": found.config.created}
    if found.index:
        facts["index"] = prefixed(found.index)
    return Resolution(inputs=inputs, facts=facts, dates=(found.config.created,) if found.config.created else ())


def _layer_name(number: int, layer: Descriptor) -> str:
    """``layer-000.tar.gz``: the number keeps the order, and names are part of the layer id."""
    suffix = next((ending for kind, ending in _SUFFIXES.items() if layer.media_type.endswith(kind)), ".tar")
    return f"layer-{number:03}{suffix}"


def _unpack(archives: Sequence[Archive], tree: Path) -> None:
    unpack(tree, archives)


def _chosen(data: bytes, platform: str, where: str) -> Descriptor:
    """What a layout's ``index.json`` offers, if it leaves no choice: it may hold images with names of their own."""
    index = oci.read_manifest(data, INDEX_TYPE, where)
    if not isinstance(index, oci.Index):
        raise FetchError("its index.json is no index", where=where)
    wanted = oci.Platform.parse(platform)
    fitting = {item.digest: item for item, found in index.manifests if found is None or wanted.runs(found)}
    if len(fitting) > 1:
        raise FetchError(
            f"the layout holds {len(fitting)} images for {platform}",
            where=where,
            hint="copy the one you want into a layout of its own: skopeo copy oci:LAYOUT:NAME oci:OTHER",
        )
    return next(iter(fitting.values())) if fitting else index.select(platform, where)


def _blob_path(folder: Path, digest: str, size: int) -> Path:
    path = folder / "blobs" / "sha256" / digest
    if not path.is_file():
        raise FetchError(
            f"the layout lacks the blob {prefixed(digest)}", where=str(folder), hint="copy the image again"
        )
    if path.stat().st_size != size:
        raise IntegrityError("the blob has another size than the layout says", where=str(path), hint="copy it again")
    return path


def _blob(folder: Path, item: Descriptor) -> bytes:
    path = _blob_path(folder, item.digest, item.size)
    if item.size > oci.MOST_CONFIG:
        raise FetchError(f"the document has {item.size} bytes, more than {oci.MOST_CONFIG}", where=str(path))
    data = path.read_bytes()
    if sha256(data) != item.digest:
        raise IntegrityError(f"the blob has other bytes: their sha256 is {sha256(data)}", where=str(path))
    return data
