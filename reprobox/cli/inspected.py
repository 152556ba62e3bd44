"""What ``inspect`` can show, and what it says of everything else."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from reprobox.archives.sif import is_sif
from reprobox.cli import image_file, system_folder
from reprobox.errors import ReproboxError, UsageError
from reprobox.lock import FILE_NAME
from reprobox.sources.source import ARCHIVE, CRATE, GIT, PROJECT, VAULT, file_kind, understand

_SHOWN = {ARCHIVE: "an archive", CRATE: "a crate", GIT: "a git repository", VAULT: "a vault"}
_INSPECTED = (
    "give a project's folder, its research.toml or research.lock; a PDF; an image's layout or archive, or its name in a"
    " registry (host.name/name:tag); the folder of an unpacked system; or what an engine holds, with --backend docker"
    " (the name of an image) or --backend singularity (a SIF)"
)


class Shown(NamedTuple):
    """How something in a file or a folder is shown: what gathers its facts, and what prints them."""

    describe: Callable[[Path], dict[str, Any]]
    show: Callable[[dict[str, Any]], None]


def shown_as(path: Path) -> Shown | None:
    """How the image or the system at ``path`` is shown, if there is one. Raises :class:`UsageError`."""
    try:
        if image_file.holds_image(path):
            return Shown(image_file.describe, image_file.show)
        if system_folder.holds_system(path):
            return Shown(system_folder.describe, system_folder.show)
    except OSError as error:
        raise _unreadable(str(path), error) from None
    return None


def project_of(path: Path) -> Path:
    """The folder, or the manifest, of the project that a folder or a lock is of. Raises :class:`UsageError`."""
    source = understand(str(path))
    if source.kind != PROJECT:
        raise _to_be_shown(str(path), source.kind)
    return source.path


def nothing_known(text: str) -> ReproboxError:
    """Why no project, image or PDF can be shown for ``text``, and what can be given instead."""
    path = Path(text)
    try:
        with path.open("rb") as file:
            start = file.read(64)
        kind = file_kind(path)
    except (FileNotFoundError, NotADirectoryError):
        return UsageError("there is no such file or folder", where=text, hint=_INSPECTED)
    except OSError as error:
        return _unreadable(text, error)
    except UsageError:
        kind = ""
    if kind == FILE_NAME:
        try:
            understand(text)
        except ReproboxError as error:  # what the lock lacks
            return error
    if is_sif(start):
        hint = f"`reprobox inspect --backend singularity {shlex.quote(text)}` shows its labels"
        return UsageError("this is a SIF, and the sandbox holds none", where=text, hint=hint)
    if kind in _SHOWN:
        return _to_be_shown(text, kind)
    said = "it is neither a project nor an image, a SIF, an archive, a crate or a PDF" if start else "the file is empty"
    return UsageError(said, where=text, hint=_INSPECTED)


def _to_be_shown(text: str, kind: str) -> UsageError:
    said = f"this is {_SHOWN.get(kind, 'no project')}, and inspect shows projects and images"
    return UsageError(said, where=text, hint=f"`reprobox show {shlex.quote(text)}` says what it holds")


def _unreadable(text: str, error: OSError) -> UsageError:
    return UsageError(
        f"it cannot be read: {error.strerror}", where=text, hint="make it readable, or give its full path"
    )
