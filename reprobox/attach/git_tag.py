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
import subprocess
from dataclasses import dataclass
from pathlib import Path

from reprobox.attach.files import LOCK, MANIFEST, MOST, Attached, found
from reprobox.digest import prefixed, sha256
from reprobox.errors import IntegrityError, ReproboxError, UsageError

NOTES = "refs/notes/reprobox"
_FIRST = b"reprobox 1"
_MOST_HEAD = 4096
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
            hint=f"notes are fetched by themselves: `git fetch origin {NOTES}:{NOTES}`; its authors write one with"
            " `reprobox attach --git`",
        )
    note = parse_note(data, where)
    (folder / MANIFEST).write_bytes(note.manifest)
    (folder / LOCK).write_bytes(note.lock)
    return found(folder, where), commit, note.folder


def commit_of(repository: Path, revision: str) -> str:
    """The commit that a tag, a branch or a hash names. Raises :class:`UsageError`."""
    done = git(repository, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if done.returncode:
        raise UsageError(
            f"git knows no tag or commit {revision!r} there",
            where=str(repository),
            hint="`git tag` lists the tags; `git fetch --tags` brings those of a server",
        )
    return done.stdout.decode().strip()


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


def git(repository: Path, *arguments: str, data: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run git there, without its hooks; it asks nobody for anything."""
    argv = ["git", "-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", *arguments]
    try:
        return subprocess.run(argv, cwd=repository, input=data, capture_output=True, check=False)
    except FileNotFoundError:
        raise UsageError("git is not installed here", where=str(repository), hint="install git") from None
    except NotADirectoryError:
        raise UsageError("it is no folder", where=str(repository), hint="give a git repository with -C") from None
