"""Makes the bill of materials of a target: every file that its lock names, and what a base brings with it.

What a package says of itself is read from the locked files, so the same lock gives the same bill. Packages that come
inside a base image are read from the package databases of its files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from reprobox.bom.component import Bill, BilledLayer, Component, deb_purl, purl_of, ref_of
from reprobox.bom.inside import packages_in
from reprobox.bom.links import Surroundings, with_links
from reprobox.bom.metadata import Metadata, metadata_of
from reprobox.engine import build
from reprobox.git.worktree import one
from reprobox.layers.kind import uses_network
from reprobox.licences import Licence, licence_of
from reprobox.lock import BASE, Input, Lock, LockedLayer, LockedTarget, request_digest
from reprobox.lock_text import lock_digest
from reprobox.manifest import IN_IMAGE, Manifest
from reprobox.pypi import TYPES
from reprobox.session import Session
from reprobox.tree import Tree
from reprobox.urls import without_password

#: Kinds of bases whose packages the lock does not name.
_OPAQUE = ("image", "oci", "archive", "sif", "docker-daemon", "oras", "rootfs")
_MANIFEST = "manifest.json"
_MACHINES = {"linux/amd64": "x86_64", "linux/arm64": "aarch64"}


def bill(session: Session, manifest: Manifest, lock: Lock, name: str) -> Bill:
    """The bill of the target ``name`` of a fresh lock. Inputs that are not in the store are fetched, as they tell
    their licences; a base that is an image is unpacked. Private layers' inputs are named, and not opened.

    Raises what fetching raises.
    """
    selected, target = manifest.select(name), lock.targets[name]
    session.manifest, session.target = manifest, target
    private = manifest.private_layers(name)
    alone = (lock.checkout,) if lock.checkout else ()
    layers = (*target.layers, *alone)
    found = _inputs(session, [layer for layer in layers if layer.name not in private])
    inside = [] if BASE in private else _inside(session, target, lock.epoch)
    components = _components(selected, layers, private, found, inside)
    project = manifest.project
    return Bill(
        project=project.name,
        version=project.version or "",
        description=project.description or "",
        licence=project.license or "",
        authors=tuple(author.name for author in project.authors),
        lock=lock_digest(lock),
        target=name,
        platform=target.platform,
        epoch=lock.epoch,
        digest=target.seal.image_digest if target.seal else "",
        code=f"swh:1:dir:{lock.code}" if len(lock.code) == 40 else "",
        layers=tuple(
            BilledLayer(name=layer.name, kind=layer.kind, id=layer.id, parents=layer.parents) for layer in target.layers
        ),
        components=tuple(sorted(with_links(components, _surroundings(target)), key=lambda item: (item.kind, item.ref))),
        notes=tuple(_notes(target, private, inside)),
    )


# -- what is locked ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Said:
    """What a file says of itself."""

    licence: Licence = field(default_factory=Licence)
    metadata: Metadata = field(default_factory=Metadata)
    swhid: str = ""


def _inputs(session: Session, layers: Sequence[LockedLayer]) -> dict[str, _Said]:
    """By sha256 hex, for all inputs of ``layers``. The base's come first: it may say where packages are."""
    for layer in layers:
        session.fetch(layer.inputs)
    inputs = {item.sha256: item for layer in layers for item in layer.inputs if item.type != "blob"}
    with ThreadPoolExecutor(4, "reprobox-bom") as pool:
        said = pool.map(lambda item: _said(session, item), inputs.values())
        return dict(zip(inputs, said, strict=True))


def _said(session: Session, item: Input) -> _Said:
    store = session.store
    if item.type == "file":
        made = store.derived("swhids", item.sha256, lambda: _blob_id(store.blob(item.sha256)))
        return _Said(swhid=f"swh:1:cnt:{made.decode()}")
    if item.type == "git":
        return _Said()
    return _Said(licence=licence_of(item, store), metadata=metadata_of(item, store))


def _blob_id(path: Path) -> bytes:
    """As git, and so the Software Heritage archive, names a file's content."""
    return one(path).blob.encode()


def _components(
    manifest: Manifest,
    layers: Sequence[LockedLayer],
    private: Iterable[str],
    said: Mapping[str, _Said],
    inside: Sequence[Component],
) -> list[Component]:
    """Every input once, in the order of the layers; the base, where it is none of packages, and what is in it."""
    base = layers[0]
    found = [_base(base)] if base.kind in _OPAQUE else []
    image = found[0].ref if found else ""
    found += [replace(item, part_of=image) for item in inside]
    by_digest: dict[str, Component] = {}
    for layer in layers:
        for item in layer.inputs:
            if known := by_digest.get(item.sha256):
                if layer.name not in known.layers:
                    by_digest[item.sha256] = replace(known, layers=(*known.layers, layer.name))
                continue
            told = said.get(item.sha256, _Said())
            made = _component(manifest, layer, item, told)
            part_of = image if layer is base else ""
            by_digest[item.sha256] = replace(made, private=layer.name in private, part_of=part_of)
    return [*found, *by_digest.values()]


def _component(manifest: Manifest, layer: LockedLayer, item: Input, said: _Said) -> Component:
    name, version, architecture = item.name, item.facts.get("version", ""), item.facts.get("architecture", "")
    purl = ""
    swhids: tuple[str, ...] = ()
    if item.type == "deb":
        kind, name = "deb", item.facts["package"]
        purl = deb_purl(
            _distribution(item), name, version, architecture, re.sub("-.*", "", item.facts.get("suite", ""))
        )
    elif item.type in TYPES:
        kind, name = "pypi", item.facts.get("package", "uv" if item.type == "uv" else item.name)
        purl = purl_of("pypi", "", name, version, file_name=item.name)
    elif item.type == "git":
        kind, name, version = "git", item.facts["package"], item.facts["commit"]
        purl = purl_of("generic", "", name, version, vcs_url=_repository(manifest, layer, item))
        swhids = tuple(_swhids(layer, item))
    elif item.type == "file":
        kind = "file"
        checksum = f"sha256:{item.sha256}"
        purl = purl_of("generic", "", name, "", checksum=checksum, download_url=_url(manifest, layer, item))
        swhids = (said.swhid,) if said.swhid else ()
    else:
        kind = "blob"
    return Component(
        kind=kind,
        name=name,
        ref=ref_of(kind, name, version, item.sha256[:12]),
        version=version,
        purl=purl,
        architecture=architecture,
        file=item.name,
        sha256=item.sha256,
        size=item.size,
        licence=said.licence,
        metadata=said.metadata,
        layers=(layer.name,),
        swhids=swhids,
        build_only=item.type in ("build", "uv"),
    )


def _distribution(item: Input) -> str:
    """The vendor of an archive: ``debian`` of ``debian-security``."""
    return item.facts.get("archive", "debian").partition("-")[0].lower() or "debian"


def _swhids(layer: LockedLayer, item: Input) -> Iterator[str]:
    """Of the commit; of its tree where the layer is of that commit."""
    yield f"swh:1:rev:{item.facts['commit']}"
    said = layer.facts.get("swhid")
    if layer.facts.get("commit") == item.facts["commit"] and isinstance(said, Sequence):
        yield from (str(name) for name in said if str(name).startswith("swh:1:dir:"))


def _repository(manifest: Manifest, layer: LockedLayer, item: Input) -> str:
    """Where a commit is, as the manifest says it; of a submodule, and of what is no URL, nothing."""
    asked = [entry.options.repository for entry in manifest.layers if entry.name == layer.name]
    asked += [manifest.code.git] if manifest.code.git else []
    url = next((url for url in asked if request_digest(url) == item.facts.get("source")), "")
    return f"git+{without_password(url)}@{item.facts['commit']}" if url.startswith("https://") else ""


def _url(manifest: Manifest, layer: LockedLayer, item: Input) -> str:
    files = [file for entry in manifest.layers if entry.name == layer.name for file in entry.options.files]
    url = next((file.url for file in files if request_digest(file.url) == item.facts.get("source")), "")
    return without_password(url) if url.startswith(("https://", "http://")) else ""


# -- the base ----------------------------------------------------------------------------------------------------------


def _base(base: LockedLayer) -> Component:
    """A base that is an image, a SIF or a folder, as one component that its blobs and packages are parts of."""
    said = str(base.facts.get("reference") or base.facts.get("path") or base.kind)
    digest = next((item.sha256 for item in base.inputs if item.name == _MANIFEST), "")
    place, _, tag = said.partition("@")[0].rpartition(":")
    place, tag = (place, tag) if place and "/" not in tag else (said.partition("@")[0], "")
    name = re.sub(r"^[a-z-]+://", "", place).rstrip("/").rpartition("/")[2] or base.kind
    purl = ""
    if digest and base.kind in ("image", "oci"):
        where = place if base.kind == "image" else ""
        purl = purl_of("oci", "", name.lower(), f"sha256:{digest}", repository_url=where, tag=tag)
    version = tag or str(base.options.get("tree", ""))[:12]
    return Component(
        kind="image",
        name=name,
        ref=ref_of("image", name, version, base.id[:12]),
        version=version,
        purl=purl,
        file=said,
        layers=(base.name,),
    )


def _inside(session: Session, target: LockedTarget, epoch: int) -> list[Component]:
    """What the package databases of an opaque base list; nothing for a base of packages that are locked."""
    base = target.base
    if base.kind not in _OPAQUE:
        return []
    build(session, LockedTarget(name=BASE, platform=target.platform, layers=(base,)), epoch)
    stored = session.store.layer(base.id)
    assert stored is not None
    return packages_in(stored.tree, Tree.load(stored.index), base.name)


def _surroundings(target: LockedTarget) -> Surroundings:
    removed: dict[str, str] = {}
    for layer in target.layers:
        names = layer.options.get("removed", ()) if layer.kind == "apt" else ()
        removed |= {str(name): layer.name for name in names} if isinstance(names, Sequence) else {}
    pythons = [str(layer.facts["python"]) for layer in target.layers if "python" in layer.facts]
    return Surroundings(
        machine=_MACHINES.get(target.platform, ""),
        python=pythons[-1] if pythons else "3.11",  # no package that is locked depends on it
        removed=removed,
        apart=frozenset(layer.name for layer in target.layers if layer.placement != IN_IMAGE),
    )


def _notes(target: LockedTarget, private: Iterable[str], inside: Sequence[Component]) -> Iterator[str]:
    base = target.base
    if base.kind in _OPAQUE and not inside:
        yield f"The base ({base.kind}) has no package database that can be read: the packages in it are not listed."
    elif inside:
        yield (
            f"{len(inside)} packages came with the base ({base.kind}), by its own package databases; they are"
            " locked as parts of it, and have no hashes of their own."
        )
    for layer in target.layers:
        if uses_network(layer):
            yield f"The step of layer {layer.name} uses the network: what it loads is not known to the lock."
        elif layer.kind in ("run", "copy"):
            yield f"Layer {layer.name} ({layer.kind}) adds files that are no packages: its id names them."
    for name in sorted(private):
        yield f"Layer {name} is private: its files are named here, and not described."
