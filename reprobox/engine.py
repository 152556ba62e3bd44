"""Runs a plan: fetch, build, publish; and joins the layers of a lock into the environment that a backend realizes.

``Session`` is one command's hold on the world: its store, plugins, providers and reporter. Nothing here prints.
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, Self

from reprobox import host_network, image, providers
from reprobox.ahead import Ahead
from reprobox.backend import Backend, BuildRequest, ImageLayer
from reprobox.config import Config
from reprobox.digest import Entry, bare, canonical, read_index, sha256, tree_digest, write_index
from reprobox.download import Watch
from reprobox.errors import BackendError, BuildError, FetchError, IntegrityError, LockError, OfflineError, ReproboxError
from reprobox.layers.kind import (
    Commands,
    Earlier,
    Files,
    Kind,
    StepRequest,
    Unpacked,
    Verbatim,
    secrets_of,
    uses_network,
)
from reprobox.lock import Input, LockedLayer, LockedTarget, ancestors
from reprobox.manifest import IN_IMAGE, Manifest
from reprobox.oci.registry import Registries
from reprobox.oci.remote import PUSHERS, Offer, Remote, Wanted
from reprobox.plan import Plan, Step, plan
from reprobox.plugins import Plugins
from reprobox.redact import Redactor, holders
from reprobox.secret_values import secret_values
from reprobox.store import Store, StoredLayer
from reprobox.tree import Changes, Tree, add_kept, normalise, remove, scan

#: What every step's environment holds; a layer's own ``env`` is added, and the base image's below it.
BUILD_ENVIRONMENT: Mapping[str, str] = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "DEBIAN_FRONTEND": "noninteractive",
    "FORCE_SOURCE_DATE": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONHASHSEED": "0",
}
_MACHINES = {"linux/amd64": "x86_64", "linux/arm64": "aarch64"}  # platforms, and what uname calls them
_SIDE_BY_SIDE = 4  # steps at a time
_PATIENCE, _SLOW = 10.0, 50_000  # seconds, and bytes a second that a remote must send on average after them


class Reporter(Protocol):
    """Shows people what happens. Calls may come from several threads."""

    def say(self, text: str) -> None:
        """One line of news."""

    def fetching(self) -> providers.Progress:
        """A display for one fetch."""

    def moving(self, label: str) -> providers.Progress:
        """A display for another transfer, which ``label`` names."""

    def building(self, name: str, number: int, total: int) -> None:
        """Step ``number`` of ``total`` starts."""

    def built(self, name: str, seconds: float, size: int) -> None:
        """It is done; ``size`` is the layer's in bytes."""


@dataclass(kw_only=True)
class Session:
    """What one command works with."""

    store: Store
    config: Config
    plugins: Plugins
    builder: Backend
    reporter: Reporter
    project: Path
    downloader: providers.Downloader
    documents: providers.Documents
    hints: providers.HintProvider
    registries: Registries
    offline: bool = False
    jobs: int = 8
    manifest: Manifest | None = None  # it says where some inputs, and secrets, are: providers may look into it
    obtained: dict[str, providers.Found] = field(default_factory=dict)
    seen: dict[str, str] = field(default_factory=dict)  # what moving names were found to stand for, such as branches
    ahead: Ahead = field(default_factory=Ahead)
    target: LockedTarget | None = None  # whose inputs are fetched: providers may look at its base
    vaults: tuple[providers.Provider, ...] = ()  # asked before all other places
    far_vaults: tuple[providers.Provider, ...] = ()  # asked last
    remote: Remote | None = None  # where built layers are shared

    def kind(self, name: str) -> Kind:
        try:
            return self.plugins.kinds[name]
        except KeyError:
            raise LockError(
                f"the lock has a layer of kind {name!r}, which nothing here provides",
                hint="install the plugin that offers it; `reprobox plugins` shows what is installed",
            ) from None

    def buildable(self, layer: LockedLayer) -> Kind:
        """The kind of a locked layer, if it still builds by the recipe that the layer was locked with."""
        kind = self.kind(layer.kind)
        if layer.recipe not in getattr(kind, "recipes", (kind.recipe,)):
            raise LockError(
                f"layer {layer.name!r} was locked with recipe {layer.recipe} of kind {layer.kind!r}, and this version"
                f" builds by recipe {kind.recipe}",
                hint="install the version of reprobox that made the lock, or run `reprobox lock`",
            )
        return kind

    def fetch(self, inputs: Sequence[Input]) -> None:
        """Bring inputs into the store, showing progress."""
        missing = [item for item in inputs if not self.store.has_blob(item.sha256)]
        if missing:
            offered = self.plugins.providers(self)
            first = [provider for provider in offered if getattr(provider, "first", False)]
            others = [provider for provider in offered if provider not in first]
            providers.fetch(
                missing,
                [*self.vaults, *first, self.hints, *others, *self.far_vaults],
                self.store,
                progress=self.reporter.fetching(),
                downloader=self.downloader,
                jobs=self.jobs,
                offline=self.offline,
            )

    def obtain(self, urls: Sequence[str]) -> list[providers.Found]:
        """Bring files of unknown content into the store, showing progress. For one command, a URL has one content."""
        if missing := [url for url in dict.fromkeys(urls) if url not in self.obtained]:
            progress = self.reporter.fetching()
            found = providers.obtain(missing, self.store, progress=progress, downloader=self.downloader, jobs=self.jobs)
            self.obtained.update(zip(missing, found, strict=True))
        return [self.obtained[url] for url in urls]


def staged(backend: Backend, store: Store) -> Backend:
    """The backend, staging on the store's file system where it can choose."""
    at: Any = getattr(backend, "at", None)
    return at(store.root / "tmp") if at is not None else backend


def available(backend: Backend, store: Store) -> Backend:
    """The backend, if it works here. Raises :class:`BackendError` with the fix."""
    found = staged(backend, store).probe()
    if not found.ok:
        raise BackendError(f"{backend.name} does not work here: {found.reason}", hint=found.hint)
    return staged(backend, store)


# -- building ----------------------------------------------------------------------------------------------------------


def build(
    session: Session, target: LockedTarget, epoch: int, *, image_wanted: bool = False, shared: bool = True
) -> Plan:
    """Have every layer of ``target`` in the store; returns the plan that was carried out.

    Layers that the remote has are taken from there, unless ``shared`` is false. Inputs of the others are fetched layer
    by layer in one background thread, so that the first step starts while later inputs are still on their way; steps
    that do not stand on one another run side by side.
    """
    session.target = target
    todo = _planned(session, target, {}, image_wanted=image_wanted)
    if todo.steps or todo.missing:
        offers = _offers(session, target, todo) if shared else {}
        rest = _planned(session, target, offers, image_wanted=image_wanted) if offers else todo
        _check_allowed(session, rest)
        session.store.sweep()
        with _Arrivals(session, rest) as arrivals:
            _run_steps(session, target, epoch, todo, arrivals, offers)
    return todo


def _planned(session: Session, target: LockedTarget, offers: Mapping[str, Offer], *, image_wanted: bool) -> Plan:
    """What is to be done where the layers that are offered count as done."""
    with session.store.using():
        base = session.store.layer(target.base.id)
        verbatim = target.base.id not in offers and (base is None or base.record.get("verbatim") is not None)
        return plan(
            target,
            has_layer=lambda key: key in offers or session.store.layer(key) is not None,
            has_blob=session.store.has_blob,
            image=image_wanted and verbatim,
        )


def _offers(session: Session, target: LockedTarget, todo: Plan) -> dict[str, Offer]:
    """What the remote has of the layers to be built, by layer id. What is wrong there is told, and stops nothing."""
    remote = session.remote
    if remote is None or session.offline or not todo.steps:
        return {}
    sealed = target.seal.layers if target.seal else {}
    wanted = [
        Wanted(id=step.layer.id, name=step.layer.name, diff_id=bare(sealed.get(step.layer.name, "")))
        for step in todo.steps
        if remote.trust == PUSHERS or step.layer.name in sealed
    ]
    found: dict[str, Offer] = {}
    for item, answer in remote.offers(wanted):
        if isinstance(answer, IntegrityError):
            _not_taken(session, item.name, answer)
        elif isinstance(answer, ReproboxError):
            session.reporter.say(f"warning: {remote.name} is not used: {answer.message}")
            break
        elif answer is not None:
            found[item.id] = answer
    return found


def _not_taken(session: Session, name: str, error: ReproboxError) -> None:
    assert session.remote is not None
    session.reporter.say(
        f"warning: layer {name!r} is not taken from {session.remote.name}: {error.message}; it is built instead"
    )


def this_platform() -> str:
    """The platform whose programs run on this machine, such as ``linux/amd64``; empty for one without a name here."""
    return next((name for name, machine in _MACHINES.items() if machine == platform.machine()), "")


def check_platform(target: LockedTarget) -> None:
    """Raise :class:`BackendError` unless the target's programs run on this machine: its steps run them."""
    if target.platform != this_platform():
        raise _other_machine(f"target {target.name!r}", target.platform)


def _other_machine(what: str, wanted: str) -> BackendError:
    machine = _MACHINES.get(wanted, wanted)
    return BackendError(
        f"{what} is for {wanted}, and this machine is {platform.machine()}",
        hint=f"take the project with its lock to a machine with {machine} processors and realize it there",
    )


def _check_allowed(session: Session, todo: Plan) -> None:
    """What no step can go without, before the first one: its secrets, and the network where it uses it."""
    for step in todo.steps:
        if session.offline and uses_network(step.layer):
            raise OfflineError(
                f"layer {step.layer.name!r} uses the network while it is built, and it is not in the store",
                hint="realize it once without --offline, or bring a store that has it",
            )
    _secrets(session, [step.layer for step in todo.steps])


def _secrets(session: Session, layers: Sequence[LockedLayer]) -> dict[str, bytes]:
    """The secrets that the steps of these layers need. Raises :class:`ManifestError` for those that are missing."""
    wanted = [(name, layer.name) for layer in layers for name in secrets_of(layer)]
    if not wanted:
        return {}
    if session.manifest is None:
        raise ReproboxError(f"layer {wanted[0][1]!r} needs secrets, and there is no manifest to find them by")
    return secret_values(session.manifest, session.project, wanted)


class _Arrivals:
    """The fetching thread. ``wait`` returns when a layer's inputs are in the store, or raises what went wrong."""

    def __init__(self, session: Session, todo: Plan) -> None:
        self._session = session
        self._batches = [(step.layer.id, step.layer.inputs) for step in todo.steps]
        self._batches.append(("", todo.missing))
        self._done = {name: threading.Event() for name, _ in self._batches}
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="reprobox-arrivals", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.wait("")

    def _work(self) -> None:
        try:
            for name, inputs in self._batches:
                self._session.fetch(inputs)
                self._done[name].set()
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            self._error = error
            for event in self._done.values():
                event.set()

    def wait(self, name: str) -> None:
        self._done[name].wait()
        if self._error is not None:
            raise self._error


def _run_steps(
    session: Session, target: LockedTarget, epoch: int, todo: Plan, arrivals: _Arrivals, offers: Mapping[str, Offer]
) -> None:
    """Each step as soon as what it stands on is there, a few at a time; what is offered stands on nothing.

    The threads are daemons: when the command is interrupted nobody waits for a step, and the step's processes end with
    the thread that started them.
    """
    waiting = {step.layer.name: step for step in todo.steps}
    offered = {step.layer.name: offers[step.layer.id] for step in todo.steps if step.layer.id in offers}
    finished = _Finished(todo)
    outcomes: queue.SimpleQueue[tuple[Step, bool, BaseException | None]] = queue.SimpleQueue()
    running = 0
    number = itertools.count(1)

    def carry_out(step: Step, offer: Offer | None, place: tuple[int, int]) -> None:
        done = True
        try:
            if offer is not None:
                done = _took(session, step, offer, epoch)
            else:
                if step.layer.id in offers:  # nobody else waits for these inputs
                    session.fetch(step.layer.inputs)
                else:
                    arrivals.wait(step.layer.id)
                build_layer(session, step.layer, step.below, target.platform, epoch, place=place)
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            outcomes.put((step, False, error))
        else:
            outcomes.put((step, done, None))

    while waiting or running:
        ready = [step for step in waiting.values() if step.layer.name in offered or finished.suffice(step)]
        for step in ready[: _SIDE_BY_SIDE - running]:
            del waiting[step.layer.name]
            running += 1
            offer = offered.get(step.layer.name)
            place = (0, 0) if offer else (next(number), len(todo.steps) - len(offered))
            threading.Thread(target=carry_out, args=(step, offer, place), name="reprobox-build", daemon=True).start()
        step, done, error = outcomes.get()
        running -= 1
        if error is not None:
            raise error
        if done:
            finished.add(step)
        else:  # to be built after all
            waiting[step.layer.name] = step
            del offered[step.layer.name]


class _Finished:
    """The steps that are done together with all that they stand on: what was taken may be done before that is."""

    def __init__(self, todo: Plan) -> None:
        self._steps = {step.layer.name: step for step in todo.steps}
        self._done: set[str] = set()
        self._whole: set[str] = set()

    def add(self, step: Step) -> None:
        self._done.add(step.layer.name)
        found = [step.layer.name]
        while found:
            found = [name for name in self._done - self._whole if self.suffice(self._steps[name])]
            self._whole.update(found)

    def suffice(self, step: Step) -> bool:
        """Whether everything is there that this step stands on."""
        return self._whole.issuperset(step.waits_for)


class _Impatient(Watch):
    """Gives up on the transfer of ``size`` bytes where it would take longer than any build."""

    def __init__(self, progress: providers.Progress, size: int) -> None:
        self._progress = progress
        self._size = size
        self._count = 0
        self._started = time.monotonic()

    def advance(self, count: int) -> None:
        self._count += count
        self._progress.advance(count)
        passed = time.monotonic() - self._started
        if count > 0 and passed > _PATIENCE and self._count < self._size and self._count / passed < _SLOW:
            raise FetchError(f"it sends only {self._count / passed / 1000:.0f} kB a second")

    def note(self, text: str) -> None:
        self._progress.note(text)


def _took(session: Session, step: Step, offer: Offer, epoch: int) -> bool:
    """Publish a layer as the remote has it; False, and told, where that is not possible."""
    assert session.remote is not None
    try:
        take_layer(session, session.remote, step.layer, step.below, offer, epoch)
    except (FetchError, IntegrityError) as error:
        _not_taken(session, step.layer.name, error)
        return False
    return True


def take_layer(
    session: Session,
    remote: Remote,
    layer: LockedLayer,
    below: Sequence[LockedLayer],
    offer: Offer,
    epoch: int,
    *,
    patient: bool = False,
) -> None:
    """Publish a layer as the remote has it. Raises :class:`FetchError` and :class:`IntegrityError`."""
    with session.store.working_on(f"layer-{layer.id}"):
        if session.store.layer(layer.id) is not None:
            return
        started = time.monotonic()
        progress = session.reporter.moving(f"taking {layer.name} from {remote.name}")
        progress.start(offer.blob.size, 1)
        try:
            with session.store.scratch() as stage:
                watch = _Impatient(progress, 0 if patient else offer.blob.size)
                record = remote.take(session.store, offer, stage / "layer", epoch, watch)
                seconds = round(time.monotonic() - started, 3)
                _publish(session, layer, below, epoch, stage / "layer", {**record, "seconds": seconds})
        finally:
            progress.stop()


def _publish(
    session: Session,
    layer: LockedLayer,
    below: Sequence[LockedLayer],
    epoch: int,
    staged: Path,
    record: Mapping[str, Any],
) -> StoredLayer:
    inputs = layer.identity(epoch, [item.id for item in below]).document()
    whole = {**record, "name": layer.name, "kind": layer.kind, "inputs": inputs}
    stored = session.store.publish_layer(layer.id, staged, whole)
    session.store.remember("like", _likeness(inputs), layer.id.encode())
    remove(session.store.failed(layer.id))
    return stored


def build_layer(
    session: Session,
    layer: LockedLayer,
    below: Sequence[LockedLayer],
    platform: str,
    epoch: int,
    *,
    place: tuple[int, int] = (1, 1),
) -> StoredLayer:
    """Build one layer whose inputs are in the store, and publish it; another process may have done so meanwhile."""
    with session.store.working_on(f"layer-{layer.id}"):
        stored = session.store.layer(layer.id)
        if stored is not None:
            return stored
        session.reporter.building(layer.name, *place)
        started = time.monotonic()
        with session.store.scratch() as stage:
            record = _build_in(stage, session, layer, below, platform, epoch, plain=session.config.plain)
            record["seconds"] = round(time.monotonic() - started, 3)
            stored = _publish(session, layer, below, epoch, stage / "layer", record)
        session.reporter.built(layer.name, time.monotonic() - started, record["size"])
        return stored


def rebuild(
    session: Session, layer: LockedLayer, below: Sequence[LockedLayer], platform: str, epoch: int
) -> list[Entry]:
    """Build a layer once more beside the one in the store, without short cuts, for its index alone."""
    session.fetch(layer.inputs)
    with session.store.scratch() as stage:
        _build_in(stage, session, layer, below, platform, epoch, plain=True)
        return read_index((stage / "layer" / "index").read_bytes())


def _build_in(
    stage: Path,
    session: Session,
    layer: LockedLayer,
    below: Sequence[LockedLayer],
    platform: str,
    epoch: int,
    *,
    plain: bool = False,
) -> dict[str, Any]:
    output = stage / "layer"
    output.mkdir(mode=0o755)
    files = {item.name: session.store.blob(item.sha256) for item in layer.inputs}
    identity = layer.identity(epoch, [item.id for item in below]).document()
    request = StepRequest(
        layer=layer,
        files=files,
        platform=platform,
        epoch=epoch,
        project=session.project,
        earlier=None if plain else _earlier(session.store, identity),
        plain=plain,
    )
    kind = session.buildable(layer)
    step = kind.step(request)
    if isinstance(step, Verbatim):
        return _unpack_verbatim(step, output)
    if isinstance(step, Unpacked):
        return _unpack_root(step, output, epoch)
    if isinstance(step, Commands) and platform != this_platform():
        raise _other_machine(f"layer {layer.name!r}", platform)
    parents = [session.store.own(_stored(session.store, item)) for item in below]
    merged = Tree.load(*(parent.index for parent in parents))
    if isinstance(step, Files):
        return _write_files(step, stage, output, merged, epoch)
    if step.quick:
        try:
            return _run_commands(step, stage, session, layer, parents, merged, epoch)
        except BuildError:
            session.reporter.say(f"{layer.name}: it failed the quick way, so it is built again the plain way")
            remove(stage / "seed")
            step = kind.step(replace(request, plain=True, earlier=None))
            assert isinstance(step, Commands)
    return _run_commands(step, stage, session, layer, parents, merged, epoch)


def _likeness(identity: Mapping[str, Any]) -> str:
    """The same for layers that differ in nothing but their input files."""
    return sha256(canonical({name: value for name, value in identity.items() if name != "files"}))


def _earlier(store: Store, identity: Mapping[str, Any]) -> Earlier | None:
    """The layer that was built last of those like this one, if it is still there."""
    try:
        name = store.memo("like", _likeness(identity)).read_text()
    except OSError:
        return None
    stored = store.layer(name)
    if stored is None or stored.shared is not None:
        return None
    files = {name: digest for _, name, digest in stored.record["inputs"]["files"]}
    return Earlier(files=files, index=read_index(stored.index.read_bytes()), tree=stored.tree)


def _stored(store: Store, layer: LockedLayer) -> StoredLayer:
    stored = store.layer(layer.id)
    if stored is None:
        raise ReproboxError(f"layer {layer.name!r} went away from the store while it was needed", hint="run it again")
    return stored


def _unpack_verbatim(step: Verbatim, output: Path) -> dict[str, Any]:
    tree = output / "tree"
    tree.mkdir(mode=0o755)
    contents = step.unpack(tree)
    (output / "index").write_bytes(write_index(scan(tree, contents)))
    config = json.loads(step.config.read_bytes())
    diff_ids = [value.removeprefix("sha256:") for value in config["rootfs"]["diff_ids"]]
    blobs = [
        {"digest": path.name, "media_type": image.oci_media_type(kind), "size": path.stat().st_size, "diff_id": diff_id}
        for (path, kind), diff_id in zip(step.layers, diff_ids, strict=True)
    ]
    chain = canonical(list(diff_ids))
    return {
        "diff_id": sha256(chain),
        "size": sum(path.stat().st_size for path, _ in step.layers),
        "verbatim": blobs,
        "config": config.get("config") or {},
        "dropped": [],
    }


def _unpack_root(step: Unpacked, output: Path, epoch: int) -> dict[str, Any]:
    tree = output / "tree"
    tree.mkdir(mode=0o755)
    dropped = step.unpack(tree)
    (output / "index").write_bytes(write_index(scan(tree)))
    diff_id, size = image.layer_digest(tree, output / "index", epoch)
    return {"diff_id": diff_id, "size": size, "config": dict(step.config), "dropped": list(dropped)}


def _write_files(step: Files, stage: Path, output: Path, merged: Tree, epoch: int) -> dict[str, Any]:
    root = stage / "files"
    root.mkdir(mode=0o755)
    started = time.time()
    step.write(root, merged)
    dropped = normalise(Changes(root=root, epoch=epoch, started=started), merged, output)
    diff_id, size = image.layer_digest(output / "tree", output / "index", epoch)
    return {"diff_id": diff_id, "size": size, "dropped": list(dropped)}


def _run_commands(
    step: Commands,
    stage: Path,
    session: Session,
    layer: LockedLayer,
    parents: Sequence[StoredLayer],
    merged: Tree,
    epoch: int,
) -> dict[str, Any]:
    if step.kept and not step.commands:
        return _keep(step, stage / "layer", epoch, dropped=())
    seed = None
    if step.seed is not None:
        seed = stage / "seed"
        seed.mkdir(mode=0o755)
        step.seed(seed)
    index = stage / "parents.index"
    index.write_bytes(write_index(merged.sorted()))
    inherited = _inherited(parents)
    environment = {**inherited, **BUILD_ENVIRONMENT, "SOURCE_DATE_EPOCH": str(epoch)}
    environment["PATH"] = inherited.get("PATH", BUILD_ENVIRONMENT["PATH"])
    network = uses_network(layer)
    if network:
        environment |= host_network.environment()
    secrets = _secrets(session, [layer])
    try:
        result = session.builder.build(
            BuildRequest(
                parents=tuple(parent.tree for parent in parents),
                parent_index=index,
                output=stage / "layer",
                commands=step.commands,
                environment={**environment, **step.environment, **layer.environment},
                binds=(*step.binds, *host_network.binds()) if network else step.binds,
                epoch=epoch,
                log=session.store.log(f"{layer.id}.log"),
                seed=seed,
                workdir=step.workdir,
                network=network,
                secrets=secrets,
                installing=step.installing,
                failed=None if step.quick else session.store.failed(layer.id),
            )
        )
    except BuildError as error:
        hint = f"{error.hint}; `reprobox shell --failed {layer.name}` opens a shell in the state that it failed in"
        raise BuildError(error.message, where=f"layer {layer.name!r}", hint=hint) from None
    _refuse_secrets(stage / "layer" / "tree", layer, secrets)
    dropped = [Redactor(secrets).text(text) for text in result.dropped]
    if step.kept:
        return _keep(step, stage / "layer", epoch, dropped=dropped)
    return {"diff_id": result.diff_id, "size": result.size, "dropped": dropped}


def _refuse_secrets(tree: Path, layer: LockedLayer, secrets: Mapping[str, bytes]) -> None:
    """A layer is kept and handed on, so no file of it may hold a secret."""
    found = [f"/{Redactor(secrets).text(os.fsdecode(path))} holds {name!r}" for path, name in holders(tree, secrets)]
    if found:
        more = f", and {len(found) - 5} more" if len(found) > 5 else ""
        raise BuildError(
            f"the step wrote a secret into the layer: {', '.join(found[:5])}{more}",
            where=f"layer {layer.name!r}",
            hint="layers are kept and handed on: let the script read /run/secrets where it needs it, and remove what it"
            " wrote",
        )


def _keep(step: Commands, output: Path, epoch: int, *, dropped: Sequence[str]) -> dict[str, Any]:
    """Add to what was built what an earlier layer has already."""
    assert step.kept_in is not None
    add_kept(output, step.kept_in, step.kept, epoch)
    diff_id, size = image.layer_digest(output / "tree", output / "index", epoch)
    return {"diff_id": diff_id, "size": size, "dropped": list(dropped)}


def _inherited(parents: Sequence[StoredLayer]) -> dict[str, str]:
    """The environment that a base image declares."""
    return image_environment(parents[0].record) if parents else {}


def image_environment(record: Mapping[str, Any]) -> dict[str, str]:
    """``Env`` of a stored base's image config, as a mapping."""
    pairs = (item.partition("=") for item in record.get("config", {}).get("Env") or ())
    return {name: value for name, _, value in pairs}


# -- the environment as a whole ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Outside:
    """A layer that is no part of the image, as locked and as stored."""

    layer: LockedLayer
    stored: StoredLayer


@dataclass(frozen=True, kw_only=True, slots=True)
class Environment:
    """A target whose layers are all in the store: the image it is, and both digests (sha256 hex).

    ``target`` and ``layers`` are the image's; ``outside`` are layers that stand on it and are no part of it. ``shared``
    has the shared stores that layers are used from, by layer id.
    """

    target: LockedTarget
    layers: tuple[ImageLayer, ...]
    records: tuple[Mapping[str, Any], ...]
    image: image.Image
    tree_digest: str
    shared: Mapping[str, Path] = field(default_factory=dict)
    outside: tuple[Outside, ...] = ()

    @property
    def image_digest(self) -> str:
        return self.image.digest()

    def layer_ids(self) -> list[str]:
        """Of all layers, those outside the image too."""
        return [*(layer.id for layer in self.layers), *(item.layer.id for item in self.outside)]

    def diff_ids(self) -> dict[str, str]:
        """``sha256:`` diff ids by layer name, of layers outside the image too."""
        records = {layer.name: record for layer, record in zip(self.layers, self.records, strict=True)}
        records |= {item.layer.name: item.stored.record for item in self.outside}
        return {name: f"sha256:{record['diff_id']}" for name, record in records.items()}


def assemble(store: Store, target: LockedTarget, epoch: int, settings: Callable[[Any], image.Settings]) -> Environment:
    """Join the stored layers of ``target``. ``settings`` makes the image's settings from the base image's config.

    Raises :class:`BuildError` when two layers that do not stand on one another touch one path.
    """
    others = (layer for layer in target.layers if layer.placement != IN_IMAGE)
    outside = tuple(Outside(layer=layer, stored=_stored(store, layer)) for layer in others)
    target = replace(target, layers=target.image_layers)
    stored = [_stored(store, layer) for layer in target.layers]
    indexes = [read_index(layer.index.read_bytes()) for layer in stored]
    _check_overlaps(target, indexes)
    merged = Tree.merged(indexes)
    return Environment(
        target=target,
        layers=tuple(
            ImageLayer(id=layer.id, name=locked.name, tree=layer.tree, index=layer.index)
            for locked, layer in zip(target.layers, stored, strict=True)
        ),
        records=tuple(layer.record for layer in stored),
        image=image.Image(
            settings=settings(stored[0].record.get("config", {})),
            layers=tuple(itertools.chain.from_iterable(_image_layers(store, layer) for layer in stored)),
            epoch=epoch,
        ),
        tree_digest=tree_digest(merged.entries.values()),
        shared={layer.id: layer.shared for layer in stored if layer.shared is not None},
        outside=outside,
    )


def _check_overlaps(target: LockedTarget, indexes: Sequence[Sequence[Entry]]) -> None:
    """Layers that may be built side by side must not touch one path: how they are stacked would decide the result."""
    owner: dict[bytes, tuple[str, Entry]] = {}
    for layer, index in list(zip(target.layers, indexes, strict=True))[1:]:
        below = frozenset(item.name for item in ancestors(target.layers, layer.name))
        for entry in index:
            other, found = owner.get(entry.path, ("", entry))
            if other and other not in below and (entry.kind != "d" or entry != found):
                path = entry.path.decode(errors="replace")
                raise BuildError(
                    f"layers {other!r} and {layer.name!r} both write /{path}, and neither stands on the other",
                    hint=f'say which comes first: add `after = ["{other}"]` to layer {layer.name!r}',
                )
            owner[entry.path] = (layer.name, entry)


def _image_layers(store: Store, layer: StoredLayer) -> Iterator[image.Layer]:
    verbatim = layer.record.get("verbatim")
    if verbatim is None:
        descriptor = image.Descriptor(
            media_type=image.LAYER_TYPE, digest=layer.record["diff_id"], size=layer.record["size"]
        )
        yield image.Layer(descriptor=descriptor, diff_id=layer.record["diff_id"], tree=layer.tree, index=layer.index)
        return
    for blob in verbatim:
        descriptor = image.Descriptor(media_type=blob["media_type"], digest=blob["digest"], size=blob["size"])
        yield image.Layer(descriptor=descriptor, diff_id=blob["diff_id"], blob=store.blob(blob["digest"]))
