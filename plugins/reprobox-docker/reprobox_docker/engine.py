"""An engine that answers: what it is and can do, its containers and images, and its errors in our words."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from docker import APIClient
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from requests.exceptions import RequestException

from reprobox.errors import BackendError
from reprobox_docker import guard
from reprobox_docker.finding import START, Endpoint
from reprobox_docker.stream import Stream

#: Docker 19.03: the first that knows device requests, by which GPUs are given.
OLDEST = (1, 40)
#: Where environments have the program that gives another exactly the environment it names.
ENV = ("/usr/bin/env", "/bin/env")
OWNER = "org.reprobox.owner"
_FIRST_ANSWER = 20  # seconds; later answers may take as long as a step does
_FULL = "no space left on device"
_PODMAN_PROCESSES = 32768


class Engine:
    """One engine, connected. ``info`` is what it says about itself. Raises :class:`BackendError` where it cannot be."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.api: Any = None
        self._guard: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self.pid = os.getpid()
        try:
            self._connect()
            self._check_age()
        except BaseException:
            self.close()
            raise

    def _connect(self) -> None:
        endpoint = self.endpoint
        try:
            self.api = APIClient(base_url=endpoint.address, version="auto", timeout=_FIRST_ANSWER, **endpoint.options)
            self.version: dict[str, Any] = self.api.version()
            self.info: dict[str, Any] = self.api.info()
            self.api.timeout = None  # a step may say nothing for hours
        except (DockerException, RequestException, OSError, ValueError) as error:
            raise _unreachable(endpoint, error) from None

    def _check_age(self) -> None:
        spoken = str(self.version.get("ApiVersion", "0.0"))
        if tuple(int(part) for part in spoken.split(".")[:2]) < OLDEST:
            raise BackendError(
                f"the engine at {self.endpoint.address} is too old: version {self.version.get('Version')} speaks API"
                f" {spoken}, and {'.'.join(map(str, OLDEST))} is needed",
                hint="update it: Docker 19.03 or Podman 4, or newer",
            )

    # -- what it is

    @property
    def is_podman(self) -> bool:
        parts: list[dict[str, Any]] = self.version.get("Components") or []
        return any("podman" in str(part.get("Name", "")).lower() for part in parts)

    @property
    def name(self) -> str:
        return "Podman" if self.is_podman else "Docker"

    def _security(self, word: str) -> bool:
        return any(f"name={word}" in str(option) for option in self.info.get("SecurityOptions") or ())

    @property
    def rootless(self) -> bool:
        """Whether it runs as an ordinary user. Podman does not say so; its socket is that user's."""
        socket = self.endpoint.socket
        own = self.is_podman and bool(socket) and os.stat(socket).st_uid != 0
        return own or self._security("rootless")

    @property
    def remapped(self) -> bool:
        """Whether the daemon shows containers other user ids than the machine has."""
        return self._security("userns")

    @property
    def known_by_chain(self) -> bool:
        """Whether layers that it has need not be sent: where images are kept in Docker's own way, not containerd's."""
        status = dict(item for item in self.info.get("DriverStatus") or () if len(item) == 2)
        return not self.is_podman and "containerd" not in str(status.get("driver-type", ""))

    @property
    def limits_are_kept(self) -> bool:
        """Whether it has a cgroup to limit containers with: without root, only the second version gives it one."""
        return not self.rootless or self._cgroup() == "2"

    def _cgroup(self) -> str:
        return str(self.info.get("CgroupVersion") or 1).removeprefix("v")

    def facts(self) -> dict[str, str]:
        """What ``doctor`` shows."""
        return {
            "engine": f"{self.name} {self.version.get('Version', '')}",
            "address": f"{self.endpoint.address} ({self.endpoint.said_by})",
            "api": str(self.version.get("ApiVersion", "")),
            "storage driver": str(self.info.get("Driver", "")),
            "rootless": "yes" if self.rootless else "no",
            "cgroup": f"v{self._cgroup()} ({self.info.get('CgroupDriver') or 'none'})",
        }

    # -- containers

    def stream(self, url: str, body: object = None) -> Stream:
        """The streams of a container or command, by the URL that hands them over."""
        try:
            return Stream(self.endpoint.socket, f"/v{self.api.api_version}{url}", body)
        except OSError as error:
            raise _unreachable(self.endpoint, error) from None

    @contextlib.contextmanager
    def container(self, config: Mapping[str, Any]) -> Iterator[str]:
        """The id of a container that is made, not started, and gone afterwards, also when this process is killed."""
        with self.errors("a container cannot be made"):
            labels = {**config.get("Labels", {}), OWNER: owner()}
            made = self.api.create_container_from_config({**config, "Labels": labels})
        name = str(made["Id"])
        self._watch("+", name)
        try:
            yield name
        finally:
            self.remove(name)
            self._watch("-", name)

    def remove(self, name: str) -> None:
        """Kill and remove a container, whatever it is doing; one that is gone is fine."""
        with contextlib.suppress(NotFound, RequestException), self.errors("a container cannot be removed"):
            self.api.remove_container(name, force=True, v=True)

    def _watch(self, sign: str, name: str) -> None:
        with self._lock:
            if self._guard is None:
                argv = [sys.executable, "-IS", guard.__file__, self.endpoint.socket]
                self._guard = subprocess.Popen(  # outlives its owner's process, on purpose
                    argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True
                )
                self._let_go = weakref.finalize(self, _end, self._guard)
            assert self._guard.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # somebody ended it; the containers are removed by hand then
                self._guard.stdin.write(f"{sign}{name}\n")
                self._guard.stdin.flush()

    def close(self) -> None:
        """Let go of the connection, and of the guard."""
        with self._lock:
            if self._guard is not None:
                self._let_go()
                self._guard = None
        if self.api is not None:
            self.api.close()

    def sweep(self) -> None:
        """Remove containers of processes of this machine that are gone: of a power cut, say."""
        with contextlib.suppress(BackendError), self.errors("containers cannot be listed"):
            for item in self.api.containers(all=True, filters={"label": OWNER}):
                if is_orphan(item["Labels"].get(OWNER, "")):
                    self.remove(item["Id"])

    def has_path(self, name: str, path: str) -> bool:
        """Whether a container has something at ``path``."""
        try:
            pieces, _ = self.api.get_archive(name, path)
        except (NotFound, APIError):
            return False
        pieces.close()
        return True

    def read(self, name: str, path: str) -> bytes:
        """A plain file of a container; empty where there is none."""
        try:
            pieces, _ = self.api.get_archive(name, path)
            return content_of(pieces)
        except (NotFound, APIError):
            return b""

    def limits(self) -> list[dict[str, Any]]:
        """Resource limits that a container is given: no core dumps; for Podman, none beyond what the caller has."""
        wanted = [{"Name": "core", "Soft": 0, "Hard": 0}]
        if self.is_podman:
            for name, kind, most in (
                ("nofile", resource.RLIMIT_NOFILE, resource.RLIM_INFINITY),
                ("nproc", resource.RLIMIT_NPROC, _PODMAN_PROCESSES),
            ):
                hard = resource.getrlimit(kind)[1]
                value = min((item for item in (hard, most) if item != resource.RLIM_INFINITY), default=-1)
                wanted.append({"Name": name, "Soft": value, "Hard": value})
        return wanted

    # -- images

    def has_image(self, name: str) -> bool:
        return self.inspect_image(name) is not None

    def inspect_image(self, name: str) -> dict[str, Any] | None:
        """What the engine says about an image; None if it has none of that name."""
        try:
            found: dict[str, Any] = self.api.inspect_image(name)
            return found
        except ImageNotFound:
            return None
        except (APIError, RequestException) as error:
            if "invalid reference format" in str(error):
                return None  # no image has such a name
            raise translated(error, "an image cannot be looked at") from None

    def tag(self, name: str, repository: str, tag: str) -> None:
        """Give an image another name."""
        with self.errors("the image cannot be named"):
            self.api.tag(name, repository, tag)

    def load(self, archive: Iterable[bytes]) -> None:
        """Load a docker archive that comes in pieces. Raises :class:`BackendError` with the engine's words."""
        with self.errors("the image cannot be loaded"):
            for event in self.api.load_image(archive):
                if "error" in event:
                    raise refused("the image cannot be loaded", str(event["error"]))

    # -- errors

    @contextlib.contextmanager
    def errors(self, what: str) -> Iterator[None]:
        """Say in our words what the engine refuses, or that it is gone."""
        try:
            yield
        except NotFound:
            raise
        except APIError as error:
            raise translated(error, what) from None
        except (RequestException, OSError) as error:
            raise _unreachable(self.endpoint, error) from None


def translated(error: Exception, what: str) -> BackendError:
    """The engine's refusal in our words."""
    return refused(what, str(getattr(error, "explanation", None) or error))


def refused(what: str, words: str) -> BackendError:
    if _FULL in words:
        return BackendError(
            f"{what}: the engine's disk is full ({words.strip()})",
            hint="`docker system df` says what takes the space, and `docker image prune` frees some; then do it again",
        )
    return BackendError(f"{what}: {words.strip()}", hint="`reprobox doctor` says what works here")


def _unreachable(endpoint: Endpoint, error: Exception) -> BackendError:
    words = str(error)
    if isinstance(error, PermissionError) or "Permission denied" in words:
        return BackendError(f"the engine's socket {endpoint.socket} may not be used", hint=START)
    if "paramiko" in words:
        return BackendError(
            f"the engine at {endpoint.address} is reached through ssh, which needs paramiko",
            hint="`pip install paramiko`, or run reprobox on that machine",
        )
    if "timed out" in words.lower():
        return BackendError(
            f"the engine at {endpoint.address} ({endpoint.said_by}) says nothing within {_FIRST_ANSWER} seconds",
            hint="try `docker version`; where that hangs too, start the engine anew: `sudo systemctl restart docker`",
        )
    gone = "Connection refused" in words or "No such file" in words
    reason = "nothing answers there" if gone else words
    return BackendError(
        f"the engine at {endpoint.address} ({endpoint.said_by}) cannot be reached: {reason}", hint=START
    )


# -- owners ------------------------------------------------------------------------------------------------------------


def _end(guard_process: subprocess.Popen[str]) -> None:
    """Tell the guard that its owner needs it no more, and wait until it has done what is left."""
    assert guard_process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        guard_process.stdin.close()
    guard_process.wait()


def owner() -> str:
    """Who this process is, so that others can tell whether it is there: boot, pid namespace, pid, start time."""
    return f"{_place()}:{os.getpid()}:{_started(os.getpid())}"


def is_orphan(label: str) -> bool:
    """Whether the owner is gone. Those of other machines and pid namespaces are never said to be."""
    place, _, rest = label.rpartition(":")[0].rpartition(":")
    if not rest.isdigit() or place != _place():
        return False
    return _started(int(rest)) != label.rpartition(":")[2]


def _place() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{os.readlink('/proc/self/ns/pid').strip('pid:[]')}"


def _started(pid: int) -> str:
    """The process's start, in ticks since the boot; empty if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def content_of(pieces: Iterable[bytes]) -> bytes:
    """The content of the first entry of a tar, if that is a file."""
    from reprobox.archives.tar_stream import FILE, TarStream

    stream = TarStream(iter(pieces))
    for header in stream:
        return b"".join(stream.data()) if header.kind == FILE else b""
    return b""
