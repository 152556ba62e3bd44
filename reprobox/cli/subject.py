"""What `attach`, `detach` and `inspect` are about: a PDF, an image in a registry, or a commit."""

from __future__ import annotations

import argparse
from pathlib import Path

from reprobox.archives.sif import is_sif
from reprobox.errors import UsageError
from reprobox.sources.source import ARCHIVE, CRATE, GIT, PROJECT, VAULT, file_kind, understand

_SHOWN = {ARCHIVE: "an archive", CRATE: "a crate", GIT: "a git repository", VAULT: "a vault"}
PDF, IMAGE, COMMIT = "PDFs", "images", "commits"
_INSPECTED = (
    "give a project's folder, its research.toml or research.lock; a PDF; an image's layout or archive, or its name in a"
    " registry (host.name/name:tag); the folder of an unpacked system; or what an engine holds, with --backend docker"
    " (the name of an image) or --backend singularity (a SIF)"
)
_KINDS = "give a PDF, an image (REGISTRY/NAME:TAG), or a commit with --git TAG"


def add_git_option(parser: argparse.ArgumentParser, does: str) -> None:
    parser.add_argument("--git", metavar="TAG", help=f"{does}: a tag, a branch or a hash")


def subject_of(options: argparse.Namespace) -> str:
    """Which of the three is given. Raises :class:`UsageError` for anything else."""
    text = options.subject
    if options.git and text:
        raise UsageError("a file or an image and --git do not go together", hint="run it twice: once for each")
    if options.git:
        return COMMIT
    if not text:
        raise UsageError("it is not said to what", hint=_KINDS)
    if is_image(text):
        return IMAGE
    if text.endswith(".pdf") or Path(text).is_file():
        return PDF
    raise UsageError("it is neither a PDF nor the name of an image with its registry", where=text, hint=_KINDS)


def is_image(text: str) -> bool:
    """Whether it names an image at a registry: ``docker://…``, or ``host.name/…`` where no file has that name."""
    first, slash, _ = text.partition("/")
    named = slash and first not in (".", "..") and (set(".:") & set(first) or first == "localhost")
    return text.startswith(("oci://", "docker://")) or bool(
        named and not Path(text).exists() and not text.endswith(".pdf")
    )


# -- what is not one of these ------------------------------------------------------------------------------------------


def project_of(path: Path) -> Path:
    """The manifest or the folder of the project at ``path``, a lock or a folder. Raises :class:`UsageError`."""
    source = understand(str(path))
    if source.kind != PROJECT:
        raise _to_be_shown(str(path), source.kind)
    return source.path


def nothing_known(text: str) -> UsageError:
    """Why no project, image or PDF can be shown for ``text``, and what can be given instead."""
    path = Path(text)
    try:
        with path.open("rb") as file:
            start = file.read(64)
        kind = file_kind(path)
    except FileNotFoundError:
        return UsageError("there is no such file or folder", where=text, hint=_INSPECTED)
    except OSError as error:
        return UsageError(f"it cannot be read: {error.strerror}", where=text, hint="make it readable")
    except UsageError:
        kind = ""
    if is_sif(start):
        hint = f"`reprobox inspect --backend singularity {text}` shows its labels"
        return UsageError("this is a SIF, and the sandbox holds none", where=text, hint=hint)
    if kind in _SHOWN:
        return _to_be_shown(text, kind)
    said = "it is neither a project nor an image, a SIF, an archive, a crate or a PDF" if start else "the file is empty"
    return UsageError(said, where=text, hint=_INSPECTED)


def _to_be_shown(text: str, kind: str) -> UsageError:
    said = f"this is {_SHOWN.get(kind, 'no project')}, and inspect shows projects and images"
    return UsageError(said, where=text, hint=f"`reprobox show {text}` says what it holds")
