"""``codemeta.json``: the software as CodeMeta 3.0 describes it (https://w3id.org/codemeta/3.0)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from reprobox.digest import prefixed
from reprobox.lock import Lock
from reprobox.manifest import Author, Funding, Manifest
from reprobox.publish.description import code_repository, doi_url, licence_url, licences, orcid_url, published, title

CONTEXT = "https://w3id.org/codemeta/3.0"


def codemeta(manifest: Manifest, lock: Lock, lock_digest: str, requirements: Iterable[str]) -> bytes:
    """The file's bytes; ``requirements`` are packages as ``name version``, ``lock_digest`` is sha256 hex."""
    project = manifest.project
    said: dict[str, Any] = {
        "@context": CONTEXT,
        "@type": "SoftwareSourceCode",
        "identifier": doi_url(project.doi) if project.doi else prefixed(lock_digest),
        "name": title(project),
        "description": project.description,
        "version": project.version,
        "datePublished": published(project, lock),
        "license": _licence(project.license or ""),
        "author": [_person(author) for author in project.authors],
        "keywords": list(project.keywords),
        "url": project.url,
        "codeRepository": code_repository(manifest),
        "operatingSystem": "Linux",
        "runtimePlatform": sorted({target.platform for target in lock.targets.values()}),
        "softwareRequirements": list(requirements),
        "funder": [_funder(item) for item in project.funding],
        "funding": "; ".join(filter(None, map(_grant, project.funding))),
    }
    document = {key: value for key, value in said.items() if value}
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def _licence(expression: str) -> str | list[str]:
    found = [licence_url(name) or name for name in licences(expression)]
    return found[0] if len(found) == 1 else found


def _person(author: Author) -> dict[str, Any]:
    given, family = author.given_and_family
    organization = {"@type": "Organization", "@id": author.ror, "name": author.affiliation}
    said: dict[str, Any] = {
        "@type": "Person",
        "@id": orcid_url(author.orcid) if author.orcid else None,
        "givenName": given,
        "familyName": family,
        "email": author.email,
        "affiliation": _present(organization) if author.affiliation else None,
    }
    return _present(said)


def _funder(item: Funding) -> dict[str, Any]:
    return _present({"@type": "Organization", "@id": item.ror, "name": item.funder})


def _grant(item: Funding) -> str:
    return " ".join(part for part in (item.award, item.title and f"({item.title})") if part)


def _present(table: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if value}
