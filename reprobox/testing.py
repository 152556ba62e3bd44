"""For authors of plugins: a small environment made of this machine's own programs, and what every backend must pass.

A backend's tests are a class of its own::

    class TestMine(reprobox.testing.BackendConformance):
        @pytest.fixture
        def backend(self):
            return Mine()

Nothing here needs a network or an image; pytest it does. Where ``pytest.register_assert_rewrite("reprobox.testing")``
is called before this is imported, failures show their values.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from reprobox.backend import (
    Backend,
    Bind,
    BuildRequest,
    BuildResult,
    ChangesRequest,
    EditRequest,
    ImageLayer,
    Realization,
    RealizeRequest,
    RunRequest,
    ToolRequest,
    ToolResult,
)
from reprobox.building import BUILD_ENVIRONMENT
from reprobox.digest import read_index, sha256, tree_digest, write_index
from reprobox.errors import BuildError
from reprobox.image import LAYER_TYPE, Descriptor, Image, Layer, Settings, layer_digest
from reprobox.redact import holders
from reprobox.session import this_platform
from reprobox.tree import Tree, remove, scan

EPOCH = 1_700_000_000
#: What the small environment has in /bin.
PROGRAMS = (
    "sh", "bash", "cat", "chgrp", "chmod", "chown", "cp", "date", "env", "head", "id", "kill", "ln", "ls", "mkdir",
    "mkfifo", "mknod", "mv", "pwd", "readlink", "rm", "rmdir", "sleep", "sort", "stat", "stty", "sync", "touch",
    "tr", "true", "tty", "uname", "wc", "yes",
)  # fmt: skip
HOSTS = "127.0.0.1 localhost reprobox\n::1 localhost ip6-localhost ip6-loopback\n"
_PATH = "/usr/bin:/bin:/usr/sbin:/sbin"


# -- a small environment -----------------------------------------------------------------------------------------------


def small_root(folder: Path, programs: Sequence[str] = PROGRAMS) -> Path:
    """Fill the empty ``folder`` with a root of ``programs`` of this machine, and the libraries that they need."""
    for name, mode in {"bin": 0o755, "etc": 0o755, "usr/sbin": 0o755, "root": 0o700, "var/tmp": 0o1777}.items():
        (folder / name).mkdir(parents=True)
        (folder / name).chmod(mode)
    for name in ("dev", "proc", "sys", "run", "tmp"):
        (folder / name).mkdir()
    (folder / "tmp").chmod(0o1777)
    (folder / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/:/bin/sh\n")
    (folder / "etc/group").write_text("root:x:0:\ndaemon:x:1:\n")
    found = {name: shutil.which(name, path=_PATH) for name in programs}
    missing = sorted(name for name, path in found.items() if path is None)
    if missing:
        raise FileNotFoundError(f"this machine has no {', '.join(missing)}")
    for name, path in found.items():
        shutil.copyfile(str(path), folder / "bin" / name)
        (folder / "bin" / name).chmod(0o755)
    for library in _libraries([str(path) for path in found.values()]):
        target = folder / library.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(library, target)
        target.chmod(0o755)
    return folder


def _libraries(programs: Sequence[str]) -> set[str]:
    listed = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False).stdout
    words = (word for line in listed.splitlines() if not line.endswith(":") for word in line.split())
    return {word for word in words if word.startswith("/")}


def make_layer(folder: Path, name: str, fill: Callable[[Path], object]) -> ImageLayer:
    """A layer on disk, as the store holds them: ``fill`` puts its paths into ``tree``, and ``index`` lists them."""
    tree = folder / "tree"
    tree.mkdir(parents=True, mode=0o755)
    fill(tree)
    index = write_index(scan(tree))
    (folder / "index").write_bytes(index)
    return ImageLayer(id=sha256(index), name=name, tree=tree, index=folder / "index")


@functools.cache
def small_base() -> ImageLayer:
    """The small environment as a layer; one for all tests of a process, gone when it ends."""
    folder = Path(tempfile.mkdtemp(prefix="reprobox-testing-"))
    folder.chmod(0o755)
    atexit.register(remove, folder)
    return make_layer(folder / "base", "base", small_root)


@functools.cache
def small_skeleton() -> ImageLayer:
    """A last layer with nothing in it: environments have at least two."""
    return make_layer(small_base().tree.parents[1] / "skeleton", "skeleton", lambda _: None)


def image_of(layers: Sequence[ImageLayer]) -> Image:
    """The OCI image that is made of ``layers``, for this machine."""
    labels = {"org.opencontainers.image.title": "a small environment"}
    settings = Settings(architecture=this_platform().partition("/")[2], labels=labels)
    return Image(settings=settings, layers=tuple(map(_image_layer, layers)), epoch=EPOCH)


@functools.cache
def _image_layer(layer: ImageLayer) -> Layer:
    digest, size = layer_digest(layer.tree, layer.index, EPOCH)
    descriptor = Descriptor(media_type=LAYER_TYPE, digest=digest, size=size)
    return Layer(descriptor=descriptor, diff_id=digest, tree=layer.tree, index=layer.index)


@dataclass(frozen=True, kw_only=True, slots=True)
class Built:
    """A step that went well: what the backend answered, the layer that it made, and what the step printed."""

    result: BuildResult
    layer: ImageLayer
    log: str

    def index(self) -> list[str]:
        """The layer's entries as ``"f 0644 path"``, by path bytes."""
        entries = read_index(self.layer.index.read_bytes())
        return [f"{entry.kind} {entry.mode:04o} {entry.path.decode()}" for entry in entries]

    def text(self, path: str) -> str:
        """The content of a file of the layer."""
        return (self.layer.tree / path).read_text()


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """A run that is over: exit status, negative for a signal, and both streams."""

    status: int
    stdout: bytes
    stderr: bytes
    pid: int


class Bench:
    """Asks a backend for steps, tools and runs, with requests that are complete. ``folder`` is empty."""

    def __init__(self, backend: Backend, folder: Path) -> None:
        self.backend = backend
        self.folder = folder
        self._count = 0

    def place(self) -> Path:
        """A new, empty folder."""
        self._count += 1
        path = self.folder / str(self._count)
        path.mkdir()
        return path

    def layer(self, fill: Callable[[Path], object]) -> ImageLayer:
        return make_layer(self.place(), f"layer{self._count}", fill)

    def request(self, *commands: Sequence[str], parents: Sequence[ImageLayer] = (), **other: object) -> BuildRequest:
        """A step over ``parents`` (the small base if none are given), with the environment of real steps."""
        place = self.place()
        (place / "output").mkdir(mode=0o755)
        layers = parents or (small_base(),)
        seed = other.get("seed")
        index = write_index(Tree.load(*(layer.index for layer in layers)).sorted()) if seed is None else b""
        (place / "parents.index").write_bytes(index)
        request = BuildRequest(
            parents=tuple(layer.tree for layer in layers) if seed is None else (),
            parent_index=place / "parents.index",
            output=place / "output",
            commands=tuple(tuple(command) for command in commands),
            environment={**BUILD_ENVIRONMENT, "SOURCE_DATE_EPOCH": str(EPOCH)},
            binds=(),
            epoch=EPOCH,
            log=place / "log",
        )
        return replace(request, **other)  # type: ignore[arg-type]  # fields of the request, by name

    def carry_out(self, request: BuildRequest) -> Built:
        result = self.backend.build(request)
        layer = ImageLayer(
            id=result.diff_id, name="built", tree=request.output / "tree", index=request.output / "index"
        )
        return Built(result=result, layer=layer, log=request.log.read_text(errors="replace"))

    def build(self, script: str, *parents: ImageLayer, **other: object) -> Built:
        """Run a shell script as a step."""
        return self.carry_out(self.request(("/bin/sh", "-eu", "-c", script), parents=parents, **other))

    def tool(self, *argv: str, stdin: bytes = b"", parents: Sequence[ImageLayer] = (), **other: object) -> ToolResult:
        layers = parents or (small_base(),)
        request = ToolRequest(
            parents=tuple(layer.tree for layer in layers), argv=argv, environment=dict(BUILD_ENVIRONMENT), stdin=stdin
        )
        return self.backend.tool(replace(request, **other))  # type: ignore[arg-type]

    def realize(self, *layers: ImageLayer, output: Path | None = None) -> Realization:
        """The small base, or ``layers``, and a skeleton on top, as the backend holds it."""
        stack = (*(layers or (small_base(),)), small_skeleton())
        merged = Tree.load(*(layer.index for layer in stack))
        image = image_of(stack)
        (self.folder / "keep").mkdir(exist_ok=True)
        return self.backend.realize(
            RealizeRequest(
                name="test",
                layers=tuple(stack),
                image=image,
                image_digest=image.digest(),
                tree_digest=tree_digest(merged.entries.values()),
                keep=self.folder / "keep",
                output=output,
            )
        )

    def wish(self, realization: Realization, argv: Sequence[str], **other: object) -> RunRequest:
        """A run as ``reprobox run`` asks for it."""
        request = RunRequest(
            realization=realization,
            argv=tuple(argv),
            environment={"PATH": "/usr/bin:/bin", "HOME": "/run/home"},
            binds=(),
            workdir="/",
        )
        return replace(request, **other)  # type: ignore[arg-type]

    def start(self, request: RunRequest, stdin: bytes = b"") -> tuple[int, Path]:
        """Start a run in a child process; returns its pid and the folder with its ``stdout`` and ``stderr``."""
        return self.start_call(lambda: self.backend.run(request), stdin)

    def start_call(self, call: Callable[[], int], stdin: bytes = b"") -> tuple[int, Path]:
        """The same of anything that uses the caller's streams and returns an exit status."""
        place = self.place()
        (place / "stdin").write_bytes(stdin)
        streams = [os.open(place / "stdin", os.O_RDONLY)]
        streams += [
            os.open(place / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) for name in ("stdout", "stderr")
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # about threads; the child only becomes something else
            child = os.fork()
        if child == 0:
            status = 70
            try:
                for number, descriptor in enumerate(streams):
                    os.dup2(descriptor, number)
                status = call()
            except BaseException:  # noqa: BLE001 - the child must not return into the caller's code
                os.write(2, traceback.format_exc().encode())
            finally:
                os._exit(status)
        for descriptor in streams:
            os.close(descriptor)
        return child, place

    def end(self, child: int, place: Path) -> Ended:
        """Wait for a run."""
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        out, err = (place / "stdout").read_bytes(), (place / "stderr").read_bytes()
        return Ended(status=code, stdout=out, stderr=err, pid=child)

    def run(self, realization: Realization, *argv: str, stdin: bytes = b"", **other: object) -> Ended:
        return self.end(*self.start(self.wish(realization, argv, **other), stdin))

    def shell(self, realization: Realization, script: str, **other: object) -> Ended:
        """Run a shell script in the environment."""
        return self.run(realization, "/bin/sh", "-c", script, **other)  # type: ignore[arg-type]

    def editing(self, *layers: ImageLayer) -> Editing:
        """A copy of the small base, or of ``layers``, that may be changed. It ends with ``close()``."""
        stack = (*(layers or (small_base(),)), small_skeleton())
        place = self.place()
        (place / "state").mkdir()
        (place / "parents.index").write_bytes(write_index(Tree.load(*(layer.index for layer in stack)).sorted()))
        request = EditRequest(
            realization=self.realize(*layers),
            parents=tuple(layer.tree for layer in stack),
            parent_index=place / "parents.index",
            state=place / "state",
            argv=(),
            environment={**BUILD_ENVIRONMENT},
        )
        return Editing(self, request)


class Editing:
    """An environment that is being changed by hand."""

    def __init__(self, bench: Bench, request: EditRequest) -> None:
        self._bench = bench
        self.request = request

    def run(self, script: str, stdin: bytes = b"", **other: object) -> Ended:
        """Run a shell script in the copy."""
        request = replace(self.request, argv=("/bin/sh", "-eu", "-c", script), **other)  # type: ignore[arg-type]
        return self._bench.end(*self._bench.start_call(lambda: self._bench.backend.edit(request), stdin))

    def changes(self) -> Built:
        """What was changed until now, as a layer."""
        output = self._bench.place()
        result = self._bench.backend.changes(
            ChangesRequest(
                realization=self.request.realization,
                parents=self.request.parents,
                parent_index=self.request.parent_index,
                state=self.request.state,
                output=output,
                epoch=EPOCH,
            )
        )
        layer = ImageLayer(id=result.diff_id, name="changes", tree=output / "tree", index=output / "index")
        return Built(result=result, layer=layer, log="")

    def close(self) -> None:
        """Have the backend take away what it keeps of the copy elsewhere."""
        discard = getattr(self._bench.backend, "discard", None)
        if discard is not None:
            discard(self.request.state)


def running(words: str) -> list[int]:
    """The processes of this machine whose command line holds ``words``."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if words in line and int(path.parent.name) != os.getpid():
            found.append(int(path.parent.name))
    return found


def until(condition: Callable[[], object], seconds: float = 20) -> bool:
    """Wait for something to become true; returns whether it did."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


# -- what every backend must pass --------------------------------------------------------------------------------------


class BackendConformance:
    """Tests of one backend; subclass it and give it a ``backend`` fixture."""

    @pytest.fixture
    def bench(self, backend: Backend, tmp_path: Path) -> Bench:
        return Bench(backend, tmp_path)

    @pytest.fixture
    def editing(self, bench: Bench) -> Iterator[Editing]:
        copy = bench.editing()
        yield copy
        copy.close()

    # probing

    def test_probe_is_true_to_what_it_says(self, bench: Bench) -> None:
        found = bench.backend.probe()
        assert found.ok, f"{found.reason}\n{found.hint}"
        assert bench.tool("/bin/true").status == 0

    # a step is hermetic

    def test_a_step_is_user_0(self, bench: Bench) -> None:
        built = bench.build("id -u; id -g; touch /new; stat -c %u:%g /new /bin/sh")
        assert built.log.split() == ["0", "0", "0:0", "0:0"]

    def test_a_step_has_no_network_but_its_own_loopback(self, bench: Bench) -> None:
        script = "cat /proc/net/dev; exec 3<>/dev/tcp/127.0.0.1/9 || true; exec 3<>/dev/tcp/192.0.2.1/9 || true"
        log = bench.carry_out(bench.request(("/bin/bash", "-c", script))).log
        assert {line.partition(":")[0].strip() for line in log.splitlines() if "0    0" in line} == {"lo"}
        assert "127.0.0.1/9: Connection refused" in log
        assert "192.0.2.1/9: Network is unreachable" in log

    def test_a_step_has_its_own_namespaces(self, bench: Bench) -> None:
        names = ("ipc", "mnt", "net", "pid", "uts")
        built = bench.build(f"for n in {' '.join(names)}; do readlink /proc/self/ns/$n; done")
        assert not set(built.log.split()) & {os.readlink(f"/proc/self/ns/{name}") for name in names}

    def test_a_step_sees_no_process_of_the_machine(self, bench: Bench) -> None:
        built = bench.build("cd /proc; ls -d [0-9]* | wc -l")
        assert int(built.log) < 8

    def test_names_are_the_same_on_every_machine(self, bench: Bench) -> None:
        built = bench.build("uname -n; cat /etc/hostname; cat /etc/resolv.conf; cat /etc/hosts")
        assert built.log == f"reprobox\nreprobox\n{HOSTS}"
        assert built.index() == []

    def test_the_environment_is_exactly_the_one_that_was_asked_for(self, bench: Bench) -> None:
        request = bench.request(("/bin/env", "-0"), environment={"PATH": "/bin", "WORDS": "two words\nand a line"})
        bench.carry_out(request)
        assert set(request.log.read_text().rstrip("\0").split("\0")) == {"PATH=/bin", "WORDS=two words\nand a line"}

    def test_the_umask_is_022_whatever_the_callers(self, bench: Bench) -> None:
        before = os.umask(0o077)
        try:
            built = bench.build("umask; mkdir -p /opt/a; touch /opt/a/b")
        finally:
            os.umask(before)
        assert built.log.strip() == "0022"
        assert built.index() == ["d 0755 opt", "d 0755 opt/a", "f 0644 opt/a/b"]

    def test_no_service_starts(self, bench: Bench) -> None:
        built = bench.build("/usr/sbin/policy-rc.d dbus start || echo $?")
        assert built.log.strip() == "101"
        assert built.index() == []

    def test_a_policy_of_the_base_is_hidden_and_kept(self, bench: Bench) -> None:

        def own_policy(tree: Path) -> None:
            (tree / "usr/sbin").mkdir(parents=True)
            (tree / "usr/sbin/policy-rc.d").symlink_to("/opt/policy")
            (tree / "opt").mkdir()
            (tree / "opt/policy").write_text("#!/bin/sh\nexit 0\n")
            (tree / "opt/policy").chmod(0o755)

        built = bench.build("/usr/sbin/policy-rc.d || echo $?", small_base(), bench.layer(own_policy))
        assert built.log.strip() == "101"
        assert built.index() == []

    def test_standard_input_is_empty(self, bench: Bench) -> None:
        assert bench.build("cat; test ! -t 0").log == ""

    def test_signals_are_as_a_shell_expects_them(self, bench: Bench) -> None:
        request = bench.request(
            ("/bin/bash", "-c", "set -o pipefail; yes | head -1; echo $?"), environment={"PATH": "/bin"}
        )
        assert bench.carry_out(request).log == "y\n141\n"

    def test_output_to_the_named_streams_reaches_the_log(self, bench: Bench) -> None:
        built = bench.build("echo one; echo two >>/dev/stdout; echo three >>/dev/stderr; echo four")
        assert built.log.split() == ["one", "two", "three", "four"]

    def test_processes_left_behind_end_with_the_step(self, bench: Bench) -> None:
        script = "(trap '' HUP TERM; sleep 4711.25) & (sleep 4711.25 & ) ; echo done"
        assert bench.build(script).log.strip() == "done"
        assert until(lambda: not running("sleep 4711.25"), 5)

    def test_changes_of_ownership_are_pretended(self, bench: Bench) -> None:
        script = """
            echo x >/file; chmod 4755 /file; chown 12345:12345 /file; chgrp 54321 /file; stat -c '%a %u:%g' /file
            mkdir /folder; chmod 3775 /folder; chown -R 12345 /folder; stat -c '%a %u:%g' /folder
            ln -s /file /link; chown -h 12345 /link"""
        built = bench.build(script)
        assert built.log.splitlines() == ["4755 0:0", "3775 0:0"]
        assert built.index() == ["f 0755 file", "d 3775 folder", "l 0777 link"]
        assert "/file: setuid or setgid bit of 4755" in "\n".join(built.result.dropped)

    def test_devices_are_pretended_and_pipes_are_not_kept(self, bench: Bench) -> None:
        built = bench.build("mknod /device c 1 3; mknod /disk b 8 0; mkfifo /pipe; ls / | tr '\\n' ' '")
        assert "pipe" in built.log.split()
        assert not {"device", "disk"} & set(built.log.split())
        assert built.index() == []
        assert built.result.dropped == ("/pipe: a device, FIFO or socket",)

    def test_a_step_has_the_usual_devices(self, bench: Bench) -> None:
        script = """
            for d in null zero full random urandom; do test -c /dev/$d; done
            echo x >/dev/null; head -c 3 /dev/zero | wc -c; echo x >/dev/shm/x; test -e /dev/ptmx; cat </dev/fd/0"""
        built = bench.build(script)
        assert built.log.strip() == "3"
        assert built.index() == []

    # secrets

    def test_a_secret_is_a_file_that_the_step_alone_may_read(self, bench: Bench) -> None:
        script = "stat -c '%a %u' /run/secrets/key; tr a-y b-z </run/secrets/key; (echo x >/run/secrets/key) || echo no"
        built = bench.build(script, secrets={"key": b"aardvark-badge\n", "other": b"x"})
        assert built.log.splitlines()[:2] == ["400 0", "bbsewbsl-cbehf"]
        assert built.log.splitlines()[-1] == "no"
        assert built.index() == []
        assert bench.build("test ! -e /run/secrets").index() == []

    def test_a_secret_is_masked_in_the_log_and_in_the_error(self, bench: Bench) -> None:
        script = "cat /run/secrets/key; set -x; v=$(cat /run/secrets/key); echo one$v$v >>/dev/stderr; exit 3"
        request = bench.request(("/bin/sh", "-eu", "-c", script), secrets={"key": b"aardvark-badge\n"})
        error = _failure(bench, request)
        assert "one******" in str(error)
        assert "one******" in request.log.read_text()
        assert "aardvark" not in str(error) + request.log.read_text()

    def test_a_secret_is_in_nothing_that_stays(self, bench: Bench) -> None:
        value = b"aardvark-badge"
        failed = bench.place() / "failed"
        request = bench.request(
            ("/bin/sh", "-c", "cp /run/secrets/key /opt; echo x >/var/kept; cat /run/secrets/key; exit 1"),
            parents=[small_base(), bench.layer(lambda tree: (tree / "opt").mkdir())],
            secrets={"key": value},
            failed=failed,
        )
        bench.build("cat /run/secrets/key", secrets={"key": value})
        error = _failure(bench, request)
        assert not list(holders(bench.folder, {"key": value}))
        if failed.exists():
            assert "/opt/key" in (error.hint or "")

    def test_a_secret_shows_in_no_list_of_processes(self, bench: Bench) -> None:
        request = bench.request(("/bin/sh", "-c", "sleep 4711.75"), secrets={"key": b"aardvark-badge"})
        with ThreadPoolExecutor(1) as pool:
            step = pool.submit(bench.backend.build, request)
            assert until(lambda: running("sleep 4711.75"), 10)
            paths = [path for name in ("cmdline", "environ") for path in Path("/proc").glob(f"[0-9]*/{name}")]
            shown = b"".join(map(_read, paths))
            for process in running("sleep 4711.75"):
                with contextlib.suppress(ProcessLookupError):  # it went with another
                    os.kill(process, 9)
            assert isinstance(step.exception(), BuildError)
        assert b"4711.75" in shown
        assert b"aardvark-badge" not in shown

    def test_a_step_cannot_read_the_callers_environment(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("REPROBOX_TEST_KEY", "aardvark-badge")
        assert "aardvark" not in bench.build("cat /proc/*/environ | tr '\\0' '\\n'").log

    # the network

    def test_a_step_may_be_given_the_network(self, bench: Bench) -> None:
        script = "exec 3<>/dev/tcp/127.0.0.1/%d; cat <&3 >/answer; cat /etc/resolv.conf"
        with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
            pool.submit(_answer, server, b"hello\n")
            command = ("/bin/bash", "-c", script % server.getsockname()[1])
            built = bench.carry_out(bench.request(command, network=True))
        assert built.index() == ["f 0644 answer"]
        assert built.text("answer") == "hello\n"
        assert built.log.endswith(Path("/etc/resolv.conf").read_text())

    # inputs

    def test_inputs_are_read_only_and_leave_nothing_behind(self, bench: Bench) -> None:
        source = bench.place()
        (source / "input, with: odd name").write_text("content")
        binds = (
            Bind(source=source / "input, with: odd name", target="/run/reprobox/inputs/a file"),
            Bind(source=source, target="/opt/deep/down"),
        )
        script = """
            cat '/run/reprobox/inputs/a file' '/opt/deep/down/input, with: odd name'
            (echo x >'/run/reprobox/inputs/a file') 2>/dev/null || echo ' no'
            (echo x >/opt/deep/down/new) 2>/dev/null || echo no"""
        built = bench.build(script, binds=binds)
        assert built.log == "contentcontent no\nno\n"
        assert built.index() == []
        assert os.listdir(source) == ["input, with: odd name"]

    def test_what_a_step_puts_beside_an_input_is_kept(self, bench: Bench) -> None:
        source = bench.place()
        built = bench.build("echo x >/opt/deep/beside", binds=(Bind(source=source, target="/opt/deep/down"),))
        assert built.index() == ["d 0755 opt", "d 0755 opt/deep", "f 0644 opt/deep/beside"]

    # layers

    def test_a_layer_is_what_differs(self, bench: Bench) -> None:
        first = bench.build(
            "mkdir -m 711 /opt; cd /opt; mkdir kept gone full; echo 1 >same; echo 2 >other; echo 3 >kept/mode;"
            "echo 4 >full/a; echo 5 >full/b; ln -s same link; ln same twin; echo 6 >swap"
        )
        second = bench.build(
            "cd /opt; touch same; echo 2 >other; echo changed >kept/new; chmod 600 kept/mode; rmdir gone; rm full/a;"
            "rm -r full; mkdir full; echo 5 >full/b; ln -sf other link; rm swap; mkdir swap; echo 7 >swap/in",
            small_base(),
            first.layer,
        )
        assert second.index() == [
            "d 0711 opt",
            "d 0755 opt/full",
            "w 0000 opt/full/a",
            "w 0000 opt/gone",
            "d 0755 opt/kept",
            "f 0600 opt/kept/mode",
            "f 0644 opt/kept/new",
            "l 0777 opt/link",
            "d 0755 opt/swap",
            "f 0644 opt/swap/in",
        ]
        third = bench.build("cd /opt; ls -R . | tr '\\n' ' '; cat full/b", small_base(), first.layer, second.layer)
        assert third.log == ".: full kept link other same swap twin  ./full: b  ./kept: mode new  ./swap: in 5\n"
        assert third.index() == []

    def test_a_folder_that_was_replaced_shows_nothing_old(self, bench: Bench) -> None:
        first = bench.build("mkdir -p /d/old/deep; echo 1 >/d/old/deep/x; echo 2 >/d/y; echo 3 >/f")
        second = bench.build("rm -r /d; mkdir /d; echo 4 >/d/z; rm /f; mkdir /f", small_base(), first.layer)
        assert second.index() == ["d 0755 d", "w 0000 d/old", "w 0000 d/y", "f 0644 d/z", "d 0755 f"]
        third = bench.build("ls /d /f", small_base(), first.layer, second.layer)
        assert third.log.split() == ["/d:", "z", "/f:"]

    def test_a_layers_numbers_are_those_of_its_tar(self, bench: Bench) -> None:
        built = bench.build("echo one >/a; ln /a /b; mkdir /c; ln -s a /d; touch -d @1000000000 /c/old")
        assert layer_digest(built.layer.tree, built.layer.index, EPOCH) == (built.result.diff_id, built.result.size)
        times = {path: int((built.layer.tree / path).lstat().st_mtime) for path in ("a", "c", "d", "c/old")}
        assert times == {"a": EPOCH, "c": EPOCH, "d": EPOCH, "c/old": 1_000_000_000}

    def test_the_same_step_gives_the_same_layer(self, bench: Bench) -> None:
        script = "for i in 1 2 3 4 5 6 7 8; do echo $i >/file$i; mkdir /d$i; ln /file$i /d$i/twin; done; rm /bin/yes"
        assert bench.build(script).result == bench.build(script).result

    def test_names_and_modes_of_any_kind_are_kept(self, bench: Bench) -> None:
        script = r"""
            cd /; mkdir -m 1777 sticky; mkdir -m 000 closed; echo x >'a b:c,d\e'; echo y >"$(printf 'line\nbreak')"
            echo z >"$(printf 'not-\351-utf8')"; echo s >unreadable; chmod 000 unreadable; : >.hidden"""
        built = bench.build(script)
        entries = {entry.path: f"{entry.kind} {entry.mode:04o}" for entry in read_index(built.layer.index.read_bytes())}
        assert entries == {
            b".hidden": "f 0644",
            b"a b:c,d\\e": "f 0644",
            b"closed": "d 0000",
            b"line\nbreak": "f 0644",
            b"not-\xe9-utf8": "f 0644",
            b"sticky": "d 1777",
            b"unreadable": "f 0000",
        }

    def test_folders_of_the_running_system_never_enter(self, bench: Bench) -> None:
        script = """
            for d in dev run tmp dev/shm; do echo x >/$d/file; mkdir /$d/sub; done
            echo x >/etc/hosts; rm /etc/resolv.conf"""
        assert bench.build(script).index() == []

    def test_a_base_starts_from_its_seed(self, bench: Bench) -> None:
        seed = small_root(bench.place())
        (seed / "var/gone").write_text("x")
        for name in ("proc", "sys"):
            (seed / name).rmdir()
        built = bench.build("rm /var/gone; echo x >/var/new; ls /proc/self >/dev/null", seed=seed)
        paths = {entry.path for entry in read_index(built.layer.index.read_bytes())}
        assert {b"bin/sh", b"var/new", b"etc/passwd", b"tmp"} <= paths
        assert not paths & {b"var/gone", b"proc", b"sys", b"etc/hosts", b"usr/sbin/policy-rc.d"}

    # failing

    def test_a_failing_step_says_what_it_printed_and_where_all_of_it_is(self, bench: Bench) -> None:
        script = "for i in 1 2 3 4 5 6 7 8 9; do for j in 1 2 3 4 5 6 7 8 9; do echo line $i$j; done; done; exit 7"
        request = bench.request(("/bin/sh", "-c", script))
        error = _failure(bench, request)
        assert "status 7" in error.message
        assert "line 99" in error.message
        assert "line 51\n" not in error.message
        assert str(request.log) in str(error)
        assert request.log.read_text().startswith("line 11\n")

    def test_the_first_command_that_fails_ends_the_step(self, bench: Bench) -> None:
        request = bench.request(("/bin/true",), ("/bin/sh", "-c", "exit 3"), ("/bin/sh", "-c", "echo too far"))
        assert "status 3" in _failure(bench, request).message
        assert "too far" not in request.log.read_text()

    def test_a_step_that_was_killed_says_by_which_signal(self, bench: Bench) -> None:
        request = bench.request(("/bin/sh", "-c", "kill -SEGV $$"))
        message = _failure(bench, request).message
        assert "139" in message
        assert "signal 11" in message

    def test_a_program_that_is_not_there_is_127(self, bench: Bench) -> None:
        assert "status 127" in _failure(bench, bench.request(("/bin/missing",))).message
        assert "status 126" in _failure(bench, bench.request(("/etc/passwd",))).message

    # tools

    def test_a_tool_gives_its_streams_and_status(self, bench: Bench) -> None:
        script = "cat; echo err >&2; exit 3"
        result = bench.tool("/bin/sh", "-c", script, stdin=b"\x00in\xff")
        assert result == ToolResult(status=3, stdout=b"\x00in\xff", stderr=b"err\n")

    def test_a_tool_writes_to_a_root_that_is_thrown_away(self, bench: Bench) -> None:
        before = scan(small_base().tree)
        assert bench.tool("/bin/sh", "-c", "echo x >/new; rm /bin/yes; cat /new").stdout == b"x\n"
        assert bench.tool("/bin/sh", "-c", "ls /new /bin/yes").stderr.count(b"No such file") == 1
        assert scan(small_base().tree) == before

    def test_a_tool_finds_its_program_on_the_path_it_was_given(self, bench: Bench) -> None:
        assert bench.tool("pwd").stdout == b"/\n"
        assert bench.tool("missing-program").status == 127

    # realizing

    def test_a_realization_can_be_had_as_a_folder(self, bench: Bench) -> None:
        built = bench.build("rm /bin/yes; echo x >/new; chmod 600 /new")
        bench.realize(small_base(), built.layer, output=bench.folder / "tree")
        wanted = Tree.load(small_base().index, built.layer.index)
        assert tree_digest(scan(bench.folder / "tree")) == tree_digest(wanted.entries.values())

    def test_realizing_again_is_the_same(self, bench: Bench) -> None:
        assert bench.realize() == bench.realize()

    def test_layers_are_not_changed_by_use(self, bench: Bench) -> None:
        before = scan(small_base().tree)
        built = bench.build("rm -r /var /root; chmod 700 /etc; echo x >>/etc/passwd")
        bench.shell(bench.realize(small_base(), built.layer), "echo x >/etc/passwd; rm /bin/sh")
        assert scan(small_base().tree) == before

    def test_what_was_realized_is_still_there_and_what_was_not_is_not(self, bench: Bench) -> None:
        realization = bench.realize()
        assert bench.backend.has(realization)
        trees = (bench.folder / "nothing",) if realization.trees else ()
        gone = Realization(location=str(bench.folder / "nothing"), trees=trees)
        assert not bench.backend.has(gone)

    def test_labels_are_those_of_the_image_if_there_are_any(self, bench: Bench) -> None:
        labels = bench.backend.inspect(bench.realize())
        assert not labels or labels["org.opencontainers.image.title"] == "a small environment"

    # changing things by hand

    def test_an_edit_is_user_0_with_the_callers_streams(self, editing: Editing) -> None:
        ended = editing.run("id -u; cat; echo err >&2; touch /new; chown 12345:12345 /new; exit 7", b"typed\n")
        assert (ended.status, ended.stdout, ended.stderr) == (7, b"0\ntyped\n", b"err\n")

    def test_edits_are_kept_between_calls_and_told_as_a_layer(self, bench: Bench, editing: Editing) -> None:
        editing.run("echo one >/new; rm /bin/yes; mkdir -p /opt/a; echo x >/tmp/scratch; ln /new /opt/a/twin")
        told = ["d 0755 bin", "w 0000 bin/yes", "f 0644 new", "d 0755 opt", "d 0755 opt/a", "f 0644 opt/a/twin"]
        assert editing.changes().index() == told
        ended = editing.run("cat /new /opt/a/twin; test ! -e /bin/yes; echo two >>/etc/passwd; rm -r /opt; mkdir /opt")
        assert (ended.status, ended.stdout) == (0, b"one\none\n")
        first, second = editing.changes(), editing.changes()
        etc = ["d 0755 etc", "f 0644 etc/passwd"]
        assert first.index() == [*told[:2], *etc, "f 0644 new", "d 0755 opt"]
        assert first.result == second.result
        assert layer_digest(first.layer.tree, first.layer.index, EPOCH) == (first.result.diff_id, first.result.size)
        assert bench.shell(editing.request.realization, "cat /new").status != 0

    def test_without_edits_nothing_has_changed(self, editing: Editing) -> None:
        assert editing.changes().index() == []
        editing.run("true")
        assert editing.changes().index() == []

    def test_an_edit_has_the_hosts_network(self, editing: Editing) -> None:
        script = "exec /bin/bash -c 'exec 3<>/dev/tcp/127.0.0.1/%d; cat <&3; cat /etc/resolv.conf'"
        with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
            pool.submit(_answer, server, b"hello\n")
            ended = editing.run(script % server.getsockname()[1])
        assert ended.stdout == b"hello\n" + Path("/etc/resolv.conf").read_bytes()
        assert editing.changes().index() == []

    def test_what_is_mounted_into_an_edit_is_no_part_of_it(self, bench: Bench, editing: Editing) -> None:
        source = bench.place()
        (source / "file").write_text("here\n")
        binds = (
            Bind(source=source, target="/work", writable=True),
            Bind(source=source / "file", target="/run/reprobox/one"),
        )
        ended = editing.run("cat /work/file /run/reprobox/one; pwd; echo x >new", binds=binds, workdir="/work")
        assert ended.stdout == b"here\nhere\n/work\n"
        assert (source / "new").read_text() == "x\n"
        assert editing.changes().index() == []

    # running

    def test_a_run_passes_streams_and_status(self, bench: Bench) -> None:
        ended = bench.shell(bench.realize(), "cat; echo err >&2; exit 42", stdin=bytes(range(256)))
        assert (ended.status, ended.stdout, ended.stderr) == (42, bytes(range(256)), b"err\n")

    def test_a_run_shows_the_merged_layers(self, bench: Bench) -> None:
        built = bench.build("rm /bin/yes; echo two words >/new")
        ended = bench.shell(bench.realize(small_base(), built.layer), "cat /new; ls /bin/yes")
        assert ended.stdout == b"two words\n"
        assert b"No such file" in ended.stderr

    def test_a_run_is_the_caller(self, bench: Bench) -> None:
        ended = bench.shell(bench.realize(), "id -u; id -g; id -un; id -gn")
        name = pwd.getpwuid(os.getuid()).pw_name
        assert ended.stdout.decode().split() == [str(os.getuid()), str(os.getgid()), name, name]

    def test_the_root_is_read_only_and_the_private_folders_are_not(self, bench: Bench) -> None:
        script = """
            for d in / /etc /bin /var; do (echo x >$d/new) 2>/dev/null && echo $d is writable; done
            for d in "$HOME" "$HOME/.cache" /tmp /var/tmp /dev/shm; do echo x >$d/reprobox-$$ && rm $d/reprobox-$$; done
            ls -A "$HOME" /tmp /var/tmp | tr '\\n' ' '; cd; pwd"""
        ended = bench.shell(bench.realize(), script)
        assert ended.stderr == b""
        assert ended.stdout == b"/run/home: .cache  /tmp:  /var/tmp: /run/home\n"

    def test_the_environment_of_a_run_is_exactly_the_one_that_was_asked_for(self, bench: Bench) -> None:
        ended = bench.run(bench.realize(), "/bin/env", "-0", environment={"HOME": "/run/home", "A": "x\ny"})
        assert set(ended.stdout.decode().rstrip("\0").split("\0")) == {"HOME=/run/home", "A=x\ny"}

    def test_mounts_have_their_modes(self, bench: Bench) -> None:
        data, out = bench.place(), bench.place()
        (data / "file").write_text("data\n")
        binds = (
            Bind(source=data, target="/opt/data"),
            Bind(source=out, target="/opt/out", writable=True),
            Bind(source=data / "file", target="/opt/one"),
        )
        points = bench.build("mkdir -p /opt/data /opt/out; touch /opt/one")
        script = "cat /opt/data/file /opt/one; echo x >/opt/out/new; (echo x >/opt/data/new); (echo x >/opt/one); true"
        ended = bench.shell(bench.realize(small_base(), points.layer), script, binds=binds)
        assert ended.stdout == b"data\ndata\n"
        assert ended.stderr.count(b"Read-only") == 2
        assert (out / "new").stat().st_uid == os.getuid()
        assert os.listdir(data) == ["file"]

    def test_a_mount_below_another_is_seen(self, bench: Bench) -> None:
        outer, inner = bench.place(), bench.place()
        (outer / "in").mkdir()
        (inner / "file").write_text("inner\n")
        points = bench.build("mkdir /data")
        binds = (Bind(source=outer, target="/data", writable=True), Bind(source=inner, target="/data/in"))
        ended = bench.shell(bench.realize(small_base(), points.layer), "cat /data/in/file", binds=binds)
        assert ended.stdout == b"inner\n"

    def test_a_source_may_be_reached_through_links(self, bench: Bench) -> None:
        data, links = bench.place(), bench.place()
        (data / "file").write_text("here\n")
        (links / "absolute").symlink_to(data)
        points = bench.build("mkdir /data")
        binds = (Bind(source=links / "absolute", target="/data"),)
        assert bench.shell(bench.realize(small_base(), points.layer), "cat /data/file", binds=binds).stdout == b"here\n"

    def test_the_working_directory_is_as_asked(self, bench: Bench) -> None:
        assert bench.run(bench.realize(), "pwd", workdir="/usr/sbin").stdout == b"/usr/sbin\n"

    def test_commands_that_cannot_run_are_126_and_127(self, bench: Bench) -> None:
        realization = bench.realize()
        missing = bench.run(realization, "no-such-command")
        assert (missing.status, missing.stdout) == (127, b"")
        assert b"no-such-command" in missing.stderr
        assert bench.run(realization, "/etc/passwd").status == 126

    def test_a_signal_that_ends_the_command_is_seen_outside(self, bench: Bench) -> None:
        assert bench.shell(bench.realize(), "kill -TERM $$").status in (-15, 143)

    def test_signals_reach_the_command(self, bench: Bench) -> None:
        for isolate in (False, True):
            script = "trap 'echo got it; exit 5' TERM; echo ready; while true; do sleep 0.05; done"
            wish = bench.wish(bench.realize(), ("/bin/sh", "-c", script), isolate=isolate)
            child, place = bench.start(wish)
            assert until(lambda place=place: (place / "stdout").read_bytes() == b"ready\n")  # type: ignore[misc]
            os.kill(child, 15)
            ended = bench.end(child, place)
            assert (ended.status, ended.stdout) == (5, b"ready\ngot it\n")

    def test_a_run_shares_the_machines_namespaces_or_not(self, bench: Bench) -> None:
        script = "for n in net pid ipc; do readlink /proc/self/ns/$n; done"
        own = [os.readlink(f"/proc/self/ns/{name}") for name in ("net", "pid", "ipc")]
        assert bench.shell(bench.realize(), script).stdout.decode().split() == own
        isolated = bench.shell(bench.realize(), script, isolate=True).stdout.decode().split()
        assert [a == b for a, b in zip(isolated, own, strict=True)] == [True, False, False]
        offline = bench.shell(bench.realize(), script, network=False).stdout.decode().split()
        assert [a == b for a, b in zip(offline, own, strict=True)] == [False, True, True]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it ended meanwhile, or is somebody else's
        return b""


def _answer(server: socket.socket, data: bytes) -> None:
    connection, _ = server.accept()
    with connection:
        connection.sendall(data)


def _failure(bench: Bench, request: BuildRequest) -> BuildError:
    try:
        bench.carry_out(request)
    except BuildError as error:
        return error
    raise AssertionError("the step should have failed")
