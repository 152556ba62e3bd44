"""Images of the engine on this machine: how it is found and asked, and that its image is the one of its archive."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reprobox.download.downloader import Downloader
from reprobox.errors import BackendError, FetchError, ReproboxError
from reprobox.layers.archive import ArchiveBase
from reprobox.layers.engine_image import EngineImage, EngineProvider
from reprobox.oci.container_engine import Endpoint, Engine, find
from reprobox.providers import fetch
from reprobox.store import Store
from tests import images
from tests.bases import LAYERS, SmallWorld, asked, registries

NAME = "reprobox-test/engine:1"


@pytest.fixture
def world(store: Path, tmp_path: Path) -> SmallWorld:
    return SmallWorld(Store(store), tmp_path, registries(tmp_path))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A docker-archive of a small image called ``NAME``."""
    layout = images.Layout(tmp_path / "layout")
    layout.tag(layout.image(*LAYERS, media_type=images.PLAIN), "x")
    path = tmp_path / "base.tar"
    argv = ["skopeo", "copy", f"oci:{layout.root}:x", f"docker-archive:{path}:{NAME}"]
    subprocess.run(argv, check=True, capture_output=True)
    return path


@pytest.fixture
def loaded(docker: Any, archive: Path) -> Iterator[Path]:
    docker("load", "-i", archive)
    yield archive
    subprocess.run(["docker", "rmi", "--force", NAME], capture_output=True, check=False)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder with a name of less than 50 letters, which Podman wants."""
    with tempfile.TemporaryDirectory(prefix="podman-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.mark.docker
@pytest.mark.tool("skopeo")
def test_an_engines_image_is_the_one_of_its_archive(docker: Any, loaded: Path, world: SmallWorld) -> None:
    found = EngineImage().resolve(asked(world, {"image": f"docker-daemon:{NAME}"}))
    saved = ArchiveBase().resolve(asked(world, {"archive": "base.tar"}))
    assert [(item.name, item.sha256) for item in found.inputs] == [(item.name, item.sha256) for item in saved.inputs]
    assert found.facts["reference"] == f"docker-daemon:{NAME}"
    assert found.facts["id"] == docker("image", "inspect", "--format", "{{.Id}}", NAME).strip()
    assert found.dates == saved.dates
    assert all(world.store.has_blob(item.sha256) for item in found.inputs)
    for item in found.inputs:
        world.store.blob(item.sha256).unlink()
    provider = EngineProvider(world.store)
    fetch(found.inputs, [provider], world.store, offline=True, downloader=Downloader(offline=True))
    assert all(world.store.has_blob(item.sha256) for item in found.inputs)

    docker("rmi", "--force", NAME)
    for item in found.inputs:
        world.store.blob(item.sha256).unlink()
    with pytest.raises(FetchError) as caught:
        fetch(found.inputs, [provider], world.store, downloader=Downloader())
    assert f"docker-daemon:{found.facts['id']}: the engine has no such image" in str(caught.value)
    assert caught.value.hint == (
        "load the image into it again (`docker load`, `docker pull`), or run `reprobox lock --upgrade`"
    )


@pytest.mark.docker
@pytest.mark.tool("skopeo")
def test_a_name_that_the_engine_does_not_have(loaded: Path, world: SmallWorld) -> None:
    with pytest.raises(FetchError) as caught:
        EngineImage().resolve(asked(world, {"image": "docker-daemon:reprobox-test/engine:2"}))
    assert str(caught.value).startswith("reprobox-test/engine:2: the engine has no such image\n  hint: did you mean ")
    assert NAME in (caught.value.hint or "")


@pytest.mark.tool("skopeo")
@pytest.mark.tool("podman")
@pytest.mark.slow
def test_podmans_socket(archive: Path, world: SmallWorld, short_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = ["podman", "--root", short_folder / "root", "--runroot", short_folder / "run", "--storage-driver", "vfs"]
    subprocess.run([*own, "load", "-q", "-i", archive], check=True, capture_output=True)
    subprocess.run([*own, "save", "-q", "-o", archive.with_name("podman.tar"), NAME], check=True, capture_output=True)
    path = short_folder / "podman.sock"
    service = subprocess.Popen([*own, "system", "service", "--time", "60", f"unix://{path}"], stderr=subprocess.PIPE)
    try:
        while service.poll() is None and not path.exists():
            threading.Event().wait(0.05)
        monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
        found = EngineImage().resolve(asked(world, {"image": f"docker-daemon:{NAME}"}))
    finally:
        service.terminate()
        service.communicate(timeout=30)
    for name in ("base.tar", "podman.tar"):
        saved = ArchiveBase().resolve(asked(world, {"archive": name}))
        assert [item.sha256 for item in found.inputs] == [item.sha256 for item in saved.inputs]


# -- finding it ------------------------------------------------------------------------------------------------------------


def test_where_an_engine_is_looked_for(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path / "run")}
    assert find({**home, "DOCKER_HOST": "tcp://host:1"}) == Endpoint(url="tcp://host:1", said="DOCKER_HOST")
    tls = {"DOCKER_HOST": "tcp://host:1", "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": "/certificates"}
    assert find({**home, **tls}).certificates == Path("/certificates")
    meta = tmp_path / ".docker/contexts/meta" / hashlib.sha256(b"mine").hexdigest()
    meta.mkdir(parents=True)
    (meta / "meta.json").write_text(json.dumps({"Endpoints": {"docker": {"Host": "unix:///mine.sock"}}}))
    (tmp_path / ".docker/config.json").write_text('{"currentContext": "mine"}')
    assert find(home) == Endpoint(url="unix:///mine.sock", said="Docker's context 'mine'")
    with pytest.raises(BackendError) as caught:
        find({**home, "DOCKER_CONTEXT": "other"})
    assert str(caught.value) == (
        f"{tmp_path}/.docker: Docker's context 'other' does not exist\n  hint: `docker context ls` shows those that"
        " there are, and `docker context use default` the way back"
    )


def why(endpoint: Endpoint) -> str:
    with pytest.raises(ReproboxError) as caught:
        Engine(endpoint).image_id(NAME)
    assert caught.value.status == 4
    return str(caught.value)


INSTEAD = 'or let somebody save the image (`docker save -o base.tar NAME:TAG`) and write archive = "base.tar"'


def test_an_engine_that_does_not_answer(tmp_path: Path) -> None:
    path = tmp_path / "engine.sock"
    start = f"start it (`systemctl start docker`, `systemctl --user start podman.socket`), {INSTEAD}"
    assert why(Endpoint(url=f"unix://{path}", said="DOCKER_HOST")) == (
        f"unix://{path} (DOCKER_HOST): the container engine does not answer: No such file or directory\n  hint: {start}"
    )
    with socket.socket(socket.AF_UNIX) as nobody:
        nobody.bind(str(path))
    assert why(Endpoint(url=f"unix://{path}", said="x")).startswith(
        f"unix://{path} (x): the container engine does not answer: Connection refused"
    )
    assert why(Endpoint(url="ssh://host", said="DOCKER_HOST")) == (
        "an engine at ssh://host cannot be asked (DOCKER_HOST): only unix:// and tcp:// can\n  hint: for one on another"
        " machine, forward its socket (`ssh -nNT -L /tmp/docker.sock:/var/run/docker.sock HOST &`) and set"
        f" DOCKER_HOST=unix:///tmp/docker.sock, {INSTEAD}"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may use every socket")
def test_an_engine_that_is_not_permitted(tmp_path: Path) -> None:
    path = tmp_path / "engine.sock"
    with socket.socket(socket.AF_UNIX) as engine:
        engine.bind(str(path))
        engine.listen()
        path.chmod(0)
        assert why(Endpoint(url=f"unix://{path}", said="found there")) == (
            f"unix://{path} (found there): this user may not use the container engine\n  hint: join its group"
            " (`sudo usermod -aG docker $USER`, then log in again), use rootless Docker or Podman, "
            f"{INSTEAD}"
        )


def answering(path: Path, answer: bytes) -> threading.Thread:
    """An engine that says just this to whoever comes first."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()

    def serve() -> None:
        with server, server.accept()[0] as client:
            client.recv(65536)
            client.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (b'HTTP/1.1 500 Oops\r\n\r\n{"message": "no space left"}', "the engine answered 500: no space left"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nhalf", "the engine stopped in the middle of the image"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhalf", "the engine stopped in the middle"),
        (b"SSH-2.0\r\n", "the container engine does not answer: SSH-2.0"),
    ],
    ids=["full", "short", "chunked", "other"],
)
def test_an_engine_that_breaks_off(tmp_path: Path, answer: bytes, what: str) -> None:
    path = tmp_path / "engine.sock"
    thread = answering(path, answer)
    engine = Engine(Endpoint(url=f"unix://{path}", said="x"))
    with (tmp_path / "image").open("wb") as file, pytest.raises(ReproboxError, match=re.escape(what)):
        engine.save(NAME, file)
    thread.join()
