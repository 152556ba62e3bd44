"""What a vault keeps of a project: everything that its lock names, and what else is needed to begin with nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType

from reprobox import image
from reprobox.attestation.check import attested_lock
from reprobox.attestation.folder import FOLDER, attestations_in, read_attestation
from reprobox.digest import Json, sha256
from reprobox.engine import build
from reprobox.errors import IntegrityError, LockError, ReproboxError
from reprobox.image import LAYER_TYPE, write_layer
from reprobox.layers.code import is_locked_code
from reprobox.layers.kind import uses_network
from reprobox.licences import Licence, licence_of
from reprobox.lock import FILE_NAME, Input, Lock, LockedLayer
from reprobox.manifest import Manifest
from reprobox.project import MANIFEST_NAME, Project
from reprobox.project_files import gather, write_project
from reprobox.realize import Wish, realize
from reprobox.session import Session, this_platform
from reprobox.store import Store, StoredLayer
from reprobox.tree import file_sha256
from reprobox.vault.documents import MEDIA_TYPE, NAME, Entry, Kept, Part, sorted_parts
from reprobox.vault.inventory import inventory
from reprobox.vault.provider import LocalVault
from reprobox.vault.remote import is_registry, push_vault
from reprobox.vault.tools import tool_wheels
from reprobox.vault.write import Addition, Blob, Sink, Written, blob_in, blob_of, write_vault

PROJECT = "project.tar"
_TAR = "application/x-tar"


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What goes in besides what a lock needs: reprobox itself, the built layers, whole images."""

    tools: bool = True
    layers: bool = False
    images: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What was kept, and what not. ``inputs`` are number and bytes; ``closed`` are inputs by name, with the reason."""

    kept: Kept
    written: Written
    inputs: int
    inputs_size: int
    closed: Mapping[str, str]
    images: tuple[str, ...]


@dataclass(kw_only=True)
class _Parts:
    """Parts and their blobs, as they are found."""

    parts: list[Part] = field(default_factory=list)
    blobs: dict[str, Blob] = field(default_factory=dict)

    def add(self, part: Part, blob: Blob) -> None:
        self.parts.append(part)
        self.blobs.setdefault(part.digest, blob)

    def data(self, role: str, title: str, data: bytes, **facts: str) -> None:
        kind = MEDIA_TYPE.format(kind=role)
        part = Part(role=role, title=title, digest=sha256(data), size=len(data), media_type=kind, facts=facts)
        self.add(part, blob_of(data, title))


def keep(
    session: Session,
    project: Project,
    manifest: Manifest,
    lock: Lock,
    place: str,
    choice: Choice | None = None,
    *,
    lost: Mapping[str, str] = MappingProxyType({}),
) -> Report:
    """Put the project, whose lock is fresh, into the vault at ``place``, a path or ``oci://…``; inputs are fetched.

    Those that are ``lost`` (names by sha256 hex), since no place has them, are left out and named.

    Raises :class:`LockError` where the code is not the locked one, and what fetching and writing do.
    """
    choice = choice or Choice()
    session.manifest = manifest
    if not is_locked_code(session.project, manifest, lock):
        raise LockError("the code is not what was locked", where=str(project.root), hint="run `reprobox lock`")
    private = dict(private_inputs(manifest, lock))
    if choice.images and private:
        name, reason = next(iter(private.values()))
        raise ReproboxError(f"an image would hand on {name}: {reason}", hint="leave out --with-image")
    private |= {digest: (name, f"{name}: no place had it") for digest, name in lost.items()}
    left_out = {digest: reason for digest, (_, reason) in private.items()} | dict(not_kept(manifest, lock))
    inputs = {item.sha256: item for item in _fetched(session, lock, private)}
    with session.store.scratch() as stage:
        parts = _Parts()
        lock_bytes = project.lock_path.read_bytes()
        parts.data("lock", FILE_NAME, lock_bytes)
        parts.data("manifest", MANIFEST_NAME, project.manifest_path.read_bytes())
        _add_project(parts, session, project, manifest, lock, stage)
        licences = _licences(session.store, inputs)
        titles = _add_inputs(parts, session.store, inputs, licences)
        left_out |= dict(_add_indices(parts, session, lock))
        parts.data("inventory", "inventory.txt", inventory(inputs.values(), licences, left_out, titles).encode())
        _add_attestations(parts, session, kept_lock=sha256(lock_bytes))
        if choice.tools:
            _add_tools(parts, session.store)
        if choice.layers:
            _add_layers(parts, session, manifest, lock)
        kept = Kept(
            lock=sha256(lock_bytes),
            project=manifest.project.name,
            version=manifest.project.version or "",
            epoch=lock.epoch,
            parts=sorted_parts(parts.parts),
            left_out=left_out,
        )
        images = _add_images(parts, session, project, manifest, lock, kept) if choice.images else []
        addition = Addition(kept=kept, images=images, blobs=parts.blobs)
        if is_registry(place):
            written = push_vault(place, addition, session.registries, session.store)
        else:
            written = write_vault(Path(place), addition)
    return Report(
        kept=kept,
        written=written,
        inputs=len(inputs),
        inputs_size=sum(item.size for item in inputs.values()),
        closed={inputs[digest].name: found.closed for digest, found in sorted(licences.items()) if found.closed},
        images=tuple(entry.annotations[NAME] for entry in images),
    )


# -- inputs ------------------------------------------------------------------------------------------------------------


def all_layers(lock: Lock) -> Iterator[LockedLayer]:
    """Those of every target, the code's, and those of data that is downloaded."""
    for target in lock.targets.values():
        yield from target.layers
    if lock.checkout:
        yield lock.checkout
    yield from lock.downloads.values()


def private_inputs(manifest: Manifest, lock: Lock) -> Iterator[tuple[str, tuple[str, str]]]:
    """Inputs that are left out, by sha256 hex: name and reason. Private layers without inputs by their own name."""
    mounts = {path for path, mount in manifest.mounts.items() if mount.private}
    layers = [
        layer
        for name, target in lock.targets.items()
        for layer in target.layers
        if layer.name in manifest.private_layers(name)
    ]
    for layer in layers:
        reason = f"layer {layer.name!r} is private"
        yield f"layer {layer.name}", (f"layer {layer.name}", reason)
        yield from ((item.sha256, (item.name, f"{item.name}: {reason}")) for item in layer.inputs)
    for path in sorted(mounts & lock.downloads.keys()):
        for item in lock.downloads[path].inputs:
            yield item.sha256, (item.name, f"{item.name}: the data at {path} is private")


def not_kept(manifest: Manifest, lock: Lock) -> Iterator[tuple[str, str]]:
    """What is no input, and so never in a vault: what it is, and why."""
    for path, mount in manifest.mounts.items():
        if mount.mode == "ro" and path not in lock.downloads:
            yield f"data {path}", "data that is mounted is no input: keep its folder yourself"
    for name, target in lock.targets.items():
        place = str(target.base.facts.get("path", ""))
        if target.base.kind in ("rootfs", "oci", "archive", "sif") and (place.startswith(("/", "..")) or not place):
            yield f"base of {name}", f"{place} lies outside the project: keep it yourself"
        for layer in target.layers:
            if uses_network(layer):
                yield f"layer {layer.name}", "its step uses the network, and what it loads is not locked"


def _fetched(session: Session, lock: Lock, private: Mapping[str, object]) -> list[Input]:
    """All inputs that are kept, in the store. The base's come first: it may say where packages are."""
    found: list[Input] = []
    for target in lock.targets.values():
        session.target = target
        wanted = [[item for item in layer.inputs if item.sha256 not in private] for layer in target.layers]
        session.fetch(wanted[0])
        rest = [item for items in wanted[1:] for item in items]
        session.fetch(rest)
        found += [*wanted[0], *rest]
    alone = [*([lock.checkout] if lock.checkout else []), *lock.downloads.values()]
    more = [item for layer in alone for item in layer.inputs if item.sha256 not in private]
    session.fetch(more)
    return [*found, *more]


def _licences(store: Store, inputs: Mapping[str, Input]) -> dict[str, Licence]:
    with ThreadPoolExecutor(4) as pool:
        return dict(zip(inputs, pool.map(lambda item: licence_of(item, store), inputs.values()), strict=True))


def _add_inputs(
    parts: _Parts, store: Store, inputs: Mapping[str, Input], licences: Mapping[str, Licence]
) -> dict[str, str]:
    """Returns the title of each, by sha256 hex."""
    taken: dict[str, str] = {}
    titles = {}
    for digest, item in sorted(inputs.items()):
        title = f"inputs/{item.name}"
        if taken.setdefault(title, digest) != digest:
            title = f"inputs/{digest[:12]}/{item.name}"
        titles[digest] = title
        facts = {"type": item.type, "licence": licences[digest].name.removeprefix("unknown")}
        facts |= {name: item.facts[name] for name in ("package", "version", "architecture") if name in item.facts}
        facts |= {"closed": licences[digest].closed} if licences[digest].closed else {}
        part = Part(
            role="input",
            title=title,
            digest=digest,
            size=item.size,
            media_type=item.facts.get("media_type") or MEDIA_TYPE.format(kind=item.type),
            facts=facts,
        )
        parts.add(part, blob_in(store.blob(digest), item.name))
    return titles


# -- the rest ----------------------------------------------------------------------------------------------------------


def _add_project(
    parts: _Parts, session: Session, project: Project, manifest: Manifest, lock: Lock, stage: Path
) -> None:
    folder, tar = stage / "project", stage / PROJECT
    folder.mkdir()
    gather(session, project, manifest, lock, folder)
    with tar.open("wb") as file:
        write_project(folder, file)
    part = Part(role="project", title=PROJECT, digest=file_sha256(tar), size=tar.stat().st_size, media_type=_TAR)
    parts.add(part, blob_in(tar, PROJECT))


def _add_indices(parts: _Parts, session: Session, lock: Lock) -> Iterator[tuple[str, str]]:
    """The signed lists that packages were chosen from, as far as this machine has them, and the keys that signed.

    Yields those that are not here.
    """
    wanted: dict[str, str] = {}
    for layer in all_layers(lock):
        for index in _tables(layer.facts.get("indices")):
            wanted[str(index["sha256"])] = f"indices/{index['archive']}_{index['suite']}_InRelease".replace(" ", "-")
        if keys := layer.facts.get("keys"):
            parts.data("key", f"keys/{layer.name}.asc", str(keys).encode())
    here = dict(_remembered(session.store, wanted))
    for vault in session.vaults:
        if isinstance(vault, LocalVault):
            here |= {digest: data for digest in wanted.keys() - here.keys() if (data := vault.document(digest))}
    for digest, title in sorted(wanted.items(), key=lambda pair: pair[1]):
        if digest in here:
            name = title if title not in {part.title for part in parts.parts} else f"{title}.{digest[:12]}"
            parts.data("index", name, here[digest])
        else:
            yield title, "this machine has no copy of it; only the locking needed it"


def _tables(value: Json) -> Sequence[Mapping[str, Json]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list | tuple) else []


def _remembered(store: Store, wanted: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
    """Documents that the store remembers; see :class:`reprobox.providers.Documents`, whose files begin with a hash."""
    for path in store.memo("documents", "").iterdir() if wanted else ():
        with suppress(OSError), path.open("rb") as file:
            if file.read(64).decode("latin-1") in wanted:
                body = path.read_bytes().partition(b"\n\n")[2]
                if sha256(body) in wanted:
                    yield sha256(body), body


def _add_attestations(parts: _Parts, session: Session, kept_lock: str) -> None:
    """Those of this lock that lie beside the manifest, whoever signed them: readers judge that."""
    folder = session.project / FOLDER
    for path in attestations_in([folder]) if folder.is_dir() else ():
        try:
            data = read_attestation(path)
            lock = attested_lock(data, str(path))
        except IntegrityError as error:
            session.reporter.say(f"not in it: {error}")
            continue
        if lock == kept_lock:
            parts.data("attestation", f"{FOLDER}/{path.name}", data)
        else:
            session.reporter.say(f"not in it: {path} is for another lock")


def _add_tools(parts: _Parts, store: Store) -> None:
    for wheel in tool_wheels(store):
        part = Part(
            role="tool",
            title=f"tools/{wheel.name}",
            digest=wheel.digest,
            size=wheel.size,
            media_type=MEDIA_TYPE.format(kind="wheel"),
            facts={"version": wheel.version},
        )
        parts.add(part, blob_in(store.blob(wheel.digest), wheel.name))


# -- what was built ----------------------------------------------------------------------------------------------------


def _add_layers(parts: _Parts, session: Session, manifest: Manifest, lock: Lock) -> None:
    """The tars of layers that are built here, those of private ones left out; a base that is blobs is kept as those."""
    for name, target in lock.targets.items():
        private = manifest.private_layers(name)
        if target.platform != this_platform():
            session.reporter.say(f"{name}: its layers are not kept: it is for {target.platform}, and is built there")
            continue
        build(session, target, lock.epoch)
        for layer in target.layers:
            stored = session.store.layer(layer.id)
            if stored is not None and "verbatim" not in stored.record and layer.name not in private:
                _add_layer(parts, name, layer, stored, lock.epoch)


def _add_layer(parts: _Parts, target: str, layer: LockedLayer, stored: StoredLayer, epoch: int) -> None:
    def write(sink: Sink) -> None:
        write_layer(stored.tree, stored.index, epoch, sink)

    title = f"layers/{target}/{layer.name}.tar"
    digest, size = stored.record["diff_id"], stored.record["size"]
    part = Part(
        role="layer", title=title, digest=digest, size=size, media_type=LAYER_TYPE, facts={"id": f"sha256:{layer.id}"}
    )
    parts.add(part, Blob(size=size, write=write, shown=title))


def _add_images(
    parts: _Parts, session: Session, project: Project, manifest: Manifest, lock: Lock, kept: Kept
) -> list[Entry]:
    """The image of every target that this machine can build, under a name of its own."""
    entries = []
    for name, target in lock.targets.items():
        if target.platform != this_platform():
            session.reporter.say(f"{name}: its image is not kept: it is for {target.platform}, and is built there")
            continue
        found = realize(session, project, manifest, lock, Wish(target=name, image=True))
        entries.append(_add_image(parts, found.environment.image, f"{kept.name}-{name}"))
    return entries


def _add_image(parts: _Parts, made: image.Image, name: str) -> Entry:
    for layer in made.layers:
        size = layer.descriptor.size
        write = partial(_write_image_layer, layer, made.epoch)
        parts.blobs.setdefault(layer.descriptor.digest, Blob(size=size, write=write, shown=f"a layer of {name}"))
    config, document = made.config(), made.manifest()
    for data, kind in ((config, "the config"), (document, "the manifest")):
        parts.blobs.setdefault(sha256(data), blob_of(data, f"{kind} of {name}"))
    return Entry(digest=sha256(document), size=len(document), annotations={NAME: name})


def _write_image_layer(layer: image.Layer, epoch: int, sink: Sink) -> None:
    layer.write(sink, epoch)
