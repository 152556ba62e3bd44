"""``fetch``: files from a URL, locked by their hash. Archives may be unpacked, never out of their folder.

The lock has hash, size and file name, and a digest of the URL by which it is found in the manifest again: where a file
comes from is said there, and only there.
"""

from __future__ import annotations

import os
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from reprobox.archives.fetched import Archive, ArchiveError
from reprobox.digest import Json
from reprobox.download.transfer import Location
from reprobox.errors import BuildError, FetchError, IntegrityError, ManifestError, Problem
from reprobox.git.worktree import IN_THE_WAY, Placing
from reprobox.layers.copy import destination
from reprobox.layers.kind import Files, Resolution, ResolveRequest, StepRequest
from reprobox.lock import Input, request_digest
from reprobox.manifest import Layer, Manifest, Mount
from reprobox.providers import Found
from reprobox.table_rules import Rule, at_most_one, needs
from reprobox.tables import key
from reprobox.tree import Tree
from reprobox.urls import without_password
from reprobox.value_checks import file_url, sha256_hex
from reprobox.wording import quote

_CHUNK = 1 << 20
#: The key of a request that is about the files of a mount, and where the layer made of them has them.
MOUNTS = "mounts"
DOWNLOADED = "/data"
_CHANGED = (
    "the file changed where it comes from, or was tampered with: bring the old one into the store or to that URL, or"
    " take the new one with `reprobox lock --upgrade`"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchFile:
    """One file to download.

    It becomes ``to``; where ``to`` ends with a slash, or is a folder of the environment, it goes into that folder under
    its own name. With ``unpack``, the content of the archive goes into the folder ``to``.
    """

    RULES: ClassVar[tuple[Rule, ...]] = (at_most_one("unpack", "executable"), needs("strip", "unpack"))

    url: str = key("Where to download it from.", check=file_url, hint='add url = "https://…"')
    sha256: str | None = key("Hash that the file must have; always in the lock.", default=None, check=sha256_hex)
    to: str = key("Where it goes in the environment.", check=destination, hint='add to = "/opt/…"')
    unpack: bool = key("Unpack the archive (tar or zip) into the folder `to`.", default=False)
    strip: int = key("How many folders at the start of the archive's names are left out.", default=0)
    executable: bool = key("Make it a program: mode 0755 instead of 0644.", default=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchOptions:
    """The keys of a ``fetch`` layer."""

    files: tuple[FetchFile, ...] = key(
        "Files to download.", nonempty=True, hint='add files = [{ url = "https://…", to = "/opt/…" }]'
    )


class Fetch:
    """The kind. Modes are 0644, 0755 for what is executable and for folders; links of archives stay links."""

    name = "fetch"
    recipe = 1
    pinned = True
    options = FetchOptions

    def needs(self, layer: Layer, above: Sequence[Layer]) -> tuple[str, ...]:  # noqa: ARG002 - the protocol's names
        """Nothing: it may be beside others that write elsewhere."""
        return ()

    def destinations(self, layer: Layer) -> tuple[str, ...]:
        """Where it writes in the environment."""
        return tuple(item.to for item in layer.options.files)

    def resolve(self, request: ResolveRequest) -> Resolution:
        """Each file by its hash. A pin stays unless it is upgraded; what the store has is not downloaded."""
        files: tuple[FetchFile, ...] = request.layer.options.files
        _raise(_mistakes(request, files))
        inputs = _named(files, _pins(request, files))
        packed = [item for item, file in zip(inputs, files, strict=True) if file.unpack]
        request.world.fetch(packed)
        _raise(_bad_archives(request, files, inputs))
        options: list[Json] = [_options(file, item) for file, item in zip(files, inputs, strict=True)]
        return Resolution(inputs=tuple({item.name: item for item in inputs}.values()), options={"files": options})

    def step(self, request: StepRequest) -> Files:
        """Put the files where they go."""
        return Files(write=partial(_write, list(_work(request))))


class UrlProvider:
    """Finds locked files at the URLs that the manifest has."""

    name = "manifest"

    def __init__(self, manifest: Manifest | None) -> None:
        layers = manifest.layers if manifest else ()
        urls = [file.url for layer in layers if layer.kind == Fetch.name for file in layer.options.files]
        urls += [file.url for mount in (manifest.mounts.values() if manifest else ()) for file in mount.files]
        self._urls = {request_digest(url): url for url in urls}

    def locate(self, inputs: Sequence[Input]) -> Mapping[str, Sequence[Location]]:
        known = {item.sha256: self._urls.get(item.facts.get("source", "")) for item in inputs if item.type == "file"}
        return {digest: [Location(url=url, changed=_CHANGED)] for digest, url in known.items() if url}


def download_layer(path: str, mount: Mount) -> Layer:
    """The files of a mount as a layer of this kind, which is mounted and in no image."""
    files = tuple(
        FetchFile(
            url=file.url,
            sha256=file.sha256,
            to=f"{DOWNLOADED}/{file.to or ''}",
            unpack=file.unpack,
            strip=file.strip,
        )
        for file in mount.files
    )
    return Layer(name=path, kind=Fetch.name, options=FetchOptions(files=files))


# -- locking -----------------------------------------------------------------------------------------------------------


def _raise(problems: Sequence[Problem]) -> None:
    if problems:
        raise ManifestError(problems)


def _problem(request: ResolveRequest, number: int, name: str, message: str, hint: str) -> Problem:
    table = ("mounts", request.layer.name) if request.key == MOUNTS else ("layers", request.layer.index)
    return request.manifest.problem((*table, "files", number, name), message, hint)


def _mistakes(request: ResolveRequest, files: Sequence[FetchFile]) -> list[Problem]:
    """What can be said before anything is downloaded, and no single key knows."""
    problems = []
    for number, file in enumerate(files):
        if file.strip < 0:
            hint = "0 leaves every name as it is"
            problems.append(_problem(request, number, "strip", f"{file.strip} is no number of folders", hint))
        if file.to.endswith("/") and not file.unpack and not _file_name(file.url):
            hint = f"write the name that it shall have: to = {quote(file.to + 'name')}"
            problems.append(_problem(request, number, "to", "the URL does not end in a file name", hint))
    return problems


def _file_name(url: str) -> str:
    """The last part of the URL's path, where it is fit to be a file's name."""
    name = urllib.parse.unquote(urllib.parse.urlsplit(url).path.rpartition("/")[2])
    return name if name not in (".", "..") and "/" not in name and name.isprintable() and len(name) < 200 else ""


def _pins(request: ResolveRequest, files: Sequence[FetchFile]) -> list[Found]:
    store, old = request.world.store, _old_pins(request)
    pins: dict[FetchFile, Found] = {}
    for file in files:
        pinned = old.get(request_digest(file.url))
        if file.sha256 and store.has_blob(file.sha256):
            pins[file] = Found(sha256=file.sha256, size=store.blob(file.sha256).stat().st_size)
        elif pinned and file.sha256 in (None, pinned.sha256):
            pins[file] = Found(sha256=pinned.sha256, size=pinned.size)
    missing = [file for file in files if file not in pins]
    pins |= zip(missing, _obtained(request, missing), strict=True)
    for number, file in enumerate(files):
        if file.sha256 not in (None, pins[file].sha256):
            raise _other_bytes(request, number, file, pins[file])
    return [pins[file] for file in files]


def _obtained(request: ResolveRequest, missing: Sequence[FetchFile]) -> Sequence[Found]:
    try:
        return request.world.obtain([file.url for file in missing]) if missing else ()
    except FetchError as error:
        hint = error.hint or "check the URL in the manifest"
        raise FetchError(error.message, where=error.where, hint=hint) from None


def _old_pins(request: ResolveRequest) -> dict[str, Input]:
    if request.previous is None or request.upgrade:
        return {}
    return {item.facts["source"]: item for item in request.previous.inputs if "source" in item.facts}


def _other_bytes(request: ResolveRequest, number: int, file: FetchFile, found: Found) -> IntegrityError:
    place = _problem(request, number, "sha256", "", "")
    return IntegrityError(
        f"{without_password(file.url)} has other bytes than the manifest says"
        f"\n  manifest: sha256 {file.sha256}\n  found:    sha256 {found.sha256}, {found.size} bytes",
        where=f"{place.file}:{place.line}: {place.key}",
        hint="find out which of them its publisher means before you write another hash",
    )


def _named(files: Sequence[FetchFile], pins: Sequence[Found]) -> list[Input]:
    """Inputs whose names are different where their bytes are."""
    taken: dict[str, str] = {}
    inputs = []
    for number, (file, pin) in enumerate(zip(files, pins, strict=True), start=1):
        name = _file_name(file.url) or file.to.rstrip("/").rpartition("/")[2] or "file"
        if taken.setdefault(name, pin.sha256) != pin.sha256:
            name = f"{number}-{name}"
            taken[name] = pin.sha256
        facts = {"package": name, "source": request_digest(file.url)}
        inputs.append(Input(type="file", name=name, sha256=pin.sha256, size=pin.size, facts=facts))
    return inputs


def _bad_archives(request: ResolveRequest, files: Sequence[FetchFile], inputs: Sequence[Input]) -> list[Problem]:
    problems = []
    for number, (file, item) in enumerate(zip(files, inputs, strict=True)):
        if file.unpack:
            try:
                _archive(request.world.store.blob(item.sha256), file.to, file.strip).check()
            except ArchiveError as error:
                name = "strip" if str(error).startswith("strip ") else "unpack"
                problems.append(
                    _problem(request, number, name, f"{item.name} cannot be unpacked: {error}", _NO_ARCHIVE)
                )
    return problems


_NO_ARCHIVE = "leave `unpack` out to have the file itself, or fetch another archive"


def _archive(path: Path, to: str, strip: int) -> Archive:
    return Archive(path, home=os.fsencode(to.strip("/")), strip=strip)


def _options(file: FetchFile, item: Input) -> dict[str, Json]:
    said: dict[str, Json] = {"file": item.name, "to": file.to}
    name = _file_name(file.url)
    more: dict[str, Json] = {
        "name": name if name != item.name else "",
        "unpack": file.unpack,
        "strip": file.strip,
        "executable": file.executable,
    }
    return said | {name: value for name, value in more.items() if value}


# -- building ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Work:
    """One file of the store, and what is to be done with it."""

    path: Path
    name: str
    to: str
    unpack: bool
    strip: int
    executable: bool


def _work(request: StepRequest) -> Iterator[_Work]:
    files = request.layer.options["files"]
    assert isinstance(files, Sequence)
    for item in files:
        assert isinstance(item, Mapping)
        strip = item.get("strip", 0)
        assert isinstance(strip, int)
        yield _Work(
            path=request.files[str(item["file"])],
            name=str(item.get("name") or item["file"]),
            to=str(item["to"]),
            unpack=bool(item.get("unpack")),
            strip=strip,
            executable=bool(item.get("executable")),
        )


def _write(work: Sequence[_Work], root: Path, parents: Tree) -> None:
    with Placing(root, parents) as placing:
        for item in work:
            try:
                _unpack(item, placing) if item.unpack else _put(item, placing)
            except ArchiveError as error:
                raise BuildError(f"{item.name} cannot be unpacked: {error}", hint=_NO_ARCHIVE) from None
            except OSError as error:
                if error.errno not in IN_THE_WAY:
                    raise
                reason = f"{error.filename}: {error.strerror}"
                raise BuildError(f"{item.to} cannot be written: {reason}", hint="choose another `to`") from None


def _put(item: _Work, placing: Placing) -> None:
    target = os.fsencode(item.to.strip("/"))
    if placing.takes(item.to):
        target += b"/" + os.fsencode(item.name)
    with item.path.open("rb") as file:
        placing.write(target, iter(lambda: file.read(_CHUNK), b""), executable=item.executable)


def _unpack(item: _Work, placing: Placing) -> None:
    home = os.fsencode(item.to.strip("/"))
    placing.folder(home)
    for member, content in _archive(item.path, item.to, item.strip).members():
        place = home + b"/" + member.path
        if member.kind == "d":
            placing.folder(place)
        elif member.kind == "l":
            placing.link(place, member.target)
        elif member.kind == "h":
            placing.hard_link(place, home + b"/" + member.target)
        else:
            placing.write(place, content, executable=member.kind == "x")
