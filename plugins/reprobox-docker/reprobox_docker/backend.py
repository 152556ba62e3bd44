"""Docker, or what speaks its language, as a backend: requests in, containers and images, results out."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

from reprobox.backend import (
    Availability,
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
from reprobox.image import Image, write_docker_archive
from reprobox.layer_copies import merge_into
from reprobox.tree import strip_inherited

TYPE_CHECKING = False
if TYPE_CHECKING:  # the SDK takes as long to load as all of reprobox
    from reprobox_docker.engine import Engine
    from reprobox_docker.images import ParentStacks


class Docker:
    """The backend. ``scratch`` is a folder that the engine sees too; the machine's folder for temporary files if it is
    left out.
    """

    name = "docker"
    needs_image = True

    def __init__(self, scratch: Path | None = None) -> None:
        self._scratch = scratch or Path(tempfile.gettempdir())
        self._elsewhere: dict[Path, Docker] = {}
        self._engine: Engine | None = None
        self._stacks: ParentStacks | None = None
        self._found: Availability | None = None
        self._lock = threading.RLock()

    def at(self, scratch: Path) -> Docker:
        """The same backend, staging in ``scratch``."""
        if scratch == self._scratch:
            return self
        return self._elsewhere.setdefault(scratch, Docker(scratch))

    # -- what works here

    def probe(self) -> Availability:
        with self._lock:
            if self._found is None:
                self._found = self._tried()
            return self._found

    def _tried(self) -> Availability:
        from reprobox_docker.trying import tried

        try:
            return tried(self.engine(), self._scratch)
        except BackendError as error:
            return Availability(ok=False, reason=error.message, hint=error.hint or "")
        except OSError as error:
            return Availability(
                ok=False,
                reason=f"nothing can be written at {self._scratch}: {error.strerror}",
                hint="set REPROBOX_STORE to a folder that you may write",
            )

    def engine(self) -> Engine:
        """The engine, connected by this process. Raises :class:`BackendError`."""
        from reprobox_docker.engine import Engine
        from reprobox_docker.finding import find

        with self._lock:
            if self._engine is None or self._engine.pid != os.getpid():
                self._engine = Engine(find())
                if self._engine.endpoint.socket:
                    self._engine.sweep()
            return self._engine

    def close(self) -> None:
        """Let go of the engine. A process that ends does so by itself."""
        with self._lock:
            if self._engine is not None:
                self._engine.close()
                self._engine = None

    def _local(self) -> Engine:
        """The engine, where it sees this machine's files."""
        engine = self.engine()
        if not engine.endpoint.socket:
            raise BackendError(
                f"the engine at {engine.endpoint.address} is on another machine, and sees no file of this one",
                hint="run reprobox on that machine",
            )
        return engine

    def _parents(self) -> ParentStacks:
        from reprobox_docker.images import ParentStacks

        with self._lock:
            if self._stacks is None:
                self._stacks = ParentStacks()
            return self._stacks

    # -- building

    def build(self, request: BuildRequest) -> BuildResult:
        from reprobox_docker.step import build

        return build(self._local(), self._parents(), self._scratch, request)

    def tool(self, request: ToolRequest) -> ToolResult:
        from reprobox_docker.step import tool

        return tool(self._local(), self._parents(), self._scratch, request)

    # -- using

    def realize(self, request: RealizeRequest) -> Realization:
        from reprobox_docker.images import digest_tag, load, repository, tag

        name = repository(request.name)
        if request.output is not None:
            return _copied(request, request.output, f"{name}:{tag(request.version)}")
        engine = self.engine()
        location = f"{name}:{digest_tag(request.image_digest)}"
        if not _is_held(engine, location, request.image):
            load(engine, request.image, location)
        engine.tag(location, name, tag(request.version))
        return Realization(location=location)

    def has(self, realization: Realization) -> bool:
        from reprobox_docker.asking import has_image
        from reprobox_docker.finding import find

        endpoint = find()
        quick = has_image(endpoint.socket, realization.location) if endpoint.socket and self._engine is None else None
        return self.engine().has_image(realization.location) if quick is None else quick

    def inspect(self, realization: Realization) -> Mapping[str, str]:
        found = self.engine().inspect_image(realization.location)
        return dict((found or {}).get("Config", {}).get("Labels") or {})

    def entries(self, realization: Realization) -> list[Entry]:
        """What the image is made of, as a container sees it: read from the export of one that is never started."""
        from reprobox.archives.entries import tar_entries

        engine = self.engine()
        config = {"Image": realization.location, "Cmd": ["true"]}
        with engine.container(config) as name, engine.errors("the image cannot be read"):
            return tar_entries(iter(engine.api.export(name)))

    def run(self, request: RunRequest) -> int:
        from reprobox_docker.use import run

        return run(self._local(), self._scratch, request)

    # -- changing by hand

    def edit(self, request: EditRequest) -> int:
        from reprobox_docker.edit import edit

        return edit(self._local(), self._parents(), self._scratch, request)

    def changes(self, request: ChangesRequest) -> BuildResult:
        from reprobox_docker.edit import changes

        return changes(self._scratch, request)


def _copied(request: RealizeRequest, output: Path, name: str) -> Realization:
    """A docker archive for a name that ends in ``.tar``, and otherwise the whole tree."""
    if output.suffix == ".tar":
        with output.open("xb") as file:
            write_docker_archive(request.image, name, file)
        return Realization(location=str(output))
    output.mkdir(mode=0o755)
    strip_inherited(output, 0o755)
    merge_into(output, [(layer.tree, layer.index) for layer in request.layers])
    return Realization(location=str(output), trees=(output,))


def _is_held(engine: Engine, location: str, image: Image) -> bool:
    """Whether the engine has this very image under its name, and not one that somebody gave the name to."""
    found = engine.inspect_image(location)
    wanted = [f"sha256:{layer.diff_id}" for layer in image.layers]
    return found is not None and found.get("RootFS", {}).get("Layers") == wanted
