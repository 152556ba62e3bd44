"""``reprobox diff``"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from reprobox import config
from reprobox.cli.changes import document, markdown, text
from reprobox.errors import LockError, UsageError
from reprobox.git.own import committed
from reprobox.lock import FILE_NAME, Lock
from reprobox.lock_diff import diff
from reprobox.project import Project, read_lock
from reprobox.store import Store

DETAILS = """\
OLD and NEW are files, folders with a research.lock, - for standard input, or git revisions. OLD is HEAD if left out,
NEW is the research.lock of the project.

examples:
  reprobox diff                              what moved since the last commit
  reprobox diff main                         since the branch main
  reprobox diff v1.0 v2.0                    between two releases
  reprobox diff old.lock research.lock
  reprobox diff origin/main --format markdown > comment.md
  reprobox diff --exit-code                  ends with 1 if anything moved"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("old", metavar="OLD", nargs="?", default="HEAD", help="a file, -, or a git revision")
    parser.add_argument("new", metavar="NEW", nargs="?", help="the same; the project's research.lock if left out")
    parser.add_argument("--format", choices=("text", "json", "markdown"), default="text", help="how to show it")
    parser.add_argument("--exit-code", action="store_true", help="end with 1 if anything moved, as git diff does")


def execute(options: argparse.Namespace) -> int:
    if options.old == options.new == "-":
        raise UsageError("OLD and NEW cannot both be standard input", hint="give a file for one of them")
    store = Store(config.load().store)
    old = _lock(options, store, options.old)
    new = _lock(options, store, options.new) if options.new is not None else _project(options).lock(store)
    found = diff(old, new)
    if options.json or options.format == "json":
        names = {"old": options.old, "new": options.new or FILE_NAME}
        print(json.dumps({**names, **document(found)}))
    elif options.format == "markdown":
        print(markdown(found))
    else:
        print(text(found, colour=_colour()))
    return 1 if found and options.exit_code else 0


def _colour() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _project(options: argparse.Namespace) -> Project:
    return Project.find(Path(options.project))


def _lock(options: argparse.Namespace, store: Store, name: str) -> Lock | None:
    """The lock that ``name`` means; None where a revision has none."""
    if name == "-":
        return read_lock(sys.stdin.buffer.read(), store, "standard input")
    path = Path(options.project, name)
    if path.is_dir() and (path / FILE_NAME).is_file():
        path /= FILE_NAME
    if path.is_file():
        return read_lock(_content(path), store, str(path))
    data = committed(_folder(options), name, FILE_NAME)
    if data is None:
        options.reporter.say(f"{name} has no {FILE_NAME}")
        return None
    return read_lock(data, store, f"{name}:{FILE_NAME}")


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise LockError(f"it cannot be read: {error.strerror}", where=str(path)) from None


def _folder(options: argparse.Namespace) -> Path:
    """Where the lock is: beside the manifest, or in the folder that is worked in."""
    try:
        return _project(options).root
    except UsageError:
        return Path(options.project)
