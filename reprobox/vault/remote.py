"""A vault in a registry: one tag for each lock, whose manifest is the one that a folder has for it.

Pushed blob by blob; what is there already is not sent. Read through the same door as a folder: each blob is downloaded
when it is asked for, into the store's scratch.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from reprobox.digest import sha256
from reprobox.download.downloader import Downloader
from reprobox.errors import FetchError, IntegrityError
from reprobox.image import MANIFEST_TYPE
from reprobox.oci.push import Blob as Pushed
from reprobox.oci.push import Writer
from reprobox.oci.registry import Reference, Registries
from reprobox.store import Store
from reprobox.vault.documents import EMPTY, EMPTY_TYPE, LAYOUT, NAME, Entry, Index, Kept, read_kept
from reprobox.vault.readme import README
from reprobox.vault.shelf import BLOBS, CHUNK, Wrong
from reprobox.vault.write import Addition, Blob, Written, write_checked

REGISTRY = "oci://"


def reference_of(text: str) -> Reference:
    """What ``oci://registry/name:tag`` names. Raises :class:`UsageError`."""
    return Reference.parse(text.removeprefix(REGISTRY))


# -- reading -----------------------------------------------------------------------------------------------------------


class RegistryShelf:
    """A tag as a vault of one lock; a :class:`reprobox.vault.shelf.Shelf`."""

    def __init__(self, text: str, registries: Registries, store: Store, downloader: Downloader) -> None:
        self.path = Path(text)
        self._shown = text
        self._reference = reference_of(text)
        self._repository = registries.repository(self._reference)
        self._downloader = downloader
        self._store = store

    @cached_property
    def _manifest(self) -> bytes:
        return self._repository.document(self._reference)

    @cached_property
    def kept(self) -> Kept:
        """What is kept there. Raises :class:`IntegrityError` for what is no vault's manifest."""
        return read_kept(self._manifest, self._shown)

    @cached_property
    def _documents(self) -> dict[str, bytes]:
        facts = {NAME: self.kept.name}
        entry = self.kept.entry()
        found = Entry(
            digest=sha256(self._manifest), size=len(self._manifest), artifact=entry.artifact, annotations=facts
        )
        index = Index(entries=(found,), readme=sha256(README.encode()))
        return {
            "oci-layout": LAYOUT,
            "index.json": index.data(),
            "README": README.encode(),
            BLOBS + found.digest: self._manifest,
        }

    def names(self) -> list[str]:
        blobs = (BLOBS + part.digest for part in self.kept.parts)
        return sorted({*self._documents, *blobs, BLOBS + sha256(EMPTY)})

    def read(self, name: str) -> Iterator[bytes]:
        if name in self._documents:
            yield self._documents[name]
            return
        digest = name.removeprefix(BLOBS)
        sizes = {part.digest: part.size for part in self.kept.parts} | {sha256(EMPTY): len(EMPTY)}
        if digest not in sizes:
            raise FileNotFoundError(name)
        with self._store.scratch() as folder:
            yield from self._downloaded(digest, sizes[digest], folder / "blob")

    def _downloaded(self, digest: str, size: int, path: Path) -> Iterator[bytes]:
        (place,) = self._repository.locations(digest, "")[-1:]
        with path.open("w+b", buffering=0) as file:
            try:
                self._downloader.save(place, file, sha256=digest, size=size)
            except FetchError as error:
                raise IntegrityError(f"it cannot be had: {error.message}", where=self._shown, hint=error.hint) from None
            file.seek(0)
            while data := file.read(CHUNK):
                yield data

    def size(self, name: str) -> int | None:
        digest = name.removeprefix(BLOBS)
        return next((part.size for part in self.kept.parts if part.digest == digest), None)

    def wrongs(self) -> Iterator[Wrong]:
        yield from ()


# -- pushing -----------------------------------------------------------------------------------------------------------


def push_vault(text: str, addition: Addition, registries: Registries, store: Store) -> Written:
    """Have the registry have the lock under this tag, and every image under a tag of its own.

    Raises :class:`PushError`; the tag is set last, so that it never names what is not whole.
    """
    reference = reference_of(text)
    writer = Writer(repository=registries.repository(reference), where=text)
    images = {entry.digest for entry in addition.images}
    parts = addition.blobs
    blobs = {digest: blob for digest, blob in parts.items() if digest not in images}
    sent = {digest: blob.size for digest, blob in blobs.items() if _push(writer, store, digest, blob)}
    for entry in addition.images:
        writer.manifest(_data(parts[entry.digest]), MANIFEST_TYPE, entry.annotations[NAME])
    writer.blob(Pushed.of(EMPTY, EMPTY_TYPE))
    writer.manifest(addition.kept.manifest(), MANIFEST_TYPE, reference.tag)
    return Written(
        blobs=len(parts) + 2,
        size=sum(blob.size for blob in parts.values()) + len(EMPTY) + len(addition.kept.manifest()),
        added=len(sent),
        added_size=sum(sent.values()),
    )


def _push(writer: Writer, store: Store, digest: str, blob: Blob) -> bool:
    """Whether it had to be sent."""
    if writer.has(digest):
        return False
    with store.scratch() as folder:
        path = folder / "blob"
        with path.open("xb") as file:
            write_checked(digest, blob, file, folder)
        return writer.blob(Pushed(media_type="", digest=digest, size=blob.size, path=path))


def _data(blob: Blob) -> bytes:
    pieces: list[bytes] = []

    class Pieces:
        def write(self, data: bytes, /) -> None:
            pieces.append(data)

    blob.write(Pieces())
    return b"".join(pieces)


def is_registry(text: str) -> bool:
    """Whether an option or a setting names a registry and no path."""
    return text.startswith(REGISTRY)
