"""Writing vaults: a kill at any moment leaves what was there before, or all of what is new, and never anything between.

A folder grows in place. New blobs are written below ``.writing``, flushed, and moved to their names; then the index is
replaced, which makes them part of the vault; then what nothing names any more goes. ``.writing/blobs`` lists the blobs
that may be there without being named, for whoever comes after a kill. A tar is written anew beside its place.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from reprobox.digest import sha256
from reprobox.errors import IntegrityError, ReproboxError, UsageError
from reprobox.image import Hashed
from reprobox.oci import documents as oci
from reprobox.staging import lock as flock
from reprobox.store import flush_all, flush_folder
from reprobox.tree import remove
from reprobox.vault.documents import EMPTY, LAYOUT, Entry, Index, Kept, read_index, read_kept
from reprobox.vault.readme import README
from reprobox.vault.shelf import BLOBS, CHUNK, DAMAGED, WRITING, FolderShelf, Shelf, TarWriter, open_shelf, whole

#: Largest index that is read, in bytes.
MOST_INDEX = 16 << 20


class Sink(Protocol):
    """Takes bytes."""

    def write(self, data: bytes, /) -> object: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Blob:
    """Bytes that can be had: how many, and what writes them. ``shown`` is what messages call them."""

    size: int
    write: Callable[[Sink], None]
    shown: str


def blob_of(data: bytes, shown: str) -> Blob:
    """A blob that is in memory."""

    def write(sink: Sink) -> None:
        sink.write(data)

    return Blob(size=len(data), write=write, shown=shown)


def blob_in(path: Path, shown: str) -> Blob:
    """A blob that is a file."""

    def write(sink: Sink) -> None:
        with path.open("rb", buffering=0) as file:
            while data := file.read(CHUNK):
                sink.write(data)

    return Blob(size=path.stat().st_size, write=write, shown=shown)


def blob_on(shelf: Shelf, digest: str, size: int) -> Blob:
    """A blob of a vault."""

    def write(sink: Sink) -> None:
        for piece in shelf.read(BLOBS + digest):
            sink.write(piece)

    return Blob(size=size, write=write, shown=f"the blob {digest}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """What a vault is after writing: bytes and number of its blobs, and how many of them are new."""

    blobs: int
    size: int
    added: int
    added_size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Addition:
    """What is to be written: a lock, images, and all blobs of both by sha256 hex, the documents too."""

    kept: Kept
    images: Sequence[Entry]
    blobs: Mapping[str, Blob]


def write_vault(path: Path, addition: Addition) -> Written:
    """Put a lock into the vault at ``path``: a folder, or one file where the name ends in ``.tar``.

    Makes the vault if there is none. Raises :class:`UsageError` for a place that is something else,
    :class:`IntegrityError` for a vault that is damaged, and :class:`ReproboxError` for a full disk, whose cause is
    the :class:`OSError`; then it is as before.
    """
    try:
        return _write_tar(path, addition) if path.suffix == ".tar" else _write_folder(path, addition)
    except OSError as error:
        raise _cannot(path, error) from error


def _cannot(path: Path, error: OSError) -> ReproboxError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return ReproboxError(
            "the disk is full" if error.errno == errno.ENOSPC else f"it cannot grow: {error.strerror}",
            where=str(path),
            hint="make room there, or write the vault to another disk; what it held before is untouched",
        )
    return ReproboxError(f"it cannot be written: {error.strerror}", where=str(path), hint="choose another place")


# -- what will be in it ------------------------------------------------------------------------------------------------


def read_vault_index(shelf: Shelf) -> Index:
    """The index of a vault. Raises :class:`IntegrityError`."""
    if b"".join(_some(shelf, "oci-layout")) != LAYOUT:
        raise IntegrityError("its oci-layout is damaged", where=str(shelf.path), hint=DAMAGED)
    return read_index(whole(shelf, "index.json", MOST_INDEX), str(shelf.path))


def _some(shelf: Shelf, name: str) -> Iterator[bytes]:
    try:
        yield next(iter(shelf.read(name)), b"")
    except FileNotFoundError:
        return


def read_document(shelf: Shelf, entry: Entry) -> bytes:
    """A manifest that the index names. Raises :class:`IntegrityError`."""
    data = whole(shelf, f"{BLOBS}{entry.digest}", oci.MOST_MANIFEST)
    if sha256(data) != entry.digest:
        raise IntegrityError(
            f"the blob {entry.digest} has other bytes: their sha256 is {sha256(data)}",
            where=str(shelf.path),
            hint=DAMAGED,
        )
    return data


def locks_of(shelf: Shelf, index: Index) -> list[Kept]:
    """Every lock that a vault keeps. Raises :class:`IntegrityError`."""
    return [read_kept(read_document(shelf, entry), str(shelf.path)) for entry in index.entries if entry.is_lock]


def referenced(shelf: Shelf, index: Index) -> dict[str, int]:
    """Sizes of all blobs that a vault must have, by sha256 hex."""
    found = {}
    for entry in index.entries:
        data = read_document(shelf, entry)
        found[entry.digest] = entry.size
        if entry.is_lock:
            found |= {part.digest: part.size for part in read_kept(data, str(shelf.path)).parts}
            found[sha256(EMPTY)] = len(EMPTY)
        else:
            image = oci.read_manifest(data, "", str(shelf.path))
            assert isinstance(image, oci.Manifest)
            found |= {item.digest: item.size for item in (image.config, *image.layers)}
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class _Planned:
    """The index that will be, and every blob that is then in the vault."""

    index: Index
    blobs: Mapping[str, Blob]


def _planned(shelf: Shelf | None, addition: Addition) -> _Planned:
    """What the vault has now (nothing, without ``shelf``), and what is added."""
    index = read_vault_index(shelf) if shelf else Index(entries=(), readme=sha256(README.encode()))
    kept = addition.kept
    for earlier in locks_of(shelf, index) if shelf else ():
        if earlier.lock == kept.lock:
            kept = kept.with_those_of(earlier)
    manifest = kept.manifest()
    if len(manifest) > oci.MOST_MANIFEST:
        raise ReproboxError(
            f"the lock has too many inputs for one vault: its manifest would have {len(manifest)} bytes, and"
            f" {oci.MOST_MANIFEST} are allowed",
            hint="lock its targets in projects of their own",
        )
    index = index.with_entries([kept.entry(), *addition.images])
    new = {**addition.blobs, sha256(manifest): blob_of(manifest, "the manifest"), sha256(EMPTY): blob_of(EMPTY, "{}")}
    old: dict[str, Blob] = {}
    if shelf:
        staying = Index(entries=tuple(entry for entry in index.entries if entry.digest not in new), readme=index.readme)
        sizes = referenced(shelf, staying) | {part.digest: part.size for part in kept.parts}
        old = {digest: blob_on(shelf, digest, size) for digest, size in sizes.items() if digest not in new}
    return _Planned(index=index, blobs=dict(sorted({**new, **old}.items())))


def write_checked(digest: str, blob: Blob, sink: Sink, where: Path) -> None:
    """Write a blob, and see to it that its bytes are the right ones."""
    hashed = Hashed(sink)
    try:
        blob.write(hashed)
    except FileNotFoundError as error:
        raise IntegrityError(f"{blob.shown} is missing", where=str(error.filename or where), hint=DAMAGED) from None
    if hashed.hexdigest() != digest or hashed.size != blob.size:
        raise IntegrityError(
            f"{blob.shown} has other bytes than sha256 {digest}: their sha256 is {hashed.hexdigest()}",
            where=str(where),
            hint="`reprobox cache verify --repair` mends the store; `reprobox vault PATH --check` looks at the vault",
        )


# -- a folder ----------------------------------------------------------------------------------------------------------


def _write_folder(path: Path, addition: Addition) -> Written:
    _begin(path)
    with _alone(path):
        shelf = FolderShelf(path)
        for wrong in shelf.wrongs():
            raise IntegrityError(f"{wrong.name}: {wrong.message}", where=str(path), hint=DAMAGED)
        _finish_earlier(shelf)
        before = referenced(shelf, read_vault_index(shelf))
        planned = _planned(shelf, addition)
        missing = {digest: blob for digest, blob in planned.blobs.items() if not _has(shelf, digest, blob, addition)}
        writing = path / WRITING
        writing.mkdir(mode=0o755)
        try:
            _stage(writing, missing)
            gone = before.keys() - planned.blobs.keys()
            _put(writing / "blobs", "".join(f"{digest}\n" for digest in sorted({*missing, *gone})).encode())
            _put(writing / "index.json", planned.index.data())
            flush_all(writing)
        except BaseException:
            remove(writing)
            raise
        _publish(path, missing, gone)
    return Written(
        blobs=len(planned.blobs),
        size=sum(blob.size for blob in planned.blobs.values()),
        added=len(missing),
        added_size=sum(blob.size for blob in missing.values()),
    )


def _has(shelf: Shelf, digest: str, blob: Blob, addition: Addition) -> bool:
    """Whether the blob is there; one that is at hand is held against its hash, so that writing again mends a vault."""
    if shelf.size(BLOBS + digest) != blob.size:
        return False
    if digest not in addition.blobs:
        return True
    hashed = Hashed()
    with contextlib.suppress(IntegrityError):
        for piece in shelf.read(BLOBS + digest):
            hashed.write(piece)
    return hashed.hexdigest() == digest


def _begin(path: Path) -> None:
    """Have a vault at ``path``, if only an empty one."""
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise UsageError("it exists already, and is no folder", where=str(path), hint="give the vault a new name")
    if path.is_dir() and any(path.iterdir()):
        if not (path / "oci-layout").is_file():
            hint = "give the folder of a vault, or a new name"
            raise UsageError("this folder holds something else than a vault", where=str(path), hint=hint)
        return
    if not path.absolute().parent.is_dir():
        raise UsageError("its folder does not exist", where=str(path), hint="make the folder first")
    staged = path.absolute().with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        (staged / BLOBS).mkdir(parents=True)
        readme = README.encode()
        for name, data in {
            "oci-layout": LAYOUT,
            "README": readme,
            "index.json": Index(entries=(), readme=sha256(readme)).data(),
        }.items():
            _put(staged / name, data)
        flush_all(staged)
        _rename_first(staged, path)
    finally:
        remove(staged)


def _rename_first(staged: Path, path: Path) -> None:
    """Another writer may have made it meanwhile: then that one is taken."""
    try:
        staged.rename(path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One writer at a time; another one waits."""
    descriptor = os.open(path / "oci-layout", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _finish_earlier(shelf: FolderShelf) -> None:
    """Take away what a writer that was killed has left."""
    writing = shelf.path / WRITING
    if writing.exists():
        needed = referenced(shelf, read_vault_index(shelf))
        for digest in unfinished(shelf.path) - needed.keys():
            (shelf.path / BLOBS / digest).unlink(missing_ok=True)
        remove(writing)


def unfinished(path: Path) -> set[str]:
    """Blobs that a writer that was killed may have left in a folder, sha256 hex."""
    try:
        lines = (path / WRITING / "blobs").read_text("ascii", "replace").splitlines()
    except OSError:
        return set()
    return {line for line in lines if len(line) == 64 and line.isalnum()}


def _stage(writing: Path, missing: Mapping[str, Blob]) -> None:
    for digest, blob in missing.items():
        with (writing / digest).open("xb") as file:
            write_checked(digest, blob, file, writing.parent)
        (writing / digest).chmod(0o644)


def _put(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    path.chmod(0o644)


def _publish(path: Path, missing: Iterable[str], gone: Iterable[str]) -> None:
    writing, blobs = path / WRITING, path / BLOBS
    for digest in missing:
        (writing / digest).rename(blobs / digest)
    flush_folder(blobs)
    (writing / "index.json").rename(path / "index.json")
    flush_folder(path)
    for digest in gone:
        (blobs / digest).unlink(missing_ok=True)
    remove(writing)


# -- one file ----------------------------------------------------------------------------------------------------------


def _write_tar(path: Path, addition: Addition) -> Written:
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise UsageError("it exists already, and is no file", where=str(path), hint="give the vault a new name")
    if not path.absolute().parent.is_dir():
        raise UsageError("its folder does not exist", where=str(path), hint="make the folder first")
    shelf = open_shelf(path) if path.exists() else None
    planned = _planned(shelf, addition)
    readme = b"".join(shelf.read("README")) if shelf else README.encode()
    index = planned.index.data()
    first = {"oci-layout": LAYOUT, "index.json": index, "README": readme}
    members = [(name, blob_of(data, name)) for name, data in first.items()]
    members += [(BLOBS + digest, blob) for digest, blob in planned.blobs.items()]
    staged = path.absolute().with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with staged.open("xb") as file:
            writer = TarWriter(file)
            for name, blob in members:
                writer.start(name, blob.size)
                digest = name.removeprefix(BLOBS) if name.startswith(BLOBS) else sha256(first[name])
                write_checked(digest, blob, file, path)
                writer.end(blob.size)
            writer.close()
            file.flush()
            os.fsync(file.fileno())
        staged.chmod(0o644)
        staged.rename(path)
    finally:
        staged.unlink(missing_ok=True)
    had = {digest for digest in planned.blobs if shelf and shelf.size(BLOBS + digest) is not None}
    return Written(
        blobs=len(planned.blobs),
        size=sum(blob.size for blob in planned.blobs.values()),
        added=len(planned.blobs) - len(had),
        added_size=sum(blob.size for digest, blob in planned.blobs.items() if digest not in had),
    )
