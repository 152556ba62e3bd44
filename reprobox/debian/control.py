"""Control data as deb822(5) and deb-control(5) define it: stanzas, relations, and Packages indices by the byte.

An index of a Debian release has some 60,000 stanzas in 48 MB, of which a lock needs a hundred: an index is split by
bytes, and a stanza is parsed when somebody asks for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from reprobox.debian.version import satisfies, sort_key


def fields(stanza: bytes) -> dict[str, str]:
    """The fields of one stanza, names as written, a continued value with its line breaks and without its indent."""
    values: dict[str, str] = {}
    name = ""
    for line in stanza.decode("utf-8", "surrogateescape").split("\n"):
        if line[:1] in (" ", "\t"):
            if name:
                values[name] += "\n" + line[1:]
        elif line and line[0] != "#":
            name, _, value = line.partition(":")
            values[name] = value.strip()
    return values


def stanzas(data: bytes) -> list[bytes]:
    """The stanzas of ``data``, which empty lines part."""
    return [piece for piece in data.split(b"\n\n") if not piece.isspace() and piece]


def write(values: Mapping[str, str]) -> bytes:
    """One stanza, with its closing empty line."""
    lines = (f"{name}: {value}".replace(": \n", ":\n", 1).replace("\n", "\n ") for name, value in values.items())
    return ("\n".join((*lines, "", ""))).encode("utf-8", "surrogateescape")


@dataclass(frozen=True, kw_only=True, slots=True)
class Relation:
    """One alternative of a dependency: a package name, and which versions of it will do."""

    name: str
    operator: str = ""
    version: str = ""
    qualifier: str = ""  # "any", "native" or an architecture, after the name's colon

    def __str__(self) -> str:
        text = f"{self.name}:{self.qualifier}" if self.qualifier else self.name
        return f"{text} ({self.operator} {self.version})" if self.operator else text

    def accepts(self, version: str) -> bool:
        return not self.operator or satisfies(version, self.operator, self.version)


_RELATION = re.compile(
    r"\s*(?P<name>[^\s:(\[<|,]+)(?::(?P<qualifier>[^\s(\[<]+))?\s*(?:\(\s*(?P<operator><<|<=|=|>=|>>|<|>)\s*(?P<version>[^\s)]+)\s*\))?"
)


def relations(text: str) -> Iterator[tuple[Relation, ...]]:
    """The groups of a relationship field (``Depends``, ``Provides``, …), each with its alternatives in order."""
    for group in text.split(","):
        found = (_RELATION.match(alternative) for alternative in group.split("|"))
        alternatives = tuple(Relation(**match.groupdict(default="")) for match in found if match)
        if alternatives:
            yield alternatives


@lru_cache(maxsize=16384)
def _field(stanza: bytes, name: str) -> str:
    """What a field of one line says. The closure of a base asks the same of the same packages again and again."""
    match = _field_pattern(name).search(stanza)
    return match[1].decode("utf-8", "surrogateescape").rstrip() if match else ""


@lru_cache(maxsize=64)
def _field_pattern(name: str) -> re.Pattern[bytes]:
    return re.compile(rb"^" + re.escape(name.encode()) + rb":[ \t]*(.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Package:
    """A package as an index offers it. ``index`` says which index that was; parsed when first asked."""

    stanza: bytes
    index: str

    def __getitem__(self, name: str) -> str:
        """The field ``name``, ``""`` where the stanza has none; fields that go over lines are not asked this way."""
        return _field(self.stanza, name)

    @property
    def name(self) -> str:
        return self["Package"]

    @property
    def version(self) -> str:
        return self["Version"]

    @property
    def architecture(self) -> str:
        return self["Architecture"]

    @property
    def essential(self) -> bool:
        return self["Essential"] == "yes"

    def relations(self, *names: str) -> Iterator[tuple[Relation, ...]]:
        for name in names:
            yield from relations(self[name])

    @property
    def file_name(self) -> str:
        """The name of its .deb as archives have it: without the version's epoch."""
        return f"{self.name}_{self.version.partition(':')[2] or self.version}_{self.architecture}.deb"


class Universe:
    """Every package that a set of indices offers, the newest version of a name first.

    ``indices`` maps a label (kept on each Package) to the bytes of a Packages file; all count the same, as apt sees
    sources of equal priority.
    """

    def __init__(self, indices: Mapping[str, bytes]) -> None:
        self._data = tuple(indices.values())
        self._stanzas: dict[bytes, list[tuple[str, bytes]]] = {}
        for label, data in indices.items():
            for stanza in data.split(b"\n\n"):
                if stanza.startswith(b"Package: "):
                    name = stanza[9 : stanza.find(b"\n")]
                    self._stanzas.setdefault(name, []).append((label, stanza))
        self._newest: dict[str, tuple[Package, ...]] = {}

    def names(self) -> Iterable[str]:
        return (name.decode("utf-8", "surrogateescape") for name in self._stanzas)

    def versions(self, name: str) -> Sequence[Package]:
        """All offered versions of ``name``, newest first; of equal versions, the one of the earlier index first."""
        if name not in self._newest:
            found = [Package(stanza, label) for label, stanza in self._stanzas.get(name.encode(), ())]
            self._newest[name] = tuple(sorted(found, key=lambda item: sort_key(item.version), reverse=True))
        return self._newest[name]

    def newest(self, name: str) -> Package | None:
        versions = self.versions(name)
        return versions[0] if versions else None

    def containing(self, line: bytes) -> Iterator[Package]:
        """The newest packages whose stanza has exactly ``line``, sorted by name."""
        for name in sorted({name for data in self._data for name in _names_containing(data, b"\n" + line + b"\n")}):
            package = self.newest(name)
            if package and line in package.stanza.split(b"\n"):
                yield package

    @cached_property
    def _provided(self) -> dict[str, list[str]]:
        """Virtual names, and which packages provide them in some version."""
        provided: dict[str, list[str]] = {}
        for raw, offers in self._stanzas.items():
            if any(b"\nProvides:" in stanza for _, stanza in offers):
                package = self.newest(raw.decode())
                for relation, *_ in package.relations("Provides") if package else ():
                    provided.setdefault(relation.name, []).append(raw.decode())
        return provided

    def providers(self, wanted: Relation) -> Iterator[Package]:
        """Packages that provide ``wanted``, sorted by name; a versioned wish needs a versioned offer."""
        for name in sorted(self._provided.get(wanted.name, ())):
            package = self.newest(name)
            for offer, *_ in package.relations("Provides") if package else ():
                if (
                    package
                    and offer.name == wanted.name
                    and (not wanted.operator or (offer.version and wanted.accepts(offer.version)))
                ):
                    yield package
                    break


def _names_containing(data: bytes, needle: bytes) -> Iterator[str]:
    """Package names of the stanzas of an index in which ``needle`` occurs; the index is only scanned, not split."""
    found = data.find(needle)
    while found >= 0:
        gap = data.rfind(b"\n\n", 0, found)
        start = gap + 2 if gap >= 0 else 0
        yield data[start + 9 : data.index(b"\n", start)].decode("utf-8", "surrogateescape")
        found = data.find(needle, found + 1)
