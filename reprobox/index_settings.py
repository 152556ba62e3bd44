"""What this host says about its Python package index, put into the words of uv.

Settings are looked for where reprobox, uv and pip have theirs. None of them, and no URL, ever gets into a lock.
"""

from __future__ import annotations

import configparser
import contextlib
import netrc
import os
import re
import tomllib
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

#: Settings of pip that say where packages are. One that says which versions may be is named, and has no effect: that is
#: for the manifest to say.
PIP_SETTINGS = ("index-url", "extra-index-url", "find-links", "no-index")
PIP_UNUSED = ("constraint",)


@dataclass(frozen=True, kw_only=True, slots=True)
class HostSettings:
    """``variables`` for uv's environment; ``unused`` names settings of pip that are there and have no effect."""

    variables: Mapping[str, str]
    unused: tuple[str, ...] = ()


def host_settings(index: Mapping[str, str], environment: Mapping[str, str]) -> HostSettings:
    """Where uv is to look: reprobox's own settings (``url``; ``extra`` and ``find-links`` joined by spaces), else uv's,
    else pip's."""
    variables = {}
    if index.get("extra"):
        variables["UV_INDEX"] = f"{index['extra']} {environment.get('UV_INDEX', '')}".strip()
    if index.get("find-links"):
        variables["UV_FIND_LINKS"] = ",".join([*index["find-links"].split(), *_given(environment, "UV_FIND_LINKS")])
    if index.get("url"):
        return HostSettings(variables={**variables, "UV_DEFAULT_INDEX": index["url"]})
    if _uv_has_an_index(environment):
        return HostSettings(variables=variables)
    pip = _pip_settings(environment)
    unused = tuple(name for name in PIP_UNUSED if pip.get(name))
    return HostSettings(variables={**_as_uv_says_it(pip, environment), **variables}, unused=unused)


def _as_uv_says_it(pip: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """What pip is told of where packages are. pip takes the best version that any of its indices has; so does this."""
    index, extra, links, none = (pip.get(name, "") for name in PIP_SETTINGS)
    variables = {"UV_DEFAULT_INDEX": index} if index else {}
    if extra:
        variables["UV_EXTRA_INDEX_URL"] = (
            f"{environment.get('UV_EXTRA_INDEX_URL', '')} {' '.join(extra.split())}".strip()
        )
        variables["UV_INDEX_STRATEGY"] = environment.get("UV_INDEX_STRATEGY") or "unsafe-best-match"
    if links:
        variables["UV_FIND_LINKS"] = ",".join([*_given(environment, "UV_FIND_LINKS"), *links.split()])
    if none.lower() in ("1", "true", "yes", "on"):
        variables["UV_NO_INDEX"] = "1"
    return variables


def _given(environment: Mapping[str, str], name: str) -> list[str]:
    """What is said in a variable, as a list."""
    return [item for item in environment.get(name, "").split(",") if item]


def host_trust(environment: Mapping[str, str]) -> dict[str, str]:
    """Whom uv is to trust: the host, as all of reprobox does, and not a list of its own; or pip's ``cert``."""
    variables = {name: "true" for name in ("UV_SYSTEM_CERTS", "UV_NATIVE_TLS") if not environment.get(name)}
    certificates = _pip_settings(environment).get("cert", "")
    if certificates and not environment.get("SSL_CERT_FILE") and Path(certificates).is_file():
        variables["SSL_CERT_FILE"] = certificates
    return variables


def _uv_has_an_index(environment: Mapping[str, str]) -> bool:
    """Whether uv itself was told which index is the default one."""
    if any(environment.get(name) for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_NO_INDEX")):
        return True
    return any(_names_an_index(path) for path in _uv_files(environment))


def _names_an_index(path: Path) -> bool:
    with contextlib.suppress(OSError, ValueError):  # uv will say what is wrong with it
        said = tomllib.loads(path.read_text(encoding="utf-8"))
        for table in (said, said.get("pip", {})):
            if table.get("index-url") or table.get("no-index"):
                return True
            if any(isinstance(entry, dict) and entry.get("default") for entry in table.get("index", ())):
                return True
    return False


def _uv_files(environment: Mapping[str, str]) -> Iterator[Path]:
    if environment.get("UV_CONFIG_FILE"):
        yield Path(environment["UV_CONFIG_FILE"])
    elif not environment.get("UV_NO_CONFIG"):
        machine, own = _settings_folders(environment)
        yield from (folder / "uv" / "uv.toml" for folder in (*machine, Path("/etc"), *own))


def _settings_folders(environment: Mapping[str, str]) -> tuple[list[Path], list[Path]]:
    """The machine's folders of settings and the user's, the weakest first (XDG base directories)."""
    machine = [Path(item) for item in reversed((environment.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":")) if item]
    home = environment.get("HOME")
    own = environment.get("XDG_CONFIG_HOME") or (home and f"{home}/.config")
    return machine, [Path(own)] if own else []


def _pip_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """What ``pip install`` would use: the machine's files, the user's, ``PIP_*``; ``[install]`` over ``[global]``."""
    found: dict[str, str] = {}
    files = list(_pip_files(environment))
    for section in ("global", "install"):
        for path in files:
            found |= _section(path, section)
    for name in (*PIP_SETTINGS, *PIP_UNUSED, "cert"):
        if value := environment.get(f"PIP_{name.upper().replace('-', '_')}"):
            found[name] = value
    return found


def _pip_files(environment: Mapping[str, str]) -> Iterator[Path]:
    named = environment.get("PIP_CONFIG_FILE", "")
    if named == os.devnull:
        return
    machine, own = _settings_folders(environment)
    yield from (folder / "pip" / "pip.conf" for folder in machine)
    yield Path("/etc/pip.conf")
    if environment.get("HOME"):
        yield Path(environment["HOME"], ".pip", "pip.conf")
    yield from (folder / "pip" / "pip.conf" for folder in own)
    if named:
        yield Path(named)


def _section(path: Path, section: str) -> dict[str, str]:
    parser = configparser.RawConfigParser()
    try:
        parser.read(path, encoding="utf-8")
        items = parser.items(section)
    except (configparser.Error, OSError, UnicodeError):
        return {}
    return {name.replace("_", "-"): value.strip() for name, value in items}


# -- logins ------------------------------------------------------------------------------------------------------------

_INDEX_VARIABLES = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL")


def with_login(url: str, environment: Mapping[str, str]) -> str:
    """``url`` with the login for its server that uv's variables or ~/.netrc have; uv leaves it out of its answers.

    For fetching only: such a URL is never written down.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or parts.username:
        return url
    login = _index_logins(environment).get((parts.scheme, parts.netloc)) or _netrc_login(parts.hostname, environment)
    return urllib.parse.urlunsplit(parts._replace(netloc=f"{login}@{parts.netloc}")) if login else url


def _index_logins(environment: Mapping[str, str]) -> dict[tuple[str, str], str]:
    found = {}
    for entry in " ".join(environment.get(name, "") for name in _INDEX_VARIABLES).split():
        parts = urllib.parse.urlsplit(re.sub(r"\A[\w.-]+=", "", entry))  # name=URL
        login, at, server = parts.netloc.rpartition("@")
        if at:
            found[parts.scheme, server] = login
    return found


def _netrc_login(host: str | None, environment: Mapping[str, str]) -> str:
    path = environment.get("NETRC") or (f"{environment['HOME']}/.netrc" if environment.get("HOME") else "")
    try:
        found = netrc.netrc(path).authenticators(host or "") if path else None
    except (OSError, netrc.NetrcParseError):
        return ""
    if not found:
        return ""
    return f"{urllib.parse.quote(found[0], safe='')}:{urllib.parse.quote(found[2] or '', safe='')}"
