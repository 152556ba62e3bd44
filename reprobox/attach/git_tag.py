"""Attaching to a commit of a git repository: a note that holds manifest and lock, under ``refs/notes/reprobox``.

The note is text, so that `git notes --ref=reprobox show` can be read; the first lines say where its files begin:

    reprobox 1
    folder examples/xor
    research.toml 812 sha256:…
    research.lock 91342 sha256:…

    (the bytes of the files, one after the other)

The code is the commit's own tree, below ``folder``. Neither the working tree nor the index is touched.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from reprobox.attach.files import LOCK, MANIFEST, MOST, Attached, found, prepare
from reprobox.digest import prefixed, sha256
from reprobox.errors import IntegrityError, LockError, ReproboxError, StaleLockError, UsageError
from reprobox.git import own
from reprobox.git.own import git
from reprobox.lock import Lock
from reprobox.manifest import Manifest
from reprobox.project import Project
from reprobox.session import Session

NOTES = "refs/notes/reprobox"
_FIRST = b"reprobox 1"
_MOST_HEAD = 4096
_OTHER_COMMIT = (
    "check that commit out and run `reprobox lock` there; or commit all that belongs to the project, and tag that"
)
_AGAIN = "its authors write it anew with `reprobox attach --git`"


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """What a note says: the project's folder in the commit (empty for its top), manifest and lock."""

    folder: str
    manifest: bytes
    lock: bytes

    def data(self) -> bytes:
        """The note's bytes."""
        lines = [_FIRST.decode(), f"folder {self.folder}"] if self.folder else [_FIRST.decode()]
        for name, content in ((MANIFEST, self.manifest), (LOCK, self.lock)):
            lines.append(f"{name} {len(content)} {prefixed(sha256(content))}")
        return "\n".join([*lines, "", ""]).encode() + self.manifest + self.lock


def parse_note(data: bytes, where: str) -> Note:
    """The :class:`Note` of such bytes. Raises :class:`IntegrityError`."""
    head, blank, rest = data.partition(b"\n\n")
    lines = head[:_MOST_HEAD].decode("utf-8", "replace").split("\n")
    if not blank or lines[0] != _FIRST.decode():
        raise IntegrityError("its note is none of reprobox's", where=where, hint=_AGAIN)
    folder = lines[1].removeprefix("folder ") if len(lines) == 4 and lines[1].startswith("folder ") else ""
    if folder and (folder.startswith("/") or {"", ".", ".."} & set(folder.split("/")) or not folder.isprintable()):
        raise IntegrityError(f"its note names the folder {folder!r}, which is no path in it", where=where, hint=_AGAIN)
    files: list[bytes] = []
    for name, line in zip((MANIFEST, LOCK), lines[-2:], strict=False):
        said = re.fullmatch(rf"{re.escape(name)} (\d{{1,12}}) (sha256:[0-9a-f]{{64}})", line)
        if not said or int(said[1]) > MOST[name]:
            raise IntegrityError(f"its note does not say where {name} is", where=where, hint=_AGAIN)
        content, rest = rest[: int(said[1])], rest[int(said[1]) :]
        if prefixed(sha256(content)) != said[2]:
            raise IntegrityError(f"{name} in its note is damaged", where=where, hint=_AGAIN)
        files.append(content)
    if len(files) != 2 or rest:
        raise IntegrityError("its note has more or less in it than it says", where=where, hint=_AGAIN)
    return Note(folder=folder, manifest=files[0], lock=files[1])


# -- writing -----------------------------------------------------------------------------------------------------------


def check_out(project: Path, commit: str, folder: Path) -> Path:
    """Write the files of a commit into the empty ``folder``, past the index and the working tree.

    ``project`` is a folder of a repository; returns where it lies in ``folder``. Raises :class:`UsageError` where it is
    in no repository, :class:`ReproboxError` with git's words.
    """
    prefix = git(project, "rev-parse", "--show-prefix")
    if prefix.returncode:
        raise UsageError("the project is in no git repository", where=str(project), hint="`git init` makes one")
    extra = {"GIT_INDEX_FILE": str(folder / "index"), "GIT_WORK_TREE": str(folder)}
    tree = folder / "tree"
    tree.mkdir()
    top = Path(git(project, "rev-parse", "--show-toplevel").stdout.decode().rstrip("\n"))
    _done(git(top, "read-tree", commit, extra=extra), top)
    _done(git(top, "checkout-index", "--all", f"--prefix={tree}/", extra=extra), top)
    inside = tree / prefix.stdout.decode().strip("/\n")
    inside.mkdir(parents=True, exist_ok=True)
    return inside


def prepare_at(
    session: Session, project: Project, commit: str, revision: str, folder: Path
) -> tuple[Attached, Manifest, Lock, str]:
    """What :func:`reprobox.attach.files.prepare` makes of a commit's own files with the project's manifest and lock.

    Also returns the project's folder in the commit, empty for its top. Raises :class:`LockError` where the commit has
    not what was locked.
    """
    there = check_out(project.root, commit, folder)
    for path in (project.manifest_path, project.lock_path):
        (there / path.name).unlink(missing_ok=True)
        shutil.copyfile(path, there / path.name)
    files = folder / "files"
    files.mkdir()
    manifest_path = there / project.manifest_path.name
    try:
        attached, manifest, lock = prepare(
            replace(session, project=there), replace(project, root=there, manifest_path=manifest_path), files
        )
    except StaleLockError as error:
        raise StaleLockError(error.keys, where=f"{project.root}@{revision}", hint=_OTHER_COMMIT) from None
    except LockError as error:
        raise LockError(f"{error.message} ({revision})", where=str(project.root), hint=_OTHER_COMMIT) from None
    inside = str(there.relative_to(folder / "tree"))
    return attached, manifest, lock, "" if inside == "." else inside


def attach(project: Path, commit: str, note: Note) -> bool:
    """Put the note on the commit, in place of one that is there; False where it had the same."""
    if note_on(project, commit) == note.data():
        return False
    blob = _done(git(project, "hash-object", "-w", "--stdin", data=note.data()), project).decode().strip()
    _done(git(project, "notes", f"--ref={NOTES}", "add", "--force", "-C", blob, commit), project)
    return True


def remove(project: Path, commit: str) -> None:
    """Take the note off the commit. Raises :class:`ReproboxError` where it has none."""
    if note_on(project, commit) is None:
        raise ReproboxError(f"there is no note of reprobox's on commit {commit[:12]}", where=str(project))
    _done(git(project, "notes", f"--ref={NOTES}", "remove", commit), project)


def _done(done: subprocess.CompletedProcess[bytes], where: Path) -> bytes:
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().removeprefix("fatal: ") or f"status {done.returncode}"
        raise ReproboxError(f"git does not do it: {said}", where=str(where))
    return done.stdout


# -- reading -----------------------------------------------------------------------------------------------------------


def read(repository: Path, revision: str, folder: Path) -> tuple[Attached, str, str]:
    """Write manifest and lock that the note on a commit holds into the empty ``folder``.

    ``repository`` is a local one, bare or not. Also returns the commit, and the project's folder in it. Raises
    :class:`UsageError` for an unknown revision, :class:`ReproboxError` for a commit without a note,
    :class:`IntegrityError` for a damaged one.
    """
    commit = commit_of(repository, revision)
    where = f"{repository}@{revision}"
    data = note_on(repository, commit)
    if data is None:
        raise ReproboxError(
            f"there is no note of reprobox's on commit {commit[:12]}",
            where=where,
            hint=f"notes are not fetched with the rest: `git fetch origin {NOTES}:{NOTES}`; its authors write one with"
            " `reprobox attach --git`",
        )
    note = parse_note(data, where)
    (folder / MANIFEST).write_bytes(note.manifest)
    (folder / LOCK).write_bytes(note.lock)
    return found(folder, where), commit, note.folder


def commit_of(repository: Path, revision: str) -> str:
    """The commit that a tag, a branch or a hash names. Raises :class:`UsageError`."""
    commit = own.commit_of(repository, revision)
    if commit is None:
        raise UsageError(
            f"git knows no tag or commit {revision!r} there",
            where=str(repository),
            hint="`git tag` lists the tags; `git fetch --tags` brings those of a server",
        )
    return commit


def note_on(repository: Path, commit: str) -> bytes | None:
    """The note's bytes; None where the commit has none. Raises :class:`IntegrityError` for one of absurd size."""
    done = git(repository, "notes", f"--ref={NOTES}", "list", commit)
    if done.returncode:
        return None
    blob = done.stdout.decode().strip()
    size = git(repository, "cat-file", "-s", blob)
    if int(size.stdout or b"0") > sum(MOST.values()):
        raise IntegrityError("its note is larger than any honest one", where=str(repository), hint=_AGAIN)
    return git(repository, "cat-file", "blob", blob).stdout
