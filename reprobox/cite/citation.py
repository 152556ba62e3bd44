"""What there is to say of an environment where it is cited, as one frozen value."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote

from reprobox.digest import bare
from reprobox.image import rfc3339
from reprobox.lock import Lock, LockedTarget
from reprobox.lock_text import lock_digest
from reprobox.manifest import Manifest

SHORT = 12
"""How many hexadecimal digits name a lock where people read it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Named:
    """A package that the manifest asks for, at the version that is locked."""

    name: str
    version: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Citation:
    """What is said of one target. ``authors`` are (given, family); digests are sha256 hex, empty without a seal.

    ``day`` is ``2026-11-22``; ``counts`` are how many packages of each kind there are, in words; ``targets`` and
    ``sealed`` how many targets there are, and how many of them have a seal; ``keys`` how many keys vouch for the lock.
    """

    title: str
    name: str
    authors: tuple[tuple[str, str], ...]
    day: str
    lock: str
    target: str
    platform: str
    base: str
    version: str = ""
    doi: str = ""
    url: str = ""
    counts: tuple[tuple[int, str], ...] = ()
    named: tuple[Named, ...] = ()
    image_digest: str = ""
    tree_digest: str = ""
    targets: int = 1
    sealed: int = 0
    pinned: bool = True
    keys: int = 0

    @property
    def year(self) -> str:
        return self.day[:4]

    @property
    def address(self) -> str:
        """Where readers find it: the DOI's, else the page of the project."""
        return doi_address(self.doi) if self.doi else self.url


def citation_of(manifest: Manifest, lock: Lock, target: str, *, digest: str = "", keys: int = 0) -> Citation:
    """What there is to say; ``digest`` is the sha256 hex of ``research.lock``, if it is not written as now."""
    project, locked = manifest.project, lock.targets[target]
    seal = locked.seal
    return Citation(
        title=project.title or project.name,
        name=project.name,
        authors=tuple(author.given_and_family for author in project.authors),
        day=project.date or rfc3339(lock.epoch)[:10],
        lock=digest or lock_digest(lock),
        target=target,
        platform=locked.platform,
        base=base_words(manifest.select(target)),
        version=project.version or "",
        doi=project.doi or "",
        url=project.url or project.repository or "",
        counts=tuple(_counts(locked)),
        named=tuple(_named(manifest.select(target), locked)),
        image_digest=bare(seal.image_digest) if seal else "",
        tree_digest=bare(seal.tree_digest) if seal else "",
        targets=len(lock.targets),
        sealed=sum(item.seal is not None for item in lock.targets.values()),
        pinned=not any(item.unpinned() for item in lock.targets.values()),
        keys=keys,
    )


def base_words(selected: Manifest) -> str:
    """What a target stands on, in words: ``Debian bookworm``, ``the image python:3.11-slim``."""
    base = selected.base
    if base.bootstrap:
        return f"Debian {base.bootstrap.partition(':')[2]}"
    return f"the {'image' if base.given == 'image' else base.given} {base.reference}"


def doi_address(doi: str) -> str:
    """The address that resolves a DOI; what no address may have in it is encoded."""
    return "https://doi.org/" + quote(doi, safe="/:.-_~()!$'*+,=@")


def _counts(target: LockedTarget) -> Iterator[tuple[int, str]]:
    inputs = {item.sha256: item for layer in target.layers for item in layer.inputs}.values()
    for types, word in ((("deb",), "Debian"), (("wheel", "sdist"), "Python")):
        if count := sum(item.type in types for item in inputs):
            yield count, word


def _named(selected: Manifest, target: LockedTarget) -> Iterator[Named]:
    """What apt and pip layers ask for by name; names that the lock does not have are of alternatives, and left out."""
    locked = {layer.name: layer for layer in target.layers}
    for layer in selected.layers:
        if layer.kind not in ("apt", "pip") or layer.name not in locked:
            continue
        versions = {_normal(item.facts.get("package", "")): item.facts for item in locked[layer.name].inputs}
        for asked in getattr(layer.options, "packages", ()) or ():
            found = versions.get(_normal(re.split(r"[\s\[<>=~!;:@]", asked, maxsplit=1)[0]))
            if found:
                yield Named(name=found["package"], version=found.get("version", ""))


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def standing(sealed: int, targets: int, keys: int, *, pinned: bool = True) -> tuple[str, ...]:
    """What may truthfully be said of a lock in a few words: ``locked``, ``sealed``, ``2 keys vouch``."""
    words = ["locked" if pinned else "locked in part"]
    if sealed:
        words.append("sealed" if sealed == targets else f"{sealed} of {targets} targets sealed")
    if keys:
        words.append("1 key vouches" if keys == 1 else f"{keys} keys vouch")
    return tuple(words)
