"""Engines that are not there, not running, not for this user, too old or far away: each said, with what to do."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from reprobox.backend import Availability
from reprobox.errors import BackendError
from reprobox_docker.backend import Docker
from reprobox_docker.finding import find

_spec = importlib.util.spec_from_file_location("docker_test_engines", Path(__file__).with_name("engines.py"))
engines = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(engines)

START = (
    "start it: `sudo systemctl start docker`, or `sudo dockerd` where there is no systemd; without root:"
    " `systemctl --user start docker` (rootless Docker) or `systemctl --user start podman.socket` (Podman)"
)


def probed(scratch: Path) -> Availability:
    with contextlib.closing(Docker(scratch)) as backend:
        return backend.probe()


@pytest.fixture
def probe(tmp_path, monkeypatch):
    """What a backend says whose engine is at an address."""
    monkeypatch.delenv("DOCKER_CONTEXT", raising=False)

    def probe(address: str) -> Availability:
        monkeypatch.setenv("DOCKER_HOST", address)
        return probed(tmp_path)

    return probe


def test_an_engine_that_is_not_there(probe, tmp_path):
    found = probe(f"unix://{tmp_path}/none.sock")
    assert not found.ok
    assert found.reason == f"no engine can be reached at {tmp_path}/none.sock, which DOCKER_HOST names: there is none"
    assert found.hint == START


def test_an_engine_that_does_not_run(probe, tmp_path):
    path = tmp_path / "left.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    found = probe(f"unix://{path}")
    assert found.reason == f"the engine at {path} does not run: its socket is there, and nothing answers"
    assert found.hint == START


def test_a_remote_engine_that_does_not_run(probe):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    found = probe(f"tcp://127.0.0.1:{port}")
    assert found.reason.startswith(
        f"the engine at tcp://127.0.0.1:{port} (DOCKER_HOST) cannot be reached: nothing answers"
    )


@pytest.mark.parametrize("address", ["nonsense", "/var/run/docker.sock", "foo://bar", "tcp://", "tcp://host:port"])
def test_an_address_that_is_none(probe, address):
    found = probe(address)
    assert found.reason == f"DOCKER_HOST is {address!r}, which is no address of an engine"
    assert found.hint == (
        "write unix:///path/of/docker.sock, tcp://host:2376 or ssh://user@host; unset it for the engine of this machine"
    )


def test_a_socket_with_fewer_slashes_is_one_of_this_machine(monkeypatch, tmp_path):
    with socket.socket(socket.AF_UNIX) as engine:
        engine.bind(str(tmp_path / "engine.sock"))
        engine.listen()
        monkeypatch.setenv("DOCKER_HOST", f"unix:{tmp_path}/engine.sock")
        found = find()
    assert (found.address, found.socket) == (f"unix://{tmp_path}/engine.sock", f"{tmp_path}/engine.sock")


def test_keys_of_a_remote_engine_that_are_not_there(probe, tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path / "none"))
    found = probe("tcp://127.0.0.1:2376")
    assert found.reason == (
        f"the keys for the engine at tcp://127.0.0.1:2376 (DOCKER_HOST) cannot be read from {tmp_path}/none"
    )
    assert found.hint == (
        "DOCKER_CERT_PATH names a folder that has ca.pem, cert.pem and key.pem; unset DOCKER_TLS_VERIFY for an engine"
        " without TLS"
    )


def test_an_engine_that_says_nothing(probe, tmp_path, monkeypatch):
    monkeypatch.setattr("reprobox_docker.engine._FIRST_ANSWER", 0.2)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "silent.sock"))
        silent.listen()
        found = probe(f"unix://{tmp_path}/silent.sock")
    address = f"unix://{tmp_path}/silent.sock"
    assert found.reason == f"the engine at {address} (DOCKER_HOST) says nothing within 0.2 seconds"
    assert found.hint == (
        "try `docker version`; where that hangs too, start the engine anew: `sudo systemctl restart docker`"
    )


def test_an_engine_that_is_too_old(probe, tmp_path):
    with engines.old_engine(tmp_path / "old.sock") as address:
        found = probe(address)
    assert found.reason == (
        f"the engine at {address} is too old: version 17.06.0-ce speaks API 1.30, and 1.40 is needed"
    )
    assert found.hint == "update it: Docker 19.03 or Podman 4, or newer"


def test_no_engine_at_all(monkeypatch, tmp_path):
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    places = [str(tmp_path / "a.sock"), str(tmp_path / "b.sock")]
    monkeypatch.setattr("reprobox_docker.finding.usual_sockets", lambda: places)
    with pytest.raises(BackendError) as caught:
        find()
    assert caught.value.message == (
        f"no engine was found: DOCKER_HOST is not set, and there is none of {places[0]}, {places[1]}"
    )
    assert "apt-get install docker.io" in caught.value.hint


def test_a_context_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setenv("DOCKER_CONTEXT", "elsewhere")
    with pytest.raises(BackendError) as caught:
        find()
    assert "elsewhere" in str(caught.value)
    assert "`docker context ls`" in caught.value.hint


@pytest.mark.docker
def test_the_current_context_is_followed(monkeypatch, tmp_path):
    from docker.context import ContextAPI

    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.delenv("DOCKER_CONTEXT", raising=False)
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    ContextAPI.create_context("lab", host=f"unix://{engines.DOCKER_SOCKET}")
    monkeypatch.setenv("DOCKER_CONTEXT", "lab")
    assert (find().address, find().said_by) == (f"unix://{engines.DOCKER_SOCKET}", "docker's context lab")
    found = probed(tmp_path)
    assert found.ok
    assert found.details["runs containers"] == "yes"


@pytest.mark.docker
def test_an_engine_on_another_machine_is_refused(probe):
    passing = engines.Passing()
    try:
        found = probe(passing.address)
    finally:
        passing.close()
    assert not found.ok
    assert found.reason == f"the engine at {passing.address} is on another machine, and sees no file of this one"
    assert found.details["engine"].startswith("Docker ")


@pytest.mark.docker
def test_a_folder_that_the_engine_does_not_see(tmp_path, monkeypatch):
    """As with an engine in a virtual machine: here, a private mount stands for the boundary."""
    program = (
        "import sys; from pathlib import Path; from reprobox_docker.backend import Docker;"
        "found = Docker(Path(sys.argv[1])).probe(); print(found.ok, found.reason, sep='\\n')"
    )
    script = 'mount -t tmpfs none "$1" && exec "$2" -c "$3" "$1"'
    if os.geteuid() != 0:
        pytest.skip("mounting takes root")
    argv = ["unshare", "--mount", "sh", "-c", script, "sh", str(tmp_path), sys.executable, program]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [
        "False",
        f"the engine does not see this machine's files: it finds nothing at {tmp_path}",
    ], done.stderr


@pytest.mark.ordinary
def test_a_socket_that_one_may_not_use(user, tmp_path):
    path = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as served:
        served.bind(str(path))
        served.listen()
        path.chmod(0o600 if os.geteuid() == 0 else 0)
        told = _as_user(user, f"unix://{path}")
    join = f"join the group that may: `sudo usermod -aG docker {user.name}`, then log in again (that group is as good as root);"
    rootless = (
        "or use a rootless engine: `dockerd-rootless-setuptool.sh install`, or `systemctl --user start podman.socket`"
    )
    assert told == f"{user.name} may not use the engine's socket {path}\n  hint: {join} {rootless}"


def _as_user(user, address: str) -> str:
    """What a process of the user is told; a child of this one, which need not be able to read our modules."""
    from docker.utils import kwargs_from_env

    assert kwargs_from_env
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about threads
        child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(user.gid)
                os.setuid(user.uid)
            os.environ["DOCKER_HOST"] = address
            find()
        except BackendError as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as told:
        text = told.read()
    os.waitpid(child, 0)
    return text


@pytest.mark.docker
def test_a_question_needs_no_sdk():
    script = (
        "import sys; from reprobox_docker import plugin; from reprobox.backend import Realization;"
        " (backend,) = plugin.reprobox_backends();"
        " print(backend.has(Realization(location='reprobox/no-such-image:x')), 'docker' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "False False\n", done.stderr
