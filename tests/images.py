"""Small OCI images made by hand, entry by entry, so that a test can put anything into a layer."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import zstandard

GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
PLAIN = "application/vnd.oci.image.layer.v1.tar"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"

CREATED = "2024-05-06T07:08:09.123456789Z"
CREATED_SECONDS = 1714979289


def entry(
    name: str, data: bytes = b"", *, kind: bytes = tarfile.REGTYPE, mode: int = 0o644, **more: Any
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.size, info.mtime = kind, mode, len(data), 1_600_000_000
    for key, value in more.items():
        setattr(info, key, value)
    return info, data


def folder(name: str, mode: int = 0o755) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, kind=tarfile.DIRTYPE, mode=mode)


def link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, kind=tarfile.SYMTYPE, mode=0o777, linkname=target)


def hard(name: str, target: str, mode: int = 0o644) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, kind=tarfile.LNKTYPE, linkname=target, mode=mode)


def tar(*entries: tuple[tarfile.TarInfo, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:  # noqa: A002
    """The entries as given; names may hold surrogates for bytes that are not UTF-8."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format, errors="surrogateescape") as archive:
        for info, data in entries:
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def descriptor(data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest(data), "size": len(data), **more}


class Layout:
    """An OCI image layout that grows."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "blobs" / "sha256").mkdir(parents=True)
        (root / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        self.manifests: list[dict[str, Any]] = []

    def blob(self, data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
        found = descriptor(data, media_type, **more)
        (self.root / "blobs" / "sha256" / found["digest"].removeprefix("sha256:")).write_bytes(data)
        return found

    def image(
        self, *layers: bytes, platform: str = "linux/amd64", media_type: str = GZIP, **config: Any
    ) -> dict[str, Any]:
        """A manifest over ``layers``, which are uncompressed tars; its descriptor says the platform."""
        os_, architecture, *variant = platform.split("/")
        said = {"os": os_, "architecture": architecture, **({"variant": variant[0]} if variant else {})}
        document = {
            **said,
            "created": CREATED,
            "config": {"Env": ["PATH=/usr/bin", "A=b=c"], "Cmd": ["sh"], "WorkingDir": "/srv", **config},
            "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.blob(json.dumps(document).encode(), CONFIG),
            "layers": [self.blob(packed(layer, media_type), media_type) for layer in layers],
        }
        return self.blob(json.dumps(manifest).encode(), MANIFEST, platform=said)

    def index(self, *manifests: Mapping[str, Any]) -> dict[str, Any]:
        return self.blob(json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}).encode(), INDEX)

    def tag(self, manifest: Mapping[str, Any], name: str = "") -> Path:
        """Add the image to index.json under ``name``."""
        self.manifests.append(
            {**manifest, **({"annotations": {"org.opencontainers.image.ref.name": name}} if name else {})}
        )
        (self.root / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": self.manifests}))
        return self.root

    def path(self, found: Mapping[str, Any]) -> Path:
        return self.root / "blobs" / "sha256" / str(found["digest"]).removeprefix("sha256:")


def packed(layer: bytes, media_type: str) -> bytes:
    if media_type.endswith("gzip"):
        return gzip.compress(layer, mtime=0)
    return zstandard.compress(layer) if media_type.endswith("zstd") else layer


def layers(*trees: Sequence[tuple[tarfile.TarInfo, bytes]]) -> list[bytes]:
    return [tar(*entries) for entries in trees]
