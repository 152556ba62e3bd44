"""From a verification to the words that are signed: only what was built again as a whole, and is what the seal says."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from datetime import UTC, datetime

from reprobox import __version__
from reprobox.attestation.dependencies import dependencies, inputs_of
from reprobox.attestation.statement import Outcome, Statement
from reprobox.digest import bare, prefixed, sha256
from reprobox.errors import IntegrityError, LockError, UsageError
from reprobox.lock import Lock, LockedTarget, Seal
from reprobox.project import Project
from reprobox.session import this_platform
from reprobox.verify.result import Rebuilt, Verification, VerifiedTarget


def check_sealed(targets: Iterable[LockedTarget], where: str) -> None:
    """Raise :class:`LockError` for a target without a seal: said before anything is built."""
    for target in targets:
        if target.seal is None and target.platform == this_platform():
            raise LockError(
                f"target {target.name!r} is not sealed, and people vouch for what a seal says",
                where=where,
                hint="`reprobox lock --seal` builds and seals it",
            )


def statement_of(found: Verification, project: Project, lock: Lock) -> Statement:
    """What its maker may say after this verification.

    Targets for other machines, which were not built again, are not vouched for. Raises :class:`UsageError` where none
    was built as a whole, :class:`IntegrityError` where a result is not the sealed one.
    """
    data = project.lock_path.read_bytes()
    if not found.ok or prefixed(sha256(data)) != found.lock:
        what = "the verification failed" if not found.ok else "the lock changed while it was verified"
        raise IntegrityError(f"{what}: nobody can vouch for it", where=str(project.lock_path), hint="verify it again")
    outcomes = tuple(_outcome(target, lock.targets[target.name].seal) for target in found.targets if target.rebuilt)
    if not outcomes:
        raise UsageError("nothing was built again, and so there is nothing to vouch for", where=str(project.lock_path))
    return Statement(
        lock=sha256(data),
        manifest=sha256(project.manifest_path.read_bytes()),
        outcomes=outcomes,
        inputs=len(inputs_of(lock)),
        finished=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        versions={"reprobox": __version__, "python": platform.python_version()},
        dependencies=dependencies(lock),
        host={"platform": this_platform(), "kernel": platform.release()},
    )


def _outcome(target: VerifiedTarget, seal: Seal | None) -> Outcome:
    assert seal is not None  # for check_sealed
    for build in target.rebuilt:
        if build.image_digest and not _is_sealed(build, seal):
            message = f"what {build.name} built is not what is sealed"
            raise IntegrityError(message, where=f"target {target.name!r}", hint="verify it again")
    builders = dict.fromkeys(build.builder for build in target.rebuilt if build.image_digest)
    if not builders:
        hint = "leave out --layer: a seal is of all layers together"
        raise UsageError("only some layers were built again", where=f"target {target.name!r}", hint=hint)
    return Outcome(
        target=target.name,
        platform=target.platform,
        builders=tuple(builders),
        image=bare(seal.image_digest),
        tree=bare(seal.tree_digest),
        layers={name: bare(digest) for name, digest in seal.layers.items()},
    )


def _is_sealed(build: Rebuilt, seal: Seal) -> bool:
    layers = all(build.layers.get(name) == digest for name, digest in seal.layers.items())
    return layers and (build.image_digest, build.tree_digest) == (seal.image_digest, seal.tree_digest)
