"""``docker-daemon``: a base that is an image of the container engine on this machine, Docker or Podman.

It is locked as its config and layers, as an archive is, and like the tag of a registry it is kept until it is asked to
move: whoever builds the same name anew locks again with ``--upgrade``. What is locked stays in the store; where it went
from there, the engine is asked for the image by its id.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from reprobox.base_reference import DAEMON
from reprobox.download.transfer import Location, Watch
from reprobox.errors import BackendError, FetchError, cannot_write
from reprobox.layers.image import ImageBase, resolution
from reprobox.layers.kind import Resolution, ResolveRequest
from reprobox.lock import Input
from reprobox.oci.image_archive import choose, contents, extract
from reprobox.store import Store

if TYPE_CHECKING:
    from reprobox.oci.container_engine import Engine

_FACT = "engine"  # of an input: the id of the engine's image that has it
_CHUNK = 1 << 20


class EngineImage(ImageBase):
    """The kind: ``[base] image = "docker-daemon:name:tag"``."""

    name = "docker-daemon"
    pinned = True

    def resolve(self, request: ResolveRequest) -> Resolution:
        """Ask the engine what the name stands for now, and take the image from it."""
        reference, store = request.manifest.base.reference, request.world.store
        engine = _engine()
        identity = engine.image_id(reference)
        where = f"{DAEMON}{reference}"
        with store.scratch() as folder:
            archive = _saved(engine, identity, folder)
            held = contents(archive)
            found = choose(held, None, request.platform, where)
            for layer in found.manifest.layers:
                _keep(store, layer.digest, extract(archive, held, layer.digest), folder)
        for document in found.documents.values():
            store.add_blob(document)
        return resolution(found, {"reference": where, "id": identity}, {_FACT: identity})


def _engine() -> Engine:
    """The one on this machine. An HTTP client takes a while to load, for a kind that few projects have."""
    from reprobox.oci.container_engine import Engine, find

    return Engine(find())


def _saved(engine: Engine, identity: str, folder: Path) -> Path:
    path = folder / "image.tar"
    try:
        with path.open("wb") as file:
            engine.save(identity, file)
    except OSError as error:
        raise cannot_write(path, error) from None
    return path


def _keep(store: Store, digest: str, pieces: Iterable[bytes], folder: Path) -> None:
    """Publish a blob whose hash was checked when the archive was read."""
    if store.has_blob(digest):
        return
    path = folder / digest
    try:
        with path.open("wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        store.adopt(path, digest)
    except OSError as error:
        raise cannot_write(path, error) from None


class EngineProvider:
    """Takes locked blobs from the engine that they were locked from, if it still has the image."""

    name = "container engine"

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()

    def locate(self, inputs: Sequence[Input]) -> Mapping[str, Sequence[Location]]:
        """One place for each input that is from an engine's image. The engine is asked when it is needed."""
        wanted = [item for item in inputs if item.type == "blob" and _FACT in item.facts]
        return {item.sha256: [self._location(item)] for item in wanted}

    def _location(self, item: Input) -> Location:
        identity = item.facts[_FACT]
        return Location(
            url="file:///",
            label=f"{DAEMON}{identity}",
            make=partial(self._make, identity, item.sha256),
            ask=partial(self._ask, identity),
        )

    def _ask(self, identity: str) -> int:
        """Whether the engine still has the image; whether that has the same layers is known when it gives them."""
        _engine().image_id(identity)
        return -1

    def _make(self, identity: str, digest: str, write: Callable[[bytes], None], _: Watch) -> None:
        with self._lock:  # one archive has all that is missing
            if not self._store.has_blob(digest):
                self._take(identity)
        if not self._store.has_blob(digest):
            raise FetchError("the engine's image has other layers than those that are locked", where=identity)
        with self._store.blob(digest).open("rb") as file:
            while data := file.read(_CHUNK):
                write(data)

    def _take(self, identity: str) -> None:
        """Everything that the engine's image is made of."""
        try:
            engine = _engine()
            with self._store.scratch() as folder:
                archive = _saved(engine, engine.image_id(identity), folder)
                held = contents(archive)
                for member in held.members.values():
                    _keep(self._store, member.sha256, extract(archive, held, member.sha256), folder)
        except BackendError as error:
            raise FetchError(error.message, where=f"{DAEMON}{identity}", hint=error.hint) from None
        except FetchError as error:
            hint = "load the image into it again (`docker load`, `docker pull`), or run `reprobox lock --upgrade`"
            raise FetchError(error.message, where=f"{DAEMON}{identity}", hint=hint) from None
