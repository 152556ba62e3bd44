"""What a Dockerfile says of an environment: the plain parts of its last stage, and which instructions are left."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from reprobox import value_checks
from reprobox.base_reference import image_reference
from reprobox.layers.pip import requirement

_IGNORED = frozenset(("FROM", "ARG", "RUN", "CMD", "ENTRYPOINT", "WORKDIR", "COPY", "LABEL", "MAINTAINER"))
_SEPARATORS = re.compile(r"&&|\|\||;|\n")


@dataclass(frozen=True, kw_only=True, slots=True)
class Dockerfile:
    """What was understood; ``others`` are names of instructions, and commands, that were not."""

    image: str | None = None
    apt: tuple[str, ...] = ()
    pip: tuple[str, ...] = ()
    workdir: str | None = None
    command: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


@dataclass(slots=True)
class _Stage:
    image: str
    lines: list[tuple[str, str]] = field(default_factory=list)


def read_dockerfile(text: str) -> Dockerfile:
    """Of several stages, the last, and those that it builds on."""
    stages, arguments = _stages(text)
    if not stages:
        return Dockerfile()
    *_, last = stages.values()
    image, lines = last.image, last.lines
    seen = {id(last)}
    while (below := stages.get(image.lower())) and id(below) not in seen:
        seen.add(id(below))
        image, lines = below.image, [*below.lines, *lines]
    runs = [command for name, said in lines if name == "RUN" for command in _commands(said, arguments)]
    return Dockerfile(
        image=None if image_reference.find(image) or image == "scratch" else image,
        apt=_unique(package for argv in runs for package in _apt(argv)),
        pip=_unique(package for argv in runs for package in _pip(argv)),
        workdir=_workdir(lines),
        command=_command(lines),
        others=_unique([*(name for name, _ in lines if name not in _IGNORED), *_other_commands(runs)]),
    )


def _stages(text: str) -> tuple[dict[str, _Stage], dict[str, str]]:
    stages: dict[str, _Stage] = {}
    arguments: dict[str, str] = {}
    for name, said in _instructions(text):
        if name == "FROM":
            words = [word for word in _filled(said, arguments).split() if not word.startswith("--")]
            named = words[2] if len(words) == 3 and words[1].upper() == "AS" else f" {len(stages)}"
            stages[named.lower()] = _Stage(words[0] if words else "")
        elif name == "ARG":
            key, _, value = said.partition("=")
            arguments[key.strip()] = value.strip().strip("\"'")
        elif stages:
            [*stages.values()][-1].lines.append((name, said))
    return stages, arguments


def _instructions(text: str) -> Iterator[tuple[str, str]]:
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in re.sub(r"\\[ \t]*\n", " ", "\n".join(lines)).splitlines():
        name, _, said = line.strip().partition(" ")
        if re.fullmatch(r"[A-Za-z]+", name):
            yield name.upper(), said.strip()


def _filled(text: str, arguments: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        return arguments.get(match[1] or match[3]) or match[2] or ""

    return re.sub(r"\$(?:\{(\w+)(?::-([^}]*))?\}|(\w+))", value, text)


def _commands(said: str, arguments: Mapping[str, str]) -> Iterator[list[str]]:
    for part in _SEPARATORS.split(_filled(re.sub(r"^(?:--\S+ +)+", "", said), arguments)):
        try:
            words = shlex.split(part)
        except ValueError:
            continue
        while words and (re.fullmatch(r"\w+=.*", words[0]) or words[0] in ("sudo", "env", "exec", "set")):
            words = words[1:]
        if words:
            yield words


def _apt(argv: Sequence[str]) -> Iterator[str]:
    if argv[0] in ("apt", "apt-get") and "install" in argv:
        for word in argv[argv.index("install") + 1 :]:
            if not word.startswith("-") and not value_checks.apt_package.find(word):
                yield word


def _pip(argv: Sequence[str]) -> Iterator[str]:
    words = list(argv[2:] if argv[0].startswith("python") and argv[1:2] == ["-m"] else argv)
    if words[:1] and re.fullmatch(r"pip[0-9.]*|uv", words[0]) and "install" in words:
        rest = iter(words[words.index("install") + 1 :])
        for word in rest:
            if word in ("-r", "--requirement", "-c", "-i", "--index-url", "--extra-index-url", "-f", "--find-links"):
                next(rest, None)
            elif not word.startswith(("-", ".", "/")) and word not in ("pip", "uv") and not requirement.find(word):
                yield word


def _other_commands(runs: Sequence[Sequence[str]]) -> Iterator[str]:
    plain = ("apt", "apt-get", "pip", "pip3", "rm", "mkdir", "true")
    yield from (f"RUN {argv[0]}" for argv in runs if argv[0] not in plain and argv[1:3] != ["-m", "pip"])


def _workdir(lines: Sequence[tuple[str, str]]) -> str | None:
    found = next((said.strip("\"'") for name, said in reversed(lines) if name == "WORKDIR"), None)
    return None if found is None or value_checks.mount_point.find(found) else found


def _command(lines: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    said = {name: text for name, text in lines if name in ("CMD", "ENTRYPOINT")}
    return (*_argv(said.get("ENTRYPOINT", "")), *_argv(said.get("CMD", "")))


def _argv(text: str) -> tuple[str, ...]:
    if not text:
        return ()
    try:
        words = json.loads(text)
    except ValueError:
        return ("/bin/sh", "-c", text)
    good = isinstance(words, list) and all(isinstance(word, str) for word in words)
    return tuple(words) if good else ("/bin/sh", "-c", text)


def _unique(words: Iterator[str] | Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(words))
