"""Runs: terminals, descriptors, limits, devices, and what of the caller's settings must not reach Apptainer."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from reprobox.backend import Bind, Limits
from reprobox.errors import BackendError
from reprobox.testing import Bench
from reprobox_singularity.backend import Singularity
from reprobox_singularity.program import Command, program

pytestmark = [pytest.mark.apptainer, pytest.mark.userns]


@pytest.fixture
def bench(tmp_path):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "bench").mkdir()
    return Bench(Singularity(tmp_path / "scratch"), tmp_path / "bench")


def test_the_callers_settings_for_apptainer_do_not_reach_a_run(bench, monkeypatch):
    """``APPTAINER_BIND`` and its kin are for plain Apptainer; a run is what the manifest says."""
    monkeypatch.setenv("APPTAINER_BIND", "/usr:/opt/usr")
    monkeypatch.setenv("SINGULARITY_BINDPATH", "/usr:/opt/usr2")
    monkeypatch.setenv("APPTAINERENV_LEAK", "leaked")
    monkeypatch.setenv("SINGULARITYENV_PREPEND_PATH", "/leaked")
    monkeypatch.setenv("LD_PRELOAD_LEAK", "leaked")
    ended = bench.shell(bench.realize(), "env | sort; ls -d /opt/*", environment={"PATH": "/bin", "EMPTY": ""})
    assert ended.stdout == b"EMPTY=\nPATH=/bin\nPWD=/\n"  # the shell's own PWD


def test_an_edit_and_a_step_do_not_see_them_either(bench, monkeypatch):
    monkeypatch.setenv("APPTAINERENV_LEAK", "leaked")
    monkeypatch.setenv("APPTAINER_BIND", "/usr:/opt")
    built = bench.build("env; ls -A /opt 2>&1 || true")
    assert "leaked" not in built.log
    assert built.log.endswith("No such file or directory\n")


def test_a_terminal_is_the_commands(bench):
    request = bench.wish(bench.realize(), ("/bin/sh", "-c", "test -t 0 && test -t 1 && stty size && tty && exit 9"))
    pid, master = pty.fork()
    if pid == 0:
        subprocess.run(["stty", "rows", "11", "cols", "22"], check=True)
        bench.backend.run(request)
    said = b""
    try:
        while data := os.read(master, 1000):
            said += data
    except OSError:  # the other end is closed
        pass
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 9
    assert said.startswith(b"11 22\r\n/dev/pts/")


def test_descriptors_are_passed_on_and_none_is_added(bench):
    """MPI's launchers hand theirs to the ranks (``PMI_FD``)."""
    reader, writer = os.pipe()
    os.dup2(writer, 60)
    os.set_inheritable(60, True)
    ended = bench.run(bench.realize(), "/bin/bash", "-c", "ls /proc/self/fd; echo through >&60")
    os.close(60)
    os.close(writer)
    assert os.read(reader, 100) == b"through\n"
    os.close(reader)
    inherited = {name for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")}
    inherited = {name for name in inherited if os.get_inheritable(int(name))}
    listing = {"3"}  # of ls itself
    assert {"0", "1", "2", "60"} <= set(ended.stdout.decode().split()) <= inherited | {"0", "1", "2", "60"} | listing


def test_a_mount_below_private_folders_is_seen(bench):
    data = bench.place()
    (data / "file").write_text("here\n")
    binds = (
        Bind(source=data, target="/run/data"),
        Bind(source=data / "file", target="/tmp/deep/one"),
        Bind(source=data, target="/var/tmp/out", writable=True),
    )
    script = "cat /run/data/file /tmp/deep/one; echo x >/var/tmp/out/new; (echo x >/run/data/new)"
    ended = bench.shell(bench.realize(), script, binds=binds)
    assert ended.stdout == b"here\nhere\n"
    assert b"Read-only" in ended.stderr
    assert (data / "new").read_text() == "x\n"


def test_the_home_folder_of_the_account_is_the_private_one(bench):
    ended = bench.shell(bench.realize(), "cat /etc/passwd")
    own = next(line for line in ended.stdout.decode().splitlines() if f":{os.getuid()}:" in line)
    assert own.split(":")[5] == "/run/home"
    assert b"daemon:x:1:1" in ended.stdout


def test_whole_processors_are_given_by_mask(bench):
    ended = bench.shell(
        bench.realize(),
        "while read a b; do case $a in Cpus_allowed_list:) echo $b;; esac; done </proc/self/status",
        limits=Limits(cpus=1),
    )
    assert ended.stdout.decode().strip().isdecimal()


@pytest.mark.skipif(os.path.isdir("/run/systemd/system"), reason="with systemd, limits can be kept")
def test_a_limit_that_cannot_be_kept_is_refused(bench):
    for limits, where in ((Limits(memory=2**30), "--memory"), (Limits(cpus=0.5), "--cpus")):
        with pytest.raises(BackendError) as raised:
            bench.backend.run(bench.wish(bench.realize(), ("true",), limits=limits))
        assert raised.value.message.startswith("Apptainer cannot keep limits here: ")
        assert "cgroup" in raised.value.message
        assert raised.value.where == where
        assert "sbatch --mem" in (raised.value.hint or "")


@pytest.mark.skipif(os.path.exists("/dev/nvidiactl") or os.path.exists("/dev/kfd"), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused(bench):
    with pytest.raises(BackendError, match="this machine shows no GPU"):
        bench.backend.run(bench.wish(bench.realize(), ("true",), gpus="all"))


# -- the program -------------------------------------------------------------------------------------------------------


def started(command: Command) -> subprocess.CompletedProcess:
    path = f"/proc/self/fd/{command.descriptor}"
    os.ftruncate(command.descriptor, 0)
    os.pwrite(command.descriptor, program(command), 0)
    return subprocess.run([path], pass_fds=[command.descriptor], capture_output=True, check=False)


@pytest.mark.parametrize(
    ("argv", "workdir", "status", "said"),
    [
        (("no-such",), "/", 127, b"reprobox: cannot run no-such: it is not in the environment\n"),
        (("/etc/passwd",), "/", 126, b"reprobox: cannot run /etc/passwd: it is no program that may be executed here\n"),
        (("",), "/", 127, b"reprobox: cannot run : it is not in the environment\n"),
        (("sh",), "/no/such", 126, b"reprobox: cannot enter the working directory /no/such\n"),
        (("sh", "-c", "exit 5"), "/", 5, b""),
    ],
    ids=["missing", "no-program", "empty", "no-folder", "status"],
)
def test_the_program_ends_as_a_shell_would(argv, workdir, status, said):
    descriptor = os.memfd_create("program", 0)
    done = started(Command(argv=argv, environment={"PATH": "/nowhere:/bin"}, workdir=workdir, descriptor=descriptor))
    os.close(descriptor)
    assert (done.returncode, done.stderr) == (status, said)


def test_the_program_looks_on_after_a_file_that_may_not_be_executed(tmp_path):
    descriptor = os.memfd_create("program", 0)
    (tmp_path / "env").write_text("")
    wanted = {"PATH": f"{tmp_path}:/usr/bin:/bin", "A": "x\ny"}
    done = started(Command(argv=("env", "-0"), environment=wanted, workdir="/", descriptor=descriptor))
    os.close(descriptor)
    assert set(done.stdout.decode().rstrip("\0").split("\0")) == {f"{name}={value}" for name, value in wanted.items()}


def test_the_programs_bytes_are_the_same_every_time():
    wanted = Command(argv=("a", "b"), environment={"C": "d"}, workdir="/", descriptor=3, step=True)
    for machine in ("x86_64", "aarch64"):
        made = program(wanted, machine)
        assert made == program(wanted, machine)
        assert made[:4] == b"\x7fELF"


# -- which Apptainer ---------------------------------------------------------------------------------------------------


def engine(folder: Path, name: str, said: str, status: int = 0) -> str:
    """A PATH with a program of this name that says this."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\necho '{said}'\nexit {status}\n")
    (folder / name).chmod(0o755)
    return str(folder)


INSTALL = "install Apptainer 1.2 or newer (apptainer.org has packages; on a cluster it is often a module: `module avail apptainer`)"


@pytest.mark.parametrize(
    ("name", "said", "status", "message", "hint"),
    [
        (None, "", 0, "neither Apptainer nor SingularityCE is installed", INSTALL),
        ("apptainer", "apptainer version 1.4.5", 0, "{folder}/apptainer is here without its other name, `singularity`, by which spython calls it", "make a link: `ln -s {folder}/apptainer ~/.local/bin/singularity`, in a folder that is on your PATH"),
        ("singularity", "apptainer version 1.1.9", 0, "{folder}/singularity is Apptainer 1.1.9, and Apptainer 1.2 or newer is needed", INSTALL),
        ("singularity", "singularity version 3.8.7", 0, "{folder}/singularity is SingularityCE 3.8.7, and SingularityCE 4.0 or newer is needed", INSTALL),
        ("singularity", "a game of go", 0, "{folder}/singularity says it is 'a game of go', which is neither Apptainer nor SingularityCE", INSTALL),
        ("singularity", "cannot open shared object", 127, "{folder}/singularity --version ends with status 127: cannot open shared object", INSTALL),
    ],
    ids=["none", "other-name", "old-apptainer", "old-ce", "stranger", "broken"],
)  # fmt: skip
def test_an_apptainer_that_will_not_do_is_told_with_the_remedy(tmp_path, name, said, status, message, hint):
    from reprobox_singularity.apptainer import find

    folder = tmp_path / "bin"
    path = engine(folder, name, said, status) if name else str(folder)
    with pytest.raises(BackendError) as raised:
        find(path)
    assert raised.value.message == message.format(folder=folder)
    assert raised.value.hint == hint.format(folder=folder)


@pytest.mark.parametrize("said", ["apptainer version 1.4.5", "singularity-ce version 4.1.1-jammy"])
def test_those_that_do_are_recognised(tmp_path, said):
    from reprobox_singularity.apptainer import find

    assert find(engine(tmp_path / "bin", "singularity", said)).version >= (1, 2)


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({"APPTAINER_TMPDIR": "/a", "SINGULARITY_TMPDIR": "/b"}, {"APPTAINER_TMPDIR": "/a", "SINGULARITY_TMPDIR": "/a"}),
        ({"SINGULARITY_CACHEDIR": "/c"}, {"APPTAINER_CACHEDIR": "/c", "SINGULARITY_CACHEDIR": "/c"}),
        ({"APPTAINER_BIND": "/x", "APPTAINERENV_A": "b"}, {}),
    ],
)  # fmt: skip
def test_places_are_honoured_and_nothing_else(environment, found):
    from reprobox_singularity.apptainer import places

    assert places(environment) == found


def test_probe_without_fuse_says_what_to_do(tmp_path):
    """In a mount namespace where /dev/fuse is something else."""
    script = (
        "from pathlib import Path; from reprobox_singularity.probe import probe;"
        f"found = probe(Path({str(tmp_path)!r})); print(found.ok, found.reason, found.hint, sep='\\n')"
    )
    argv = ["unshare", "--map-root-user", "--mount", "sh", "-c", 'mount --bind /dev/null /dev/fuse; exec "$0" -c "$1"']
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([*argv, sys.executable, script], capture_output=True, text=True, check=False, env=environment)
    ok, reason, hint = done.stdout.splitlines()
    assert ok == "False", done.stderr
    assert reason.startswith("an image cannot be run: ")
    assert "fuse" in reason
    assert hint.startswith(
        "images are mounted by FUSE: /dev/fuse must be there for you to write (`chmod 666 /dev/fuse`"
    )
