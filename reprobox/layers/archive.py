"""``archive``: a base that is an image in a tar file, as ``docker save`` and ``skopeo copy`` write it.

It is locked as the config and the layers that it holds, by hash: the tar may be renamed, packed otherwise or written
anew by another engine, and the base stays the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from reprobox.data import file_sha256
from reprobox.download.transfer import Location, Watch
from reprobox.errors import FetchError, ManifestError
from reprobox.layers.base_file import problem, told_at
from reprobox.layers.image import ImageBase, resolution
from reprobox.layers.kind import Resolution, ResolveRequest
from reprobox.lock import Input
from reprobox.manifest import Layer
from reprobox.oci.image_archive import Contents, choose, contents, extract
from reprobox.store import Store

_FACT = "archive"  # of an input: the path of the archive that has it, as the manifest says it
_MEMO = "image-archives"


class ArchiveBase(ImageBase):
    """The kind: ``[base] archive = "base.tar"``. It is read anew each time, so a changed image stales the lock."""

    name = "archive"
    pinned = False
    complete = True

    def sources(self, layer: Layer) -> tuple[str, ...]:
        """The archive."""
        return (layer.options.reference,)

    def resolve(self, request: ResolveRequest) -> Resolution:
        """Find the image, and what it is made of."""
        base, store = request.manifest.base, request.world.store
        file = request.world.project / base.reference
        if not file.is_file():
            hint = "give a file that `docker save -o base.tar NAME:TAG` or `skopeo copy … oci-archive:base.tar` writes"
            what = "is a folder" if file.is_dir() else "is not there"
            raise ManifestError([problem(request, "archive", f"the archive {base.reference} {what}", hint)])
        with told_at(request, "archive"):
            found = choose(_contents(file, store), base.name, request.platform, base.reference)
        for document in found.documents.values():
            store.add_blob(document)
        named = {"image": base.name} if base.name else {}
        return resolution(found, {"path": base.reference, **named}, {_FACT: base.reference})


def _contents(file: Path, store: Store) -> Contents:
    """What the archive holds; it is read once for the same bytes."""
    key = file_sha256(file, store)
    try:
        known = Contents.parse(store.memo(_MEMO, key).read_bytes())
    except OSError:
        known = None
    if known is None:
        known = contents(file)
        store.remember(_MEMO, key, known.document())
    return known


class ImageArchiveProvider:
    """Takes locked blobs out of the archives that they were locked from."""

    name = "archive"

    def __init__(self, store: Store, project: Path) -> None:
        self._store = store
        self._project = project

    def locate(self, inputs: Sequence[Input]) -> Mapping[str, Sequence[Location]]:
        """One place for each input that is from an archive, whether or not that is still there."""
        return {
            item.sha256: [self._location(self._project / item.facts[_FACT], item)]
            for item in inputs
            if item.type == "blob" and _FACT in item.facts
        }

    def _location(self, file: Path, item: Input) -> Location:
        return Location(
            url=file.absolute().as_uri(),
            label=str(file),
            make=partial(self._make, file, item.sha256),
            ask=partial(self._ask, file, item),
        )

    def _ask(self, file: Path, item: Input) -> int:
        self._found(file, item.sha256)
        return item.size

    def _make(self, file: Path, digest: str, write: Callable[[bytes], None], _: Watch) -> None:
        for piece in extract(file, self._found(file, digest), digest):
            write(piece)

    def _found(self, file: Path, digest: str) -> Contents:
        if not file.is_file():
            hint = "copy the archive there from where the lock was made"
            raise FetchError("the archive is not there", where=str(file), hint=hint)
        found = _contents(file, self._store)
        if found.has(digest) is None:
            raise FetchError(
                "the archive holds another image than the one that was locked",
                where=str(file),
                hint="put the old archive back, or run `reprobox lock` to take the image that it holds now",
            )
        return found
