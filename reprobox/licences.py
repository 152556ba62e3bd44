"""The licence of each input, as the input itself tells it, and which ones may not be passed on to everybody.

A .deb tells it in its copyright file where that is machine-readable (DEP-5), and else may refer to the texts of
/usr/share/common-licenses; a wheel or an sdist tells it in its metadata. What is told is not checked by anybody, and
``unknown`` means that nothing was told.
"""

from __future__ import annotations

import json
import re
import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from email.message import Message
from email.parser import HeaderParser
from email.policy import compat32
from pathlib import Path
from typing import Any

from reprobox.archives.tar_stream import FILE, TarError, TarStream
from reprobox.debian.control import fields
from reprobox.debian.deb import control_files, data_tar
from reprobox.errors import ReproboxError
from reprobox.lock import Input
from reprobox.store import Store

UNKNOWN = "unknown"
_SECTIONS = ("non-free", "restricted", "multiverse")
_CLOSED = re.compile(
    r"proprietary|all rights reserved|nvidia|commercial|non-?commercial|end user licen[cs]e", re.IGNORECASE
)
_LARGEST = 1 << 20
_LISTED = 12
_FORMAT = "2"

#: Where a licence is told.
DEP5 = "machine-readable copyright file"
PROSE = "copyright file"
EXPRESSION, CLASSIFIERS, LICENSE = "License-Expression", "License classifiers", "License"


@dataclass(frozen=True, kw_only=True, slots=True)
class Licence:
    """What an input says: its licences in words, and why it may not be redistributable (empty if nothing says so).

    ``names`` are all of them, as they are called there; ``told_in`` says where: :data:`DEP5`, :data:`EXPRESSION` or
    another of these. Of :data:`PROSE`, which only people can read, ``refers`` are the common licences that it names.
    """

    name: str = UNKNOWN
    closed: str = ""
    names: tuple[str, ...] = ()
    told_in: str = ""
    refers: tuple[str, ...] = ()


def licence_of(item: Input, store: Store) -> Licence:
    """The licence of an input that is in the store. What is found is remembered there by the file's hash."""
    made = store.derived("licences", f"{item.sha256}-{_FORMAT}", lambda: _dumped(_found(item, store.blob(item.sha256))))
    said = json.loads(made)
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in said.items()}
    return Licence(**values)


def _dumped(found: Licence) -> bytes:
    return json.dumps(asdict(found)).encode()


def _found(item: Input, path: Path) -> Licence:
    try:
        if item.name.endswith(".deb"):
            return _of_deb(path.read_bytes(), item.facts.get("path", ""))
        if data := core_metadata(item, path):
            return of_metadata(data)
    except (ReproboxError, TarError, tarfile.TarError, zipfile.BadZipFile, OSError, ValueError, EOFError):
        pass  # whoever installs it will say what is wrong with it
    return Licence()


def core_metadata(item: Input, path: Path) -> bytes:
    """METADATA of a wheel, PKG-INFO of a source; empty for another file."""
    if item.name.endswith(".whl"):
        return _in_wheel(path)
    if item.type in ("sdist", "build") and item.name.endswith((".tar.gz", ".tgz")):
        return _in_sdist(path)
    return b""


def _of_deb(data: bytes, pool: str) -> Licence:
    section = fields(control_files(data)["control"]).get("Section", "")
    area = next((name for name in _SECTIONS if section.startswith(name) or f"/{name}" in f"/{pool}"), "")
    return replace(_copyright(data), closed=f"it is in {area}" if area else "")


def _copyright(deb: bytes) -> Licence:
    stream = TarStream(iter((data_tar(deb),)))
    for header in stream:
        if (
            re.fullmatch(rb"(?:\./)?usr/share/doc/[^/]+/copyright", header.name)
            and header.kind == FILE
            and header.size < _LARGEST
        ):
            return of_copyright(b"".join(stream.data()))
    return Licence()


def of_copyright(data: bytes) -> Licence:
    """What a copyright file says: the licences that a machine-readable one lists, or the texts that prose refers to.

    https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
    """
    text = data.decode("utf-8", "replace")
    if not text.startswith(("Format:", "Format-Specification:")):
        referred = {name.rstrip(".") for name in re.findall(r"/usr/share/common-licenses/([A-Za-z0-9.-]+)", text)}
        return Licence(told_in=PROSE, refers=tuple(sorted(referred)))
    found = {line.strip() for line in re.findall(r"^License:[ \t]*(\S[^\n]*)$", text, re.MULTILINE)}
    names = tuple(sorted(name for name in found if len(name) < 80))
    return Licence(name=_listed(names), names=names, told_in=DEP5) if names else Licence(told_in=PROSE)


def _listed(names: Sequence[str]) -> str:
    more = f", and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _in_wheel(path: Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        names = (name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))
        if (name := next(names, None)) is None:
            return b""
        with archive.open(name) as file:
            return file.read(_LARGEST)


def _in_sdist(path: Path) -> bytes:
    with tarfile.open(path, "r:gz") as archive:
        for member in archive:
            if re.fullmatch(r"[^/]+/PKG-INFO", member.name) and (file := archive.extractfile(member)):
                return file.read(_LARGEST)
    return b""


def read_core(data: bytes) -> Message:
    """The headers of core metadata, which are UTF-8 whatever e-mail says."""
    return HeaderParser(policy=compat32).parsestr(data.decode("utf-8", "replace"))


def of_metadata(data: bytes) -> Licence:
    """Core metadata: the expression where there is one, else the classifiers, else the first line of the text.

    https://packaging.python.org/en/latest/specifications/core-metadata/
    """
    headers = read_core(data)
    classifiers = [str(value) for value in headers.get_all("Classifier", ())]
    named = tuple(sorted(value.rpartition(" :: ")[2] for value in classifiers if value.startswith("License :: ")))
    text = str(headers.get("License", "")).strip().partition("\n")[0][:80]
    expression = str(headers.get("License-Expression", "")).strip()
    said = ((EXPRESSION, (expression,)), (CLASSIFIERS, named), (LICENSE, (text,)))
    told_in, names = next(((where, names) for where, names in said if any(names)), ("", ()))
    name = ", ".join(names) or UNKNOWN
    closed = f"its licence is {name}" if _CLOSED.search(f"{name} {text}") else ""
    return Licence(name=name, closed=closed, names=names, told_in=told_in)
