"""Keys and statements for a lock that is there: what a rebuild that agreed with the seal would say of it."""

from __future__ import annotations

from pathlib import Path

from reprobox.attestation.dependencies import dependencies
from reprobox.attestation.folder import vouch
from reprobox.attestation.keys import Keyring
from reprobox.attestation.statement import Outcome, Statement
from reprobox.digest import bare, sha256
from reprobox.lock import FILE_NAME, Lock
from reprobox.project import MANIFEST_NAME

FINISHED = "2026-11-22T13:30:00Z"


def statement_of(project: Path, lock: Lock, *, builders: tuple[str, ...] = ("sandbox", "docker")) -> Statement:
    """The statement about the project in this folder, whose sealed lock this is."""
    outcomes = tuple(
        Outcome(
            target=name,
            platform=target.platform,
            builders=builders,
            image=bare(target.seal.image_digest),
            tree=bare(target.seal.tree_digest),
            layers={layer: bare(digest) for layer, digest in target.seal.layers.items()},
        )
        for name, target in lock.targets.items()
        if target.seal
    )
    return Statement(
        lock=sha256((project / FILE_NAME).read_bytes()),
        manifest=sha256((project / MANIFEST_NAME).read_bytes()),
        outcomes=outcomes,
        inputs=sum(len(layer.inputs) for target in lock.targets.values() for layer in target.layers),
        finished=FINISHED,
        versions={"reprobox": "0.1.0"},
        dependencies=dependencies(lock),
        host={"platform": "linux/amd64", "kernel": "6.18"},
    )


def vouched(project: Path, lock: Lock, keyring: Keyring, name: str) -> Path:
    """An attestation by the own key ``name`` of ``keyring``, which is made if it is not there."""
    if name not in {key.name for key in keyring.own()}:
        keyring.make(name)
    return vouch(project, statement_of(project, lock), keyring.chosen(name), keyring.signer(name))
