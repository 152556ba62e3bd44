"""Small layer kinds for manifest tests: the keys of the built-in kinds as DESIGN.md has them, without behaviour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from reprobox import manifest_reader
from reprobox.layers.fetch import Fetch
from reprobox.layers.git import Git
from reprobox.table_rules import Rule, at_least_one
from reprobox.tables import key
from reprobox.value_checks import absolute_path, apt_package, nonempty, relative_inside, url


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    uris: tuple[str, ...] = key("Addresses of the archive.", check=url, nonempty=True)
    suites: tuple[str, ...] = key("Suites of it.", nonempty=True)
    components: tuple[str, ...] = key("Components of it.", default=("main",))
    key: str | None = key("File with its key.", default=None, check=relative_inside)


@dataclass(frozen=True, kw_only=True, slots=True)
class AptOptions:
    packages: tuple[str, ...] = key("Debian packages.", check=apt_package, nonempty=True, hint='add packages = ["…"]')
    recommends: bool = key("Install what they recommend too.", default=False)
    sources: tuple[Source, ...] = key("More archives.", default=(), available=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class PipOptions:
    RULES: ClassVar[tuple[Rule, ...]] = (at_least_one("packages", "requirements"),)

    packages: tuple[str, ...] = key("Python packages.", default=(), check=nonempty)
    requirements: str | None = key("A requirements file.", default=None, check=relative_inside, available=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    script: str = key("A shell script.", check=nonempty, hint='add script = "…"')
    secrets: tuple[str, ...] = key("Secrets it may see.", default=(), refers="secrets", available=False)
    network: bool = key("Give it the network.", default=False, available=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class CopyFile:
    source: str = key("What to copy.", toml_name="from", check=relative_inside, hint='add from = "…"')
    to: str = key("Where to.", check=absolute_path, hint='add to = "/…"')


@dataclass(frozen=True, kw_only=True, slots=True)
class CopyOptions:
    files: tuple[CopyFile, ...] = key("Files to copy.", nonempty=True, hint='add files = [{ from = "…", to = "/…" }]')


@dataclass(frozen=True, slots=True)
class SmallKind:
    name: str
    options: type[Any]


KINDS: dict[str, manifest_reader.Kind] = {
    kind.name: kind
    for kind in (
        SmallKind("apt", AptOptions),
        SmallKind("pip", PipOptions),
        SmallKind("run", RunOptions),
        SmallKind("copy", CopyOptions),
        Fetch(),
        Git(),
    )
}

#: The manifest of DESIGN.md, with real values where it has an ellipsis.
EXAMPLE = """\
#:schema https://example.org/research.schema.json
[project]
name = "xor"
version = "1.0.0"
description = "A network learns XOR"
license = "MIT"
authors = [{ name = "Josiah Carberry", orcid = "0000-0002-1825-0097", affiliation = "Brown University" }]
doi = "10.5555/12345678"

[base]
image = "python:3.11-slim"

[code]
path = "."
target = "/work"
exclude = ["data/", "*.ckpt"]

[[layers]]
name = "system"
kind = "apt"
packages = ["python3", "git", "libhdf5-dev=1.10.8*"]
recommends = false

[[layers]]
name = "python"
kind = "pip"
packages = ["numpy>=2", "matplotlib"]
after = ["system"]

[[layers]]
name = "model"
kind = "fetch"
files = [{ url = "https://example.org/mujoco.tar.gz", sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", to = "/opt/mujoco", unpack = true }]

[[layers]]
name = "gym"
kind = "git"
repository = "https://example.org/gym"
rev = "v0.9"
to = "/opt/gym"

[[layers]]
name = "compile"
kind = "run"
script = "make -C /opt/gym install"
secrets = ["mjkey"]

[[layers]]
name = "settings"
kind = "copy"
files = [{ from = "conf/", to = "/etc/xor" }]

[env]
LANG = "C.UTF-8"

[mounts]
"/dataset"   = { mode = "ro", source = "data", digest = true }
"/final_log" = { mode = "rw", source = "out" }
"/tmp_log"   = { mode = "rw" }

[run]
command = ["python3", "/work/train.py"]
workdir = "/work"

[secrets]
mjkey = { path = "mjkey.txt" }

[targets.cpu]
platform = "linux/amd64"

[targets.gpu]
platform = "linux/amd64"
base = { image = "nvidia/cuda:12.4.1-runtime-ubuntu22.04" }
requires = { cuda = "12.4", cpu = "x86-64-v3", memory = "16 GiB", mpi = "openmpi>=4" }
"""
