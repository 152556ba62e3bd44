"""What is particular to containers: what is sent, what stays, limits, devices, terminals, and what is killed."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import io
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import tempfile
import termios
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from reprobox.backend import Bind, BuildRequest, Limits
from reprobox.digest import tree_digest
from reprobox.errors import BackendError, BuildError
from reprobox.image import write_docker_archive
from reprobox.sandbox.allotted import NO_GPU, shows_gpu
from reprobox.sandbox.backend import Sandbox
from reprobox.testing import Bench, image_of, small_base, small_root, small_skeleton, until
from reprobox.tree import Tree
from reprobox_docker.backend import Docker
from reprobox_docker.engine import OWNER, is_orphan, owner
from reprobox_docker.images import load

ROOT = Path(__file__).resolve().parents[3]
_spec = importlib.util.spec_from_file_location("docker_test_engines", Path(__file__).with_name("engines.py"))
engines = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(engines)

pytestmark = pytest.mark.docker


@pytest.fixture
def bench(docker_backend, tmp_path) -> Bench:
    return Bench(docker_backend, tmp_path)


@pytest.fixture
def api(docker_backend):
    return docker_backend.engine().api


def mine(api, pid: int | None = None) -> list[str]:
    """Containers of this process, or of another; tests beside this one have theirs."""
    place, _, own = owner().rpartition(":")[0].rpartition(":")
    found = api.containers(all=True, filters={"label": OWNER})
    return [item["Id"] for item in found if item["Labels"][OWNER].startswith(f"{place}:{pid or own}:")]


# -- layers ------------------------------------------------------------------------------------------------------------

SCRIPT = r"""
    mkdir -p /opt/a/b /var/tmp/x; echo one >/opt/a/file; ln /opt/a/file /opt/a/b/twin; ln /bin/sh /opt/shell
    ln /bin/sh /opt/shell2; ln -s ../file /opt/a/b/link; chmod 640 /etc/passwd; echo x:x:5:5::/: >>/etc/passwd
    chmod 4755 /bin/cat; rm /bin/yes; rm -r /var/tmp/x; mkfifo /opt/pipe; mkdir -m 000 /opt/closed; mkdir -m 3777 /opt/sticky
    touch -d @1000000000 /opt/old; cp /bin/bash /opt/big; cat /opt/big /opt/big /opt/big /opt/big /opt/big >/opt/bigger
    printf x >"/opt/$(printf 'odd \303\251 \351 name\n')"; mv /bin/tr /bin/tr2; rm /bin/wc; mkdir /bin/wc; echo y >/bin/wc/in
"""


@pytest.mark.userns
def test_a_layer_is_the_sandboxs_byte_for_byte(bench, tmp_path):
    (tmp_path / "sandbox").mkdir()
    other = Bench(Sandbox(tmp_path), tmp_path / "sandbox")
    mine, others = bench.build(SCRIPT), other.build(SCRIPT)
    assert mine.layer.index.read_bytes() == others.layer.index.read_bytes()
    assert mine.result == others.result
    second = "echo two >>/opt/a/file; rm -r /opt/a/b /bin/wc; echo file >/bin/wc; rm /opt/shell; ln /opt/big /opt/again"
    mine, others = bench.build(second, small_base(), mine.layer), other.build(second, small_base(), others.layer)
    assert mine.layer.index.read_bytes() == others.layer.index.read_bytes()
    assert mine.result == others.result


def test_a_file_rewritten_with_the_same_size_and_time_is_a_change(bench):
    script = "t=$(stat -c %Y /etc/group); s=$(stat -c %s /etc/group); tr a-z b-za </etc/group >/tmp/g; cat /tmp/g >/etc/group; touch -d @$t /etc/group; test $s = $(stat -c %s /etc/group)"
    assert bench.build(script).index() == ["d 0755 etc", "f 0644 etc/group"]


def test_an_export_has_the_tree_digest(bench, api, tmp_path):
    built = bench.build(SCRIPT)
    realization = bench.realize(small_base(), built.layer)
    container = api.create_container(realization.location, ["/bin/true"])["Id"]
    (tmp_path / "tree").mkdir()
    try:
        with tarfile.open(fileobj=io.BytesIO(b"".join(api.export(container)))) as archive:
            archive.extraction_filter = lambda member, _: member
            archive.extractall(tmp_path / "tree")
    finally:
        api.remove_container(container)
    script = ROOT / "tests/independent/tree_digest.py"
    done = subprocess.run([sys.executable, script, tmp_path / "tree"], capture_output=True, text=True, check=True)
    merged = Tree.load(small_base().index, built.layer.index, small_skeleton().index)
    assert done.stdout.split()[0].removeprefix("sha256:") == tree_digest(merged.entries.values())


def test_an_environment_without_a_shell_is_built_elsewhere(bench):
    bare = bench.layer(lambda tree: (tree / "bin").mkdir())
    with pytest.raises(
        BackendError, match=r"Docker runs steps with the environment's /bin/sh, and this environment has none"
    ):
        bench.build("true", bare)


# -- what is sent ------------------------------------------------------------------------------------------------------


def test_layers_that_the_engine_has_are_not_sent(tmp_path, monkeypatch):
    passing = engines.Passing(tmp_path / "engine.sock")
    monkeypatch.setenv("DOCKER_HOST", passing.address)
    with contextlib.closing(Docker(tmp_path)) as backend:
        bench = Bench(backend, tmp_path)
        content = os.urandom(3 << 20)
        base = bench.layer(lambda tree: (small_root(tree), (tree / "large").write_bytes(content)))
        bench.realize(base)
        first, passing.sent = passing.sent, 0
        bench.realize(base)
        again, passing.sent = passing.sent, 0
        realization = bench.realize(base, bench.layer(lambda tree: (tree / "small").write_text("x")))
        more, passing.sent = passing.sent, 0
        assert bench.shell(realization, "cat /small").stdout == b"x"
        bench.build("true", base)
        built, passing.sent = passing.sent, 0
        bench.build("true", base, bench.layer(lambda tree: (tree / "small").write_text("x")))
        later = passing.sent
        for name in (realization.location, "reprobox/test:latest"):
            backend.engine().api.remove_image(name, force=True)
    passing.close()
    assert first > len(content)
    assert again < 10_000
    assert more < 100_000
    assert built < 100_000  # the same tars, under another name
    assert later < 100_000


def test_an_image_that_was_removed_is_loaded_again(bench, api):
    layer = bench.layer(lambda tree: (tree / "own").write_bytes(os.urandom(20)))
    realization = bench.realize(small_base(), layer)
    api.remove_image(realization.location, force=True)
    assert not bench.backend.has(realization)
    with pytest.raises(BackendError) as caught:
        bench.backend.run(bench.wish(realization, ["/bin/true"]))
    assert caught.value.message == f"Docker has no image {realization.location} any more"
    assert caught.value.hint == "`reprobox realize --backend docker` makes it again"
    assert bench.realize(small_base(), layer) == realization
    assert bench.run(realization, "/bin/true").status == 0


def test_a_name_that_was_given_to_another_image_is_taken_back(bench, api):
    layer = bench.layer(lambda tree: (tree / "own").write_bytes(os.urandom(20)))
    realization, other = bench.realize(small_base(), layer), bench.realize()
    name, _, tag = realization.location.rpartition(":")
    api.tag(other.location, name, tag)
    bench.realize(small_base(), layer)
    assert bench.run(realization, "/bin/cat", "/own").status == 0


def test_parents_that_were_removed_are_loaded_again(bench, api):
    layer = bench.layer(lambda tree: (tree / "own").write_bytes(os.urandom(20)))
    bench.build("cat /own", small_base(), layer)
    own = f"sha256:{image_of([layer]).layers[0].diff_id}"
    made = [item["Id"] for item in api.images("reprobox/parents")]
    (image,) = [name for name in made if api.inspect_image(name)["RootFS"]["Layers"][-1] == own]
    api.remove_image(image, force=True)
    assert len(bench.build("cat /own", small_base(), layer).log) > 0


def test_a_load_that_is_cut_off_leaves_nothing_and_is_mended(bench, docker_backend):
    engine = docker_backend.engine()
    layer = bench.layer(lambda tree: (tree / "own").write_bytes(os.urandom(5 << 20)))
    image = image_of([small_base(), layer])
    archive = io.BytesIO()
    write_docker_archive(image, "reprobox/cut:1", archive)

    def cut():
        yield archive.getvalue()[: len(archive.getvalue()) // 2]
        raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, BackendError)):
        engine.load(cut())
    assert not engine.has_image("reprobox/cut:1")
    load(engine, image, "reprobox/cut:1")
    assert engine.has_image("reprobox/cut:1")
    engine.api.remove_image("reprobox/cut:1", force=True)


def test_a_docker_archive_is_written_where_it_is_asked_for(bench, api, tmp_path):
    realization = bench.realize(output=tmp_path / "x.tar")
    assert realization.location == str(tmp_path / "x.tar")
    with (tmp_path / "x.tar").open("rb") as archive:
        assert "Loaded image: reprobox/test:latest" in str(list(api.load_image(archive)))


def test_names_and_versions_become_docker_names(bench, api):
    request = replace(_request(bench), name="My Project_2-default", version="1.0+local/é")
    location = bench.backend.realize(request).location
    assert location == f"reprobox/my-project-2-default:sha256-{request.image_digest}"
    names = api.inspect_image(location)["RepoTags"]
    assert "reprobox/my-project-2-default:1.0-local--" in names
    for name in ("reprobox/my-project-2-default:1.0-local--", location):
        api.remove_image(name)


def _request(bench: Bench):
    from reprobox.backend import RealizeRequest

    stack = (small_base(), small_skeleton())
    merged = Tree.load(*(layer.index for layer in stack))
    image = image_of(stack)
    return RealizeRequest(
        name="test", layers=stack, image=image, image_digest=image.digest(),
        tree_digest=tree_digest(merged.entries.values()), keep=bench.folder,
    )  # fmt: skip


def answers(backend: Docker) -> bool:
    """Whether an engine that was just started is ready."""
    with contextlib.suppress(BackendError):
        return backend.engine() is not None
    return False


@pytest.mark.slow
def test_a_full_disk_is_told_and_mended(tmp_path):
    """A dockerd of its own, on a small file system."""
    if os.geteuid() != 0:
        pytest.skip("starting dockerd takes root")
    short = Path(tempfile.mkdtemp(prefix="reprobox-engine-"))  # names of sockets are short
    place = short / "data"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", place], check=True)
    socket = short / "docker.sock"
    arguments = [
        f"--data-root={place}", f"--exec-root={short}/exec", f"--pidfile={short}/pid", f"--host=unix://{socket}",
        "--bridge=none", "--iptables=false", "--ip6tables=false", "--storage-driver=overlay2",
    ]  # fmt: skip
    with (tmp_path / "log").open("wb") as log:
        # In a network namespace of its own: --bridge=none takes away the bridge, which is the machine's.
        argv = ["unshare", "--net", "dockerd", *arguments]
        daemon = subprocess.Popen(argv, stdout=log, stderr=subprocess.STDOUT)
    try:
        assert until(socket.exists, 30), (tmp_path / "log").read_text()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DOCKER_HOST", f"unix://{socket}")
            with contextlib.closing(Docker(tmp_path)) as backend:
                assert until(lambda: answers(backend), 30)
                bench = Bench(backend, tmp_path)
                large = bench.layer(lambda tree: (tree / "large").write_bytes(os.urandom(20 << 20)))
                with pytest.raises(BackendError) as caught:
                    bench.realize(large)
                assert "the image cannot be loaded: the engine's disk is full (" in caught.value.message
                assert (
                    caught.value.hint
                    == "`docker system df` says what takes the space, and `docker image prune` frees some; then do it again"
                )
                subprocess.run(["mount", "-o", "remount,size=200m", place], check=True)
                assert backend.has(bench.realize(large))
    finally:
        daemon.terminate()
        daemon.wait(60)
        subprocess.run(["umount", "--lazy", place], check=False)
        shutil.rmtree(short, ignore_errors=True)


# -- runs --------------------------------------------------------------------------------------------------------------


def test_a_run_is_held_to_its_limits(bench):
    script = """
        cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max 2>/dev/null ||
        cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/cpu/cpu.cfs_quota_us"""
    ended = bench.shell(bench.realize(), script, limits=Limits(memory=64 << 20, cpus=0.5))
    assert ended.stdout.split()[:2] == [b"67108864", b"50000"]


@pytest.mark.parametrize(("cpus", "counted"), [(1, 1), (100, len(os.sched_getaffinity(0))), (99.5, os.cpu_count())])
def test_programs_count_the_processors_that_they_are_given(bench, cpus, counted):
    script = "while read -r name value; do [ $name != Cpus_allowed_list: ] || echo $value; done </proc/self/status"
    ended = bench.shell(bench.realize(), script, limits=Limits(cpus=cpus))
    assert len(expanded(ended.stdout.decode().strip())) == counted


def expanded(ranges: str) -> list[int]:
    """``0-2,4`` as numbers."""
    pairs = [part.partition("-") for part in ranges.split(",")]
    return [number for low, _, high in pairs for number in range(int(low), int(high or low) + 1)]


def test_gpus_that_the_engine_cannot_give_are_refused(bench, api):
    if "nvidia" in api.info().get("Runtimes", {}):
        pytest.skip("this engine can give GPUs")
    for wish in ("all", "0,1"):
        ended = bench.run(bench.realize(), "/bin/true", gpus=wish)
        assert ended.status == 70
        said = b"the engine cannot give GPUs" if shows_gpu() else f"{NO_GPU}; the engine says".encode()
        assert said + b": could not select device driver" in ended.stderr
        assert b"install the NVIDIA Container Toolkit" in ended.stderr
    assert bench.run(bench.realize(), "/bin/true", gpus="none").status == 0


def test_a_source_that_is_not_there_is_told(bench):
    request = bench.wish(bench.realize(), ["/bin/true"], binds=(Bind(source=bench.folder / "none", target="/data"),))
    with pytest.raises(Exception, match=r"the source of the mount /data does not exist: .*/none"):
        bench.backend.run(request)


def test_what_the_image_declares_is_not_in_the_environment(bench, api):
    """Only what was asked for: the caller has merged the image's already."""
    container = api.create_container(bench.realize().location, ["/bin/true"], environment=["OWN=x", "PATH=/nowhere"])[
        "Id"
    ]
    made = api.commit(container, "reprobox/declares", "1", conf={"Env": ["OWN=x", "PATH=/nowhere"]})
    api.remove_container(container)
    realization = replace(bench.realize(), location="reprobox/declares:1")
    assert bench.run(realization, "/bin/env", environment={"HOME": "/", "A": "x"}).stdout == b"HOME=/\nA=x\n"
    api.remove_image(made["Id"], force=True)


def test_much_output_and_input_pass_through(bench):
    data = os.urandom(4 << 20)
    ended = bench.shell(bench.realize(), "cat; echo end >&2", stdin=data)
    assert ended.stdout == data
    assert ended.stderr == b"end\n"


def test_a_reader_that_goes_away_ends_the_command(bench):
    request = bench.wish(bench.realize(), ["/bin/yes"])
    reader, writer = os.pipe()

    def call() -> int:
        os.dup2(writer, 1)
        os.close(reader)
        os.close(writer)
        return bench.backend.run(request)

    child, place = bench.start_call(call)
    os.close(writer)
    assert os.read(reader, 4) == b"y\ny\n"
    os.close(reader)
    assert bench.end(child, place).status in (141, -13)


def test_nothing_is_left_of_runs_and_steps(bench, api):
    bench.run(bench.realize(), "/bin/true")
    bench.build("true")
    with pytest.raises(BuildError):
        bench.build("false")
    assert mine(api) == []


def test_a_run_that_is_killed_takes_its_container_along(bench, api):
    child, place = bench.start(bench.wish(bench.realize(), ["/bin/sh", "-c", "echo ready; sleep 4711.5"]))
    assert until(lambda: (place / "stdout").read_bytes() == b"ready\n")
    assert mine(api, child)
    os.kill(child, signal.SIGKILL)
    bench.end(child, place)
    assert until(lambda: not mine(api, child))


def test_a_step_that_is_killed_takes_its_container_along(bench, api):
    request = bench.request(("/bin/sh", "-c", "echo ready; sleep 4711.5"))
    child, place = bench.start_call(lambda: 0 if bench.backend.build(request) else 1)
    assert until(lambda: request.log.exists() and request.log.read_bytes() == b"ready\n")
    assert mine(api, child)
    os.kill(child, signal.SIGKILL)
    bench.end(child, place)
    assert until(lambda: not mine(api, child))
    assert bench.build("echo again").log == "again\n"


def test_a_container_whose_owner_is_gone_is_swept_up(bench, api, docker_backend):
    gone = subprocess.run([sys.executable, "-c", "from reprobox_docker.engine import owner; print(owner())"],
                          capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": ":".join(sys.path)}).stdout.strip()  # fmt: skip
    assert is_orphan(gone)
    assert not is_orphan(owner())
    assert not is_orphan(gone.replace(gone[:8], "elsewhere"))
    left = api.create_container(bench.realize().location, ["/bin/true"], labels={OWNER: gone})["Id"]
    docker_backend.engine().sweep()
    assert left not in [item["Id"] for item in api.containers(all=True)]


def test_a_secret_is_in_nothing_that_the_engine_shows(bench, api):
    request = bench.request(
        ("/bin/sh", "-c", "cat /run/secrets/key; echo; echo waiting for the engine to be asked; sleep 4711.5"),
        secrets={"key": b"aardvark-badge"},
    )
    thread = threading.Thread(target=_quiet, args=(bench, request), daemon=True)
    thread.start()
    assert until(lambda: request.log.exists() and b"***" in request.log.read_bytes())
    (container,) = mine(api)
    assert "aardvark" not in str(api.inspect_container(container)) + str(api.top(container))
    assert b"aardvark" not in b"".join(api.export(container))
    assert not [path for path in Path("/dev/shm").rglob("key") if path.is_file()]
    api.kill(container)
    thread.join()


def _quiet(bench: Bench, request: BuildRequest) -> None:
    with contextlib.suppress(BuildError):
        bench.backend.build(request)


# -- terminals ---------------------------------------------------------------------------------------------------------


class Terminal:
    """A run with a terminal of its own."""

    def __init__(self, bench: Bench, *argv: str) -> None:
        request = bench.wish(bench.realize(), argv, environment={"PATH": "/bin:/usr/bin", "TERM": "dumb"})
        self.pid, self._master = pty.fork()
        if self.pid == 0:
            try:
                self._resize(0, 33, 77)
                os._exit(bench.backend.run(request))
            finally:
                os._exit(70)
        self.shown = b""

    @staticmethod
    def _resize(descriptor: int, rows: int, columns: int) -> None:
        fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resize(self, rows: int, columns: int) -> None:
        self._resize(self._master, rows, columns)

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def until(self, words: bytes, seconds: float = 20) -> None:
        end = time.monotonic() + seconds
        while words not in self.shown:
            if time.monotonic() > end:
                os.kill(self.pid, signal.SIGKILL)
                raise AssertionError(self.shown)
            if select.select([self._master], [], [], 0.1)[0]:
                with contextlib.suppress(OSError):
                    self.shown += os.read(self._master, 4096)
        self.shown = self.shown.partition(words)[2]

    def status(self) -> int:
        end = time.monotonic() + 20
        while time.monotonic() < end and select.select([self._master], [], [], 5)[0]:
            try:
                if not os.read(self._master, 4096):
                    break
            except OSError:
                break
        _, status = os.waitpid(self.pid, 0)
        os.close(self._master)
        return os.waitstatus_to_exitcode(status)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_terminal_passes_through(bench):
    script = "tty; until test \"$(stty size)\" = '33 77'; do sleep 0.05; done; echo sized; trap 'stty size' WINCH; trap 'echo interrupted; exit 9' INT; echo ready; while :; do sleep 0.05; done"
    terminal = Terminal(bench, "/bin/bash", "-c", script)
    terminal.until(b"/dev/pts/")
    terminal.until(b"sized")
    terminal.until(b"ready")
    terminal.resize(20, 99)
    terminal.until(b"20 99")
    terminal.type(b"\x03")
    terminal.until(b"interrupted")
    assert terminal.status() == 9


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_what_is_typed_reaches_the_command_and_the_end_of_input_too(bench):
    terminal = Terminal(bench, "/bin/sh", "-c", "read line; echo got $line; cat >/dev/null; exit 3")
    time.sleep(0.5)
    terminal.type(b"words\r")
    terminal.until(b"got words")
    terminal.type(b"\x04")
    assert terminal.status() == 3
