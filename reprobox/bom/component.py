"""What a bill of materials is, as values; and the names that things have in it."""

from __future__ import annotations

import re
import urllib.parse
from dataclasses import dataclass, field
from uuid import UUID

from reprobox.bom.metadata import Metadata
from reprobox.digest import sha256
from reprobox.licences import Licence


@dataclass(frozen=True, kw_only=True, slots=True)
class Component:
    """One thing that an environment is made of.

    ``kind`` is ``deb``, ``pypi``, ``git``, ``file`` (a download), ``image`` (a base) or ``blob`` (a part of one).
    ``ref`` is its name within the bill; ``sha256`` lower-case hex, empty for what is locked as part of something else;
    ``size`` in bytes; ``layers`` are names of layers that have it, lowest first; ``depends`` are refs of components of
    the bill. ``build_only`` is of tools that leave nothing of themselves in the environment; ``part_of`` is the ref of
    what it is, or came in, a part of; ``replaced_by`` the ref of the version that a layer above put in its place;
    ``removed_in`` the layer that took it away.
    """

    kind: str
    name: str
    ref: str
    version: str = ""
    purl: str = ""
    architecture: str = ""
    file: str = ""
    sha256: str = ""
    size: int = 0
    licence: Licence = field(default_factory=Licence)
    metadata: Metadata = field(default_factory=Metadata)
    layers: tuple[str, ...] = ()
    depends: tuple[str, ...] = ()
    swhids: tuple[str, ...] = ()
    build_only: bool = False
    part_of: str = ""
    replaced_by: str = ""
    removed_in: str = ""
    private: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class BilledLayer:
    """A layer as the bill tells it: its name, kind, id (sha256 hex) and the names of those that it stands on."""

    name: str
    kind: str
    id: str
    parents: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Bill:
    """What the environment of a target is made of. ``lock`` is the sha256 hex of the lock, ``epoch`` in unix seconds.

    ``digest`` is the image's, ``sha256:<hex>``, where the lock is sealed; ``code`` the SWHID of the code that it runs.
    ``notes`` say what the bill cannot know.
    """

    project: str
    version: str
    description: str
    licence: str
    authors: tuple[str, ...]
    lock: str
    target: str
    platform: str
    epoch: int
    digest: str = ""
    code: str = ""
    layers: tuple[BilledLayer, ...] = ()
    components: tuple[Component, ...] = ()
    notes: tuple[str, ...] = ()


def ref_of(*words: str) -> str:
    """A name that SPDX allows: letters, digits, ``.`` and ``-``."""
    return "-".join(re.sub(r"[^A-Za-z0-9.]+", "-", word) for word in words if word)


def deb_purl(vendor: str, name: str, version: str, architecture: str, distribution: str) -> str:
    """https://github.com/package-url/purl-spec, type ``deb``."""
    return purl_of("deb", vendor, name, version, arch=architecture, distro=distribution)


def purl_of(kind: str, namespace: str, name: str, version: str, **qualifiers: str) -> str:
    """A package URL: percent-encoded, its qualifiers sorted, empty ones left out."""
    path = "/".join(urllib.parse.quote(part, safe=":") for part in (namespace, name) if part)
    text = f"pkg:{kind}/{path}" + (f"@{urllib.parse.quote(version, safe=':')}" if version else "")
    said = "&".join(
        f"{key}={urllib.parse.quote(value, safe=':/')}" for key, value in sorted(qualifiers.items()) if value
    )
    return f"{text}?{said}" if said else text


def uuid_of(form: str, bill: Bill) -> UUID:
    """A UUID of version 8 (RFC 9562) that follows from the lock, the target and the form of the document."""
    digest = bytearray(bytes.fromhex(sha256(f"{form} {bill.target} {bill.lock}".encode()))[:16])
    digest[6] = digest[6] & 0x0F | 0x80
    digest[8] = digest[8] & 0x3F | 0x80
    return UUID(bytes=bytes(digest))
