"""``CITATION.cff``: how to cite a publication, in Citation File Format 1.2.0 (doi:10.5281/zenodo.5171937)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from reprobox.digest import prefixed
from reprobox.manifest import Author, Manifest
from reprobox.publish.description import licence_words, licences, orcid_url, title

_ENDS = "\x7f\x85\u2028\u2029\ufeff"  # YAML ends lines at these or has no place for them; JSON takes them as they are
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
        "repository-code": project.repository or manifest.code.git,
        "keywords": list(dict.fromkeys(project.keywords)),
        "identifiers": [
            {"type": "other", "value": prefixed(lock_digest), "description": "sha256 of research.lock, the environment"}
        ],
    }
    if not str(said["repository-code"] or "").startswith(("https://", "http://", "ftp://", "sftp://")):
        del said["repository-code"]
    return (
        _HEADER + "".join(f"{line}\n" for line in _yaml({key: value for key, value in said.items() if value}))
    ).encode()


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
    """Block YAML whose scalars are JSON strings, which YAML 1.2 reads as they are."""
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
    # YAML ends lines at these, JSON does not.
    return (
        json.dumps(text, ensure_ascii=False)
        .replace("\x85", "\\u0085")
        .replace("\u2028", "\\u2028")
        .replace("\u2029", "\\u2029")
    )
