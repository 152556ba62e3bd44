# ruff: noqa: RUF009 - key() is a field specifier
"""The model of ``research.toml``: a frozen class for each of its tables, and the :class:`Manifest` that has them all.

Pure. Which layer kinds there are is told by whoever reads one, since they come from plugins: a ``[[layers]]`` table has
the common keys of :class:`Layer` and its kind's own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from reprobox import tables, toml_lines
from reprobox.base_reference import DAEMON, ORAS, bare_name, base_image, base_sif
from reprobox.digest import Json, canonical, sha256
from reprobox.errors import Problem, UsageError
from reprobox.table_rules import Rule, at_most_one, exactly_one, needs, needs_any
from reprobox.tables import EMPTY, Reader, key
from reprobox.toml_lines import Positions
from reprobox.value_checks import (
    absolute_path,
    cpu_name,
    day,
    distribution,
    doi_name,
    email_address,
    env_name,
    file_url,
    host_path,
    layer_name,
    mount_point,
    mounted_name,
    mpi_library,
    nonempty,
    orcid_id,
    relative_inside,
    repository,
    ror_id,
    sha256_hex,
    size,
    slug,
    version,
    web_page,
    word,
)
from reprobox.wording import did_you_mean, listed, quote

FORMAT = "reprobox-manifest-1"
"""Tag of the canonical form: changing how a manifest is hashed means changing this."""

IN_IMAGE = "image"
RESERVED_LAYERS = ("base", "skeleton", "code")


@dataclass(frozen=True, kw_only=True, slots=True)
class Author:
    """Who made the research."""

    name: str = key(
        'Full name; write "Family, Given" where the last word is not the family name.',
        check=nonempty,
        hint='add name = "…"',
    )
    orcid: str | None = key("ORCID iD, four groups of four digits.", default=None, check=orcid_id)
    affiliation: str | None = key("University, institute or company.", default=None, check=nonempty)
    ror: str | None = key("ROR identifier of the affiliation.", default=None, check=ror_id)
    email: str | None = key("E-mail address.", default=None, check=email_address)

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
    ror: str | None = key("ROR identifier of the funder.", default=None, check=ror_id)
    award: str | None = key("Number of the grant.", default=None, check=nonempty)
    title: str | None = key("Title of the grant.", default=None, check=nonempty)
    url: str | None = key("Page of the grant.", default=None, check=web_page)


@dataclass(frozen=True, kw_only=True, slots=True)
class Project:
    """What the environment is for; goes into image labels and publications."""

    name: str = key(
        "Short name of the project; images are named after it.", check=slug, hint='add name = "…", a short name'
    )
    title: str | None = key("Title, as people cite it; the name if left out.", default=None, check=nonempty)
    version: str | None = key("Version of the research.", default=None, check=word)
    description: str | None = key("One sentence about it.", default=None, check=nonempty)
    license: str | None = key("SPDX licence expression.", default=None, check=nonempty)
    authors: tuple[Author, ...] = key("Who made it.", default=())
    doi: str | None = key("DOI of the paper or record.", default=None, check=doi_name)
    date: str | None = key("Day of its release, YYYY-MM-DD.", default=None, check=day)
    keywords: tuple[str, ...] = key("Words to find it by.", default=(), check=nonempty)
    url: str | None = key("Page of the project.", default=None, check=web_page)
    repository: str | None = key("Where its code is developed.", default=None, check=web_page)
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
    bootstrap: str | None = key("A distribution, built from its own packages.", default=None, check=distribution)
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

    name: str = key("Name of the layer.", check=layer_name, hint='add name = "…"')
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
    private: bool = key("Keep these files out of vaults.", default=False, said=False)


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

    cuda: str | None = key("CUDA version that the driver must be able to run.", default=None, check=version)
    cpu: str | None = key("CPU or level, such as x86-64-v3; its descendants will do too.", default=None, check=cpu_name)
    memory: str | None = key("Main memory that a job may use.", default=None, check=size)
    disk: str | None = key("Free disk space, where the store and the outputs are.", default=None, check=size)
    gpu_memory: str | None = key("Memory of the largest GPU.", default=None, check=size)
    mpi: str | None = key("MPI of the host, and its version.", default=None, check=mpi_library)
    kernel: str | None = key("Linux version.", default=None, check=version)
    glibc: str | None = key("C library version of the host.", default=None, check=version)


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
    secrets: Mapping[str, Secret] = key("Secrets that steps may see.", default=EMPTY, check_names=slug)
    targets: Mapping[str, Target] = key(
        "Variants of the environment.", default=DEFAULT_TARGETS, check_names=slug, nonempty=True
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

    def _document(self, left_out: Collection[str], *, private: bool = False) -> dict[str, Json]:
        """Without these keys of the project; with what mounts say of being ``private``, as earlier locks knew it."""
        said: dict[str, Json] = {"layers": [layer.document() for layer in self.layers], **self._tables(left_out)}
        if private:
            said["mounts"] = {
                name: tables.document(mount) | ({"private": True} if mount.private else {})
                for name, mount in self.mounts.items()
            }
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
        """The digests that a lock of this manifest may name: as now, and as locks did that knew of the DOI, or of what
        data is private.
        """
        nothing = frozenset[str]()
        documents = (
            self.document(),
            self._document(_PUBLISHED, private=True),
            self._document(nothing, private=True),
        )
        return tuple(dict.fromkeys(sha256(canonical(document)) for document in documents))

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
