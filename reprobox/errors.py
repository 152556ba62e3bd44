"""The error tree: what went wrong, where, what to do about it, and the exit status it stands for.

Library code raises these and never prints or exits; ``reprobox.cli`` is the one place that turns an error into text and
a status. Anything else that escapes is a bug in reprobox and shows its traceback.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class ReproboxError(Exception):
    """Something a person can act on.

    ``message`` says what is wrong, ``where`` which file, key or input it is about, ``hint`` what to do next.
    """

    status = 1

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text}\n  hint: {self.hint}" if self.hint else text


class UsageError(ReproboxError):
    """The command line or a setting is wrong."""

    status = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One finding in a manifest: file, line (1-based, 0 if unknown), key path, what is wrong and what to do."""

    file: str
    line: int
    key: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        text = f"{place}: {self.key}: {self.message}" if self.key else f"{place}: {self.message}"
        return f"{text}\n  hint: {self.hint}" if self.hint else text


class ManifestError(ReproboxError):
    """A manifest that cannot be used; carries every problem of the file at once."""

    status = 2

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)


class LockError(ReproboxError):
    """The lock is missing, stale, unreadable or of a newer format."""

    status = 3


class DamagedLockError(LockError):
    """The lock was changed or cut short since it was written."""


class StaleLockError(LockError):
    """The lock is of another manifest, or of other files; carries what changed: ``env.LANG (changed)``."""

    def __init__(self, keys: Sequence[str], *, where: str, hint: str) -> None:
        listed = "".join(f"\n  {key}" for key in keys)
        super().__init__(f"the lock is stale; changed since it was made:{listed}", where=where, hint=hint)
        self.keys = tuple(keys)


class BackendError(ReproboxError):
    """The backend cannot work on this machine; the hint says what would make it work."""

    status = 4


class HostError(ReproboxError):
    """The machine lacks what a target requires of it; carries everything that it lacks at once."""

    status = 4

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)


class IntegrityError(ReproboxError):
    """Bytes did not match their hash, or a build did not match its seal."""

    status = 5


class OfflineError(ReproboxError):
    """An input is missing and the network may not be used."""

    status = 6


class ResolveError(ReproboxError):
    """No set of packages satisfies the manifest; the message holds the solver's own reason."""


class FetchError(ReproboxError):
    """An input could not be had from any provider; the message lists what each of them said."""


class PushError(ReproboxError):
    """A registry does not take what is pushed to it; the message holds what it says, ``code`` is its HTTP status."""

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None, code: int = 0) -> None:
        super().__init__(message, where=where, hint=hint)
        self.code = code


class DepositError(ReproboxError):
    """An archive does not take what is deposited; the message holds what it says, ``code`` is its HTTP status."""

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None, code: int = 0) -> None:
        super().__init__(message, where=where, hint=hint)
        self.code = code


class PlatformError(FetchError):
    """What a base is made of does not exist for the platform; the message lists those that it exists for."""


class BuildError(ReproboxError):
    """A step failed; the message holds its last lines and the path of the full log."""


def cannot_write(path: str | Path, error: OSError) -> ReproboxError:
    """What to tell a person whose disk is full, or who may not write there."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ReproboxError(
            "no space is left on the disk" if error.errno == errno.ENOSPC else "the disk quota is used up",
            where=str(path),
            hint="make room there, or set REPROBOX_STORE to a folder on another disk; nothing that is complete is lost",
        )
    return ReproboxError(f"it cannot be written: {error.strerror}", where=str(path))
