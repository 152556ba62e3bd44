"""Mounts whose content is locked: what ``lock`` records of them, and how what is there is held to it."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import NoReturn

from reprobox import data
from reprobox.engine import build
from reprobox.errors import IntegrityError, LockError, ManifestError, ReproboxError
from reprobox.layers.fetch import DOWNLOADED
from reprobox.lock import Lock, LockedLayer, LockedMount, LockedTarget
from reprobox.manifest import Manifest
from reprobox.session import Session, this_platform

_SHOWN = 5


def lock_data(
    session: Session, manifest: Manifest, previous: Lock | None, given: Mapping[str, str]
) -> dict[str, LockedMount]:
    """The content of every mount with ``digest``; ``given`` names other sources, by mount point.

    Where the data is not here, what the previous lock says stays; what can be downloaded is left to
    :func:`lock_downloads`.
    Raises :class:`ManifestError` for what cannot be locked, :class:`ReproboxError` for what cannot be read.
    """
    _refuse_writable(manifest)
    locked = {}
    for path in _asked(manifest):
        source = _source(session, manifest, path, given)
        old = previous.mounts.get(path) if previous else None
        if source is not None and source.exists():
            found = _content(session, path, source)
            locked[path] = LockedMount(tree=found.tree, files=found.files, size=found.size)
        elif manifest.mounts[path].files:
            continue
        elif old is not None:
            session.reporter.say(f"{path}: its data is not here, and stays locked as it was")
            locked[path] = old
        else:
            _refuse_missing(manifest, path, source)
    return locked


def lock_downloads(
    session: Session, manifest: Manifest, downloads: Mapping[str, LockedLayer], known: Container[str], epoch: int
) -> dict[str, LockedMount]:
    """The content of mounts with ``digest`` that are not ``known``, as their downloaded files have it."""
    locked = {}
    for path in _asked(manifest):
        if path not in known and path in downloads:
            found = _content(session, path, _downloaded(session, downloads[path], epoch))
            locked[path] = LockedMount(tree=found.tree, files=found.files, size=found.size)
    return locked


def mounted_downloads(session: Session, manifest: Manifest, lock: Lock) -> dict[str, Path]:
    """By mount point, the folders of the store that stand in for sources that are not here.

    Raises :class:`IntegrityError` where a folder was locked that holds something else.
    """
    folders = {}
    for path, mount in manifest.mounts.items():
        if mount.files and (mount.source is None or not (session.project / mount.source).exists()):
            folders[path] = _downloaded(session, lock.downloads[path], lock.epoch)
            locked = lock.mounts.get(path)
            if locked is not None and (found := _content(session, path, folders[path])).tree != locked.tree:
                hint = f"what `files` names is not all that was locked: put the data there, or use --mount {path}=PATH"
                raise _mismatch(session, path, locked, found, hint)
    return folders


def _downloaded(session: Session, layer: LockedLayer, epoch: int) -> Path:
    """The folder of the store with the files of a mount; they are downloaded if they are not here."""
    build(session, LockedTarget(name=layer.name, platform=this_platform(), layers=(layer,)), epoch)
    stored = session.store.layer(layer.id)
    assert stored is not None
    return stored.tree / DOWNLOADED.lstrip("/")


def check_data(session: Session, manifest: Manifest, lock: Lock, given: Mapping[str, str], *, needed: bool) -> None:
    """Raise :class:`IntegrityError`, naming the first files, unless the data that is here is what was locked.

    Data that is not here is an error only if it is ``needed``.
    """
    for path in _asked(manifest):
        source, locked = _source(session, manifest, path, given), lock.mounts.get(path)
        if locked is None:
            hint = "run `reprobox lock`"
            raise LockError("its content is not in the lock", where=_place(path), hint=hint)
        if source is not None and source.exists():
            found = _content(session, path, source)
            if found.tree != locked.tree:
                hint = f"restore the data, give the right folder with --mount {path}=PATH, or take it as it is:"
                raise _mismatch(session, path, locked, found, f"{hint} `reprobox lock`")
        elif manifest.mounts[path].files:
            continue  # what is downloaded is held to its hashes
        elif needed:
            what = f"its source does not exist: {source}" if source else "nothing is given for it"
            hint = f"put the data there, or give its folder: --mount {path}=PATH"
            raise ReproboxError(f"{what}, so its content cannot be checked", where=_place(path), hint=hint)
        else:
            session.reporter.say(f"{path}: its data is not here, and was not checked")


def _asked(manifest: Manifest) -> Iterator[str]:
    yield from (path for path, mount in manifest.mounts.items() if mount.digest)


def _refuse_writable(manifest: Manifest) -> None:
    problems = []
    for path, mount in manifest.mounts.items():
        for key in ("digest", "files") if mount.mode == "rw" else ():
            if getattr(mount, key):
                hint = f'write mode = "ro", or leave `{key}` out'
                problems.append(manifest.problem(("mounts", path, key), "what may be written cannot be locked", hint))
    if problems:
        raise ManifestError(problems)


def _place(path: str) -> str:
    return f'mounts."{path}"'


def _source(session: Session, manifest: Manifest, path: str, given: Mapping[str, str]) -> Path | None:
    if path in given:
        return Path(given[path]).absolute()
    source = manifest.mounts[path].source
    return session.project / source if source else None


def _content(session: Session, path: str, source: Path) -> data.Content:
    try:
        return data.content(source, session.store)
    except ReproboxError as error:
        raise type(error)(f"{error.where}: {error.message}", where=_place(path), hint=error.hint) from None


def _refuse_missing(manifest: Manifest, path: str, source: Path | None) -> NoReturn:
    fix = f"give its folder: `reprobox lock --mount {path}=PATH`"
    if source is None:
        message, hint = "its content is to be locked, and it has no source", f"{fix}, or add `source`"
    else:
        message, hint = f"its content is to be locked, and there is no {source}", f"put the data there, or {fix}"
    raise ManifestError([manifest.problem(("mounts", path, "digest"), message, hint)])


def _mismatch(session: Session, path: str, locked: LockedMount, found: data.Content, hint: str) -> IntegrityError:
    listing = data.listing(session.store, locked.tree)
    if listing is None:
        what = (
            f"locked were {locked.files} files of {locked.size} bytes in all, here are {found.files} of {found.size};"
            " only the store of the machine that locked them knows them one by one"
        )
    else:
        files = data.differences(listing, found.listing)
        more = [f"and {len(files) - _SHOWN} more"] if len(files) > _SHOWN else []
        what = "\n  ".join(
            [f"{len(files)} {'path differs' if len(files) == 1 else 'paths differ'}:", *files[:_SHOWN], *more]
        )
    return IntegrityError(
        f"its data is not what was locked: {what}\n  locked sha256:{locked.tree}\n  found  sha256:{found.tree}",
        where=_place(path),
        hint=hint,
    )
