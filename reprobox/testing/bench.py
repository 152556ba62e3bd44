"""A bench asks a backend for steps, tools, runs and edits, with requests that are complete."""

from __future__ import annotations

import os
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from reprobox.backend import (
    Backend,
    BuildRequest,
    BuildResult,
    ChangesRequest,
    EditRequest,
    ImageLayer,
    Realization,
    RealizeRequest,
    RunRequest,
    ToolRequest,
    ToolResult,
)
from reprobox.building import BUILD_ENVIRONMENT
from reprobox.digest import read_index, tree_digest, write_index
from reprobox.errors import BuildError
from reprobox.testing.small_environment import EPOCH, image_of, make_layer, small_base, small_skeleton
from reprobox.tree import Tree


@dataclass(frozen=True, kw_only=True, slots=True)
class Built:
    """A step that went well: what the backend answered, the layer that it made, and what the step printed."""

    result: BuildResult
    layer: ImageLayer
    log: str

    def index(self) -> list[str]:
        """The layer's entries as ``"f 0644 path"``, by path bytes."""
        entries = read_index(self.layer.index.read_bytes())
        return [f"{entry.kind} {entry.mode:04o} {entry.path.decode()}" for entry in entries]

    def text(self, path: str) -> str:
        """The content of a file of the layer."""
        return (self.layer.tree / path).read_text()


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """A run that is over: exit status, negative for a signal, and both streams."""

    status: int
    stdout: bytes
    stderr: bytes
    pid: int


class Bench:
    """Asks a backend for steps, tools and runs, with requests that are complete. ``folder`` is empty."""

    def __init__(self, backend: Backend, folder: Path) -> None:
        self.backend = backend
        self.folder = folder
        self._count = 0

    def place(self) -> Path:
        """A new, empty folder."""
        self._count += 1
        path = self.folder / str(self._count)
        path.mkdir()
        return path

    def layer(self, fill: Callable[[Path], object]) -> ImageLayer:
        return make_layer(self.place(), f"layer{self._count}", fill)

    def request(self, *commands: Sequence[str], parents: Sequence[ImageLayer] = (), **other: object) -> BuildRequest:
        """A step over ``parents`` (the small base if none are given), with the environment of real steps."""
        place = self.place()
        (place / "output").mkdir(mode=0o755)
        layers = parents or (small_base(),)
        seed = other.get("seed")
        index = write_index(Tree.load(*(layer.index for layer in layers)).sorted()) if seed is None else b""
        (place / "parents.index").write_bytes(index)
        request = BuildRequest(
            parents=tuple(layer.tree for layer in layers) if seed is None else (),
            parent_index=place / "parents.index",
            output=place / "output",
            commands=tuple(tuple(command) for command in commands),
            environment={**BUILD_ENVIRONMENT, "SOURCE_DATE_EPOCH": str(EPOCH)},
            binds=(),
            epoch=EPOCH,
            log=place / "log",
        )
        return replace(request, **other)  # type: ignore[arg-type]  # fields of the request, by name

    def carry_out(self, request: BuildRequest) -> Built:
        result = self.backend.build(request)
        layer = ImageLayer(
            id=result.diff_id, name="built", tree=request.output / "tree", index=request.output / "index"
        )
        return Built(result=result, layer=layer, log=request.log.read_text(errors="replace"))

    def failure(self, request: BuildRequest) -> BuildError:
        """Carry out a step that must not go well; returns what the backend says of it."""
        try:
            self.carry_out(request)
        except BuildError as error:
            return error
        raise AssertionError("the step should have failed")

    def build(self, script: str, *parents: ImageLayer, **other: object) -> Built:
        """Run a shell script as a step."""
        return self.carry_out(self.request(("/bin/sh", "-eu", "-c", script), parents=parents, **other))

    def tool(self, *argv: str, stdin: bytes = b"", parents: Sequence[ImageLayer] = (), **other: object) -> ToolResult:
        layers = parents or (small_base(),)
        request = ToolRequest(
            parents=tuple(layer.tree for layer in layers), argv=argv, environment=dict(BUILD_ENVIRONMENT), stdin=stdin
        )
        return self.backend.tool(replace(request, **other))  # type: ignore[arg-type]

    def realize(self, *layers: ImageLayer, output: Path | None = None) -> Realization:
        """The small base, or ``layers``, and a skeleton on top, as the backend holds it."""
        stack = (*(layers or (small_base(),)), small_skeleton())
        merged = Tree.load(*(layer.index for layer in stack))
        image = image_of(stack)
        (self.folder / "keep").mkdir(exist_ok=True)
        return self.backend.realize(
            RealizeRequest(
                name="test",
                layers=tuple(stack),
                image=image,
                image_digest=image.digest(),
                tree_digest=tree_digest(merged.entries.values()),
                keep=self.folder / "keep",
                output=output,
            )
        )

    def wish(self, realization: Realization, argv: Sequence[str], **other: object) -> RunRequest:
        """A run as ``reprobox run`` asks for it."""
        request = RunRequest(
            realization=realization,
            argv=tuple(argv),
            environment={"PATH": "/usr/bin:/bin", "HOME": "/run/home"},
            binds=(),
            workdir="/",
        )
        return replace(request, **other)  # type: ignore[arg-type]

    def start(self, request: RunRequest, stdin: bytes = b"") -> tuple[int, Path]:
        """Start a run in a child process; returns its pid and the folder with its ``stdout`` and ``stderr``."""
        return self.start_call(lambda: self.backend.run(request), stdin)

    def start_call(self, call: Callable[[], int], stdin: bytes = b"") -> tuple[int, Path]:
        """The same of anything that uses the caller's streams and returns an exit status."""
        place = self.place()
        (place / "stdin").write_bytes(stdin)
        streams = [os.open(place / "stdin", os.O_RDONLY)]
        streams += [
            os.open(place / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) for name in ("stdout", "stderr")
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # about threads; the child only becomes something else
            child = os.fork()
        if child == 0:
            status = 70
            try:
                for number, descriptor in enumerate(streams):
                    os.dup2(descriptor, number)
                status = call()
            except BaseException:  # noqa: BLE001 - the child must not return into the caller's code
                os.write(2, traceback.format_exc().encode())
            finally:
                os._exit(status)
        for descriptor in streams:
            os.close(descriptor)
        return child, place

    def end(self, child: int, place: Path) -> Ended:
        """Wait for a run."""
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        out, err = (place / "stdout").read_bytes(), (place / "stderr").read_bytes()
        return Ended(status=code, stdout=out, stderr=err, pid=child)

    def run(self, realization: Realization, *argv: str, stdin: bytes = b"", **other: object) -> Ended:
        return self.end(*self.start(self.wish(realization, argv, **other), stdin))

    def shell(self, realization: Realization, script: str, **other: object) -> Ended:
        """Run a shell script in the environment."""
        return self.run(realization, "/bin/sh", "-c", script, **other)  # type: ignore[arg-type]

    def editing(self, *layers: ImageLayer) -> Editing:
        """A copy of the small base, or of ``layers``, that may be changed. It ends with ``close()``."""
        stack = (*(layers or (small_base(),)), small_skeleton())
        place = self.place()
        (place / "state").mkdir()
        (place / "parents.index").write_bytes(write_index(Tree.load(*(layer.index for layer in stack)).sorted()))
        request = EditRequest(
            realization=self.realize(*layers),
            parents=tuple(layer.tree for layer in stack),
            parent_index=place / "parents.index",
            state=place / "state",
            argv=(),
            environment={**BUILD_ENVIRONMENT},
        )
        return Editing(self, request)


class Editing:
    """An environment that is being changed by hand."""

    def __init__(self, bench: Bench, request: EditRequest) -> None:
        self._bench = bench
        self.request = request

    def run(self, script: str, stdin: bytes = b"", **other: object) -> Ended:
        """Run a shell script in the copy."""
        request = replace(self.request, argv=("/bin/sh", "-eu", "-c", script), **other)  # type: ignore[arg-type]
        return self._bench.end(*self._bench.start_call(lambda: self._bench.backend.edit(request), stdin))

    def changes(self) -> Built:
        """What was changed until now, as a layer."""
        output = self._bench.place()
        result = self._bench.backend.changes(
            ChangesRequest(
                realization=self.request.realization,
                parents=self.request.parents,
                parent_index=self.request.parent_index,
                state=self.request.state,
                output=output,
                epoch=EPOCH,
            )
        )
        layer = ImageLayer(id=result.diff_id, name="changes", tree=output / "tree", index=output / "index")
        return Built(result=result, layer=layer, log="")

    def close(self) -> None:
        """Have the backend take away what it keeps of the copy elsewhere."""
        discard = getattr(self._bench.backend, "discard", None)
        if discard is not None:
            discard(self.request.state)
