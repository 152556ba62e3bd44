"""From what a reader named to a project in a folder, whichever kind of source it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from reprobox.errors import UsageError
from reprobox.sources.attached import from_pdf, from_registry
from reprobox.sources.doi import resolve
from reprobox.sources.obtained import Means, Obtained
from reprobox.sources.packed import from_archive, from_crate
from reprobox.sources.repository import from_repository
from reprobox.sources.source import ARCHIVE, CRATE, DOI, GIT, IMAGE, PDF, VAULT, WEB, Source
from reprobox.sources.vaults import from_vault
from reprobox.sources.web import download


def obtain(source: Source, means: Means, folder: Path) -> Obtained:
    """Bring the project of a source into the empty ``folder``, which is its own. Nothing of it is run.

    Raises :class:`UsageError`, :class:`IntegrityError`, :class:`FetchError`, :class:`OfflineError`.
    """
    if means.lock and source.kind in (CRATE, ARCHIVE, PDF, GIT):
        raise UsageError("--lock chooses in a vault, and this is none", where=source.text, hint="leave --lock out")
    return _WAYS[source.kind](source, means, folder)


def _from_web(source: Source, means: Means, folder: Path) -> Obtained:
    got = download(source, means, folder)
    if isinstance(got, Obtained):
        return got
    found = obtain(got.source, means, folder)
    return replace(found, what=f"{found.what}, downloaded", facts={**got.facts, **_kept_facts(found)})


def _from_doi(source: Source, means: Means, folder: Path) -> Obtained:
    got = resolve(source, means, folder)
    if isinstance(got, Obtained):
        return got
    found = obtain(got.source, means, folder)
    return replace(found, what=f"{found.what} of a record", facts={**got.facts, **_kept_facts(found)})


def _kept_facts(found: Obtained) -> dict[str, str]:
    """Without where the file was meanwhile."""
    return {name: value for name, value in found.facts.items() if name not in ("file", "vault")}


_WAYS: Mapping[str, Callable[[Source, Means, Path], Obtained]] = {
    ARCHIVE: from_archive,
    CRATE: from_crate,
    DOI: _from_doi,
    GIT: from_repository,
    IMAGE: from_registry,
    PDF: from_pdf,
    VAULT: from_vault,
    WEB: _from_web,
}
