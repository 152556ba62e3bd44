"""``run --record`` and ``run --check``: what is written down, and whether it comes out again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reprobox.data import content
from reprobox.digest import sha256
from reprobox.store import Store

pytestmark = pytest.mark.userns
SCRIPT = """\
echo done > /out/result
printf 'epoch,loss\\n1,0.5\\n2,0.25\\n' > /out/losses.csv
"""


@pytest.fixture
def recorded(realized):
    """A project whose code writes two files, with one record, ``first``."""
    (realized.root / "src/main.sh").write_text(SCRIPT)
    (realized.root / "out").mkdir(exist_ok=True)
    (realized.root / "out/kept").write_text("from before\n")
    assert realized("lock").status == 0
    told = realized.process("run", "--record", "first")
    assert told.status == 0, told.err
    return realized


def record(project, name: str = "first") -> dict[str, object]:
    return json.loads((project.root / f"research.runs/{name}.json").read_text())


def change(project, old: str, new: str) -> None:
    """Other code, and a record that says it is the same: as if the program did not always give the same."""
    path = project.root / "src/main.sh"
    path.write_text(path.read_text().replace(old, new))
    assert project("lock").status == 0
    place = project.root / "research.runs/first.json"
    lock = project.lock.read_text()
    said = json.loads(place.read_text()) | {"pins": "sha256:" + lock.partition('checksum = "')[2][:64]}
    place.write_text(json.dumps(said))


def test_a_run_is_written_down(recorded):
    said = record(recorded)
    written = {
        name: f"sha256:{sha256((recorded.root / 'out' / name).read_bytes())}" for name in ("losses.csv", "result")
    }
    assert {name: file["sha256"] for name, file in said["outputs"]["/out"]["files"].items()} == written
    data = content(recorded.root / "data", Store(Path(os.environ["REPROBOX_STORE"])))
    assert said["inputs"]["/data"]["tree"] == f"sha256:{data.tree}"
    assert said["lock"] == f"sha256:{sha256(recorded.lock.read_bytes())}"
    assert (said["command"], said["status"], said["variables"]) == (
        ["/bin/sh", "/work/main.sh"],
        0,
        {"COLOUR": "blue", "LANG": "C.UTF-8"},
    )
    assert said["started"] <= said["ended"]
    assert said["host"]["architecture"] == "amd64"
    assert os.uname().nodename not in json.dumps(said)
    realized = recorded("realize", "--json").json
    assert (said["tree"], said["image"]) == (realized["tree_digest"], realized["image_digest"])


def test_a_record_changes_neither_lock_nor_code(recorded):
    assert recorded("lock", "--check").status == 0
    assert recorded.process("run", "--locked", "--", "true").status == 0


def test_a_command_that_fails_is_recorded_with_its_status(recorded):
    told = recorded.process("run", "--record", "--", "sh", "-c", "echo half > /out/half; exit 7")
    assert told.status == 7
    (path,) = (path for path in (recorded.root / "research.runs").iterdir() if path.name != "first.json")
    assert f"recorded research.runs/{path.name}: status 7, 1 files written\n" in told.err
    said = record(recorded, path.stem)
    assert (said["status"], list(said["outputs"]["/out"]["files"])) == (7, ["half"])


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_that_is_ended_is_recorded(recorded, number, status):
    argv = [
        sys.executable,
        "-m",
        "reprobox.cli",
        "run",
        "--record",
        "ended",
        "--",
        "sh",
        "-c",
        "echo x > /out/x; sleep 60",
    ]
    process = subprocess.Popen(argv, cwd=recorded.root, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.time() + 30
    while not (recorded.root / "out/x").exists() and time.time() < deadline:
        time.sleep(0.05)
    if number == signal.SIGINT:  # as the terminal does: to everybody in front
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    assert process.wait(30) == status, process.stderr.read()
    process.stderr.close()
    said = record(recorded, "ended")
    assert (said["status"], said["signal"]) == (status, number.name)
    assert list(said["outputs"]["/out"]["files"]) == ["x"]


def test_the_code_must_be_the_locked_code(recorded):
    (recorded.root / "src/main.sh").write_text("true\n")
    told = recorded.process("run", "--record", "second")
    assert (told.status, told.out) == (3, "")
    hint = "restore the code that the lock pins, or `reprobox lock` that which is here"
    assert told.err == f"error: {recorded.root}: the code is not what was locked\n  hint: {hint}\n"
    assert not (recorded.root / "research.runs/second.json").exists()


def test_code_that_a_run_changes_is_told(recorded):
    told = recorded.process("run", "--record", "second", "--", "touch", "/work/new")
    assert "warning: the run changed the code, which no longer is what was locked" in told.err
    assert list(record(recorded, "second")["outputs"]["/work"]["files"]) == ["new"]


def test_a_secret_on_the_command_line_is_masked(recorded):
    recorded.edit("[env]\n", '[secrets]\ntoken = { env = "TOKEN" }\n\n[env]\n')
    assert recorded("lock").status == 0
    told = recorded.process(
        "run", "--record", "second", "--", "sh", "-c", "echo $0", "abcd-efgh-1234", TOKEN="abcd-efgh-1234"
    )
    assert told.out == "abcd-efgh-1234\n"
    assert record(recorded, "second")["command"] == ["sh", "-c", "echo $0", "***"]
    told = recorded.process("run", "--check", "second")
    assert told.status == 2
    assert told.err.endswith(
        "a part of the recorded command is masked\n  hint: run it by hand: what is masked is a secret, and records hold none\n"
    )


WRONG = [
    (["--record", "first"], "{root}/research.runs/first.json: there is a record of this name\n  hint: give another name, or remove it"),
    (["--record", "a/b"], "--record: not the name of a record: 'a/b'\n  hint: letters, digits, `.`, `_` and `-`; a command comes after `--`: `reprobox run --record NAME -- COMMAND`"),
    (["--record", "sh", "main.sh"], "--record: is 'sh' the record's name, or the command?\n  hint: write `--` before the command: `reprobox run --record NAME -- COMMAND`, or `--record -- COMMAND`"),
    (["--record", "x", "--by", "author"], "project.authors: the manifest has no author\n  hint: use --by git, --by login or --by none"),
    (["--record", "x", "--only", "*.csv"], "--only goes with --check\n  hint: leave --only out: a run is recorded as it is"),
    (["--check", "first", "--record"], "--record and --check do not go together\n  hint: record a run, and check the record then"),
    (["--check", "first", "--", "true"], "no command goes with --check\n  hint: leave it out: the record says what was run"),
    (["--check", "first", "--target", "gpu"], "--target does not go with --check\n  hint: leave it out: the record says it"),
    (["--check", "last"], "{root}/research.runs: there is no record 'last'\n  hint: records here: first"),
    (["--tolerance", "1e-3"], "--tolerance goes with --check\n  hint: add --check, or leave --tolerance out"),
]  # fmt: skip


def test_wrong_use(recorded):
    for given, text in WRONG:
        told = recorded("run", *given)
        assert (told.status, told.err) == (2, f"error: {text.format(root=recorded.root)}\n")


# -- check -------------------------------------------------------------------------------------------------------------


def test_the_same_again(recorded):
    (recorded.root / "out/result").write_text("changed since\n")
    told = recorded.process("run", "--check", "first")
    assert (told.status, told.out) == (
        0,
        "same    /out/losses.csv\nsame    /out/result\nall 2 outputs are what first recorded\n",
    )
    assert (recorded.root / "out/result").read_text() == "changed since\n"  # the originals stay
    assert (recorded.root / "out/kept").read_text() == "from before\n"
    told = recorded.process("run", "--check", "first", "--only", "*.npz")
    assert (told.status, told.err.splitlines()) == (
        2,
        [
            "error: --only: no output of either run is called *.npz",
            '  hint: a pattern is of the whole path or of the name: --only "*.csv", --only "/out/*"',
        ],
    )


def test_another_result_is_told_with_its_place(recorded, tmp_path):
    change(recorded, "0.25", "0.26")
    told = recorded.process("run", "--check", "first", "--keep", str(tmp_path / "kept"))
    assert told.status == 5
    assert told.out.splitlines() == [
        'differs /out/losses.csv: 1 of 6 values differ, at most by 0.01 (row 3, column "loss")',
        '          row 3, column "loss": 0.25 was recorded, 0.26 now (off by 0.01, 0.038 of it)',
        "same    /out/result",
        "1 of 2 outputs are not what first recorded",
    ]
    assert "0.25" in (recorded.root / "out/losses.csv").read_text()
    assert "0.26" in (tmp_path / "kept/out/losses.csv").read_text()
    assert (tmp_path / "kept/out/kept").read_text() == "from before\n"
    told = recorded.process("run", "--check", "first", "--tolerance", "0.05")
    close = 'close   /out/losses.csv: 1 of 6 values differ, as far as allowed, at most by 0.01 (row 3, column "loss")'
    assert (told.status, told.out.splitlines()[0]) == (0, close)
    assert recorded.process("run", "--check", "first", "--only", "result").status == 0
    told = recorded.process("run", "--check", "first", "--json")
    assert (told.status, [item["result"] for item in told.json["findings"]]) == (5, ["differs", "same"])


def test_a_check_that_fails_otherwise(recorded):
    change(recorded, "echo done > /out/result", "echo more > /out/other; echo to the terminal; exit 3")
    told = recorded.process("run", "--check", "first")
    assert (told.status, told.out.splitlines()) == (
        5,
        [
            "to the terminal",
            "differs exit status: 0 was recorded, 3 now",
            "missing /out/losses.csv: the recorded run wrote it, and this one did not",
            "new     /out/other: this run wrote it, and the recorded one did not",
            "missing /out/result: the recorded run wrote it, and this one did not",
            "4 of 4 outputs are not what first recorded",
        ],
    )


def test_what_was_there_before_is_named_where_the_result_differs(recorded):
    change(recorded, "echo done", "cat /out/kept")
    (recorded.root / "out/kept").write_text("something else\n")
    told = recorded.process("run", "--check", "first")
    assert told.status == 5
    assert "\nnote    /out: what was there before is not what the recorded run found there\n" in told.out


def test_an_environment_that_no_seal_pinned_may_be_another_one(recorded):
    """The lock pins no more than it says: what a step loaded from the network may have changed."""
    place = recorded.root / "research.runs/first.json"
    other = "sha256:" + "7" * 64
    place.write_text(json.dumps(record(recorded) | {"tree": other, "unpinned": ["weights"]}))
    told = recorded.process("run", "--check", "first")
    assert told.status == 0, told.err
    assert f"note    the environment is another one: its tree was {other}, and is sha256:" in told.out
    assert "; no seal pinned weights\n" in told.out
    assert json.loads(recorded.process("run", "--check", "first", "--json").out)["same_tree"] is False


def test_other_data_and_another_lock_are_refused_before_anything_runs(recorded):
    (recorded.root / "data/numbers").write_text("1 2 4\n")
    told = recorded.process("run", "--check", "first")
    assert told.status == 5
    assert told.err.startswith("error: /data: the data is not what the recorded run read\n  recorded: sha256:")
    (recorded.root / "data/numbers").write_text("1 2 3\n")
    recorded.edit('COLOUR = "blue"', 'COLOUR = "green"')
    assert recorded("lock").status == 0
    told = recorded.process("run", "--check", "first")
    assert told.status == 3
    assert f"{recorded.root}/research.runs/first.json: the record is of another lock: sha256:" in told.err
