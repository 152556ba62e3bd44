"""What a command that `reprobox run` starts can rely on: quickly from the launch record, and the long way round."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reprobox.testing import until

pytestmark = pytest.mark.userns
QUICK: tuple[str, ...] = ()
LONG = ("--offline",)  # only the full command line knows it


@pytest.fixture(params=[QUICK, LONG], ids=["quick", "long"])
def way(request) -> tuple[str, ...]:
    return request.param


def start(project, *argv: str | bytes, **options) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "reprobox.cli", "run", *argv]
    settings = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen(command, cwd=settings.pop("cwd", project.root), **settings)


def run(project, *argv: str | bytes, stdin: bytes = b"", **options) -> subprocess.CompletedProcess[bytes]:
    process = start(project, *argv, stdin=subprocess.PIPE, **options)
    out, err = process.communicate(stdin, timeout=60)
    return subprocess.CompletedProcess(argv, process.returncode, out, err)


def shell(project, *argv: str, **options) -> str:
    """Standard output of a script, the last of ``argv``, which must go well."""
    done = run(project, *argv[:-1], "--", "bash", "-c", argv[-1], **options)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode()


# -- streams, status, signals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 3"], 3),
        (["sh", "-c", "exit 255"], 255),
        (["/etc/small/name"], 126),
        (["no-such-command"], 127),
        (["/no/such/file"], 127),
        (["sh", "-c", "kill -TERM $$"], -signal.SIGTERM),
        (["sh", "-c", "kill -SEGV $$"], -signal.SIGSEGV),
        (["sh", "-c", "kill -KILL $$"], -signal.SIGKILL),
    ],
)
@pytest.mark.parametrize("isolate", [(), ("--isolate",)])
def test_the_command_ends_as_it_would_without_reprobox(realized, command, status, isolate):
    done = run(realized, *isolate, "--", *command)
    assert done.returncode == status
    assert done.stdout == b""
    assert (b"reprobox: cannot run" in done.stderr) == (status in (126, 127))


def test_streams_pass_bytes(realized, way):
    data = bytes(range(256)) * 4000
    done = run(realized, *way, "--", "sh", "-c", "cat; echo err >&2", stdin=data)
    assert (done.stdout, done.stderr) == (data, b"err\n")


def test_arguments_pass_as_they_are(realized, way):
    words = ["", "a b", "line\nbreak", "--help", "-q", "--", "$HOME", b"\xff\xfe", "é", "x" * 100_000]
    done = run(realized, *way, "--", "bash", "-c", r'printf "%s\0" "$@"', "bash", *words)
    assert done.stdout == b"\0".join(word if isinstance(word, bytes) else word.encode() for word in words) + b"\0"


def test_a_reader_that_goes_away_ends_the_command_quietly(realized, way):
    process = start(realized, *way, "--", "bash", "-c", "while true; do echo y; done")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(20) == -signal.SIGPIPE
    process.stderr.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
@pytest.mark.parametrize("isolate", [(), ("--isolate",)])
def test_signals_reach_the_command(realized, number, isolate):
    name = signal.Signals(number).name.removeprefix("SIG")
    script = f"trap 'echo got {name}; exit 5' {name}; echo ready; while true; do sleep 0.02; done"
    # What ignores a signal hands that on, such as nohup; a shell cannot trap what was ignored when it began.
    process = start(
        realized, *isolate, "--", "bash", "-c", script, preexec_fn=lambda: signal.signal(number, signal.SIG_DFL)
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (5, f"got {name}\n".encode(), b"")


@pytest.mark.parametrize("isolate", [(), ("--isolate",)])
def test_a_command_that_minds_no_signal_is_ended_by_it(realized, isolate):
    process = start(realized, *isolate, "--", "sleep", "1000")
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == -signal.SIGTERM


def test_killing_an_isolated_run_ends_everything_in_it(realized):
    process = start(
        realized, "--isolate", "--", "bash", "-c", "trap '' TERM; sleep 2718.28 & echo ready; sleep 2718.28"
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.kill()
    process.communicate(timeout=20)
    assert until(lambda: not [line for line in processes() if "sleep 2718.28" in line], 10)


def processes() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return found


# -- what the command sees ---------------------------------------------------------------------------------------------


def test_both_ways_show_the_same(realized):
    script = """
        env; echo $UID $EUID "${GROUPS[@]}"; pwd; umask; ulimit -n; ls -la / /work /data "$HOME" /tmp
        while read -r _ _ _ _ point flags _; do echo $point $flags; done </proc/self/mountinfo
        cat /etc/passwd /etc/group"""
    # The columns of ls are as wide as /proc has links, and that changes by itself.
    quick, long = (
        [" ".join(line.split()) for line in shell(realized, *way, script).splitlines() if not line.startswith("d")]
        for way in (QUICK, LONG)
    )
    assert quick == long


def test_what_is_declared_and_what_jobs_need(realized, way, monkeypatch):
    for name, value in {"SLURM_PROCID": "3", "OMPI_COMM_WORLD_RANK": "3", "COLOUR": "red", "LD_PRELOAD": "x"}.items():
        monkeypatch.setenv(name, value) if name != "LD_PRELOAD" else None
    seen = dict(line.partition("=")[::2] for line in run(realized, *way, "--", "env").stdout.decode().splitlines())
    assert {name: seen.get(name) for name in ("SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "COLOUR", "LANG", "HOME")} == {
        "SLURM_PROCID": "3",
        "OMPI_COMM_WORLD_RANK": "3",
        "COLOUR": "blue",
        "LANG": "C.UTF-8",
        "HOME": "/run/home",
    }
    assert not {"REPROBOX_STORE", "PYTEST_CURRENT_TEST", "PWD"} & set(seen)


def test_the_callers_umask_and_limits_are_kept(realized, way):
    def limit() -> None:
        os.umask(0o027)

    assert shell(realized, *way, "umask; touch /out/file", preexec_fn=limit) == "0027\n"
    assert stat.S_IMODE((realized.root / "out/file").stat().st_mode) == 0o640


def test_the_code_is_the_working_tree(realized, way):
    (realized.root / "src/main.sh").write_text("echo edited; pwd\n")
    assert run(realized, *way).stdout == b"edited\n/work\n"


def test_the_manifests_command(realized, way):
    done = run(realized, *way)
    assert done.stdout == b"small\n1 2 3\n"
    result = realized.root / "out/result"
    assert result.read_text() == "done\n"
    assert (result.stat().st_uid, result.stat().st_gid) == (os.getuid(), os.getgid())


def test_from_anywhere(realized, way, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = run(realized, *way, "-C", str(realized.root), "--", "cat", "/data/numbers", cwd=elsewhere)
    assert done.stdout == b"1 2 3\n"


def test_no_network(realized):
    words = "while IFS=: read -r name _; do echo ${name// }; done </proc/self/net/dev; : 3<>/dev/tcp/127.0.0.1/9"
    done = run(realized, "--network", "none", "--", "bash", "-c", words)
    assert [word for word in done.stdout.decode().split() if "|" not in word] == ["lo"]
    assert b"Connection refused" in done.stderr


def test_many_at_a_time(realized):
    running = [start(realized, "--", "bash", "-c", f"echo {number}; cat /greeting") for number in range(8)]
    assert [process.communicate(timeout=60)[0] for process in running] == [
        f"{number}\nsmall\n".encode() for number in range(8)
    ]


def test_without_overlay(realized, way, monkeypatch):
    monkeypatch.setenv("REPROBOX_SANDBOX_OVERLAY", "no")
    monkeypatch.setenv("REPROBOX_STORE", str(realized.root.parent / "store"))
    for _ in range(2):
        done = run(realized, *way)
        assert done.stdout == b"small\n1 2 3\n"
    assert len([path for path in (realized.root.parent / "store/realizations").iterdir() if path.is_dir()]) == 1
    assert b"Read-only" in run(realized, *way, "--", "touch", "/greeting").stderr


# -- mounts ------------------------------------------------------------------------------------------------------------


def test_a_mount_is_given_another_source(realized, way, tmp_path):
    (tmp_path / "numbers").write_text("4 5 6\n")
    assert shell(realized, *way, "--mount", f"/data={tmp_path}", "cat /data/numbers") == "4 5 6\n"
    done = run(realized, *way, "--mount", "/data=../", "--", "touch", "/data/new")
    assert b"Read-only" in done.stderr
    assert not (tmp_path / "new").exists()


def test_a_source_is_reached_through_links_of_the_machine(realized, way, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real/sub").mkdir(parents=True)
    (tmp_path / "real/sub/numbers").write_text("8\n")
    assert shell(realized, *way, "--mount", f"/data={tmp_path}/link/sub", "cat /data/numbers") == "8\n"


def test_a_mount_that_the_manifest_does_not_know_is_read_only(realized, way, tmp_path):
    (tmp_path / "file").write_text("x\n")
    assert shell(realized, *way, "--mount", f"/else/where={tmp_path}", "cat /else/where/file") == "x\n"
    assert b"Read-only" in run(realized, *way, "--mount", f"/else={tmp_path}", "--", "touch", "/else/new").stderr


def test_a_missing_source_is_told_before_anything_starts(realized, way):
    shutil.rmtree(realized.root / "data")
    done = run(realized, *way)
    assert done.returncode == 1
    assert done.stdout == b""
    text = done.stderr.decode()
    assert f"the source of the mount /data does not exist: {realized.root}/data" in text
    assert "--mount /data=PATH" in text


def test_an_output_folder_that_git_did_not_keep_is_made(realized, way):
    (realized.root / "out").rmdir()
    assert run(realized, *way).returncode == 0
    assert (realized.root / "out/result").exists()


def test_a_mount_without_a_source_asks_for_one(project, tmp_path):
    project.edit('"/data" = { mode = "ro", source = "data" }', '"/data" = { mode = "ro" }')
    assert project("lock", "-q").status == 0
    for _ in range(2):
        told = project.process("run", "-q")
        assert told.status == 2
        assert 'mounts."/data": nothing is given for the mount /data' in told.err
        assert "add --mount /data=PATH" in told.err
    (tmp_path / "numbers").write_text("7\n")
    assert project.process("run", "--mount", f"/data={tmp_path}").out == "small\n7\n"


def test_a_file_mounted_on_a_folder(realized, way):
    done = run(realized, *way, "--mount", f"/data={realized.manifest}", "--", "true")
    assert done.returncode == 1
    assert b"cannot mount" in done.stderr
    assert b"there is a folder" in done.stderr


# -- what it is run from -----------------------------------------------------------------------------------------------


def test_folders_of_any_name(project, tmp_path, monkeypatch):
    odd = tmp_path / "with space, colon: é \\ 'quote' \u2603 %41@"
    odd.mkdir()
    shutil.copytree(project.root, odd / "pro: ject")
    monkeypatch.setenv("REPROBOX_STORE", str(odd / "sto, re"))
    for _ in range(2):
        done = run(project, "-C", str(odd / "pro: ject"))
        assert done.stdout == b"small\n1 2 3\n", done.stderr
    assert (odd / "pro: ject/out/result").read_text() == "done\n"


def test_what_changed_since_is_not_run(realized):
    assert run(realized, "--", "true").returncode == 0
    (realized.root / "conf/name").write_text("SMALL\n")
    done = run(realized, "--", "cat", "/greeting")
    assert done.returncode == 3
    assert b"settings" in done.stderr


def test_a_layer_that_was_taken_from_the_store_is_made_again(fresh, store):
    assert fresh.process("run", "-q").out == "small\n1 2 3\n"
    for layer in (store / "layers").iterdir():
        shutil.rmtree(layer)
    assert fresh.process("run", "-q").out == "small\n1 2 3\n"


def test_locked_insists_on_the_code(realized):
    assert run(realized, "--locked").returncode == 0
    (realized.root / "src/main.sh").write_text("echo edited\n")
    done = run(realized, "--locked")
    assert done.returncode == 3
    assert b"the code is not what was locked" in done.stderr
    assert run(realized).stdout == b"edited\n"


def test_no_command(project):
    project.edit('command = ["/bin/sh", "/work/main.sh"]\n', "")
    assert project("lock", "-q").status == 0
    for _ in range(2):
        told = project.process("run", "-q")
        assert told.status == 2
        assert "there is no command to run" in told.err


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_store_that_may_only_be_read(fresh, store):
    assert fresh.process("run", "-q").status == 0
    for folder, names, _ in os.walk(store):
        if "layers" in names:
            names.remove("layers")
        os.chmod(folder, 0o500)
    try:
        assert run(fresh).stdout == b"small\n1 2 3\n"
    finally:
        for folder in (store, *store.iterdir()):
            folder.chmod(0o700)


def test_a_shell_takes_no_command(realized):
    for argv in (["shell", "true"], ["shell", "--", "true"], ["shell", "--isolate", "true"]):
        told = realized.process(*argv)
        assert told.status == 2
        assert "unrecognized arguments" in told.err


def test_a_network_that_nobody_knows(realized):
    told = realized.process("run", "--network", "bridge", "--", "true")
    assert told.status == 2
    assert "bridge" in told.err
