"""``CITATION.cff``: how to cite a publication, in Citation File Format 1.2.0 (doi:10.5281/zenodo.5171937)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from reprobox.digest import prefixed
from reprobox.manifest import Author, Manifest
from reprobox.publish.description import code_repository, licence_words, licences, orcid_url, title

_HEADER = "# Written by reprobox from research.toml.\n"


def citation(manifest: Manifest, lock_digest: str) -> bytes:
    """The file's bytes; ``lock_digest`` is sha256 hex of ``research.lock``. It tells no day but the manifest's."""
    project = manifest.project
    said: dict[str, Any] = {
        "cff-version": "1.2.0",
        "message": "If you use this research, please cite it as below.",
        "type": "software",
        "title": title(project),
        "abstract": project.description,
        "authors": [_person(author) for author in project.authors],
        "version": project.version,
        "date-released": project.date,
        "license": _licence(project.license),
        "doi": project.doi,
        "url": project.url,
        "repository-code": code_repository(manifest),
        "keywords": list(dict.fromkeys(project.keywords)),
        "identifiers": [
            {"type": "other", "value": prefixed(lock_digest), "description": "sha256 of research.lock, the environment"}
        ],
    }
    lines = _yaml({key: value for key, value in said.items() if value})
    return (_HEADER + "".join(f"{line}\n" for line in lines)).encode()


def _person(author: Author) -> dict[str, str]:
    given, family = author.given_and_family
    said = {
        "family-names": family,
        "given-names": given,
        "orcid": orcid_url(author.orcid) if author.orcid else "",
        "affiliation": author.affiliation or "",
        "email": author.email or "",
    }
    return {key: value for key, value in said.items() if value}


def _licence(expression: str | None) -> str | list[str]:
    """One licence, or several to choose from; the format cannot say more, and then it says nothing."""
    words, found = licence_words(expression or ""), licences(expression or "")
    if not words or {"AND", "WITH"} & set(words) or any(word.startswith("LicenseRef-") for word in words):
        return ""
    return found[0] if len(found) == 1 else found


def _yaml(table: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """Block YAML whose scalars are double-quoted."""
    for key, value in table.items():
        if isinstance(value, str):
            yield f"{indent}{key}: {_scalar(value)}"
            continue
        yield f"{indent}{key}:"
        for item in value:
            if isinstance(item, str):
                yield f"{indent}  - {_scalar(item)}"
                continue
            first, *rest = _yaml(item, f"{indent}    ")
            yield f"{indent}  - {first.strip()}"
            yield from rest


def _scalar(text: str) -> str:
    """A double-quoted scalar of YAML 1.2, section 7.3.1: what is not printable is escaped."""
    return '"' + "".join(_ESCAPED.get(char) or (char if char.isprintable() else _number(char)) for char in text) + '"'


_ESCAPED = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t"}


def _number(char: str) -> str:
    return f"\\U{ord(char):08x}"
