"""``reprobox graph``"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

from reprobox import graph
from reprobox.cli.report import human
from reprobox.cli.session import open_session
from reprobox.engine import Session
from reprobox.errors import LockError
from reprobox.lock import Lock, LockedTarget
from reprobox.project import Project

DETAILS = """\
examples:
  reprobox graph
  reprobox graph --format json"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=("tree", "json"), default="tree", help="how to show it")
    parser.add_argument("--target", metavar="NAME", help="the target, where the manifest has several")


def execute(options: argparse.Namespace) -> int:
    session, project = open_session(options)
    manifest = project.manifest(session.plugins.kinds).select(options.target)
    layers = graph.build(manifest, session.plugins.kinds)
    name = next(iter(manifest.targets))
    lock = _locked(session, project)
    rows = _rows(session, layers, lock.targets.get(name) if lock else None)
    if options.json or options.format == "json":
        print(json.dumps({"target": name, "layers": rows}))
    else:
        print("\n".join(_tree(rows)))
    return 0


def _locked(session: Session, project: Project) -> Lock | None:
    try:
        return project.lock_or_none(session.store)
    except LockError as error:
        session.reporter.say(f"the lock is not used: {error.message}")
        return None


def _rows(session: Session, layers: graph.LayerGraph, target: LockedTarget | None) -> list[dict[str, Any]]:
    locked = {layer.name: layer for layer in target.layers} if target else {}
    unpinned = target.unpinned() if target else ()
    rows = []
    for number, names in enumerate(layers.generations()):
        for name in names:
            node = layers.node(name)
            pinned = locked.get(name)
            stored = session.store.layer(pinned.id) if pinned else None
            rows.append(
                {
                    "name": name,
                    "kind": node.kind,
                    "parents": list(node.parents),
                    "generation": number,
                    "id": f"sha256:{pinned.id}" if pinned else None,
                    "inputs": len(pinned.inputs) if pinned else None,
                    "input_size": sum(item.size for item in pinned.inputs) if pinned else None,
                    "pinned": name not in unpinned if pinned else None,
                    "cached": stored is not None,
                    "size": stored.record["size"] if stored else None,
                    "diff_id": f"sha256:{stored.record['diff_id']}" if stored else None,
                }
            )
    order = {node.name: position for position, node in enumerate(layers.nodes)}
    return sorted(rows, key=lambda row: order[row["name"]])


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
    parts = [f"{row['name']} ({row['kind']})"]
    if row["inputs"]:
        parts.append(f"{row['inputs']} inputs, {human(row['input_size'])}")
    parts.append(
        f"in the store, {human(row['size'])}" if row["cached"] else "to be built" if row["id"] else "not locked"
    )
    if row["pinned"] is False:
        parts.append("not pinned: it uses the network, and has no seal")
    if len(row["parents"]) > 1:
        parts.append(f"also on {', '.join(row['parents'][:-1])}")
    return " · ".join(parts)
