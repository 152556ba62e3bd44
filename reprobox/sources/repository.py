"""Projects out of git repositories: the files of one commit, without its history. Git checks nothing out."""

from __future__ import annotations

import os
import time
import urllib.parse
from pathlib import Path
from typing import IO

from reprobox.attach import git_tag
from reprobox.download.transfer import Watch
from reprobox.errors import IntegrityError, OfflineError, UsageError
from reprobox.git.commits import (
    FOLDER,
    LINK,
    MODULE,
    PROGRAM,
    CommitError,
    Item,
    entries,
    is_oid,
    subtree,
    tree_of,
    walk,
)
from reprobox.git.repository import OPEN, Clone, Objects, Remote
from reprobox.image import file_header, folder_header, link_header, tar_end
from reprobox.lock import FILE_NAME
from reprobox.project import MANIFEST_NAME
from reprobox.project_files import LIMITS, unpack_project
from reprobox.sources.obtained import Means, Obtained
from reprobox.sources.packed import Files, from_files
from reprobox.sources.source import Source
from reprobox.urls import loopback

_BLOCK = 512
_LONGEST_LINK = 4096
#: Most bytes that the files of one commit may have: a repository can name one large file a million times.
MOST = 16 << 30


def from_repository(source: Source, means: Means, folder: Path) -> Obtained:
    """The project in a commit, below the folder ``source.inside``; its lock may be in a note on the commit.

    Raises :class:`FetchError`, :class:`OfflineError`, and :class:`UsageError` where there is no project in it.
    """
    remote = Remote.of(source.place, Path.cwd())
    if means.downloader.offline and not remote.local:
        raise OfflineError("the network may not be used", where=remote.shown, hint="run it again without --offline")
    _check_way(remote, source)
    means.reporter.say(f"fetching {source.rev or 'the default branch'} of {remote.shown}")
    clone = Clone(folder / "clone", remote, _Cap(folder / "clone", remote.shown))
    commit = clone.fetch(source.rev or "HEAD")
    project = folder / "project"
    facts = {"repository": remote.shown, "commit": commit, **({"revision": source.rev} if source.rev else {})}
    with clone.objects() as objects:
        note = None if _has_lock(objects, commit, source.inside) else _note(clone, commit, folder)
        inside = source.inside or (note.folder if note else "")
        project.mkdir()
        modules, left_out = _files(objects, commit, inside, folder / "tree.tar", project, source.text)
    if note is not None:
        facts["lock"] = "from a note on the commit"
        (folder / MANIFEST_NAME).write_bytes(note.manifest)
        (folder / FILE_NAME).write_bytes(note.lock)
        from_files(Files(manifest=folder / MANIFEST_NAME, lock=folder / FILE_NAME), project, source.text)
    if not (project / MANIFEST_NAME).is_file():
        raise UsageError(
            f"there is no {MANIFEST_NAME} in {inside or 'it'}",
            where=source.text,
            hint="name the revision and the folder that have one: …/name.git@v1.0#examples/xor",
        )
    if modules:
        facts["submodules left out"] = ", ".join(modules[:5])
    return Obtained(folder=project, what="a git repository", facts=facts, left_out=left_out)


def _check_way(remote: Remote, source: Source) -> None:
    """A whole commit says which files it has; a name is what the server answers, or somebody on the way."""
    parts = urllib.parse.urlsplit(remote.url)
    if parts.scheme in OPEN and not loopback(parts.hostname or "") and not is_oid(source.rev):
        raise UsageError(
            f"what comes over {parts.scheme}:// can be changed on the way",
            where=remote.shown,
            hint="use https://, or name the whole commit behind an @",
        )


def _has_lock(objects: Objects, commit: str, inside: str) -> bool:
    """Whether manifest and lock are both in the commit."""
    try:
        tree = tree_of(objects.read, commit)
        place = subtree(objects.read, tree, inside) if inside else tree
        names = {name for name, _, _ in entries(b"".join(objects.read(place)[2]), place)} if place else set()
    except CommitError:
        return True  # it is told when its files are taken
    return {MANIFEST_NAME.encode(), FILE_NAME.encode()} <= names


class _Cap(Watch):
    """Ends a transfer that would fill the disk."""

    def __init__(self, path: Path, where: str) -> None:
        self._path = path
        self._where = where
        self._looked = time.monotonic()

    def advance(self, count: int) -> None:  # noqa: ARG002 - the protocol's names
        if time.monotonic() - self._looked < 1:
            return
        self._looked = time.monotonic()
        places = [os.path.join(place, name) for place, _, names in os.walk(self._path) for name in names]
        if sum(os.lstat(place).st_size for place in places if os.path.lexists(place)) > MOST:
            raise IntegrityError(f"it sends more than {MOST} bytes", where=self._where, hint="clone it yourself")


def _note(clone: Clone, commit: str, folder: Path) -> git_tag.Note | None:
    """What is attached to the commit, if the repository has notes of ours."""
    if not clone.fetch_ref(git_tag.NOTES):
        return None
    data = git_tag.note_on(folder / "clone", commit)
    return None if data is None else git_tag.parse_note(data, f"the note on {commit[:12]}")


# -- the files of a commit ---------------------------------------------------------------------------------------------


def _files(
    objects: Objects, commit: str, inside: str, packed: Path, project: Path, where: str
) -> tuple[list[str], tuple[str, ...]]:
    """Put them into the folder ``project``, by way of a tar, under the same rules as what comes in one.

    Returns the paths of submodules, which are not taken, and folders that were left out.
    """
    try:
        tree = tree_of(objects.read, commit)
        place = subtree(objects.read, tree, inside) if inside else tree
        if place is None:
            raise UsageError(f"it has no folder {inside}", where=where, hint="look how it is spelled")
        with packed.open("xb") as sink:
            modules = _write(objects, place, sink)
        return modules, unpack_project(packed, project, where=where)
    except CommitError as error:
        raise IntegrityError(f"its commit {commit} is no sound one: {error}", where=where) from None
    finally:
        packed.unlink(missing_ok=True)


def _write(objects: Objects, tree: str, sink: IO[bytes]) -> list[str]:
    modules: list[str] = []
    written = 0
    for count, item in enumerate(walk(objects.read, tree)):
        if count >= LIMITS.entries or written > MOST:
            raise CommitError(f"it has more than {LIMITS.entries} files, or more than {MOST} bytes")
        if item.mode == MODULE:
            modules.append(repr(os.fsdecode(item.path))[1:-1])
        elif item.mode == FOLDER:
            written += folder_header(sink, item.path, mode=0o755)
        else:
            written += _write_blob(objects, item, sink, MOST - written)
    tar_end(sink, written)
    return modules


def _write_blob(objects: Objects, item: Item, sink: IO[bytes], most: int) -> int:
    kind, size, content = objects.read(item.oid)
    if kind != "blob":
        raise CommitError(f"{item.oid} is a {kind}, and a blob is needed")
    if item.mode == LINK and size > _LONGEST_LINK:
        raise CommitError(f"it has a link of {size} bytes")
    if size > most:
        raise CommitError(f"its files have more than {MOST} bytes")
    if item.mode == LINK:
        return link_header(sink, item.path, b"".join(content))
    written = file_header(sink, item.path, size, mode=0o755 if item.mode == PROGRAM else 0o644)
    sink.writelines(content)
    sink.write(bytes(-size % _BLOCK))
    return written + size + -size % _BLOCK
