"""A DOI into ``research.toml`` and ``CITATION.cff``, nothing else of them touched."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Collection
from pathlib import Path

from reprobox.errors import ReproboxError, UsageError
from reprobox.manifest import Manifest
from reprobox.manifest_edit import set_project_key

CITATION = "CITATION.cff"
_DOI = re.compile(r"^doi:.*$", re.MULTILINE)
_CITED = re.compile(r"^cff-version:", re.MULTILINE)


def paper_of(manifest: Manifest, ours: Collection[str]) -> str:
    """The DOI in the manifest, where it is none of our own records' and so the paper's; else empty."""
    doi = manifest.project.doi or ""
    return "" if bare(doi).lower() in ours else doi


def bare(doi: str) -> str:
    """``10.5281/zenodo.1`` of all the ways in which people write it."""
    return re.sub(r"^(https?://(dx\.)?doi\.org/|doi:)", "", doi.strip(), flags=re.IGNORECASE)


def write_doi(manifest: Path, doi: str) -> tuple[Path, ...]:
    """Put ``doi`` into the manifest at this path and the ``CITATION.cff`` beside it; the files that changed."""
    changed = []
    text = manifest.read_bytes().decode()
    try:
        edited = set_project_key(text, "doi", doi)
    except UsageError as error:
        hint = f'add doi = "{doi}" to its [project] yourself, and run it again'
        raise UsageError(error.message, where=str(manifest), hint=hint) from None
    if _replaced(manifest, text, edited):
        changed.append(manifest)
    citation = manifest.with_name(CITATION)
    if citation.is_file():
        text = citation.read_bytes().decode()
        if _replaced(citation, text, cited(text, doi)):
            changed.append(citation)
    return tuple(changed)


def cited(text: str, doi: str) -> str:
    """The text of a ``CITATION.cff`` with this DOI; what is no such file stays as it is."""
    if not _CITED.search(text):
        return text
    line = f"doi: {doi}"
    if _DOI.search(text):
        return _DOI.sub(lambda _: line, text, count=1)
    return f"{text.rstrip()}\n{line}\n"


def _replaced(path: Path, old: str, new: str) -> bool:
    if new == old:
        return False
    staged = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        try:
            with staged.open("xb") as file:
                file.write(new.encode())
                file.flush()
                os.fsync(file.fileno())
            staged.chmod(path.stat().st_mode & 0o7777)
            staged.replace(path)
        finally:
            staged.unlink(missing_ok=True)
    except OSError as error:
        hint = "make it writable, and run it again: the draft is remembered"
        raise ReproboxError(
            f"the DOI cannot be written into it: {error.strerror}", where=str(path), hint=hint
        ) from None
    return True
