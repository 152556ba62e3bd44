"""The inputs of a lock as SLSA names them: a package URL, a digest, and the name of the file.

Sources: in-toto ResourceDescriptor v1; the package URL specification, types ``deb``, ``pypi`` and ``generic``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from packaging.utils import canonicalize_name

from reprobox.bom.component import deb_purl, purl_of
from reprobox.digest import Json
from reprobox.lock import Input, Lock
from reprobox.pypi import TYPES

#: More inputs than these are not listed one by one: the lock's own digest, a subject, names every one of them.
MOST = 2000


@dataclass(frozen=True, kw_only=True, slots=True)
class Dependency:
    """One input: package URL, file name, sha256 hex."""

    uri: str
    name: str
    sha256: str

    def document(self) -> dict[str, Json]:
        return {"uri": self.uri, "name": self.name, "digest": {"sha256": self.sha256}}


def dependencies(lock: Lock) -> tuple[Dependency, ...]:
    """All inputs of a lock, each once, sorted by package URL; none where there are more than :data:`MOST`."""
    inputs = inputs_of(lock)
    if len(inputs) > MOST:
        return ()
    found = (Dependency(uri=purl(item), name=item.name, sha256=item.sha256) for item in inputs.values())
    return tuple(sorted(found, key=lambda item: (item.uri, item.sha256)))


def inputs_of(lock: Lock) -> Mapping[str, Input]:
    """All inputs of a lock, by sha256 hex: of layers, of the code that is fetched, of data."""
    found: dict[str, Input] = {}
    alone = [*([lock.checkout] if lock.checkout else []), *lock.downloads.values()]
    for layer in (*(layer for target in lock.targets.values() for layer in target.layers), *alone):
        found |= {item.sha256: item for item in layer.inputs}
    return found


def purl(item: Input) -> str:
    """The package URL of an input, as bills of materials have it; of what is no package, one with its checksum."""
    facts = item.facts
    if item.type == "deb" and {"package", "version"} <= facts.keys():
        vendor = facts.get("archive", "").partition("-")[0].lower() or "debian"  # of debian-security, debian
        suite = facts.get("suite", "").partition("-")[0]
        return deb_purl(vendor, facts["package"], facts["version"], facts.get("architecture", ""), suite)
    if item.type in TYPES and {"package", "version"} <= facts.keys():
        return purl_of("pypi", "", canonicalize_name(facts["package"]), facts["version"], file_name=item.name)
    return purl_of("generic", "", item.name, "", checksum=f"sha256:{item.sha256}")
