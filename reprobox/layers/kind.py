"""What a layer kind is: the values it is asked with, what it answers, and the world it may touch while resolving.

Bases are kinds too: the root node of the graph is resolved and built like any other layer, only over nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from reprobox.ahead import Ahead
from reprobox.backend import Bind, ToolResult
from reprobox.digest import Entry, Json
from reprobox.lock import Input, Lock, LockedLayer
from reprobox.manifest import Layer, Manifest
from reprobox.oci.registry import Registries
from reprobox.providers import Found
from reprobox.store import Store
from reprobox.tree import Tree

#: Where a step finds its locked input files, and reprobox's own tools.
INPUTS = "/run/reprobox/inputs"
TOOLS = "/run/reprobox"
#: Options of a locked layer that the engine itself reads: names of the secrets that its step finds below /run/secrets,
#: and whether it uses the network. Left out where there are none and it does not.
SECRETS = "secrets"
NETWORK = "network"


class World(Protocol):
    """What a kind may do to the world while it resolves. Made by the engine; a test can make a small one."""

    store: Store
    project: Path
    offline: bool
    here: str  # the platform whose programs run on this machine
    roots: Mapping[str, Lock]  # bases of other targets that run on this machine, by what the manifest calls them
    archives: Mapping[str, Sequence[str]]  # configured base URIs by archive name (user configuration)
    registries: Registries
    seen: MutableMapping[str, str]  # what moving names, such as branches, stand for: the same for the whole command
    ahead: Ahead  # what was begun before it was needed
    index: Mapping[str, str]  # configured Python index settings (user configuration): "url"

    def get(self, url: str, *, fresh: bool = True, limit: int = 64 << 20) -> bytes:
        """A small document. ``fresh`` asks the server whether a remembered copy is current; offline, that copy."""

    def fetch(self, inputs: Sequence[Input]) -> None:
        """Bring inputs into the store through all providers, each checked against its hash."""

    def obtain(self, urls: Sequence[str]) -> list[Found]:
        """Bring what each URL has into the store, whatever it is: for files whose hash nobody knows yet."""

    def remember(self, item: Input, urls: Sequence[str]) -> None:
        """Keep where an input was seen, so that fetching it later asks there first. Never enters the lock."""

    def read(self, path: str) -> bytes | None:
        """A file of the base's root, links resolved inside it; None where there is none. Builds the base if needed."""

    def find(self, folder: str) -> tuple[str, ...]:
        """Absolute paths of all files and links below a folder of the base's root. Builds the base if needed."""

    def tool(
        self, argv: Sequence[str], *, binds: Sequence[Bind] = (), stdin: bytes = b"", root: Lock | None = None
    ) -> ToolResult:
        """Run a program for its output, on a throw-away root without network: the base's, or that of the base which
        ``root`` locks. It must be of this machine's platform, and is built if needed."""

    def say(self, text: str) -> None:
        """One line of progress for people."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolveRequest:
    """One layer to resolve: its manifest table, what is locked below it (base first), and its old lock if any."""

    manifest: Manifest
    layer: Layer
    key: str  # key path of the layer's table, for messages: "layers[1]", "base"
    platform: str
    below: tuple[LockedLayer, ...]
    previous: LockedLayer | None
    upgrade: bool
    world: World


@dataclass(frozen=True, kw_only=True, slots=True)
class Resolution:
    """What resolving found. ``options`` is hashed into the layer id; ``facts`` are only told; ``dates`` (unix seconds)
    are a base's candidates for the epoch."""

    inputs: tuple[Input, ...] = ()
    options: Mapping[str, Json] = field(default_factory=dict)
    facts: Mapping[str, Json] = field(default_factory=dict)
    dates: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Earlier:
    """A layer in the store that is like the one to be built in everything but its input files.

    It has the same kind, recipe, options, environment, epoch and ancestors. ``files`` are the sha256 of its inputs by
    name; ``index`` are its entries, the content of which is below ``tree``.
    """

    files: Mapping[str, str]
    index: Sequence[Entry]
    tree: Path


#: Keeps a program that follows from an input: a kind, the input's sha256 hex, and what writes the program there. It
#: gives the program's path, or None where that cannot be had.
Derived: TypeAlias = Callable[[str, str, Callable[[Path], object]], Path | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class StepRequest:
    """A locked layer to be built. ``files`` are its inputs in the store, by input name, in locked order. ``plain`` asks
    for a step without short cuts: what a quicker one is held against, and what is left when that fails.

    ``scratch`` is an empty folder for what is made on the way, files of which may be bound into the step; None where a
    step must do without. ``ahead`` is the folder that the kind filled while the layers below were built, if it did, and
    ``root`` gives the merged tree of these layers.
    """

    layer: LockedLayer
    files: Mapping[str, Path]
    platform: str
    epoch: int
    project: Path
    earlier: Earlier | None = None
    plain: bool = False
    derived: Derived | None = None
    scratch: Path | None = None
    ahead: Path | None = None
    root: Callable[[], Tree] = Tree


@dataclass(frozen=True, kw_only=True, slots=True)
class BeforeRequest:
    """What can be done for a step of ``layer``, which stands on the base alone, while the base is built.

    ``input`` gives the path of an input of this layer, ``folder`` is empty, and what is left there is given to the
    step; a file with the name of an input stands for it. ``awaited`` says whether the step's turn has come: nothing
    more is to be begun then.
    """

    layer: LockedLayer
    input: Callable[[Input], Path]
    folder: Path
    awaited: Callable[[], bool]


@dataclass(frozen=True, kw_only=True, slots=True)
class Commands:
    """Run ``commands`` over the parents. ``seed`` fills the tree that a base starts from. ``installing`` says that they
    install packages, whose scripts leave behind what no layer should have (``scrub``).

    ``quick`` says that they take short cuts, so that a failure may be theirs: the step is then done again, ``plain``.

    ``kept`` are entries of the earlier layer whose tree is ``kept_in``, folders included, that this layer has too, as
    they are there: the commands neither make nor see them.
    """

    commands: tuple[tuple[str, ...], ...]
    binds: tuple[Bind, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    seed: Callable[[Path], None] | None = None
    workdir: str = "/"
    installing: bool = False
    quick: bool = False
    kept: tuple[Entry, ...] = ()
    kept_in: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class AheadRequest:
    """What can be done for a step while the layers ``below`` it are built, but for the base.

    ``step`` is what will be asked when its turn comes, as far as it is known. ``base`` is the base's tree. ``input``
    gives the path of an input of these layers, or of what was made to stand for it while the base was built
    (:class:`BeforeRequest`). ``folder`` is empty, and what is left there is given to the step. ``build`` carries out
    commands over the base and one more tree, whose path it is given, in place of the layers below, and leaves what
    :class:`Made` needs in ``folder``; it raises :class:`BuildError`, also where the step needs secrets or the network.
    """

    step: StepRequest
    below: tuple[LockedLayer, ...]
    base: Path
    input: Callable[[Input], Path]
    folder: Path
    build: Callable[[Path, Commands], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Files:
    """Write paths into an empty folder, given the parents' merged tree; no command runs."""

    write: Callable[[Path, Tree], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Verbatim:
    """An OCI image taken as it is: unpack its layers into one flattened tree. The image keeps the blobs themselves.

    ``config`` is the image's configuration blob, ``layers`` the layer blobs with their media types, lowest first.
    ``unpack`` returns the sha256 hex of files that it wrote, by path: they need not be read again.
    """

    unpack: Callable[[Path], Mapping[bytes, str]]
    config: Path
    layers: tuple[tuple[Path, str], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Unpacked:
    """A root file system taken as it is, as one layer of our own: set-id bits stay, owners do not.

    ``unpack`` fills an empty folder and returns what it left out; ``config`` is what containers inherit, in the words
    of OCI's image configuration.
    """

    unpack: Callable[[Path], tuple[str, ...]]
    config: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """Take the layer that was built ahead in ``folder`` (:class:`AheadRequest`): a step would leave the same now."""

    folder: Path


Step: TypeAlias = Commands | Files | Verbatim | Unpacked | Made


def secrets_of(layer: LockedLayer) -> tuple[str, ...]:
    """Names of the secrets that the step of ``layer`` needs."""
    names = layer.options.get(SECRETS, ())
    return tuple(str(name) for name in names) if isinstance(names, Sequence) else ()


def uses_network(layer: LockedLayer) -> bool:
    """Whether the step of ``layer`` may use the network: what it makes is not pinned by its inputs."""
    return layer.options.get(NETWORK) is True


class Kind(Protocol):
    """A layer kind. Registered by the ``reprobox_layer_kinds`` hook.

    A kind may have more: ``recipes``, the recipes that it still builds by (the current one if left out); ``sources``
    (layer -> paths of the project that it is made of), with ``complete`` where the locked inputs are all of it, so that
    the lock holds without these files; ``destinations`` (layer -> places where it writes), for kinds that may be beside
    others; ``reads`` (manifest, layer, project folder -> digest by path of each local file that says
    what a pinned layer asks for); ``foresee`` (a request whose layers below are as they were locked -> nothing), which
    begins with :attr:`World.ahead` what ``resolve`` will have to wait for if nothing else changed; ``ahead`` (an
    :class:`AheadRequest` -> whether its folder is of use), which does, in a thread of its own, what a step can have
    done while those below it run; ``before`` (a :class:`BeforeRequest` -> whether its folder is of use), which does so
    while the base is built.
    """

    name: str
    recipe: int
    pinned: bool  # what it resolves to moves with the world, so a lock keeps it; else it is made of local files
    options: type[Any]  # the frozen dataclass of its manifest keys

    def needs(self, layer: Layer, above: Sequence[Layer]) -> Iterable[str]:
        """Names of the layers above that this one must follow, whatever ``after`` says."""

    def resolve(self, request: ResolveRequest) -> Resolution:
        """Pin every byte the layer needs. The only place with network, and only through ``request.world``."""

    def step(self, request: StepRequest) -> Step:
        """How the layer is built from its locked inputs. Pure."""
