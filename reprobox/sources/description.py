"""What a project is, for somebody who has not decided yet: everything that would be fetched, run, read and written.

What layers are made of is told from the lock, for that is what is built; the rest from the manifest.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from reprobox.digest import Json
from reprobox.image import rfc3339
from reprobox.layers.kind import uses_network
from reprobox.lock import Input, Lock, LockedLayer, LockedTarget
from reprobox.manifest import Manifest, Mount
from reprobox.project_files import places_in_project
from reprobox.sources.checked import CodeState, Documents
from reprobox.sources.reach import Reach, is_outside, secret_users
from reprobox.store import Store

_LATEST = 253402300799  # the last second that RFC 3339 can name


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerSaid:
    """One layer: how many packages and inputs, bytes of these, the script that it runs."""

    name: str
    kind: str
    inputs: int
    size: int
    packages: int = 0
    script: str = ""
    network: bool = False
    secrets: tuple[str, ...] = ()

    def document(self) -> dict[str, Json]:
        return {
            "name": self.name,
            "kind": self.kind,
            "packages": self.packages,
            "inputs": self.inputs,
            "size": self.size,
            "script": self.script,
            "network": self.network,
            "secrets": list(self.secrets),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetSaid:
    """One target: its base, its layers, and what is to be downloaded of them: number and bytes."""

    name: str
    platform: str
    base: str
    sealed: bool
    layers: tuple[LayerSaid, ...]
    downloads: int
    download_size: int

    def document(self) -> dict[str, Json]:
        return {
            "name": self.name,
            "platform": self.platform,
            "base": self.base,
            "sealed": self.sealed,
            "layers": [layer.document() for layer in self.layers],
            "downloads": self.downloads,
            "download_size": self.download_size,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class MountSaid:
    """One mount; ``state`` says what is known of its data, ``to_give`` that whoever runs it says where that is."""

    target: str
    mode: str
    source: str
    state: str
    to_give: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """All of it. ``origin`` says what it came out of, ``facts`` more of that."""

    origin: str
    facts: Mapping[str, str]
    name: str
    version: str
    about: str
    authors: tuple[str, ...]
    license: str
    doi: str
    lock: str
    epoch: str
    targets: tuple[TargetSaid, ...]
    command: tuple[str, ...]
    mounts: tuple[MountSaid, ...]
    secrets: Mapping[str, str]
    code: CodeState
    code_place: str
    reaches: tuple[Reach, ...] = ()
    left_out: tuple[str, ...] = ()
    vaults: tuple[str, ...] = field(default=())

    @property
    def runs(self) -> bool:
        """Whether building runs scripts."""
        return any(layer.script for target in self.targets for layer in target.layers)

    def document(self) -> dict[str, Json]:
        """For ``--json``."""
        return {
            "origin": self.origin,
            "facts": dict(self.facts),
            "name": self.name,
            "version": self.version,
            "description": self.about,
            "authors": list(self.authors),
            "license": self.license,
            "doi": self.doi,
            "lock": f"sha256:{self.lock}",
            "epoch": self.epoch,
            "targets": [target.document() for target in self.targets],
            "command": list(self.command),
            "mounts": [
                {"target": item.target, "mode": item.mode, "source": item.source, "state": item.state}
                for item in self.mounts
            ],
            "secrets": dict(self.secrets),
            "code": {
                "place": self.code_place,
                "tree": self.code.tree,
                "locked": self.code.locked,
                "files": list(self.code.files),
                "others": list(self.code.others),
            },
            "reaches": [{"name": item.name, "key": item.key, "message": item.message} for item in self.reaches],
            "left_out": list(self.left_out),
            "vaults": list(self.vaults),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where a project is from, as :class:`reprobox.sources.obtained.Obtained` has it."""

    what: str
    facts: Mapping[str, str]
    vaults: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def describe(
    origin: Origin, folder: Path, documents: Documents, code: CodeState, reaches: Sequence[Reach], store: Store
) -> Description:
    """The description of the project in ``folder``."""
    manifest, lock = documents.manifest, documents.lock
    project = manifest.project
    here = {item.sha256 for item, place in places_in_project(lock) if (folder / place).is_file()}
    return Description(
        origin=origin.what,
        facts=origin.facts,
        name=project.name,
        version=project.version or "",
        about=project.description or "",
        authors=tuple(_author(item.name, item.orcid, item.affiliation) for item in project.authors),
        license=project.license or "",
        doi=project.doi or "",
        lock=documents.lock_digest,
        epoch=rfc3339(lock.epoch) if 0 <= lock.epoch <= _LATEST else str(lock.epoch),
        targets=tuple(_target(manifest, lock, target, store, here) for target in lock.targets.values()),
        command=(*(manifest.run.entrypoint or ()), *manifest.run.command),
        mounts=tuple(_mount(folder, lock, path, mount) for path, mount in manifest.mounts.items()),
        secrets=dict(_secrets(manifest, lock)),
        code=code,
        code_place=manifest.code.git or manifest.code.path,
        reaches=tuple(reaches),
        left_out=origin.left_out,
        vaults=origin.vaults,
    )


def command_line(words: Sequence[str]) -> str:
    """As a person would type it."""
    return shlex.join(words)


def _author(name: str, orcid: str | None, affiliation: str | None) -> str:
    more = ", ".join(item for item in (affiliation, orcid) if item)
    return f"{name} ({more})" if more else name


def _target(manifest: Manifest, lock: Lock, target: LockedTarget, store: Store, here: set[str]) -> TargetSaid:
    base = manifest.select(target.name).base
    others = [lock.checkout] if lock.checkout else []
    others += [lock.downloads[path] for path in sorted(lock.downloads)]
    inputs = {item.sha256: item for layer in (*target.layers, *others) for item in layer.inputs}
    wanted = [item for digest, item in inputs.items() if digest not in here and not store.has_blob(digest)]
    return TargetSaid(
        name=target.name,
        platform=target.platform,
        base=f"{base.kind} {base.reference}",
        sealed=target.seal is not None,
        layers=tuple(_layer(layer) for layer in (*target.layers, *others) if layer.kind != "skeleton"),
        downloads=len(wanted),
        download_size=sum(item.size for item in wanted),
    )


def _layer(layer: LockedLayer) -> LayerSaid:
    secrets = layer.options.get("secrets", ())
    return LayerSaid(
        name=layer.name,
        kind=layer.kind,
        inputs=len(layer.inputs),
        size=sum(item.size for item in layer.inputs),
        packages=sum(1 for item in layer.inputs if _is_package(item)),
        script=str(layer.options.get("script", "")),
        network=uses_network(layer),
        secrets=tuple(map(str, secrets)) if isinstance(secrets, list | tuple) else (),
    )


def _is_package(item: Input) -> bool:
    return "package" in item.facts and item.type in ("deb", "wheel", "sdist")


def _mount(folder: Path, lock: Lock, path: str, mount: Mount) -> MountSaid:
    source = mount.source or ""
    there = bool(source) and not is_outside(folder, source) and (folder / source).exists()
    to_give = not mount.files and not (source and (mount.mode == "rw" or there))
    if mount.files:
        state = f"downloaded: {len(mount.files)} files"
    elif to_give:
        state = f"{'not here: ' if source else ''}give it with --mount {shlex.quote(path)}=PATH"
    else:
        state = "for output" if mount.mode == "rw" else "in the project"
    locked = ", locked by its content" if lock.mounts.get(path) else ""
    return MountSaid(target=path, mode=mount.mode, source=source, state=f"{state}{locked}", to_give=to_give)


def _secrets(manifest: Manifest, lock: Lock) -> Iterator[tuple[str, str]]:
    users = secret_users(lock)
    for name, secret in manifest.secrets.items():
        place = f"the environment variable {secret.env}" if secret.env else f"the file {secret.path}"
        yield name, f"{place}; seen by {', '.join(users.get(name, ())) or 'no layer'}"
