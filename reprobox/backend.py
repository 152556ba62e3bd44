"""The Backend protocol: what a backend is asked, what it answers.

Requests are complete and frozen: argv tuples (never a shell string), the whole environment, every mount. A backend
never reads the manifest, chooses a cache key or publishes to the store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from reprobox.image import Image


@dataclass(frozen=True, kw_only=True, slots=True)
class Availability:
    """What ``probe`` found: whether the backend works here; if not, why, and what would make it work.

    ``details`` are facts worth showing (versions, "overlay": "yes"), in print order.
    """

    ok: bool
    reason: str = ""
    hint: str = ""
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Bind:
    """A host path that appears at ``target`` (absolute) inside; read-only unless ``writable``."""

    source: Path
    target: str
    writable: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildRequest:
    """One step: run ``commands`` over the merged ``parents`` and keep what they changed as a normalised layer.

    ``parents`` are unpacked layer trees, lowest first; ``parent_index`` is the file with their merged index. ``seed``
    is a tree that the step starts from when it has no parents (a bootstrap); the backend may consume it. ``output`` is
    an empty staging folder: the backend leaves ``tree/`` and ``index`` there (``reprobox.image``). Both output streams
    of the commands go to ``log``. Files that the step finds at ``binds`` never enter the layer.

    ``network`` gives the step the host's network and resolver. ``secrets`` are values by name, which the step finds as
    ``/run/secrets/<name>``, mode 0400; a backend never writes one to a disk or a command line, and writes the log by
    way of :func:`reprobox.redact.redacted`.
    """

    parents: tuple[Path, ...]
    parent_index: Path
    output: Path
    commands: tuple[tuple[str, ...], ...]
    environment: Mapping[str, str]
    binds: tuple[Bind, ...]
    epoch: int
    log: Path
    seed: Path | None = None
    workdir: str = "/"
    network: bool = False
    secrets: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    installing: bool = False  # packages are being installed: rules about what their scripts leave apply (scrub)
    failed: Path | None = None  # where to leave the state of a step that fails, for a look into it


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildResult:
    """What a step made: sha256 hex of the layer's uncompressed tar, its size in bytes, and what was dropped and why."""

    diff_id: str
    size: int
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolRequest:
    """Run a program of the environment for its output, with a writable root that is thrown away, and no network."""

    parents: tuple[Path, ...]
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    binds: tuple[Bind, ...] = ()
    stdin: bytes = b""


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolResult:
    """Exit status and both streams of a tool run."""

    status: int
    stdout: bytes
    stderr: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageLayer:
    """One layer of the image: its id, its unpacked tree and its index, as the store holds them."""

    id: str
    name: str
    tree: Path
    index: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class RealizeRequest:
    """Make the environment exist under ``name`` (of the target) and ``version`` (empty if the manifest has none).

    ``image`` is all that an OCI image of it says; where the backend does not say that it ``needs_image``, the blobs of
    its base may be absent. ``keep`` is a folder where the backend may keep what it makes, each thing under its image
    digest (sha256 hex); ``output`` asks for a copy at that new path instead: of the whole tree, or of what the backend
    makes for that name (a ``.sif``, a ``.tar``).
    """

    name: str
    layers: tuple[ImageLayer, ...]
    image: Image
    image_digest: str
    tree_digest: str
    keep: Path
    output: Path | None = None
    version: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Realization:
    """The environment as a backend holds it: a path or image name, and its trees, lowest first, if it has any.

    A backend that has no trees finds the environment again by ``location`` alone, also in another process.
    """

    location: str
    trees: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a run may use at most: ``memory`` in bytes, ``cpus`` as a number of processors; 0 is all there is."""

    memory: int = 0
    cpus: float = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRequest:
    """Run ``argv`` in a realization.

    The caller's uid and gid; the root read-only; ``binds`` as declared; exactly ``environment``. ``network`` and
    ``isolate`` are the caller's wish for less than the host's network, pids and ipc. ``gpus`` is ``""`` (what the
    backend gives without being asked), ``"none"``, ``"all"``, or the numbers or UUIDs of devices with commas. A backend
    that cannot keep a limit, or give a device, raises :class:`reprobox.errors.BackendError`; it never runs without.
    """

    realization: Realization
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    binds: tuple[Bind, ...]
    workdir: str
    network: bool = True
    isolate: bool = False
    limits: Limits = Limits()
    gpus: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class EditRequest:
    """Run ``argv`` as user 0, with the caller's streams and terminal, in a copy of the environment that may be changed.

    ``state`` is a folder, empty at first, below which the copy is kept between calls: the next call sees what this one
    left. What a backend keeps elsewhere for it (a container) it takes away in ``discard(state)``, a method that only
    such a backend has. ``parents`` and ``parent_index`` are the layers of the realization, as a step has them; between
    calls they stay the same. The command has the host's network and resolver, and is under the filter that steps are
    under where user 0 is pretended: ``apt-get install`` works. Files that it finds at ``binds`` are not of the copy.
    """

    realization: Realization
    parents: tuple[Path, ...]
    parent_index: Path
    state: Path
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    binds: tuple[Bind, ...] = ()
    workdir: str = "/"


@dataclass(frozen=True, kw_only=True, slots=True)
class ChangesRequest:
    """Say what the edits that are kept at ``state`` changed, as a step over the same parents would have left it.

    ``output`` is an empty staging folder: the backend leaves ``tree/`` and ``index`` there, normalised by the rules of
    steps that install packages. The copy stays as it is, and may be edited further.
    """

    realization: Realization
    parents: tuple[Path, ...]
    parent_index: Path
    state: Path
    output: Path
    epoch: int


@runtime_checkable
class Backend(Protocol):
    """What runs steps and environments. Registered by the ``reprobox_backends`` hook.

    A backend may have more: ``entries`` (a realization without trees -> :class:`reprobox.digest.Entry` of each path in
    it, read from its bytes), by which ``reprobox verify`` holds what it keeps against the tree digest. It raises
    :class:`ValueError` for bytes that cannot be read. And ``overlay``, a method that tells whether ``tool`` stacks any
    trees that it is given, also such as have no index, at no cost: then work is done ahead of steps.
    """

    name: str
    needs_image: bool  # whether ``realize`` reads the image's blobs

    def probe(self) -> Availability:
        """Really try the whole chain, and say what stops it and what to do about it."""

    def build(self, request: BuildRequest) -> BuildResult:
        """One step over its parents. Raises :class:`reprobox.errors.BuildError` with the step's last lines."""

    def tool(self, request: ToolRequest) -> ToolResult:
        """One program run for its output, on a root that is thrown away."""

    def realize(self, request: RealizeRequest) -> Realization:
        """Make the environment exist; doing it again costs nothing."""

    def run(self, request: RunRequest) -> int:
        """Run a command with the caller's streams and terminal; returns its exit status, or never returns."""

    def has(self, realization: Realization) -> bool:
        """Whether what :meth:`realize` made is still there; quickly, since nothing to do should take no time."""

    def inspect(self, realization: Realization) -> Mapping[str, str]:
        """The labels of what the backend holds; none for one that holds trees without labels."""

    def edit(self, request: EditRequest) -> int:
        """Run a command in a copy that may be changed; returns its exit status."""

    def changes(self, request: ChangesRequest) -> BuildResult:
        """What was changed in that copy, as a layer over the parents."""


@runtime_checkable
class Exporter(Protocol):
    """What writes an environment for other tools: ``reprobox export --format NAME``. Registered by
    ``reprobox_exporters``."""

    name: str  # of the format
    needs_image: bool  # whether ``export`` reads the image's blobs

    def export(self, request: RealizeRequest) -> None:
        """Write the environment to ``request.output``, a new path of any name; the same lock gives the same bytes."""
