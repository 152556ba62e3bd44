"""Recorded runs as a publication tells them: the records themselves, and actions of Process Run Crate 0.5."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from reprobox.crate_files import PROJECT
from reprobox.digest import prefixed
from reprobox.lock import Lock
from reprobox.lock_text import pins
from reprobox.preview.content import Run
from reprobox.project import Project
from reprobox.publish.description import orcid_url
from reprobox.publish.entity import Entity, ref
from reprobox.publish.files import media_type_of_name, uri
from reprobox.run_record.action import Action, Thing, actions
from reprobox.run_record.files import load_all
from reprobox.run_record.record import FOLDER, RunRecord
from reprobox.session import Session

PLACE = "runs"


def put_runs(session: Session, project: Project, lock: Lock, folder: Path) -> dict[str, RunRecord]:
    """Copy the records of runs of what this lock pins, and return them by name. Those of other locks are told."""
    found = {}
    for name, record in load_all(project.root).items():
        if record.pins != prefixed(pins(lock)) or record.target not in lock.targets:
            session.reporter.say(f"{FOLDER}/{name}.json is not in it: it is of another lock")
            continue
        (folder / PLACE).mkdir(exist_ok=True)
        (folder / PLACE / f"{name}.json").write_bytes((project.root / FOLDER / f"{name}.json").read_bytes())
        found[name] = record
    return found


def shown(records: Mapping[str, RunRecord]) -> tuple[Run, ...]:
    """The runs as the page shows them, the earliest first."""
    return tuple(
        Run(
            command=action.command,
            ended=action.ended,
            status=records[action.name].status,
            outputs=len(action.results),
            who=action.agent,
            target=action.target,
        )
        for action in actions(records)
    )


# -- as entities -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Where things of a run are in the crate: ids of applications and images by target; folders of data by mount."""

    applications: Mapping[str, str]
    images: Mapping[str, str]
    data: Mapping[str, str]


def run_entities(records: Mapping[str, RunRecord], places: Places) -> tuple[tuple[Entity, ...], ...]:
    """For every run its action, and after that whatever only the action names."""
    return tuple(tuple(_of(action, places)) for action in actions(records))


def _of(action: Action, places: Places) -> Iterator[Entity]:
    identity = f"#run-{uri(action.name)}"
    agent = orcid_url(action.orcid) if action.orcid else f"{identity}-agent" if action.agent else ""
    variables = {name: f"{identity}-env-{uri(name)}" for name in action.variables}
    yield {
        "@id": identity,
        "@type": "CreateAction",
        "name": action.command,
        "description": f"A run of {action.command} that reprobox recorded",
        "instrument": ref(places.applications[action.target]),
        "containerImage": ref(places.images[action.target]) if action.target in places.images else None,
        "agent": ref(agent) if agent else None,
        "startTime": _time(action.started),
        "endTime": _time(action.ended),
        "actionStatus": action.status,
        "error": action.error,
        "environment": [ref(name) for name in variables.values()],
        "object": [ref(_thing_id(identity, thing, places)) for thing in action.objects],
        "result": [ref(_thing_id(identity, thing, places)) for thing in action.results],
        "subjectOf": ref(uri(f"{PLACE}/{action.name}.json")),
    }
    if agent:
        yield {"@id": agent, "@type": "Person", "name": action.agent}
    for name, variable in variables.items():
        yield {"@id": variable, "@type": "PropertyValue", "name": name, "value": action.variables[name]}
    for thing in (*action.objects, *action.results):
        if _thing_id(identity, thing, places).startswith("#"):
            yield _thing(identity, thing, places)


def _time(moment: str) -> str:
    """As the profile has it: milliseconds or none, and the offset of UTC."""
    seconds, fraction = re.fullmatch(r"([^.Z]*)(?:\.(\d+))?Z", moment).groups()  # type: ignore[union-attr]
    return f"{seconds}{f'.{fraction[:3]:0<3}' if fraction else ''}+00:00"


def _thing_id(identity: str, thing: Thing, places: Places) -> str:
    """The file or folder in the crate, if its data is there; else a name of the run's own."""
    for mount, folder in places.data.items():
        inside = posixpath.relpath(thing.path, mount)
        if not inside.startswith(".."):
            return uri(posixpath.normpath(f"{PROJECT}/{folder}/{inside}")) + ("/" if thing.folder else "")
    return f"{identity}{uri(thing.path)}"


def _thing(identity: str, thing: Thing, places: Places) -> Entity:
    """What the run read or wrote and the crate does not have: known by its hash."""
    return {
        "@id": _thing_id(identity, thing, places),
        "@type": "Dataset" if thing.folder else "File",
        "name": thing.path,
        "contentSize": str(thing.size),
        "sha256": None if thing.folder else thing.sha256,
        "identifier": prefixed(thing.sha256) if thing.folder else None,
        "encodingFormat": None if thing.folder else media_type_of_name(thing.path),
    }
