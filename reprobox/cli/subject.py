"""What `attach`, `detach` and `inspect` are about: a PDF, an image in a registry, or a commit."""

from __future__ import annotations

import argparse
from pathlib import Path

from reprobox.errors import UsageError

PDF, IMAGE, COMMIT = "PDFs", "images", "commits"
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
