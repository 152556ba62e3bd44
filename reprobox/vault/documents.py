"""What a vault says of itself: an OCI manifest for each lock, and the index that names them.

Values in, bytes out. All documents are RFC 8785 JSON, so that the same content has the same bytes.

Sources: OCI Image Format Specification v1.1 (image-layout, image-index, manifest, "Guidelines for Artifact Usage").
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from reprobox.digest import Json, bare, canonical, prefixed, sha256
from reprobox.errors import IntegrityError
from reprobox.image import INDEX_TYPE, MANIFEST_TYPE, Descriptor

ARTIFACT_TYPE = "application/vnd.reprobox.vault.v1"
#: Types of blobs that are none of OCI's own; ``<kind>`` is an input's type, or the role of what is no input.
MEDIA_TYPE = "application/vnd.reprobox.{kind}.v1"
EMPTY_TYPE, EMPTY = "application/vnd.oci.empty.v1+json", b"{}"
LAYOUT = canonical({"imageLayoutVersion": "1.0.0"})

TITLE = "org.opencontainers.image.title"
NAME = "org.opencontainers.image.ref.name"
_VERSION = "org.opencontainers.image.version"
_OWN = "org.reprobox."
_CHECKSUM, _README = f"{_OWN}checksum", f"{_OWN}readme"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")

#: What a part can be. Of each lock there is one ``lock``, ``manifest`` and ``project``.
ROLES = ("lock", "manifest", "project", "input", "index", "key", "inventory", "attestation", "tool", "layer")
_BY_CHOICE = {"tool", "layer"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One blob that a lock needs: its role, the name that a person would save it under, and what is known of it.

    ``digest`` is sha256 hex, ``size`` in bytes.
    """

    role: str
    title: str
    digest: str
    size: int
    media_type: str
    facts: Mapping[str, str] = field(default_factory=dict)

    def document(self) -> dict[str, Json]:
        known = {f"{_OWN}{name}": value for name, value in self.facts.items() if value}
        descriptor = Descriptor(media_type=self.media_type, digest=self.digest, size=self.size).document()
        return {**descriptor, "annotations": {**known, TITLE: self.title, f"{_OWN}role": self.role}}


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """One lock as a vault keeps it: sha256 hex of the lock's bytes, whose it is, and all its parts.

    ``left_out`` says what the lock needs and the vault does not have, and why: sha256 hex or a name, to the reason.
    """

    lock: str
    project: str
    version: str
    epoch: int
    parts: tuple[Part, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """By which other programs find it in the index."""
        return f"{re.sub('[^a-z0-9.-]+', '-', self.project.lower())}-{self.lock[:12]}"

    @property
    def shown(self) -> str:
        """For people: ``xor 1.0.0 (lock sha256:0123456789ab…)``."""
        return f"{self.project} {self.version}".strip() + f" (lock sha256:{self.lock[:12]}…)"

    def manifest(self) -> bytes:
        """The OCI manifest."""
        said = {"lock": prefixed(self.lock), "project": self.project, "epoch": str(self.epoch)}
        if self.left_out:
            said["left-out"] = canonical(dict(self.left_out)).decode()
        annotations: dict[str, Json] = {f"{_OWN}{name}": value for name, value in said.items()}
        if self.version:
            annotations[_VERSION] = self.version
        return canonical(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST_TYPE,
                "artifactType": ARTIFACT_TYPE,
                "config": Descriptor(media_type=EMPTY_TYPE, digest=sha256(EMPTY), size=len(EMPTY)).document(),
                "layers": [part.document() for part in self.parts],
                "annotations": annotations,
            }
        )

    def entry(self) -> Entry:
        """How the index names it."""
        data = self.manifest()
        facts = {NAME: self.name, f"{_OWN}lock": prefixed(self.lock), f"{_OWN}project": self.project}
        return Entry(digest=sha256(data), size=len(data), artifact=ARTIFACT_TYPE, annotations=facts)

    def with_those_of(self, earlier: Kept) -> Kept:
        """Also what an earlier writing of the same lock put in by choice, where this one brings nothing of the kind.

        Those who vouch for it add up.
        """
        roles = _BY_CHOICE - {part.role for part in self.parts}
        titles = {part.title for part in self.parts}
        more = [
            part
            for part in earlier.parts
            if part.role in roles or (part.role == "attestation" and part.title not in titles)
        ]
        return replace(self, parts=sorted_parts([*self.parts, *more]))


def sorted_parts(parts: Iterable[Part]) -> tuple[Part, ...]:
    """In the order of a manifest, each blob once."""
    found: dict[str, Part] = {}
    for part in sorted(parts, key=lambda part: (ROLES.index(part.role), part.title, part.digest)):
        found.setdefault(part.digest, part)
    return tuple(found.values())


def read_kept(data: bytes, where: str) -> Kept:
    """The :class:`Kept` of a manifest's bytes. Raises :class:`IntegrityError`."""
    try:
        document = json.loads(data)
        said: Mapping[str, str] = document["annotations"]
        if not all(said.get(name, "").isprintable() for name in (f"{_OWN}project", _VERSION)):
            raise ValueError("a name that cannot be printed")
        return Kept(
            lock=_hex(said[f"{_OWN}lock"]),
            project=said[f"{_OWN}project"],
            version=said.get(_VERSION, ""),
            epoch=int(said[f"{_OWN}epoch"]),
            parts=tuple(map(_part, document["layers"])),
            left_out=json.loads(said.get(f"{_OWN}left-out", "{}")),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"a manifest of it is no vault's: {error!r}", where=where) from None


def _part(item: Mapping[str, Any]) -> Part:
    said: dict[str, str] = dict(item["annotations"])
    role, title = said.pop(f"{_OWN}role"), said.pop(TITLE)
    if role not in ROLES or not is_title(title):
        raise ValueError(f"bad role or title: {role!r}, {title!r}")
    return Part(
        role=role,
        title=title,
        digest=_hex(item["digest"]),
        size=int(item["size"]),
        media_type=str(item["mediaType"]),
        facts={name.removeprefix(_OWN): value for name, value in said.items()},
    )


def is_title(text: str) -> bool:
    """Whether it is a plain relative path."""
    return bool(text) and not any(part in ("", ".", "..") for part in text.split("/")) and text.isprintable()


def _hex(value: str) -> str:
    if not _DIGEST.match(value):
        raise ValueError(f"bad digest {value!r}")
    return bare(value)


# -- the index ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One manifest that the index names: of a lock (``artifact`` says so), or of an image."""

    digest: str
    size: int
    artifact: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_lock(self) -> bool:
        return self.artifact == ARTIFACT_TYPE

    def document(self) -> dict[str, Json]:
        said = {"artifactType": self.artifact} if self.artifact else {}
        descriptor = Descriptor(media_type=MANIFEST_TYPE, digest=self.digest, size=self.size).document()
        return {**descriptor, **said, "annotations": dict(self.annotations)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Index:
    """The whole ``index.json``: its entries, and sha256 hex of the README beside it."""

    entries: tuple[Entry, ...]
    readme: str

    def data(self) -> bytes:
        """Its bytes. They hold their own checksum: nothing else names the index by hash."""
        return canonical(_with_checksum(self._document()))

    def _document(self) -> dict[str, Json]:
        return {
            "schemaVersion": 2,
            "mediaType": INDEX_TYPE,
            "manifests": [
                entry.document() for entry in sorted(self.entries, key=lambda item: item.annotations.get(NAME, ""))
            ],
            "annotations": {_README: prefixed(self.readme)},
        }

    def with_entries(self, entries: Iterable[Entry]) -> Index:
        """Entries of the same names are replaced."""
        merged = {item.annotations.get(NAME, item.digest): item for item in (*self.entries, *entries)}
        return replace(self, entries=tuple(merged.values()))


def _with_checksum(document: dict[str, Json]) -> dict[str, Json]:
    annotations = document["annotations"]
    assert isinstance(annotations, Mapping)
    return {**document, "annotations": {**annotations, _CHECKSUM: prefixed(sha256(canonical(document)))}}


def read_index(data: bytes, where: str) -> Index:
    """The index that ``data`` is; every byte counts. Raises :class:`IntegrityError`."""
    try:
        document = json.loads(data)
        entries = tuple(map(_entry, document["manifests"]))
        index = Index(entries=entries, readme=_hex(document["annotations"][_README]))
        sound = index.data() == data
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        sound = False
    if not sound:
        raise IntegrityError(
            "its index.json is damaged or cut short",
            where=where,
            hint="take another copy of the vault, or make it anew with `reprobox vault`",
        )
    return index


def _entry(item: Mapping[str, Any]) -> Entry:
    return Entry(
        digest=_hex(item["digest"]),
        size=int(item["size"]),
        artifact=item.get("artifactType", ""),
        annotations=dict(item["annotations"]),
    )
