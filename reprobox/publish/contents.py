"""What a publication is made of: the project, what describes it, and by choice its data, its vault and its images."""

from __future__ import annotations

import errno
import os
import posixpath
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reprobox.bom.component import Component
from reprobox.cite import badge, citation_of
from reprobox.crate_files import IMAGES, METADATA, PREVIEW, PROJECT, VAULT, image_file
from reprobox.digest import sha256
from reprobox.errors import LockError, ReproboxError, UsageError
from reprobox.image import Image, write_archive
from reprobox.layers.code import is_locked_code
from reprobox.licences import UNKNOWN, licence_of
from reprobox.lock import Input, Lock
from reprobox.locked_data import check_data
from reprobox.manifest import Manifest, Mount
from reprobox.preview import Known, page, page_of
from reprobox.preview.content import Voucher
from reprobox.project import Project
from reprobox.project_files import gather, places_in_project, refuse_secrets
from reprobox.publish.attestations import put_attestations
from reprobox.publish.checklist import Contents, Item, checklist
from reprobox.publish.citation import citation
from reprobox.publish.codemeta import codemeta
from reprobox.publish.crate import Crate, Requirement, metadata
from reprobox.publish.files import File, file_at, files_in, names_in
from reprobox.publish.readme import readme
from reprobox.publish.runs import put_runs, shown
from reprobox.realize import Wish, make
from reprobox.recreate import Enclosed, image_tag
from reprobox.run_record.record import RunRecord
from reprobox.session import Session, this_platform
from reprobox.tree import opened, walk
from reprobox.vault.contents import Choice as VaultChoice
from reprobox.vault.contents import keep, not_kept, private_inputs

_CHUNK = 1 << 20
_METADATA_LICENCE = "CC0-1.0"
_OTHERS = "as each package says"


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What goes in by choice: the data of mounts, the vault, the images."""

    data: bool = False
    vault: bool = False
    images: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Packed:
    """An input of the environment: bytes, the licence that it tells, and why it may not be passed on (or nothing)."""

    name: str
    size: int
    licence: str
    closed: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Publication:
    """What is in a publication, what is not and why, what the environment's inputs say of themselves, and what badges
    ask for. ``others`` begin the paths of what somebody else made.
    """

    lock_digest: str
    files: tuple[File, ...]
    inputs: tuple[Packed, ...]
    left_out: Mapping[str, str]
    items: tuple[Item, ...]
    licence: str = ""
    others: tuple[str, ...] = ()

    def licensed(self) -> Iterator[tuple[File, str]]:
        """Every file and its licence: the project's for what is its own, of others' what their packages say."""
        for file in self.files:
            theirs = file.path == VAULT or file.path.startswith((f"{IMAGES}/", *self.others))
            yield file, _OTHERS if theirs else _METADATA_LICENCE if file.path == METADATA else self.licence or "unknown"

    @property
    def closed(self) -> dict[str, str]:
        """Inputs that perhaps may not be passed on, with the reason."""
        return {item.name: item.closed for item in self.inputs if item.closed}


def check_publishable(session: Session, project: Project, manifest: Manifest, lock: Lock, choice: Choice) -> None:
    """Raise :class:`LockError` where the code is another one than was locked, :class:`IntegrityError` where data is.

    The lock must be fresh.
    """
    if not is_locked_code(session.project, manifest, lock):
        raise LockError("the code is not what was locked", where=str(project.root), hint="run `reprobox lock`")
    check_data(session, manifest, lock, {}, needed=choice.data)
    private = sorted(manifest.private_layers())
    if choice.images and private:
        raise UsageError(
            f"an image would hand on what is private: layer {', '.join(private)}", hint="leave out --with-image"
        )


def assemble(
    session: Session,
    project: Project,
    manifest: Manifest,
    lock: Lock,
    choice: Choice,
    folder: Path,
    *,
    dry: bool = False,
) -> Publication:
    """Write all of a publication into the empty ``folder``. Inputs are fetched: their licences are told.

    ``dry`` makes no vault and no image, which may take minutes; their sizes are then those of what they hold.
    """
    session.manifest = manifest
    made = _gathered(session, project, manifest, lock, choice, folder, dry=dry)
    left_out = dict(_left_out(manifest, lock, made.data))
    files = (*_described(manifest, lock, made, left_out, folder), *(_later(lock, made.inputs, choice) if dry else ()))
    closed = {item.name: item.closed for item in made.inputs if item.closed and (choice.vault or choice.images)}
    contents = Contents(paths=frozenset(file.path for file in files), data=frozenset(made.data), closed=closed)
    return Publication(
        lock_digest=made.lock_digest,
        files=files,
        inputs=made.inputs,
        left_out=left_out,
        items=checklist(manifest, lock, contents),
        licence=manifest.project.license or "",
        others=tuple(_of_others(lock)),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Gathered:
    """What is in the folder already, and is still to be described. ``data`` are places in the project by mount point,
    ``licences`` by sha256 hex of the packages' files."""

    lock_digest: str
    data: Mapping[str, str]
    inputs: tuple[Packed, ...]
    requirements: Mapping[str, Sequence[Requirement]]
    licences: Mapping[str, str]
    vouchers: tuple[Voucher, ...]
    runs: Mapping[str, RunRecord]
    images: Mapping[str, str]
    vault: bool


def _gathered(
    session: Session, project: Project, manifest: Manifest, lock: Lock, choice: Choice, folder: Path, *, dry: bool
) -> _Gathered:
    lock_digest = sha256(project.lock_path.read_bytes())
    (folder / PROJECT).mkdir()
    gather(session, project, manifest, lock, folder / PROJECT)
    data = _put_data(session, manifest, folder / PROJECT) if choice.data else {}
    inputs = _inputs(session, manifest, lock)
    requirements, licences = _put_bills(session, manifest, lock, folder)
    vouchers = put_attestations(session, project, lock, lock_digest, folder)
    runs = put_runs(session, project, lock, folder)
    refuse_secrets(session, manifest, folder)
    if choice.vault and not dry:
        _put_vault(session, project, manifest, lock, folder / VAULT)
    images = dict(_put_images(session, manifest, lock, folder)) if choice.images and not dry else {}
    return _Gathered(
        lock_digest=lock_digest,
        data=data,
        inputs=inputs,
        requirements=requirements,
        licences=licences,
        vouchers=vouchers,
        runs=runs,
        images=images,
        vault=choice.vault,
    )


def _described(
    manifest: Manifest, lock: Lock, made: _Gathered, left_out: Mapping[str, str], folder: Path
) -> tuple[File, ...]:
    """Write what describes the rest; returns all files. The metadata tells of the others, and the page of that."""
    digest, first = made.lock_digest, next(iter(lock.targets))
    enclosed = Enclosed(images=frozenset(made.images), vault=made.vault, data=frozenset(made.data))
    packages = sorted({f"{item.name} {item.version}" for items in made.requirements.values() for item in items})
    _write(folder / "CITATION.cff", citation(manifest, digest))
    _write(folder / "codemeta.json", codemeta(manifest, lock, digest, packages))
    _write(folder / "badge.svg", badge(citation_of(manifest, lock, first, digest=digest)).encode())
    _write(folder / "README.md", readme(manifest, lock, digest, names_in(folder), enclosed, left_out))
    files = tuple(files_in(folder))
    crate = Crate(
        manifest=manifest,
        lock=lock,
        lock_digest=digest,
        files=files,
        requirements=made.requirements,
        images=made.images,
        data=made.data,
        runs=made.runs,
    )
    told = metadata(crate)
    known = Known(licences=made.licences, vouchers=made.vouchers, runs=shown(made.runs), metadata=told.decode())
    _write(folder / METADATA, told)
    _write(folder / PREVIEW, page(page_of(manifest, lock, digest=digest, enclosed=enclosed, known=known)))
    return tuple(sorted((*files, *(file_at(folder, name) for name in (METADATA, PREVIEW))), key=lambda file: file.path))


def _of_others(lock: Lock) -> Iterator[str]:
    """Beginnings of the paths of what the environment is made of and lies in the project: its base, wheels."""
    for target in lock.targets.values():
        if path := str(target.base.facts.get("path", "")):
            yield posixpath.normpath(f"{PROJECT}/{path}")
    yield from (posixpath.normpath(f"{PROJECT}/{path}") for _, path in places_in_project(lock))


def _later(lock: Lock, inputs: Sequence[Packed], choice: Choice) -> Iterator[File]:
    """The files that only a real publication makes, as large as what is packed into them."""
    size = sum(item.size for item in inputs)
    names = [VAULT] if choice.vault else []
    names += (
        [image_file(name) for name, target in lock.targets.items() if target.platform == this_platform()]
        if choice.images
        else []
    )
    for name in names:
        yield File(path=name, sha256="", size=size, media_type="application/x-tar")


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    path.chmod(0o644)


def _left_out(manifest: Manifest, lock: Lock, data: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """What recreating needs and is not in the publication, with the reason."""
    for name, reason in not_kept(manifest, lock):
        kind, _, path = name.partition(" ")
        if kind != "data":
            yield name, reason
        elif path not in data:
            private = manifest.mounts[path].private
            yield name, "it is private" if private else "its folder is not in here"
    for layer in sorted(manifest.private_layers()):
        yield f"layer {layer}", "what it is made of is private"


# -- inputs ------------------------------------------------------------------------------------------------------------


def _inputs(session: Session, manifest: Manifest, lock: Lock) -> tuple[Packed, ...]:
    private = dict(private_inputs(manifest, lock))
    found: dict[str, Input] = {}
    for target in lock.targets.values():
        session.target = target
        for layer in target.layers:
            items = [item for item in layer.inputs if item.sha256 not in private]
            session.fetch(items)
            found |= {item.sha256: item for item in items}
    packed = []
    for item in sorted(found.values(), key=lambda item: (item.name, item.sha256)):
        licence = licence_of(item, session.store)
        packed.append(Packed(name=item.name, size=item.size, licence=licence.name, closed=licence.closed))
    return tuple(packed)


def _put_bills(
    session: Session, manifest: Manifest, lock: Lock, folder: Path
) -> tuple[dict[str, list[Requirement]], dict[str, str]]:
    """Bills of materials of every target; the packages of each, and licences by the sha256 hex of their files."""
    from reprobox.bom.bill import bill
    from reprobox.bom.cyclonedx import cyclonedx
    from reprobox.bom.spdx import spdx

    requirements: dict[str, list[Requirement]] = {}
    licences: dict[str, str] = {}
    for name in lock.targets:
        made = bill(session, manifest, lock, name)
        _write(folder / f"sbom/{name}.spdx.json", spdx(made))
        _write(folder / f"sbom/{name}.cdx.json", cyclonedx(made))
        requirements[name] = [_requirement(item) for item in made.components if _is_package(item)]
        licences |= {item.sha256: item.licence.name for item in made.components if item.licence.name != UNKNOWN}
        for note in made.notes:
            session.reporter.say(f"{name}: {note}" if len(lock.targets) > 1 else note)
    return requirements, licences


def _is_package(item: Component) -> bool:
    """Whether it is a package that is still there in the end."""
    gone = item.build_only or item.replaced_by or item.removed_in
    return bool(item.kind in ("deb", "pypi") and item.purl and not gone)


def _requirement(item: Component) -> Requirement:
    licence = "" if item.licence.name == UNKNOWN else item.licence.name
    return Requirement(name=item.name, version=item.version, purl=item.purl, licence=licence)


# -- data --------------------------------------------------------------------------------------------------------------


def _put_data(session: Session, manifest: Manifest, folder: Path) -> dict[str, str]:
    """Copy the data of mounts that lie in the project to where the manifest looks for it; returns these places."""
    placed = {}
    for path, mount in manifest.mounts.items():
        if place := _data_place(mount):
            source = session.project / place
            if mount.files and not source.exists():
                continue  # readers download it
            if not source.is_dir():
                hint = "put the data there, or publish without --with-data"
                raise ReproboxError(f"its data is not here: {source}", where=f'mounts."{path}"', hint=hint)
            _copy(source, folder / place)
            placed[path] = place
        elif mount.mode == "ro" and not mount.private and not mount.files:
            session.reporter.say(f"{path}: its data lies outside the project, and is not in the publication")
    return placed


def _data_place(mount: Mount) -> str:
    """Where in the project the data of a mount lies; empty if it is written to, private, or elsewhere."""
    if mount.mode != "ro" or mount.private or mount.source is None or os.path.isabs(mount.source):
        return ""
    place = os.path.normpath(mount.source)
    return "" if place.split("/")[0] == ".." else place


def _copy(source: Path, target: Path) -> None:
    """Files and folders as they are, mode 0644 or 0755; links too, if they stay inside."""
    target.mkdir(parents=True, exist_ok=True)
    for name, _ in sorted(walk(os.fsencode(source))):
        path, copy = source / os.fsdecode(name), target / os.fsdecode(name)
        if path.is_symlink():
            copy.symlink_to(os.readlink(path))
        elif path.is_dir():
            copy.mkdir(exist_ok=True)
        elif not copy.exists():
            with opened(path) as reader, copy.open("xb") as writer:
                shutil.copyfileobj(reader, writer, _CHUNK)
            copy.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)


# -- images ------------------------------------------------------------------------------------------------------------


def _put_vault(session: Session, project: Project, manifest: Manifest, lock: Lock, path: Path) -> None:
    """The vault; raises the :class:`OSError` where there is no room: what is staged is no place that a person knows."""
    try:
        keep(session, project, manifest, lock, str(path), VaultChoice())
    except ReproboxError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in (errno.ENOSPC, errno.EDQUOT):
            raise error.__cause__ from None
        raise


def _put_images(session: Session, manifest: Manifest, lock: Lock, folder: Path) -> Iterator[tuple[str, str]]:
    """The image of every target that this machine can build; yields target and path."""
    for name, target in lock.targets.items():
        if target.platform != this_platform():
            session.reporter.say(f"{name}: its image is not in it: it is for {target.platform}, and is built there")
            continue
        made = make(session, manifest, lock, Wish(target=name, image=True), image_wanted=True)
        path = image_file(name)
        _write_image(made.environment.image, image_tag(manifest), folder / path)
        yield name, path


def _write_image(image: Image, tag: str, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("xb") as file:
        write_archive(image, tag, file)
    path.chmod(0o644)
