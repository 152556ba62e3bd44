"""From a fresh lock to an environment that a backend holds, and the launch record by which ``run`` finds it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reprobox import launch, tables
from reprobox.backend import Realization, RealizeRequest
from reprobox.building import image_environment
from reprobox.engine import build
from reprobox.environment import Environment, assemble
from reprobox.guarded import Guarded
from reprobox.image import Settings
from reprobox.layers.git import CHECKOUT
from reprobox.lock import Lock, LockedTarget, Seal
from reprobox.locked_data import mounted_downloads
from reprobox.manifest import Layer, Manifest, Run
from reprobox.placed import place, variables
from reprobox.project import Project
from reprobox.requirements import bytes_of
from reprobox.resolve import with_code_layer
from reprobox.room import check_room_for
from reprobox.seal import check_seal, remember_build
from reprobox.session import Session, available, check_platform
from reprobox.sharing import hand_on
from reprobox.store import StoredLayer


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """What is to be realized: ``output`` asks for a copy of the tree, ``image`` for all that an image is made of."""

    target: str
    backend: str = "sandbox"
    seal: bool = False
    output: Path | None = None
    image: bool = False
    with_code: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Realized:
    """An environment that exists: the lock (sealed if that was wished), the environment, and where it is held."""

    lock: Lock
    environment: Environment
    realization: Realization
    result: Mapping[str, Any]
    record: Mapping[str, Any]  # the launch record, whether or not it could be kept


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """A target's environment in the store, the lock (sealed if that was wished), and ids of layers that were there."""

    lock: Lock
    environment: Environment
    cached: frozenset[str]


def make(session: Session, manifest: Manifest, lock: Lock, wish: Wish, *, image_wanted: bool) -> Made:
    """Have every layer of a target in the store, and check them against the seal."""
    session.manifest = manifest
    selected = manifest.select(wish.target)
    target = lock.targets[wish.target]
    if wish.with_code:
        target = with_code_layer(session, selected, lock, wish.target)
    if not (session.offline or session.remote or session.vaults):  # these may have layers that need no inputs
        check_room_for(target.layers, session.store)
    # A seal says what was built here.
    done = build(session, target, lock.epoch, image_wanted=image_wanted, shared=not wish.seal)
    environment = assemble(session.store, target, lock.epoch, settings_of(selected, target))
    remember_build(session, environment)
    if wish.seal:
        lock = sealed(lock, wish.target, environment)
    elif target.seal is not None and not wish.with_code:
        check_seal(session, target, lock.epoch, environment)
    hand_on(session, target, done, sealing=wish.seal)
    return Made(lock=lock, environment=environment, cached=done.cached)


def realize(session: Session, project: Project, manifest: Manifest, lock: Lock, wish: Wish) -> Realized:
    """Build what is missing of a target, check it against the seal, and let the backend have it."""
    selected = manifest.select(wish.target)
    check_platform(lock.targets[wish.target])
    runner = available(session.plugins.backend(wish.backend), session.store)
    made = make(session, manifest, lock, wish, image_wanted=wish.image or runner.needs_image)
    lock, environment = made.lock, made.environment
    checkout = None if wish.with_code or wish.output else _checked_out(session, selected, lock)
    for_use = not (wish.image or wish.with_code or wish.output)
    downloads = mounted_downloads(session, selected, lock) if for_use else {}
    marks = [str(path) for path in place(session, environment)] if for_use else []
    with session.store.using():  # what is made here is needed by nothing that gc knows, until the record says it
        realization = runner.realize(
            RealizeRequest(
                name=f"{selected.project.name}-{wish.target}",
                version=selected.project.version or "",
                layers=environment.layers,
                image=environment.image,
                image_digest=environment.image_digest,
                tree_digest=environment.tree_digest,
                keep=session.store.root / "realizations",
                output=wish.output,
            )
        )
        result = describe(environment, realization, made.cached)
        result = {"target": wish.target, "backend": wish.backend, "builder": session.builder.name, **result}
        record = _record(session, project, selected, environment, realization, marks, wish.backend) | {"result": result}
        if checkout:
            source = checkout.tree / CHECKOUT.lstrip("/")
            record["code"] = {"source": str(source), "target": selected.code.target, "writable": False}
            record["needs"] = [*record["needs"], checkout.id]
        for path, source in downloads.items():
            record["mounts"][path]["source"] = str(source)
            record["needs"] = [*record["needs"], lock.downloads[path].id]
        if wish.output is None and not wish.with_code:
            _keep(session, project, wish, record, only=len(manifest.targets) == 1)
    return Realized(lock=lock, environment=environment, realization=realization, result=result, record=record)


def _checked_out(session: Session, manifest: Manifest, lock: Lock) -> StoredLayer | None:
    """The code that comes from a repository, as a layer of the store that is mounted."""
    if lock.checkout is None:
        return None
    (target,) = manifest.targets.values()
    build(session, LockedTarget(name="code", platform=target.platform, layers=(lock.checkout,)), lock.epoch)
    stored = session.store.layer(lock.checkout.id)
    assert stored is not None
    return stored


def sealed(lock: Lock, name: str, environment: Environment) -> Lock:
    """The lock with the output digests of one target."""
    seal = Seal(
        image_digest=f"sha256:{environment.image_digest}",
        tree_digest=f"sha256:{environment.tree_digest}",
        layers=environment.diff_ids(),
    )
    return replace(lock, targets={**lock.targets, name: replace(lock.targets[name], seal=seal)})


def settings_of(manifest: Manifest, target: LockedTarget) -> Callable[[Any], Settings]:
    """The image's settings, made from the base image's config: what the manifest declares wins."""
    architecture = target.platform.partition("/")[2]
    project = manifest.project
    labels = {
        "org.opencontainers.image.title": project.name,
        "org.opencontainers.image.version": project.version,
        "org.opencontainers.image.description": project.description,
        "org.opencontainers.image.licenses": project.license,
        "org.opencontainers.image.authors": ", ".join(author.name for author in project.authors),
    }

    def settings(base: Mapping[str, Any]) -> Settings:
        entrypoint, command = entry_point(manifest.run, base)
        return Settings(
            architecture=architecture,
            environment={**image_environment({"config": base}), **dict(sorted(manifest.env.items()))},
            user=base.get("User") or "",
            entrypoint=entrypoint,
            command=command,
            workdir=manifest.workdir,
            volumes=tuple(base.get("Volumes") or ()),
            labels={**(base.get("Labels") or {}), **{name: value for name, value in labels.items() if value}},
        )

    return settings


def entry_point(run: Run, base: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The entry point and the command: the manifest's if it says one of them, as in a Dockerfile; else the base's."""
    if run.entrypoint is None and not run.command:
        return tuple(base.get("Entrypoint") or ()), tuple(base.get("Cmd") or ())
    return run.entrypoint or (), run.command


def describe(environment: Environment, realization: Realization, cached: frozenset[str]) -> dict[str, Any]:
    """Digests, place and layers, as ``realize --json`` prints them."""
    unpinned = environment.target.unpinned()
    layers = [
        {
            "name": layer.name,
            "kind": layer.kind,
            "id": f"sha256:{layer.id}",
            "diff_id": f"sha256:{record['diff_id']}",
            "cached": layer.id in cached,
            "size": record["size"],
            "seconds": 0 if layer.id in cached else record["seconds"],
            "dropped": record["dropped"],
            "pinned": layer.name not in unpinned,
            **({"shared": str(environment.shared[layer.id])} if layer.id in environment.shared else {}),
            **({"remote": record["remote"]} if "remote" in record else {}),
        }
        for layer, record in (
            *zip(environment.target.layers, environment.records, strict=True),
            *((item.layer, item.stored.record) for item in environment.outside),
        )
    ]
    folders = {item.layer.name: item.layer.facts["folder"] for item in environment.outside}
    layers = [{**layer, "folder": folders[layer["name"]]} if layer["name"] in folders else layer for layer in layers]
    return {
        "tree_digest": f"sha256:{environment.tree_digest}",
        "image_digest": f"sha256:{environment.image_digest}",
        "location": realization.location,
        "layers": layers,
    }


def _record(
    session: Session,
    project: Project,
    manifest: Manifest,
    environment: Environment,
    realization: Realization,
    marks: Sequence[str],
    backend: str,
) -> dict[str, Any]:
    config = environment.image.settings
    (target,) = manifest.targets.values()
    base = Layer(name="base", kind=manifest.base.kind, options=manifest.base)
    watched = [
        str(session.project / path)
        for layer in (base, *manifest.layers)
        for path in getattr(session.kind(layer.kind), "sources", _no_sources)(layer)
    ]
    watched += [str(session.project / path) for path in files_read(environment)]
    watched += marks
    # HOME is private to a run: only the manifest may say otherwise, not the base image.
    inherited = {name: value for name, value in config.environment.items() if name != "HOME" or name in manifest.env}
    return {
        **_holder(session, backend),
        "format": launch.FORMAT,
        "files": launch.signature([str(project.manifest_path), str(project.lock_path), *watched]),
        "watched": watched,
        "made": list(marks),
        "trees": [str(tree) for tree in realization.trees],
        "built": launch.built(map(str, realization.trees)),
        "lock": str(project.lock_path),
        "needs": [*environment.layer_ids(), environment.image_digest],
        "environment": {**inherited, **variables(environment, inherited, launch.DEFAULT_PATH)},
        "workdir": config.workdir or "/",
        "entrypoint": list(config.entrypoint),
        "command": list(config.command),
        "shell": _shell(environment),
        "mounts": {
            path: {
                "mode": mount.mode,
                "source": str(session.project / mount.source) if mount.source else None,
                **({"digest": True} if mount.digest else {}),
            }
            for path, mount in manifest.mounts.items()
        },
        "platform": target.platform,
        "requires": tables.document(target.requires),
        "disk": bytes_of(target.requires.disk) if target.requires.disk else 0,
        "code": {"source": str(session.project / manifest.code.path), "target": manifest.code.target},
    }


def _holder(session: Session, name: str) -> dict[str, Any]:
    """Which class a plugin's backend is, so that a quick run finds it without a scan for plugins."""
    backend = session.plugins.backend(name)
    if not isinstance(backend, Guarded):
        return {}
    kind = type(backend.inner)
    return {"holder": {"module": kind.__module__, "class": kind.__qualname__, "plugin": backend.plugin}}


def _keep(session: Session, project: Project, wish: Wish, record: Mapping[str, Any], *, only: bool) -> None:
    """Keep the record for quick runs, under the target's name, and under none where it is the only one."""
    read = [item for item in record["files"] if item[0] not in record["made"]]
    if launch.changed_since(read, project.opened):
        return  # what was realized may be of other files than these; the next command finds out
    data = json.dumps(record).encode()
    for target in (wish.target, "") if only else (wish.target,):
        path = Path(launch.record_path(str(session.store.root), str(project.root), target, wish.backend))
        _retire(path, record["trees"])
        session.store.replace(path, data)


def files_read(environment: Environment) -> list[str]:
    """Paths in the project of the files that say what layers ask for, such as ``requirements.txt``."""
    layers = (*environment.target.layers, *(item.layer for item in environment.outside))
    tables: list[Any] = [layer.facts.get("files", {}) for layer in layers]
    return sorted({path for table in tables for path in table})


def _retire(path: Path, trees: Sequence[str]) -> None:
    """A run may go on with what the record at ``path`` says: it keeps another name, by which gc knows, until then."""
    old = launch.read(str(path))
    if old is not None and old["trees"] != trees:
        with contextlib.suppress(OSError):
            os.link(path, f"{path}.{secrets.token_hex(4)}{launch.RETIRED}")


def _no_sources(_: Any) -> tuple[str, ...]:
    return ()


def _shell(environment: Environment) -> list[str]:
    for path in ("bin/bash", "usr/bin/bash"):
        if any(os.path.exists(layer.tree / path) for layer in environment.layers):
            return ["/bin/bash"]
    return ["/bin/sh"]
