"""Podman by way of its Docker-compatible socket, as root and as an ordinary user: the same layers, and runs."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

import pytest

from reprobox.backend import Bind, Limits
from reprobox.errors import BackendError
from reprobox.sandbox.backend import Sandbox
from reprobox.testing import Bench, small_base, small_skeleton
from reprobox_docker.backend import Docker

_spec = importlib.util.spec_from_file_location("docker_test_engines", Path(__file__).with_name("engines.py"))
engines = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(engines)

pytestmark = pytest.mark.tool("podman")

SCRIPT = """
    echo one >/new; ln /new /twin; ln -s new /link; chmod 4755 /new; chown 12345:12345 /new; rm /bin/yes; mkdir -m 1777 /opt
    sync; mknod /device c 1 3; cat /etc/resolv.conf /run/secrets/key; id -u; uname -n"""


@pytest.fixture(scope="module")
def backend():
    if os.geteuid() != 0:
        pytest.skip("the ordinary user's Podman has a test of its own")
    with tempfile.TemporaryDirectory(prefix="reprobox-podman-") as folder, pytest.MonkeyPatch.context() as patch:
        Path(folder).chmod(0o755)
        with engines.podman(Path(folder)) as address:
            patch.setenv("DOCKER_HOST", address)
            with contextlib.closing(Docker(Path(folder))) as made:
                yield made


@pytest.fixture
def bench(backend, tmp_path) -> Bench:
    return Bench(backend, tmp_path)


@pytest.mark.slow
def test_it_is_known_for_what_it_is(bench):
    found = bench.backend.probe()
    assert found.ok, found.reason
    assert found.details["engine"].startswith("Podman ")
    assert found.details["rootless"] == "no"


@pytest.mark.slow
@pytest.mark.userns
def test_a_layer_is_the_sandboxs(bench, tmp_path):
    (tmp_path / "sandbox").mkdir()
    _compare(bench, Bench(Sandbox(tmp_path), tmp_path / "sandbox"))


def _compare(bench: Bench, other: Bench) -> None:
    mine, others = (item.build(SCRIPT, secrets={"key": b"aardvark-badge\n"}) for item in (bench, other))
    assert mine.index() == others.index()
    assert (mine.result.diff_id, mine.result.size) == (others.result.diff_id, others.result.size)
    assert mine.log == others.log == "***\n0\nreprobox\n"
    second = "test -f /twin; rm /link; mkdir /link; echo x >/link/in"
    results = [
        item.build(second, small_base(), built.layer).result.diff_id for item, built in ((bench, mine), (other, others))
    ]
    assert results[0] == results[1]


@pytest.mark.slow
def test_runs_are_as_anywhere_else(bench):
    _run(bench)
    missing = bench.run(bench.realize(), "no-such-command")
    assert missing.status == 127
    assert b"no-such-command" in missing.stderr
    assert bench.run(bench.realize(), "/etc/passwd").status == 126
    limits = Limits(memory=64 << 20)
    assert bench.shell(bench.realize(), "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes", limits=limits).stdout.split()[0] == b"67108864"  # fmt: skip


def _run(bench: Bench) -> None:
    data = bench.place()
    (data / "file, with: odd name").write_text("data\n")
    realization = bench.realize()
    script = "cat; cat /data/*; id -u; echo x >/data/new; (echo x >/etc/new) 2>/dev/null || echo no; touch $HOME/x /tmp/x; exit 3"
    ended = bench.shell(realization, script, stdin=b"in\n", binds=(Bind(source=data, target="/data", writable=True),))
    assert (ended.status, ended.stdout) == (3, b"in\ndata\n%d\nno\n" % os.getuid()), ended
    assert (data / "new").stat().st_uid == os.getuid()
    ended = bench.run(realization, "/bin/env", environment={"HOME": "/run/home", "A": "x"})
    assert set(ended.stdout.split()) == {b"HOME=/run/home", b"A=x"}


@pytest.mark.slow
def test_what_it_cannot_give_is_refused(bench):
    with pytest.raises(BackendError) as caught:
        bench.backend.run(bench.wish(bench.realize(), ["/bin/true"], gpus="all"))
    assert caught.value.message == "Podman's Docker-compatible socket takes no requests for GPUs"


@pytest.mark.ordinary
@pytest.mark.userns
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_an_ordinary_user_needs_no_more(user):
    """A child that becomes the user: it need not be able to read our modules."""
    if not user.can_start(sys.executable):
        pytest.skip("this Python is root's own; the user's tests, with the user's Python, try it")
    place = user.home / "podman"
    place.mkdir()
    with engines.podman(place, user=user.uid) as address:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                _in_child(user, address, place, writer)
        os.close(writer)
        with os.fdopen(reader) as told:
            text = told.read()
        os.waitpid(child, 0)
    if text != "fine":
        pytest.fail(text)


def _in_child(user, address: str, place: Path, writer: int) -> None:
    try:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(user.gid)
            os.setuid(user.uid)
        os.environ.update(HOME=str(user.home), DOCKER_HOST=address)
        tempfile.tempdir = str(place)
        small_base.cache_clear()
        small_skeleton.cache_clear()
        for name in ("bench", "sandbox"):
            (place / name).mkdir()
        with contextlib.closing(Docker(place)) as backend:
            assert backend.probe().details["rootless"] == "yes", backend.probe()
            bench = Bench(backend, place / "bench")
            _compare(bench, Bench(Sandbox(place), place / "sandbox"))
            _run(bench)
        os.write(writer, b"fine")
    except BaseException:  # noqa: BLE001 - told to the parent
        os.write(writer, traceback.format_exc().encode())
    finally:
        os._exit(0)
