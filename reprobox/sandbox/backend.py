"""The sandbox as a backend: requests in, the launcher's child processes, results out."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reprobox.backend import (
    Availability,
    Bind,
    BuildRequest,
    BuildResult,
    Realization,
    RealizeRequest,
    RunRequest,
    ToolRequest,
    ToolResult,
)
from reprobox.errors import BackendError, BuildError
from reprobox.sandbox.seccomp import ABIS
from reprobox.tree import merge_into, remove, strip_inherited

LAUNCHER = Path(__file__).with_name("launcher.py")
_LAST_LINES = 20
_FAILED = 125

_HINTS = {
    "user namespace": (
        "this machine does not let users make user namespaces; an administrator can allow it with"
        " `sysctl -w user.max_user_namespaces=15000` (and `kernel.unprivileged_userns_clone=1` where that exists)."
        " Inside Docker: `--security-opt seccomp=unconfined --security-opt systempaths=unconfined`"
    ),
    "id map": (
        "a user namespace may be made but not used: on Ubuntu 23.10 and later, AppArmor does that; an administrator"
        " can run `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`, or give your Python an AppArmor profile"
        " with `userns,`"
    ),
    "namespaces": "the kernel or a container's policy denies pid, ipc, uts or network namespaces",
    "mounts": (
        "mounting is denied inside the user namespace: on Ubuntu 23.10 and later run"
        " `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0` as administrator; inside Docker add"
        " `--security-opt systempaths=unconfined --security-opt apparmor=unconfined`"
    ),
    "seccomp": "the kernel was built without CONFIG_SECCOMP_FILTER, or a container's policy denies it",
}


class Sandbox:
    """The embedded backend. ``scratch`` is a folder on the file system that holds the layers."""

    name = "sandbox"

    def __init__(self, scratch: Path | None = None) -> None:
        self._scratch = scratch
        self._overlay: bool | None = None

    # -- what works here

    def at(self, scratch: Path) -> Sandbox:
        """The same backend, staging in ``scratch``: overlay depends on the file system."""
        return self if scratch == self._scratch else Sandbox(scratch)

    def probe(self) -> Availability:
        machine = platform.machine()
        if sys.platform != "linux" or machine not in ABIS:
            return Availability(
                ok=False,
                reason=f"the sandbox needs Linux on x86_64 or aarch64, and this is {sys.platform} on {machine}",
                hint="use a machine or a virtual machine with Linux",
            )
        with self._stage() as stage:
            answer = subprocess.run(
                [sys.executable, "-IS", str(LAUNCHER), "probe", str(stage)], capture_output=True, text=True, check=False
            )
        if answer.returncode != 0:
            return Availability(ok=False, reason=f"the launcher failed: {answer.stderr.strip()}", hint=_HINTS["mounts"])
        return _judge(json.loads(answer.stdout))

    def overlay(self) -> bool:
        """Whether layers can be stacked here; where not, parents are copied."""
        if self._overlay is None:
            found = self.probe()
            if not found.ok:
                raise BackendError(f"the sandbox does not work here: {found.reason}", hint=found.hint)
            wanted = os.environ.get("REPROBOX_SANDBOX_OVERLAY", "")
            self._overlay = found.details["overlay"] == "yes" and wanted != "no"
        return self._overlay

    # -- building

    def build(self, request: BuildRequest) -> BuildResult:
        with self._stage() as stage:
            document = self._request(stage, request.parents, request.binds, request.environment, seed=request.seed)
            document |= {
                "mode": "build",
                "commands": [list(command) for command in request.commands],
                "workdir": request.workdir,
                "network": request.network,
                "epoch": request.epoch,
                "output": str(request.output),
                "parent_index": str(request.parent_index),
                "ignored": [bind.target.lstrip("/") for bind in request.binds],
            }
            with request.log.open("wb") as log:
                answer = _launch(stage, document, stdout=log, stderr=subprocess.STDOUT)
        if answer["status"] != 0:
            raise _failure(request, answer["status"])
        return BuildResult(diff_id=answer["diff_id"], size=answer["size"], dropped=tuple(answer["dropped"]))

    def tool(self, request: ToolRequest) -> ToolResult:
        with self._stage() as stage:
            document = self._request(stage, request.parents, request.binds, request.environment)
            document |= {"mode": "tool", "commands": [list(request.argv)], "workdir": "/"}
            out, err, source = stage / "stdout", stage / "stderr", stage / "stdin"
            source.write_bytes(request.stdin)
            with out.open("wb") as stdout, err.open("wb") as stderr, source.open("rb") as stdin:
                answer = _launch(stage, document, stdin=stdin, stdout=stdout, stderr=stderr)
            return ToolResult(status=answer["status"], stdout=out.read_bytes(), stderr=err.read_bytes())

    def _request(
        self,
        stage: Path,
        parents: Sequence[Path],
        binds: Sequence[Bind],
        environment: Mapping[str, str],
        seed: Path | None = None,
    ) -> dict[str, Any]:
        for name in ("stage", "upper", "work"):
            (stage / name).mkdir(mode=0o755)
            strip_inherited(stage / name, 0o755)
        document: dict[str, Any] = {
            "stage": str(stage / "stage"),
            "binds": [_bind(bind) for bind in binds],
            "environment": dict(environment),
            "answer": str(stage / "answer"),
            "whole": seed is not None or not self.overlay(),
        }
        if document["whole"]:
            root = seed or stage / "upper"
            if seed is None:
                merge_into(root, [(tree, tree.parent / "index") for tree in parents])
            return document | {"root": str(root), "changes": str(root)}
        trees = [str(tree) for tree in parents]
        upper = str(stage / "upper")
        return document | {"parents": trees, "upper": upper, "work": str(stage / "work"), "changes": upper}

    # -- using

    def realize(self, request: RealizeRequest) -> Realization:
        if request.output is not None:
            request.output.mkdir(mode=0o755)
            merge_into(request.output, [(layer.tree, layer.index) for layer in request.layers])
            return Realization(location=str(request.output), trees=(request.output,))
        trees = tuple(layer.tree for layer in request.layers)
        return Realization(location=str(trees[-1].parent), trees=trees)

    def run(self, request: RunRequest) -> int:
        """Never returns: this process becomes the command."""
        from reprobox.sandbox.launcher import become, run_record, stage_folder

        stage = stage_folder(str(self._scratch or tempfile.gettempdir()))
        trees = [str(tree) for tree in request.realization.trees]
        become(
            run_record(
                trees,
                copied=len(trees) == 1,
                stage=stage,
                argv=list(request.argv),
                environment=dict(request.environment),
                binds=[_bind(bind) for bind in request.binds],
                workdir=request.workdir,
                network=request.network,
                isolate=request.isolate,
            )
        )

    @contextmanager
    def _stage(self) -> Iterator[Path]:
        folder = Path(tempfile.mkdtemp(prefix="sandbox-", dir=self._scratch))
        strip_inherited(folder, 0o755)
        try:
            yield folder
        finally:
            remove(folder)


def _judge(results: Mapping[str, str]) -> Availability:
    details = {name: "yes" if not problem else f"no: {problem}" for name, problem in results.items()}
    for name, problem in results.items():
        if problem and name != "overlay":
            return Availability(ok=False, reason=f"{name}: {problem}", hint=_HINTS[name], details=details)
    return Availability(ok=True, details=details)


def _bind(bind: Bind) -> dict[str, Any]:
    return {"source": str(bind.source), "target": bind.target, "writable": bind.writable}


def _launch(
    stage: Path, document: Mapping[str, Any], stdin: Any = subprocess.DEVNULL, **streams: Any
) -> dict[str, Any]:
    path = stage / "request.json"
    path.write_text(json.dumps(document))
    process = subprocess.Popen(
        [sys.executable, "-IS", str(LAUNCHER), str(path)],
        stdin=stdin,
        start_new_session=True,  # Ctrl-C is the parent's to handle
        **streams,
    )
    try:
        status = process.wait()
    except BaseException:
        process.kill()
        process.wait()
        raise
    answer = stage / "answer"
    if status != 0 or not answer.is_file():
        return {"status": _FAILED}
    result: dict[str, Any] = json.loads(answer.read_text())
    return result


def _failure(request: BuildRequest, status: int) -> BuildError:
    lines = request.log.read_text(errors="replace").splitlines()
    shown = "\n".join(f"    {line}" for line in lines[-_LAST_LINES:])
    how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    return BuildError(f"the step {how}; its last lines:\n{shown}", hint=f"the full log is {request.log}")
