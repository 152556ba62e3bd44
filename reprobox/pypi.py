"""The Python index, asked through uv: which versions fit together, and where a wheel can be had.

uv reads its own configuration and ``UV_*`` variables; ``index_settings`` puts what else the host says into its words.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import tomllib
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from reprobox.ahead import Ahead
from reprobox.errors import FetchError, OfflineError, ReproboxError, ResolveError
from reprobox.index_settings import host_settings, host_trust, with_login
from reprobox.lock import Input
from reprobox.providers import Location
from reprobox.store import Store

LABEL = "the Python index"
#: Inputs that it has: what is installed, what is built, what that is built with, and uv.
TYPES = ("wheel", "sdist", "build", "uv")


@dataclass(frozen=True, kw_only=True, slots=True)
class Wheel:
    """A wheel as the index lists it; ``sha256`` is empty and ``size`` (bytes) 0 where the index does not say them.

    A ``direct`` one was asked for by its URL, and no index need have it.
    """

    name: str
    url: str
    sha256: str
    size: int
    direct: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """A version that was chosen, and its wheels for what was asked, or its source where that was asked for.

    ``name`` is normalised as PEP 503 says. ``yanked`` is the reason for which its owner withdrew it, if that was asked.
    """

    name: str
    version: str
    wheels: tuple[Wheel, ...]
    source: Wheel | None = None
    yanked: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What to resolve, for a Python version of two or three numbers.

    ``platform`` is in uv's words, ``""`` asks for the wheels of all platforms. ``constraints`` must hold.
    ``preferences`` are versions by name, kept where they can be. Without ``dependencies`` only the packages themselves;
    with ``prereleases`` any of their versions; packages of ``build`` as source. With ``withdrawn`` the index is asked
    anew, and for what was yanked (PEP 592).
    """

    requirements: Sequence[str]
    python: str
    platform: str = ""
    constraints: Sequence[str] = ()
    preferences: Mapping[str, str] = field(default_factory=dict)
    dependencies: bool = True
    prereleases: bool = False
    build: Sequence[str] = ()
    withdrawn: bool = False


class NoSolutionError(ResolveError):
    """Nothing fits; the message is uv's own reason, in full."""


def uv_version() -> str:
    """The version of the uv that resolves here, and that is locked to install."""
    from importlib.metadata import version

    return version("uv")


class Uv:
    """uv as reprobox calls it: in an empty folder, where no project's settings count, with its cache in the store.

    ``index`` is the user's configuration; see :func:`reprobox.index_settings.host_settings`.
    """

    def __init__(
        self,
        store: Store,
        index: Mapping[str, str],
        *,
        offline: bool = False,
        environment: Mapping[str, str] = os.environ,
        ahead: Ahead | None = None,
    ) -> None:
        settings = host_settings(index, environment)
        self.unused = settings.unused
        self.environment = {
            "UV_CACHE_DIR": str(store.memo("uv", "cache")),
            **host_trust(environment),
            **environment,
            **settings.variables,
            **_QUIET,
        }
        self._offline = offline
        self._ahead = ahead or Ahead()

    def resolve(self, question: Question) -> tuple[Package, ...]:
        """Packages that satisfy the question, by name.

        Raises :class:`NoSolutionError`; :class:`FetchError` when the index gives no answer; :class:`OfflineError`.
        """
        return self._ahead.answer(f"uv: {question}", lambda: self._answer(question))

    def begin(self, question: Question) -> None:
        """Ask meanwhile what will probably have to be resolved; the index takes its time."""
        self._ahead.begin(f"uv: {question}", lambda: self._answer(question))

    def _answer(self, question: Question) -> tuple[Package, ...]:
        with tempfile.TemporaryDirectory(prefix="reprobox-uv-") as name:
            folder = Path(name)
            if question.preferences:
                (folder / "pylock.toml").write_text(_pylock(question.preferences), encoding="utf-8")
            (folder / "constraints.txt").write_text("\n".join([*question.constraints, ""]), encoding="utf-8")
            said = self._run(self._arguments(question), folder, "\n".join([*question.requirements, ""]))
            answer = tomllib.loads((folder / "pylock.toml").read_text(encoding="utf-8"))
            yanked = {name: reason or "no reason is given" for name, reason in _YANKED.findall(said)}
            return tuple(
                replace(package, yanked=yanked.get(f"{package.name}=={package.version}", ""))
                for package in _packages(answer, folder)
            )

    def _arguments(self, question: Question) -> tuple[str, ...]:
        return (
            *(
                "pip",
                "compile",
                "-",
                "--refresh" if question.withdrawn else "--quiet",
                "--no-header",
                "--format",
                "pylock.toml",
            ),
            *("--output-file", "pylock.toml", "--constraints", "constraints.txt"),
            *("--python", sys.executable, "--python-version", question.python, "--only-binary", ":all:"),
            *(("--python-platform", question.platform) if question.platform else ("--universal",)),
            *(() if question.dependencies else ("--no-deps",)),
            *(("--prerelease", "allow") if question.prereleases else ()),
            *(word for name in question.build for word in ("--no-binary", name)),
            *(("--offline",) if self._offline else ()),
        )

    def _run(self, arguments: Sequence[str], folder: Path, stdin: str) -> str:
        """Returns what uv says besides its answer."""
        from uv import find_uv_bin

        process = subprocess.Popen(
            [find_uv_bin(), *arguments],
            cwd=folder,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        with process, self._ahead.running(process):
            _, said = process.communicate(stdin)
        if process.returncode:
            raise self._failure(_reason(said))
        return said

    def _failure(self, reason: str) -> ReproboxError:
        if self._offline:
            return OfflineError(
                f"the network may not be used, and {LABEL} said too little before; uv says:\n{indented(reason)}",
                hint="run it once without --offline",
            )
        if re.search("No solution found|conflicting URLs", reason):
            return NoSolutionError(reason)
        return FetchError(
            f"{LABEL} could not be asked; uv says:\n{indented(reason)}",
            hint="check the network, and the index that is set in reprobox's settings ([index] url), uv's, or pip's",
        )


#: How uv warns of a version that was asked for, and that its owner has withdrawn.
_YANKED = re.compile(r'^warning: `([^`]+)` is yanked(?: \(reason: "(.*)"\))?', re.MULTILINE)
#: Variables that keep uv to the point: no colours or bars in its messages, no downloads of its own accord.
_QUIET = {"NO_COLOR": "1", "UV_NO_PROGRESS": "1", "UV_PYTHON_DOWNLOADS": "never"}


def indented(text: str) -> str:
    """``text`` as a block of its own inside a message."""
    return "\n".join(f"  {line}".rstrip() for line in text.splitlines())


def _reason(stderr: str) -> str:
    """What uv says, as it stands, without ``error:`` and without passwords."""
    text = re.sub(r"://[^/@\s]+@", "://", stderr.strip())
    return text.removeprefix("error: ") or "it failed without a word"


def _pylock(versions: Mapping[str, str]) -> str:
    """An earlier answer as uv would have written it, of which it keeps what it can (PEP 751)."""
    tables = (f'[[packages]]\nname = "{name}"\nversion = "{version}"\n' for name, version in versions.items())
    return "\n".join(['lock-version = "1.0"\ncreated-by = "reprobox"\n', *tables])


def _packages(document: Mapping[str, Any], folder: Path) -> Iterator[Package]:
    for table in document.get("packages", ()):
        wheels = [_wheel(item, folder) for item in table.get("wheels", ())]
        if "archive" in table:
            wheels.append(_wheel(table["archive"], folder, direct=True))
        source = _wheel(table["sdist"], folder) if "sdist" in table else None
        yield Package(name=table["name"], version=table["version"], wheels=tuple(wheels), source=source)


def _wheel(table: Mapping[str, Any], folder: Path, *, direct: bool = False) -> Wheel:
    url = table.get("url") or (folder / table["path"]).resolve().as_uri()
    name = table.get("name") or urllib.parse.unquote(url.partition("#")[0].rpartition("/")[2])
    digest, size = table.get("hashes", {}).get("sha256", ""), table.get("size", 0)
    return Wheel(name=name, url=url, sha256=digest, size=size, direct=direct)


# -- where what is locked can be had -----------------------------------------------------------------------------------


class IndexProvider:
    """Finds locked wheels, and the locked uv, where the index has them today; works on a machine that never locked.

    What was asked for by its URL, or by its path in ``project``, is there.
    """

    name = LABEL

    def __init__(
        self, store: Store, index: Mapping[str, str], *, offline: bool = False, project: Path | None = None
    ) -> None:
        self._store = store
        self._index = index
        self._offline = offline
        self._project = project

    def locate(self, inputs: Sequence[Input]) -> Mapping[str, Sequence[Location]]:
        """One question to uv for the inputs of one Python version; more only where a package is wanted in two versions,
        or the index has forgotten some."""
        ours = [item for item in inputs if item.type in TYPES]
        found = {item.sha256: list(self._own_places(item)) for item in ours if item.facts.keys() & {"url", "path"}}
        wanted = [item for item in ours if item.sha256 not in found]
        if not wanted or self._offline:
            return found
        uv = Uv(self._store, self._index)
        sources = sorted({item.facts["package"] for item in wanted if item.type == "sdist"})
        for python, pins in _questions(wanted):
            for wheel in _listed(uv, python, pins, sources):
                place = Location(url=with_login(wheel.url, uv.environment), label=LABEL)
                found.setdefault(wheel.sha256, []).append(place)
        return {item.sha256: found[item.sha256] for item in ours if item.sha256 in found}

    def withdrawn(self, inputs: Sequence[Input]) -> Mapping[str, str]:
        """Those that the index still has, but whose owners have yanked them: the reason by sha256.

        Raises :class:`FetchError` when the index gives no answer.
        """
        wanted = [item for item in inputs if item.type in TYPES and not item.facts.keys() & {"url", "path"}]
        found: dict[tuple[str, str], str] = {}
        if not wanted or self._offline:
            return {}
        uv = Uv(self._store, self._index)
        sources = sorted({item.facts["package"] for item in wanted if item.type == "sdist"})
        for python, pins in _questions(wanted):
            for package in _chosen(uv, python, pins, sources, withdrawn=True):
                if package.yanked:
                    found[package.name, package.version] = package.yanked
        named = {item.sha256: (item.facts.get("package", item.type), item.facts["version"]) for item in wanted}
        return {digest: found[name] for digest, name in named.items() if name in found}

    def _own_places(self, item: Input) -> Iterator[Location]:
        if self._project and "path" in item.facts:
            yield Location(url=(self._project / item.facts["path"]).absolute().as_uri(), label="the project")
        if "url" in item.facts and not self._offline:
            yield Location(url=with_login(item.facts["url"], os.environ), label="the address that was asked for")


def _questions(wanted: Sequence[Input]) -> Iterator[tuple[str, list[str]]]:
    """Pins that one call can hold: one Python, and no package twice."""
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    versions: dict[tuple[str, str], list[str]] = {}
    for item in wanted:
        known = versions.setdefault((item.facts.get("python", own), item.facts.get("package", item.type)), [])
        if item.facts["version"] not in known:
            known.append(item.facts["version"])
    groups: dict[tuple[str, int], list[str]] = {}
    for (python, package), several in versions.items():
        for turn, version in enumerate(several):
            groups.setdefault((python, turn), []).append(f"{package}=={version}")
    for (python, _), pins in groups.items():
        yield python, pins


def _listed(uv: Uv, python: str, pins: Sequence[str], sources: Sequence[str]) -> list[Wheel]:
    """Every wheel of these pins, or the source of those that are ``sources``."""
    packages = _chosen(uv, python, pins, sources)
    return [
        wheel for package in packages for wheel in (*package.wheels, *((package.source,) if package.source else ()))
    ]


def _chosen(
    uv: Uv, python: str, pins: Sequence[str], sources: Sequence[str], *, withdrawn: bool = False
) -> tuple[Package, ...]:
    """The packages that these pins name; those that the index has no more are found by halving, and left out."""
    question = Question(requirements=pins, python=python, dependencies=False, build=sources, withdrawn=withdrawn)
    try:
        return uv.resolve(question)
    except NoSolutionError:
        if len(pins) == 1:
            return ()
        middle = len(pins) // 2
        halves = (pins[:middle], pins[middle:])
        return tuple(package for half in halves for package in _chosen(uv, python, half, sources, withdrawn=withdrawn))
