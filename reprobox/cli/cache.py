"""``reprobox cache``"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from reprobox import config
from reprobox.cli.report import human
from reprobox.store import Store

DETAILS = """\
examples:
  reprobox cache info
  REPROBOX_STORE=/scratch/me/store reprobox cache info"""


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    info = actions.add_parser("info", help="where it is and what it holds")
    info.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print the result as JSON")
    info.add_argument("-q", "--quiet", action="store_true", default=argparse.SUPPRESS, help="no progress")


def execute(options: argparse.Namespace) -> int:
    store = Store(config.load().store)
    document: dict[str, Any] = {
        "path": str(store.root),
        "blobs": _count(store.root / "blobs", "*/*"),
        "layers": _count(store.root / "layers", "*"),
        "partial": _count(store.root / "partial", "*"),
    }
    if options.json:
        print(json.dumps(document))
        return 0
    print(f"store     {document['path']}")
    for name, words in (("blobs", "input files"), ("layers", "built layers"), ("partial", "unfinished downloads")):
        found = document[name]
        print(f"{name:9} {found['count']} {words}, {human(found['size'])}")
    return 0


def _count(folder: Path, pattern: str) -> dict[str, int]:
    items = list(folder.glob(pattern))
    return {"count": len(items), "size": sum(_size(os.fsencode(item)) for item in items)}


def _size(path: bytes) -> int:
    """Bytes that a file, or all files below a folder, take on the disk."""
    try:
        status = os.lstat(path)
    except OSError:
        return 0
    size = status.st_blocks * 512
    if os.path.isdir(path) and not os.path.islink(path):
        try:
            names = os.listdir(path)
        except OSError:
            names = []
        size += sum(_size(path + b"/" + name) for name in names)
    return size
