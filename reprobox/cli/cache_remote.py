"""``reprobox cache push`` and ``reprobox cache pull``"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from reprobox.cli.session import open_session
from reprobox.errors import UsageError
from reprobox.freshness import ensure_fresh

if TYPE_CHECKING:
    from reprobox.lock import Lock, LockedTarget
    from reprobox.oci.remote import Remote
    from reprobox.session import Session
    from reprobox.sharing import Outcome


def push(options: argparse.Namespace) -> int:
    """Send what is in the store."""
    from reprobox import sharing

    session, _, targets = _opened(options)
    remote = _remote(options, session)
    outcomes = sharing.push(session, remote, list(targets.values()), replacing=options.replace)
    document = _document(remote, outcomes)
    if options.json:
        print(json.dumps(document))
        return 0
    states = [item.state for item in outcomes]
    known = states.count(sharing.SENT) + states.count(sharing.THERE)
    print(f"{remote.name} has {_number(known)} of this project ({states.count(sharing.SENT)} new)")
    _tell_images(outcomes, "others unpack it themselves")
    missing = [item.layer.name for item in outcomes if item.state == sharing.MISSING]
    if missing:
        print(f"not built here, and so not sent: {', '.join(missing)}; `reprobox realize` them first")
    if any(target.seal is None for target in targets.values()):
        print(
            "the lock has no seal: others take these layers only with `reprobox lock --seal`, or on the pushers' word"
        )
    return 0


def pull(options: argparse.Namespace) -> int:
    """Take what is there."""
    from reprobox import sharing

    session, lock, targets = _opened(options)
    remote = _remote(options, session)
    outcomes = sharing.pull(session, remote, targets, lock.epoch)
    if options.json:
        print(json.dumps(_document(remote, outcomes)))
        return 0
    states = [item.state for item in outcomes]
    missing = [item.layer.name for item in outcomes if item.state == sharing.MISSING]
    taken, here = states.count(sharing.TAKEN), states.count(sharing.HERE)
    print(f"took {_number(taken)} from {remote.name}; {here} {'was' if here == 1 else 'were'} in the store")
    _tell_images(outcomes, "`reprobox realize` unpacks it")
    if missing:
        print(f"not there: {', '.join(missing)}; `reprobox realize` builds them")
    return 0


def _tell_images(outcomes: list[Outcome], whose: str) -> None:
    from reprobox.sharing import IMAGE

    for item in outcomes:
        if item.state == IMAGE:
            print(f"{item.layer.name} is an image, and stays where it came from: {whose}")


def _opened(options: argparse.Namespace) -> tuple[Session, Lock, dict[str, LockedTarget]]:
    session, project = open_session(options)
    manifest, lock = project.manifest(session.plugins.kinds), project.lock(session.store)
    names = [next(iter(manifest.select(name).targets)) for name in options.target or ()]
    for name in names or (None,):
        ensure_fresh(session, manifest, lock, str(project.lock_path), name)
    return session, lock, {name: lock.targets[name] for name in names or lock.targets}


def _remote(options: argparse.Namespace, session: Session) -> Remote:
    from reprobox.oci.remote import open_remote

    said = session.config.remote
    name = options.remote or said.repository
    if not name:
        raise UsageError(
            "no remote is given, and the settings name none",
            hint=f"`reprobox cache {options.action} registry.example/group/layers`, or set `repository` in [remote] of"
            " the settings",
        )
    return open_remote(
        name,
        session.config.registries,
        where=options.remote or "remote.repository",
        trust=getattr(options, "trust", None) or said.trust,
    )


def _document(remote: Remote, outcomes: list[Outcome]) -> dict[str, Any]:
    return {
        "remote": remote.name,
        "layers": [
            {
                "name": item.layer.name,
                "kind": item.layer.kind,
                "id": f"sha256:{item.layer.id}",
                "diff_id": item.diff_id or None,
                "state": item.state,
            }
            for item in outcomes
        ],
    }


def _number(count: int) -> str:
    return f"{count} layer{'' if count == 1 else 's'}"
