"""A stranger's backend, held to its word: what it raises is told by name, and what it returns is looked at.

A backend of a plugin is code that reprobox did not write. Its mistakes must not look like reprobox's own, a ``probe``
that hangs must not hang everything, and a layer that it built is checked before it enters a store.
"""

from __future__ import annotations

import queue
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from reprobox.backend import (
    Availability,
    Backend,
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
from reprobox.digest import hidden, read_index, write_index
from reprobox.errors import BackendError, IntegrityError, ReproboxError
from reprobox.image import layer_digest
from reprobox.tree import scan

PATIENCE = 30.0  # seconds that a probe may take
_Answer = TypeVar("_Answer")


class Guarded:
    """The ``backend`` that the plugin called ``plugin`` offers. Other attributes than the protocol's are its own."""

    def __init__(self, backend: Backend, plugin: str) -> None:
        self.name = backend.name
        self.needs_image = backend.needs_image
        self.plugin = plugin
        self.inner = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def at(self, scratch: Path) -> Guarded:
        """The same backend, staging in ``scratch`` where it can choose."""
        choose = getattr(self.inner, "at", None)
        return self if choose is None else Guarded(self._asked(choose, scratch), self.plugin)

    def probe(self) -> Availability:
        return bounded_probe(self.inner, self._source())

    def build(self, request: BuildRequest) -> BuildResult:
        result = self._checked(self.inner.build, request, BuildResult)
        self._check_layer(result, request.output, request.epoch)
        return result

    def tool(self, request: ToolRequest) -> ToolResult:
        return self._checked(self.inner.tool, request, ToolResult)

    def realize(self, request: RealizeRequest) -> Realization:
        return self._checked(self.inner.realize, request, Realization)

    def run(self, request: RunRequest) -> int:
        return self._checked(self.inner.run, request, int)

    def has(self, realization: Realization) -> bool:
        return self._checked(self.inner.has, realization, bool)

    def inspect(self, realization: Realization) -> Mapping[str, str]:
        labels: Mapping[str, str] = self._checked(self.inner.inspect, realization, Mapping)  # type: ignore[type-abstract]
        return labels

    def edit(self, request: EditRequest) -> int:
        return self._checked(self.inner.edit, request, int)

    def changes(self, request: ChangesRequest) -> BuildResult:
        result = self._checked(self.inner.changes, request, BuildResult)
        self._check_layer(result, request.output, request.epoch)
        return result

    def _source(self) -> str:
        return f"the plugin {self.plugin!r}"

    def _checked(self, call: Callable[[Any], object], request: object, wanted: type[_Answer]) -> _Answer:
        answer = self._asked(call, request)
        if not isinstance(answer, wanted):
            raise BackendError(
                f"{self._source()} is broken: its backend {self.name!r} answered {type(answer).__name__}"
                f" and not {wanted.__name__}",
                hint=_HINT,
            )
        return answer

    def _asked(self, call: Callable[[Any], Any], request: object) -> Any:
        try:
            return call(request)
        except (ReproboxError, OSError):  # which are told well, or are the machine's
            raise
        except (Exception, SystemExit) as error:
            raise BackendError(f"{self._source()} failed: {described(error)}", hint=_HINT) from error

    def _check_layer(self, result: BuildResult, output: Path, epoch: int) -> None:
        wrong = wrong_layer(result, output, epoch)
        if wrong:
            raise IntegrityError(f"{self._source()} returned a wrong layer: {wrong}", hint=_HINT)


_HINT = "tell its authors, or use another backend; `reprobox plugins` says who they are"


def wrong_layer(result: BuildResult, output: Path, epoch: int) -> str:
    """What is wrong with a layer that was just built: its numbers, its index, or its paths; empty if nothing is."""
    try:
        data = (output / "index").read_bytes()
        entries = read_index(data)
        found = {entry.path: entry for entry in scan(output / "tree")}
    except (OSError, ValueError) as error:
        return f"it cannot be read: {error}"
    if data != write_index(sorted(entries, key=lambda entry: entry.path)):
        return "its index is not in the order of paths"
    for entry in entries:
        path = entry.path.decode(errors="replace")
        if hidden(entry.path):
            return f"/{path} belongs to the running system"
        there = found.pop(entry.path, None)
        if entry.kind != "w" and there != entry:
            return f"its index says {_shown(entry)} of /{path}, and its tree has {_shown(there)}"
    if found:
        return f"/{min(found).decode(errors='replace')} is in its tree and not in its index"
    digest, size = layer_digest(output / "tree", output / "index", epoch)
    if (digest, size) != (result.diff_id, result.size):
        return f"it said sha256:{result.diff_id} and {result.size} bytes, and it is sha256:{digest} and {size}"
    return ""


def _shown(entry: Any) -> str:
    return "nothing" if entry is None else f"{entry.kind} {entry.mode:04o} {entry.detail}"


def bounded_probe(backend: Backend, source: str, seconds: float = PATIENCE) -> Availability:
    """What ``probe`` says, or that it fails, answers nonsense, or does not answer in time."""
    answers: queue.SimpleQueue[object] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(backend.probe())
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is what the probe came to
            answers.put(error)

    threading.Thread(target=ask, name=f"reprobox-probe-{backend.name}", daemon=True).start()
    try:
        answer = answers.get(timeout=seconds)
    except queue.Empty:
        return _broken(f"{source} does not answer: its probe took more than {seconds:g} seconds")
    if isinstance(answer, ReproboxError):
        return Availability(ok=False, reason=answer.message, hint=answer.hint or "")
    if isinstance(answer, BaseException):
        return _broken(f"{source} failed: {described(answer)}")
    if not isinstance(answer, Availability):
        return _broken(f"{source} is broken: its probe answered {type(answer).__name__} and not Availability")
    return answer


def _broken(reason: str) -> Availability:
    return Availability(ok=False, reason=reason, hint=_HINT)


def described(error: BaseException) -> str:
    """An exception as ``ValueError: text (module.py, line 7)``, the place being where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"
