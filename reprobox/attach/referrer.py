"""Attaching to an image in a registry: an artifact that refers to it, with one blob for each file.

Source: OCI Image Specification v1.1, "Guidelines for Artifact Usage"; OCI Distribution Specification v1.1.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reprobox.attach.files import LOCK, MANIFEST, MOST, NAMES, PROJECT, Attached, found
from reprobox.digest import Json, bare, canonical, prefixed, sha256
from reprobox.download.transfer import Watch
from reprobox.errors import FetchError, IntegrityError, PushError, ReproboxError, UsageError
from reprobox.image import MANIFEST_TYPE, Descriptor, rfc3339
from reprobox.lock import Lock
from reprobox.oci import documents as oci
from reprobox.oci.image_push import IMAGE_DIGEST
from reprobox.oci.push import Blob, Writer
from reprobox.oci.referrers import Listed, Referrer, add, fallback_tag, listed, subject_of, take_away
from reprobox.oci.registry import Reference, Registries, Repository
from reprobox.tree import file_sha256
from reprobox.vault.documents import EMPTY, EMPTY_TYPE, MEDIA_TYPE, TITLE

ARTIFACT_TYPE = "application/vnd.reprobox.research.v1"
MEDIA_TYPES: Mapping[str, str] = {
    MANIFEST: MEDIA_TYPE.format(kind="manifest"),
    LOCK: MEDIA_TYPE.format(kind="lock"),
    PROJECT: "application/x-tar",
}
#: Ways to say that a name is an image's; :mod:`reprobox.vault.remote` reads the first one as a vault.
_REGISTRY = re.compile(r"(?:oci|docker)://")
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
    """What ``registry/name:tag`` names, with ``oci://`` or ``docker://`` before it or not. Raises
    :class:`UsageError`."""
    return Reference.parse(_REGISTRY.sub("", text, count=1))


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


# -- writing -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """What is attached now: sha256 hex of the image and of the artifact, and what a person should know.

    ``api`` says that the registry keeps the list of referrers itself; else it is under the tag ``fallback``.
    """

    subject: str
    artifact: str
    size: int
    api: bool
    fallback: str
    replaced: tuple[str, ...]
    notes: tuple[str, ...]


def attach(registries: Registries, reference: Reference, attached: Attached, lock: Lock, platform: str = "") -> Done:
    """Attach the files to the image, or to the index of images, that ``reference`` names; for a ``platform``, to that
    one image of the index. What was attached by us before is replaced.

    Raises :class:`FetchError` where there is no such image, :class:`PushError` where the registry does not take it.
    """
    repository = registries.repository(reference)
    subject, document = subject_of(repository, reference)
    if document.get("artifactType") == ARTIFACT_TYPE:
        raise UsageError(
            "this names what is attached, and not an image", where=str(reference), hint="give the image's own name"
        )
    if platform:
        subject = _of_platform(repository, reference, subject, document, platform)
    writer = Writer(repository=repository, where=str(reference))
    before = {item.digest for item in listed(repository, subject.digest).of(ARTIFACT_TYPE)}
    data = _artifact(subject, attached, lock)
    _send(writer, attached)
    referrer = Referrer(digest=sha256(data), size=len(data), artifact=ARTIFACT_TYPE, annotations=_facts(attached, lock))
    now = add(writer, subject, data, referrer)
    kept = {item.digest for item in now.of(ARTIFACT_TYPE)}
    return Done(
        subject=subject.digest,
        artifact=referrer.digest,
        size=attached.size,
        api=now.api,
        fallback="" if now.api else fallback_tag(subject.digest),
        replaced=tuple(sorted(before - kept)),
        notes=tuple(_notes(subject, document, lock, kept - {referrer.digest})),
    )


def remove(registries: Registries, reference: Reference) -> Done:
    """Take off the image what is attached to it. Raises :class:`PushError` where the registry does not delete it."""
    repository = registries.repository(reference)
    there = look(repository, reference)
    writer = Writer(repository=repository, where=str(reference))
    left = take_away(writer, there.subject, ARTIFACT_TYPE)
    if left.of(ARTIFACT_TYPE):
        raise PushError(
            f"{repository.registry} does not delete {prefixed(there.artifact.digest)}",
            where=str(reference),
            hint="ask those who keep the registry to allow it, or to do it",
        )
    return Done(
        subject=there.subject.digest,
        artifact=there.artifact.digest,
        size=0,
        api=left.api,
        fallback="",
        replaced=(there.artifact.digest,),
        notes=(),
    )


def _of_platform(
    repository: Repository, reference: Reference, subject: Descriptor, document: Mapping[str, Any], platform: str
) -> Descriptor:
    if subject.media_type not in oci.INDEX_TYPES:
        return repository.image(reference, platform).descriptor
    found = oci.read_manifest(canonical(dict(document)), subject.media_type, str(reference))
    assert isinstance(found, oci.Index)
    chosen = found.select(platform, str(reference))
    return subject_of(repository, replace(reference, tag="", digest=prefixed(chosen.digest)))[0]


def _artifact(subject: Descriptor, attached: Attached, lock: Lock) -> bytes:
    """The artifact's manifest."""
    empty = Blob.of(EMPTY, EMPTY_TYPE).descriptor
    layers: list[Json] = [
        {**blob.descriptor.document(), "annotations": {TITLE: name}} for name, blob in _blobs(attached).items()
    ]
    return canonical(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "artifactType": ARTIFACT_TYPE,
            "config": empty.document(),
            "layers": layers,
            "subject": subject.document(),
            "annotations": dict(_facts(attached, lock)),
        }
    )


def _facts(attached: Attached, lock: Lock) -> dict[str, str]:
    """What the list of referrers says of it."""
    return {
        "org.opencontainers.image.created": rfc3339(lock.epoch),
        "org.reprobox.lock": prefixed(file_sha256(attached.lock)),
    }


def _blobs(attached: Attached) -> dict[str, Blob]:
    return {
        name: Blob(
            media_type=MEDIA_TYPES[name],
            digest=file_sha256(attached.folder / name),
            size=(attached.folder / name).stat().st_size,
            path=attached.folder / name,
        )
        for name in attached.names
    }


def _send(writer: Writer, attached: Attached) -> None:
    writer.blob(Blob.of(EMPTY, EMPTY_TYPE))
    for blob in _blobs(attached).values():
        writer.blob(blob)


def _notes(subject: Descriptor, document: Mapping[str, Any], lock: Lock, others: Collection[str]) -> Iterator[str]:
    sealed = {target.seal.image_digest for target in lock.targets.values() if target.seal}
    said = str((document.get("annotations") or {}).get(IMAGE_DIGEST, "")).removeprefix("sha256:")
    if subject.media_type in oci.MANIFEST_TYPES and sealed and not sealed & {subject.digest, said}:
        yield "the image is none that the lock's seal names: was it made from this lock?"
    if others:
        listed = ", ".join(map(prefixed, sorted(others)))
        yield f"the registry does not delete what was attached before, and readers must choose between it and {listed}"
