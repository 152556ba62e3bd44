"""``reprobox run``"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

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
from reprobox.layers.code import is_locked_code
from reprobox.locked_data import check_data
from reprobox.manifest import Manifest
from reprobox.project import Project
from reprobox.realize import Wish, realize
from reprobox.resolve import ensure_fresh
from reprobox.run_record.agent import CHOICES
from reprobox.run_record.recording import Prepared
from reprobox.session import Session, staged

DETAILS = """\
The command sees the environment's read-only file system, the declared mounts and the code; a private HOME and /tmp; and
the environment variables that the manifest declares, with those of schedulers, MPI and GPUs. Its exit status is passed
on.

examples:
  reprobox run                                    the manifest's [run] command
  reprobox run -- python3 -c 'import numpy'       another command
  reprobox run --mount /dataset=/scratch/data     with the data elsewhere
  reprobox run --backend docker --memory 8GiB     held to a limit, by Docker
  reprobox run --cpus 2 --gpus 0                  on two processors, with the first GPU
  reprobox run --locked                           only if code and data are exactly what was locked
  reprobox run --record final                     and write down what ran on what, with which result
  reprobox run --check final --tolerance 1e-9     again, in fresh folders: is the result the same?"""


_OF_RECORDS = {"by": "--record", "tolerance": "--check", "absolute": "--check", "only": "--check", "keep": "--check"}


def configure(parser: argparse.ArgumentParser) -> None:
    add_run_options(parser)
    parser.add_argument("--locked", action="store_true", help="insist that code and data are what the lock pins")
    parser.add_argument(
        "--record", metavar="NAME", nargs="?", const="", help="record the run in research.runs/; --locked is included"
    )
    parser.add_argument("--by", choices=CHOICES, help="who ran it, for --record: git's name if left out, or the login")
    parser.add_argument("--check", metavar="RECORD", help="run a recorded command again, and compare what it writes")
    parser.add_argument("--tolerance", metavar="REL", type=tolerance, help="relative difference that numbers may have")
    parser.add_argument("--absolute", metavar="ABS", type=tolerance, help="absolute difference that numbers may have")
    parser.add_argument("--only", metavar="GLOB", action="append", help="compare only these outputs; may be repeated")
    parser.add_argument("--keep", metavar="DIR", type=Path, help="keep what the checking run writes in this new folder")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="instead of the manifest's")


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


def execute(options: argparse.Namespace) -> int:
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if options.record is not None or options.check is not None:
        from reprobox.cli import recorded_run

        return recorded_run.execute(options, command)
    if wrong := next((name for name in _OF_RECORDS if getattr(options, name) is not None), ""):
        _refuse(wrong)
    return start(options, command)


def _refuse(name: str) -> NoReturn:
    raise UsageError(f"--{name} goes with {_OF_RECORDS[name]}", hint=f"add {_OF_RECORDS[name]}, or leave --{name} out")


def tolerance(text: str) -> float:
    """A difference that may be."""
    try:
        number = float(text)
    except ValueError:
        number = -1
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"a number such as 1e-6, not {text!r}")
    return number


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
            raise LockError("the code is not what was locked", where=str(project.root), hint="run `reprobox lock`")
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
