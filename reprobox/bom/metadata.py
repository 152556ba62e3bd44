"""What a package says of itself besides its licence: who maintains it, where its home is, and what it depends on."""

from __future__ import annotations

import json
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reprobox.archives.tar_stream import TarError
from reprobox.debian.control import fields
from reprobox.debian.deb import control_files
from reprobox.errors import ReproboxError
from reprobox.licences import core_metadata, read_core
from reprobox.lock import Input
from reprobox.store import Store

_FORMAT = "2"


@dataclass(frozen=True, kw_only=True, slots=True)
class Metadata:
    """``depends`` and ``provides`` are in the words of the package's own kind: deb-control(5), or PEP 508.

    ``source`` is what a Debian package was built from: ``name version``.
    """

    supplier: str = ""
    homepage: str = ""
    summary: str = ""
    source: str = ""
    depends: tuple[str, ...] = ()
    provides: tuple[str, ...] = ()


def metadata_of(item: Input, store: Store) -> Metadata:
    """What an input that is in the store says; nothing where it cannot be read. It is remembered by the file's hash."""
    key = f"{item.sha256}-{_FORMAT}"
    made = store.derived("metadata", key, lambda: json.dumps(asdict(_found(item, store.blob(item.sha256)))).encode())
    said = json.loads(made)
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in said.items()}
    return Metadata(**values)


def _found(item: Input, path: Path) -> Metadata:
    try:
        if item.name.endswith(".deb"):
            return of_control(fields(control_files(path.read_bytes())["control"]))
        return of_core(core_metadata(item, path))
    except (ReproboxError, TarError, tarfile.TarError, zipfile.BadZipFile, OSError, ValueError, EOFError, KeyError):
        return Metadata()  # whoever installs it will say what is wrong with it


def of_control(said: Mapping[str, str]) -> Metadata:
    """A stanza of a .deb, or of dpkg's status."""
    source, _, version = said.get("Source", "").partition(" ")
    source_version = version.strip("()") or said.get("Version", "")
    return Metadata(
        supplier=said.get("Maintainer", ""),
        homepage=said.get("Homepage", ""),
        summary=said.get("Description", "").partition("\n")[0],
        source=f"{source or said.get('Package', '')} {source_version}",
        depends=tuple(said[name] for name in ("Pre-Depends", "Depends") if said.get(name)),
        provides=(said["Provides"],) if said.get("Provides") else (),
    )


def of_core(data: bytes) -> Metadata:
    """The metadata of a wheel, a source, or an installed Python package."""
    if not data:
        return Metadata()
    headers = read_core(data)
    urls = dict(str(value).split(", ", 1) for value in headers.get_all("Project-URL", ()) if ", " in str(value))
    homes = [url for label, url in urls.items() if label.lower().replace(" ", "") in ("homepage", "home")]
    name = str(headers.get("Maintainer") or headers.get("Author") or "").strip()
    email = str(headers.get("Maintainer-email") or headers.get("Author-email") or "").partition(",")[0].strip()
    return Metadata(
        supplier=name or email,
        homepage=str(headers.get("Home-page") or "").strip() or (homes[0] if homes else ""),
        summary=str(headers.get("Summary") or "").partition("\n")[0],
        depends=tuple(str(value) for value in headers.get_all("Requires-Dist", ())),
    )
