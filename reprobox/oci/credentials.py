"""Logins for registries, from where Docker and Podman keep them.

Sources: docker-config-json "auths", "credHelpers" and "credsStore"; containers-auth.json(5); docker-credential-helpers'
protocol (``docker-credential-NAME get``).
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reprobox.errors import UsageError

_HUB = ("docker.io", "index.docker.io", "registry-1.docker.io")
_HUB_SERVER = "https://index.docker.io/v1/"


@dataclass(frozen=True, kw_only=True, slots=True)
class Login:
    """``token`` is an identity token, to be traded for access tokens; else user and password count."""

    user: str = ""
    password: str = ""
    token: str = ""

    def basic(self) -> str:
        """The Authorization header that says user and password."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


class Credentials:
    """Looks logins up when a registry asks for one. ``notes`` says what stood in the way, for messages."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._environment = environment
        self.notes: list[str] = []

    def login(self, registry: str, repository: str) -> Login | None:
        """What to say to ``registry`` (``host[:port]``) about ``repository``; None means nobody is logged in."""
        for path in self._files():
            if found := self._in_file(path, registry, repository):
                return found
        return None

    def _files(self) -> Iterator[Path]:
        """Files that may have logins: those named by the environment first, Podman's before Docker's."""
        said = self._environment.get
        home = Path(said("HOME") or Path.home())
        if path := said("REGISTRY_AUTH_FILE"):
            yield Path(path)
        if folder := said("DOCKER_CONFIG"):
            yield Path(folder) / "config.json"
        if folder := said("XDG_RUNTIME_DIR"):
            yield Path(folder) / "containers" / "auth.json"
        yield Path(said("XDG_CONFIG_HOME") or home / ".config") / "containers" / "auth.json"
        yield home / ".docker" / "config.json"

    def _in_file(self, path: Path, registry: str, repository: str) -> Login | None:
        said = _read(path)
        server = _HUB_SERVER if registry in _HUB else registry
        helpers = said.get("credHelpers") or {}
        for helper in (helpers.get(registry) or helpers.get(server), said.get("credsStore")):
            if helper and (found := self._ask(helper, server, path)):
                return found
        auths = {_plain(key): value for key, value in (said.get("auths") or {}).items()}
        parts = repository.split("/")
        host = _plain(registry)
        for name in ["/".join([host, *parts[:count]]) for count in range(len(parts), -1, -1)]:
            if found := _entry(auths.get(name)):
                return found
        return None

    def _ask(self, helper: str, server: str, path: Path) -> Login | None:
        program = f"docker-credential-{helper}"
        if not re.fullmatch(r"[A-Za-z0-9._-]+", helper):
            raise UsageError(f"{helper!r} is no name of a credential helper", where=str(path))
        try:
            done = subprocess.run([program, "get"], input=server.encode(), capture_output=True, timeout=60, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            self.notes.append(f"{program}, which {path} names, did not work: {error}")
            return None
        try:
            answer = json.loads(done.stdout) if done.returncode == 0 else {}
            user, secret = answer.get("Username", ""), answer.get("Secret", "")
        except (ValueError, AttributeError):
            self.notes.append(f"{program}, which {path} names, gave no usable answer")
            return None
        if not secret:
            return None
        return Login(token=secret) if user == "<token>" else Login(user=user, password=secret)


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise UsageError(f"the registry logins cannot be read: {error.strerror}", where=str(path)) from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the registry logins are not JSON: {error}", where=str(path)) from None
    return document if isinstance(document, dict) else {}


def _plain(key: str) -> str:
    """A registry as it stands in such a file, without scheme and API version: ``host[:port][/namespace]``."""
    name = re.sub(r"/v[12]/?\Z", "", re.sub(r"\Ahttps?://", "", key)).rstrip("/")
    host, slash, rest = name.partition("/")
    return ("docker.io" if host in _HUB else host) + slash + rest


def _entry(entry: Any) -> Login | None:
    if not isinstance(entry, dict):
        return None
    if token := entry.get("identitytoken"):
        return Login(token=token)
    user, password = entry.get("username", ""), entry.get("password", "")
    if auth := entry.get("auth"):
        try:
            user, _, password = base64.b64decode(auth).decode().rstrip("\0").partition(":")
        except ValueError:
            return None
    return Login(user=user, password=password) if user and password else None
