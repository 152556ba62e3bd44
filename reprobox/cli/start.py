"""From options to a command that runs: what ``run``, ``shell`` and recorded runs share."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reprobox import launch
from reprobox.backend import Bind, RunRequest
from reprobox.cli.options import (
    add_backend_option,
    add_builder_option,
    add_limit_options,
    add_mount_option,
    add_network_options,
    add_requires_option,
    limits,
    mounts_given,
)
from reprobox.cli.requires import check_requires
from reprobox.cli.session import open_session
from reprobox.errors import LockError, UsageError
from reprobox.freshness import ensure_fresh
from reprobox.layers.code import is_locked_code
from reprobox.locked_data import check_data
from reprobox.manifest import Manifest
from reprobox.project import Project
from reprobox.realize import Wish, realize
from reprobox.run_record.recording import Prepared
from reprobox.session import Session, staged

_CODE = "restore the code that the lock pins, or `reprobox lock` that which is here"


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """What ``run`` and ``shell`` share."""
    parser.add_argument("--target", metavar="NAME", help="the target, where the manifest has several")
    add_backend_option(parser, "runs the environment")
    add_mount_option(parser)
    parser.add_argument("--network", choices=("host", "none"), default="host", help="the network that it sees")
    parser.add_argument("--isolate", action="store_true", help="own process ids and ipc, instead of the host's")
    add_limit_options(parser)
    add_requires_option(parser)
    add_builder_option(parser)
    add_network_options(parser)


def start(options: argparse.Namespace, command: Sequence[str] | None) -> int:
    """Realize what is missing, and run: the manifest's command if ``command`` is empty, a shell if it is None."""
    session, project, prepared = prepare(options, command, locked=getattr(options, "locked", False))
    hold(session, project, options, prepared.record)
    return prepared.backend.run(prepared.request)


def prepare(
    options: argparse.Namespace, command: Sequence[str] | None, *, locked: bool
) -> tuple[Session, Project, Prepared]:
    """Everything that comes before a run; ``locked`` insists that code and data are what the lock pins."""
    session, project = open_session(options)
    manifest = project.manifest(session.plugins.kinds)
    lock = project.lock(session.store)
    selected = manifest.select(options.target)
    name = next(iter(selected.targets))
    ensure_fresh(session, manifest, lock, str(project.lock_path), name)
    mounts = mounts_given(options.mount)
    if locked:
        if not is_locked_code(session.project, manifest, lock):
            raise LockError("the code is not what was locked", where=str(project.root), hint=_CODE)
        check_data(session, manifest, lock, mounts, needed=True)
    check_requires(options, selected, session.store, _outputs(session.project, selected, mounts))
    realized = realize(session, project, manifest, lock, Wish(target=name, backend=options.backend))
    record = realized.record
    argv = launch.command_line(record, command)
    if not argv:
        hint = "give one: `reprobox run -- COMMAND`, or add [run] command to the manifest"
        raise UsageError("there is no command to run", where="run.command", hint=hint)
    wanted = launch.binds(record, mounts)
    launch.prepare(wanted, record["mounts"])
    binds = [Bind(source=Path(bind["source"]), target=bind["target"], writable=bind["writable"]) for bind in wanted]
    close = getattr(options.reporter, "close", None)
    if close is not None:
        close()
    return (
        session,
        project,
        Prepared(
            project=project.root,
            store=session.store,
            manifest=selected,
            lock=lock,
            target=name,
            record=record,
            backend=staged(session.plugins.backend(options.backend), session.store),
            backend_name=options.backend,
            request=RunRequest(
                realization=realized.realization,
                argv=tuple(argv),
                environment=launch.environment(record["environment"], os.environ),
                binds=tuple(binds),
                workdir=record["workdir"],
                network=options.network == "host",
                isolate=options.isolate,
                limits=limits(options),
                gpus=options.gpus or "",
            ),
        ),
    )


def _outputs(project: Path, manifest: Manifest, given: Mapping[str, str]) -> list[tuple[str, Path]]:
    """Where the run will write; the code where nothing else is writable."""
    sources = {path: mount.source and str(project / mount.source) for path, mount in manifest.mounts.items()}
    writable = [path for path, mount in manifest.mounts.items() if mount.mode == "rw"]
    found = [given.get(path) or sources[path] for path in writable]
    return [("output", Path(source)) for source in found if source] or [("output", project / manifest.code.path)]


def hold(session: Session, project: Project, options: argparse.Namespace, record: Mapping[str, Any]) -> None:
    """Have gc see what the command uses, also once this process is the command."""
    store = str(session.store.root)
    held = launch.hold(launch.record_path(store, str(project.root), options.target or "", options.backend))
    launch.hand_on([*([held] if held >= 0 else []), *(launch.hold_layers(record, store) or [])])
