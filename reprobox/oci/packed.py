"""Layers packed for a journey: made in a scratch folder, sent and thrown away; what they packed to is remembered.

Packed bytes differ between versions of the libraries that pack, so nothing is ever known by them: diff ids are.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from reprobox.digest import bare, prefixed
from reprobox.image import LAYER_TYPE, Hashed, Layer
from reprobox.oci.push import Blob
from reprobox.store import Store

NONE, GZIP, ZSTD = "none", "gzip", "zstd"
COMPRESSIONS = (NONE, GZIP, ZSTD)
_MEMO = "packed"
_LEVELS = {GZIP: 6, ZSTD: 3}


def known(store: Store, layer: Layer, compression: str) -> Blob | None:
    """The blob that a layer is or was packed to before, without its bytes; None where nobody knows."""
    if compression == NONE or layer.blob is not None:
        item = layer.descriptor
        return Blob(media_type=item.media_type, digest=item.digest, size=item.size, path=layer.blob)
    try:
        said = json.loads(store.memo(_MEMO, f"{layer.diff_id}.{compression}").read_bytes())
        return Blob(media_type=_type(compression), digest=bare(said["digest"]), size=int(said["size"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def pack(store: Store, layer: Layer, epoch: int, compression: str, path: Path) -> Blob:
    """Write the layer's blob to the new file ``path``."""
    with path.open("xb") as file:
        sink = Hashed(file)
        packer = _PACKERS[compression](sink)
        layer.write(packer, epoch)
        packer.finish()
    blob = Blob(media_type=_type(compression), digest=sink.hexdigest(), size=sink.size, path=path)
    if compression != NONE:
        said = json.dumps({"digest": prefixed(blob.digest), "size": blob.size})
        store.remember(_MEMO, f"{layer.diff_id}.{compression}", said.encode())
    return blob


def _type(compression: str) -> str:
    return LAYER_TYPE if compression == NONE else f"{LAYER_TYPE}+{compression}"


class _Packer(Protocol):
    def write(self, data: bytes, /) -> object: ...
    def finish(self) -> None: ...


class _Plain:
    def __init__(self, sink: Hashed) -> None:
        self.write = sink.write

    def finish(self) -> None:
        pass


class _Deflating:
    """Packs what is written with an object that has ``compress`` and ``flush``."""

    def __init__(self, sink: Hashed, pack: Callable[[bytes], bytes], flush: Callable[[], bytes]) -> None:
        self._sink = sink
        self._pack = pack
        self._flush = flush

    def write(self, data: bytes, /) -> None:
        if packed := self._pack(data):
            self._sink.write(packed)

    def finish(self) -> None:
        self._sink.write(self._flush())


def _gzip(sink: Hashed) -> _Packer:
    """RFC 1952 without a name and a time."""
    packer = zlib.compressobj(_LEVELS[GZIP], wbits=31)
    return _Deflating(sink, packer.compress, packer.flush)


def _zstd(sink: Hashed) -> _Packer:
    import zstandard

    packer = zstandard.ZstdCompressor(level=_LEVELS[ZSTD], write_checksum=True).compressobj()
    return _Deflating(sink, packer.compress, packer.flush)


_PACKERS: dict[str, Callable[[Hashed], _Packer]] = {NONE: _Plain, GZIP: _gzip, ZSTD: _zstd}
