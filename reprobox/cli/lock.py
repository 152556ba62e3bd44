"""``reprobox lock``"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from reprobox.cli.changes import brief
from reprobox.cli.options import add_builder_option, add_mount_option, add_network_options, mounts_given
from reprobox.cli.report import human
from reprobox.cli.session import open_session
from reprobox.errors import LockError
from reprobox.freshness import ensure_fresh
from reprobox.lock import Lock, LockedMount
from reprobox.lock_diff import diff
from reprobox.lock_text import lock_digest
from reprobox.locked_data import check_data
from reprobox.manifest import Manifest
from reprobox.pins import upgrade_of
from reprobox.project import Project
from reprobox.realize import Wish, realize
from reprobox.resolve import resolve
from reprobox.session import Session, this_platform
from reprobox.tables import EMPTY

DETAILS = """\
A plain `lock` keeps every pin that still satisfies the manifest, so that it can be run at any time.

examples:
  reprobox lock                 make or mend research.lock
  reprobox lock --check         say what changed, and exit 3 if anything did
  reprobox lock --upgrade       take the newest versions of everything
  reprobox lock --target gpu    lock this target alone, of several
  reprobox lock --upgrade-package numpy    move this one, and nothing else that need not
  reprobox lock --seal          build it, and record the digests that every later build must reproduce"""
_KEEP = "restore the lock that was there, or let every version move with `reprobox lock --upgrade`"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--check", action="store_true", help="only say whether the lock is of this manifest")
    parser.add_argument("--upgrade", action="store_true", help="move all pins to the newest that satisfy the manifest")
    parser.add_argument("--seal", action="store_true", help="build, and record the output digests in the lock")
    parser.add_argument(
        "--upgrade-package",
        action="append",
        default=[],
        metavar="[LAYER:]NAME",
        help="move this package, and what it needs to move with it; may be repeated",
    )
    parser.add_argument(
        "--target", metavar="NAME", action="append", help="only this target; the others stay as they are locked"
    )
    add_mount_option(parser)
    add_network_options(parser)
    add_builder_option(parser)


def execute(options: argparse.Namespace) -> int:
    session, project = open_session(options)
    manifest = project.manifest(session.plugins.kinds)
    wanted = [next(iter(manifest.select(name).targets)) for name in options.target or ()]
    if options.check:
        lock = project.lock(session.store)
        for name in wanted or (None,):
            ensure_fresh(session, manifest, lock, str(project.lock_path), name)
        check_data(session, manifest, lock, mounts_given(options.mount), needed=False)
        _tell(options, project.lock(session.store), changed=False)
        return 0
    lock, changed = relock(
        session,
        project,
        manifest,
        packages=options.upgrade_package,
        everything=options.upgrade,
        only=wanted,
        mounts=mounts_given(options.mount),
    )
    if options.seal:
        for name in _sealable(session, lock, wanted):
            lock = realize(session, project, manifest, lock, Wish(target=name, seal=True)).lock
        changed = project.write_lock(lock) or changed
    _tell(options, lock, changed=changed)
    return 0


def relock(
    session: Session,
    project: Project,
    manifest: Manifest,
    *,
    packages: Sequence[str] = (),
    everything: bool = False,
    only: Sequence[str] = (),
    mounts: Mapping[str, str] = EMPTY,
) -> tuple[Lock, bool]:
    """Lock ``manifest``, keeping the pins of the lock that is there but for ``packages``, and tell what moved.

    Returns the lock, and whether another one was written.
    """
    try:
        previous = project.lock_or_none(session.store)
    except LockError as error:
        if not everything:
            raise LockError(error.message, where=error.where, hint=_KEEP) from None
        session.reporter.say(f"the old lock is not used: {error.message}")
        previous = None
    upgrade = replace(upgrade_of(packages, previous), everything=everything)
    lock = resolve(session, manifest, previous, upgrade=upgrade, only=only, mounts=mounts)
    changed = project.write_lock(lock)
    if previous is not None and changed:
        for line in brief(diff(previous, lock)):
            session.reporter.say(line)
    return lock, changed


def _sealable(session: Session, lock: Lock, wanted: Sequence[str]) -> Sequence[str]:
    """The targets to be sealed: those asked for, else all that this machine can build. Their inputs come in one go."""
    here = [name for name, target in lock.targets.items() if target.platform == this_platform()]
    chosen = wanted or here or list(lock.targets)
    for name in () if wanted or not here else lock.targets.keys() - set(here):
        session.reporter.say(f"{name}: not sealed: it is for {lock.targets[name].platform}, and is built there")
    if len(chosen) > 1:
        layers = [layer for name in chosen for layer in lock.targets[name].layers]
        inputs = {item.sha256: item for layer in layers if not session.store.layer(layer.id) for item in layer.inputs}
        session.fetch(list(inputs.values()))
    return chosen


def _tell(options: argparse.Namespace, lock: Lock, *, changed: bool) -> None:
    document, lines = summary(lock, changed=changed)
    if options.json:
        print(json.dumps(document))
        return
    print(lines[0])
    for name, target in lock.targets.items() if options.seal else ():
        if target.seal is not None:
            print(f"sealed {name}: tree {target.seal.tree_digest}, image {target.seal.image_digest}")
    for line in lines[1:]:
        print(line)


def summary(lock: Lock, *, changed: bool) -> tuple[dict[str, Any], list[str]]:
    """What is told of a lock: as JSON, and in words."""
    locked = [layer for target in lock.targets.values() for layer in target.layers]
    locked += [*([lock.checkout] if lock.checkout else []), *lock.downloads.values()]
    inputs = {item.sha256: item for layer in locked for item in layer.inputs}
    layers = len({layer.id for target in lock.targets.values() for layer in target.layers})
    size = sum(item.size for item in inputs.values())
    unpinned = list(dict.fromkeys(name for target in lock.targets.values() for name in target.unpinned()))
    document = {
        "lock": f"sha256:{lock_digest(lock)}",
        "changed": changed,
        "targets": sorted(lock.targets),
        "layers": layers,
        "inputs": len(inputs),
        "size": size,
        "epoch": lock.epoch,
        "sealed": all(target.seal is not None for target in lock.targets.values()),
        "unpinned": unpinned,
        "mounts": {path: _mount(mount) for path, mount in lock.mounts.items()},
        "left": list(dict.fromkeys(_left(lock))),
    }
    state = "wrote research.lock" if changed else "research.lock is up to date"
    targets = f"{len(lock.targets)} targets, " if len(lock.targets) > 1 else ""
    lines = [f"{state}: {targets}{layers} layers, {len(inputs)} inputs, {human(size)}"]
    lines += [
        f"data {path}: {mount.files} file{'s' if mount.files != 1 else ''}, {human(mount.size)}"
        for path, mount in lock.mounts.items()
    ]
    lines += [
        f"not pinned: layer {name!r} uses the network; `reprobox lock --seal` pins what it makes" for name in unpinned
    ]
    lines += [f"not taken from the base: {text}" for text in dict.fromkeys(_left(lock))]
    return document, lines


def _left(lock: Lock) -> Iterator[str]:
    """What the bases say that no image can say, and so was not taken over."""
    for target in lock.targets.values():
        left = target.base.facts.get("left", ())
        yield from map(str, left if isinstance(left, Sequence) else ())


def _mount(mount: LockedMount) -> dict[str, object]:
    return {"tree": f"sha256:{mount.tree}", "files": mount.files, "size": mount.size}
