"""What was deposited from a project, in ``research.deposit.json`` beside the manifest: so that nothing is sent twice.

It holds no secret, and belongs under version control: whoever goes on needs it. It is never part of the code.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from reprobox.errors import DepositError, ReproboxError, UsageError
from reprobox.staging import lock

FILE_NAME = "research.deposit.json"
DRAFT, PUBLISHED, GONE = "draft", "published", "gone"
_FORMAT = 1
_MOST = 1 << 20
#: Record ids are numbers at Zenodo, and such as ``4d0ns-ntd89`` elsewhere. They become parts of URLs.
RECORD_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}\Z")


@dataclass(frozen=True, kw_only=True, slots=True)
class Deposit:
    """One record, or the draft of one; the DOI of one that is gone is still known as ours.

    ``server`` is its base URL, ``files`` md5 hex by name, as archives have them.
    """

    server: str
    id: str
    state: str
    doi: str = ""
    page: str = ""
    files: Mapping[str, str] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        return {
            "server": self.server,
            "id": self.id,
            "state": self.state,
            "doi": self.doi,
            "page": self.page,
            "files": dict(self.files),
        }


@dataclass(frozen=True, slots=True)
class Memory:
    """All deposits of a project, the latest last; ``path`` is the file."""

    path: Path
    deposits: tuple[Deposit, ...] = ()

    def latest(self, server: str) -> Deposit | None:
        """The one at ``server`` that was begun last, and is still there as far as is known."""
        there = (item for item in reversed(self.deposits) if item.server == server and item.state != GONE)
        return next(there, None)

    def dois(self) -> frozenset[str]:
        """DOIs of all that was deposited from here."""
        return frozenset(item.doi.lower() for item in self.deposits if item.doi)

    def with_deposit(self, deposit: Deposit) -> Memory:
        """The same with ``deposit``, in place of what was known of that record; written at once."""
        known = [(item.server, item.id) for item in self.deposits]
        if (deposit.server, deposit.id) in known:
            at = known.index((deposit.server, deposit.id))
            changed = (*self.deposits[:at], deposit, *self.deposits[at + 1 :])
        else:
            changed = (*self.deposits, deposit)
        memory = replace(self, deposits=changed)
        _write(memory)
        return memory

    def check_writable(self) -> None:
        """Raise :class:`ReproboxError` where nothing could be remembered, before anything is sent."""
        if not os.access(self.path.parent, os.W_OK | os.X_OK):
            raise _not_written(self.path, OSError(0, "its folder cannot be written"))


def _write(memory: Memory) -> None:
    document = {"format": _FORMAT, "deposits": [item.document() for item in memory.deposits]}
    staged = memory.path.with_name(f".{memory.path.name}.{secrets.token_hex(4)}")
    try:
        try:
            with staged.open("x") as file:
                file.write(json.dumps(document, indent=2) + "\n")
                file.flush()
                os.fsync(file.fileno())
            staged.replace(memory.path)
        finally:
            staged.unlink(missing_ok=True)
    except OSError as error:
        raise _not_written(memory.path, error) from None


def _not_written(path: Path, error: OSError) -> ReproboxError:
    hint = "what is deposited is remembered beside the manifest, so that nothing is published twice"
    return ReproboxError(f"it cannot be written: {error.strerror}", where=str(path), hint=hint)


@contextlib.contextmanager
def alone(root: Path) -> Iterator[None]:
    """One command at a time deposits from the project in this folder: two would make two records of it.

    Raises :class:`DepositError` while another one does. Where the file system has no locks, nobody is kept out.
    """
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            hint = "wait until it is done, and run it again"
            raise DepositError("another command deposits from this project now", where=str(root), hint=hint) from None
        except OSError:  # NFS wants a descriptor for writing, which a folder never has
            pass
        yield
    finally:
        os.close(descriptor)


def recall(root: Path) -> Memory:
    """What was deposited from the project in this folder. Raises :class:`UsageError` for a file that is damaged."""
    path = root / FILE_NAME
    try:
        with path.open("rb") as file:
            data = file.read(_MOST + 1)
    except FileNotFoundError:
        return Memory(path)
    except OSError as error:
        raise UsageError(f"it cannot be read: {error.strerror}", where=str(path)) from None
    try:
        document = json.loads(data)
        if document["format"] != _FORMAT or len(data) > _MOST:
            raise ValueError("another format")
        return Memory(path, tuple(map(_deposit, document["deposits"])))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        hint = "restore it, or take it away: then the next deposit begins a new record"
        raise UsageError("it is damaged, or written by another version", where=str(path), hint=hint) from None


def _deposit(item: Mapping[str, Any]) -> Deposit:
    words = {name: str(item[name]) for name in ("server", "id", "state", "doi", "page")}
    if not RECORD_ID.match(words["id"]) or words["state"] not in (DRAFT, PUBLISHED, GONE):
        raise ValueError(words["id"])
    return Deposit(files={str(name): str(md5) for name, md5 in item["files"].items()}, **words)
