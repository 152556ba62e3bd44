"""Where packages can be had: apt's own configuration, read as sources.list(5) defines it.

A source says nothing about what is believed: every Release that comes from one is checked against keys (``release``).
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from reprobox.debian.control import fields, stanzas

Read = Callable[[str], "bytes | None"]

_SCHEMES = ("http://", "https://", "file:", "copy:")


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One suite of one archive at one place.

    ``uri`` has no slash at its end. ``signed_by`` are key files, fingerprints or one armored key block, empty where the
    system's trusted keys decide. ``where`` is the file that said so, for messages. ``expires`` is false where the
    administrator has said that this place keeps old Release files. ``others`` are further places with the same files.
    ``exact`` is false where the Release file may call itself otherwise than ``suite``, as apt would only warn of.
    """

    uri: str
    suite: str
    components: tuple[str, ...] = ("main",)
    architectures: tuple[str, ...] = ()
    signed_by: tuple[str, ...] = ()
    expires: bool = True
    where: str = ""
    others: tuple[str, ...] = ()
    exact: bool = True

    def places(self) -> Iterator[Source]:
        """The source at each of its places, best first."""
        for uri in (self.uri, *self.others):
            yield replace(self, uri=uri, others=())

    @property
    def flat(self) -> bool:
        """Whether the suite is a path, and the repository just a folder with an index and packages."""
        return self.suite.endswith("/")

    @property
    def dists(self) -> str:
        """The URL of the folder that holds the suite's Release file. DebianRepository/Format"""
        if self.flat:
            return "/".join((self.uri, *(part for part in self.suite.split("/") if part not in ("", "."))))
        return f"{self.uri}/dists/{self.suite}"


def read_sources(read: Read, files: Sequence[str]) -> tuple[Source, ...]:
    """The binary sources that ``files`` (absolute paths of ``.list`` and ``.sources`` files) name, in apt's order.

    ``read`` gives a file's bytes, or None. What apt would skip is skipped: disabled stanzas and ``deb-src``; and so are
    transports that are not plain files or HTTP.
    """
    found: list[Source] = []
    for file in sorted(files, key=lambda path: (path != "/etc/apt/sources.list", path)):
        text = (read(file) or b"").decode("utf-8", "surrogateescape")
        entries = parse_deb822(text, file) if file.endswith(".sources") else parse_list(text, file)
        found += (source for entry in entries for source in _expanded(entry, read))
    return tuple(dict.fromkeys(found))


def parse_list(text: str, where: str) -> Iterator[Source]:
    """The ``deb`` lines of the one-line style."""
    for number, line in enumerate(text.splitlines(), 1):
        match = re.match(r"\s*deb\s+(?:\[(?P<options>[^\]]*)\]\s*)?(?P<rest>[^#]+)", line)
        words = match["rest"].split() if match else []
        if match and len(words) >= 2 and (len(words) == 2) == words[1].endswith("/"):
            pairs = (option.partition("=") for option in (match["options"] or "").split())
            options = {name.lower().rstrip("+-"): value.replace(",", " ") for name, _, value in pairs}
            yield _source(words[0], words[1], words[2:], options, f"{where}:{number}")


def parse_deb822(text: str, where: str) -> Iterator[Source]:
    """The stanzas of the deb822 style."""
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    for stanza in stanzas("\n".join(lines).encode("utf-8", "surrogateescape")):
        values = {name.lower(): value for name, value in fields(stanza).items()}
        if values.get("enabled", "yes").lower() in ("no", "false", "0") or "deb" not in values.get("types", "").split():
            continue
        for uri in values.get("uris", "").split():
            for suite in values.get("suites", "").split():
                components = values.get("components", "").split()
                if bool(components) != suite.endswith("/"):
                    yield _source(uri, suite, components, values, where)


def _source(uri: str, suite: str, components: Sequence[str], options: Mapping[str, str], where: str) -> Source:
    architectures = options.get("architectures", options.get("arch", "")).split()
    return Source(
        uri=uri.rstrip("/"),
        suite=suite,
        components=tuple(components),
        architectures=tuple(architectures),
        signed_by=_signed_by(options.get("signed-by", "")),
        expires=options.get("check-valid-until", "yes").lower() not in ("no", "false", "0"),
        where=where,
    )


def _signed_by(value: str) -> tuple[str, ...]:
    if "-----BEGIN PGP" in value:  # deb822: an empty line of the key is written as a lone dot
        return ("\n".join("" if line.strip() == "." else line.strip() for line in value.split("\n")).strip() + "\n",)
    return tuple(value.replace(",", " ").split())


def _expanded(source: Source, read: Read) -> Iterator[Source]:
    """The source with its transport resolved; nothing where the transport is not ours."""
    uris = [source.uri]
    if source.uri.startswith("mirror+file:"):
        listed = (read("/" + source.uri.partition(":")[2].lstrip("/")) or b"").decode("utf-8", "replace")
        uris = [line.split("\t")[0].partition("#")[0].strip().rstrip("/") for line in listed.splitlines()]
    places = [_plain(uri) for uri in uris if uri.startswith(_SCHEMES)]
    if places:
        yield replace(source, uri=places[0], others=tuple(places[1:]))


def _plain(uri: str) -> str:
    scheme, _, path = uri.partition(":")
    return "file:///" + path.lstrip("/") if scheme in ("file", "copy") else uri


def read_host(path: str) -> bytes | None:
    """A file of this machine, or None."""
    try:
        return Path(path).read_bytes()
    except OSError:
        return None


def source_files(folder: Path = Path("/etc/apt")) -> list[str]:
    """The files in which apt on this machine looks for sources."""
    found = [folder / "sources.list", *folder.glob("sources.list.d/*.list"), *folder.glob("sources.list.d/*.sources")]
    return [str(path) for path in found if path.is_file()]


def host_sources() -> tuple[Source, ...]:
    """What apt on this machine would use; nothing on machines without apt."""
    return read_sources(read_host, source_files())


def sibling(uri: str, name: str) -> str:
    """The place beside ``uri`` that mirrors keep the archive ``name`` at: ``…/debian`` and ``…/debian-security``."""
    return posixpath.join(posixpath.dirname(uri), name)
