"""A project out of a vault, into a new folder: to be realized where there is nothing but the vault."""

from __future__ import annotations

import secrets
from pathlib import Path

from reprobox import lock as locks
from reprobox.attestation.folder import FOLDER, SUFFIX
from reprobox.errors import IntegrityError, UsageError
from reprobox.paired import foreign_lock
from reprobox.project_files import places_in_project, unpack_project
from reprobox.tree import remove
from reprobox.vault.documents import Kept, Part
from reprobox.vault.shelf import DAMAGED, Shelf
from reprobox.vault.write import blob_on, locks_of, read_vault_index, write_checked

#: A lock can be anybody's, and may name one large input in a thousand places.
_MOST_COPIES = 4


def extract(shelf: Shelf, folder: Path, name: str = "") -> Kept:
    """Write the project that a vault keeps into the new ``folder``, at once or not at all.

    ``name`` chooses one of several: the name in the index, the project's, or the beginning of the lock's hash. Raises
    :class:`UsageError` where it fits none or several, :class:`IntegrityError` for what is damaged.
    """
    kept = chosen(locks_of(shelf, read_vault_index(shelf)), name, shelf.path)
    staged = folder.absolute().with_name(f".{folder.name}.{secrets.token_hex(4)}")
    tar = staged.with_suffix(".tar")
    try:
        staged.mkdir()
        _take(shelf, _part(kept, "project", shelf.path), tar)
        unpack_project(tar, staged, where=str(shelf.path))
        tar.unlink()
        _place_inputs(shelf, kept, staged)
        _place_attestations(shelf, kept, staged)
        staged.chmod(0o755)
        staged.rename(folder)
    finally:
        remove(staged)
        tar.unlink(missing_ok=True)
    return kept


def chosen(found: list[Kept], name: str, path: Path) -> Kept:
    """The one lock that is meant. Raises :class:`UsageError`."""
    digest = name.removeprefix("sha256:")
    fitting = [
        kept
        for kept in found
        if not name or name in (kept.name, kept.project) or (len(digest) >= 6 and kept.lock.startswith(digest))
    ]
    if len(fitting) == 1:
        return fitting[0]
    there = ", ".join(kept.name for kept in found) or "none"
    message = f"no lock in it is called {name!r}" if not fitting and name else f"it keeps {len(fitting)} locks"
    raise UsageError(f"{message}; there are {there}", where=str(path), hint="choose one with --lock NAME")


def _part(kept: Kept, role: str, path: Path) -> Part:
    for part in kept.parts:
        if part.role == role:
            return part
    raise IntegrityError(f"{kept.shown} has no {role}", where=str(path), hint=DAMAGED)


def _take(shelf: Shelf, part: Part, target: Path) -> None:
    with target.open("xb") as file:
        write_checked(part.digest, blob_on(shelf, part.digest, part.size), file, shelf.path)


def _place(shelf: Shelf, part: Part, place: str, folder: Path) -> None:
    """Put a part at ``place`` of the project, whose own files may be anything. Raises :class:`IntegrityError`."""
    target = folder / place
    if not target.parent.resolve().is_relative_to(folder.resolve()):
        raise IntegrityError(f"{place} leads out of the project", where=str(shelf.path), hint=DAMAGED)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _take(shelf, part, target)
    except (FileExistsError, NotADirectoryError):
        raise IntegrityError(f"{place} is in it twice", where=str(shelf.path), hint=DAMAGED) from None


def _place_attestations(shelf: Shelf, kept: Kept, folder: Path) -> None:
    """What people say of this lock, beside the manifest, where it is looked for."""
    for part in kept.parts:
        name = part.title.removeprefix(f"{FOLDER}/")
        if part.role == "attestation" and name.endswith(SUFFIX) and "/" not in name:
            _place(shelf, part, f"{FOLDER}/{name}", folder)


def _lock_in(folder: Path, path: Path) -> locks.Lock:
    """The project's own lock."""
    try:
        data = (folder / locks.FILE_NAME).read_bytes()
    except OSError:
        raise IntegrityError("its project has no lock that can be read", where=str(path), hint=DAMAGED) from None
    return foreign_lock(data, str(path))


def _place_inputs(shelf: Shelf, kept: Kept, folder: Path) -> None:
    """Inputs that lie in the project are blobs of their own in the vault."""
    by_digest = {part.digest: part for part in kept.parts}
    lock = _lock_in(folder, shelf.path)
    left = _MOST_COPIES * sum(part.size for part in kept.parts)
    for item, place in places_in_project(lock):
        if item.sha256 in by_digest and not (folder / place).exists():
            left -= by_digest[item.sha256].size
            if left < 0:
                message = f"its lock asks for more than {_MOST_COPIES} copies of all that is in the vault"
                raise IntegrityError(message, where=str(shelf.path), hint=DAMAGED)
            _place(shelf, by_digest[item.sha256], place, folder)
