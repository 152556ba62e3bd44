"""The licence of each input, as the input itself tells it, and which ones may not be passed on to everybody.

A .deb tells it in its copyright file where that is machine-readable (DEP-5); a wheel or an sdist in its metadata. What
is told is not checked by anybody, and ``unknown`` means that nothing was told.
"""

from __future__ import annotations

import json
import re
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from email.parser import BytesHeaderParser
from email.policy import compat32
from pathlib import Path

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
_FORMAT = "1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Licence:
    """What an input says: its licences in words, and why it may not be redistributable (empty if nothing says so)."""

    name: str = UNKNOWN
    closed: str = ""


def licence_of(item: Input, store: Store) -> Licence:
    """The licence of an input that is in the store. What is found is remembered there by the file's hash."""
    memo = store.memo("licences", item.sha256)
    try:
        version, name, closed = json.loads(memo.read_bytes())
        if version == _FORMAT:
            return Licence(name=name, closed=closed)
    except (OSError, ValueError):
        pass
    found = _found(item, store.blob(item.sha256))
    store.remember("licences", item.sha256, json.dumps([_FORMAT, found.name, found.closed]).encode())
    return found


def _found(item: Input, path: Path) -> Licence:
    try:
        if item.name.endswith(".deb"):
            return _of_deb(path.read_bytes(), item.facts.get("path", ""))
        if item.name.endswith(".whl"):
            return _of_metadata(_in_wheel(path))
        if item.type in ("sdist", "build") and item.name.endswith((".tar.gz", ".tgz")):
            return _of_metadata(_in_sdist(path))
    except (ReproboxError, TarError, tarfile.TarError, zipfile.BadZipFile, OSError, ValueError, EOFError):
        pass  # whoever installs it will say what is wrong with it
    return Licence()


def _of_deb(data: bytes, pool: str) -> Licence:
    section = fields(control_files(data)["control"]).get("Section", "")
    area = next((name for name in _SECTIONS if section.startswith(name) or f"/{name}" in f"/{pool}"), "")
    return Licence(name=_copyright(data) or UNKNOWN, closed=f"it is in {area}" if area else "")


def _copyright(deb: bytes) -> str:
    """The licences that a machine-readable copyright file lists, the most frequent first."""
    stream = TarStream(iter((data_tar(deb),)))
    for header in stream:
        if (
            re.fullmatch(rb"(?:\./)?usr/share/doc/[^/]+/copyright", header.name)
            and header.kind == FILE
            and header.size < _LARGEST
        ):
            text = b"".join(stream.data()).decode("utf-8", "replace")
            if not text.startswith(("Format:", "Format-Specification:")):
                return ""
            return _listed(line.strip() for line in re.findall(r"^License:[ \t]*(\S[^\n]*)$", text, re.MULTILINE))
    return ""


def _listed(names: Iterable[str]) -> str:
    found = sorted({name for name in names if len(name) < 80})
    more = f", and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    return ", ".join(found[:_LISTED]) + more


def _in_wheel(path: Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))
        with archive.open(name) as file:
            return file.read(_LARGEST)


def _in_sdist(path: Path) -> bytes:
    with tarfile.open(path, "r:gz") as archive:
        for member in archive:
            if re.fullmatch(r"[^/]+/PKG-INFO", member.name) and (file := archive.extractfile(member)):
                return file.read(_LARGEST)
    return b""


def _of_metadata(data: bytes) -> Licence:
    """Core metadata: the expression where there is one, else the classifiers, else the first line of the text."""
    headers = BytesHeaderParser(policy=compat32).parsebytes(data)
    classifiers = [str(value) for value in headers.get_all("Classifier", ())]
    named = [value.rpartition(" :: ")[2] for value in classifiers if value.startswith("License :: ")]
    text = str(headers.get("License", "")).strip().partition("\n")[0][:80]
    name = str(headers.get("License-Expression", "")).strip() or ", ".join(sorted(named)) or text or UNKNOWN
    closed = _CLOSED.search(f"{name} {text}")
    return Licence(name=name, closed=f"its licence is {name}" if closed else "")


# -- the inventory -----------------------------------------------------------------------------------------------------


def inventory(
    inputs: Iterable[Input], licences: Mapping[str, Licence], left_out: Mapping[str, str], titles: Mapping[str, str]
) -> str:
    """A plain text for people: every input with its hash, size, licence and file; what is closed, what is left out."""
    items = sorted({item.sha256: item for item in inputs}.values(), key=lambda item: (item.type, item.name))
    lines = ["What this vault keeps of the lock, as each file tells its licence itself.", ""]
    lines += [f"{item.sha256}  {item.size:>12}  {titles[item.sha256]}  {licences[item.sha256].name}" for item in items]
    closed = [item for item in items if licences[item.sha256].closed]
    if closed:
        lines += ["", "Perhaps not to be passed on to everybody:"]
        lines += [f"  {item.name}: {licences[item.sha256].closed}" for item in closed]
    if left_out:
        lines += ["", "Not in this vault:"]
        lines += [f"  {name}: {reason}" for name, reason in sorted(left_out.items())]
    return "\n".join(lines) + "\n"
