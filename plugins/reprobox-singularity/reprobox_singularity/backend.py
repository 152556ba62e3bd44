"""Apptainer or SingularityCE as a backend: requests in, children that enter namespaces and start it, results out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from reprobox.backend import (
    Availability,
    Bind,
    BuildRequest,
    BuildResult,
    ChangesRequest,
    EditRequest,
    Realization,
    RealizeRequest,
    RunRequest,
    ToolRequest,
    ToolResult,
)
from reprobox.digest import Entry
from reprobox.errors import BackendError
from reprobox.redact import redacted
from reprobox.sandbox import children
from reprobox.sandbox.command import stage_folder
from reprobox.staging import staging_folder
from reprobox.tree import remove, strip_inherited
from reprobox_singularity import apptainer, child

_COPY = "copy"  # the copy that is edited, in the state of an edit


class Singularity:
    """The backend. ``scratch`` is a folder on the file system that holds the layers; the machine's folder for temporary
    files if it is left out."""

    name = "singularity"
    needs_image = False

    def __init__(self, scratch: Path | None = None) -> None:
        self._scratch = scratch or Path(tempfile.gettempdir())
        self._elsewhere: dict[Path, Singularity] = {}
        self._found: Availability | None = None
        self._lock = threading.Lock()

    def at(self, scratch: Path) -> Singularity:
        """The same backend, staging in ``scratch``."""
        if scratch == self._scratch:
            return self
        return self._elsewhere.setdefault(scratch, Singularity(scratch))

    # -- what works here

    def probe(self) -> Availability:
        from reprobox_singularity.probe import probe

        with self._lock:
            if self._found is None:
                self._found = probe(self._scratch)
            return self._found

    # -- building

    def build(self, request: BuildRequest) -> BuildResult:
        with staging_folder(self._scratch) as stage:
            document = self._request(stage, request.binds, request.environment)
            document |= self._root(stage, request.parents, request.seed)
            document |= {
                "mode": "build",
                "commands": [list(command) for command in request.commands],
                "workdir": request.workdir,
                "network": children.resolver() if request.network else None,
                "epoch": request.epoch,
                "installing": request.installing,
                "output": str(request.output.absolute()),
                "parent_index": str(request.parent_index.absolute()),
            }
            request.log.write_bytes(b"")
            # Appending, since a step may open its /dev/stdout anew.
            with (
                request.log.open("ab") as log,
                redacted(log, request.secrets) as out,
                children.handed_over(request.secrets) as secrets,
            ):
                told = {**document, "secrets": secrets}
                handed = () if secrets is None else (secrets,)
                answer = _carry_out("step:carry_out", told, stdout=out, stderr=subprocess.STDOUT, pass_fds=handed)
            if answer["status"] != 0:
                removed = children.keep_failed(request, document, Path(document["root"]), _COPY)
                raise children.failure(request, answer["status"], removed)
        return children.result(answer)

    def tool(self, request: ToolRequest) -> ToolResult:
        with staging_folder(self._scratch) as stage:
            document = self._request(stage, request.binds, request.environment)
            document |= self._root(stage, request.parents)
            document |= {"mode": "tool", "commands": [list(request.argv)], "workdir": "/", "network": None}
            out, err, source = stage / "stdout", stage / "stderr", stage / "stdin"
            source.write_bytes(request.stdin)
            with out.open("ab") as stdout, err.open("ab") as stderr, source.open("rb") as stdin:
                answer = _carry_out("step:carry_out", document, stdin=stdin, stdout=stdout, stderr=stderr)
            return ToolResult(status=answer["status"], stdout=out.read_bytes(), stderr=err.read_bytes())

    def reenter(self, failed: Path, argv: Sequence[str]) -> int:
        """Run a command, with the caller's streams and terminal, in the state that a failed step left at ``failed``."""
        document = json.loads((failed / "request.json").read_bytes())
        with staging_folder(self._scratch) as stage:
            fresh = self._request(stage, (), {})
            kept = {name: document[name] for name in ("binds", "environment", "workdir", "network")}
            if "TERM" in os.environ:
                kept["environment"]["TERM"] = os.environ["TERM"]
            return _at_the_terminal({**fresh, **kept, "mode": "look", "commands": [list(argv)]}, failed / _COPY)

    def edit(self, request: EditRequest) -> int:
        copy = request.state / _COPY
        if not copy.is_dir():
            self._begin(copy, request.parents)
        with staging_folder(self._scratch) as stage:
            document = self._request(stage, request.binds, request.environment)
            document |= {"mode": "edit", "commands": [list(request.argv)], "workdir": request.workdir}
            return _at_the_terminal({**document, "network": children.resolver()}, copy)

    def _begin(self, copy: Path, parents: Sequence[Path]) -> None:
        staged = copy.with_name("begun")
        remove(staged)
        staged.mkdir(mode=0o755, parents=True)
        strip_inherited(staged, 0o755)
        _carry_out("step:merge", {"root": str(staged.absolute()), "layers": children.with_indexes(parents)})
        staged.rename(copy)

    def changes(self, request: ChangesRequest) -> BuildResult:
        copy = request.state / _COPY
        if not copy.is_dir():
            self._begin(copy, request.parents)
        with staging_folder(self._scratch) as stage:
            document = {
                "root": str(copy.absolute()),
                "copy": str(stage / "copy"),
                "epoch": request.epoch,
                "output": str(request.output.absolute()),
                "parent_index": str(request.parent_index.absolute()),
            }
            return children.result(_carry_out("step:pack", document))

    def _request(self, stage: Path, binds: Sequence[Bind], environment: Mapping[str, str]) -> dict[str, Any]:
        """What all ways of the child need to know; ``stage`` is a folder that becomes a file system in memory."""
        (stage / "stage").mkdir(mode=0o755)
        return {
            "engine": apptainer.find().program,
            "own_environment": apptainer.own_environment(os.environ),
            "stage": str(stage / "stage"),
            "binds": [children.bind_document(bind) for bind in binds],
            "environment": dict(environment),
        }

    def _root(self, stage: Path, parents: Sequence[Path], seed: Path | None = None) -> dict[str, Any]:
        """A folder that the parents are copied into, without hard links between the copy and the store; or the seed."""
        if seed is not None:
            return {"root": str(seed.absolute()), "layers": []}
        (stage / "root").mkdir(mode=0o755)
        strip_inherited(stage / "root", 0o755)
        return {"root": str(stage / "root"), "layers": children.with_indexes(parents)}

    # -- using

    def realize(self, request: RealizeRequest) -> Realization:
        from reprobox_singularity.realize import realize

        return realize(request, apptainer.scratch(os.environ) or self._scratch)

    def has(self, realization: Realization) -> bool:
        from reprobox_singularity.realize import is_kept, is_whole

        location = realization.location
        return is_whole(Path(location)) if is_kept(location) else os.path.exists(location)

    def inspect(self, realization: Realization) -> Mapping[str, str]:
        from reprobox_singularity.client import labels

        return labels(realization.location)

    def entries(self, realization: Realization) -> list[Entry]:
        """What the file system of a SIF is made of. Raises :class:`ValueError` for one that cannot be read."""
        from reprobox_singularity.realize import entries

        return entries(Path(realization.location))

    def run(self, request: RunRequest) -> NoReturn:
        """Never returns: this process becomes an interpreter without other threads, and that becomes Apptainer."""
        from reprobox_singularity.run import document

        record = document(request)
        record |= {
            "binds": [children.bind_document(bind) for bind in request.binds],
            "stage": stage_folder(str(self._scratch)),
        }
        descriptor = os.memfd_create("record", 0)
        os.write(descriptor, json.dumps(record).encode())
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.set_inheritable(descriptor, True)  # noqa: FBT003 - it takes no keyword
        sys.stdout.flush()
        os.execv(child.ARGV[0], [*child.ARGV, "run", str(descriptor)])


def _carry_out(function: str, document: Mapping[str, Any], **options: Any) -> dict[str, Any]:
    """Let a child do what ``document`` asks for. Raises :class:`BackendError` if it cannot begin."""
    answer: dict[str, Any] = child.ask(function, document, **options)
    if "problem" in answer:
        raise BackendError(
            f"Apptainer cannot be given a root: {answer['problem']}", hint="`reprobox doctor` says what works here"
        )
    return answer


def _at_the_terminal(document: dict[str, Any], copy: Path) -> int:
    """Run the one command of ``document`` with the caller's streams and terminal, in ``copy``."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's keys are the command's
    try:
        told = {**document, "root": str(copy.absolute()), "layers": []}
        status: int = _carry_out("step:carry_out", told, stdin=None, start_new_session=False)["status"]
    finally:
        signal.signal(signal.SIGINT, before)
    return status
