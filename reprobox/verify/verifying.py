"""The whole verification, as one value."""

from __future__ import annotations

from collections.abc import Callable

from reprobox.digest import prefixed
from reprobox.lock import LockedTarget
from reprobox.verify.checks import Outcome, Subject, environment_here, look
from reprobox.verify.result import Check, Verification, VerifiedTarget


def verify(subject: Subject, *, tell: Callable[[Check], None] = lambda _: None) -> Verification:
    """Look at everything that is here. ``tell`` is called with each check as soon as it is done."""
    outcomes: list[Outcome] = []
    for outcome in look(subject):
        tell(outcome.check)
        outcomes.append(outcome)
    lock, project = subject.lock, subject.manifest.project
    return Verification(
        project=project.name,
        version=project.version or "",
        lock=prefixed(lock.digest()),
        manifest=prefixed(lock.manifest),
        code=lock.code,
        epoch=lock.epoch,
        targets=tuple(_target(subject, target) for target in subject.targets),
        checks=tuple(outcome.check for outcome in outcomes),
        findings=tuple(finding for outcome in outcomes for finding in outcome.findings),
    )


def _target(subject: Subject, target: LockedTarget) -> VerifiedTarget:
    """What the target's digests are: here, or else as sealed."""
    environment, seal = environment_here(subject, target), target.seal
    if environment is not None:
        tree, image, layers = (
            prefixed(environment.tree_digest),
            prefixed(environment.image_digest),
            environment.diff_ids(),
        )
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
    )
