"""What came out of a source: a project in a folder, and what else is known of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from reprobox.download.downloader import Downloader
from reprobox.oci.registry import Registries
from reprobox.project import MANIFEST_NAME
from reprobox.session import Reporter
from reprobox.store import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class Means:
    """What getting a source may use. ``lock`` names one of several locks; ``resolver`` is the base address of DOIs.

    Without ``inputs``, what only building would need stays where it is.
    """

    store: Store
    downloader: Downloader
    registries: Registries
    reporter: Reporter
    lock: str = ""
    resolver: str = "https://doi.org"
    inputs: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Obtained:
    """The project in ``folder``, which nobody has agreed to yet.

    ``what`` says for people what it came out of, ``facts`` more of it (a commit, a checksum). ``vaults`` have its
    inputs. ``left_out`` are folders that were not taken. ``manifest`` is the name of the manifest in the folder.
    """

    folder: Path
    what: str
    facts: Mapping[str, str] = field(default_factory=dict)
    vaults: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    manifest: str = MANIFEST_NAME
