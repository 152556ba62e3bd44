"""Records as publications tell them: plain values of what schema.org calls a CreateAction."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from reprobox.run_record.record import File, RunRecord

COMPLETED = "http://schema.org/CompletedActionStatus"
FAILED = "http://schema.org/FailedActionStatus"


@dataclass(frozen=True, kw_only=True, slots=True)
class Thing:
    """A file, or a whole folder of data: where it was in the run, sha256 hex (of a folder: its tree hash), bytes."""

    path: str
    sha256: str
    size: int
    folder: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Action:
    """One run. Times are in UTC as RFC 3339 has them; ``lock`` is sha256 hex, ``image`` and ``tree`` as ``sha256:hex``.

    ``status`` is an address of schema.org; ``error`` says how a run failed.
    """

    name: str
    agent: str
    orcid: str
    started: str
    ended: str
    command: str
    status: str
    error: str
    lock: str
    code: str
    target: str
    image: str
    tree: str
    variables: Mapping[str, str]
    objects: tuple[Thing, ...]
    results: tuple[Thing, ...]


def actions(records: Mapping[str, RunRecord]) -> tuple[Action, ...]:
    """The runs, by the names of their records, the earliest first."""
    ordered = sorted(records.items(), key=lambda item: (item[1].started, item[0]))
    return tuple(_action(name, record) for name, record in ordered)


def _action(name: str, record: RunRecord) -> Action:
    how = f"ended by {record.signal}" if record.signal else f"exit status {record.status}"
    return Action(
        name=name,
        agent=record.agent.name if record.agent else "",
        orcid=(record.agent.orcid or "") if record.agent else "",
        started=record.started,
        ended=record.ended,
        command=shlex.join(record.command),
        status=FAILED if record.status else COMPLETED,
        error=how if record.status else "",
        lock=record.lock.removeprefix("sha256:"),
        code=record.code,
        target=record.target,
        image=record.image,
        tree=record.tree,
        variables=record.variables,
        objects=tuple(_objects(record)),
        results=tuple(
            _thing(place, path, file)
            for place, item in sorted(record.outputs.items())
            for path, file in sorted(item.files.items())
        ),
    )


def _objects(record: RunRecord) -> Iterator[Thing]:
    for place, item in sorted(record.inputs.items()):
        if item.files:
            yield from (_thing(place, path, file) for path, file in sorted(item.files.items()))
        else:
            yield Thing(path=place, sha256=item.tree.removeprefix("sha256:"), size=item.size, folder=True)


def _thing(place: str, path: str, file: File) -> Thing:
    whole = place if path == "." else f"{place.rstrip('/')}/{path}"
    return Thing(path=whole, sha256=file.sha256.removeprefix("sha256:"), size=file.size)
