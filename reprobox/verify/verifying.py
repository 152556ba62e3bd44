"""The whole verification, as one value."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from reprobox.digest import Entry, bare, prefixed, read_index
from reprobox.lock import LockedTarget
from reprobox.lock_text import lock_digest
from reprobox.session import available, other_machine, this_platform
from reprobox.verify.checks import Outcome, Subject, environment_here, look, stored_here
from reprobox.verify.content import Shown
from reprobox.verify.divergence import NOWHERE, Party, first
from reprobox.verify.rebuild import Build, fetch_inputs, narrowed, rebuilt
from reprobox.verify.result import MISMATCH, Check, Divergence, Finding, Rebuilt, Verification, VerifiedTarget


@dataclass(frozen=True, kw_only=True, slots=True)
class Again:
    """A wish to build again: by whom, how many times each (0: as often as there must be two to compare), which layers
    (all, if none are named)."""

    builders: tuple[str, ...]
    times: int = 0
    layers: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Compared:
    """What building one target again has shown."""

    check: Check
    rebuilt: tuple[Rebuilt, ...] = ()
    divergences: tuple[Divergence, ...] = ()
    findings: tuple[Finding, ...] = ()


def verify(
    subject: Subject, again: Again | None = None, *, tell: Callable[[Check], None] = lambda _: None
) -> Verification:
    """Look at everything that is here, and build it again if that is wished.

    ``tell`` is called with each check as soon as it is done.
    """
    if again is not None:
        _check_possible(subject, again)
    outcomes: list[Outcome] = []
    for outcome in look(subject):
        tell(outcome.check)
        outcomes.append(outcome)
    found = tuple(finding for outcome in outcomes for finding in outcome.findings)
    compared: dict[str, _Compared] = {}
    for target in subject.targets if again is not None else ():
        assert again is not None
        compared[target.name] = _again(subject, target, again, found)
        tell(compared[target.name].check)
    lock, project = subject.lock, subject.manifest.project
    return Verification(
        project=project.name,
        version=project.version or "",
        lock=prefixed(lock_digest(lock)),
        manifest=prefixed(lock.manifest),
        code=lock.code,
        epoch=lock.epoch,
        targets=tuple(_target(subject, target, compared.get(target.name)) for target in subject.targets),
        checks=(*(outcome.check for outcome in outcomes), *(each.check for each in compared.values())),
        findings=(*found, *(finding for each in compared.values() for finding in each.findings)),
        divergences=tuple(divergence for each in compared.values() for divergence in each.divergences),
    )


def _target(subject: Subject, target: LockedTarget, compared: _Compared | None) -> VerifiedTarget:
    """What the target's digests are: here, as built again, or as sealed."""
    environment, seal = environment_here(subject, target), target.seal
    builds = compared.rebuilt if compared else ()
    whole = next((build for build in builds if build.image_digest), None)
    if environment is not None:
        tree, image = prefixed(environment.tree_digest), prefixed(environment.image_digest)
        layers = environment.diff_ids()
    elif whole is not None:
        tree, image, layers = whole.tree_digest, whole.image_digest, dict(whole.layers)
    else:
        tree, image = (seal.tree_digest, seal.image_digest) if seal else ("", "")
        layers = dict(seal.layers) if seal else {}
    return VerifiedTarget(
        name=target.name,
        platform=target.platform,
        tree_digest=tree,
        image_digest=image,
        layers=layers,
        sealed=seal is not None,
        rebuilt=builds,
    )


# -- building again ----------------------------------------------------------------------------------------------------


def _check_possible(subject: Subject, again: Again) -> None:
    """What would stop a rebuild, before everything is read: a builder or a layer that is not there, another machine."""
    for builder in again.builders:
        available(subject.session.plugins.backend(builder), subject.session.store)
    for target in subject.targets:
        narrowed(target, again.layers)
    if subject.targets and not any(target.platform == this_platform() for target in subject.targets):
        raise other_machine(f"target {subject.targets[0].name!r}", subject.targets[0].platform)


def _again(subject: Subject, target: LockedTarget, again: Again, found: Sequence[Finding]) -> _Compared:
    name = "rebuild" if len(subject.manifest.targets) == 1 else f"rebuild {target.name}"
    reason = _not_now(target, found)
    if reason:
        return _Compared(check=Check(name=name, ok=None, said=f"not done: {reason}"))
    whole = target
    target = narrowed(target, again.layers)
    said = _said_already(subject, target, found)
    times = again.times or (1 if len(again.builders) > 1 or _said_all(target, said) else 2)
    with contextlib.ExitStack() as stack:
        fetch_inputs(subject.session, target)
        builds = [
            stack.enter_context(_build(subject, target, builder, number))
            for number in range(1, times + 1)
            for builder in again.builders
        ]
        shown = Shown(stack.enter_context(subject.session.store.scratch()))
        divergences = first(target, [*said, *map(_party, builds)], shown)
        if divergences and times == 1 and any(item.said == NOWHERE for item in divergences):
            # The other bytes were never on this machine. A step that is not deterministic differs from itself, too.
            once_more = narrowed(target, (divergences[0].layer,))
            more = stack.enter_context(_build(subject, once_more, again.builders[0], 2))
            divergences = _explained(once_more, said, [*builds, more], shown)
        findings = () if divergences else _wholes(name, whole, builds)
    told = tuple(build.told for build in builds)
    return _Compared(
        check=_check(name, told, said, ok=not (divergences or findings)),
        rebuilt=told,
        divergences=divergences,
        findings=findings,
    )


def _not_now(target: LockedTarget, found: Sequence[Finding]) -> str:
    """Why a target cannot be built again; empty if it can."""
    if target.platform != this_platform():
        return f"it is for {target.platform}"
    if any(finding.check == "manifest" for finding in found):
        return "the lock is stale"
    if any(finding.check == "inputs" for finding in found):
        return "some of its inputs are damaged"
    return ""


def _build(
    subject: Subject, target: LockedTarget, builder: str, number: int
) -> contextlib.AbstractContextManager[Build]:
    name = builder if number == 1 else f"{builder} ({number})"
    selected = subject.manifest.select(target.name)
    return rebuilt(subject.session, selected, target, subject.lock.epoch, builder=builder, name=name)


def _said_already(subject: Subject, target: LockedTarget, found: Sequence[Finding]) -> list[Party]:
    """Who says what the layers are before anything is built again: the seal, and what is in the store and whole."""
    damaged = {finding.where for finding in found if finding.check == "layers"}
    here = {layer.name: stored for layer in target.layers if (stored := stored_here(subject, layer)) is not None}
    here = {name: stored for name, stored in here.items() if str(stored.tree.parent) not in damaged}

    def remembered(digest: str) -> list[Entry] | None:
        path = subject.session.store.memo("indexes", bare(digest))
        try:
            return read_index(path.read_bytes())
        except (OSError, ValueError):
            return None

    parties = []
    if target.seal is not None:
        names = {layer.name for layer in target.layers}
        sealed = {name: digest for name, digest in target.seal.layers.items() if name in names}
        parties.append(Party(name="the seal", digests=sealed, remembered=remembered))
    if here:
        digests = {name: prefixed(stored.record["diff_id"]) for name, stored in here.items()}
        parties.append(Party(name="the store", digests=digests, stored=here))
    return parties


def _said_all(target: LockedTarget, parties: Collection[Party]) -> bool:
    """Whether somebody says of every layer what it is."""
    return all(any(layer.name in party.digests for party in parties) for layer in target.layers)


def _party(build: Build) -> Party:
    return Party(name=build.told.name, digests=build.told.layers, stored=build.stored)


def _explained(
    target: LockedTarget, said: Sequence[Party], builds: Sequence[Build], shown: Shown
) -> tuple[Divergence, ...]:
    """The divergences after a second build: of the builder from itself if it has any, else with what that means."""
    itself = first(target, [_party(build) for build in builds], shown)
    if itself:
        return itself
    same = (
        f"the sealed bytes are nowhere here; {builds[0].told.name} makes the same ones each time, so they were made"
        " of something else: by another version of reprobox, or on a machine that a step looked at"
    )
    found = first(target, [*said, *map(_party, builds)], shown)
    return tuple(replace(item, said=same) if item.said == NOWHERE else item for item in found)


def _wholes(name: str, target: LockedTarget, builds: Sequence[Build]) -> tuple[Finding, ...]:
    """Digests of the whole that differ although all layers are the same."""
    if target.seal is None:
        return ()
    wanted = {"tree digest": target.seal.tree_digest, "image digest": target.seal.image_digest}
    return tuple(
        Finding(
            check=name,
            where=f"target {target.name!r}",
            message=f"{build.told.name}: the {what} is {digest}, and sealed was {wanted[what]}",
            hint="the layers are the same: seal what the manifest says of the image with `reprobox lock --seal`",
            status=MISMATCH,
        )
        for build in builds
        for what, digest in (("tree digest", build.told.tree_digest), ("image digest", build.told.image_digest))
        if digest and digest != wanted[what]
    )


def _check(name: str, builds: Sequence[Rebuilt], said: Sequence[Party], *, ok: bool) -> Check:
    took = ", ".join(f"{build.name} in {build.seconds:.1f} s" for build in builds)
    others = [party.name for party in said] + (["one another"] if len(builds) > 1 else [])
    verdict = f"the same as {' and '.join(others)}" if ok else "not the same"
    return Check(name=name, ok=ok, said=f"{took}: {verdict}")
