"""A project's layers and the remote: what is pushed there, and what is taken from there without building anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from reprobox.crew import Crew, Errand, Silent
from reprobox.digest import bare
from reprobox.engine import take_layer
from reprobox.errors import FetchError, IntegrityError, ReproboxError, UsageError
from reprobox.lock import LockedLayer, LockedTarget, ancestors
from reprobox.oci.remote import PUSHERS, SEAL, Offer, Remote, Wanted, can_be_shared
from reprobox.plan import Plan
from reprobox.session import Session
from reprobox.store import StoredLayer

_AT_ONCE = 4

#: What became of a layer.
SENT, THERE, MISSING, IMAGE = "sent", "there", "missing", "image"
TAKEN, HERE = "taken", "here"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """A layer, what became of it, and its diff id (``sha256:``) where it is known."""

    layer: LockedLayer
    state: str
    diff_id: str = ""


def push(
    session: Session, remote: Remote, targets: Sequence[LockedTarget], *, replacing: bool = False
) -> list[Outcome]:
    """Have the layers of these targets that are in the store at the remote.

    A base that is an image is left out: it is to be had where it came from. Raises :class:`PushError`, and after
    all others were pushed :class:`IntegrityError` for those of which the remote has other bytes.
    """
    platforms = {layer.id: target.platform for target in targets for layer in target.layers}
    layers = list({layer.id: layer for target in targets for layer in target.layers}.values())
    stored = {layer.id: kept for layer in layers if (kept := session.store.layer(layer.id)) is not None}
    to_go = [kept for kept in stored.values() if can_be_shared(kept)]
    states, wrong = _given(session, remote, to_go, platforms, replacing=replacing)
    if wrong:
        raise _joined(wrong)
    return [
        Outcome(
            layer=layer,
            state=states.get(layer.id, IMAGE if layer.id in stored else MISSING),
            diff_id=f"sha256:{stored[layer.id].record['diff_id']}" if layer.id in stored else "",
        )
        for layer in layers
    ]


def _given(
    session: Session,
    remote: Remote,
    layers: Sequence[StoredLayer],
    platforms: Mapping[str, str],
    *,
    replacing: bool,
) -> tuple[dict[str, str], list[IntegrityError]]:
    states: dict[str, str] = {}
    wrong: list[IntegrityError] = []

    def give(layer: StoredLayer, errand: Errand) -> None:
        try:
            sent = remote.give(session.store, layer, platforms[layer.id], errand, replacing=replacing)
        except IntegrityError as error:
            wrong.append(error)
        else:
            states[layer.id] = SENT if sent else THERE
        errand.done(str(layer.record["name"]))

    progress = session.reporter.moving(f"pushing to {remote.name}")
    progress.start(0, len(layers))
    try:
        Crew().work([partial(give, layer) for layer in layers], progress, _AT_ONCE)
    finally:
        progress.stop()
    return states, wrong


def hand_on(session: Session, target: LockedTarget, done: Plan, *, sealing: bool) -> None:
    """Push what was built, if the settings say so. Whatever goes wrong is told, and stops nothing."""
    remote = session.remote
    if remote is None or session.offline:
        return
    built = [step.layer for step in done.steps]
    stored = [kept for layer in built if (kept := session.store.layer(layer.id)) is not None]
    own = [kept for kept in stored if "remote" not in kept.record and can_be_shared(kept)]
    if own and remote.trust == SEAL and target.seal is None and not (sealing or remote.pushes):
        session.reporter.say(_not_asked(remote))
    if not own or not remote.pushes:
        return
    try:
        states, wrong = _given(
            session, remote, own, dict.fromkeys((kept.id for kept in own), target.platform), replacing=False
        )
    except ReproboxError as error:
        session.reporter.say(f"warning: nothing is pushed to {remote.name}: {error.message}")
        return
    for mistake in wrong:
        session.reporter.say(f"warning: {mistake.where} is not pushed: {mistake.message}")
    session.reporter.say(f"pushed {len(states)} layers to {remote.name}")


def _not_asked(remote: Remote) -> str:
    return f"{remote.name} was not asked: no seal vouches for what it has (`reprobox lock --seal` makes one)"


# -- taking ------------------------------------------------------------------------------------------------------------


def pull(session: Session, remote: Remote, targets: Mapping[str, LockedTarget], epoch: int) -> list[Outcome]:
    """Take what the remote has of these targets' layers into the store; nothing is built.

    Raises :class:`UsageError` where no seal vouches for any layer and the remote alone is not trusted; after all others
    were taken, :class:`IntegrityError` for layers that are damaged, lost or exchanged there.
    """
    missing: dict[str, tuple[LockedTarget, LockedLayer, Wanted]] = {}
    unsealed: list[str] = []
    for target in targets.values():
        for layer, wanted in _wanted(session, remote, target):
            if wanted is None:
                unsealed.append(layer.name)
            else:
                missing.setdefault(layer.id, (target, layer, wanted))
    if unsealed and not missing:
        raise _unsealed(remote, unsealed)
    return _outcomes(session, targets, _taken(session, remote, missing, epoch))


def offered(session: Session, remote: Remote, target: LockedTarget) -> dict[str, Offer]:
    """What may be taken from the remote instead of being built, by layer id; what is wrong there is told.

    Raises :class:`FetchError` without an answer.
    """
    missing = list(_wanted(session, remote, target))
    wanted = [item for _, item in missing if item is not None]
    if missing and not wanted:
        session.reporter.say(_not_asked(remote))
    offers, wrong = _asked(remote, wanted)
    for mistake in wrong:
        session.reporter.say(f"warning: {mistake.where}: {mistake.message}")
    return offers


def _wanted(session: Session, remote: Remote, target: LockedTarget) -> Iterator[tuple[LockedLayer, Wanted | None]]:
    """The layers that are not in the store, each with what is wanted; None where nothing vouches for what is there."""
    sealed = target.seal.layers if target.seal else {}
    for layer in target.layers:
        if session.store.layer(layer.id) is None:
            vouched = layer.name in sealed or remote.trust == PUSHERS
            diff_id = bare(sealed.get(layer.name, ""))
            yield layer, Wanted(id=layer.id, name=layer.name, diff_id=diff_id) if vouched else None


def _asked(remote: Remote, wanted: Sequence[Wanted]) -> tuple[dict[str, Offer], list[IntegrityError]]:
    """What it has, by layer id, and what it has that is something else. Raises :class:`FetchError`."""
    offers, wrong = {}, []
    for item, answer in remote.offers(wanted):
        if isinstance(answer, IntegrityError):
            wrong.append(_of(remote, item.name, answer))
        elif isinstance(answer, ReproboxError):
            raise FetchError(answer.message, where=remote.name, hint=answer.hint)
        elif answer is not None:
            offers[item.id] = answer
    return offers, wrong


def _taken(
    session: Session, remote: Remote, missing: Mapping[str, tuple[LockedTarget, LockedLayer, Wanted]], epoch: int
) -> set[str]:
    offers, wrong = _asked(remote, [wanted for _, _, wanted in missing.values()])
    taken = set()

    def take(identity: str, _: Errand) -> None:
        target, layer, _wanted = missing[identity]
        try:
            below = ancestors(target.layers, layer.name)
            take_layer(session, remote, layer, below, offers[identity], epoch, patient=True)
        except IntegrityError as error:
            wrong.append(_of(remote, layer.name, error))
        else:
            taken.add(identity)

    Crew().work([partial(take, identity) for identity in offers], Silent(), _AT_ONCE)
    if wrong:
        raise _joined(wrong)
    return taken


def _outcomes(session: Session, targets: Mapping[str, LockedTarget], taken: set[str]) -> list[Outcome]:
    layers = {layer.id: layer for target in targets.values() for layer in target.layers}
    found = []
    for layer in layers.values():
        stored = session.store.layer(layer.id)
        absent = IMAGE if "config" in layer.facts else MISSING  # a base that is an image is locked with its config
        state = TAKEN if layer.id in taken else HERE if stored else absent
        found.append(Outcome(layer=layer, state=state, diff_id=f"sha256:{stored.record['diff_id']}" if stored else ""))
    return found


def _unsealed(remote: Remote, names: Sequence[str]) -> UsageError:
    listed = ", ".join(dict.fromkeys(names))
    return UsageError(
        f"no seal vouches for {listed}: a layer id says how a layer is built, and proves nothing about the bytes that"
        " somebody pushed under it",
        where=remote.name,
        hint="seal the lock where it is built (`reprobox lock --seal`), or take them on the word of whoever may push"
        " there: --trust pushers",
    )


def _of(remote: Remote, name: str, error: IntegrityError) -> IntegrityError:
    return IntegrityError(
        error.message,
        where=f"layer {name!r} at {remote.name}",
        hint=error.hint or "build it here (`reprobox realize`), and replace it there: `reprobox cache push --replace`",
    )


def _joined(errors: Sequence[IntegrityError]) -> IntegrityError:
    first = errors[0]
    if len(errors) == 1:
        return first
    rest = "".join(f"\n{error.where}: {error.message}" for error in errors[1:])
    return IntegrityError(f"{first.message}{rest}", where=first.where, hint=first.hint)
