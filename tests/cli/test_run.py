"""``run`` and ``shell``, as processes: what the command sees, and what comes back."""

from __future__ import annotations

import json
import os

import pytest

pytestmark = pytest.mark.userns


def test_run_starts_the_manifests_command(realized):
    told = realized.process("run")
    assert (told.status, told.out, told.err) == (0, "small\n1 2 3\n", "")
    assert (realized.root / "out" / "result").read_text() == "done\n"


def test_run_builds_what_is_missing_and_tells_it_on_standard_error(fresh):
    told = fresh.process("run", "--", "cat", "/greeting")
    assert (told.status, told.out) == (0, "small\n")
    assert "building greeting" in told.err
    assert fresh.process("run", "-q", "--", "cat", "/greeting").err == ""


def test_streams_and_status_are_passed_on(realized):
    told = realized.process("run", "--", "sh", "-c", "cat; echo wrong >&2; exit 42", stdin="given\n")
    assert (told.status, told.out, told.err) == (42, "given\n", "wrong\n")
    assert realized.process("run", "--", "no-such-program").status == 127


def test_the_environment_is_the_manifests(realized):
    quick = realized.process("run", "--", "env", SECRET="x", OMP_NUM_THREADS="3").out.splitlines()
    full = realized.process("run", "--isolate", "--", "env", SECRET="x", OMP_NUM_THREADS="3").out.splitlines()
    assert sorted(quick) == sorted(full)
    assert {"COLOUR=blue", "LANG=C.UTF-8", "OMP_NUM_THREADS=3"} <= set(quick)
    assert not any(line.startswith("SECRET=") for line in quick)


def test_the_root_and_read_only_mounts_cannot_be_written(realized):
    for place in ("/etc/new", "/data/new"):
        told = realized.process("run", "--", "touch", place)
        assert told.status != 0
        assert "Read-only" in told.err
    assert realized.process("run", "--", "touch", "/work/new", "/out/new", "/tmp/new").status == 0
    assert (realized.root / "src" / "new").exists()


@pytest.mark.parametrize("way", [[], ["--offline"]])  # the quick one, and the whole command line
def test_a_mount_from_elsewhere(realized, tmp_path, way):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "numbers").write_text("4 5 6\n")
    for source in (str(tmp_path / "other"), "../other"):
        told = realized.process("run", *way, "--mount", f"/data={source}", "--", "cat", "/data/numbers")
        assert (told.status, told.out) == (0, "4 5 6\n")


@pytest.mark.parametrize("way", [[], ["--offline"]])
def test_a_mount_whose_source_is_missing(realized, way):
    told = realized.process("run", *way, "--mount", "/data=/no/such/place", "--", "true")
    assert told.status == 2  # the caller's word, not the manifest's
    assert told.err == (
        "error: --mount /data=/no/such/place: the source of the mount /data does not exist: /no/such/place\n"
        "  hint: give a folder or a file that is there\n"
    )
    (realized.root / "data" / "numbers").unlink()
    (realized.root / "data").rmdir()
    told = realized.process("run", *way, "--json", "--", "true")
    assert told.status == 1
    assert "--mount /data=PATH" in json.loads(told.out)["error"]["hint"]


@pytest.mark.parametrize("given", [["/proc=/tmp"], ["/data=/tmp", "/data=/var"]])
def test_wrong_mounts_are_refused_quick_or_not(realized, given):
    mounts = [word for mount in given for word in ("--mount", mount)]
    assert realized.process("run", "--isolate", *mounts, "--", "true").status == 2
    assert realized.process("run", *mounts, "--", "true").status == 2


def test_an_output_folder_that_is_missing_is_made(realized):
    (realized.root / "out").rmdir()
    assert realized.process("run").status == 0
    assert (realized.root / "out" / "result").is_file()


def test_locked_insists_on_the_code(realized):
    assert realized.process("run", "--locked", "--", "true").status == 0
    (realized.root / "src" / "main.sh").write_text("echo other\n")
    assert realized.process("run").out == "other\n"
    told = realized.process("run", "--locked")
    assert told.status == 3
    assert "the code is not what was locked" in told.err
    assert realized("lock").status == 0
    assert realized.process("run", "--locked").out == "other\n"


def test_shell_is_a_shell_in_the_environment(realized):
    told = realized.process("shell", stdin="pwd; cat /greeting; echo $COLOUR; exit 7\n")
    assert (told.status, told.out) == (7, "/work\nsmall\nblue\n")


def test_there_must_be_a_command(project):
    project.edit('command = ["/bin/sh", "/work/main.sh"]\n', "")
    assert project("lock").status == 0
    told = project("run")
    assert told.status == 2
    assert "there is no command to run" in told.err


def test_a_changed_manifest_is_noticed_by_the_quick_way(realized):
    stamp = realized.manifest.stat()
    realized.edit('COLOUR = "blue"', 'COLOUR = "pink"')  # as long as before, and as old
    os.utime(realized.manifest, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert realized.process("run", "--", "true").status == 3
