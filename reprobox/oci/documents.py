"""OCI documents as others wrote them: which manifest an index offers for a platform, and what a manifest is made of.

Docker's types of the same documents are read too; its first schema, which has no digests to rely on, is refused.

Sources: OCI Image Format Specification v1.1 (image-index, manifest, config); Docker image manifest v2, schema 2.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from reprobox.digest import Json, bare, sha256
from reprobox.errors import FetchError, PlatformError
from reprobox.image import CONFIG_TYPE, INDEX_TYPE, LAYER_TYPE, MANIFEST_TYPE, Descriptor

_DOCKER = "application/vnd.docker"
INDEX_TYPES = (INDEX_TYPE, f"{_DOCKER}.distribution.manifest.list.v2+json")
MANIFEST_TYPES = (MANIFEST_TYPE, f"{_DOCKER}.distribution.manifest.v2+json")
_CONFIG_TYPES = (CONFIG_TYPE, f"{_DOCKER}.container.image.v1+json")
#: Types of layers that are read, to OCI's name for them.
_LAYER_TYPES = {
    said: LAYER_TYPE + suffix
    for suffix in ("", "+gzip", "+zstd")
    for said in (LAYER_TYPE + suffix, f"{_DOCKER}.image.rootfs.diff.tar{suffix.replace('+', '.')}")
}
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
#: What a missing variant means; of several that a machine can run, the highest is chosen.
_VARIANTS = {"amd64": 1, "arm": 7, "arm64": 8}

_NESTED = 4

#: Largest documents that are read, in bytes. Registries refuse larger manifests (OCI Distribution Specification,
#: "Pushing Manifests"); no engine writes larger configs.
MOST_MANIFEST = 4 << 20
MOST_CONFIG = 8 << 20


@dataclass(frozen=True, slots=True)
class Platform:
    """``linux/arm64`` or ``linux/arm/v7``, as OCI writes operating system, architecture and variant."""

    os: str
    architecture: str
    variant: str = ""

    @classmethod
    def parse(cls, text: str) -> Platform:
        return cls(*text.split("/", 2))

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))

    def rank(self) -> int:
        """Higher for variants that need a newer machine."""
        number = re.match(r"v(\d+)", self.variant)
        return int(number[1]) if number else _VARIANTS.get(self.architecture, 0)

    def runs(self, other: Platform) -> bool:
        """Whether a machine of this platform runs an image of ``other``."""
        return (self.os, self.architecture) == (other.os, other.architecture) and other.rank() <= self.rank()


@dataclass(frozen=True, kw_only=True, slots=True)
class Index:
    """The images of one name, each with the platform it is for, where the index says so."""

    manifests: tuple[tuple[Descriptor, Platform | None], ...]

    def select(self, platform: str, where: str) -> Descriptor:
        """The best image for ``platform``. Raises :class:`PlatformError` that lists the platforms there are."""
        wanted = Platform.parse(platform)
        fitting = [(found.rank(), item) for item, found in self.manifests if found and wanted.runs(found)]
        if fitting:
            return max(fitting, key=lambda pair: pair[0])[1]
        unsaid = [item for item, found in self.manifests if found is None]
        if len(unsaid) == 1:
            return unsaid[0]
        there = dict.fromkeys(str(found) for _, found in self.manifests if found and found.os != "unknown")
        raise PlatformError(
            f"it has no image for {platform}; it has {', '.join(there) or 'none for any platform'}",
            where=where,
            hint="choose a name or tag that has this platform, or set `platform` in [targets] to one that is there",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What one image is made of: its config and its layer blobs, lowest first, with OCI's names for their types."""

    config: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """The parts of an image's config that reprobox uses.

    ``diff_ids`` are hex; ``created`` is in unix seconds, 0 if unknown; ``settings`` is what containers inherit, where
    it says something: ``Env``, ``Entrypoint``, ``Cmd``, ``User``, ``WorkingDir``, ``StopSignal``, names of ``Volumes``.
    """

    platform: Platform
    diff_ids: tuple[str, ...]
    created: int
    settings: Mapping[str, Json]


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """An image for one platform, found: ``index`` is the digest (hex) of the index that named it, if one did.

    ``documents`` are the bytes of manifest and config by their sha256 hex.
    """

    index: str
    descriptor: Descriptor
    manifest: Manifest
    config: Config
    documents: Mapping[str, bytes]


def open_image(data: bytes, media_type: str, read: Callable[[Descriptor], bytes], platform: str, where: str) -> Image:
    """From an index or a manifest to the image for ``platform``; ``read`` gives documents whose hash it has checked."""
    descriptor = Descriptor(media_type=media_type, digest=sha256(data), size=len(data))
    index = ""
    found = read_manifest(data, media_type, where)
    for _ in range(_NESTED):
        if isinstance(found, Manifest):
            break
        index = index or descriptor.digest
        descriptor = found.select(platform, where)
        data = read(descriptor)
        found = read_manifest(data, descriptor.media_type, where)
    if isinstance(found, Index):
        raise FetchError("it is an index of indices without end", where=where)
    text = read(found.config)
    return Image(
        index=index,
        descriptor=replace(descriptor, media_type=_declared_type(data, descriptor.media_type)),
        manifest=found,
        config=read_config(text, found, platform, where),
        documents={descriptor.digest: data, found.config.digest: text},
    )


def _declared_type(data: bytes, otherwise: str) -> str:
    return str(json.loads(data).get("mediaType") or otherwise.partition(";")[0].strip() or MANIFEST_TYPE)


def read_manifest(data: bytes, media_type: str, where: str) -> Index | Manifest:
    """The document, whose type is taken from itself and, where it does not say, from ``media_type``.

    Raises :class:`FetchError` for anything that is not an image.
    """
    document = _object(data, where)
    kind = document.get("mediaType") or media_type.partition(";")[0].strip()
    if document.get("schemaVersion") == 1 or "fsLayers" in document:
        raise FetchError(
            "it is stored in Docker's first image format, which nothing can check or lock",
            where=where,
            hint="push it again with any current tool (`docker pull`, `docker push`), or choose a newer tag",
        )
    try:
        if kind in INDEX_TYPES or (kind not in MANIFEST_TYPES and "manifests" in document):
            return Index(manifests=tuple((_descriptor(item), _platform(item)) for item in document["manifests"]))
        return _manifest(document, where)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FetchError(f"it is not an OCI manifest: {_said(error)}", where=where) from None


def open_artifact(data: bytes, types: Sequence[str], where: str) -> Descriptor:
    """The only layer of an artifact, which must be of one of these types. Raises :class:`FetchError` otherwise."""
    document = _object(data, where)
    try:
        layers = [_descriptor(item) for item in document.get("layers") or ()]
        config = str((document.get("config") or {}).get("mediaType"))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FetchError(f"it is not an OCI manifest: {_said(error)}", where=where) from None
    fitting = [layer for layer in layers if layer.media_type in types]
    if len(fitting) == 1:
        return fitting[0]
    if config in _CONFIG_TYPES or "manifests" in document:
        raise FetchError("it is a container image, not a SIF", where=where, hint=f'write image = "{where}"')
    there = ", ".join(layer.media_type for layer in layers) or "nothing"
    raise FetchError(f"it holds {there}, and one file of type {types[0]} is needed", where=where, hint=_PUSH)


_PUSH = "push the SIF again: `apptainer push base.sif oras://…`"


def _manifest(document: Mapping[str, Any], where: str) -> Manifest:
    config = _descriptor(document["config"])
    layers = tuple(map(_descriptor, document["layers"]))
    if config.media_type not in _CONFIG_TYPES:
        raise FetchError(f"it is not a container image but {config.media_type}", where=where)
    for layer in layers:
        if layer.media_type not in _LAYER_TYPES:
            raise FetchError(f"it has a layer that cannot be used, of type {layer.media_type}", where=where)
    return Manifest(
        config=config, layers=tuple(replace(layer, media_type=_LAYER_TYPES[layer.media_type]) for layer in layers)
    )


def read_config(data: bytes, manifest: Manifest, platform: str, where: str) -> Config:
    """The image's config, checked against its manifest and the platform that is wanted."""
    document = _object(data, where)
    try:
        found = Platform(document["os"], document["architecture"], document.get("variant") or "")
        diff_ids = tuple(_digest(value) for value in document["rootfs"]["diff_ids"])
        settings = _settings(document.get("config") or {})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FetchError(f"it has no usable image config: {_said(error)}", where=where) from None
    if len(diff_ids) != len(manifest.layers):
        raise FetchError(f"its config names {len(diff_ids)} layers, its manifest {len(manifest.layers)}", where=where)
    if not Platform.parse(platform).runs(found):
        raise PlatformError(
            f"it is an image for {found}, not for {platform}",
            where=where,
            hint="choose a name or tag that has this platform, or set `platform` in [targets]",
        )
    return Config(platform=found, diff_ids=diff_ids, created=_seconds(document.get("created")), settings=settings)


def _settings(said: Mapping[str, Any]) -> dict[str, Json]:
    """The known keys that say something, each of the type that it must have."""
    found: dict[str, Json] = {}
    for name in ("Env", "Entrypoint", "Cmd"):
        if said.get(name):
            found[name] = [_text(item) for item in said[name]]
    for name in ("User", "WorkingDir", "StopSignal"):
        if said.get(name):
            found[name] = _text(said[name])
    if said.get("Volumes"):
        found["Volumes"] = sorted(map(_text, said["Volumes"]))
    return found


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a string, found {value!r}"[:200])
    return value


def _object(data: bytes, where: str) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise FetchError("it is not an OCI document: it is no JSON object", where=where)
    return document


def _descriptor(item: Mapping[str, Any]) -> Descriptor:
    size = item["size"]
    if type(size) is not int or size < 0:
        raise ValueError(f"bad size {size!r}")
    return Descriptor(media_type=str(item["mediaType"]), digest=_digest(item["digest"]), size=size)


def _digest(value: str) -> str:
    if not _DIGEST.fullmatch(value):
        raise ValueError(f"bad digest {value[:80]!r}")
    return bare(value)


def _platform(item: Mapping[str, Any]) -> Platform | None:
    said = item.get("platform")
    return Platform(str(said["os"]), str(said["architecture"]), str(said.get("variant") or "")) if said else None


def _seconds(created: object) -> int:
    """Unix seconds of an RFC 3339 time; 0 where builders wrote none, or one before 1970."""
    try:
        return max(0, int(dt.datetime.fromisoformat(str(created)).timestamp()))
    except (ValueError, OverflowError):
        return 0


def _said(error: Exception) -> str:
    return f"no {error}" if isinstance(error, KeyError) else str(error)
