"""The project's folder: how manifest and lock are found, remembered and replaced."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace

import pytest

from reprobox import lock_text
from reprobox import project as projects
from reprobox.errors import LockError, ReproboxError, UsageError
from reprobox.project import Project
from reprobox.store import Store
from tests.unit.small_lock import LOCK, TEXT
from tests.unit.test_store import in_processes


@pytest.fixture
def here(store) -> Store:
    return Store(store)


@pytest.fixture
def project(tmp_path) -> Project:
    (tmp_path / "research.toml").touch()
    return Project.find(tmp_path)


# -- finding -----------------------------------------------------------------------------------------------------------


def test_a_project_is_found_by_folder_manifest_or_from_below(tmp_path, monkeypatch):
    (tmp_path / "research.toml").touch()
    (tmp_path / "a/b").mkdir(parents=True)
    for source in (tmp_path, tmp_path / "research.toml", tmp_path / "a/b"):
        found = Project.find(source)
        assert (found.root, found.manifest_path) == (tmp_path, tmp_path / "research.toml")
        assert found.lock_path == tmp_path / "research.lock"
    monkeypatch.chdir(tmp_path / "a")
    assert Project.find(projects.Path(".")).root == tmp_path


def test_a_manifest_may_have_another_name(tmp_path):
    (tmp_path / "paper.toml").touch()
    assert Project.find(tmp_path / "paper.toml").manifest_path == tmp_path / "paper.toml"


def test_the_nearest_manifest_counts(tmp_path):
    (tmp_path / "inner").mkdir()
    for folder in (tmp_path, tmp_path / "inner"):
        (folder / "research.toml").touch()
    assert Project.find(tmp_path / "inner").root == tmp_path / "inner"


def test_no_project_says_where_and_what_to_do(tmp_path):
    for source, message in ((tmp_path, "no research.toml"), (tmp_path / "nowhere", "no such folder")):
        with pytest.raises(UsageError, match=message) as caught:
            Project.find(source)
        assert caught.value.where == str(source)
        assert caught.value.hint
        assert caught.value.status == 2


# -- reading the lock --------------------------------------------------------------------------------------------------


def test_no_lock_is_an_error_or_nothing(project, here):
    assert project.lock_or_none(here) is None
    with pytest.raises(LockError, match="there is no lock") as caught:
        project.lock(here)
    assert (caught.value.status, caught.value.where) == (3, str(project.lock_path))
    assert "reprobox lock" in caught.value.hint


def test_toml_is_read_once_for_a_content(project, here, monkeypatch):
    project.lock_path.write_text(TEXT)
    assert project.lock(here) == LOCK

    def no_more(*_: object, **__: object) -> None:
        raise AssertionError("the lock was parsed again")

    monkeypatch.setattr(projects, "parse", no_more)
    assert project.lock(here) == LOCK
    project.lock_path.write_text(TEXT.replace("# Written", "# written"))
    with pytest.raises(AssertionError):
        project.lock(here)


@pytest.mark.parametrize("damage", [b"", b"{", b"null", b"[1]", b"\xff", b"{}", b'{"version": 1}'])
def test_what_is_remembered_is_not_trusted_when_it_is_torn(project, here, damage):
    project.lock_path.write_text(TEXT)
    project.lock(here)
    (remembered,) = (here.root / "memo/locks").iterdir()
    remembered.write_bytes(damage)
    assert project.lock(here) == LOCK


def test_what_is_remembered_is_checked_by_layer_ids(project, here):
    project.lock_path.write_text(TEXT)
    project.lock(here)
    (remembered,) = (here.root / "memo/locks").iterdir()
    remembered.write_text(remembered.read_text().replace("bookworm", "sid"))
    assert project.lock(here) == LOCK


@pytest.mark.parametrize("content", [b"\xff\xfe", b"not toml", b"", TEXT.encode()[:500]])
def test_an_unreadable_lock_is_an_error_with_its_place(project, here, content):
    project.lock_path.write_bytes(content)
    for _ in range(2):
        with pytest.raises(LockError) as caught:
            project.lock(here)
        assert (caught.value.status, caught.value.where) == (3, str(project.lock_path))
        assert "reprobox lock" in caught.value.hint


def test_a_lock_that_is_a_folder(project, here):
    project.lock_path.mkdir()
    with pytest.raises(LockError, match="cannot be read: Is a directory"):
        project.lock(here)


# -- writing the lock --------------------------------------------------------------------------------------------------


def names(project: Project) -> set[str]:
    return {path.name for path in project.root.iterdir()}


def test_a_lock_is_written_only_when_it_says_something_else(project, here):
    assert project.write_lock(LOCK)
    assert project.lock_path.read_text() == TEXT
    before = project.lock_path.stat()
    assert not project.write_lock(LOCK)
    assert project.lock_path.stat().st_ino == before.st_ino
    other = replace(LOCK, epoch=LOCK.epoch, code="")
    assert project.write_lock(other)
    assert project.lock(here) == other
    assert names(project) == {"research.toml", "research.lock"}


def test_who_reads_while_it_is_written_sees_the_old_lock(project):
    project.write_lock(LOCK)
    with project.lock_path.open() as reader:
        project.write_lock(replace(LOCK, code=""))
        assert reader.read() == TEXT


def test_a_kill_at_any_moment_leaves_the_old_lock_or_the_new(project):
    other = replace(LOCK, code="")
    texts = {TEXT, lock_text.write(other)}

    def killed_at(number: int) -> bool:
        def work(_: int) -> None:
            left = number

            def die(event: str, arguments: tuple[object, ...]) -> None:
                nonlocal left
                if event == "open" or (event.startswith("os.") and event != "os.kill"):
                    left -= 1
                    if left < 0:
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(die)
            project.write_lock(other)
            os._exit(0)

        return in_processes(1, work) != [0]

    number = 0
    while True:
        project.lock_path.write_text(TEXT)
        if not killed_at(number):
            break
        assert project.lock_path.read_text() in texts
        number += 1
    assert number >= 3
    assert project.lock_path.read_text() == lock_text.write(other)


@pytest.mark.userns  # only for this: CI runs these as an ordinary user
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(project):
    project.root.chmod(0o500)
    try:
        with pytest.raises(ReproboxError, match="cannot be written: Permission denied") as caught:
            project.write_lock(LOCK)
    finally:
        project.root.chmod(0o700)
    assert caught.value.where == str(project.lock_path)


def test_a_lock_that_cannot_be_replaced_leaves_nothing_behind(project):
    project.lock_path.mkdir()
    (project.lock_path / "x").touch()
    with pytest.raises(ReproboxError, match="Is a directory"):
        project.write_lock(LOCK)
    assert names(project) == {"research.toml", "research.lock"}
