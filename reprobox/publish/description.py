"""What a publication must say of itself: asked for all at once, before anything is written."""

from __future__ import annotations

from collections.abc import Iterator

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from reprobox.errors import ManifestError, Problem
from reprobox.image import rfc3339
from reprobox.lock import Lock
from reprobox.manifest import Manifest, Project
from reprobox.urls import without_password

#: Keys that every format asks for: key, what it is for, and what to write.
_NEEDED = (
    ("description", "says in a sentence what it is", 'add description = "…"'),
    ("license", "says what readers may do with it", 'add license = "…", an SPDX expression such as "MIT"'),
    ("authors", "names who made it", 'add authors = [{ name = "…" }]'),
)


def check_described(manifest: Manifest) -> None:
    """Raise :class:`ManifestError` with everything that the manifest does not say and a publication must."""
    problems = tuple(undescribed(manifest))
    if problems:
        raise ManifestError(problems)


def undescribed(manifest: Manifest) -> Iterator[Problem]:
    """What is missing, or wrong, in ``[project]`` for a publication."""
    for key, purpose, hint in _NEEDED:
        if not getattr(manifest.project, key):
            yield manifest.problem(("project", key), f"missing, and a publication {purpose}", hint)
    licence = manifest.project.license
    if licence and not is_expression(licence):
        hint = 'write one such as "MIT", "CC-BY-4.0", "MIT OR Apache-2.0", or "LicenseRef-Name" for terms of your own'
        yield manifest.problem(("project", "license"), f'"{licence}" is no SPDX licence expression', hint)


def is_expression(text: str) -> bool:
    """Whether it is an SPDX licence expression of licences that SPDX knows, or of ``LicenseRef-…``."""
    try:
        canonicalize_license_expression(text)
    except InvalidLicenseExpression:
        return False
    return True


def licence_words(expression: str) -> list[str]:
    """The words of a canonical expression, without brackets; none of what is no expression."""
    if not is_expression(expression):
        return []
    return canonicalize_license_expression(expression).replace("(", " ").replace(")", " ").split()


def licences(expression: str) -> list[str]:
    """The SPDX identifiers in an expression, in its order, each once; exceptions are none."""
    words = licence_words(expression)
    named = [word for before, word in zip(["", *words], words, strict=False) if before != "WITH"]
    return list(dict.fromkeys(word for word in named if word not in ("AND", "OR", "WITH")))


def licence_url(identifier: str) -> str:
    """Where SPDX describes the licence; empty for terms of the author's own."""
    if identifier.startswith("LicenseRef-"):
        return ""
    return f"https://spdx.org/licenses/{identifier.removesuffix('+')}"


def title(project: Project) -> str:
    """What people cite."""
    return project.title or project.name


def published(project: Project, lock: Lock) -> str:
    """The day of the release, ``2026-11-22``: the manifest's, else the lock's epoch. Never today."""
    return project.date or rfc3339(lock.epoch)[:10]


def doi_url(doi: str) -> str:
    """The address that resolves a DOI."""
    return f"https://doi.org/{doi}"


def orcid_url(orcid: str) -> str:
    """The identifier that ORCID wants people to be named by."""
    return f"https://orcid.org/{orcid}"


def code_repository(manifest: Manifest) -> str:
    """Where people find the code, as a web address without anybody's password; empty where nothing says so."""
    url = manifest.project.repository or without_password(manifest.code.git or "")
    return url if url.startswith(("https://", "http://")) else ""
