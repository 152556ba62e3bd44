"""Where the engine listens: ``DOCKER_HOST``, the current context of the docker command, or a socket in its usual place.

Source: docker(1), "Environment variables"; the rootless mode of Docker; podman-system-service(1).
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from typing import Any

from reprobox.errors import BackendError
from reprobox.launch import user_name

_DEFAULT = "/var/run/docker.sock"
_PODMAN = "/run/podman/podman.sock"
START = (
    "start it: `sudo systemctl start docker`, or `sudo dockerd` where there is no systemd; without root:"
    " `systemctl --user start docker` (rootless Docker) or `systemctl --user start podman.socket` (Podman)"
)
INSTALL = (
    "install Docker (Debian and Ubuntu: `sudo apt-get install docker.io`), or without root Podman (`systemctl --user"
    " start podman.socket`); an engine elsewhere is named in DOCKER_HOST"
)
JOIN = (
    "join the group that may: `sudo usermod -aG docker {user}`, then log in again (that group is as good as root);"
    " or use a rootless engine: `dockerd-rootless-setuptool.sh install`, or `systemctl --user start podman.socket`"
)
_ADDRESS = (
    "write unix:///path/of/docker.sock, tcp://host:2376 or ssh://user@host; unset it for the engine of this machine"
)
_KEYS = (
    "DOCKER_CERT_PATH names a folder that has ca.pem, cert.pem and key.pem; unset DOCKER_TLS_VERIFY for an engine"
    " without TLS"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """An engine's address, as ``DOCKER_HOST`` has it, and who said so; ``options`` are for the SDK's client."""

    address: str
    said_by: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def socket(self) -> str:
        """The path of the socket; empty where the engine is on another machine."""
        return self.address.removeprefix("unix://") if self.address.startswith("unix://") else ""


def find() -> Endpoint:
    """The engine that is meant. Raises :class:`BackendError` where none is, or where it may not be used."""
    wanted = _asked_for()
    if wanted is not None:
        if wanted.socket:
            _check(wanted)
        return wanted
    problem = None
    for path in usual_sockets():
        if not os.path.exists(path):
            continue
        endpoint = Endpoint(address=f"unix://{path}", said_by="its usual place")
        try:
            _check(endpoint)
            return endpoint
        except BackendError as error:
            problem = problem or error
    if problem is not None:
        raise problem
    places = ", ".join(usual_sockets())
    raise BackendError(f"no engine was found: DOCKER_HOST is not set, and there is none of {places}", hint=INSTALL)


def usual_sockets() -> list[str]:
    """Where engines listen that nobody said anything about: Docker before Podman, the machine's before the user's."""
    own = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    return [_DEFAULT, f"{own}/docker.sock", f"{own}/podman/podman.sock", _PODMAN]


def _asked_for() -> Endpoint | None:
    address = os.environ.get("DOCKER_HOST")
    return _from_variables(address) if address else _context()


def _from_variables(address: str) -> Endpoint:
    """The engine of ``DOCKER_HOST``, with what ``DOCKER_TLS_VERIFY`` and ``DOCKER_CERT_PATH`` say of its keys."""
    from docker.errors import DockerException, TLSParameterError
    from docker.utils import kwargs_from_env, parse_host

    try:
        parsed = parse_host(address)
    except (DockerException, ValueError):
        raise BackendError(f"DOCKER_HOST is {address!r}, which is no address of an engine", hint=_ADDRESS) from None
    try:
        options = {name: value for name, value in kwargs_from_env().items() if name != "base_url"}
    except (TLSParameterError, OSError):
        raise BackendError(
            f"the keys for the engine at {address} (DOCKER_HOST) cannot be read from {_key_folder()}", hint=_KEYS
        ) from None
    of_socket = parsed.startswith("http+unix://")  # "unix:/path" is understood, and "unix://" is the usual place
    return Endpoint(
        address=parsed.removeprefix("http+") if of_socket else address, said_by="DOCKER_HOST", options=options
    )


def _key_folder() -> str:
    return os.environ.get("DOCKER_CERT_PATH") or os.path.join(os.path.expanduser("~"), ".docker")


def _context() -> Endpoint | None:
    """The docker command's current context, where it is not the default one."""
    if not os.environ.get("DOCKER_CONTEXT") and not _names_a_context():
        return None  # found out without the SDK, which takes longer to load than a quick command does
    from docker.context import ContextAPI
    from docker.errors import DockerException

    name = os.environ.get("DOCKER_CONTEXT")
    try:
        context = ContextAPI.get_context(name) if name else ContextAPI.get_current_context()
    except (DockerException, OSError, ValueError) as error:
        raise BackendError(
            f"docker's context cannot be read: {error}", hint="`docker context ls` shows them; or set DOCKER_HOST"
        ) from None
    if context is None:
        raise BackendError(f"docker has no context {name!r}", hint="`docker context ls` shows those it has")
    if context.name == "default" or not context.Host:
        return None
    options = {"tls": context.TLSConfig} if context.TLSConfig else {}
    return Endpoint(address=str(context.Host), said_by=f"docker's context {context.name}", options=options)


def _names_a_context() -> bool:
    """Whether the docker command's settings may say anything about contexts."""
    folder = os.environ.get("DOCKER_CONFIG") or os.path.join(os.path.expanduser("~"), ".docker")
    try:
        with open(os.path.join(folder, "config.json"), "rb") as file:
            return b"currentContext" in file.read()
    except FileNotFoundError:
        return False
    except OSError:
        return True


def _check(endpoint: Endpoint) -> None:
    """Whether somebody answers at the socket, and may be asked, in words."""
    path = endpoint.socket
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(path)
    except PermissionError:
        user = user_name()
        raise BackendError(f"{user} may not use the engine's socket {path}", hint=JOIN.format(user=user)) from None
    except ConnectionRefusedError:
        raise BackendError(
            f"the engine at {path} does not run: its socket is there, and nothing answers", hint=START
        ) from None
    except OSError as error:
        reason = "there is none" if isinstance(error, FileNotFoundError) else error.strerror or str(error)
        raise BackendError(
            f"no engine can be reached at {path}, which {endpoint.said_by} names: {reason}", hint=START
        ) from None
