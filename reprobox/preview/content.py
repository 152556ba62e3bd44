"""Everything that the page shows, as one frozen value.

No clock, no file and no network is asked: the same value gives the same page.
"""

from __future__ import annotations

from dataclasses import dataclass

from reprobox.recreate import Way


@dataclass(frozen=True, kw_only=True, slots=True)
class Person:
    """Who made it. ``orcid`` and ``ror`` are identifiers without and with their address, as in the manifest."""

    name: str
    orcid: str = ""
    affiliation: str = ""
    ror: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Grant:
    """Who paid for it."""

    funder: str
    ror: str = ""
    title: str = ""
    award: str = ""
    url: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """One layer of a target: what it stands on, how many inputs it has, their bytes, and what it asks for in words."""

    name: str
    kind: str
    parents: tuple[str, ...]
    id: str
    inputs: int = 0
    size: int = 0
    asks: str = ""
    pinned: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """One variant of the environment; digests are sha256 hex, empty where there is no seal."""

    name: str
    platform: str
    base: str
    layers: tuple[Layer, ...]
    requires: tuple[tuple[str, str], ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    image_digest: str = ""
    tree_digest: str = ""

    @property
    def sealed(self) -> bool:
        return bool(self.image_digest)


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """One file that is installed; ``targets`` are empty where all have it."""

    name: str
    version: str
    kind: str
    sha256: str
    size: int
    layer: str
    licence: str = ""
    targets: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """A folder that the environment sees: where, how, and what is in it.

    ``tree`` is the hash of the locked content, with ``files`` and ``size``; ``downloads`` are (URL, sha256 hex, bytes).
    """

    target: str
    mode: str
    source: str = ""
    tree: str = ""
    files: int = 0
    size: int = 0
    downloads: tuple[tuple[str, str, int], ...] = ()
    enclosed: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Code:
    """The code: where it is in the crate or in which repository, and its git tree and commit."""

    place: str
    target: str
    tree: str = ""
    commit: str = ""
    repository: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Voucher:
    """A signed statement that this lock was built and gave the digests of its seal: a key, and what it says."""

    key: str
    who: str = ""
    when: str = ""
    says: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A recorded run: the command, when it ended, its exit status, and how many files it wrote."""

    command: str
    ended: str
    status: int
    outputs: int = 0
    who: str = ""
    target: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """Everything that the page shows. Digests are sha256 hex; days are ``2026-11-22``; what is unknown is empty.

    ``metadata`` is the crate's JSON-LD, put into the page for machines.
    """

    title: str
    name: str
    lock: str
    manifest: str
    epoch: str
    targets: tuple[Target, ...]
    ways: tuple[Way, ...]
    ways_target: str
    version: str = ""
    description: str = ""
    licence: str = ""
    licence_url: str = ""
    doi: str = ""
    date: str = ""
    url: str = ""
    repository: str = ""
    keywords: tuple[str, ...] = ()
    people: tuple[Person, ...] = ()
    funding: tuple[Grant, ...] = ()
    command: str = ""
    code: Code | None = None
    packages: tuple[Package, ...] = ()
    data: tuple[Data, ...] = ()
    citation: str = ""
    bibtex: str = ""
    vouchers: tuple[Voucher, ...] = ()
    runs: tuple[Run, ...] = ()
    metadata: str = ""
