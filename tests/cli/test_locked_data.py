"""Data with ``digest = true``: locked, checked, and what is said when it is another."""

from __future__ import annotations

import json
import shutil

import pytest

pytestmark = pytest.mark.userns


@pytest.fixture
def locked(project):
    project.edit('source = "data" }', 'source = "data", digest = true }')
    told = project("lock")
    assert told.status == 0, told.err
    assert "data /data: 1 file, 6 B" in told.out
    return project


def test_the_lock_holds_one_line_and_is_stable(locked):
    text = locked.lock.read_text()
    (line,) = [line for line in text.splitlines() if line.startswith('"/data"')]
    assert line.startswith('"/data" = { files = 1, size = 6, tree = "sha256:')
    assert locked("lock").out.startswith("research.lock is up to date")
    assert locked.lock.read_text() == text
    document = locked("lock", "--check", "--json").json["mounts"]
    assert document == {"/data": {"tree": line.split('"')[3], "files": 1, "size": 6}}


def test_data_that_changed_is_refused_with_its_first_files(locked):
    tree = locked("lock", "--json").json["mounts"]["/data"]["tree"]
    assert locked("realize").status == 0
    (locked.root / "data" / "numbers").write_text("1 2 4\n")
    for name in "abcdef":
        (locked.root / "data" / name).touch()
    for command in (["lock", "--check"], ["realize"]):
        told = locked(*command)
        assert told.status == 5
        lines = told.err.splitlines()
        start = lines.index('error: mounts."/data": its data is not what was locked: 7 paths differ:')
        assert lines[start + 1 : start + 8] == [
            "  new     a",
            "  new     b",
            "  new     c",
            "  new     d",
            "  new     e",
            "  and 2 more",
            f"  locked {tree}",
        ]
        assert lines[-1] == (
            "  hint: restore the data, give the right folder with --mount /data=PATH, or take it as it is: `reprobox lock`"
        )
    assert locked.process("run", "--locked", "--", "true").status == 5
    assert locked.process("run", "--", "cat", "/data/numbers").out == "1 2 4\n"
    told = locked("lock")
    assert "data /data: " in told.err
    assert locked("lock", "--check").status == 0
    assert locked.process("run", "--locked", "--", "cat", "/data/numbers").out == "1 2 4\n"


def test_without_the_listing_the_counts_are_told(locked, store):
    shutil.rmtree(store.parent / "nowhere", ignore_errors=True)
    (locked.root / "data" / "more").write_text("x")
    locked.root.joinpath("data/numbers").write_text("12345678\n")
    told = locked.process("lock", "--check", REPROBOX_STORE=str(store))
    assert told.status == 5
    assert (
        "its data is not what was locked: locked were 1 files of 6 bytes in all, here are 2 of 10; only the store of the"
        " machine that locked them knows them one by one" in told.err
    )


def test_another_folder_is_held_to_the_lock(locked, tmp_path):
    shutil.copytree(locked.root / "data", tmp_path / "same")
    shutil.copytree(locked.root / "data", tmp_path / "other")
    (tmp_path / "other" / "numbers").write_text("4 5 6\n")
    run = ["run", "--locked", "--mount"]
    assert locked.process(*run, f"/data={tmp_path}/same", "--", "cat", "/data/numbers").out == "1 2 3\n"
    told = locked.process(*run, f"/data={tmp_path}/other", "--", "true")
    assert (told.status, "changed numbers" in told.err) == (5, True)
    assert locked("lock", "--check", "--mount", f"/data={tmp_path}/same").status == 0
    assert locked("lock", "--check", "--mount", f"/data={tmp_path}/other").status == 5


def test_a_source_that_only_the_command_line_knows(locked, tmp_path):
    shutil.move(locked.root / "data", tmp_path / "elsewhere")
    locked.edit('source = "data", ', "")
    told = locked("lock", "--mount", f"/data={tmp_path}/elsewhere")
    assert told.status == 0, told.err
    assert (
        locked.process("run", "--locked", "--mount", f"/data={tmp_path}/elsewhere", "--", "cat", "/data/numbers").status
        == 0
    )
    told = locked.process("run", "--locked", "--", "true")
    assert told.status == 1
    assert told.err.splitlines()[-2:] == [
        'error: mounts."/data": nothing is given for it, so its content cannot be checked',
        "  hint: put the data there, or give its folder: --mount /data=PATH",
    ]


def test_data_that_is_not_here_stays_locked_and_stops_no_build(locked):
    before = locked.lock.read_text()
    shutil.rmtree(locked.root / "data")
    told = locked("lock")
    assert told.status == 0
    assert "/data: its data is not here, and stays locked as it was" in told.err
    assert locked.lock.read_text() == before
    told = locked("realize")
    assert told.status == 0
    assert "/data: its data is not here, and was not checked" in told.err
    locked.lock.unlink()
    told = locked("lock")
    assert told.status == 2
    assert told.err.splitlines()[-2].endswith(
        f'mounts."/data".digest: its content is to be locked, and there is no {locked.root}/data'
    )
    assert told.err.splitlines()[-1] == (
        "  hint: put the data there, or give its folder: `reprobox lock --mount /data=PATH`"
    )


def test_what_may_be_written_cannot_be_locked(project):
    project.edit('source = "out" }', 'source = "out", digest = true }')
    told = project("lock")
    assert told.status == 2
    assert 'mounts."/out".digest: what may be written cannot be locked' in told.err
    assert told.err.splitlines()[-1] == '  hint: write mode = "ro", or leave `digest` out'


def test_what_cannot_be_locked_names_the_mount(locked):
    (locked.root / "data" / "out").symlink_to("/etc/passwd")
    told = locked("lock")
    assert told.status == 1
    assert (
        f'error: mounts."/data": {locked.root}/data/out: a link that leads out of the folder, to /etc/passwd'
        in told.err
    )


def test_a_lock_without_data_says_nothing_of_it(project):
    before = project.lock.read_text()
    assert "[mounts]" not in before
    assert project("lock").out.startswith("research.lock is up to date")
    assert project("lock", "--json").json["mounts"] == {}


def test_what_moved_is_told(locked, tmp_path):
    shutil.copyfile(locked.lock, tmp_path / "old.lock")
    (locked.root / "data" / "more").write_text("x")
    assert locked("lock").status == 0
    told = locked("diff", tmp_path / "old.lock", "--json")
    sides = json.loads(told.out)["mounts"]["/data"]
    assert (sides["old"]["files"], sides["new"]["files"]) == (1, 2)
