"""What every backend must pass: what steps and tools leave and answer, and what is said of steps that fail."""

from __future__ import annotations

from reprobox.backend import ToolResult
from reprobox.digest import read_index
from reprobox.image import layer_digest
from reprobox.testing.bench import Bench
from reprobox.testing.small_environment import EPOCH, small_base, small_root
from reprobox.tree import scan


class Outcomes:
    """Tests of what comes out of steps and tools."""

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
        error = bench.failure(request)
        assert "status 7" in error.message
        assert "line 99" in error.message
        assert "line 51\n" not in error.message
        assert str(request.log) in str(error)
        assert request.log.read_text().startswith("line 11\n")

    def test_the_first_command_that_fails_ends_the_step(self, bench: Bench) -> None:
        request = bench.request(("/bin/true",), ("/bin/sh", "-c", "exit 3"), ("/bin/sh", "-c", "echo too far"))
        assert "status 3" in bench.failure(request).message
        assert "too far" not in request.log.read_text()

    def test_a_step_that_was_killed_says_by_which_signal(self, bench: Bench) -> None:
        request = bench.request(("/bin/sh", "-c", "kill -SEGV $$"))
        message = bench.failure(request).message
        assert "139" in message
        assert "signal 11" in message

    def test_a_program_that_is_not_there_is_127(self, bench: Bench) -> None:
        assert "status 127" in bench.failure(bench.request(("/bin/missing",))).message
        assert "status 126" in bench.failure(bench.request(("/etc/passwd",))).message

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
