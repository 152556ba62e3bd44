"""What every backend must pass: what a step sees, what it may do, and what is kept from it and from others."""

from __future__ import annotations

import contextlib
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from reprobox.backend import Bind
from reprobox.errors import BuildError
from reprobox.redact import holders
from reprobox.testing.bench import Bench
from reprobox.testing.machine import answer_once, running, until
from reprobox.testing.small_environment import small_base

HOSTS = "127.0.0.1 localhost reprobox\n::1 localhost ip6-localhost ip6-loopback\n"


class HermeticSteps:
    """Tests of the world that a step is in."""

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
        error = bench.failure(request)
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
        error = bench.failure(request)
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
            pool.submit(answer_once, server, b"hello\n")
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


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it ended meanwhile, or is somebody else's
        return b""
