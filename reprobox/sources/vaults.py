"""Projects out of vaults: a folder, a tar, or a tag in a registry."""

from __future__ import annotations

from pathlib import Path

from reprobox.sources.obtained import Means, Obtained
from reprobox.sources.source import Source
from reprobox.vault.extract import extract
from reprobox.vault.remote import RegistryShelf, is_registry
from reprobox.vault.shelf import open_shelf


def from_vault(source: Source, means: Means, folder: Path) -> Obtained:
    """The project that a vault keeps; every blob of it that is used is held to its hash.

    Raises :class:`UsageError` where it keeps several and none is chosen, :class:`IntegrityError` for a damaged one.
    """
    if is_registry(source.place):
        shelf = RegistryShelf(source.place, means.registries, means.store, means.downloader)
        place = source.place
        kept = extract(shelf, folder / "project", means.lock)
    else:
        place = str(source.path.absolute())
        kept = extract(open_shelf(Path(place)), folder / "project", means.lock)
    facts = {"vault": place, "kept": kept.name}
    return Obtained(folder=folder / "project", what="a vault", facts=facts, vaults=(place,))
