# ruff: noqa: RUF009 - key() is a field specifier
"""A record of a run, as a frozen value, to and from JSON: ``research.runs/NAME.json`` beside the manifest. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from reprobox import json_tables
from reprobox.digest import Json
from reprobox.errors import Problem, UsageError
from reprobox.host import Host
from reprobox.json_tables import Form
from reprobox.table_rules import pattern
from reprobox.tables import EMPTY, key

FORMAT = 1
FOLDER = "research.runs"
SCHEMA_ID = "https://example.org/reprobox/schemas/run-record.schema.json"
MAX_BYTES = 64 << 20
_WRITTEN = "a record is written by `reprobox run --record`: restore it, or record the run anew"

_digest = pattern("sha256:[0-9a-f]{64}", "sha256:<64 hexadecimal digits>")
_moment = pattern(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z", "a time in UTC", "such as 2026-01-31T12:00:00Z")


@dataclass(frozen=True, kw_only=True, slots=True)
class Agent:
    """Who ran it."""

    name: str = key("Name, or login name.")
    orcid: str | None = key("ORCID iD.", default=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class File:
    """A file that was read or written."""

    sha256: str = key("sha256 of its content.", check=_digest)
    size: int = key("Its size, in bytes.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Read:
    """What a mount that is only read held."""

    tree: str = key("Tree hash of all of it, as for locked data.", check=_digest)
    size: int = key("Size of all its files, in bytes.")
    count: int = key("How many files.")
    files: Mapping[str, File] = key("Its files, where they are not too many.", default=EMPTY)


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """What the run did to a folder that it may write to."""

    files: Mapping[str, File] = key("Files that it wrote, by path.", default=EMPTY)
    links: Mapping[str, str] = key("Links that it made: path and target.", default=EMPTY)
    removed: tuple[str, ...] = key("Files and links that were there before, and are not any more.", default=())
    overwritten: tuple[str, ...] = key("Those of `files` that were there before, with another content.", default=())
    kept: str | None = key("Tree hash of what was there before and was left alone.", default=None, check=_digest)
    problem: str | None = key("Why it is not known what was written.", default=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How the run was held."""

    network: Literal["host", "none"] = key("The network that it saw.", default="host")
    isolate: bool = key("Whether it had process ids and ipc of its own.", default=False)
    memory: int = key("The most memory that it was given, in bytes; 0 is all there is.", default=0)
    cpus: str = key("The most processors that it was given.", default="")
    gpus: str = key("The GPUs that it was given.", default="")


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What it used, where that was measured."""

    cpu: int = key("Processor time of all its processes, in milliseconds.")
    memory: int | None = key("The most memory that one of its processes had, in bytes.", default=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """One run."""

    format: int = key("Version of this format.", default=FORMAT)
    reprobox: str = key("Version of reprobox.")
    project: str = key("Name of the project.")
    version: str | None = key("Version of the project.", default=None)
    agent: Agent | None = key("Who ran it; none where nobody was to be named.", default=None)
    started: str = key("When the command was started.", check=_moment)
    ended: str = key("When it ended.", check=_moment)
    command: tuple[str, ...] = key("Program and arguments.", nonempty=True)
    workdir: str = key("Where it was started.")
    variables: Mapping[str, str] = key("Environment variables that the environment declares.", default=EMPTY)
    host_variables: Mapping[str, str] = key("Variables of the machine that decide how a run goes.", default=EMPTY)
    status: int = key("Exit status of the command; 128 and the signal's number where a signal ended it.")
    signal: str | None = key("The signal that ended it.", default=None)
    lock: str = key("sha256 of research.lock.", check=_digest)
    pins: str = key("sha256 of what the lock says, without its seals.", check=_digest)
    code: str = key("Git tree hash of the code, or the commit of its repository.", default="")
    target: str = key("The target.")
    platform: str = key("Operating system and architecture of the target.")
    backend: str = key("What ran it.")
    image: str = key("The image's digest.", check=_digest)
    tree: str = key("Tree digest of the environment.", check=_digest)
    unpinned: tuple[str, ...] = key("Layers that only a seal could pin, and that had none.", default=())
    options: Options = key("How the run was held.", default=Options())
    inputs: Mapping[str, Read] = key("Mounts that are only read, by mount point.", default=EMPTY)
    outputs: Mapping[str, Written] = key("Folders that it may write to, by mount point.", default=EMPTY)
    host: Host | None = key("What the machine has.", default=None)
    usage: Usage | None = key("What it used; none where the backend's processes are not ours.", default=None)


_FORM = Form(name="record", full="record of a run", format=FORMAT, most=MAX_BYTES, again=_WRITTEN)


def dump(record: RunRecord) -> bytes:
    """The record as it is written."""
    return json.dumps(json_tables.document(record), indent=1).encode("ascii") + b"\n"


def schema() -> dict[str, Json]:
    """JSON Schema (draft 2020-12) of a record."""
    about = "What `reprobox run --record` writes to research.runs/."
    return json_tables.schema(RunRecord, name=SCHEMA_ID, title="run record", about=about)


def parse(data: bytes, *, file: str) -> RunRecord:
    """The record that ``data`` is. Raises :class:`UsageError` with every mistake, by its key."""
    found = json_tables.load(data, _FORM, file=file)
    record: RunRecord = json_tables.read(RunRecord, found, _FORM, file=file)
    if problems := _unsafe(file, record):
        raise UsageError("\n".join(map(str, problems)))
    return record


def _unsafe(file: str, record: RunRecord) -> list[Problem]:
    """Paths are joined to folders: none may lead out of them."""
    said = [(place, path) for place, item in record.outputs.items() for path in (*item.files, *item.links)]
    said += [(place, path) for place, item in record.inputs.items() for path in item.files]
    return [
        Problem(file=file, line=0, key=f'"{place}"', message=f"a path that leads out of it: {path!r}", hint=_WRITTEN)
        for place, path in said
        if path != "." and (path.startswith("/") or re.search(r"(?:^|/)\.{0,2}(?:/|$)", path))
    ]
