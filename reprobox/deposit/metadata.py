"""What an archive wants to know of a deposit, out of the manifest: InvenioRDM's metadata of a record. Pure.

Source: InvenioRDM, "Metadata reference" and "Drafts and Records", which Zenodo follows since October 2023.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

from reprobox.digest import Json
from reprobox.errors import ManifestError, Problem
from reprobox.manifest import Author, Funding, Project

#: Resource types that fit what reprobox publishes, by their names in InvenioRDM's vocabulary.
TYPES = ("software", "dataset", "workflow", "other")
_PLAIN_LICENCE = re.compile(r"[A-Za-z0-9.+-]+\Z")
_OWN_LICENCE = "LicenseRef-"


def check_complete(project: Project, file: str) -> None:
    """Raise :class:`ManifestError` that names every key which a deposit needs and the manifest does not have."""
    problems = [
        Problem(file=file, line=0, key=f"project.{name}", message="a deposit needs it, and it is missing", hint=hint)
        for name, hint in _MISSING.items()
        if not getattr(project, name)
    ]
    if problems:
        raise ManifestError(problems)


_MISSING = {
    "authors": 'add authors = [{ name = "…", orcid = "…", affiliation = "…" }]',
    "description": 'add description = "…", one sentence about it',
    "license": 'add license = "…", an SPDX expression such as "MIT" or "CC-BY-4.0"',
}


def metadata(project: Project, *, kind: str, date: str, publisher: str, paper: str = "") -> dict[str, Json]:
    """The ``metadata`` of a record. ``date`` is ``YYYY-MM-DD``; ``paper`` the DOI of what it belongs to, if any."""
    document: dict[str, Json] = {
        "resource_type": {"id": kind},
        "title": project.title or project.name,
        "creators": [_creator(author) for author in project.authors],
        "publication_date": project.date or date,
        "publisher": publisher,
        "description": f"<p>{html.escape(project.description or '')}</p>",
        "rights": [_licence(project.license)] if project.license else [],
        "subjects": [{"subject": word} for word in project.keywords],
        "funding": [_funding(item) for item in project.funding],
        "related_identifiers": list(_related(project, paper)),
    }
    if project.version:
        document["version"] = project.version
    return {name: value for name, value in document.items() if value not in ([], "")}


def _creator(author: Author) -> dict[str, Json]:
    family, given = _names(author.name)
    person: dict[str, Json] = {"type": "personal", "family_name": family, "given_name": given}
    if author.orcid:
        person["identifiers"] = [{"scheme": "orcid", "identifier": author.orcid.rpartition("/")[2]}]
    creator: dict[str, Json] = {"person_or_org": person}
    if author.affiliation:
        creator["affiliations"] = [{"name": author.affiliation}]
    return creator


def _names(name: str) -> tuple[str, str]:
    """Family and given names: of ``Lovelace, Ada`` and of ``Ada Lovelace``; an only name is the family's."""
    family, comma, given = name.partition(",")
    if comma:
        return family.strip(), given.strip()
    given, _, family = name.strip().rpartition(" ")
    return family, given.strip()


def _licence(expression: str) -> dict[str, Json]:
    """A licence by its SPDX name, which archives know in lower case; anything else in the manifest's own words."""
    if _PLAIN_LICENCE.match(expression) and not expression.startswith(_OWN_LICENCE):
        return {"id": expression.lower()}
    return {"title": {"en": expression}}


def _funding(item: Funding) -> dict[str, Json]:
    found: dict[str, Json] = {"funder": {"name": item.funder}}
    if item.award or item.title:
        award: dict[str, Json] = {"title": {"en": item.title or item.award or ""}, "number": item.award or ""}
        if item.url:
            award["identifiers"] = [{"scheme": "url", "identifier": item.url}]
        found["award"] = {name: value for name, value in award.items() if value}
    return found


def _related(project: Project, paper: str) -> Iterator[dict[str, Json]]:
    relation = {"id": "issupplementto"}
    if paper:
        yield {"identifier": paper, "scheme": "doi", "relation_type": relation}
    if project.repository:
        yield {"identifier": project.repository, "scheme": "url", "relation_type": relation}
