"""``reprobox init``"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from reprobox.errors import ReproboxError, UsageError
from reprobox.guess import Guess, guess
from reprobox.guess.text import manifest_text
from reprobox.manifest_reader import parse
from reprobox.plugins import Plugins
from reprobox.project import MANIFEST_NAME

DETAILS = """\
Looks at the files of this folder: pylock.toml, pyproject.toml, requirements.txt, environment.yml, Dockerfile, and what
the Python code imports. Writes what it guesses, each with its reason, for you to look over; it runs nothing, asks
nothing of the network, and never overwrites a manifest.

examples:
  reprobox init
  reprobox init -C ../paper"""


def configure(parser: argparse.ArgumentParser) -> None:  # noqa: ARG001 - no options of its own
    return


def execute(options: argparse.Namespace) -> int:
    folder = Path(options.project).absolute()
    if not folder.is_dir():
        raise UsageError(
            "there is no such folder", where=str(folder), hint="make it first, or give another one with -C"
        )
    path = folder / MANIFEST_NAME
    found = guess(folder)
    text = manifest_text(found.tables)
    parse(text, kinds=Plugins().kinds, file=str(path))
    _write(path, text)
    if options.json:
        guesses = [{"table": table.name, "why": table.why} for table in found.tables]
        print(json.dumps({"manifest": str(path), "guesses": guesses, "notes": list(found.notes)}))
    else:
        _show(path, found)
    return 0


def _write(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(
            f"there is a {MANIFEST_NAME} already",
            where=str(path),
            hint="edit it, or move it away: `reprobox init` never overwrites one",
        ) from None
    except OSError as error:
        raise ReproboxError(
            f"it cannot be written: {error.strerror}", where=str(path), hint="the folder must be writable"
        ) from None


def _show(path: Path, found: Guess) -> None:
    width = max(len(table.name) for table in found.tables)
    print(f"wrote {path}:")
    for table in found.tables:
        print(f"  {table.name:{width}}  {table.why}")
    for note in found.notes:
        print(f"note: {note}")
    print("look it over, then pin every byte with `reprobox lock`")
