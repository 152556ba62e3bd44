"""``reprobox graph``"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from reprobox import drawing, graph
from reprobox.cli.report import human
from reprobox.cli.session import open_session
from reprobox.errors import LockError, ReproboxError, StaleLockError, UsageError
from reprobox.freshness import ensure_fresh
from reprobox.lock import Lock, LockedLayer, LockedTarget
from reprobox.manifest import Manifest
from reprobox.oci.remote import Offer
from reprobox.project import Project
from reprobox.session import Session
from reprobox.store import Store, StoredLayer
from reprobox.why import Built, Reason, why

DETAILS = """\
examples:
  reprobox graph
  reprobox graph --format json
  reprobox graph --format svg -o layers.svg
  reprobox graph --format mermaid -o layers.mmd
  reprobox graph --remote                  ask the remote, too, which layers it has
  reprobox graph --why python              say why this layer is built anew"""
_MOST = 8  # changes of one layer that are told


def configure(parser: argparse.ArgumentParser) -> None:
    formats = ("tree", "json", "dot", "mermaid", "svg")
    parser.add_argument("--format", choices=formats, default="tree", help="how to show it")
    parser.add_argument("-o", "--output", metavar="FILE", help="write it there instead of to standard output")
    parser.add_argument(
        "--why", metavar="LAYER", help="name the first input of the layer that changed, and what it was"
    )
    parser.add_argument("--remote", action="store_true", help="ask the remote of the settings which layers it has")
    parser.add_argument("--target", metavar="NAME", help="the target, where the manifest has several")


def execute(options: argparse.Namespace) -> int:
    session, project = open_session(options)
    whole = project.manifest(session.plugins.kinds)
    manifest = whole.select(options.target)
    name = next(iter(manifest.targets))
    if options.why is not None:
        if options.remote:
            raise UsageError("--why is of what was built here", where="--remote", hint="leave it out")
        text = _why(session, project, whole, name, options)
    else:
        lock = _locked(session, project)
        layers = graph.build(manifest, session.plugins.kinds)
        with session.store.using():
            target = lock.targets.get(name) if lock else None
            rows = _rows(session, layers, target, _offered(session, target) if options.remote else {})
        text = _shown(rows, name, manifest, "json" if options.json else options.format)
    _give(text, options.output)
    return 0


def _give(text: str, output: str | None) -> None:
    if output is None:
        print(text)
        return
    try:
        Path(output).write_text(f"{text}\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"it cannot be written: {error.strerror}", where=output, hint="give -o a file in a folder that is there"
        ) from None


def _locked(session: Session, project: Project) -> Lock | None:
    try:
        return project.lock_or_none(session.store)
    except LockError as error:
        session.reporter.say(f"the lock is not used: {error.message}")
        return None


def _offered(session: Session, target: LockedTarget | None) -> Mapping[str, Offer]:
    """What the remote has of the layers that are not here, by layer id."""
    from reprobox.sharing import offered

    if session.remote is None:
        raise UsageError(
            "the settings name no remote",
            where="--remote",
            hint="set `repository` in [remote] of the settings, or REPROBOX_REMOTE",
        )
    return offered(session, session.remote, target) if target else {}


def _rows(
    session: Session, layers: graph.LayerGraph, target: LockedTarget | None, offers: Mapping[str, Offer]
) -> list[dict[str, Any]]:
    locked = {layer.name: layer for layer in target.layers} if target else {}
    unpinned = target.unpinned() if target else ()
    generation = {name: number for number, names in enumerate(layers.generations()) for name in names}
    rows = []
    for node in layers.nodes:
        pinned = locked.get(node.name)
        stored = session.store.layer(pinned.id) if pinned else None
        offer = offers.get(pinned.id) if pinned and not stored else None
        rows.append(
            {
                "name": node.name,
                "kind": node.kind,
                "parents": list(node.parents),
                "generation": generation[node.name],
                "state": "stored" if stored else "remote" if offer else "missing" if pinned else "unlocked",
                "id": f"sha256:{pinned.id}" if pinned else None,
                **_inputs(session.store, pinned, built=bool(stored or offer)),
                "take_size": offer.blob.size if offer else None,
                "pinned": node.name not in unpinned if pinned else None,
                "cached": stored is not None,
                "size": stored.record["size"] if stored else None,
                "seconds": stored.record.get("seconds") if stored else None,
                "diff_id": f"sha256:{stored.record['diff_id']}" if stored else None,
            }
        )
    return rows


def _inputs(store: Store, locked: LockedLayer | None, *, built: bool) -> dict[str, int | None]:
    """How many inputs there are, and how many of them a build would have to fetch; sizes in bytes."""
    if locked is None:
        return dict.fromkeys(("inputs", "input_size", "to_fetch", "fetch_size"))
    missing = [] if built else [item for item in locked.inputs if not store.has_blob(item.sha256)]
    return {
        "inputs": len(locked.inputs),
        "input_size": sum(item.size for item in locked.inputs),
        "to_fetch": len(missing),
        "fetch_size": sum(item.size for item in missing),
    }


# -- how it is shown ---------------------------------------------------------------------------------------------------


def _shown(rows: Sequence[Mapping[str, Any]], name: str, manifest: Manifest, form: str) -> str:
    if form == "json":
        return json.dumps({"target": name, "layers": rows})
    if form == "tree":
        return "\n".join((*_tree(rows), _summary(rows)))
    title = f"Layers of {manifest.project.name}" + (f", target {name}" if name != "default" else "")
    boxes = [_box(row) for row in rows]
    if form == "svg":
        below = "; ".join(f"{row['name']} on {', '.join(row['parents']) or 'nothing'}" for row in rows)
        return drawing.svg(boxes, title, f"{_summary(rows)}. What stands on what: {below}.")
    return drawing.dot(boxes, title) if form == "dot" else drawing.mermaid(boxes, title)


def _box(row: Mapping[str, Any]) -> drawing.Box:
    return drawing.Box(
        name=row["name"],
        kind=row["kind"],
        parents=tuple(row["parents"]),
        state=row["state"],
        lines=(*_facts(row), *(("not pinned",) if row["pinned"] is False else ())),
    )


def _facts(row: Mapping[str, Any]) -> Iterator[str]:
    if row["inputs"]:
        yield f"{row['inputs']} inputs, {human(row['input_size'])}"
    if row["state"] == "stored":
        yield f"in the store, {human(row['size'])}"
    elif row["state"] == "remote":
        yield f"at the remote, {human(row['take_size'])} to take"
    elif row["state"] == "missing":
        yield "to be built" + (f", {human(row['fetch_size'])} to fetch" if row["to_fetch"] else "")
    else:
        yield "not locked"


def _tree(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each layer under the last of the layers that it stands on; the others are named behind it."""
    children: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        children.setdefault(row["parents"][-1] if row["parents"] else "", []).append(row)
    lines: list[str] = []
    stack = [(row, "", True, True) for row in reversed(children.get("", []))]
    while stack:
        row, prefix, last, root = stack.pop()
        lines.append(prefix + ("" if root else "└── " if last else "├── ") + _label(row))
        below = children.get(row["name"], [])
        inner = prefix if root else prefix + ("    " if last else "│   ")
        stack.extend((child, inner, child is below[-1], False) for child in reversed(below))
    return lines


def _label(row: Mapping[str, Any]) -> str:
    parts = [f"{row['name']} ({row['kind']})", *_facts(row)]
    if row["pinned"] is False:
        parts.append("not pinned: it uses the network, and has no seal")
    if len(row["parents"]) > 1:
        parts.append(f"also on {', '.join(row['parents'][:-1])}")
    return " · ".join(parts)


def _summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """How many layers are there already, and what is left to do."""
    stored = [row for row in rows if row["state"] == "stored"]
    missing = [row for row in rows if row["state"] == "missing"]
    remote = [row for row in rows if row["state"] == "remote"]
    unlocked = len(rows) - len(stored) - len(remote) - len(missing)
    parts = [f"{len(stored)} of {len(rows)} layers in the store"]
    if stored:
        parts[0] += f" ({human(sum(row['size'] for row in stored))})"
    if remote:
        parts.append(f"{len(remote)} at the remote ({human(sum(row['take_size'] for row in remote))} to take)")
    if missing:
        count, size = sum(row["to_fetch"] for row in missing), sum(row["fetch_size"] for row in missing)
        fetched = f" ({count} input{'s' if count != 1 else ''}, {human(size)}, to fetch)" if count else ""
        parts.append(f"{len(missing)} to be built{fetched}")
    if unlocked:
        parts.append(f"{unlocked} not locked")
    return ", ".join(parts)


# -- why ---------------------------------------------------------------------------------------------------------------


def _why(session: Session, project: Project, manifest: Manifest, name: str, options: argparse.Namespace) -> str:
    lock = project.lock(session.store)
    try:
        ensure_fresh(session, manifest, lock, str(project.lock_path), name)
    except StaleLockError as error:
        more = f" and {len(error.keys) - _MOST} more" if len(error.keys) > _MOST else ""
        session.reporter.say(f"the lock is stale, this is of the lock: {', '.join(error.keys[:_MOST])}{more}")
    except ReproboxError:  # files that cannot be read are told by the commands that need them
        pass
    target = lock.targets.get(name)
    names = [layer.name for layer in target.layers] if target else []
    if target is None or options.why not in names:
        near = get_close_matches(options.why, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"the lock has {', '.join(names)}; or run `reprobox lock`"
        raise UsageError(f"the lock has no layer {options.why!r}", where="--why", hint=hint)
    layer = next(item for item in target.layers if item.name == options.why)
    reason = why(target, lock.epoch, layer.name, _built(session.store, layer))
    if options.json or options.format == "json":
        told = {"target": name, "layer": layer.name, "id": f"sha256:{layer.id}", "state": reason.state}
        nearest = f"sha256:{reason.nearest}" if reason.nearest else None
        return json.dumps({**told, "nearest": nearest, "causes": [asdict(cause) for cause in reason.causes]})
    return "\n".join(_because(layer, reason))


def _built(store: Store, layer: LockedLayer) -> list[Built]:
    """What was built here. Where the layer itself was, nothing else needs to be read."""
    stored = store.layer(layer.id)
    return [_record(item) for item in ([stored] if stored else store.layers())]


def _record(stored: StoredLayer) -> Built:
    record = stored.record
    return Built(
        id=stored.id,
        name=record.get("name", ""),
        kind=record.get("kind", ""),
        document=record.get("inputs") or {},
        when=stored.index.stat().st_mtime if stored.index.exists() else 0,
    )


def _because(layer: LockedLayer, reason: Reason) -> Iterator[str]:
    if reason.state == "stored":
        yield f"{layer.name} is in the store: nothing of it changed since it was built"
    elif reason.state == "never":
        yield f"{layer.name} must be built: no layer of that name and kind is in the store"
    else:
        yield f"{layer.name} must be built, because"
        for cause in reason.causes:
            below = "" if cause.layer == layer.name else ", below it"
            yield f"  {cause.layer}{below}:"
            for change in cause.changes[:_MOST]:
                yield from (f"    {line}" for line in str(change).split("\n"))
            if len(cause.changes) > _MOST:
                yield f"    and {len(cause.changes) - _MOST} more: --json has all"
