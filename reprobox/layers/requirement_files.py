"""Requirements files: what a ``requirements.txt`` asks for, with the files that it includes.

The format is the one of pip (https://pip.pypa.io/en/stable/reference/requirements-file-format/). What would let the
file decide where packages come from, or how they are built, is refused: a lock is for every machine.
"""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from reprobox.digest import canonical, sha256
from reprobox.errors import ManifestError, Problem

MAX_BYTES = 1 << 20
_DEEPEST = 16

_INCLUDES = {"-r": False, "--requirement": False, "-c": True, "--constraint": True}
_PLAIN = frozenset(("--prefer-binary", "--require-hashes"))  # what is always done, or checked below
_INDEX = frozenset(("-i", "--index-url", "--extra-index-url", "-f", "--find-links", "--no-index", "--trusted-host"))
_INDEX_HINT = "remove it, and set the index in reprobox's settings ([index] url and extra), uv's or pip's"
_LOCAL_HINT = 'remove it: code that you work on is mounted; `project = "…"` takes the dependencies of a folder'
_SHA256 = re.compile(r"--hash[= ]sha256:([0-9a-f]{64})\Z")


class Said(NamedTuple):
    """A requirement (PEP 508), and where it stands: ``requirements.txt:3``."""

    text: str
    where: str

    @property
    def name(self) -> str:
        """Name of the package, normalised as PEP 503 says."""
        return canonicalize_name(Requirement(self.text).name)

    @property
    def plain(self) -> str:
        """The text without the fragment of a URL."""
        return re.sub(r"( @ [^\s#]+)#\S*", r"\1", self.text)

    @property
    def sha256(self) -> str:
        """The hash (hex) in the fragment of a URL, ``#sha256=…``; empty without."""
        found = re.search(r" @ \S+#(?:\S*&)?sha256=([0-9a-f]{64})", self.text)
        return found[1] if found else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What a layer asks for, wherever it is said.

    ``hashes`` are the sha256 (hex) that a package's file must have one of, by normalised name; with ``hashed`` every
    package must be among them. ``files`` has a digest of what is meant by each local file that was read, by its path in
    the project.
    """

    requirements: tuple[Said, ...] = ()
    constraints: tuple[Said, ...] = ()
    hashes: Mapping[str, frozenset[str]] = field(default_factory=dict)
    hashed: bool = False
    prereleases: bool = False
    files: Mapping[str, str] = field(default_factory=dict)

    def hashes_of(self, package: str) -> frozenset[str]:
        """What :attr:`hashes` and the URLs of requirements say of a package; empty if nothing."""
        own = {said.sha256 for said in self.requirements if said.sha256 and said.name == package}
        return self.hashes.get(package, frozenset()) | own


#: Reads a file of the project by its path there; raises :class:`ManifestError` naming the key that wants it.
Read = Callable[[str], bytes]


def read_requirements(path: str, read: Read, *, constraints: bool = False) -> Asked:
    """What the requirements file at ``path`` of the project asks for; with ``constraints`` it asks for nothing, and
    only says which versions may be.

    Raises :class:`ManifestError` with every line that cannot be honoured.
    """
    reader = _Reader(read)
    reader.file(posixpath.normpath(path), as_constraints=constraints, above=())
    if reader.problems:
        raise ManifestError(reader.problems)
    return Asked(
        requirements=tuple(reader.requirements),
        constraints=tuple(reader.constraints),
        hashes={name: frozenset(found) for name, found in reader.hashes.items()},
        hashed=reader.hashed,
        prereleases=reader.prereleases,
        files=reader.files,
    )


class _Refusal(Exception):  # noqa: N818 - it is caught here
    """A line that is not taken: why, and what to do."""


class _Reader:
    """Collects what all files say, and every problem."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self.requirements: list[Said] = []
        self.constraints: list[Said] = []
        self.hashes: dict[str, set[str]] = {}
        self.files: dict[str, str] = {}
        self.problems: list[Problem] = []
        self.hashed = self.prereleases = False

    def file(self, path: str, *, as_constraints: bool, above: Sequence[str]) -> None:
        lines = list(logical_lines(decoded(self._read(path), path)))
        self.files[path] = sha256(canonical([text for _, text in lines]))[:16]
        for number, text in lines:
            try:
                self._line(text, f"{path}:{number}", as_constraints=as_constraints, above=(*above, path))
            except _Refusal as refusal:
                message, hint = refusal.args
                self.problems.append(Problem(file=path, line=number, key="", message=message, hint=hint))

    def _line(self, text: str, where: str, *, as_constraints: bool, above: Sequence[str]) -> None:
        if variable := re.search(r"\$\{[A-Z0-9_]+\}", text):
            hint = "write it out: a lock must not depend on who makes it"
            raise _Refusal(f"{variable[0]} stands for a variable of the environment", hint)
        if not text.startswith("-"):
            (self.constraints if as_constraints else self.requirements).append(self._requirement(text, where))
            return
        option, value = _option(text)
        if option in _INCLUDES:
            self._include(value, above, as_constraints=as_constraints or _INCLUDES[option])
        elif option in _INDEX:
            raise _Refusal(f"{option}: a lock does not say where packages come from", _INDEX_HINT)
        elif option in ("-e", "--editable"):
            raise _Refusal(f"{text}: an editable install is not taken", _LOCAL_HINT)
        elif option == "--pre":
            self.prereleases = True
        elif option == "--no-binary":
            raise _Refusal(f"{text}: what is built from source is said in the layer", 'remove it; see the key "build"')
        elif option not in _PLAIN and not text.startswith("--only-binary"):
            raise _Refusal(f"the option {option} is not understood", "remove the line")
        self.hashed |= option == "--require-hashes"

    def _include(self, value: str, above: Sequence[str], *, as_constraints: bool) -> None:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(above[-1]), value))
        if not value or "://" in value or value.startswith("/") or path.split("/")[0] == "..":
            hint = "copy the file into the project: it is part of what is locked"
            raise _Refusal(f"{value or 'nothing'} is not a file of the project", hint)
        if path in above or len(above) > _DEEPEST:
            raise _Refusal(f"the files include one another in a circle: {' -> '.join([*above, path])}", "remove it")
        self.file(path, as_constraints=as_constraints, above=above)

    def _requirement(self, text: str, where: str) -> Said:
        text, *options = re.split(r"\s+(?=--)", text)
        found = requirement_of(text)
        for option in options:
            if (match := _SHA256.match(option)) is None:
                raise _Refusal(f"{option.split('=')[0]} of a requirement is not understood", _ONLY_HASHES)
            self.hashes.setdefault(canonicalize_name(found.name), set()).add(match[1])
        return Said(str(found), where)


_ONLY_HASHES = "remove it; only --hash=sha256:… can stand behind a requirement"


def requirement_of(text: str) -> Requirement:
    """``text`` as PEP 508 reads it; a path or a bare URL is none."""
    hint = (
        _LOCAL_HINT if re.match(r"\.{0,2}/|file:", text) else 'for example "numpy", "numpy>=2" or "scipy[dev]==1.15.*"'
    )
    if re.match(r"https?://", text):
        hint = f'write the package\'s name before it: "name @ {text}"'
    try:
        found = Requirement(text)
    except InvalidRequirement as error:
        raise _Refusal(f'"{text}" is no requirement: {str(error).splitlines()[0]}', hint) from None
    if found.url and (wrong := url_problem(found.url)):
        raise _Refusal(f'"{text}" {wrong[0]}', wrong[1])
    return found


def url_problem(url: str) -> tuple[str, str] | None:
    """What is wrong with the URL of a requirement, and what to do; None if it can be locked."""
    place = url.partition("#")[0]
    if not re.match(r"https?://", place):
        return "names a place that not everyone has", "name a wheel by https://, or use a layer of the kind git or copy"
    if not place.endswith(".whl"):
        return "names something else than a wheel", "name the URL of a file that ends in .whl"
    if "@" in place.split("/")[2]:
        return "has a password in it", "leave it out: logins belong in ~/.netrc"
    return None


def _option(text: str) -> tuple[str, str]:
    """``-rfile``, ``-r file``, ``--requirement=file`` -> the option and its value."""
    if text.startswith("--"):
        name, _, value = text.replace("=", " ", 1).partition(" ")
    else:
        name, value = text[:2], text[2:]
    try:
        return name, " ".join(shlex.split(value))
    except ValueError:
        return name, value.strip()


def logical_lines(text: str) -> Iterator[tuple[int, str]]:
    r"""Number and text of each line that says something: comments left out, lines that end in ``\`` joined."""
    joined, start = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        start = start if joined else number
        continued = line.endswith("\\") and not line.lstrip().startswith("#")
        joined += line[:-1] + " " if continued else line
        if not continued:
            if said := _without_comment(joined):
                yield start, said
            joined = ""
    if said := _without_comment(joined):
        yield start, said


def _without_comment(line: str) -> str:
    return " ".join(re.sub(r"(^|\s+)#.*$", "", line).split())


def decoded(data: bytes, path: str) -> str:
    """The text of a file of the project. Raises :class:`ManifestError`."""
    try:
        if len(data) > MAX_BYTES:
            hint = "a file of requirements lists names and versions"
            raise ManifestError([Problem(file=path, line=0, key="", message="larger than 1 MiB", hint=hint)])
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"not UTF-8: byte 0x{data[error.start]:02x}"
        raise ManifestError(
            [Problem(file=path, line=line, key="", message=message, hint="save the file as UTF-8")]
        ) from None
