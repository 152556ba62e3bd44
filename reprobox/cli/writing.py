"""``reprobox shell --writable``: a shell in a copy that may be changed."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reprobox import host_network, launch, writable
from reprobox.backend import Backend, Bind
from reprobox.cli.options import mounts_given
from reprobox.cli.session import open_session
from reprobox.errors import UsageError
from reprobox.freshness import ensure_fresh
from reprobox.lock_text import lock_digest
from reprobox.project import Project
from reprobox.realize import Wish, realize
from reprobox.session import Session, available, staged
from reprobox.writable import Copy

_REFUSED = {"memory": 0, "cpus": 0, "gpus": None, "isolate": False, "network": "host", "failed": None}


def write(options: argparse.Namespace) -> int:
    """Open a shell in the copy, or take the copy away."""
    for name, value in _REFUSED.items():
        if getattr(options, name) != value:
            raise UsageError(f"--{name} does not go with --writable", hint="leave it out: a copy is for trying things")
    session, project = open_session(options)
    manifest = project.manifest(session.plugins.kinds)
    target = next(iter(manifest.select(options.target).targets))
    place = writable.place_of(session.store, project.root, target, options.backend)
    if options.discard:
        return _discard(session, place, options.backend)
    lock = project.lock(session.store)
    copy = writable.find(place)
    if copy is None:
        ensure_fresh(session, manifest, lock, str(project.lock_path), target)
    backend = available(session.plugins.backend(options.backend), session.store)
    with writable.in_use(place):
        realized = realize(session, project, manifest, lock, Wish(target=target, backend=options.backend))
        if copy is None:
            copy = writable.begin(session.store, place, realized)
            _say(session, f"a writable copy of {target}: you are root in it, and what you change is kept in it alone")
            if writable.lacks_lists(copy.parents()):
                _say(session, "apt knows no packages yet: `apt-get update` comes first")
        else:
            _say(session, f"the writable copy of {target}, as you left it")
        if copy.lock != lock_digest(lock):
            _say(
                session, "warning: research.lock has moved since the copy was begun; the copy stands on the old layers"
            )
        status = _shell(session, backend, copy, realized.record, options)
    _say(session, _after(options, target))
    return status


def _say(session: Session, text: str) -> None:
    session.reporter.say(text)


def _after(options: argparse.Namespace, target: str) -> str:
    given = f" --target {target}" if options.target else ""
    given += f" --backend {options.backend}" if options.backend != launch.default_backend() else ""
    return (
        f"the copy is kept; no run and no image has what you changed. `reprobox freeze{given} --dry-run` says what it"
        f" was,\n`reprobox freeze{given}` makes layers of it, `reprobox shell --writable --discard{given}` drops it"
    )


def _discard(session: Session, place: Path, backend: str) -> int:
    there = (place / "copy.json").exists()
    writable.discard(session.store, place, staged(session.plugins.backend(backend), session.store))
    _say(session, "the writable copy is gone" if there else "there was no writable copy")
    return 0


def _shell(
    session: Session, backend: Backend, copy: Copy, record: Mapping[str, Any], options: argparse.Namespace
) -> int:
    wanted = launch.binds(record, mounts_given(options.mount))
    launch.prepare(wanted, record["mounts"])
    mounts = [Bind(source=Path(bind["source"]), target=bind["target"], writable=bind["writable"]) for bind in wanted]
    with tempfile.TemporaryDirectory(prefix="reprobox-shell-") as folder:
        Path(folder).chmod(0o755)
        settings = surroundings(session, copy, record, Path(folder), mounts)
        close = getattr(options.reporter, "close", None)
        if close is not None:
            close()
        return writable.edit(backend, copy, record["shell"], settings)


def surroundings(
    session: Session, copy: Copy, record: Mapping[str, Any], folder: Path, mounts: Sequence[Bind]
) -> dict[str, Any]:
    """Environment, binds and working directory: the manifest's, and what apt and pip need of the machine."""
    apt, apt_binds = writable.apt_settings(folder, copy)
    pip, pip_binds = writable.pip_settings(session.config.index, os.environ)
    mine = {name: os.environ[name] for name in ("TERM", "COLORTERM") if name in os.environ}
    environment = {
        "PATH": launch.DEFAULT_PATH,
        **record["environment"],
        **mine,
        **host_network.environment(),
        **apt,
        **pip,
        "HOME": "/root",
        "USER": "root",
        "LOGNAME": "root",
        "PIP_BREAK_SYSTEM_PACKAGES": "1",
        "PIP_ROOT_USER_ACTION": "ignore",
        "PIP_NO_CACHE_DIR": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "SOURCE_DATE_EPOCH": str(copy.epoch),
    }
    return {
        "environment": environment,
        "binds": (*mounts, *host_network.binds(), *apt_binds, *pip_binds),
        "workdir": record["workdir"],
    }


def project_copy(session: Session, project: Project, target: str, backend: str) -> Copy:
    """The copy of a project's target. Raises :class:`UsageError` where there is none."""
    copy = writable.find(writable.place_of(session.store, project.root, target, backend))
    if copy is None:
        raise UsageError(
            f"there is no writable copy of {target} with the backend {backend}",
            where=str(project.root),
            hint="make one with `reprobox shell --writable`",
        )
    return copy
