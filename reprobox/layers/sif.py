"""``sif``: a base that is a SIF or a SquashFS file, of this machine or, with ``oras://``, of a registry.

It is locked as the file's hash. Its root file system becomes one layer, as it is: modes with set-id bits stay, so that
the SIF of an image shows the same tree as the image. What Apptainer puts into every root stays out, and what it says
there about environment and start goes into the image's config.

Sources: the SIF specification; Apptainer's ``oras`` package for the types of a pushed SIF.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO

from reprobox.archives import sif
from reprobox.archives.squashfs import CompressionError, SquashFs, SquashFsError
from reprobox.archives.tar_stream import FOLDER, Header
from reprobox.archives.unpack import Limits, Unpacker
from reprobox.data import file_sha256
from reprobox.digest import Json, hidden
from reprobox.download.transfer import Location, Watch
from reprobox.errors import BuildError, FetchError, ManifestError, PlatformError
from reprobox.layers.base_file import problem, told_at
from reprobox.layers.kind import Resolution, ResolveRequest, StepRequest, Unpacked
from reprobox.layers.sif_config import config_of
from reprobox.lock import Input
from reprobox.manifest import Base, Layer
from reprobox.oci.registry import Reference

#: The type that Apptainer gives a SIF in a registry.
SIF_TYPE = "application/vnd.sylabs.sif.layer.v1.sif"
_SQUASHFS_TYPE = "application/vnd.squashfs"
_FACT = "file"  # of an input: the path of the file, as the manifest says it
_TAR_MAGIC = slice(257, 262)  # where the first header of a tar says "ustar"
_FILE = {SIF_TYPE: "base.sif", _SQUASHFS_TYPE: "base.sqfs"}


class _SifBase:
    """What the two kinds share: how they are built."""

    recipe = 1
    options = Base

    def needs(self, layer: Layer, above: Sequence[Layer]) -> tuple[str, ...]:  # noqa: ARG002 - the protocol's names
        """A base stands on nothing."""
        return ()

    def step(self, request: StepRequest) -> Unpacked:
        """Unpack the file system; what containers inherit is read out of it."""
        (path,) = request.files.values()
        with _opened(path, request.layer.name, request.platform) as found:
            config, _ = config_of(found.system)
        return Unpacked(unpack=partial(_unpack, path, request), config=config)


class Sif(_SifBase):
    """The kind: ``[base] sif = "base.sif"``. The file is read anew each time, so a changed one stales the lock."""

    name = "sif"
    pinned = False
    complete = True

    def sources(self, layer: Layer) -> tuple[str, ...]:
        """The file."""
        return (layer.options.reference,)

    def resolve(self, request: ResolveRequest) -> Resolution:
        """Hash the file, and look into it."""
        path, world = request.manifest.base.reference, request.world
        file = (world.project / path).absolute()
        if not file.is_file():
            what = "is a folder: for a sandbox that Apptainer made, write rootfs" if file.is_dir() else "is not there"
            hint = "give a file that `apptainer build` or `apptainer pull` writes"
            raise ManifestError([problem(request, "sif", f"the file {path} {what}", hint)])
        digest = file_sha256(file, world.store)
        with told_at(request, "sif"):
            return _resolution(file, digest, request, path, {"path": path}, {_FACT: path})


class OrasSif(_SifBase):
    """The kind: ``[base] sif = "oras://registry/name:tag"``."""

    name = "oras"
    pinned = True

    def resolve(self, request: ResolveRequest) -> Resolution:
        """Ask the registry what the name stands for now, and fetch that: what is inside says the rest."""
        world = request.world
        reference = Reference.parse(request.manifest.base.reference)
        blob = world.registries.artifact(reference, (SIF_TYPE,))
        hints = {"repository": reference.name}
        item = Input(
            type="blob",
            name=_FILE[SIF_TYPE],
            sha256=blob.digest,
            size=blob.size,
            facts={"media_type": SIF_TYPE, **hints},
        )
        world.fetch([item])
        where = f"oras://{reference}"
        with told_at(request, "sif"):
            return _resolution(world.store.blob(blob.digest), blob.digest, request, where, {"reference": where}, hints)


class SifProvider:
    """Takes locked SIF files from where they were when they were locked."""

    name = "sif"

    def __init__(self, project: Path) -> None:
        self._project = project

    def locate(self, inputs: Sequence[Input]) -> Mapping[str, Sequence[Location]]:
        """One place for each input that is a file of this machine, whether or not that is still there."""
        wanted = [item for item in inputs if item.type == "blob" and _FACT in item.facts]
        return {item.sha256: [self._location((self._project / item.facts[_FACT]).absolute())] for item in wanted}

    def _location(self, file: Path) -> Location:
        changed = "put the old file back, or run `reprobox lock` to take it as it is now"
        make = None if file.is_file() else partial(_missing, file)
        return Location(url=file.as_uri(), label=str(file), changed=changed, make=make)


def _missing(file: Path, _: Callable[[bytes], None], __: Watch) -> None:
    hint = "copy the file there from where the lock was made"
    raise FetchError("the file of the base is not there", where=str(file), hint=hint)


def _resolution(
    file: Path,
    digest: str,
    request: ResolveRequest,
    where: str,
    origin: Mapping[str, Json],
    hints: Mapping[str, str],
) -> Resolution:
    with _opened(file, where, request.platform) as found:
        config, left = config_of(found.system)
        created, kind = found.created, found.type
    facts: dict[str, Json] = {**origin, "config": config, "created": created}
    if left:
        facts["left"] = list(left)
    item = Input(
        type="blob",
        name=_FILE[kind],
        sha256=digest,
        size=file.stat().st_size,
        facts={"media_type": kind, **hints},
    )
    return Resolution(inputs=(item,), facts=facts, dates=(created,) if created > 0 else ())


class _Opened:
    """A SIF or a bare SquashFS: its file system, its type, and when it was made (unix seconds)."""

    def __init__(self, file: IO[bytes], platform: str, where: str) -> None:
        start = file.read(_TAR_MAGIC.stop)
        file.seek(0)
        if sif.is_sif(start):
            found = sif.read(file)
            root = _root(found, platform, where)
            self.type, self.created = SIF_TYPE, found.created
            self.system = SquashFs(file, root.offset, root.size)
        elif start.startswith(b"hsqs"):
            self.system = SquashFs(file)
            self.type, self.created = _SQUASHFS_TYPE, self.system.created
        else:
            raise FetchError("it is neither a SIF nor a SquashFS file", where=where, hint=_kind_hint(start))


def _kind_hint(start: bytes) -> str:
    if b"\x53\xef" in start or not start.strip(b"\0"):
        return "images of Singularity 2 were ext3 files: `apptainer build base.sif old.img` makes a SIF of one"
    if start[:2] == b"\x1f\x8b" or start[_TAR_MAGIC] == b"ustar":
        return 'a tar of an image is taken by archive = "…"; images of Singularity 1 cannot be read by anything now'
    return "give a file that `apptainer build` or `apptainer pull` writes; it may not have arrived whole"


def _root(found: sif.Sif, platform: str, where: str) -> sif.Object:
    """The partition with the root file system, if it can be used."""
    root = found.primary
    if root is None:
        if found.of_type(sif.OCI_INDEX):
            raise FetchError(
                "it is an OCI-SIF, as `singularity build --oci` makes it: it holds an image, not a file system",
                where=where,
                hint='make it without --oci, or take the image that it was made of: image = "…"',
            )
        raise FetchError("it has no root file system", where=where, hint="build it again: `apptainer build`")
    partition = root.partition
    assert partition is not None
    if partition.filesystem == sif.ENCRYPTED_SQUASHFS:
        raise FetchError(
            "it is encrypted: what nobody may read, nobody can check or rebuild",
            where=where,
            hint="build it without --encrypt, or unpack it where the key is (`apptainer build --sandbox dir base.sif`)"
            ' and write rootfs = "dir"',
        )
    overlays = [item for item in found.objects if item.partition and item.partition.role == sif.OVERLAY]
    if overlays:
        raise FetchError(
            f"it has a writable overlay (object {overlays[0].id}), in which files may be other ones than in the SIF",
            where=where,
            hint=f"join them into a new one (`apptainer build --sandbox dir {where} && apptainer build new.sif dir`),"
            f" or take the overlay out: `apptainer sif del {overlays[0].id} {where}`",
        )
    if partition.filesystem != sif.SQUASHFS:
        raise FetchError(
            "its root file system is not a SquashFS",
            where=where,
            hint=f"build it again with a current Apptainer: `apptainer build new.sif {where}`",
        )
    if found.architecture and f"linux/{found.architecture}" != platform:
        raise PlatformError(
            f"it is for linux/{found.architecture}, not for {platform}",
            where=where,
            hint="choose one of this platform, or set `platform` in [targets]",
        )
    return root


@contextmanager
def _opened(path: Path, where: str, platform: str) -> Iterator[_Opened]:
    """The file, and what is wrong with it told as such."""
    try:
        with path.open("rb") as file:
            yield _Opened(file, platform, where)
    except CompressionError as error:
        again = f"`apptainer build --sandbox dir {where}`, then `apptainer build new.sif dir`"
        raise FetchError(str(error), where=where, hint=f"pack it again: {again}") from None
    except (sif.SifError, SquashFsError) as error:
        raise FetchError(str(error), where=where, hint="copy or build the file again: it is broken") from None
    except OSError as error:
        raise FetchError(f"it cannot be read: {error.strerror}", where=where) from None


def _unpack(path: Path, request: StepRequest, tree: Path) -> tuple[str, ...]:
    """Fill the empty folder ``tree``; returns what was left out."""
    where = request.layer.name
    try:
        with path.open("rb") as file, Unpacker(tree) as unpacker:
            system = _Opened(file, request.platform, where).system
            entries = (
                (_dated(header, request.epoch * 10**9), content) for header, content in system.entries(skip=hidden)
            )
            unpacker.entries(entries, Limits(), path.stat().st_size)
            return tuple(unpacker.skipped)
    except (sif.SifError, SquashFsError) as error:
        raise BuildError(f"this file system cannot be unpacked: {error}", where=where) from None


def _dated(header: Header, epoch: int) -> Header:
    """With the times that all layers have: a folder's is the epoch, and no file's is later."""
    return header._replace(mtime=epoch if header.kind == FOLDER else min(header.mtime, epoch))
