"""Where records are: ``research.runs/NAME.json`` beside the manifest."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

from reprobox.errors import ReproboxError, UsageError
from reprobox.run_record.record import FOLDER, MAX_BYTES, RunRecord, dump, parse

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def place(root: Path, name: str) -> Path:
    """Where the record ``name`` of the project at ``root`` will be. Its folder is made.

    Raises :class:`UsageError` for a name that cannot be used, or is, and :class:`ReproboxError` where nothing can be
    written: before anything runs.
    """
    if not _NAME.fullmatch(name):
        hint = "letters, digits, `.`, `_` and `-`; a command comes after `--`: `reprobox run --record NAME -- COMMAND`"
        raise UsageError(f"not the name of a record: {name!r}", where="--record", hint=hint)
    path = root / FOLDER / f"{name.removesuffix('.json')}.json"
    if os.path.lexists(path):
        raise UsageError("there is a record of this name", where=str(path), hint="give another name, or remove it")
    try:
        path.parent.mkdir(exist_ok=True)
        problem = "" if os.access(path.parent, os.W_OK | os.X_OK) else "Permission denied"
    except OSError as error:
        problem = error.strerror or str(error)
    if problem:
        hint = "records are written beside the manifest: that folder must be writable"
        raise ReproboxError(f"no record can be written: {problem}", where=str(path.parent), hint=hint)
    return path


def save(record: RunRecord, path: Path) -> Path:
    """Write it at once, under another name if somebody took this one meanwhile; returns where it is."""
    staged = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with staged.open("xb") as file:
            file.write(dump(record))
            file.flush()
            os.fsync(file.fileno())
        number = 1
        target = path
        while True:
            try:
                os.link(staged, target)
                return target
            except FileExistsError:
                number += 1
                target = path.with_name(f"{path.stem}-{number}.json")
            except OSError:  # a file system without links
                staged.replace(target)
                return target
    except OSError as error:
        raise ReproboxError(f"the record cannot be written: {error.strerror}", where=str(path)) from None
    finally:
        staged.unlink(missing_ok=True)


def load(root: Path, said: str) -> tuple[Path, RunRecord]:
    """The record that ``said`` names: a path, or a name in the project at ``root``.

    Raises :class:`UsageError` where there is none, or none that can be read.
    """
    there = root / FOLDER
    for path in (Path(said), there / said, there / f"{said}.json"):
        if path.is_file():
            with path.open("rb") as file:
                return path, parse(file.read(MAX_BYTES + 1), file=str(path))
    known = sorted(path.stem for path in there.glob("*.json"))
    hint = f"records here: {', '.join(known[-8:])}" if known else "record a run with `reprobox run --record`"
    raise UsageError(f"there is no record {said!r}", where=str(there), hint=hint)


def load_all(root: Path) -> dict[str, RunRecord]:
    """Every record of the project at ``root``, by name."""
    return {path.stem: load(root, str(path))[1] for path in sorted((root / FOLDER).glob("*.json"))}
