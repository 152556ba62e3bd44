"""From what a reader named to a project in a folder, whichever kind of source it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from reprobox.errors import UsageError
from reprobox.sources.obtained import Means, Obtained
from reprobox.sources.packed import from_archive, from_crate
from reprobox.sources.source import ARCHIVE, CRATE, VAULT, Source
from reprobox.sources.vaults import from_vault

_WAYS: Mapping[str, Callable[[Source, Means, Path], Obtained]] = {
    ARCHIVE: from_archive,
    CRATE: from_crate,
    VAULT: from_vault,
}


def obtain(source: Source, means: Means, folder: Path) -> Obtained:
    """Bring the project of a source into the empty ``folder``, which is its own. Nothing of it is run.

    Raises :class:`UsageError`, :class:`IntegrityError`, :class:`FetchError`, :class:`OfflineError`.
    """
    if means.lock and source.kind != VAULT:
        raise UsageError("--lock chooses in a vault, and this is none", where=source.text, hint="leave --lock out")
    return _WAYS[source.kind](source, means, folder)
