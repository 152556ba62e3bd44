"""Real apt as the solver: run in the base's root, or in another that runs on this machine, without network, over
indices that were verified here. apt.conf(5)

apt sees placeholder hosts (``r0.invalid``, one for each suite), so that each file it chooses tells which suite it is
of. What it works out over the indices alone is kept in the store: reading 60,000 stanzas takes it two seconds,
reading its own cache none.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
import urllib.parse
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reprobox.backend import Bind, ToolResult
from reprobox.debian import deb
from reprobox.debian.archive import Index
from reprobox.debian.control import Universe, fields, relations, stanzas, write
from reprobox.digest import Json, canonical, sha256
from reprobox.errors import ResolveError
from reprobox.lock import Input, Lock
from reprobox.tree import remove

if TYPE_CHECKING:
    from reprobox.layers.kind import World
    from reprobox.store import Store

_ROOM = "/run/reprobox/apt"
_REQUEST = "/run/reprobox/request"
#: Seconds; no question to apt takes nearly as long.
_KEPT_FOR = 7 * 24 * 3600
_PINS = "/etc/apt/preferences.d/zz-reprobox"
_EVERY_DAY = ("Date", "Valid-Until")  # fields of Release files that change without any package
_RAW = 32  # bytes of a sha256

_CONFIGURATION = f"""\
Dir::Etc::Parts "/dev/null";
Dir::Etc::SourceList "{_ROOM}/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::State::Lists "{_ROOM}/lists";
Dir::State::Status "{_REQUEST}/status";
Dir::Cache "{_ROOM}/cache";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "{_ROOM}/cache/srcpkgcache.bin";
Acquire::ForceHash "SHA256";
Acquire::Languages "none";
APT::Sandbox::User "root";
APT::Install-Suggests "false";
APT::Get::Assume-Yes "true";
APT::Get::Allow-Downgrades "true";
quiet "1";
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What apt is asked: install ``packages`` (as its command line has them) on a system with this dpkg status.

    ``kept`` are locked packages that are preferred over newer ones; ``forgotten`` those of them that no index offers
    any more, with their .debs in the store. ``architectures`` has the native one first. ``root`` is where apt runs, if
    not in the base itself, and ``preferences`` what the base would have said there.
    """

    packages: tuple[str, ...]
    status: bytes
    architectures: tuple[str, ...]
    recommends: bool
    indices: tuple[Index, ...]
    kept: tuple[Input, ...] = ()
    forgotten: tuple[Input, ...] = ()
    root: Lock | None = None
    preferences: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """One .deb that apt would install. ``index`` is where it comes from, None if only the old lock has it."""

    package: str
    version: str
    architecture: str
    path: str
    sha256: str
    size: int
    index: Index | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What apt would do: install ``choices``, and remove and downgrade these packages."""

    choices: tuple[Choice, ...]
    removed: tuple[str, ...]
    downgraded: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """What apt said when it could not: its errors (``E:`` lines without the mark), and its explanation."""

    errors: tuple[str, ...]
    explanation: str


def ask(world: World, question: Question) -> Answer | Refusal:
    """Let apt solve ``question``, which may be about another architecture than its own."""
    with world.store.scratch() as scratch, _room(world.store, question, scratch) as room:
        request = scratch / "request"
        request.mkdir(mode=0o755)
        (request / "status").write_bytes(question.status)
        pins = f"{question.preferences}\n\n{_preferences(question.kept)}"
        (request / "pins").write_text(pins, errors="surrogateescape")
        return understand(_run(world, question, room, request), question)


def _run(world: World, question: Question, room: Path, request: Path) -> ToolResult:
    return world.tool(
        (
            *("env", f"APT_CONFIG={_ROOM}/apt.conf", "apt-get", "install", "--print-uris"),
            *("-o", f"APT::Install-Recommends={str(question.recommends).lower()}"),
            *question.packages,
        ),
        binds=(
            Bind(source=room, target=_ROOM, writable=True),
            Bind(source=request, target=_REQUEST),
            Bind(source=request / "pins", target=_PINS),
        ),
        root=question.root,
    )


# -- what apt reads ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _room(store: Store, question: Question, scratch: Path) -> Iterator[Path]:
    """A folder with indices as apt wants them. It is kept, with apt's own cache, unless old packages are added."""
    parts: list[Json] = [
        [number, index.label, index.sha256, _release(index).decode("utf-8", "replace")]
        for number, index in _numbered(question.indices)
    ]
    key = sha256(canonical([parts, _CONFIGURATION, list(question.architectures)]))
    kept = store.memo("apt", key)
    if kept.is_dir() and not question.forgotten:
        os.utime(kept)
        yield kept
        return
    room = scratch / "room"
    _furnish(room, question, store)
    yield room
    if not question.forgotten and (room / "cache" / "srcpkgcache.bin").exists():
        with contextlib.suppress(OSError):  # another process was first
            _flush_files(room)
            room.rename(kept)
        _forget_old_rooms(kept.parent)


def _forget_old_rooms(folder: Path) -> None:
    """Archives change every day, and a room is as large as apt's cache: those not used for long are removed."""
    for room in folder.iterdir():
        with contextlib.suppress(OSError):  # another process was first
            if time.time() - room.stat().st_mtime > _KEPT_FOR:
                remove(room)


def _furnish(room: Path, question: Question, store: Store) -> None:
    for folder in ("lists/partial", "cache/archives/partial"):
        (room / folder).mkdir(parents=True, mode=0o755)
    native, *foreign = question.architectures
    listed = "".join(f'APT::Architectures:: "{name}";\n' for name in (native, *foreign))
    (room / "apt.conf").write_text(f'{_CONFIGURATION}APT::Architecture "{native}";\n{listed}')
    suites: dict[tuple[int, str], list[str]] = {}
    for number, index in _numbered(question.indices):
        flat = index.suite.endswith("/")  # paths in its index are relative to the archive, whatever the suite
        prefix = f"r{number}.invalid_" + ("._" if flat else f"dists_{index.suite.replace('/', '_')}_")
        (room / "lists" / f"{prefix}Release").write_bytes(_release(index))
        binary = "" if flat else f"{index.component}_binary-{index.architecture}_"
        # A copy: apt's cache is good while the time of the file stays, and that of a blob says when it was used.
        shutil.copyfile(index.path, room / "lists" / f"{prefix}{binary}Packages")
        suites.setdefault((number, "./" if flat else index.suite), []).append(index.component)
    lines = [
        f"http://r{number}.invalid {suite} {' '.join(dict.fromkeys(names))}".rstrip()
        for (number, suite), names in suites.items()
    ]
    if question.forgotten:
        (room / "lists" / "old.invalid_dists_old_Release").write_bytes(
            b"Suite: old\nCodename: old\nDate: Thu, 01 Jan 1970 00:00:00 UTC\n"
        )
        (room / "lists" / f"old.invalid_dists_old_main_binary-{native}_Packages").write_bytes(
            old_packages(store, question.forgotten)
        )
        lines.append("http://old.invalid old main")
    (room / "sources.list").write_text("".join(f"deb [trusted=yes] {line}\n" for line in lines))


def _release(index: Index) -> bytes:
    """What apt is told of the Release file, which was checked here: the same every day while the packages are."""
    return write({name: value for name, value in index.release.fields.items() if name not in _EVERY_DAY})


def _flush_files(folder: Path) -> None:
    """What a power cut would leave of files that were never flushed could look whole to apt."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _numbered(indices: Iterable[Index]) -> Iterator[tuple[int, Index]]:
    """Indices with a number for each (archive, suite) among them."""
    numbers: dict[tuple[str, str], int] = {}
    for index in indices:
        yield numbers.setdefault((index.uri, index.suite), len(numbers)), index


def _preferences(kept: Iterable[Input]) -> str:
    """apt_preferences(5): locked versions win over newer ones, but never downgrade what is installed."""
    return "".join(
        f"Package: {item.facts['package']}\nPin: version {item.facts['version']}\nPin-Priority: 990\n\n"
        for item in kept
    )


def old_packages(store: Store, inputs: Iterable[Input]) -> bytes:
    """Packages that are locked and no longer offered, as an index of their own: live indices forget old versions."""
    pieces = []
    for item in inputs:
        control = fields(deb.control_files(store.blob(item.sha256).read_bytes())["control"])
        place = {"Filename": item.sha256, "Size": str(item.size), "SHA256": item.sha256}
        pieces.append(write({**control, **place}))
    return b"".join(pieces)


def no_longer_offered(store: Store, inputs: Iterable[Input], indices: Iterable[Index]) -> tuple[Input, ...]:
    """Those of ``inputs`` that none of the indices has."""
    offered = [_offered(store, index) for index in indices]
    return tuple(item for item in inputs if not any(_among(bytes.fromhex(item.sha256), all_) for all_ in offered))


def _offered(store: Store, index: Index) -> bytes:
    """The sha256 of every package of an index, sorted, one after the other; remembered for each index."""

    def hashes() -> bytes:
        found = re.findall(rb"\nSHA256: ([0-9a-f]{64})(?=\n)", index.path.read_bytes())
        return b"".join(sorted(bytes.fromhex(digest.decode("ascii")) for digest in found))

    return store.derived("offered", index.sha256, hashes)


def _among(digest: bytes, sorted_digests: bytes) -> bool:
    place = bisect_left(range(len(sorted_digests) // _RAW), digest, key=lambda at: _at(sorted_digests, at))
    return _at(sorted_digests, place) == digest


def _at(digests: bytes, place: int) -> bytes:
    return digests[place * _RAW : (place + 1) * _RAW]


def extended_status(status: bytes, removed: Collection[str], debs: Iterable[Path]) -> bytes:
    """A dpkg status as it will be when lower layers have removed packages and installed ``debs``."""
    added = {}
    for path in debs:
        values = fields(deb.control_files(path.read_bytes())["control"])
        name = values.pop("Package")
        added[name, values["Architecture"]] = write({"Package": name, "Status": "install ok installed", **values})
    kept = []
    for stanza in stanzas(status):
        values = fields(stanza)
        name, architecture = values.get("Package", ""), values.get("Architecture", "")
        # A package that was "all" may become one of the native architecture, and the other way round.
        replaced = any(other == name and "all" in (kind, architecture) for other, kind in added)
        if (name, architecture) not in added and not replaced and not {name, f"{name}:{architecture}"} & set(removed):
            kept.append(stanza.strip(b"\n") + b"\n\n")
    return b"".join((*kept, *added.values()))


def names_and_provided(status: bytes, debs: Iterable[Path]) -> dict[str, str]:
    """Every package that will be there, and every virtual one that they provide, with the package's name."""
    there = [fields(stanza) for stanza in stanzas(status)]
    there += [fields(deb.control_files(path.read_bytes())["control"]) for path in debs]
    found = {
        relation.name: values["Package"] for values in there for (relation, *_) in relations(values.get("Provides", ""))
    }
    return found | {values["Package"]: values["Package"] for values in there if "Package" in values}


def package_names(store: Store, indices: Iterable[Index]) -> set[str]:
    """All package names of the indices; remembered for each index."""
    names: set[str] = set()
    for index in indices:
        names.update(_names(store, index).decode("utf-8", "surrogateescape").split("\n"))
    return names


def _names(store: Store, index: Index) -> bytes:
    def found() -> bytes:
        pieces = (b"\n" + index.path.read_bytes()).split(b"\nPackage: ")[1:]
        return b"\n".join(sorted({piece.partition(b"\n")[0] for piece in pieces}))

    return store.derived("names", index.sha256, found)


# -- what apt says -----------------------------------------------------------------------------------------------------

_URI = re.compile(
    r"^'http://(?P<host>[^/']+)/(?P<path>[^']+)' (?P<name>\S+) (?P<size>\d+) SHA256:(?P<sha256>[0-9a-f]{64})$",
    re.MULTILINE,
)


def understand(result: ToolResult, question: Question) -> Answer | Refusal:
    """What apt said, in our words."""
    if result.status != 0:
        return _refusal(result)
    text = result.stdout.decode("utf-8", "surrogateescape")
    _check_hashes(text)
    by_host = {f"r{number}.invalid": index for number, index in _numbered(question.indices)}
    old = {item.sha256: item for item in question.forgotten}
    return Answer(
        choices=tuple(_choice(match, by_host, old) for match in _URI.finditer(text)),
        removed=tuple(_section(text, "REMOVED")),
        downgraded=tuple(_section(text, "DOWNGRADED")),
    )


def _check_hashes(text: str) -> None:
    """An index may describe a package without a hash that one could lock."""
    for line in text.splitlines():
        if line.startswith("'http://") and not _URI.match(line):
            raise ResolveError(
                f"an index gives no SHA256 for {line.split()[1]}, so it cannot be locked",
                hint="ask the archive's maintainer to publish SHA256 sums, or take the package from another archive",
            )


def _choice(match: re.Match[str], by_host: Mapping[str, Index], old: Mapping[str, Input]) -> Choice:
    package, version, architecture = urllib.parse.unquote(match["name"]).removesuffix(".deb").rsplit("_", 2)
    known = old.get(match["sha256"])
    path = known.facts["path"] if known else urllib.parse.unquote(match["path"]).removeprefix("./")
    return Choice(
        package=package,
        version=version,
        architecture=architecture,
        path=path,
        sha256=match["sha256"],
        size=int(match["size"]),
        index=None if known else by_host[match["host"]],
    )


def _section(text: str, title: str) -> Iterator[str]:
    """Package names of ``The following packages will be REMOVED:`` and its like; the lines after it are indented."""
    inside = False
    for line in text.splitlines():
        if not line.startswith(" "):
            inside = line == f"The following packages will be {title}:"
        elif inside:
            yield from (name.rstrip("*") for name in line.split())


def _refusal(result: ToolResult) -> Refusal:
    said = result.stderr.decode("utf-8", "replace").splitlines()
    errors = tuple(line.removeprefix("E: ") for line in said if line.startswith("E: "))
    noise = re.compile(r"Reading package lists|Building dependency tree|Reading state information|[0-9]+ upgraded,")
    lines = [line for line in result.stdout.decode("utf-8", "replace").splitlines() if line and not noise.match(line)]
    start = next((number for number, line in enumerate(lines) if "unmet dependencies" in line), 0)
    if not errors:
        errors = (f"apt ended with status {result.status}", *said[-5:])
    return Refusal(errors=errors, explanation="\n".join(lines[start:]))


def pins_in_the_way(refusal: Refusal, kept: Iterable[Input]) -> set[str]:
    """Names of kept packages that apt's explanation is about.

    First those that are too old or not to be had for another; where there are none, those that want what cannot be.
    """
    names = {item.facts["package"] for item in kept}
    wanted = re.findall(r"[A-Z]\w+: ([a-z0-9][a-z0-9+.-]+)\S*(?: \([^)]*\))? but ", refusal.explanation)
    wanting = re.findall(r"^ ?([a-z0-9][a-z0-9+.-]+)\S* : ", refusal.explanation, re.MULTILINE)
    return names & set(wanted) or names & set(wanting)


def missing_versions(refusal: Refusal) -> list[str]:
    """Packages of which apt found no such version as was asked for."""
    found = (re.match(r"Version '.*' for '([^':]+)(?::[^']*)?' was not found", line) for line in refusal.errors)
    return [match[1] for match in found if match]


def offered_versions(name: str, indices: Iterable[Index]) -> list[str]:
    """Versions of ``name`` in the indices, newest first."""
    universe = Universe({f"{number}": index.path.read_bytes() for number, index in enumerate(indices)})
    return list(dict.fromkeys(package.version for package in universe.versions(name)))


def is_provided(name: str, indices: Iterable[Index]) -> bool:
    """Whether some package provides the virtual package ``name``."""
    return any(_provides(index.path.read_bytes(), name.encode()) for index in indices)


def _provides(data: bytes, name: bytes) -> bool:
    found = data.find(name)
    while found >= 0:
        start = data.rfind(b"\n", 0, found) + 1
        line = data[start : data.find(b"\n", found)]
        if line.startswith(b"Provides:"):
            offered = line.removeprefix(b"Provides:").decode("utf-8", "surrogateescape")
            if any(relation.name == name.decode() for (relation, *_) in relations(offered)):
                return True
        found = data.find(name, found + 1)
    return False
