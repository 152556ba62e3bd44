"""Where attestations lie: ``research.attestations/`` beside the manifest, one file for each lock and key."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from reprobox.attestation.envelope import MOST_BYTES, sign
from reprobox.attestation.keys import PublicKey
from reprobox.attestation.statement import Statement
from reprobox.errors import IntegrityError, ReproboxError, UsageError

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner

FOLDER = "research.attestations"
SUFFIX = ".dsse.json"
#: Files of one folder that are read.
MOST_FILES = 1000


def vouch(project: Path, statement: Statement, key: PublicKey, signer: CryptoSigner) -> Path:
    """Sign a statement and put it beside the project. An earlier one of this key for this lock is replaced."""
    path = project / FOLDER / f"{statement.lock[:12]}-{key.name}-{key.id[:8]}{SUFFIX}"
    data = sign(statement.data(), signer)
    staged = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(exist_ok=True)
        try:
            with staged.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            staged.replace(path)
        finally:
            staged.unlink(missing_ok=True)
    except OSError as error:
        hint = "attestations are written beside the manifest: that folder must be writable"
        raise ReproboxError(f"it cannot be written: {error.strerror}", where=str(path), hint=hint) from None
    return path


def attestations_in(paths: Iterable[Path]) -> Iterator[Path]:
    """The files that are given, and those in the folders that are. Raises :class:`UsageError` for what is not there."""
    for path in paths:
        if path.is_dir():
            found = sorted(file for file in path.iterdir() if file.name.endswith(SUFFIX) and file.name[0] != ".")
            if len(found) > MOST_FILES:
                raise UsageError(
                    f"it has more than {MOST_FILES} attestations", where=str(path), hint="name those you mean"
                )
            yield from found
        elif os.path.lexists(path):
            yield path
        else:
            raise UsageError(
                "there is no such file or folder", where=str(path), hint=f"give a *{SUFFIX} file, or a folder"
            )


def read_attestation(path: Path) -> bytes:
    """The bytes of one file; never more than :data:`MOST_BYTES` and one. Raises :class:`IntegrityError`."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise IntegrityError("it is no file", where=str(path))
            return file.read(MOST_BYTES + 1)
    except OSError as error:
        raise IntegrityError(f"it cannot be read: {error.strerror}", where=str(path)) from None
