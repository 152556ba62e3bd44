"""The sandbox as a backend: requests in, the launcher's child processes, results out."""

from __future__ import annotations

import errno
import json
import os
import platform
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
from reprobox.errors import BackendError, BuildError
from reprobox.redact import redacted
from reprobox.sandbox import children, kernel
from reprobox.sandbox.allotted import allotted
from reprobox.sandbox.command import stage_folder
from reprobox.sandbox.launcher import ARGV
from reprobox.sandbox.root import FILES, FOLDERS
from reprobox.sandbox.seccomp import ABIS
from reprobox.staging import staging_folder
from reprobox.tree import remove, strip_inherited

_NO_OVERLAY = "REPROBOX_SANDBOX_OVERLAY"
_WHOLE = "whole"  # a mark: the copy that is edited is a whole tree, not an overlay's upper directory

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
    """The embedded backend. ``scratch`` is a folder on the file system that holds the layers; the machine's folder for
    temporary files if it is left out. ``overlay=False`` copies parents instead of stacking them, as
    ``REPROBOX_SANDBOX_OVERLAY=no`` does.
    """

    name = "sandbox"
    needs_image = False

    def __init__(self, scratch: Path | None = None, *, overlay: bool = True) -> None:
        self._scratch = scratch or Path(tempfile.gettempdir())
        self._wants_overlay = overlay and os.environ.get(_NO_OVERLAY) != "no"
        self._elsewhere: dict[Path, Sandbox] = {}
        self._found: Availability | None = None
        self._lock = threading.Lock()

    # -- what works here

    def at(self, scratch: Path) -> Sandbox:
        """The same backend, staging in ``scratch``: whether overlay works depends on the file system."""
        if scratch == self._scratch:
            return self
        return self._elsewhere.setdefault(scratch, Sandbox(scratch, overlay=self._wants_overlay))

    def probe(self) -> Availability:
        with self._lock:
            if self._found is None:
                self._found = self._probe()
            return self._found

    def _probe(self) -> Availability:
        machine = platform.machine()
        if sys.platform != "linux" or machine not in ABIS:
            return Availability(
                ok=False,
                reason=f"the sandbox needs Linux on x86_64 or aarch64, and this is {sys.platform} on {machine}",
                hint="use a machine or a virtual machine with Linux",
            )
        try:
            with staging_folder(self._scratch) as stage:
                return self._tried(stage)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            return Availability(
                ok=False,
                reason=f"nothing can be written at {self._scratch}: {error.strerror}",
                hint="set REPROBOX_STORE to a folder that you may write",
            )

    def _tried(self, stage: Path) -> Availability:
        try:
            return _judge(children.answer_of([*ARGV, "probe", str(stage)]))
        except (OSError, BuildError) as error:
            return Availability(ok=False, reason=f"it cannot be tried: {error}", hint=_HINTS["mounts"])

    def overlay(self) -> bool:
        """Whether layers are stacked here; where not, parents are copied."""
        found = self.probe()
        if not found.ok:
            raise BackendError(f"the sandbox does not work here: {found.reason}", hint=found.hint)
        return self._wants_overlay and found.details["overlay"] == "yes"

    # -- building

    def build(self, request: BuildRequest) -> BuildResult:
        with staging_folder(self._scratch) as stage:
            document = self._request(stage, request.parents, request.binds, request.environment, seed=request.seed)
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
                answer = _carry_out("step", stage, told, stdout=out, stderr=subprocess.STDOUT, pass_fds=handed)
            if answer["status"] != 0:
                removed = children.keep_failed(request, document, Path(document["changes"]), "changes")
                raise children.failure(request, answer["status"], removed)
        return children.result(answer)

    def reenter(self, failed: Path, argv: Sequence[str]) -> int:
        """Run a command, with the caller's streams and terminal, in the state that a failed step left at ``failed``."""
        document = json.loads((failed / "request.json").read_bytes())
        if "TERM" in os.environ:
            document["environment"]["TERM"] = os.environ["TERM"]
        with staging_folder(self._scratch) as stage:
            document |= {"mode": "look", "commands": [list(argv)]}
            return _at_the_terminal(stage, document, failed / "changes")

    def edit(self, request: EditRequest) -> int:
        changes = request.state / "changes"
        trees = [tree.absolute() for tree in request.parents]
        if not changes.is_dir():
            self._begin(changes, trees)
        with staging_folder(self._scratch) as stage:
            document = {
                "mode": "edit",
                "parents": [str(tree) for tree in trees],
                "whole": (request.state / _WHOLE).exists(),
                "binds": [children.bind_document(bind) for bind in request.binds],
                "environment": dict(request.environment),
                "commands": [list(request.argv)],
                "workdir": request.workdir,
                "network": children.resolver(),
            }
            return _at_the_terminal(stage, document, changes)

    def _begin(self, changes: Path, trees: Sequence[Path]) -> None:
        """An overlay's upper directory, or where layers cannot be stacked a copy of all of them."""
        staged = changes.with_name("begun")
        remove(staged)
        staged.mkdir(mode=0o755, parents=True)
        strip_inherited(staged, 0o755)
        if not self.overlay():
            self._merge(staged, trees)
            changes.with_name(_WHOLE).touch()
        staged.rename(changes)

    def changes(self, request: ChangesRequest) -> BuildResult:
        changes = request.state / "changes"
        with staging_folder(self._scratch) as stage:
            if not changes.is_dir():
                (stage / "nothing").mkdir(mode=0o755)
                changes = stage / "nothing"
            document = {
                "changes": str(changes.absolute()),
                "copy": str(stage / "copy"),
                "whole": (request.state / _WHOLE).exists(),
                "epoch": request.epoch,
                "installing": True,
                "output": str(request.output.absolute()),
                "parent_index": str(request.parent_index.absolute()),
            }
            answer = _carry_out("pack", stage, document)
        return children.result(answer)

    def tool(self, request: ToolRequest) -> ToolResult:
        with staging_folder(self._scratch) as stage:
            document = self._request(stage, request.parents, request.binds, request.environment)
            document |= {"mode": "tool", "commands": [list(request.argv)], "workdir": "/", "network": None}
            out, err, source = stage / "stdout", stage / "stderr", stage / "stdin"
            source.write_bytes(request.stdin)
            with out.open("ab") as stdout, err.open("ab") as stderr, source.open("rb") as stdin:
                answer = _carry_out("step", stage, document, stdin=stdin, stdout=stdout, stderr=stderr)
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
            "binds": [children.bind_document(bind) for bind in binds],
            "environment": dict(environment),
            "whole": seed is not None or not self.overlay(),
            "layers": [],
        }
        trees = [tree.absolute() for tree in parents]
        if document["whole"]:
            root = str((seed or stage / "upper").absolute())
            layers = [] if seed else children.with_indexes(trees)
            return document | {"root": root, "changes": root, "layers": layers}
        upper = str(stage / "upper")
        stacked = {"parents": [str(tree) for tree in trees], "upper": upper, "work": str(stage / "work")}
        return document | stacked | {"changes": upper}

    # -- using

    def realize(self, request: RealizeRequest) -> Realization:
        trees = tuple(layer.tree.absolute() for layer in request.layers)
        if request.output is not None:
            request.output.mkdir(mode=0o755)
            strip_inherited(request.output, 0o755)
            self._merge(request.output, trees)
            return Realization(location=str(request.output), trees=(request.output,))
        if not self.overlay():
            merged = self._merged(request.keep / request.image_digest, trees)
            return Realization(location=str(merged), trees=(merged,))
        return Realization(location=str(trees[-1].parent), trees=trees)

    def _merge(self, root: Path, trees: Sequence[Path]) -> None:
        with staging_folder(self._scratch) as stage:
            _carry_out("merge", stage, {"root": str(root.absolute()), "layers": children.with_indexes(trees)})

    def _merged(self, place: Path, trees: Sequence[Path]) -> Path:
        """The layers as one folder, made once: where nothing can be stacked, this is what runs."""
        if not place.is_dir():
            with staging_folder(self._scratch) as stage:
                root = stage / "root"
                root.mkdir(mode=0o755)
                self._merge(root, trees)
                _add_mount_points(root)
                kernel.flush(str(root))
                try:
                    root.rename(place)
                except OSError as error:  # another process was first
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        raise
        return place

    def has(self, realization: Realization) -> bool:
        return bool(realization.trees) and all(tree.is_dir() for tree in realization.trees)

    def inspect(self, realization: Realization) -> Mapping[str, str]:  # noqa: ARG002 - trees have no labels
        return {}

    def run(self, request: RunRequest) -> NoReturn:
        """Never returns: this process becomes an interpreter without other threads, and that becomes the command."""
        given = allotted(request.limits, request.gpus)
        record = {
            "trees": [str(tree) for tree in request.realization.trees],
            "stage": stage_folder(str(self._scratch)),
            "argv": list(request.argv),
            "environment": {**request.environment, **given.environment},
            "binds": [children.bind_document(bind) for bind in (*request.binds, *given.binds)],
            "processors": given.processors,
            "workdir": request.workdir,
            "network": request.network,
            "isolate": request.isolate,
        }
        with tempfile.TemporaryFile() as file:
            file.write(json.dumps(record).encode())
            file.seek(0)
            os.set_inheritable(file.fileno(), True)  # noqa: FBT003 - it takes no keyword
            sys.stdout.flush()
            os.execv(ARGV[0], [*ARGV, "command", str(file.fileno())])


def _at_the_terminal(stage: Path, document: dict[str, Any], changes: Path) -> int:
    """Run the one command of ``document`` with the caller's streams and terminal, over what ``changes`` holds."""
    for name in ("stage", "work"):
        (stage / name).mkdir(mode=0o755)
        strip_inherited(stage / name, 0o755)
    place = str(changes.absolute())
    document |= {"layers": [], "stage": str(stage / "stage"), "changes": place}
    document |= {"root": place} if document["whole"] else {"upper": place, "work": str(stage / "work")}
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's keys are the command's
    try:
        status: int = _carry_out("step", stage, document, stdin=None, start_new_session=False)["status"]
    finally:
        signal.signal(signal.SIGINT, before)
    return status


def _judge(results: Mapping[str, str]) -> Availability:
    details = {name: "yes" if not problem else f"no: {problem}" for name, problem in results.items()}
    for name, problem in results.items():
        if problem and name != "overlay":
            return Availability(ok=False, reason=f"{name}: {problem}", hint=_HINTS[name], details=details)
    return Availability(ok=True, details=details)


def _carry_out(way: str, stage: Path, document: Mapping[str, Any], **options: Any) -> dict[str, Any]:
    """Let a child do what ``document`` asks for. Raises :class:`BackendError` if it cannot begin."""
    path = stage / "request.json"
    path.write_text(json.dumps({**document, "parent": os.getpid()}))
    answer: dict[str, Any] = children.answer_of([*ARGV, way, str(path)], **options)
    if "problem" in answer:
        problem = answer["problem"]
        raise BackendError(f"the sandbox cannot be entered: {problem}", hint="`reprobox doctor` says what works here")
    return answer


def _add_mount_points(root: Path) -> None:
    """What a run mounts on, where nothing can be added to a read-only root."""
    for name in FOLDERS:
        if not os.path.lexists(root / name):
            (root / name).mkdir(mode=0o755)
    for name in () if (root / "etc").is_symlink() else FILES:
        if not os.path.lexists(root / name):
            (root / name).touch()
