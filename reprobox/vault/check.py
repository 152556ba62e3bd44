"""Whether a vault is whole: every byte of it is held to what the vault itself says, and each lock to its inputs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from reprobox import lock as locks
from reprobox import lock_text
from reprobox.digest import sha256
from reprobox.errors import IntegrityError, LockError, ReproboxError
from reprobox.oci import documents as oci
from reprobox.vault.documents import EMPTY, Index, Kept, read_kept
from reprobox.vault.shelf import BLOBS, FolderShelf, Shelf, Wrong
from reprobox.vault.write import read_document, read_vault_index, unfinished

_PLACES = ("README", "index.json", "oci-layout")


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """What was found: the locks, number and bytes of blobs, what is wrong, and what is only worth telling."""

    locks: tuple[Kept, ...]
    blobs: int
    size: int
    wrongs: tuple[Wrong, ...]
    notes: tuple[str, ...]


def check_vault(shelf: Shelf) -> Checked:
    """Read all of a vault."""
    try:
        index = read_vault_index(shelf)
        names = shelf.names()
    except IntegrityError as error:
        return Checked(locks=(), blobs=0, size=0, wrongs=(Wrong("index.json", error.message),), notes=())
    except OSError as error:
        wrong = Wrong(str(error.filename), f"it cannot be read: {error.strerror}")
        return Checked(locks=(), blobs=0, size=0, wrongs=(wrong,), notes=())
    look = _Look(shelf, index, names)
    wrongs = tuple(look.all())
    return Checked(
        locks=tuple(look.kept), blobs=len(look.sizes), size=look.read, wrongs=wrongs, notes=tuple(look.notes)
    )


class _Look:
    """One walk over a vault."""

    def __init__(self, shelf: Shelf, index: Index, names: list[str]) -> None:
        self.shelf = shelf
        self.index = index
        self.names = names
        self.sizes: dict[str, int] = {}  # of all blobs that must be there, by sha256 hex
        self.titles: dict[str, str] = {}  # what blobs are, for people
        self.kept: list[Kept] = []
        self.notes: list[str] = []
        self.read = 0

    def all(self) -> Iterator[Wrong]:
        yield from self._shelf()
        yield from self._documents()
        yield from self._files()
        for kept in self.kept:
            yield from self._lock(kept)

    def _shelf(self) -> Iterator[Wrong]:
        try:
            yield from self.shelf.wrongs()
            readme = hashlib.sha256(b"".join(self.shelf.read("README"))).hexdigest()
        except FileNotFoundError:
            yield Wrong("README", "it is missing")
        except ReproboxError as error:
            yield Wrong("README", error.message)
        else:
            if readme != self.index.readme:
                yield Wrong("README", f"it has other bytes: their sha256 is {readme}")

    def _documents(self) -> Iterator[Wrong]:
        """Every manifest, and by it the blobs that there must be."""
        where = str(self.shelf.path)
        for entry in self.index.entries:
            self.sizes[entry.digest], self.titles[entry.digest] = entry.size, "a manifest"
            try:
                data = read_document(self.shelf, entry)
                if entry.is_lock:
                    self._found_lock(read_kept(data, where))
                else:
                    image = oci.read_manifest(data, "", where)
                    assert isinstance(image, oci.Manifest)
                    self.sizes |= {item.digest: item.size for item in (image.config, *image.layers)}
            except ReproboxError as error:
                yield Wrong(BLOBS + entry.digest, error.message)

    def _found_lock(self, kept: Kept) -> None:
        self.kept.append(kept)
        self.sizes |= {part.digest: part.size for part in kept.parts} | {sha256(EMPTY): len(EMPTY)}
        self.titles |= {part.digest: part.title for part in kept.parts}

    def _files(self) -> Iterator[Wrong]:
        missing = dict(self.sizes)
        waiting = unfinished(self.shelf.path) if isinstance(self.shelf, FolderShelf) else set()
        for name in self.names:
            digest = name.removeprefix(BLOBS)
            if name in _PLACES:
                continue
            if not name.startswith(BLOBS) or not re.fullmatch("[0-9a-f]{64}", digest):
                yield Wrong(name, "it does not belong in a vault")
            elif digest not in self.sizes and digest in waiting:
                self.notes.append(f"{name} is left of a write that was stopped; the next one clears it away")
            else:
                yield from self._blob(name, digest)
            missing.pop(digest, None)
        for digest in missing:
            yield Wrong(BLOBS + digest, f"it is missing{self._title(digest)}")

    def _title(self, digest: str) -> str:
        return f": {self.titles[digest]}" if digest in self.titles else ""

    def _blob(self, name: str, digest: str) -> Iterator[Wrong]:
        state, size = hashlib.sha256(), 0
        try:
            for piece in self.shelf.read(name):
                state.update(piece)
                size += len(piece)
        except IntegrityError as error:
            yield Wrong(name, f"{error.message.removeprefix(f'{name} cannot be read: ')}{self._title(digest)}")
            return
        except OSError as error:
            yield Wrong(name, f"it cannot be read: {error.strerror}{self._title(digest)}")
            return
        self.read += size
        if state.hexdigest() != digest:
            yield Wrong(name, f"it has other bytes: their sha256 is {state.hexdigest()}{self._title(digest)}")
        elif digest not in self.sizes:
            yield Wrong(name, "no manifest of the vault names it")
        elif size != self.sizes[digest]:
            yield Wrong(name, f"it has {size} bytes, and its manifest says {self.sizes[digest]}{self._title(digest)}")

    def _lock(self, kept: Kept) -> Iterator[Wrong]:
        """A lock's own bytes name its inputs: each must be in the vault, or be said to be left out."""
        there = {part.digest for part in kept.parts}
        lock = next((part for part in kept.parts if part.role == "lock"), None)
        if lock is None or lock.digest != kept.lock:
            yield Wrong(kept.name, f"the manifest of {kept.shown} names another lock, or none")
            return
        try:
            text = b"".join(self.shelf.read(BLOBS + lock.digest)).decode()
            found = lock_text.read(text, file=f"{self.shelf.path}: research.lock of {kept.name}")
        except (LockError, UnicodeDecodeError, FileNotFoundError, IntegrityError) as error:
            if lock.digest == sha256(_bytes(self.shelf, lock.digest)):  # written so, by another reprobox
                self.notes.append(f"{kept.shown} cannot be read by this reprobox: {error}")
            return
        for digest, name in sorted(inputs_of(found).items(), key=lambda pair: pair[1]):
            if digest not in there and digest not in kept.left_out:
                yield Wrong(BLOBS + digest, f"{kept.shown} needs it, and its manifest does not name it: {name}")


def _bytes(shelf: Shelf, digest: str) -> bytes:
    try:
        return b"".join(shelf.read(BLOBS + digest))
    except (FileNotFoundError, IntegrityError):
        return b""


def inputs_of(lock: locks.Lock) -> Mapping[str, str]:
    """Names of all inputs of a lock, by sha256 hex."""
    layers = [layer for target in lock.targets.values() for layer in target.layers]
    layers += [*([lock.checkout] if lock.checkout else []), *lock.downloads.values()]
    return {item.sha256: item.name for layer in layers for item in layer.inputs}
