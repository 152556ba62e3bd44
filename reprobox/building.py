"""One layer from its inputs: the step that its kind says, carried out by the builder, and published in the store."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

from reprobox import host_network, image
from reprobox.backend import Backend, BuildRequest, BuildResult
from reprobox.digest import Entry, canonical, read_index, sha256, write_index
from reprobox.errors import BuildError, ReproboxError
from reprobox.layer_copies import keep, move_into
from reprobox.layers.kind import (
    Commands,
    Earlier,
    Files,
    Made,
    StepRequest,
    Unpacked,
    Verbatim,
    secrets_of,
    uses_network,
)
from reprobox.lock import LockedLayer
from reprobox.normalise import Changes, normalise
from reprobox.redact import Redactor, holders
from reprobox.secret_values import secret_values
from reprobox.session import Session, other_machine, this_platform
from reprobox.store import Store, StoredLayer
from reprobox.tree import Tree, remove, scan

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


def build_layer(
    session: Session,
    layer: LockedLayer,
    below: Sequence[LockedLayer],
    platform: str,
    epoch: int,
    *,
    place: tuple[int, int] = (1, 1),
    ahead: Callable[[], Path | None] = lambda: None,
) -> StoredLayer:
    """Build one layer whose inputs are in the store, and publish it; another process may have done so meanwhile.

    ``ahead`` waits for the folder that the kind fills for it beforehand, if it does.
    """
    with session.store.working_on(f"layer-{layer.id}"):
        stored = session.store.layer(layer.id)
        if stored is not None:
            return stored
        session.reporter.building(layer.name, *place)
        started = time.monotonic()
        with session.store.scratch() as stage:
            plain = session.config.plain
            made = None if plain else ahead()
            request = step_request(session, layer, below, epoch, platform=platform, plain=plain, ahead=made)
            record = _build_in(stage, session, below, request)
            record["seconds"] = round(time.monotonic() - started, 3)
            stored = publish(session, layer, below, epoch, stage / "layer", record)
        session.reporter.built(layer.name, time.monotonic() - started, record["size"])
        return stored


def rebuild(
    session: Session, layer: LockedLayer, below: Sequence[LockedLayer], platform: str, epoch: int
) -> list[Entry]:
    """Build a layer once more beside the one in the store, without short cuts, for its index alone."""
    session.fetch(layer.inputs)
    with session.store.scratch() as stage:
        request = step_request(session, layer, below, epoch, platform=platform, plain=True)
        _build_in(stage, session, below, request)
        return read_index((stage / "layer" / "index").read_bytes())


def publish(
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


def step_request(
    session: Session,
    layer: LockedLayer,
    below: Sequence[LockedLayer],
    epoch: int,
    *,
    platform: str | None = None,
    plain: bool = False,
    ahead: Path | None = None,
) -> StepRequest:
    """What the kind of a layer whose inputs are in the store is asked; ``platform`` is this machine's if left out."""
    return StepRequest(
        layer=layer,
        files={item.name: session.store.blob(item.sha256) for item in layer.inputs},
        platform=platform or this_platform(),
        epoch=epoch,
        project=session.project,
        earlier=None if plain else earlier_layer(session.store, layer, below, epoch),
        plain=plain,
        derived=None if plain else session.store.derived_program,
        ahead=ahead,
    )


def _build_in(stage: Path, session: Session, below: Sequence[LockedLayer], request: StepRequest) -> dict[str, Any]:
    layer, platform, epoch = request.layer, request.platform, request.epoch
    output, scratch = stage / "layer", stage / "scratch"
    output.mkdir(mode=0o755)
    scratch.mkdir(mode=0o755)
    lower = _Lower(session.store, below)
    request = replace(request, scratch=None if request.plain else scratch, root=lambda: lower.root)
    kind = session.buildable(layer)
    step = kind.step(request)
    if isinstance(step, Made):
        return _take_made(step, output, session.store.log(f"{layer.id}.log"))
    if isinstance(step, Verbatim):
        return _unpack_verbatim(step, output)
    if isinstance(step, Unpacked):
        return _unpack_root(step, output, epoch)
    if isinstance(step, Commands) and platform != this_platform():
        raise other_machine(f"layer {layer.name!r}", platform)
    if isinstance(step, Files):
        return _write_files(step, stage, output, lower.root, epoch)
    if step.quick:
        try:
            return _run_commands(step, stage, session, layer, lower, epoch)
        except BuildError:
            session.reporter.say(f"{layer.name}: it failed the quick way, so it is built again the plain way")
            remove(stage / "seed")
            step = kind.step(replace(request, plain=True, earlier=None, derived=None, scratch=None, ahead=None))
            assert isinstance(step, Commands)
    return _run_commands(step, stage, session, layer, lower, epoch)


class _Lower:
    """The layers that a layer stands on, lowest first."""

    def __init__(self, store: Store, layers: Sequence[LockedLayer]) -> None:
        self._store = store
        self._layers = layers

    @functools.cached_property
    def layers(self) -> list[StoredLayer]:
        return [self._store.own(stored_layer(self._store, layer)) for layer in self._layers]

    @functools.cached_property
    def root(self) -> Tree:
        """What they show, merged."""
        return Tree.load(*(layer.index for layer in self.layers))


def _likeness(identity: Mapping[str, Any]) -> str:
    """The same for layers that differ in nothing but their input files."""
    return sha256(canonical({name: value for name, value in identity.items() if name != "files"}))


def earlier_layer(store: Store, layer: LockedLayer, below: Sequence[LockedLayer], epoch: int) -> Earlier | None:
    """The layer that was built last of those like this one, if it is still there."""
    identity = layer.identity(epoch, [item.id for item in below]).document()
    try:
        name = store.memo("like", _likeness(identity)).read_text()
    except OSError:
        return None
    stored = store.layer(name)
    if stored is None or stored.shared is not None:
        return None
    files = {name: digest for _, name, digest in stored.record["inputs"]["files"]}
    return Earlier(files=files, index=read_index(stored.index.read_bytes()), tree=stored.tree)


def stored_layer(store: Store, layer: LockedLayer) -> StoredLayer:
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
    lower: _Lower,
    epoch: int,
) -> dict[str, Any]:
    if step.kept and not step.commands:
        assert step.kept_in is not None
        keep(stage / "layer", step.kept_in, step.kept, epoch)
        return _digested(stage / "layer", epoch, dropped=())
    seed = None
    if step.seed is not None:
        seed = stage / "seed"
        seed.mkdir(mode=0o755)
        step.seed(seed)
    index = stage / "parents.index"
    index.write_bytes(write_index(lower.root.sorted()))
    environment = step_environment(lower.layers, epoch)
    network = uses_network(layer)
    if network:
        environment |= host_network.environment()
    secrets = secrets_for(session, [layer])
    try:
        result = _build_beside(
            functools.partial(_keep, step, stage / "kept", epoch),
            session.builder,
            BuildRequest(
                parents=tuple(parent.tree for parent in lower.layers),
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
            ),
        )
    except BuildError as error:
        hint = f"{error.hint}; `reprobox shell --failed {layer.name}` opens a shell in the state that it failed in"
        raise BuildError(error.message, where=f"layer {layer.name!r}", hint=hint) from None
    _refuse_secrets(stage / "layer" / "tree", layer, secrets)
    dropped = [Redactor(secrets).text(text) for text in result.dropped]
    if step.kept:
        move_into(stage / "kept", stage / "layer", epoch)
        remove(stage / "layer")
        (stage / "kept").rename(stage / "layer")
        return _digested(stage / "layer", epoch, dropped=dropped)
    return {"diff_id": result.diff_id, "size": result.size, "dropped": dropped}


def build_ahead(
    session: Session, layer: LockedLayer, step: Commands, base: StoredLayer, over: Path, folder: Path, epoch: int
) -> None:
    """Carry out a step's commands over the base and the tree ``over``, in place of what they stand on, and leave in
    ``folder`` the layer, the merged index ``parents`` that it was made over, its ``log`` and its ``record``.

    Raises :class:`BuildError`, also for a step that needs more than commands: what is kept, secrets, the network.
    """
    if step.kept or step.seed or secrets_of(layer) or uses_network(layer):
        raise BuildError("the step needs more than its commands, so it is not carried out ahead")
    parents = Tree.load(base.index)
    parents.apply(scan(over))
    (folder / "parents").write_bytes(write_index(parents.sorted()))
    (folder / "layer").mkdir(mode=0o755)
    result = session.builder.build(
        BuildRequest(
            parents=(base.tree, over),
            parent_index=folder / "parents",
            output=folder / "layer",
            commands=step.commands,
            environment={**step_environment([base], epoch), **step.environment, **layer.environment},
            binds=step.binds,
            epoch=epoch,
            log=folder / "log",
            workdir=step.workdir,
            installing=step.installing,
        )
    )
    (folder / "record").write_bytes(canonical(dataclasses.asdict(result)))


def _take_made(step: Made, output: Path, log: Path) -> dict[str, Any]:
    """Move what :func:`build_ahead` left to where a step would have left it."""
    for name in ("tree", "index"):
        (step.folder / "layer" / name).rename(output / name)
    with (step.folder / "log").open("a") as file:
        file.write("reprobox: this was done ahead, while layers below were built\n")
    (step.folder / "log").replace(log)
    record: dict[str, Any] = json.loads((step.folder / "record").read_bytes())
    return record


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


def _build_beside(work: Callable[[], None], builder: Backend, request: BuildRequest) -> BuildResult:
    """Build while ``work`` is done too."""
    done: Future[None] = Future()

    def carry_out() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            done.set_exception(error)
        else:
            done.set_result(None)

    thread = threading.Thread(target=carry_out, name="reprobox-beside", daemon=True)
    thread.start()
    try:
        result = builder.build(request)
    finally:
        thread.join()  # it writes where all is removed when the step failed
    done.result()
    return result


def _keep(step: Commands, output: Path, epoch: int) -> None:
    """Have what an earlier layer has already, if anything is kept, as a layer of its own in ``output``."""
    if step.kept_in is not None and step.kept:
        output.mkdir(mode=0o755)
        keep(output, step.kept_in, step.kept, epoch)


def _digested(output: Path, epoch: int, *, dropped: Sequence[str]) -> dict[str, Any]:
    diff_id, size = image.layer_digest(output / "tree", output / "index", epoch)
    return {"diff_id": diff_id, "size": size, "dropped": list(dropped)}


def step_environment(parents: Sequence[StoredLayer], epoch: int) -> dict[str, str]:
    """What the environment of every step holds; its kind and its layer may add to it."""
    inherited = image_environment(parents[0].record) if parents else {}
    environment = {**inherited, **BUILD_ENVIRONMENT, "SOURCE_DATE_EPOCH": str(epoch)}
    return environment | {"PATH": inherited.get("PATH", BUILD_ENVIRONMENT["PATH"])}


def image_environment(record: Mapping[str, Any]) -> dict[str, str]:
    """``Env`` of a stored base's image config, as a mapping."""
    pairs = (item.partition("=") for item in record.get("config", {}).get("Env") or ())
    return {name: value for name, _, value in pairs}


def secrets_for(session: Session, layers: Sequence[LockedLayer]) -> dict[str, bytes]:
    """The secrets that the steps of these layers need. Raises :class:`ManifestError` for those that are missing."""
    wanted = [(name, layer.name) for layer in layers for name in secrets_of(layer)]
    if not wanted:
        return {}
    if session.manifest is None:
        raise ReproboxError(f"layer {wanted[0][1]!r} needs secrets, and there is no manifest to find them by")
    return secret_values(session.manifest, session.project, wanted)
