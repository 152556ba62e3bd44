"""``reprobox run --record`` and ``reprobox run --check``"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from reprobox.backend import Bind
from reprobox.cli.options import check_output
from reprobox.cli.start import hold, prepare
from reprobox.errors import IntegrityError, LockError, ReproboxError, UsageError
from reprobox.layers.code import code_sources, is_locked_code
from reprobox.lock_text import lock_digest, pins
from reprobox.placed import FOLDER as PLACED
from reprobox.project import Project
from reprobox.redact import MASK
from reprobox.run_record.agent import agent
from reprobox.run_record.child import run_child
from reprobox.run_record.compare import Against, Finding, findings, told
from reprobox.run_record.files import load, place, save
from reprobox.run_record.record import RunRecord, Written
from reprobox.run_record.recording import Prepared, looked, outcome, read, recorded
from reprobox.run_record.values import Tolerance

_OF_THE_RECORD = {"target": None, "network": "host", "isolate": False, "by": None}


def execute(options: argparse.Namespace, command: Sequence[str]) -> int:
    """One of the two."""
    if options.record is not None and options.check is not None:
        raise UsageError("--record and --check do not go together", hint="record a run, and check the record then")
    return _check(options, command) if options.check is not None else _record(options, command)


# -- record ------------------------------------------------------------------------------------------------------------


def _record(options: argparse.Namespace, command: Sequence[str]) -> int:
    for name in ("tolerance", "absolute", "only", "keep"):
        if getattr(options, name) is not None:
            raise UsageError(f"--{name} goes with --check", hint=f"leave --{name} out: a run is recorded as it is")
    if options.record and options.command and options.command[0] != "--":
        raise UsageError(
            f"is {options.record!r} the record's name, or the command?",
            where="--record",
            hint="write `--` before the command: `reprobox run --record NAME -- COMMAND`, or `--record -- COMMAND`",
        )
    root = Project.find(Path(options.project)).root
    path = place(root, options.record or time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()))
    session, project, prepared = prepare(options, command, locked=True)
    who = agent(options.by, prepared.manifest, project.root)
    hold(session, project, options, prepared.record)
    record = recorded(prepared, who)
    path = save(record, path)
    count = sum(len(item.files) for item in record.outputs.values())
    session.reporter.say(f"recorded {os.path.relpath(path)}: status {record.status}, {count} files written")
    for mount, item in record.outputs.items():
        if item.problem:
            session.reporter.say(f"warning: what was written to {mount} is not in the record: {item.problem}")
    if not is_locked_code(session.project, prepared.manifest, prepared.lock):
        session.reporter.say(
            "warning: the run changed the code, which no longer is what was locked; give it a folder for its results,"
            ' [mounts] "/out" = { mode = "rw", source = "out" }'
        )
    return record.status


# -- check -------------------------------------------------------------------------------------------------------------


def _check(options: argparse.Namespace, command: Sequence[str]) -> int:
    for name, default in _OF_THE_RECORD.items():
        if getattr(options, name) != default:
            raise UsageError(f"--{name} does not go with --check", hint="leave it out: the record says it")
    if command:
        raise UsageError("no command goes with --check", hint="leave it out: the record says what was run")
    if options.keep is not None:
        check_output(options.keep, "--keep")
    path, record = load(Project.find(Path(options.project)).root, options.check)
    options.target, options.isolate, options.network = record.target, record.options.isolate, record.options.network
    if any(os.fsdecode(MASK) in word for word in record.command):
        hint = "run it by hand: what is masked is a secret, and records hold none"
        raise UsageError("a part of the recorded command is masked", where=str(path), hint=hint)
    session, project, prepared = prepare(options, record.command, locked=True)
    _refuse_another(path, record, prepared)
    hold(session, project, options, prepared.record)
    with _fresh(options.keep) as folder:
        binds = [_copied(prepared, record, bind, folder) for bind in prepared.request.binds]
        request = replace(prepared.request, argv=record.command, workdir=record.workdir, binds=tuple(binds))
        before = {bind.target: looked(prepared, binds, bind) for bind in binds if bind.writable}
        ended = run_child(prepared.backend, request, quiet=options.json)
        outputs = outcome(prepared, binds, before)
        against = Against(
            originals={bind.target: bind.source for bind in prepared.request.binds},
            fresh={bind.target: bind.source for bind in binds},
            tolerance=_tolerance(options),
            only=options.only or (),
        )
        found = list(findings(record, ended.status, outputs, against))
    if options.only and not any(item.output.startswith("/") for item in found):
        raise UsageError(
            f"no output of either run is called {' or '.join(options.only)}",
            where="--only",
            hint='a pattern is of the whole path or of the name: --only "*.csv", --only "/out/*"',
        )
    code = prepared.record["code"]
    mounts = outputs.keys() - ({code["target"]} if code else set())
    changed = sorted(mount for mount in mounts if outputs[mount].kept != record.outputs.get(mount, Written()).kept)
    notes = _notes(record, prepared, changed if any(not item.good for item in found) else ())
    return _tell(found, notes, options, path, same_tree=_tree(prepared) == record.tree)


def _tolerance(options: argparse.Namespace) -> Tolerance | None:
    if options.tolerance is None and options.absolute is None:
        return None
    return Tolerance(relative=options.tolerance or 0.0, absolute=options.absolute or 0.0)


def _refuse_another(path: Path, record: RunRecord, prepared: Prepared) -> None:
    """The same pins, code and data: else the result says nothing."""
    if record.pins != f"sha256:{pins(prepared.lock)}":
        raise LockError(
            f"the record is of another lock: {record.lock}, and this one is sha256:{lock_digest(prepared.lock)}",
            where=str(path),
            hint="restore that run's research.lock: `git log -- research.lock`; `reprobox diff` tells what moved",
        )
    sources = {bind.target: bind.source for bind in prepared.request.binds}
    for mount, wanted in record.inputs.items():
        if mount not in sources:
            hint = f"give its data: --mount {mount}=PATH"
            raise ReproboxError("the recorded run had it, and nothing is given for it", where=mount, hint=hint)
        found = read(sources[mount], prepared.store)
        if found.tree != wanted.tree:
            raise IntegrityError(
                f"the data is not what the recorded run read\n  recorded: {wanted.tree}, {wanted.count} files,"
                f" {wanted.size} bytes\n  found:    {found.tree}, {found.count} files, {found.size} bytes",
                where=mount,
                hint=f"restore the data, or give its folder: --mount {mount}=PATH",
            )


@contextmanager
def _fresh(kept: Path | None) -> Iterator[Path]:
    """A folder for what the run writes, which is gone afterwards unless it is to be kept."""
    if kept is not None:
        kept.mkdir()
        yield kept.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="reprobox-check-") as folder:
        yield Path(folder)


def _copied(prepared: Prepared, record: RunRecord, bind: Bind, folder: Path) -> Bind:
    """A folder that may be written to as a copy of what it was before the recorded run: the originals stay."""
    if not bind.writable:
        return bind
    copy = folder / (bind.target.strip("/").replace("/", "-") or "root")
    code = prepared.record["code"]
    if code and bind.target == code["target"]:
        for source in code_sources(prepared.project, prepared.manifest):
            _put(Path(os.fsdecode(source.origin)), copy / os.fsdecode(source.path))
        placed = bind.source / PLACED
        if placed.is_dir():
            shutil.copytree(placed, copy / PLACED, symlinks=True)
        copy.mkdir(exist_ok=True)
        return replace(bind, source=copy)
    known = record.outputs.get(bind.target, Written())
    if bind.source.is_file():
        if "." not in known.files:
            shutil.copy2(bind.source, copy)
        else:
            copy.touch()
        return replace(bind, source=copy)
    left = {*known.files, *known.links}
    _copy_tree(bind.source, copy, left)
    return replace(bind, source=copy)


def _copy_tree(source: Path, copy: Path, left: set[str]) -> None:
    """A copy without the paths in ``left``; folders that only they were in are there, and empty."""

    def ignored(place: str, names: list[str]) -> list[str]:
        below = os.path.relpath(place, source)
        return [name for name in names if os.path.normpath(os.path.join(below, name)) in left]

    shutil.copytree(source, copy, symlinks=True, ignore=ignored)


def _put(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target, follow_symlinks=False)


# -- tell --------------------------------------------------------------------------------------------------------------


def _tree(prepared: Prepared) -> str:
    return str(prepared.record["result"]["tree_digest"])


def _notes(record: RunRecord, prepared: Prepared, changed: Sequence[str]) -> Iterator[str]:
    """What else differs from the recorded run. ``changed`` are folders where there was something else before than it
    found and left alone."""
    for mount in changed:
        yield f"{mount}: what was there before is not what the recorded run found there"
    if _tree(prepared) != record.tree:
        why = f"; no seal pinned {', '.join(record.unpinned)}" if record.unpinned else ""
        yield f"the environment is another one: its tree was {record.tree}, and is {_tree(prepared)} now{why}"


def _tell(
    found: Sequence[Finding], notes: Iterable[str], options: argparse.Namespace, path: Path, *, same_tree: bool
) -> int:
    bad = [finding for finding in found if not finding.good]
    if options.json:
        said = {"record": str(path), "same": not bad, "same_tree": same_tree}
        print(json.dumps(said | {"findings": [_document(item) for item in found]}))
        return IntegrityError.status if bad else 0
    for finding in found:
        for line in told(finding):
            print(line)
    for note in notes:
        print(f"note    {note}")
    if not found:
        print("the exit status is as recorded, and neither run wrote a file")
        return 0
    if bad:
        outputs = f"{len(bad)} of {len(found)} outputs"
        print(f"{outputs} are not what {path.stem} recorded")
        return IntegrityError.status
    print(f"all {len(found)} outputs are what {path.stem} recorded")
    return 0


def _document(finding: Finding) -> Mapping[str, object]:
    places = [
        {"where": item.where, "old": item.old, "new": item.new, "off": item.off if math.isfinite(item.off) else None}
        for item in finding.places
    ]
    return {"output": finding.output, "result": finding.result, "text": finding.text, "places": places}
