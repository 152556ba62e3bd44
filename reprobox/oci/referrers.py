"""Artifacts that refer to an image: listed, added and taken away, also in registries without the referrers API.

Such a registry has an index of them under the tag ``sha256-<hex of the image's digest>``.

Source: OCI Distribution Specification v1.1, "Listing Referrers", "Referrers Tag Schema", "Pushing Manifests with
Subject".
"""

from __future__ import annotations

import json
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from reprobox.digest import Json, canonical, prefixed, sha256
from reprobox.download.transfer import Location, StatusError
from reprobox.errors import FetchError, IntegrityError
from reprobox.image import INDEX_TYPE, MANIFEST_TYPE, Descriptor
from reprobox.oci import documents as oci
from reprobox.oci.push import Writer
from reprobox.oci.registry import Reference, Repository

_ACCEPT = {"Accept": INDEX_TYPE}
_NO_API = (400, 404, 405, 406, 415, 501)
_MOST_PAGES = 50
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Referrer:
    """An artifact that refers to an image; ``digest`` is sha256 hex of its manifest."""

    digest: str
    size: int
    artifact: str
    annotations: Mapping[str, str] = field(default_factory=dict)
    media_type: str = MANIFEST_TYPE

    def document(self) -> dict[str, Json]:
        descriptor = Descriptor(media_type=self.media_type, digest=self.digest, size=self.size).document()
        said: dict[str, Json] = {"annotations": dict(self.annotations)} if self.annotations else {}
        return {**descriptor, "artifactType": self.artifact, **said}


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """All referrers of one image; ``api`` says that the registry itself keeps the list."""

    referrers: tuple[Referrer, ...]
    api: bool

    def of(self, artifact: str) -> tuple[Referrer, ...]:
        """Those of one artifact type."""
        return tuple(item for item in self.referrers if item.artifact == artifact)


def fallback_tag(digest: str) -> str:
    """The tag under which registries without the API have the list; ``digest`` is sha256 hex."""
    return f"sha256-{digest}"


def subject_of(repository: Repository, reference: Reference) -> tuple[Descriptor, dict[str, Any]]:
    """What a name names, an image or an index of images, and the document that it is.

    Raises :class:`FetchError` where there is none, :class:`IntegrityError` for other bytes than those of its digest.
    """
    data = repository.document(reference)
    try:
        document = json.loads(data)
        kind = document.get("mediaType") or (INDEX_TYPE if "manifests" in document else MANIFEST_TYPE)
    except (ValueError, AttributeError, RecursionError):
        raise FetchError("it is not an OCI document", where=str(reference)) from None
    if kind not in (*oci.MANIFEST_TYPES, *oci.INDEX_TYPES):
        raise FetchError(f"it is no image that anything can be attached to, but {kind!r}", where=str(reference))
    return Descriptor(media_type=kind, digest=sha256(data), size=len(data)), document


def listed(repository: Repository, digest: str) -> Listed:
    """What refers to the image with this sha256 hex.

    Raises :class:`FetchError` where the registry does not say, :class:`IntegrityError` for nonsense.
    """
    try:
        return Listed(referrers=tuple(_pages(repository, digest)), api=True)
    except StatusError as error:
        if error.code not in _NO_API:
            raise _refused(error, repository) from None
    try:
        found = repository.downloader.get(
            repository.place(f"manifests/{fallback_tag(digest)}"), headers=_ACCEPT, limit=oci.MOST_MANIFEST
        )
    except StatusError as error:
        if error.code != 404:
            raise _refused(error, repository) from None
        return Listed(referrers=(), api=False)
    return Listed(referrers=_read(found.body, repository.name), api=False)


def _pages(repository: Repository, digest: str) -> list[Referrer]:
    place = repository.place(f"referrers/{prefixed(digest)}")
    found: list[Referrer] = []
    for _ in range(_MOST_PAGES):
        answer = repository.downloader.get(place, headers=_ACCEPT, limit=oci.MOST_MANIFEST)
        found += _read(answer.body, repository.name)
        following = _next(answer.headers.get("link", ""), place)
        if following is None:
            break
        place = following
    return found


def _next(link: str, place: Location) -> Location | None:
    """The next page, if it is at the same server (RFC 8288): who we are is told to nobody else."""
    said = re.search(r'<([^>]+)>\s*;[^,]*rel="?next"?', link)
    if not said:
        return None
    url = urllib.parse.urljoin(place.url, said[1])
    same = urllib.parse.urlsplit(url)[:2] == urllib.parse.urlsplit(place.url)[:2]
    return replace(place, url=url) if same else None


def _read(data: bytes, where: str) -> tuple[Referrer, ...]:
    try:
        return tuple(map(_referrer, json.loads(data)["manifests"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise IntegrityError(f"its list of referrers cannot be read: {error!r}"[:300], where=where) from None


def _referrer(item: Mapping[str, Any]) -> Referrer:
    size, said = item["size"], item.get("annotations") or {}
    if not _DIGEST.fullmatch(item["digest"]) or type(size) is not int or size < 0:
        raise ValueError("bad digest or size")
    return Referrer(
        digest=item["digest"].removeprefix("sha256:"),
        size=size,
        artifact=str(item.get("artifactType") or ""),
        annotations={str(name): str(value) for name, value in said.items()},
        media_type=str(item.get("mediaType") or MANIFEST_TYPE),
    )


def _refused(error: StatusError, repository: Repository) -> FetchError:
    hint = error.hint
    if error.code in (401, 403):
        hint = f"log in with `docker login {repository.registry}` or `podman login {repository.registry}`"
    return FetchError(
        f"{repository.registry} does not say what is attached: {error.message}", where=repository.name, hint=hint
    )


# -- writing -----------------------------------------------------------------------------------------------------------


def add(writer: Writer, subject: Descriptor, manifest: bytes, referrer: Referrer) -> Listed:
    """Push an artifact, whose blobs are there, as the only one of its type that refers to ``subject``.

    Returns what refers to it now. Raises :class:`PushError`.
    """
    writer.manifest(manifest, MANIFEST_TYPE, prefixed(referrer.digest))
    return _keep(writer, subject, listed(writer.repository, subject.digest), (referrer,), referrer.artifact)


def take_away(writer: Writer, subject: Descriptor, artifact: str) -> Listed:
    """Leave no artifact of this type that refers to ``subject``. Returns what refers to it now."""
    return _keep(writer, subject, listed(writer.repository, subject.digest), (), artifact)


def _keep(writer: Writer, subject: Descriptor, there: Listed, kept: Sequence[Referrer], artifact: str) -> Listed:
    others = [item for item in there.referrers if item.artifact != artifact]
    old = [item for item in there.of(artifact) if item.digest not in {item.digest for item in kept}]
    if not there.api:
        left = (*others, *kept)
        if left != there.referrers:
            writer.manifest(_index(left), INDEX_TYPE, fallback_tag(subject.digest))
        for item in old:
            writer.delete(prefixed(item.digest))  # nothing names it any more
        return Listed(referrers=left, api=False)
    staying = tuple(item for item in old if not writer.delete(prefixed(item.digest)))
    return Listed(referrers=(*others, *kept, *staying), api=True)


def _index(referrers: Sequence[Referrer]) -> bytes:
    manifests: list[Json] = [item.document() for item in referrers]
    return canonical({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests})
