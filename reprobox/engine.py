"""Runs a plan: fetch, take or build, publish; layers that do not stand on one another side by side."""

from __future__ import annotations

import functools
import itertools
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

from reprobox import providers
from reprobox.building import build_layer, publish, secrets_for
from reprobox.crew import LOOKS_UP, taken
from reprobox.digest import bare
from reprobox.download.transfer import Watch
from reprobox.early import Early
from reprobox.errors import FetchError, IntegrityError, OfflineError, ReproboxError
from reprobox.layers.kind import uses_network
from reprobox.lock import LockedLayer, LockedTarget
from reprobox.manifest import Base
from reprobox.oci.remote import PUSHERS, LayerSource, Offer, Wanted
from reprobox.plan import Plan, Step, plan
from reprobox.session import Session

#: Bases that have more to them than their files: what containers inherit.
_MORE_THAN_FILES = frozenset(Base.BUILT_AS) - {"bootstrap", "rootfs"}
_SIDE_BY_SIDE = 4  # steps at a time
_PATIENCE, _SLOW = 10.0, 50_000  # seconds, and bytes a second that a remote must send on average after them


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
        with _Arrivals(session, rest) as arrivals, Early(session, target, epoch, arrivals.wait) as early:
            _run_steps(todo, offers, _Builder(session, target, epoch, arrivals, early))
    return todo


def _planned(session: Session, target: LockedTarget, offers: Mapping[str, _Offered], *, image_wanted: bool) -> Plan:
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


class _Offered(NamedTuple):
    """A layer that need not be built, and who has it."""

    source: LayerSource
    offer: Offer


def _offers(session: Session, target: LockedTarget, todo: Plan) -> dict[str, _Offered]:
    """What vaults and the remote have of the layers to be built, by layer id.

    What is wrong there is told, and stops nothing.
    """
    vaults = [vault for vault in session.vaults if isinstance(vault, LayerSource)]
    sources: list[LayerSource] = [*vaults, *([session.remote] if session.remote and not session.offline else [])]
    found: dict[str, _Offered] = {}
    for source in sources if todo.steps else ():
        wanted = [item for item in _wanted(target, todo, source) if item.id not in found]
        for item, answer in source.offers(wanted):
            if isinstance(answer, IntegrityError):
                _not_taken(session, item.name, source, answer)
            elif isinstance(answer, ReproboxError):
                session.reporter.say(f"warning: {source.name} is not used: {answer.message}")
                break
            elif answer is not None:
                found[item.id] = _Offered(source, answer)
    return found


def _wanted(target: LockedTarget, todo: Plan, source: LayerSource) -> list[Wanted]:
    """The layers that may be had from there: those that the seal names, unless the source's word counts."""
    sealed = target.seal.layers if target.seal else {}
    return [
        Wanted(id=step.layer.id, name=step.layer.name, diff_id=bare(sealed.get(step.layer.name, "")))
        for step in todo.steps
        if (source.trust == PUSHERS or step.layer.name in sealed) and step.layer.kind not in _MORE_THAN_FILES
    ]


def _not_taken(session: Session, name: str, source: LayerSource, error: ReproboxError) -> None:
    session.reporter.say(
        f"warning: layer {name!r} is not taken from {source.name}: {error.message}; it is built instead"
    )


def _check_allowed(session: Session, todo: Plan) -> None:
    """What no step can go without, before the first one: its secrets, and the network where it uses it."""
    for step in todo.steps:
        if session.offline and uses_network(step.layer):
            raise OfflineError(
                f"layer {step.layer.name!r} uses the network while it is built, and it is not in the store",
                hint="realize it once without --offline, or bring a store that has it",
            )
    secrets_for(session, [step.layer for step in todo.steps])


class _Arrivals:
    """The fetching thread. ``wait`` returns when a layer's inputs are in the store, or it needs none of them, or raises
    what went wrong.
    """

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
        while name in self._done and not self._done[name].wait(LOOKS_UP):
            pass
        if self._error is not None:
            raise self._error


class _Builder(NamedTuple):
    """What builds one step of a target."""

    session: Session
    target: LockedTarget
    epoch: int
    arrivals: _Arrivals
    early: Early

    def take(self, step: Step, offer: _Offered) -> bool:
        return _took(self.session, step, offer, self.epoch)

    def build(self, step: Step, place: tuple[int, int], *, offered: bool) -> None:
        """Build a step; one that was ``offered``, and could not be taken, has inputs that nobody waits for."""
        if offered:
            self.session.fetch(step.layer.inputs)
        else:
            self.arrivals.wait(step.layer.id)
        ahead = functools.partial(self.early.result, step.layer.id)
        platform = self.target.platform
        try:
            build_layer(self.session, step.layer, step.below, platform, self.epoch, place=place, ahead=ahead)
        finally:
            self.early.let_go(step.layer.id)


def _run_steps(todo: Plan, offers: Mapping[str, _Offered], builder: _Builder) -> None:
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

    def carry_out(step: Step, offer: _Offered | None, place: tuple[int, int]) -> None:
        done = True
        try:
            if offer is not None:
                done = builder.take(step, offer)
            else:
                builder.build(step, place, offered=step.layer.id in offers)
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
        builder.early.begin([step for step in waiting.values() if step.layer.name not in offered])
        step, done, error = taken(outcomes)
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


def _took(session: Session, step: Step, offered: _Offered, epoch: int) -> bool:
    """Publish a layer as its source has it; False, and told, where that is not possible."""
    try:
        take_layer(session, offered.source, step.layer, step.below, offered.offer, epoch)
    except (FetchError, IntegrityError) as error:
        _not_taken(session, step.layer.name, offered.source, error)
        return False
    return True


def take_layer(
    session: Session,
    source: LayerSource,
    layer: LockedLayer,
    below: Sequence[LockedLayer],
    offer: Offer,
    epoch: int,
    *,
    patient: bool = False,
) -> None:
    """Publish a layer as its source has it. Raises :class:`FetchError` and :class:`IntegrityError`."""
    with session.store.working_on(f"layer-{layer.id}"):
        if session.store.layer(layer.id) is not None:
            return
        started = time.monotonic()
        progress = session.reporter.moving(f"taking {layer.name} from {source.name}")
        progress.start(offer.blob.size, 1)
        try:
            with session.store.scratch() as stage:
                watch = _Impatient(progress, 0 if patient else offer.blob.size)
                record = source.take(session.store, offer, stage / "layer", epoch, watch)
                seconds = round(time.monotonic() - started, 3)
                publish(session, layer, below, epoch, stage / "layer", {**record, "seconds": seconds})
        finally:
            progress.stop()
