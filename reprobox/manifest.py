# ruff: noqa: RUF009 - key() is a field specifier
"""``research.toml`` -> frozen :class:`Manifest`: every table, every rule, all problems of a file at once.

Pure, but for :func:`load`, which reads the one file. Which layer kinds there are is told by the caller, since they come
from plugins: a ``[[layers]]`` table has the common keys of :class:`Layer` and its kind's own.
"""

from __future__ import annotations

import os
import posixpath
import re
import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Protocol

from reprobox import cpu, tables, toml_lines
from reprobox.base_reference import DAEMON, ORAS, bare_name, base_image, base_sif, image_reference
from reprobox.digest import Json, canonical, sha256
from reprobox.errors import ManifestError, Problem, UsageError
from reprobox.host import MPI_FAMILIES
from reprobox.tables import (
    BAD,
    EMPTY,
    LATER,
    Check,
    Finding,
    Reader,
    Rule,
    at_least_one,
    at_most_one,
    by_line,
    did_you_mean,
    exactly_one,
    key,
    listed,
    needs,
    needs_any,
    not_yet,
    pattern,
    quote,
)
from reprobox.toml_lines import LimitError, Positions

__all__ = [
    "EMPTY",
    "Author",
    "Base",
    "Check",
    "Code",
    "Finding",
    "Funding",
    "Kind",
    "Layer",
    "Manifest",
    "Mount",
    "Project",
    "Requires",
    "Rule",
    "Run",
    "Secret",
    "Target",
    "absolute_path",
    "apt_package",
    "at_least_one",
    "at_most_one",
    "did_you_mean",
    "exactly_one",
    "file_url",
    "host_path",
    "image_reference",
    "key",
    "load",
    "needs",
    "nonempty",
    "not_yet",
    "parse",
    "pattern",
    "quote",
    "relative_inside",
    "repository",
    "schema",
    "sha256_hex",
    "url",
    "word",
]

FORMAT = "reprobox-manifest-1"
"""Tag of the canonical form: changing how a manifest is hashed means changing this."""

SCHEMA_ID = "https://example.org/reprobox/schemas/research.schema.json"
MAX_BYTES = 1 << 20
GIT_SCHEMES = ("https", "http", "ssh", "git", "file")
IN_IMAGE = "image"
RESERVED_LAYERS = ("base", "skeleton", "code")


# Rules for one value.


def _absolute(text: str) -> Finding | None:
    plain = posixpath.normpath(f"/{text.lstrip('/')}")
    if not text.startswith("/"):
        return Finding(
            f"expected an absolute path, found {quote(text)}", f"write {quote(plain)}" if text else "begin it with /"
        )
    return None if text == plain else Finding(f"{quote(text)} is not a plain path", f"write {quote(plain)}")


def _inside(text: str) -> Finding | None:
    hint = "name a path inside the project folder: manifest and lock travel with it"
    if not text:
        return Finding("the path is empty", 'write "." for the project folder')
    if text.startswith("/"):
        return Finding(f"expected a path relative to this file, found {quote(text)}", hint)
    outside = posixpath.normpath(text).split("/")[0] == ".."
    return Finding(f"{quote(text)} leads out of the project folder", hint) if outside else None


def _host(text: str) -> Finding | None:
    if text.startswith("~"):
        return Finding(
            f"{quote(text)}: ~ is not expanded here", "write a path relative to this file, or an absolute one"
        )
    return None if text else Finding("the path is empty", "write a path relative to this file, or an absolute one")


_NO_MOUNTS = ("/proc", "/dev", "/sys")


def _mount_point(text: str) -> Finding | None:
    if finding := _absolute(text):
        return finding
    if text == "/" or any(text == top or text.startswith(f"{top}/") for top in _NO_MOUNTS):
        return Finding(f"nothing can be mounted at {quote(text)}", f"choose a path outside {listed(_NO_MOUNTS)}")
    return None


def _mounted(text: str) -> Finding | None:
    plain = posixpath.normpath(text.rstrip("/"))
    if text and not text.startswith("/") and plain == text.rstrip("/") and plain.split("/")[0] not in ("..", "."):
        return None
    return Finding(f"expected a name inside the mount, found {quote(text)}", 'such as "train/images.npy"')


_SCHEMES = ("https", "http", "file")


def _find_in_url(text: str) -> Finding | None:
    scheme, mark, rest = text.partition("://")
    if not mark or not scheme or any(char.isspace() for char in text):
        hint = 'begin it with https://; files of the project are put in place by a layer of kind "copy"'
        return Finding(f"expected a URL, found {quote(text)}", hint)
    if scheme not in _SCHEMES:
        return Finding(f"{quote(scheme)} is no way to fetch a file", did_you_mean(scheme, _SCHEMES))
    good = rest.startswith("/") if scheme == "file" else bool(rest) and not rest.startswith("/")
    return None if good else Finding(f"expected a URL, found {quote(text)}", "write https://host/path or file:///path")


def _orcid(text: str) -> Finding | None:
    """The check digit is ISO 7064 MOD 11-2, as ORCID documents it."""
    digits = text.replace("-", "")
    total = 0
    for digit in digits[:-1]:
        total = (total + int(digit)) * 2
    good = "0123456789X"[(12 - total % 11) % 11] == digits[-1]
    return None if good else Finding(f"{quote(text)} has a wrong check digit", "copy it again from orcid.org")


def _repository(text: str) -> Finding | None:
    if finding := word.find(text):
        return finding
    scheme, mark, rest = text.partition("://")
    if mark:
        if scheme not in GIT_SCHEMES:
            return Finding(f"{quote(scheme)} is no way to a repository", did_you_mean(scheme, GIT_SCHEMES))
        good = rest.startswith("/") if scheme == "file" else bool(rest) and not rest.startswith("/")
        return None if good else Finding(f"expected a repository, found {quote(text)}", "write https://host/path")
    if "::" in text.partition("/")[0] or text.startswith("~"):
        return Finding(
            f"expected a repository, found {quote(text)}", "write a URL, user@host:path, or the path of a folder"
        )
    return None


def both(first: Check, second: Check) -> Check:
    """The value must pass ``first`` and then ``second``."""
    return Check(find=lambda text: first.find(text) or second.find(text), schema={**first.schema, **second.schema})


absolute_path = Check(find=_absolute, schema={"pattern": "^/"})
"""A path inside the environment: absolute, without ``.``, ``..``, doubled or trailing slashes."""

relative_inside = Check(find=_inside, schema={"pattern": r"^(?!/)(?!\.\.(?:/|$))."})
"""A path on the host, relative to the manifest, that stays inside the project folder."""

host_path = Check(find=_host, schema={"pattern": "^[^~]"})
"""Any path on the host; relative ones start at the manifest."""

file_url = Check(find=_find_in_url, schema={"pattern": r"^(?:https?://[^/\s]|file:///)\S*$"})
"""A URL that a file can be had from."""

mounted_name = Check(find=_mounted, schema={"pattern": r"^(?!/)(?!\.\.?(?:/|$))."})
"""A relative path inside a mount."""

mount_point = Check(find=_mount_point, schema={"pattern": "^/(?!(?:proc|dev|sys)(?:/|$))."})

nonempty = pattern(r"[\s\S]*\S[\s\S]*", "some text", "write it, or leave the key out")
word = pattern(r"[^\s-]\S*", "one word", "write it without spaces; it cannot begin with -")
url = pattern(r"[a-z][a-z0-9+.-]*://\S+", "a URL", "begin it with https://")
repository = Check(find=_repository, schema={"pattern": r"^[^\s~-]\S*$"})
"""A URL, ``user@host:path``, or the path of a folder of this machine, relative to the manifest."""
sha256_hex = pattern(r"[0-9a-f]{64}", "64 lower-case hexadecimal digits", "write what sha256sum prints")
env_name = pattern(
    r"[A-Za-z_][A-Za-z0-9_]*",
    "the name of an environment variable",
    "use letters, digits and _, and no digit at the start",
)
apt_package = pattern(
    r"[a-z0-9][a-z0-9+.-]+(?::[a-z0-9-]+)?(?:=[A-Za-z0-9.+:~*-]+)?",
    "a Debian package",
    "write a name in lower case, or name=version; a version may end in *",
)
_name = partial(pattern, hint="use lower-case letters, digits, ., _ and -, and begin with a letter or digit")
_slug = _name(r"[a-z0-9][a-z0-9._-]*", "a short name")
_CLAUSE = r"(?:[<>=~!]=|[<>]) ?[0-9]+(?:\.[0-9]+)*"
_version = pattern(
    rf"[0-9]+(?:\.[0-9]+)*|{_CLAUSE}(?: ?, ?{_CLAUSE})*", "a version", 'for example "12.4", ">=12.4" or ">=4,<5"'
)
_size = pattern(r"[0-9]+(?:\.[0-9]+)? ?(?:[kKMGTP]i?)?B", "a size", 'for example "16 GiB"')


def _mpi_family(text: str) -> Finding | None:
    family = re.split(r"[ <>=~!]", text, maxsplit=1)[0]
    if family in MPI_FAMILIES:
        return None
    return Finding(f"unknown MPI {quote(family)}", did_you_mean(family, MPI_FAMILIES))


def _cpu_name(text: str) -> Finding | None:
    if cpu.family(text) in cpu.FAMILIES.values():
        return None
    known = [name for architecture in cpu.FAMILIES for name in cpu.names(architecture)]
    return Finding(
        f"unknown CPU {quote(text)}",
        did_you_mean(text, known, 'for example "x86-64-v3", "skylake", "zen3" or "neoverse_n1"'),
    )


_mpi = both(
    pattern(rf"[a-z][a-z0-9-]*(?: ?{_CLAUSE}(?: ?, ?{_CLAUSE})*)?", "an MPI", 'for example "openmpi>=4"'),
    Check(find=_mpi_family),
)
_cpu = both(word, Check(find=_cpu_name))

_email = pattern(r"[^@\s]+@[^@\s]+", "an e-mail address", "write name@host, or leave the key out")
_bootstrap = pattern(r"debian:[a-z][a-z0-9-]*", "a distribution to bootstrap", 'for example "debian:bookworm"')
_doi = pattern(r"10\.[0-9]{4,9}/\S+", "a DOI", 'begin with "10.", without https://doi.org/')
_orcid_id = both(
    pattern(r"[0-9]{4}-[0-9]{4}-[0-9]{4}-[0-9]{3}[0-9X]", "an ORCID iD", 'for example "0000-0002-1825-0097"'),
    Check(find=_orcid),
)
_page = pattern(r"https?://[^\s/]+(?:/\S*)?", "the address of a page", "begin it with https://")
_ror = pattern(
    r"https://ror\.org/0[a-hj-km-np-tv-z0-9]{6}[0-9]{2}", "a ROR identifier", 'for example "https://ror.org/03yrm5c26"'
)


def _find_in_day(text: str) -> Finding | None:
    import datetime as dt

    try:
        good = dt.date.fromisoformat(text).isoformat() == text
    except ValueError:
        good = False
    return None if good else Finding(f"expected a day, found {quote(text)}", 'for example "2026-11-22"')


_day = Check(find=_find_in_day, schema={"format": "date"})


# The tables.


@dataclass(frozen=True, kw_only=True, slots=True)
class Author:
    """Who made the research."""

    name: str = key(
        'Full name; write "Family, Given" where the last word is not the family name.',
        check=nonempty,
        hint='add name = "…"',
    )
    orcid: str | None = key("ORCID iD, four groups of four digits.", default=None, check=_orcid_id)
    affiliation: str | None = key("University, institute or company.", default=None, check=nonempty)
    ror: str | None = key("ROR identifier of the affiliation.", default=None, check=_ror)
    email: str | None = key("E-mail address.", default=None, check=_email)

    @property
    def given_and_family(self) -> tuple[str, str]:
        """The two parts of the name: of "Family, Given" as written, else the last word and what goes with it (van, de).

        A name of one word is a family name.
        """
        family, comma, given = (part.strip() for part in self.name.partition(","))
        if comma:
            return given, family
        words = self.name.split()
        at = len(words) - 1
        while at > 1 and words[at - 1].islower():
            at -= 1
        return " ".join(words[:at]), " ".join(words[at:])

    @property
    def full_name(self) -> str:
        """The name as it is spoken: given names first."""
        return " ".join(part for part in self.given_and_family if part)


@dataclass(frozen=True, kw_only=True, slots=True)
class Funding:
    """Who paid for the research."""

    funder: str = key("Name of the funder.", check=nonempty, hint='add funder = "…"')
    ror: str | None = key("ROR identifier of the funder.", default=None, check=_ror)
    award: str | None = key("Number of the grant.", default=None, check=nonempty)
    title: str | None = key("Title of the grant.", default=None, check=nonempty)
    url: str | None = key("Page of the grant.", default=None, check=_page)


@dataclass(frozen=True, kw_only=True, slots=True)
class Project:
    """What the environment is for; goes into image labels and publications."""

    name: str = key(
        "Short name of the project; images are named after it.", check=_slug, hint='add name = "…", a short name'
    )
    title: str | None = key("Title, as people cite it; the name if left out.", default=None, check=nonempty)
    version: str | None = key("Version of the research.", default=None, check=word)
    description: str | None = key("One sentence about it.", default=None, check=nonempty)
    license: str | None = key("SPDX licence expression.", default=None, check=nonempty)
    authors: tuple[Author, ...] = key("Who made it.", default=())
    doi: str | None = key("DOI of the paper or record.", default=None, check=_doi)
    date: str | None = key("Day of its release, YYYY-MM-DD.", default=None, check=_day)
    keywords: tuple[str, ...] = key("Words to find it by.", default=(), check=nonempty)
    url: str | None = key("Page of the project.", default=None, check=_page)
    repository: str | None = key("Where its code is developed.", default=None, check=_page)
    funding: tuple[Funding, ...] = key("Who paid for it.", default=())


#: Keys of a project that only publications tell: no layer, no image and so no lock depends on them.
_PUBLISHED = frozenset(("title", "doi", "date", "keywords", "url", "repository", "funding"))
PUBLISHED_KEYS = frozenset(f"project.{name}" for name in _PUBLISHED)


@dataclass(frozen=True, kw_only=True, slots=True)
class Base:
    """What the layers stand on: exactly one of the kinds."""

    KINDS: ClassVar = ("image", "bootstrap", "archive", "oci", "sif", "rootfs")
    #: Kinds of layers that bases are: a prefix of the value may ask for another one than its key does.
    BUILT_AS: ClassVar = (*KINDS, "docker-daemon", "oras")
    RULES: ClassVar[tuple[Rule, ...]] = (
        exactly_one(*KINDS),
        needs("key", "bootstrap"),
        needs_any("name", "archive", "oci"),
    )

    image: str | None = key(
        "An OCI image reference; registry and tag as Docker reads them. `docker-daemon:name:tag` is an engine's image.",
        default=None,
        check=base_image,
    )
    bootstrap: str | None = key("A distribution, built from its own packages.", default=None, check=_bootstrap)
    archive: str | None = key("A docker-archive or oci-archive file.", default=None, check=host_path)
    oci: str | None = key("A folder in OCI image layout.", default=None, check=host_path)
    sif: str | None = key(
        "A SIF or SquashFS file, or a SIF in a registry: `oras://host/name:tag`.",
        default=None,
        check=base_sif,
    )
    rootfs: str | None = key("A folder that holds a root file system.", default=None, check=host_path)
    name: str | None = key(
        "Which of several images in an archive or a layout: its name and tag.", default=None, check=word
    )
    private: bool = key("Keep what it is made of out of vaults and publications.", default=False, said=False)
    key: str | None = key(
        "File with the distribution's archive keys, where the host has none.", default=None, check=host_path
    )

    @property
    def given(self) -> str:
        """Which of :attr:`KINDS` the manifest has."""
        return next(name for name in self.KINDS if getattr(self, name) is not None)

    @property
    def kind(self) -> str:
        """Which of :attr:`BUILT_AS` it is."""
        if self.image is not None and self.image.startswith(DAEMON):
            return "docker-daemon"
        return "oras" if self.sif is not None and self.sif.startswith(ORAS) else self.given

    @property
    def reference(self) -> str:
        """The value of its key without a prefix: an image reference, ``debian:<suite>`` or a path."""
        value = str(getattr(self, self.given))
        return bare_name(value) if self.given in ("image", "sif") else value


@dataclass(frozen=True, kw_only=True, slots=True)
class Code:
    """The code that runs in the environment; mounted, and so no part of it."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        at_most_one("path", "git"),
        Rule(at_most_one("exclude", "git").find, {}),
        needs("rev", "git"),
    )

    path: str = key("Folder of the code.", default=".", check=relative_inside)
    git: str | None = key("Git repository of the code, instead of a folder.", default=None, check=repository)
    rev: str | None = key("Commit, tag or branch of it; its default branch if left out.", default=None, check=word)
    target: str = key("Where it is mounted when it runs.", default="/work", check=mount_point)
    exclude: tuple[str, ...] = key("Patterns of files to leave out, as in .gitignore.", default=(), check=nonempty)


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """One step that changes the file system: the keys that all kinds share, and the kind's own in ``options``.

    ``index`` is the position in the manifest, which a selection for a target keeps.
    """

    name: str = key(
        "Name of the layer.", check=_name(r"[a-z0-9][a-z0-9._-]*", "the name of a layer"), hint='add name = "…"'
    )
    kind: str = key("What the layer does.", hint='add kind = "…"')
    after: tuple[str, ...] = key("Layers that must come before this one.", default=(), refers="layers")
    targets: tuple[str, ...] = key(
        "Targets that have this layer; all if left out.", default=(), refers="targets", nonempty=True
    )
    env: Mapping[str, str] = key("Environment variables of its build.", default=EMPTY, check_names=env_name)
    private: bool = key("Keep what it is made of out of vaults.", default=False, said=False)
    options: Any = None
    index: int = field(default=0, compare=False)

    @property
    def placement(self) -> str:
        """``image``, or where else its kind can put it: ``project``."""
        return getattr(self.options, "placement", IN_IMAGE)

    def serves(self, target: str) -> bool:
        """Whether ``target`` has this layer."""
        return not self.targets or target in self.targets

    def document(self) -> dict[str, Json]:
        """Canonical form: common keys and the kind's own side by side, as in the manifest."""
        return {**tables.document(self), **(tables.document(self.options) if self.options is not None else {})}


@dataclass(frozen=True, kw_only=True, slots=True)
class DataFile:
    """A file of a mount, and where it can be downloaded."""

    RULES: ClassVar[tuple[Rule, ...]] = (needs("strip", "unpack"),)

    url: str = key("Where to download it from.", check=file_url, hint='add url = "https://…"')
    sha256: str | None = key("Hash that the file must have; always in the lock.", default=None, check=sha256_hex)
    to: str | None = key("Its name in the mount; with `unpack`, a folder.", default=None, check=mounted_name)
    unpack: bool = key("Unpack the archive (tar or zip).", default=False)
    strip: int = key("How many folders at the start of the archive's names are left out.", default=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Mount:
    """A folder of the host that the environment sees when it runs."""

    mode: Literal["ro", "rw"] = key("Read-only, or writable.", default="ro")
    source: str | None = key("Folder on the host; given with --mount if left out.", default=None, check=host_path)
    digest: bool = key("Lock and check its content.", default=False)
    files: tuple[DataFile, ...] = key("Files to download where the source is not there.", default=())
    private: bool = key("Keep these files out of vaults.", default=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """What ``reprobox run`` does. With one of ``entrypoint`` and ``command``, those of the base image do not count."""

    entrypoint: tuple[str, ...] | None = key(
        "Program that gets every command as its arguments; the base image's if this and `command` are left out.",
        default=None,
    )
    command: tuple[str, ...] = key(
        "Program and arguments, where the command line gives none.", default=(), nonempty=True
    )
    workdir: str | None = key("Where it starts; the code if left out.", default=None, check=absolute_path)


@dataclass(frozen=True, kw_only=True, slots=True)
class Secret:
    """Where a secret is found when a step needs it. It enters no layer, lock or publication."""

    RULES: ClassVar[tuple[Rule, ...]] = (exactly_one("path", "env"),)

    path: str | None = key("File that holds it.", default=None, check=host_path)
    env: str | None = key("Environment variable that holds it.", default=None, check=env_name)


@dataclass(frozen=True, kw_only=True, slots=True)
class Requires:
    """What the machine must have. A plain version means that one or a newer one."""

    cuda: str | None = key("CUDA version that the driver must be able to run.", default=None, check=_version)
    cpu: str | None = key("CPU or level, such as x86-64-v3; its descendants will do too.", default=None, check=_cpu)
    memory: str | None = key("Main memory that a job may use.", default=None, check=_size)
    disk: str | None = key("Free disk space, where the store and the outputs are.", default=None, check=_size)
    gpu_memory: str | None = key("Memory of the largest GPU.", default=None, check=_size)
    mpi: str | None = key("MPI of the host, and its version.", default=None, check=_mpi)
    kernel: str | None = key("Linux version.", default=None, check=_version)
    glibc: str | None = key("C library version of the host.", default=None, check=_version)


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A variant of the environment."""

    platform: Literal["linux/amd64", "linux/arm64"] = key("Operating system and CPU.", default="linux/amd64")
    base: Base | None = key("A base of its own.", default=None)
    requires: Requires = key("What the machine must have.", default=Requires())
    env: Mapping[str, str] = key("Environment variables, over those of [env].", default=EMPTY, check_names=env_name)


DEFAULT_TARGETS: Mapping[str, Target] = MappingProxyType({"default": Target()})


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """All that ``research.toml`` says. What was left out has its default.

    ``unavailable`` are keys that were understood and checked but have no behaviour in this version: a verb that would
    need them raises ``ManifestError(manifest.unavailable)``.
    """

    MISPLACED: ClassVar = {"requires": "it belongs to a target: [targets.default.requires], where there is no other"}

    project: Project = key("What the environment is for.", hint='add [project] with name = "…"')
    base: Base = key("What the layers stand on.", hint=f"add [base] with one of {listed(Base.KINDS)}")
    code: Code = key("The code that runs in the environment.", default=Code())
    layers: tuple[Layer, ...] = key("Steps that change the file system, in order.", default=())
    env: Mapping[str, str] = key("Environment variables when it runs.", default=EMPTY, check_names=env_name)
    mounts: Mapping[str, Mount] = key(
        "Folders of the host, by where they appear.", default=EMPTY, check_names=mount_point
    )
    run: Run = key("What runs by default.", default=Run())
    secrets: Mapping[str, Secret] = key("Secrets that steps may see.", default=EMPTY, check_names=_slug)
    targets: Mapping[str, Target] = key(
        "Variants of the environment.", default=DEFAULT_TARGETS, check_names=_slug, nonempty=True
    )
    file: str = field(default="research.toml", compare=False)
    positions: Positions = field(default=Positions(lines={}), compare=False, repr=False)
    unavailable: tuple[Problem, ...] = field(default=(), compare=False)

    @property
    def workdir(self) -> str:
        """Where commands start: as declared, else where the code is."""
        return self.run.workdir or self.code.target

    def problem(self, path: toml_lines.Path, message: str, hint: str = "") -> Problem:
        """A problem at the key ``path``, such as ``("layers", 1, "after")``, with its line."""
        return Reader(self.file, self.positions).at(path, message, hint)

    def select(self, target: str | None = None) -> Manifest:
        """The manifest as ``target`` has it: its base, its layers, its environment, and it alone under ``targets``.

        ``None`` stands for the only target. Raises :class:`reprobox.errors.UsageError`.
        """
        name = self._target(target)
        chosen = self.targets[name]
        served = [layer for layer in self.layers if layer.serves(name)]
        names = {layer.name for layer in served}
        return replace(
            self,
            base=chosen.base or self.base,
            layers=tuple(replace(item, after=tuple(n for n in item.after if n in names)) for item in served),
            env=MappingProxyType({**self.env, **chosen.env}),
            targets=MappingProxyType({name: chosen}),
        )

    def private_layers(self, target: str | None = None) -> frozenset[str]:
        """Names of the layers whose inputs nobody else may have, of one target or of all; ``base`` is its base."""
        names = {layer.name for layer in self.layers if layer.private}
        chosen = self.targets.items() if target is None else [(target, self.targets[target])]
        private_base = any((item.base or self.base).private for _, item in chosen)
        return frozenset(names | ({"base"} if private_base else set()))

    def _target(self, target: str | None) -> str:
        if target is not None and target in self.targets:
            return target
        if target is None and len(self.targets) == 1:
            return next(iter(self.targets))
        hint = f"choose one of {', '.join(self.targets)} with --target"
        if target is None:
            raise UsageError("there is more than one target", where=self.file, hint=hint)
        raise UsageError(
            f"there is no target {quote(target)}", where=self.file, hint=did_you_mean(target, self.targets, hint)
        )

    def document(self) -> dict[str, Json]:
        """Canonical form, of which :meth:`digest` is the hash. What is at its default is left out.

        So is what only publications tell: a DOI comes when all is locked, and changes nothing of what is built.
        """
        return self._document(_PUBLISHED)

    def _document(self, left_out: Collection[str]) -> dict[str, Json]:
        said: dict[str, Json] = {"layers": [layer.document() for layer in self.layers], **self._tables(left_out)}
        return {"format": FORMAT, **{name: value for name, value in said.items() if value}}

    def _tables(self, left_out: Collection[str] = _PUBLISHED) -> dict[str, dict[str, Json]]:
        """Canonical form of everything but the layers, and these keys of the project."""
        targets = {} if self.targets == DEFAULT_TARGETS else self.targets
        project = tables.document(self.project)
        return {
            "project": {name: value for name, value in project.items() if name not in left_out},
            "base": tables.document(self.base),
            "code": tables.document(self.code),
            "env": dict(self.env),
            "mounts": {name: tables.document(mount) for name, mount in self.mounts.items()},
            "run": tables.document(self.run),
            "secrets": {name: tables.document(secret) for name, secret in self.secrets.items()},
            "targets": {name: tables.document(target) for name, target in targets.items()},
        }

    def digest(self) -> str:
        """sha256 hex of the canonical form: comments, order of tables and spelled-out defaults do not count."""
        return sha256(canonical(self.document()))

    def digests(self) -> tuple[str, ...]:
        """The digests that a lock of this manifest may name: as now, and as locks did that knew of the DOI."""
        return tuple(
            dict.fromkeys(sha256(canonical(self._document(left_out))) for left_out in (_PUBLISHED, frozenset[str]()))
        )

    def keys(self) -> Mapping[str, str]:
        """A short digest for each key, to name what changed: ``base``, ``env.LANG``, ``layers.system.packages``.

        ``layers`` is the order of the layers.
        """
        sections = self._tables()
        values: dict[str, Json] = {"base": sections.pop("base"), "layers": [layer.name for layer in self.layers]}
        for layer in self.layers:
            sections[f"layers.{layer.name}"] = {
                name: value for name, value in layer.document().items() if name != "name"
            }
        for section, table in sections.items():
            values |= {f"{section}.{name}": value for name, value in table.items()}
        return {name: sha256(canonical(value))[:16] for name, value in values.items()}


# Reading.


class Kind(Protocol):
    """What the manifest needs to know of a layer kind: its name and the declared dataclass of its keys.

    A kind with ``available = False`` is read and checked, and has no behaviour yet.
    """

    @property
    def name(self) -> str: ...
    @property
    def options(self) -> type: ...


def load(path: Path, kinds: Mapping[str, Kind]) -> Manifest:
    """Read and parse the manifest at ``path``. Raises :class:`reprobox.errors.ManifestError` with every problem."""
    file = os.fspath(path)
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise _fault(file, 0, "there is no such file", "write one: the tutorial shows how") from None
    except OSError as error:
        raise _fault(file, 0, f"cannot be read: {error.strerror}") from None
    return parse(data, kinds=kinds, file=file)


def parse(source: str | bytes, *, kinds: Mapping[str, Kind], file: str = "research.toml") -> Manifest:
    """The manifest that ``source`` says; ``file`` is its name in messages.

    Raises :class:`reprobox.errors.ManifestError` with every problem found, in the order of their lines.
    """
    text = _text(source, file)
    positions = _positions(text, file)
    data = _toml(text, positions, file)
    reader = Reader(file, positions, {Layer: partial(_read_layer, kinds=_layer_kinds(kinds))})
    manifest: Manifest = reader.table(Manifest, data, (), file=file, positions=positions)
    _check_layer_names(reader, data)
    _check_references(reader, data)
    _check_code_is_no_mount(reader, data)
    _check_cpus(reader, data)
    if reader.problems:
        raise ManifestError(by_line(reader.problems))
    _check_targets(reader, manifest)
    if reader.problems:
        raise ManifestError(by_line(reader.problems))
    return replace(manifest, unavailable=by_line(reader.unavailable))


def _layer_kinds(kinds: Mapping[str, Kind]) -> dict[str, Kind]:
    """``kinds`` without the bases and the layers that reprobox adds by itself, which register as kinds too."""
    return {name: kinds[name] for name in sorted(kinds) if name not in (*Base.BUILT_AS, *RESERVED_LAYERS)}


def _read_layer(
    reader: Reader, cls: type, table: dict[str, Any], path: toml_lines.Path, kinds: Mapping[str, Kind]
) -> Any:
    common = tables.declared(cls)
    shared = {name: value for name, value in table.items() if name in common}
    own = {name: value for name, value in table.items() if name not in common}
    index = path[-1]
    kind = table.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        if isinstance(kind, str):
            reader.problem((*path, "kind"), f"unknown kind {quote(kind)}", did_you_mean(kind, kinds))
        reader.table(cls, shared, path)
        return BAD
    if not getattr(kinds[kind], "available", True):
        reader.not_yet((*path, "kind"), f"the kind {quote(kind)}", LATER)
    options = reader.table(kinds[kind].options, own, path, beside=common)
    layer = reader.table(cls, shared, path, options=options, index=index)
    return BAD if options is BAD else layer


def _check_layer_names(reader: Reader, data: Mapping[str, Any]) -> None:
    first: dict[str, int] = {}
    for index, name in _names(data):
        path = ("layers", index, "name")
        if name in RESERVED_LAYERS:
            reader.problem(path, f"the name {quote(name)} is taken by reprobox itself", "choose another name")
        elif name in first:
            line = reader.positions.line(("layers", first[name], "name"))
            reader.problem(path, f"the layer on line {line} is named {quote(name)} too", "choose another name")
        first.setdefault(name, index)


def _names(data: Mapping[str, Any]) -> list[tuple[int, str]]:
    """Position and name of the layers that have a name, sound or not."""
    layers = data.get("layers")
    listing = enumerate(layers if isinstance(layers, list) else [])
    return [
        (index, item["name"]) for index, item in listing if isinstance(item, dict) and isinstance(item.get("name"), str)
    ]


def _check_references(reader: Reader, data: Mapping[str, Any]) -> None:
    known: dict[str, Iterable[str]] = {
        "layers": dict.fromkeys(name for _, name in _names(data)),
        "targets": _table(data, "targets") or DEFAULT_TARGETS,
        "secrets": _table(data, "secrets"),
    }
    for path, where, name in reader.references:
        if name not in known[where]:
            hint = did_you_mean(name, known[where], otherwise=f"there are no {where} here: leave it out")
            reader.problem(path, f"there is no {where[:-1]} {quote(name)}", hint)


def _check_targets(reader: Reader, manifest: Manifest) -> None:
    """Every target has a layer where there are any, and what a layer comes after is somewhere with it."""
    layers = {layer.name: layer for layer in manifest.layers}
    for name in manifest.targets if manifest.layers else ():
        if not any(layer.serves(name) for layer in manifest.layers):
            hint = f"add {quote(name)} to the `targets` of the layers that it shall have, or leave the target out"
            reader.problem(("targets", name), f"no layer serves the target {quote(name)}", hint)
    for layer in manifest.layers:
        for number, other in enumerate(layer.after):
            if not any(layer.serves(name) and layers[other].serves(name) for name in manifest.targets):
                its, own = listed(layers[other].targets, "and"), listed(layer.targets, "and")
                message = f"layer {quote(other)} is for {its}, and {quote(layer.name)} for {own}: no target has both"
                hint = "leave it out of `after`, or let the layers share a target"
                reader.problem(("layers", layer.index, "after", number), message, hint)


def _check_code_is_no_mount(reader: Reader, data: Mapping[str, Any]) -> None:
    target = _table(data, "code").get("target", Code().target)
    if isinstance(target, str) and target in _table(data, "mounts"):
        reader.problem(("mounts", target), "the code is mounted there", "choose another path, or change code.target")


def _check_cpus(reader: Reader, data: Mapping[str, Any]) -> None:
    """A CPU that no machine of the target's platform can have."""
    for name in _table(data, "targets"):
        target = _table(_table(data, "targets"), name)
        wanted = _table(target, "requires").get("cpu")
        platform = target.get("platform", Target().platform)
        family = cpu.FAMILIES.get(str(platform).removeprefix("linux/"))
        if isinstance(wanted, str) and family and cpu.family(wanted) not in (None, family):
            near = [item for item in ("x86-64-v3", "neoverse_n1") if cpu.family(item) == family]
            reader.problem(
                ("targets", name, "requires", "cpu"),
                f"no {platform} machine is a {quote(wanted)}",
                f"write one of that platform, such as {quote(near[0])}, or change the platform",
            )


def _table(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = data.get(name)
    return table if isinstance(table, dict) else {}


def _text(source: str | bytes, file: str) -> str:
    data = source.encode() if isinstance(source, str) else source
    if len(data) > MAX_BYTES:
        raise _fault(
            file, 0, "the file is larger than 1 MiB", "a manifest lists names; data and code have files of their own"
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _fault(file, line, f"not UTF-8: byte 0x{data[error.start]:02x}", "save the file as UTF-8") from None
    return text.replace("\r\n", "\n")


def _positions(text: str, file: str) -> Positions:
    try:
        return toml_lines.scan(text)
    except LimitError as error:
        raise _fault(file, error.line, str(error), "write it more simply") from None


def _toml(text: str, positions: Positions, file: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except ValueError as error:  # also what int() says to 5,000 digits
        raise ManifestError([toml_lines.explain(error, text, positions, file)]) from None


def _fault(file: str, line: int, message: str, hint: str = "") -> ManifestError:
    return ManifestError([Problem(file=file, line=line, key="", message=message, hint=hint)])


# JSON Schema.


def schema(kinds: Mapping[str, Kind]) -> dict[str, Json]:
    """JSON Schema (draft 2020-12) of a manifest whose layers are of ``kinds``."""
    of_kinds: dict[str, Json] = {"oneOf": [_layer_schema(kind) for kind in _layer_kinds(kinds).values()]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        "title": "research.toml",
        "description": "What a research environment is made of. reprobox reads it.",
        **tables.schema(Manifest, {Layer: lambda: of_kinds}),
    }


def _layer_schema(kind: Kind) -> dict[str, Any]:
    common: dict[str, Any] = tables.schema(Layer)
    own: dict[str, Any] = tables.schema(kind.options)
    named = {"description": "What the layer does.", "const": kind.name}
    return {
        "title": kind.name,
        **common,
        **own,
        "properties": {**common["properties"], "kind": named, **own["properties"]},
        "required": [*common["required"], *own.get("required", [])],
    }
