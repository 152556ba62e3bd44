"""What a SIF says about the containers made of it, as an image's config says it: environment, start and labels.

A SIF says it in shell scripts below ``/.singularity.d``. What they state is taken: names with values, and values made
of other names. What they would compute is not, since nothing may run while a base is looked at: it is told instead.

Sources: Apptainer's user guide, "Environment and Metadata"; the files that its builders write.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence

from reprobox.archives.squashfs import SquashFs
from reprobox.digest import Json

_FOLDER = b".singularity.d"
#: Scripts that Apptainer puts into every SIF: its own machinery, which says nothing about the image.
_OWN = (b"01-base.sh", b"94-appsbase.sh", b"95-apps.sh", b"99-base.sh", b"99-runtimevars.sh")
_OWN_LABELS = ("org.label-schema.", "org.opencontainers.image.base.")

_ASSIGNMENT = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)")
_EXPORT = re.compile(r"export((?:\s+[A-Za-z_][A-Za-z0-9_]*)+)")
_PIECE = re.compile(
    r"""'([^']*)'                                               # 1: as it stands
      | "((?:[^"\\`$]|\\.|\$\{[^{}`]*\}|\$[A-Za-z_][A-Za-z0-9_]*)*)"   # 2: with names in it
      | ((?:[A-Za-z0-9_./:,@%+=~-]|\$\{[^{}`]*\}|\$[A-Za-z_][A-Za-z0-9_]*|\\.)+)  # 3: the same, without quotes
    """,
    re.VERBOSE,
)
_NAME = re.compile(r"\$(?:\{([A-Za-z_][A-Za-z0-9_]*)(?::?-([^{}]*))?\}|([A-Za-z_][A-Za-z0-9_]*))|\\(.)")
_OCI = re.compile(r"^OCI_(ENTRYPOINT|CMD)=(.*)$", re.MULTILINE)
_SHELLS = ("/bin/sh", "/bin/bash", "/bin/dash", "/usr/bin/sh", "/usr/bin/bash", "/usr/bin/dash")


def config_of(system: SquashFs) -> tuple[dict[str, Json], tuple[str, ...]]:
    """The ``config`` of an image's configuration (OCI's names), and what was not taken, in words."""
    left: list[str] = []
    environment = _environment(system, left)
    config: dict[str, Json] = {"Env": [f"{name}={value}" for name, value in environment.items()]}
    config |= _start(_text(system, b"runscript"), left)
    config["Labels"] = _labels(_text(system, b"labels.json"))
    return {name: value for name, value in config.items() if value}, tuple(left)


def _text(system: SquashFs, name: bytes) -> str:
    return (system.read(_FOLDER + b"/" + name) or b"").decode("utf-8", "replace")


# -- environment -------------------------------------------------------------------------------------------------------


def _environment(system: SquashFs, left: list[str]) -> dict[str, str]:
    """What the scripts of ``env`` export, in the order in which they would run."""
    values: dict[str, str] = {}
    exported: dict[str, None] = {}
    for name in system.names(_FOLDER + b"/env"):
        if name in _OWN or not name.endswith(b".sh"):
            continue
        computed = [line for line in _lines(_text(system, b"env/" + name)) if not _take(line, values, exported)]
        left += [f"the environment is computed by {name.decode(errors='replace')}: {line[:80]}" for line in computed]
    return {name: values[name] for name in exported if name in values}


def _lines(text: str) -> Iterator[str]:
    for line in text.splitlines():
        plain = line.strip().removesuffix(";").strip()
        if plain and not plain.startswith("#"):
            yield plain


def _take(line: str, values: dict[str, str], exported: dict[str, None]) -> bool:
    """Do what the line says, if it only states something."""
    if found := _EXPORT.fullmatch(line):
        exported.update(dict.fromkeys(found[1].split()))
        return True
    assigned = _ASSIGNMENT.fullmatch(line)
    value = _value(assigned[2], values) if assigned else None
    if assigned is None or value is None:
        return False
    values[assigned[1]] = value
    if line.startswith("export"):
        exported[assigned[1]] = None
    return True


def _value(text: str, values: Mapping[str, str]) -> str | None:
    """The word that a shell reads, with names replaced; None where it is more than one, or would be computed."""
    found, at = "", 0
    text = text.strip()
    while at < len(text):
        piece = _PIECE.match(text, at)
        if piece is None:
            return None
        plain, quoted, bare = piece.groups()
        word = plain if plain is not None else _expanded(quoted if quoted is not None else bare, values)
        if word is None:
            return None
        found += word
        at = piece.end()
    return found


def _expanded(text: str, values: Mapping[str, str]) -> str | None:
    known = True

    def put(match: re.Match[str]) -> str:
        nonlocal known
        name, default, short, escaped = match.groups()
        if escaped is not None:
            return escaped
        value = values.get(name or short)
        if value is None and default is not None:
            value = _value(default, values)
            known = known and value is not None
        return value or ""

    if re.search(r"\$\{(?![A-Za-z_][A-Za-z0-9_]*(?::?-[^{}]*)?\})", text):
        return None  # another expansion than a name or a default
    found = _NAME.sub(put, text)
    return found if known else None


# -- start -------------------------------------------------------------------------------------------------------------


def _start(script: str, left: list[str]) -> dict[str, Json]:
    """What runs: an image's entry point and command where the SIF was made of one, else its run script."""
    if not script.strip():
        return {}
    said = dict(_OCI.findall(script))
    if said:
        found: dict[str, Json] = {}
        for name, key in (("ENTRYPOINT", "Entrypoint"), ("CMD", "Cmd")):
            words = _words(said.get(name, ""))
            if words is None:
                left.append(f"its {name} cannot be read from its run script")
            elif words:
                found[key] = list(words)
        return found
    first, _, _ = script.partition("\n")
    shell = first.removeprefix("#!").split() if first.startswith("#!") else ["/bin/sh"]
    if not shell or shell[0] not in _SHELLS:
        left.append(f"its run script is not for a shell: {first[:80]}")
        return {}
    return {"Entrypoint": [*shell, "-c", script, "runscript"]}


def _words(text: str) -> Sequence[str] | None:
    """The words in the value of ``OCI_CMD='"python3" "-m" "x"'``: quoted for a shell, twice."""
    try:
        return [word for part in shlex.split(text) for word in shlex.split(part)]
    except ValueError:
        return None


def _labels(text: str) -> dict[str, Json]:
    """Labels of the image, without those by which Apptainer says when and with what it was built."""
    try:
        said = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    if not isinstance(said, dict):
        return {}
    return {
        name: value
        for name, value in sorted(said.items())
        if isinstance(value, str) and not name.startswith(_OWN_LABELS)
    }
