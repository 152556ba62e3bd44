"""The repository that a project is in: its author's own, which is asked with the host's git as the author has it.

What a stranger offers is got by :mod:`reprobox.git.repository`, which trusts git with the transport alone.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from reprobox.errors import UsageError

#: What would have git look at another repository, as it does inside a hook.
_ELSEWHERE = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX", "GIT_NAMESPACE")


def git(
    repository: Path, *arguments: str, data: bytes | None = None, extra: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run git there, without its hooks; it asks nobody for anything.

    Raises :class:`UsageError` where there is no git, or no such folder.
    """
    argv = ["git", "-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", *arguments]
    environment = {name: value for name, value in os.environ.items() if name not in _ELSEWHERE}
    environment |= {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_NO_LAZY_FETCH": "1", **(extra or {})}
    try:
        return subprocess.run(argv, cwd=repository, env=environment, input=data, capture_output=True, check=False)
    except FileNotFoundError:
        raise UsageError("git is not installed here", where=str(repository), hint="install git") from None
    except NotADirectoryError:
        raise UsageError("it is no folder", where=str(repository), hint="give a git repository with -C") from None


def commit_of(repository: Path, revision: str) -> str | None:
    """The commit (hexadecimal) that a tag, a branch or a hash names; None where git knows none."""
    return _commit(repository, revision)[0]


def _commit(repository: Path, revision: str) -> tuple[str | None, str]:
    """The commit, or git's reason why there is none, if it gives one."""
    done = git(repository, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if done.returncode:
        return None, done.stderr.decode(errors="replace").strip().removeprefix("fatal: ")
    return done.stdout.decode().strip(), ""


def committed(folder: Path, revision: str, name: str) -> bytes | None:
    """The file ``name`` of ``folder`` in a revision, or what git's ``REVISION:PATH`` names; None where there is none.

    Raises :class:`UsageError` for what git does not know.
    """
    commit, reason = _commit(folder, revision)
    if commit is not None:
        shown = git(folder, "show", f"{commit}:./{name}")
    elif ":" in revision:
        shown = git(folder, "show", "--end-of-options", revision)
    else:
        raise UsageError(
            f"there is no file or git revision {revision!r}" + (f": {reason}" if reason else ""),
            where=str(folder),
            hint="give a lock file, or a commit, branch or tag that `git log` knows",
        )
    return shown.stdout if shown.returncode == 0 else None
