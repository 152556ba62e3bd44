"""Who ran it, as whoever runs it chooses to be named."""

from __future__ import annotations

import contextlib
from pathlib import Path

from reprobox import launch
from reprobox.errors import UsageError
from reprobox.git.own import git
from reprobox.manifest import Manifest
from reprobox.run_record.record import Agent

CHOICES = ("git", "author", "login", "none")


def agent(choice: str | None, manifest: Manifest, folder: Path) -> Agent | None:
    """``git``: the name in git's settings; ``author``: the manifest's only author; ``login``; ``none``.

    Without a choice git's name, or else the login name. A name that is an author's has that author's ORCID iD; nobody's
    e-mail address is recorded. Raises :class:`UsageError` where a choice names nobody.
    """
    authors = manifest.project.authors
    if choice == "none":
        return None
    if choice == "author":
        if len(authors) != 1:
            said = f"{len(authors)} authors" if authors else "no author"
            raise UsageError(
                f"the manifest has {said}", where="project.authors", hint="use --by git, --by login or --by none"
            )
        return Agent(name=authors[0].name, orcid=authors[0].orcid)
    name = _git_name(folder) if choice != "login" else ""
    if choice == "git" and not name:
        raise UsageError(
            "git knows no name", where="--by git", hint='set one with `git config user.name "…"`, or use --by login'
        )
    name = name or launch.user_name()
    return Agent(name=name, orcid=next((author.orcid for author in authors if author.name == name), None))


def _git_name(folder: Path) -> str:
    with contextlib.suppress(OSError, UsageError):
        return git(folder, "config", "--get", "user.name").stdout.decode(errors="replace").strip()
    return ""
