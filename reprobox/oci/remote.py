"""A place that a team shares: built layers in a repository of an OCI registry, found by their layer ids.

Each layer is an artifact of its own: the tag ``layer-<layer id>`` names a manifest whose one blob is the layer's tar,
packed with zstd, and whose annotations say the layer id, the diff id and the size of the tar. Where a registry refuses
artifacts, the manifest is that of an image with one layer, with the same annotations.

A layer id says how a layer is built, and proves nothing about bytes. So every layer is taken under a diff id: the one
that the lock's seal has or, if the user trusts whoever may push there, the one that the remote says.

Sources: OCI Image Specification v1.1, "Guidelines for Artifact Usage"; OCI Distribution Specification v1.1.
"""

from __future__ import annotations

import json
import os
import queue
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from reprobox.crew import Errand
from reprobox.digest import Json, bare, canonical, prefixed, sha256
from reprobox.download.downloader import Downloader
from reprobox.download.transfer import Location, StatusError, Watch
from reprobox.errors import FetchError, IntegrityError, PushError, ReproboxError, UsageError, cannot_write
from reprobox.image import CONFIG_TYPE, LAYER_TYPE, MANIFEST_TYPE, Descriptor, Layer
from reprobox.oci import documents as oci
from reprobox.oci.image_push import send_layer
from reprobox.oci.layer_tar import unpack_layer
from reprobox.oci.packed import ZSTD
from reprobox.oci.push import Blob, Writer
from reprobox.oci.registry import Reference, Registries
from reprobox.store import Store, StoredLayer

ARTIFACT_TYPE = "application/vnd.reprobox.layer.v1"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
LAYER_ID, DIFF_ID, SIZE, DROPPED = "reprobox.layer", "reprobox.diff-id", "reprobox.size", "reprobox.dropped"

#: Whose word counts for a layer's bytes: the lock's seal alone, or that of everybody who may push to the remote.
SEAL, PUSHERS = "seal", "pushers"

_ACCEPT = {"Accept": ", ".join(oci.MANIFEST_TYPES)}
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_REFUSED = (400, 405, 406, 415, 422)  # what registries answer to manifests that they do not like
_ASKERS = 8
_SILENCE = 5.0  # seconds without any answer after which a remote counts as dead
#: What a blob may unpack to: so many times its own size, but at least so many bytes. Nobody fills a disk with zeros.
_RATIO, _PLAIN = 200, 1 << 30
_MOST_DROPPED = 64 << 10  # bytes of the annotation; the rest is left out


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """What a remote says of a layer. ``layer`` and ``diff_id`` are sha256 hex, ``size`` is the tar's in bytes."""

    layer: str
    diff_id: str
    size: int
    blob: Descriptor
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """A layer to be had from a remote; ``diff_id`` (hex) is the only one that will do, empty where any will."""

    id: str
    name: str
    diff_id: str = ""


@runtime_checkable
class LayerSource(Protocol):
    """A place that has built layers: a remote, or a vault that keeps them. ``trust`` is one of the constants above."""

    name: str
    trust: str

    def offers(self, wanted: Sequence[Wanted]) -> Iterator[tuple[Wanted, Offer | ReproboxError | None]]:
        """What it has of each layer, as the answers come."""

    def take(self, store: Store, offer: Offer, output: Path, epoch: int, watch: Watch) -> dict[str, Any]:
        """Make the new folder ``output`` the layer that is offered; returns what its record says of it.

        Raises :class:`IntegrityError` for damaged bytes, :class:`FetchError` where they cannot be had.
        """


def tag(identity: str) -> str:
    """The tag of the layer with this id."""
    return f"layer-{identity}"


def can_be_shared(layer: StoredLayer) -> bool:
    """Whether its tar is all that there is to a layer. A base that is an image has a config, and blobs of its own."""
    return not layer.record.keys() & {"verbatim", "config"}


def repository_of(text: str, where: str) -> Reference:
    """The repository that a remote is in. Raises :class:`UsageError` for a name with a tag or a digest."""
    try:
        reference = Reference.parse(text)
    except UsageError as error:
        raise UsageError(error.message, where=where, hint="such as registry.example/group/layers") from None
    if reference.digest or text.endswith(f":{reference.tag}"):
        raise UsageError(
            f"{text!r} names one image, and a remote is a repository with a tag for each layer",
            where=where,
            hint=f"leave out what follows {reference.name}",
        )
    return replace(reference, tag="")


class Remote:
    """The built layers in one repository. Threads may share it.

    ``trust`` is one of the constants above; ``pushes`` says that what is built is pushed there by itself.
    """

    def __init__(
        self, reference: Reference, registries: Registries, *, trust: str = SEAL, pushes: bool = False
    ) -> None:
        self.name = reference.name
        self.trust = trust
        self.pushes = pushes
        self._repository = registries.repository(reference)
        self._once = threading.Lock()
        if trust == PUSHERS and not registries.private(reference.registry):
            raise UsageError(
                f"{reference.registry} is asked over http, where anybody on the way may change a layer, and no seal"
                " would tell",
                where=self.name,
                hint='set trust = "seal" in [remote], or give the registry TLS',
            )

    # -- taking --------------------------------------------------------------------------------------------------------

    def offer(self, wanted: Wanted) -> Offer | None:
        """What the remote has of a layer; None where it has nothing.

        Raises :class:`IntegrityError` for anything but what is wanted, and :class:`FetchError` without an answer.
        """
        place = self._repository.place(f"manifests/{tag(wanted.id)}")
        try:
            found = self._repository.downloader.get(place, headers=_ACCEPT, limit=oci.MOST_MANIFEST)
        except StatusError as error:
            if error.code == 404:
                return None
            raise
        offer = _read(found.body)
        if offer.layer != wanted.id:
            raise IntegrityError(f"it has another layer under this layer's name: {prefixed(offer.layer)}")
        if wanted.diff_id and offer.diff_id != wanted.diff_id:
            raise IntegrityError(
                f"it has other bytes for this layer: their diff id is {prefixed(offer.diff_id)}, and sealed is"
                f" {prefixed(wanted.diff_id)}"
            )
        return offer

    def offers(self, wanted: Sequence[Wanted]) -> Iterator[tuple[Wanted, Offer | ReproboxError | None]]:
        """What the remote says of each layer, as the answers come; one that stays silent is not waited for."""
        answers: queue.SimpleQueue[tuple[Wanted, Offer | ReproboxError | None]] = queue.SimpleQueue()
        todo = list(reversed(wanted))

        def ask() -> None:
            while todo:
                try:
                    item = todo.pop()
                except IndexError:
                    return
                try:
                    answers.put((item, self.offer(item)))
                except ReproboxError as error:
                    answers.put((item, error))
                    if isinstance(error, FetchError) and not isinstance(error, StatusError):
                        todo.clear()  # nobody is there

        for _ in range(min(_ASKERS, len(wanted))):
            threading.Thread(target=ask, name="reprobox-remote", daemon=True).start()
        for _ in wanted:
            try:
                item, answer = answers.get(timeout=_SILENCE)
            except queue.Empty:
                todo.clear()
                yield wanted[0], FetchError(f"it does not answer within {_SILENCE:.0f} seconds", where=self.name)
                return
            yield item, answer
            if isinstance(answer, FetchError) and not isinstance(answer, StatusError):
                return

    def take(self, store: Store, offer: Offer, output: Path, epoch: int, watch: Watch) -> dict[str, Any]:
        """Make the new folder ``output`` the layer that is offered; returns what its record says of it.

        Raises :class:`IntegrityError` for lost, damaged or exchanged bytes, :class:`FetchError` without an answer.
        """
        place = self._repository.place(f"blobs/{prefixed(offer.blob.digest)}")
        partial = store.partial(offer.blob.digest)
        self._save(place, offer.blob, partial, watch)
        output.mkdir(mode=0o755)
        try:
            unpack_layer(partial, output, diff_id=offer.diff_id, size=offer.size, epoch=epoch)
        finally:
            partial.unlink(missing_ok=True)
        return {"diff_id": offer.diff_id, "size": offer.size, "dropped": list(offer.dropped), "remote": self.name}

    def _save(self, place: Location, blob: Descriptor, path: Path, watch: Watch) -> None:
        try:
            with open(path, "r+b", buffering=0, opener=_opened) as file:
                self._repository.downloader.save(place, file, sha256=blob.digest, size=blob.size, watch=watch)
        except StatusError as error:
            if error.code != 404:
                raise
            raise IntegrityError(f"it has lost the blob {prefixed(blob.digest)}, which its manifest names") from None
        except OSError as error:
            raise cannot_write(path, error) from None

    # -- giving --------------------------------------------------------------------------------------------------------

    def give(self, store: Store, layer: StoredLayer, platform: str, errand: Errand, *, replacing: bool = False) -> bool:
        """Have a built layer at the remote; False where it was there.

        Raises :class:`IntegrityError` where the remote has other bytes for it, unless they are to be replaced, and
        :class:`PushError`.
        """
        writer = Writer(repository=self._repository, where=self.name)
        wanted = Wanted(id=layer.id, name=str(layer.record["name"]), diff_id=str(layer.record["diff_id"]))
        try:
            there = self.offer(wanted)
        except IntegrityError as error:
            if not replacing:
                raise IntegrityError(
                    error.message.replace("and sealed is", "and here it is"),
                    where=f"layer {wanted.name!r} at {self.name}",
                    hint="its step does not always give the same bytes, or somebody pushed others: look at both, then"
                    " `reprobox cache push --replace`",
                ) from None
            there = None
        except StatusError as error:
            raise writer.refused(error) from None
        except FetchError as error:
            raise writer.unreachable(error) from None
        if there is not None and writer.has(there.blob.digest):
            errand.advance(there.size)
            return False
        record = layer.record
        descriptor = Descriptor(media_type=LAYER_TYPE, digest=record["diff_id"], size=record["size"])
        whole = Layer(descriptor=descriptor, diff_id=record["diff_id"], tree=layer.tree, index=layer.index)
        blob, _ = send_layer(writer, store, whole, int(record["inputs"]["epoch"]), ZSTD, errand)
        self._publish(writer, layer, blob.descriptor, platform)
        return True

    def _publish(self, writer: Writer, layer: StoredLayer, blob: Descriptor, platform: str) -> None:
        empty = Blob.of(b"{}", EMPTY_TYPE)
        document: dict[str, Json] = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "artifactType": ARTIFACT_TYPE,
            "config": empty.descriptor.document(),
            "layers": [blob.document()],
            "annotations": _annotations(layer),
        }
        with self._once:  # layers are pushed side by side, and registries lose their way when all bring the same blob
            writer.blob(empty)
        try:
            writer.manifest(canonical(document), MANIFEST_TYPE, tag(layer.id))
        except PushError as error:
            if error.code not in _REFUSED or "BLOB_UNKNOWN" in error.message:
                raise
            config = Blob.of(_config(str(layer.record["diff_id"]), platform), CONFIG_TYPE)
            writer.blob(config)
            del document["artifactType"]
            document["config"] = config.descriptor.document()
            writer.manifest(canonical(document), MANIFEST_TYPE, tag(layer.id))


def _opened(name: str, flags: int) -> int:
    return os.open(name, flags | os.O_CREAT | os.O_NOFOLLOW, 0o600)


# -- documents ---------------------------------------------------------------------------------------------------------


def _annotations(layer: StoredLayer) -> dict[str, Json]:
    record = layer.record
    dropped = [str(line) for line in record.get("dropped", ())]
    while len(json.dumps(dropped)) > _MOST_DROPPED:
        dropped = dropped[: len(dropped) // 2]
    said: dict[str, Json] = {
        LAYER_ID: prefixed(layer.id),
        DIFF_ID: prefixed(str(record["diff_id"])),
        SIZE: str(record["size"]),
        "org.opencontainers.image.title": str(record["name"]),
    }
    return said | ({DROPPED: json.dumps(dropped)} if dropped else {})


def _config(diff_id: str, platform: str) -> bytes:
    """The config of an image of this one layer, for registries that know nothing but images."""
    os_name, _, architecture = platform.partition("/")
    return canonical(
        {
            "architecture": architecture,
            "os": os_name,
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [prefixed(diff_id)]},
        }
    )


def _read(data: bytes) -> Offer:
    """What a manifest at a remote says. Raises :class:`IntegrityError` for anything else than a layer's."""
    try:
        document = json.loads(data)
        said: Mapping[str, str] = document["annotations"]
        (blob,) = document["layers"]
        digests = said[LAYER_ID], said[DIFF_ID], blob["digest"]
        sizes = int(said[SIZE]), blob["size"]
        dropped = json.loads(said.get(DROPPED, "[]"))
        good = (
            all(_DIGEST.fullmatch(digest) for digest in digests)
            and all(type(size) is int and size > 0 for size in sizes)
            and sizes[0] <= max(_PLAIN, _RATIO * sizes[1])
            and all(isinstance(line, str) for line in dropped)
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        good = False
    if not good:
        raise IntegrityError(f"what it has under this layer's name is no layer: manifest {prefixed(sha256(data))}")
    return Offer(
        layer=bare(digests[0]),
        diff_id=bare(digests[1]),
        size=sizes[0],
        blob=Descriptor(media_type=str(blob.get("mediaType", "")), digest=bare(digests[2]), size=sizes[1]),
        dropped=tuple("".join(sign if sign.isprintable() else "?" for sign in line)[:500] for line in dropped[:1000]),
    )


def open_remote(
    text: str, settings: Any, *, where: str, trust: str = SEAL, pushes: bool = False, offline: bool = False
) -> Remote:
    """The remote that ``text`` names. It is asked with little patience: what it has can be built, too."""
    downloader = Downloader(offline=offline, attempts=3, backoff=0.2, timeout=15.0)
    return Remote(repository_of(text, where), Registries(downloader, settings), trust=trust, pushes=pushes)
