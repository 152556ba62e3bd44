# ruff: noqa: RUF009 - key() is a field specifier
"""The user's own settings: where this person's bytes come from and go to. Never part of a manifest or a lock.

They stand in ``$REPROBOX_CONFIG``, else in ``reprobox/config.toml`` of the platform's configuration folder::

    jobs = 16                                           # downloads at a time
    backend = "docker"                                  # of realize, run and shell
    builder = "sandbox"                                 # what runs build steps
    vaults = ["/archive/lab", "oci://registry.lan/lab"] # asked before other places; those in a registry last
    doi-resolver = "https://doi.org"                    # what says where a DOI leads

    [archives]                                          # base URIs of package archives, by the archive's name
    debian = ["https://mirror.example/debian"]

    [snapshots]                                         # base URIs of snapshot services
    debian = ["https://snapshot.example/archive/debian"]

    [registries]
    mirrors = { "docker.io" = ["https://mirror.example"] }
    insecure = ["registry.lan:5000"]                    # asked over http

    [index]                                             # Python packages
    url = "https://mirror.example/simple"
    extra = ["https://wheels.example/simple"]
    find-links = ["/srv/wheels"]                        # folders of wheels, or pages with links

    [store]
    path = "/scratch/me/reprobox"
    shared = ["/groups/lab/reprobox"]                   # stores of others, which are only read

    [remote]                                            # built layers of a team, in an OCI registry
    repository = "registry.example/group/layers"
    trust = "seal"                                      # or "pushers": take also what no seal vouches for
    push = false                                        # push what is built
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from reprobox import tables, toml_lines
from reprobox.errors import Problem, UsageError
from reprobox.table_rules import Check, Finding, pattern
from reprobox.tables import EMPTY, Reader, key
from reprobox.wording import quote

FILE_NAME = "config.toml"
MAX_BYTES = 1 << 20
MOST_JOBS = 64
TRUST = ("seal", "pushers")
DOI_RESOLVER = "https://doi.org"


def _path(text: str) -> Finding | None:
    if text.startswith(("/", "~/")):
        return None
    return Finding(f"expected an absolute path, found {quote(text)}", "begin it with / or ~/")


def _place_of_vault(text: str) -> Finding | None:
    if text.startswith(("/", "~/")) or (text.startswith("oci://") and len(text) > len("oci://")):
        return None
    return Finding(f"expected an absolute path or oci://…, found {quote(text)}", "begin it with /, ~/ or oci://")


_vault = Check(find=_place_of_vault)
_url = pattern(r"(?:https?|file)://\S+", "a URL", "begin it with https://, http:// or file://")
_links = pattern(r"(?:(?:https?|file)://|/)\S+", "a URL or an absolute path", "begin it with https://, file:// or /")
_web = pattern(r"https?://\S+", "a URL", "begin it with https:// or http://")
_host = pattern(r"[A-Za-z0-9.\[\]:-]+", "the name of a registry", 'write host or host:port, such as "docker.io"')
_absolute = Check(find=_path)
_backend = pattern(r"[A-Za-z0-9][A-Za-z0-9_.-]*", "the name of a backend", "`reprobox plugins` shows which there are")


@dataclass(frozen=True, kw_only=True, slots=True)
class Registries:
    """How OCI registries are reached."""

    mirrors: Mapping[str, tuple[str, ...]] = key(
        "Registries that are asked before the one named.", default=EMPTY, check=_web, check_names=_host
    )
    insecure: tuple[str, ...] = key("Registries that are asked over http.", default=(), check=_host)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Index:
    url: str | None = key("The Python package index.", default=None, check=_url)
    extra: tuple[str, ...] = key("Indices to ask as well.", default=(), check=_url)
    find_links: tuple[str, ...] = key(
        "Folders of wheels, or pages with links to wheels.", default=(), toml_name="find-links", check=_links
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Store:
    path: str | None = key("The folder that holds downloads and built layers.", default=None, check=_absolute)
    shared: tuple[str, ...] = key("Stores of others that are looked into, best first.", default=(), check=_absolute)


@dataclass(frozen=True, kw_only=True, slots=True)
class Remote:
    """Where built layers are shared; no ``repository`` means nowhere."""

    repository: str = key("The repository of an OCI registry that has built layers.", default="")
    trust: Literal["seal", "pushers"] = key("Whose word counts for the bytes of a layer.", default="seal")
    push: bool = key("Push what is built.", default=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class _File:
    jobs: int = key("Downloads at a time.", default=16)
    backend: str | None = key("The backend of realize, run and shell.", default=None, check=_backend)
    builder: str | None = key("The backend that runs build steps.", default=None, check=_backend)
    vaults: tuple[str, ...] = key("Vaults that are looked into, best first.", default=(), check=_vault)
    doi_resolver: str = key("What resolves DOIs.", default=DOI_RESOLVER, toml_name="doi-resolver", check=_web)
    archives: Mapping[str, tuple[str, ...]] = key("Package archives.", default=EMPTY, check=_url, nonempty=True)
    snapshots: Mapping[str, tuple[str, ...]] = key("Snapshot services.", default=EMPTY, check=_url, nonempty=True)
    registries: Registries = key("OCI registries.", default=Registries())
    index: _Index = key("Python packages.", default=_Index())
    store: _Store = key("The store.", default=_Store())
    remote: Remote = key("Built layers that are shared.", default=Remote())


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Settings in force: environment variables before the file, the file before the defaults.

    ``archives`` and ``snapshots`` have base URIs without a final slash, best first, by archive name. ``index`` may have
    ``url``, and ``extra`` and ``find-links`` with further places joined by spaces. ``plain`` has layers built without
    short cuts. ``path`` is the file they came from, if there is one.
    """

    store: Path
    shared: tuple[Path, ...] = ()
    jobs: int = 16
    archives: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    snapshots: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    registries: Registries = field(default_factory=Registries)
    remote: Remote = field(default_factory=Remote)
    index: Mapping[str, str] = field(default_factory=dict)
    vaults: tuple[str, ...] = ()
    doi_resolver: str = DOI_RESOLVER
    plain: bool = False
    path: Path | None = None


def _index(said: _Index) -> dict[str, str]:
    places = {"url": said.url or "", "extra": " ".join(said.extra), "find-links": " ".join(said.find_links)}
    return {name: value for name, value in places.items() if value}


def load(environment: Mapping[str, str] = os.environ) -> Config:
    """The settings of this user. Raises :class:`UsageError` with file, line and key of every mistake."""
    path = _location(environment)
    said = _read(path) if path else _File()
    return Config(
        store=store_path(environment, said.store.path),
        shared=_shared_stores(environment, said.store.shared),
        jobs=_jobs(environment) or said.jobs,
        archives=_bases(said.archives),
        snapshots=_bases(said.snapshots),
        registries=said.registries,
        remote=_remote(environment, said.remote),
        index=_index(said.index),
        vaults=said.vaults,
        doi_resolver=said.doi_resolver,
        plain=environment.get("REPROBOX_PLAIN", "0") not in ("", "0"),
        path=path,
    )


def store_path(environment: Mapping[str, str] = os.environ, configured: str | None = None) -> Path:
    """Where the store is: ``$REPROBOX_STORE``, else as configured, else the platform's cache folder.

    Raises :class:`UsageError` for a relative path: it would be another store in every folder.
    """
    if chosen := environment.get("REPROBOX_STORE"):
        return _given_path("REPROBOX_STORE", chosen)
    if configured:
        return Path(configured).expanduser()
    import platformdirs

    return platformdirs.user_cache_path("reprobox", appauthor=False)


def _shared_stores(environment: Mapping[str, str], configured: Sequence[str]) -> tuple[Path, ...]:
    """The shared stores: those of ``$REPROBOX_SHARED_STORES``, separated by colons, else as configured."""
    chosen = environment.get("REPROBOX_SHARED_STORES")
    if chosen is None:
        return tuple(Path(text).expanduser() for text in configured)
    return tuple(_given_path("REPROBOX_SHARED_STORES", text) for text in chosen.split(os.pathsep) if text)


def _given_path(variable: str, text: str) -> Path:
    """Where a variable leads: from every folder to the same place."""
    if wrong := _path(text):
        raise UsageError(wrong.message, where=variable, hint=wrong.hint)
    return Path(text).expanduser()


def place(environment: Mapping[str, str] = os.environ) -> Path:
    """Where the settings stand, or would."""
    if chosen := environment.get("REPROBOX_CONFIG"):
        return Path(chosen)
    import platformdirs

    return platformdirs.user_config_path("reprobox", appauthor=False) / FILE_NAME


def check(text: str, file: str) -> None:
    """Raise :class:`UsageError` with every mistake of settings that are not written yet."""
    _parse(text.encode(), file)


def _location(environment: Mapping[str, str]) -> Path | None:
    path = place(environment)
    return path if environment.get("REPROBOX_CONFIG") or path.exists() else None


def _jobs(environment: Mapping[str, str]) -> int | None:
    text = environment.get("REPROBOX_JOBS")
    if not text:
        return None
    if not (text.isdecimal() and 1 <= int(text) <= MOST_JOBS):
        raise UsageError(
            f"expected a number from 1 to {MOST_JOBS}, found {quote(text)}",
            where="REPROBOX_JOBS",
            hint="it says how many downloads run at a time",
        )
    return int(text)


def _remote(environment: Mapping[str, str], said: Remote) -> Remote:
    """The remote: each of three variables wins over what the file says; an empty name means none."""
    repository = environment.get("REPROBOX_REMOTE")
    trust = environment.get("REPROBOX_REMOTE_TRUST") or said.trust
    push = environment.get("REPROBOX_REMOTE_PUSH") or ("1" if said.push else "0")
    if trust not in TRUST:
        raise UsageError(
            f"expected seal or pushers, found {quote(trust)}",
            where="REPROBOX_REMOTE_TRUST",
            hint="it says whose word counts for the bytes of a layer that is taken from the remote",
        )
    if push not in ("0", "1"):
        raise UsageError(
            f"expected 1 or 0, found {quote(push)}",
            where="REPROBOX_REMOTE_PUSH",
            hint="1 pushes what is built to the remote",
        )
    return Remote(
        repository=said.repository if repository is None else repository,
        trust="pushers" if trust == "pushers" else "seal",
        push=push == "1",
    )


def _bases(uris: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    return {name: tuple(uri.rstrip("/") for uri in found) for name, found in uris.items()}


def _read(path: Path) -> _File:
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(
            f"the settings cannot be read: {error.strerror}",
            where=str(path),
            hint="make it, or unset REPROBOX_CONFIG, which names it",
        ) from None
    return _parse(data, str(path))


def _parse(data: bytes, file: str) -> _File:
    if len(data) > MAX_BYTES:
        raise _mistakes(Problem(file=file, line=0, key="", message=f"it is larger than {MAX_BYTES} bytes"))
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
        positions = toml_lines.scan(text)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _mistakes(Problem(file=file, line=line, key="", message="it is not UTF-8 text")) from None
    except toml_lines.LimitError as error:
        raise _mistakes(Problem(file=file, line=error.line, key="", message=str(error))) from None
    try:
        document: dict[str, Any] = tomllib.loads(text)
    except ValueError as error:  # also what int() says to 5,000 digits
        raise _mistakes(toml_lines.explain(error, text, positions, file)) from None
    reader = Reader(file, positions)
    said: _File = reader.table(_File, document, ())
    jobs = document.get("jobs")
    if type(jobs) is int and not 1 <= jobs <= MOST_JOBS:
        reader.problem(("jobs",), f"expected a number from 1 to {MOST_JOBS}, found {jobs}")
    if reader.problems:
        raise _mistakes(*tables.by_line(reader.problems))
    return said


def _mistakes(*problems: Problem) -> UsageError:
    return UsageError("\n".join(map(str, problems)))
