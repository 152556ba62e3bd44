"""Attaching to an image in a registry: an artifact that refers to it, with one blob for each file.

Source: OCI Image Specification v1.1, "Guidelines for Artifact Usage"; OCI Distribution Specification v1.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reprobox.attach.files import LOCK, MANIFEST, MOST, NAMES, PROJECT, Attached, found
from reprobox.digest import bare, prefixed, sha256
from reprobox.download import Watch
from reprobox.errors import FetchError, IntegrityError, ReproboxError
from reprobox.image import Descriptor
from reprobox.oci import documents as oci
from reprobox.oci.referrers import Listed, listed, subject_of
from reprobox.oci.registry import Reference, Registries, Repository
from reprobox.vault.documents import MEDIA_TYPE, TITLE

ARTIFACT_TYPE = "application/vnd.reprobox.research.v1"
MEDIA_TYPES: Mapping[str, str] = {
    MANIFEST: MEDIA_TYPE.format(kind="manifest"),
    LOCK: MEDIA_TYPE.format(kind="lock"),
    PROJECT: "application/x-tar",
}
REGISTRY = "oci://"
_MOST_IMAGES = 32  # of an index, that are asked for what is attached to them
_OTHER = "ask whoever pushed it; `reprobox attach` puts it there anew"


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What is attached to an image: the image itself, or the one of its index that has it, and the artifact."""

    subject: Descriptor
    artifact: Descriptor
    document: Mapping[str, Any]
    api: bool


def reference_of(text: str) -> Reference:
    """What ``oci://registry/name:tag``, or the same without ``oci://``, names. Raises :class:`UsageError`."""
    return Reference.parse(text.removeprefix(REGISTRY))


# -- reading -----------------------------------------------------------------------------------------------------------


def read(registries: Registries, reference: Reference, folder: Path, watch: Watch | None = None) -> Attached:
    """Write what is attached to an image into the empty ``folder``. ``reference`` may name the artifact itself.

    Raises :class:`FetchError` where image or artifact cannot be had, :class:`ReproboxError` where nothing is attached,
    and :class:`IntegrityError` for other bytes, or more than one lock.
    """
    repository = registries.repository(reference)
    wanted = look(repository, reference)
    for name, blob in _files(wanted.document, str(reference)).items():
        _save(repository, blob, folder / name, str(reference), watch or Watch())
    return found(folder, str(reference), _titles(wanted.document))


def look(repository: Repository, reference: Reference) -> Found:
    """The one artifact that is attached to what ``reference`` names. Raises what :func:`read` does."""
    where = str(reference)
    subject, document = subject_of(repository, reference)
    if document.get("artifactType") == ARTIFACT_TYPE:
        return Found(subject=_subject(document, where), artifact=subject, document=document, api=False)
    for image in (subject, *_images(subject, document)):
        there = listed(repository, image.digest)
        if chosen := _only(there, image, reference):
            artifact, document = subject_of(repository, replace(reference, tag="", digest=prefixed(chosen)))
            if _subject(document, where).digest != image.digest or document.get("artifactType") != ARTIFACT_TYPE:
                raise IntegrityError(
                    f"what the registry lists as attached, {prefixed(chosen)}, does not refer to this image",
                    where=where,
                    hint=_OTHER,
                )
            return Found(subject=image, artifact=artifact, document=document, api=there.api)
    raise ReproboxError(
        "no research.lock is attached to it", where=where, hint="its authors attach one with `reprobox attach`"
    )


def _images(subject: Descriptor, document: Mapping[str, Any]) -> Sequence[Descriptor]:
    """The images of an index, each for a platform."""
    if subject.media_type not in oci.INDEX_TYPES:
        return ()
    try:
        found = [_descriptor(item) for item in document["manifests"] if item.get("platform")]
    except (KeyError, TypeError, ValueError, AttributeError):
        return ()
    return found[:_MOST_IMAGES]


def _only(there: Listed, image: Descriptor, reference: Reference) -> str:
    digests = list(dict.fromkeys(item.digest for item in there.of(ARTIFACT_TYPE)))
    if len(digests) > 1:
        names = "".join(f"\n  {reference.name}@{prefixed(digest)}" for digest in sorted(digests))
        raise IntegrityError(
            f"{len(digests)} locks are attached to {prefixed(image.digest)}, and only one can be meant:{names}",
            where=str(reference),
            hint="give the name of one of them instead; `reprobox inspect` shows it",
        )
    return digests[0] if digests else ""


def _subject(document: Mapping[str, Any], where: str) -> Descriptor:
    try:
        return _descriptor(document["subject"])
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"the artifact refers to no image: {error!r}", where=where, hint=_OTHER) from None


def _files(document: Mapping[str, Any], where: str) -> dict[str, Descriptor]:
    """Our files in an artifact, by name; other names are left alone."""
    files: dict[str, Descriptor] = {}
    try:
        for layer in document["layers"]:
            name = str((layer.get("annotations") or {}).get(TITLE, ""))
            if name in files:
                raise IntegrityError(f"the artifact has two files named {name}", where=where, hint=_OTHER)
            if name in NAMES:
                files[name] = _descriptor(layer)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise IntegrityError(f"the artifact cannot be read: {error!r}"[:300], where=where, hint=_OTHER) from None
    for name, blob in files.items():
        if blob.size > MOST[name]:
            raise IntegrityError(
                f"{name} in it has {blob.size} bytes, more than the {MOST[name]} of any honest one",
                where=where,
                hint=_OTHER,
            )
    return files


def _titles(document: Mapping[str, Any]) -> list[str]:
    return [str((layer.get("annotations") or {}).get(TITLE, "")) for layer in document["layers"]]


def _descriptor(item: Mapping[str, Any]) -> Descriptor:
    size, digest = item["size"], str(item["digest"])
    if type(size) is not int or size < 0 or len(bare(digest)) != 64 or not digest.startswith("sha256:"):
        raise ValueError("bad digest or size")
    return Descriptor(media_type=str(item["mediaType"]), digest=bare(digest), size=size)


def _save(repository: Repository, blob: Descriptor, path: Path, where: str, watch: Watch) -> None:
    (place, *_) = repository.locations(blob.digest, "")[-1:]
    with path.open("x+b", buffering=0) as file:
        try:
            repository.downloader.save(place, file, sha256=blob.digest, size=blob.size, watch=watch)
        except FetchError as error:
            raise FetchError(f"{path.name} cannot be had: {error.message}", where=where, hint=error.hint) from None
        except IntegrityError as error:
            raise IntegrityError(f"{path.name}: {error.message}", where=where, hint=_OTHER) from None


def digest_of(document: bytes) -> str:
    """sha256 hex, as the registry names it."""
    return sha256(document)
