"""``reprobox cache``"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from reprobox import config
from reprobox.cli.cache_remote import pull, push
from reprobox.cli.report import human
from reprobox.cli.session import open_session, open_store
from reprobox.errors import IntegrityError, UsageError
from reprobox.freshness import ensure_fresh
from reprobox.shared import is_shared, prepare, problem, share_blob, share_layer
from reprobox.store import Store
from reprobox.store_gc import DAY, KINDS, Item, Outcome, Wanted, collect, forget
from reprobox.store_verify import move_away, verify

DETAILS = """\
`gc` never takes what a running command uses, or the layers of a project whose research.lock is still where it was when
the project was realized. Inputs and layers that it takes are fetched and built again when they are needed.

examples:
  reprobox cache info
  reprobox cache gc                              what nobody needed for 30 days
  reprobox cache gc --older-than 7d --dry-run    say what would go
  reprobox cache gc --max-size 20GiB             the oldest, until the store is that small
  reprobox cache forget                          need nothing for this project any more
  reprobox cache verify --repair                 read every byte, and move away what is damaged
  reprobox cache share /groups/lab/reprobox      let others use what this project has
  reprobox cache push registry.example/group/layers    what this project has, for everybody
  reprobox cache pull                            what the remote of the settings has of this project
  REPROBOX_STORE=/scratch/me/store reprobox cache info"""

_UNITS = {"m": 60, "h": 3600, "d": DAY, "w": 7 * DAY}
_SIZES = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}
_SIZES["ti"] = 1 << 40


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    _action(actions, "info", "where it is, what it holds, and what gc would free")
    gc = _action(actions, "gc", "remove what nobody needs, least recently used first")
    gc.add_argument("--older-than", metavar="AGE", help="what was not used for this long, such as 30d, 12h, 0d")
    gc.add_argument("--max-size", metavar="SIZE", help="until the store holds no more than this, such as 20GiB, 500MB")
    gc.add_argument("--dry-run", action="store_true", help="only say what would go")
    gc.add_argument("--assume-idle", action="store_true", help="nobody uses the store: for file systems without locks")
    verify = _action(actions, "verify", "read every byte, and name what is damaged (exit 5)")
    verify.add_argument("--repair", action="store_true", help="move it away, so that it is fetched or built again")
    share = _action(
        actions, "share", "copy what this project has in the store to a shared store, which others may read"
    )
    share.add_argument("folder", metavar="DIR", type=Path, help="the shared store, made if it is not there")
    sending = _action(actions, "push", "send the layers that this project has in the store to the remote, a registry")
    _remote(sending)
    sending.add_argument("--replace", action="store_true", help="where the remote has other bytes for a layer")
    taking = _action(actions, "pull", "take the layers of this project that the remote has into the store")
    _remote(taking)
    taking.add_argument(
        "--trust", choices=config.TRUST, help="whose word counts for a layer's bytes: the lock's seal, or the pushers'"
    )
    _action(actions, "forget", "keep nothing for this project any more (or for -C DIR); the next gc may take it")


def _action(actions: Any, name: str, summary: str) -> argparse.ArgumentParser:
    action: argparse.ArgumentParser = actions.add_parser(
        name, help=summary, description=f"{summary[0].upper()}{summary[1:]}."
    )
    action.add_argument("-C", "--project", metavar="DIR", default=argparse.SUPPRESS, help="work in DIR")
    action.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print the result as JSON")
    action.add_argument("-q", "--quiet", action="store_true", default=argparse.SUPPRESS, help="no progress")
    return action


def _remote(action: argparse.ArgumentParser) -> None:
    action.add_argument("remote", nargs="?", metavar="REF", help="registry.example/group/layers, if not the settings'")
    action.add_argument("--target", metavar="NAME", action="append", help="only this target; may be repeated")


def execute(options: argparse.Namespace) -> int:
    ways: Mapping[str, Callable[[argparse.Namespace], int]] = {
        "info": _info,
        "gc": _gc,
        "verify": _verify,
        "share": _share,
        "forget": _forget,
        "push": push,
        "pull": pull,
    }
    return ways[options.action](options)


# -- info --------------------------------------------------------------------------------------------------------------


def _info(options: argparse.Namespace) -> int:
    settings = config.load()
    store = open_store(settings, options.reporter.say)
    free = collect(store, Wanted(dry_run=True))
    shared = [_shared(root) for root in settings.shared]
    document: dict[str, Any] = {
        "path": str(store.root),
        "size": sum(item.size for item in free.found),
        **_by_kind(free.found),
        "shared": is_shared(store.root),
        "shared_stores": shared,
        "needed": {"size": sum(item.size for item in free.needed), "projects": list(free.projects)},
        "gc": {"size": free.freed, "count": len(free.taken)},
    }
    if options.json:
        print(json.dumps(document))
        return 0
    print(f"store         {store.root}{' (shared)' if document['shared'] else ''}, {human(document['size'])}")
    _show_kinds(document)
    for item in shared:
        print(f"shared        {item['path']}: {item['problem'] or _counted(item)}")
    print(f"needed        {human(document['needed']['size'])} by {_number(free.projects, 'project')}")
    print(f"`cache gc`    would free {human(free.freed)}")
    return 0


def _shared(root: Path) -> dict[str, Any]:
    """What a shared store holds: counted, not measured, since it may be on a slow network."""
    found: dict[str, Any] = {"path": str(root), "problem": problem(root)}
    if not found["problem"]:
        found |= {
            name: sum(1 for _ in root.glob(pattern))
            for name, pattern in (("layers", "layers/*"), ("blobs", "blobs/*/*"))
        }
    return found


def _counted(found: Mapping[str, Any]) -> str:
    return f"{found['layers']} built layers, {found['blobs']} input files"


def _by_kind(items: Iterable[Item]) -> dict[str, dict[str, int]]:
    kinds = {kind: {"count": 0, "size": 0} for kind in KINDS}
    for item in items:
        kinds[item.kind]["count"] += 1
        kinds[item.kind]["size"] += item.size
    return kinds


def _show_kinds(document: Mapping[str, Any]) -> None:
    for kind, words in KINDS.items():
        found = document[kind]
        if found["count"]:
            print(f"{kind:13} {found['count']} {words}, {human(found['size'])}")


def _number(things: Iterable[Any], word: str) -> str:
    count = sum(1 for _ in things)
    return f"{count} {word}{'' if count == 1 else 's'}"


# -- gc ----------------------------------------------------------------------------------------------------------------


def _gc(options: argparse.Namespace) -> int:
    store = Store(config.load().store)
    outcome = collect(store, _wanted(options), say=options.reporter.say)
    document = _outcome(store, outcome, options)
    if options.json:
        print(json.dumps(document))
        return 0
    _show_kinds(document["taken"])
    print(
        f"{'would free' if options.dry_run else 'freed'} {human(outcome.freed)}; the store holds {human(outcome.left)}",
        end="",
    )
    print(" then" if options.dry_run else "")
    _explain(options, outcome)
    return 0


def _wanted(options: argparse.Namespace) -> Wanted:
    age = None if options.older_than is None else _age(options.older_than)
    size = None if options.max_size is None else _size(options.max_size)
    if age is None and size is None:
        return Wanted(dry_run=options.dry_run, assume_idle=options.assume_idle)
    return Wanted(age=age, size=size, dry_run=options.dry_run, assume_idle=options.assume_idle)


def _age(text: str) -> float:
    found = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?) ?([mhdw])", text)
    if found is None:
        raise UsageError(
            f"expected an age, found {text!r}", where="--older-than", hint="such as 90m, 12h, 30d, 4w; 0d for any age"
        )
    return float(found[1]) * _UNITS[found[2]]


def _size(text: str) -> int:
    found = re.fullmatch(r"(\d{1,12}(?:\.\d{1,3})?) ?((?:[kmgt]i?)?)b?", text.lower())
    if found is None:
        raise UsageError(f"expected a size, found {text!r}", where="--max-size", hint="such as 20GiB, 500MB, 0")
    return int(float(found[1]) * _SIZES[found[2]])


def _outcome(store: Store, outcome: Outcome, options: argparse.Namespace) -> dict[str, Any]:
    return {
        "path": str(store.root),
        "dry_run": options.dry_run,
        "freed": outcome.freed,
        "left": outcome.left,
        "taken": _by_kind(outcome.taken),
        "needed": {"size": sum(item.size for item in outcome.needed), "projects": list(outcome.projects)},
        "in_use": {"size": sum(item.size for item in outcome.in_use), "count": len(outcome.in_use)},
    }


def _explain(options: argparse.Namespace, outcome: Outcome) -> None:
    """Why there is still so much."""
    if outcome.in_use:
        size = sum(item.size for item in outcome.in_use)
        print(f"left alone: {human(size)} that running commands use")
    if options.max_size is None or outcome.left <= _size(options.max_size) or not outcome.needed:
        return
    print(f"{human(sum(item.size for item in outcome.needed))} are needed by {_number(outcome.projects, 'project')}:")
    for project in outcome.projects:
        print(f"  {project}")
    print("  hint: `reprobox cache forget -C DIR` keeps nothing for a project any more")


# -- verify ------------------------------------------------------------------------------------------------------------


def _verify(options: argparse.Namespace) -> int:
    settings = config.load()
    store = Store(settings.store)
    checked, damaged = verify(store, jobs=min(settings.jobs, os.cpu_count() or 1), say=options.reporter.say)
    moved = [str(move_away(store, damage)) for damage in damaged] if options.repair else []
    if options.json:
        found = [
            {"kind": damage.kind, "name": damage.name, "path": str(damage.path), "reason": damage.reason}
            for damage in damaged
        ]
        print(json.dumps({"path": str(store.root), "checked": checked, "damaged": found, "moved": moved}))
        return IntegrityError.status if damaged and not moved else 0
    for damage in damaged:
        print(f"{damage.kind} {damage.name}: {damage.reason}")
    told = ", ".join(f"{count} {KINDS[kind]}" for kind, count in checked.items())
    print(f"checked {told}: {_number(damaged, 'thing')} damaged")
    if moved:
        print(f"moved to {store.root / 'damaged'}; the next command that needs them fetches or builds them again")
    elif damaged:
        hint = "`reprobox cache verify --repair` moves them away, so that they are fetched or built again"
        raise IntegrityError("the store is damaged", where=str(store.root), hint=hint)
    return 0


# -- share -------------------------------------------------------------------------------------------------------------


def _share(options: argparse.Namespace) -> int:
    session, project = open_session(options)
    manifest, lock = project.manifest(session.plugins.kinds), project.lock(session.store)
    ensure_fresh(session, manifest, lock, str(project.lock_path))
    found = [layer for target in lock.targets.values() for layer in target.layers]
    stored = {layer.id: kept for layer in found if (kept := session.store.layer(layer.id)) is not None}
    if not stored:
        raise UsageError(
            "nothing of this project is in the store", where=str(project.root), hint="`reprobox realize` it"
        )
    root = options.folder.absolute()
    shared = prepare(root)
    inputs = {item.sha256 for layer in found for item in layer.inputs if session.store.has_blob(item.sha256)}
    blobs = sum(share_blob(shared, session.store.blob(digest), digest) for digest in sorted(inputs))
    layers = sum(share_layer(shared, layer) for layer in stored.values())
    document = {
        "path": str(root),
        "layers": len(stored),
        "inputs": len(inputs),
        "new_layers": layers,
        "new_inputs": blobs,
    }
    if options.json:
        print(json.dumps(document))
        return 0
    missing = len({layer.id for layer in found}) - len(stored)
    has = f"{_number(stored, 'layer')} ({layers} new) and {_number(inputs, 'input')} ({blobs} new)"
    print(f"{root} has {has} of this project")
    if missing:
        print(f"{missing} more are not built here: `reprobox realize` them first")
    print(f'others name it in their settings: [store] shared = ["{root}"]')
    return 0


# -- forget ------------------------------------------------------------------------------------------------------------


def _forget(options: argparse.Namespace) -> int:
    project = Path(options.project).absolute()
    count = forget(Store(config.load().store), project)
    if options.json:
        print(json.dumps({"project": str(project), "forgotten": count}))
    elif count:
        print(f"nothing is kept for {project} any more; `reprobox cache gc` may take what it needed")
    else:
        print(f"nothing was kept for {project}")
    return 0
