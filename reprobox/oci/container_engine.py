"""Asking a container engine of this machine for an image: Docker, and Podman where it speaks Docker's language.

Two requests are all that is needed, so this is no client library: what an image's name stands for, and its archive. An
engine is found as Docker's own command finds it, and then where rootless Docker and Podman have their sockets.

Sources: Docker Engine API v1.41 ("Inspect an image", "Export an image"); docker(1) on DOCKER_HOST, DOCKER_CONTEXT and
the folder of contexts; podman-system-service(1).
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import http.client
import json
import os
import socket
import ssl
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeGuard

from reprobox.errors import BackendError, FetchError, cannot_write

_SYSTEM = "/var/run/docker.sock"
_TIMEOUT = 60.0  # seconds without a word; an engine may take long before the first byte of an archive
_SAVING = 900.0
_CHUNK = 1 << 20
_MOST_ANSWER = 16 << 20
_INSTEAD = 'or let somebody save the image (`docker save -o base.tar NAME:TAG`) and write archive = "base.tar"'


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """Where an engine listens: ``unix:///path`` or ``tcp://host:port``; ``said`` is who says so.

    ``certificates`` is a folder with ``ca.pem``, ``cert.pem`` and ``key.pem``, for an engine that wants TLS.
    """

    url: str
    said: str
    certificates: Path | None = None

    @property
    def socket(self) -> Path | None:
        """The path of a local engine's socket."""
        return Path(self.url.removeprefix("unix://")) if self.url.startswith("unix://") else None


def find(environment: Mapping[str, str] = os.environ) -> Endpoint:
    """The engine that Docker's command would ask, else one that listens where engines do.

    Raises :class:`BackendError` where there is none.
    """
    home = Path(environment.get("HOME") or Path.home())
    if url := environment.get("DOCKER_HOST"):
        certificates = environment.get("DOCKER_CERT_PATH") if environment.get("DOCKER_TLS_VERIFY") else None
        return Endpoint(url=url, said="DOCKER_HOST", certificates=Path(certificates) if certificates else None)
    if found := _context(Path(environment.get("DOCKER_CONFIG") or home / ".docker"), environment):
        return found
    runtime = environment.get("XDG_RUNTIME_DIR")
    places = [_SYSTEM, *([f"{runtime}/docker.sock"] if runtime else []), str(home / ".docker/run/docker.sock")]
    places += [*([f"{runtime}/podman/podman.sock"] if runtime else []), "/run/podman/podman.sock"]
    there = [place for place in places if os.path.exists(place)]
    for place in [*(place for place in there if os.access(place, os.R_OK | os.W_OK)), *there]:
        return Endpoint(url=f"unix://{place}", said="found there")
    raise BackendError(
        f"no container engine was found: there is none at {', '.join(places)}, and DOCKER_HOST is not set",
        hint="start Docker (`systemctl start docker`) or Podman's socket (`systemctl --user start podman.socket`), "
        f"set DOCKER_HOST, {_INSTEAD}",
    )


def _context(folder: Path, environment: Mapping[str, str]) -> Endpoint | None:
    """The endpoint of the context that is in use; None for the default one."""
    name = environment.get("DOCKER_CONTEXT") or str(_document(folder / "config.json").get("currentContext") or "")
    if name in ("", "default"):
        return None
    key = hashlib.sha256(name.encode()).hexdigest()
    meta = _document(folder / "contexts" / "meta" / key / "meta.json")
    try:
        url = str(meta["Endpoints"]["docker"]["Host"])
    except (KeyError, TypeError):
        hint = "`docker context ls` shows those that there are, and `docker context use default` the way back"
        raise BackendError(f"Docker's context {name!r} does not exist", where=str(folder), hint=hint) from None
    certificates = folder / "contexts" / "tls" / key / "docker"
    return Endpoint(
        url=url, said=f"Docker's context {name!r}", certificates=certificates if certificates.is_dir() else None
    )


def _document(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


class Engine:
    """One engine. Every method raises :class:`BackendError` where it cannot be reached or used."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint

    def image_id(self, name: str) -> str:
        """The id (``sha256:<hex>``) of the image with this name. Raises :class:`FetchError` if there is none."""
        with self._asked(f"/images/{_quoted(name)}/json", name) as response:
            found = _parsed(response.read(_MOST_ANSWER))
        identity = found.get("Id") if isinstance(found, dict) else None
        if not _is_text(identity):
            raise FetchError("the engine said something else than what its image is", where=self.endpoint.url)
        return identity if identity.startswith("sha256:") else f"sha256:{identity}"

    def save(self, name: str, file: IO[bytes]) -> None:
        """Write the archive of the image with this name or id, as ``docker save`` would."""
        with self._asked(f"/images/{_quoted(name)}/get", name, timeout=_SAVING) as response:
            while data := self._read(response, name):
                try:
                    file.write(data)
                except OSError as error:
                    raise cannot_write(str(file.name), error) from None

    def names(self) -> list[str]:
        """The names and tags of all images, if the engine tells them."""
        try:
            with self._asked("/images/json", "") as response:
                images = _parsed(response.read(_MOST_ANSWER))
            return sorted({tag for image in images for tag in image.get("RepoTags") or () if tag != "<none>:<none>"})
        except (BackendError, FetchError, AttributeError, TypeError):
            return []

    def _read(self, response: http.client.HTTPResponse, name: str) -> bytes:
        try:
            data = response.read(_CHUNK)
            if not data and response.length:
                raise http.client.IncompleteRead(b"", response.length)
            return data
        except (OSError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
            hint = "is its disk full, or was it stopped? Look at its log, and try again"
            raise FetchError(
                f"the engine stopped in the middle of the image: {reason}", where=name, hint=hint
            ) from None

    @contextlib.contextmanager
    def _asked(self, path: str, name: str, *, timeout: float = _TIMEOUT) -> Iterator[http.client.HTTPResponse]:
        connection = self._connection(timeout)
        try:
            try:
                connection.request("GET", path, headers={"Host": "docker"})
                response = connection.getresponse()
            except (OSError, http.client.HTTPException) as error:
                raise self._unreachable(error) from None
            if response.status != 200:
                raise self._refused(response, name)
            yield response
        finally:
            connection.close()

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        parts = urllib.parse.urlsplit(self.endpoint.url)
        if self.endpoint.socket is not None:
            return _UnixConnection(str(self.endpoint.socket), timeout)
        if parts.scheme not in ("tcp", "http", "https") or not parts.hostname:
            raise BackendError(
                f"an engine at {self.endpoint.url} cannot be asked ({self.endpoint.said}): only unix:// and tcp:// can",
                hint="for one on another machine, forward its socket (`ssh -nNT -L"
                " /tmp/docker.sock:/var/run/docker.sock HOST &`) and set DOCKER_HOST=unix:///tmp/docker.sock,"
                f" {_INSTEAD}",
            )
        if self.endpoint.certificates is None and parts.scheme != "https":
            return http.client.HTTPConnection(parts.hostname, parts.port or 2375, timeout=timeout)
        return http.client.HTTPSConnection(
            parts.hostname, parts.port or 2376, timeout=timeout, context=_tls(self.endpoint.certificates)
        )

    def _unreachable(self, error: Exception) -> BackendError:
        where = f"{self.endpoint.url} ({self.endpoint.said})"
        if isinstance(error, PermissionError):
            return BackendError(
                "this user may not use the container engine",
                where=where,
                hint="join its group (`sudo usermod -aG docker $USER`, then log in again), use rootless Docker or"
                f" Podman, {_INSTEAD}",
            )
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return BackendError(
            f"the container engine does not answer: {reason}",
            where=where,
            hint=f"start it (`systemctl start docker`, `systemctl --user start podman.socket`), {_INSTEAD}",
        )

    def _refused(self, response: http.client.HTTPResponse, name: str) -> FetchError:
        said = _parsed(response.read(_MOST_ANSWER))
        reason = str(said.get("message") or said.get("cause") or "") if isinstance(said, dict) else ""
        if response.status == 404:
            near = difflib.get_close_matches(name, self.names(), n=3)
            listed = f"did you mean {' or '.join(near)}? If not" if near else "`docker images` lists what it has; else"
            hint = f"{listed}, get it: `docker pull {name}`"
            return FetchError("the engine has no such image", where=name, hint=hint)
        hint = "look at the engine's log"
        return FetchError(f"the engine answered {response.status}: {reason}", where=name, hint=hint)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _tls(folder: Path | None) -> ssl.SSLContext:
    if folder is None:
        return ssl.create_default_context()
    try:
        context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    except (OSError, ssl.SSLError) as error:
        hint = "it must hold ca.pem, cert.pem and key.pem"
        raise BackendError(f"its certificates cannot be used: {error}", where=str(folder), hint=hint) from None
    return context


def _quoted(name: str) -> str:
    return urllib.parse.quote(name, safe="/:@")


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _is_text(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and bool(value)
