"""``image`` and ``oci``: a base that somebody built, from a registry or from an OCI layout on this machine.

Both are locked as the blobs that they are: manifest, config and layers by hash. The index that named the manifest is
told, not locked, so that an image for another platform can change without a rebuild here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from reprobox.archives.unpack import Archive, unpack
from reprobox.digest import Json, prefixed, sha256
from reprobox.errors import FetchError, IntegrityError, ManifestError
from reprobox.image import CONFIG_TYPE, LAYER_TYPE, Descriptor
from reprobox.layers.kind import Resolution, ResolveRequest, StepRequest, Verbatim
from reprobox.lock import Input
from reprobox.manifest import Base, Layer
from reprobox.oci import documents as oci
from reprobox.oci.image_archive import SAY_WHICH, in_index, is_named
from reprobox.oci.registry import Reference

_MANIFEST, CONFIG = "manifest.json", "config.json"
_SUFFIXES = {"+gzip": ".tar.gz", "+zstd": ".tar.zst", "": ".tar"}


class ImageBase:
    """What kinds share whose bases are images: how they are built."""

    recipe = 1
    options = Base

    def needs(self, layer: Layer, above: Sequence[Layer]) -> tuple[str, ...]:  # noqa: ARG002 - the protocol's names
        """A base stands on nothing."""
        return ()

    def step(self, request: StepRequest) -> Verbatim:
        """Unpack the layers over each other, each checked against the diff id that the config has for it."""
        where = request.layer.name
        manifest = _manifest(request, where)
        config = oci.read_config(request.files[CONFIG].read_bytes(), manifest, request.platform, where)
        layers = [
            (request.files[layer_name(number, item)], item.media_type) for number, item in enumerate(manifest.layers)
        ]
        archives = [
            Archive(path=path, diff_id=diff_id) for (path, _), diff_id in zip(layers, config.diff_ids, strict=True)
        ]
        return Verbatim(unpack=partial(_unpack, archives), config=request.files[CONFIG], layers=tuple(layers))


def _manifest(request: StepRequest, where: str) -> oci.Manifest:
    """The image's manifest; where none is locked, what the names of the inputs say: they are part of the layer id."""
    if _MANIFEST in request.files:
        manifest = oci.read_manifest(request.files[_MANIFEST].read_bytes(), "", where)
        assert isinstance(manifest, oci.Manifest)
        return manifest
    blobs = {
        item.name: Descriptor(media_type=_media_type(item.name), digest=item.sha256, size=item.size)
        for item in request.layer.inputs
    }
    config = blobs.pop(CONFIG)
    return oci.Manifest(config=config, layers=tuple(blobs.values()))


def _media_type(name: str) -> str:
    if name == CONFIG:
        return CONFIG_TYPE
    return next(LAYER_TYPE + kind for kind, ending in _SUFFIXES.items() if name.endswith(ending))


class Image(ImageBase):
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


class OciLayout(ImageBase):
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
        found = in_layout(folder, request.manifest.base.name, request.platform)
        resolution = _resolution(found, {"path": path}, {})
        for item in resolution.inputs:
            request.world.remember(item, [_blob_path(folder, item.sha256, item.size).as_uri()])
        return resolution


def in_layout(folder: Path, name: str | None, platform: str) -> oci.Image:
    """The image called ``name`` for a platform in the layout ``folder``; without a name, the only one.

    Raises :class:`FetchError`, and :class:`IntegrityError` for documents that are not what their hash says.
    """
    try:
        index = (folder / "index.json").read_bytes()
    except OSError as error:
        hint = "copy the layout again, whole"
        raise FetchError(f"its index.json cannot be read: {error.strerror}", where=str(folder), hint=hint) from None
    chosen = _chosen(index, name, platform, str(folder))
    read = partial(_blob, folder)
    return oci.open_image(read(chosen), chosen.media_type, read, platform, str(folder))


def _resolution(found: oci.Image, origin: dict[str, Json], hints: dict[str, str]) -> Resolution:
    manifest = input_of(_MANIFEST, found.descriptor, hints)
    without = resolution(found, origin, hints)
    return replace(without, inputs=(manifest, *without.inputs))


def resolution(found: oci.Image, origin: Mapping[str, Json], hints: Mapping[str, str]) -> Resolution:
    """What an image is locked as where its manifest does not count: config and layers.

    ``origin`` are facts of the layer, ``hints`` of each input.
    """
    described = [(CONFIG, found.manifest.config)]
    described += [(layer_name(number, item), item) for number, item in enumerate(found.manifest.layers)]
    facts: dict[str, Json] = {**origin, "config": found.config.settings, "created": found.config.created}
    if found.index:
        facts["index"] = prefixed(found.index)
    return Resolution(
        inputs=tuple(input_of(name, item, hints) for name, item in described),
        facts=facts,
        dates=(found.config.created,) if found.config.created else (),
    )


def input_of(name: str, item: Descriptor, hints: Mapping[str, str]) -> Input:
    """A blob as an input."""
    return Input(
        type="blob", name=name, sha256=item.digest, size=item.size, facts={"media_type": item.media_type, **hints}
    )


def layer_name(number: int, layer: Descriptor) -> str:
    """``layer-000.tar.gz``: the number keeps the order, and names are part of the layer id."""
    suffix = next((ending for kind, ending in _SUFFIXES.items() if layer.media_type.endswith(kind)), ".tar")
    return f"layer-{number:03}{suffix}"


def _unpack(archives: Sequence[Archive], tree: Path) -> Mapping[bytes, str]:
    return unpack(tree, archives).contents


def _chosen(data: bytes, name: str | None, platform: str, where: str) -> Descriptor:
    """What a layout's ``index.json`` has under a name, or if it leaves no choice: it may hold several images."""
    images = in_index(data, platform, where)
    wanted = [item for item, names in images if name is None or is_named(name, names)]
    if len(wanted) == 1:
        return wanted[0]
    listing = ", ".join(sorted({other for _, names in images for other in names})) or "none with a name"
    if not wanted:
        message = f"the layout has no image {name!r} for {platform}; it has {listing}"
    else:
        message = f"the layout holds {len(wanted)} images for {platform}: {listing}"
    raise FetchError(message, where=where, hint=SAY_WHICH)


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
