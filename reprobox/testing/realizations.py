"""What every backend must pass: environments that are realized, changed by hand, and run."""

from __future__ import annotations

import os
import pwd
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from reprobox.backend import Bind, Realization
from reprobox.digest import tree_digest
from reprobox.image import layer_digest
from reprobox.testing.bench import Bench, Editing
from reprobox.testing.machine import answer_once, until
from reprobox.testing.small_environment import EPOCH, small_base
from reprobox.tree import Tree, scan


class Realizations:
    """Tests of environments that are there to be used."""

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
            pool.submit(answer_once, server, b"hello\n")
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
