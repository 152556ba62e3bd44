"""gc takes what nobody needs, and nothing else, whoever works beside it and whenever it is killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reprobox.cli import main
from reprobox.digest import sha256
from reprobox.launch import hold
from reprobox.store import Store
from reprobox.store_gc import Wanted, census, collect
from reprobox.tree import remove
from tests.local import Local, programs_in, running

FORK = multiprocessing.get_context("fork")
NOW = Wanted(age=0)
OLD = time.time() - 100 * 86400


def publish(store: Store, identity: str, size: int = 1000) -> Path:
    with store.scratch() as folder:
        staged = folder / "layer"
        (staged / "tree").mkdir(parents=True)
        (staged / "tree/file").write_bytes(os.urandom(size))
        (staged / "index").write_text(f"f 0644 {sha256(b'')} file\n")
        store.publish_layer(identity, staged, {"diff_id": "x"})
    return store.root / "layers" / identity


def aged(path: Path, days: float) -> None:
    mark = path / "layer.json" if path.is_dir() else path
    os.utime(mark, (time.time() - days * 86400,) * 2)


def in_another_process(work) -> int | None:
    process = FORK.Process(target=work)
    process.start()
    process.join(60)
    return process.exitcode


@pytest.fixture
def filled(store) -> Path:
    """A store whose writer has ended: four layers, used 40, 30, 20 and 10 days ago, and a blob."""

    def fill() -> None:
        mine = Store(store)
        for number, days in enumerate((40, 30, 20, 10)):
            aged(publish(mine, f"{number}" * 64, 100_000), days)
        aged(mine.blob(mine.add_blob(b"blob")), 50)
        os._exit(0)

    in_another_process(fill)
    return store


def layers(store: Path) -> str:
    return "".join(sorted(path.name[0] for path in (store / "layers").iterdir()))


def test_what_was_not_used_for_long_goes(filled):
    outcome = collect(Store(filled), Wanted(age=25 * 86400))
    assert layers(filled) == "23"
    assert sorted(item.kind for item in outcome.taken) == ["blobs", "layers", "layers"]
    assert outcome.freed > 200_000
    assert not list((filled / "tmp").iterdir())
    assert collect(Store(filled), Wanted(age=25 * 86400)).taken == ()


def test_the_default_age_is_thirty_days(filled):
    collect(Store(filled), Wanted())
    assert layers(filled) == "23"


def test_least_recently_used_goes_first_until_it_fits(filled):
    store = Store(filled)
    total = sum(item.size for item in census(store))
    (blob,) = (filled / "blobs").glob("*/*")
    outcome = collect(store, Wanted(age=None, size=total - 110_000))
    assert layers(filled) == "123"
    assert not blob.exists()
    assert sum(item.size for item in census(store)) <= outcome.left <= total - 110_000


def test_a_hit_counts_as_use(filled):
    def use() -> None:
        mine = Store(filled)
        assert mine.layer("0" * 64) is not None
        os._exit(0)

    in_another_process(use)
    collect(Store(filled), Wanted(age=86400))
    assert layers(filled) == "0"


def test_a_dry_run_takes_nothing(filled):
    outcome = collect(Store(filled), Wanted(age=0, dry_run=True))
    assert len(outcome.taken) >= 5
    assert layers(filled) == "0123"


def test_what_a_living_command_has_seen_stays(filled):
    command = Store(filled)
    (blob,) = (filled / "blobs").glob("*/*")
    assert command.layer("1" * 64) is not None
    assert command.has_blob(blob.name)
    publish(command, "a" * 64)
    outcome = collect(Store(filled), NOW)
    assert layers(filled) == "1a"
    assert blob.exists()
    assert {item.name for item in outcome.in_use} >= {"1" * 64, "a" * 64, blob.name}


def test_a_killed_command_uses_nothing(filled):
    def use() -> None:
        Store(filled).layer("1" * 64)
        os.kill(os.getpid(), signal.SIGKILL)

    in_another_process(use)
    assert len(list((filled / "leases").iterdir())) == 1
    time.sleep(0.05)
    collect(Store(filled), NOW)
    assert layers(filled) == ""


def test_a_command_that_ends_leaves_no_lease(filled):
    left = set((filled / "leases").iterdir())  # by the one that filled it, which ended without a word
    command = Store(filled)
    command.layer("1" * 64)
    assert len(set((filled / "leases").iterdir()) - left) == 1
    del command
    assert set((filled / "leases").iterdir()) == left


def test_a_forked_process_neither_ends_nor_shares_its_parents_use(filled):
    command = Store(filled)
    command.layer("1" * 64)

    def child() -> None:
        nonlocal command
        assert command.layer("2" * 64) is not None
        del command
        os._exit(0)

    assert in_another_process(child) == 0
    collect(Store(filled), NOW)
    assert "1" in layers(filled)
    assert "3" not in layers(filled)


def test_a_download_that_goes_on_stays(filled):
    import fcntl

    store = Store(filled)
    going, left = store.partial("a" * 64), store.partial("b" * 64)
    for path in (going, left):
        path.write_bytes(b"half")
        os.utime(path, (OLD, OLD))
    with going.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        collect(store, Wanted(age=None, size=1 << 40))
    assert (going.exists(), left.exists()) == (True, False)


def test_only_one_gc_works_at_a_time(filled):
    def work() -> None:
        collect(Store(filled), NOW)
        os._exit(0)

    processes = [FORK.Process(target=work) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert layers(filled) == ""


def test_folders_that_forbid_everything_go_too(filled):
    shut = filled / "layers" / ("0" * 64) / "tree" / "shut"
    shut.mkdir()
    (shut / "file").touch()
    shut.chmod(0)
    (filled / "failed").mkdir()
    failed = filled / "failed" / ("f" * 64)
    failed.mkdir(mode=0)
    os.utime(failed, (OLD, OLD))
    collect(Store(filled), NOW)
    assert layers(filled) == ""
    assert not list((filled / "tmp").iterdir())


def killed_at(store: Path, number: int) -> bool:
    def work() -> None:
        left = number

        def die(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            if event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "os.utime", "fcntl.flock"):
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        mine = Store(store)
        sys.addaudithook(die)
        collect(mine, Wanted(age=86400))
        os._exit(0)

    return in_another_process(work) != 0


def test_a_kill_at_any_moment_leaves_whole_things_or_none(store):
    number = 0
    while True:
        place = store / str(number)

        def fill(place: Path = place) -> None:
            mine = Store(place)
            aged(publish(mine, "0" * 64), 50)
            aged(mine.blob(mine.add_blob(b"blob")), 50)
            os._exit(0)

        in_another_process(fill)
        killed = killed_at(place, number)
        for layer in (place / "layers").iterdir():
            assert sorted(os.listdir(layer)) == ["index", "layer.json", "tree"]
        collect(Store(place), Wanted(age=86400))
        assert not list((place / "layers").iterdir())
        assert not list((place / "tmp").glob("*/"))
        if not killed:
            break
        number += 1
    assert number > 15


def test_layers_are_measured_once(store):
    here = Store(store)
    layer = publish(here, "a" * 64, 10_000)
    (before,) = [item.size for item in census(here) if item.kind == "layers"]
    (layer / "tree/more").write_bytes(bytes(100_000))
    (after,) = [item.size for item in census(here) if item.kind == "layers"]
    assert 10_000 < before == after < 100_000


# -- projects and runs -------------------------------------------------------------------------------------------------


@pytest.fixture
def local(tmp_path, store):
    programs_in(tmp_path / "project")
    made = Local(tmp_path / "project", store).write(running("one", "echo one >/one"))
    yield made
    remove(tmp_path)


def cli(*argv: str | Path, status: int = 0) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "reprobox.cli", *map(str, argv)], capture_output=True, text=True, check=False
    )
    assert done.returncode == status, done.stderr


@pytest.mark.userns
def test_what_a_project_needs_stays_and_works(local, capsys):
    cli("lock", "-C", local.path, "-q")
    cli("realize", "-C", local.path, "-q")
    assert main(["cache", "gc", "--older-than", "0d", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["needed"]["projects"] == [str(local.path)]
    assert told["taken"]["layers"]["count"] == 0
    assert told["in_use"] == {"size": 0, "count": 0}
    cli("run", "-C", local.path, "--", "cat", "/one")
    cli("realize", "-C", local.path, "--offline", "-q")
    cli("export", "-C", local.path, "--offline", "-q", "--format", "oci", "-o", local.path / "layout")


@pytest.mark.userns
def test_a_forgotten_project_goes(local, capsys):
    cli("lock", "-C", local.path, "-q")
    cli("realize", "-C", local.path, "-q")
    assert main(["cache", "forget", "-C", str(local.path)]) == 0
    assert f"nothing is kept for {local.path} any more" in capsys.readouterr().out
    assert main(["cache", "gc", "--older-than", "0d"]) == 0
    assert not list((local.store / "layers").iterdir())
    assert main(["cache", "forget", "-C", str(local.path)]) == 0
    assert capsys.readouterr().out.endswith(f"nothing was kept for {local.path}\n")
    cli("realize", "-C", local.path, "-q")  # and is built again


@pytest.mark.userns
@pytest.mark.parametrize("way", [(), ("--offline",)], ids=["quick", "long"])
@pytest.mark.parametrize("gone", ["project", "record"])
def test_what_a_run_uses_stays_until_it_ends(local, way, gone):
    cli("lock", "-C", local.path, "-q")
    cli("realize", "-C", local.path, "-q")
    argv = [sys.executable, "-m", "reprobox.cli", "run", "-C", str(local.path), *way, "--", "sh", "-c"]
    script = "echo on; read go; cat /one; ls /bin >/dev/null && echo off"
    with subprocess.Popen([*argv, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout.readline() == "on\n"
        if gone == "project":
            (local.path / "research.lock").rename(local.path / "away")
        else:
            local.write(running("two", "echo two >/two")).lock()
            cli("realize", "-C", local.path, "-q")
            (local.path / "research.lock").rename(local.path / "away")
        time.sleep(0.05)
        collect(Store(local.store), NOW)
        out, _ = run.communicate("go\n", timeout=60)
        assert out == "one\noff\n"
        assert run.returncode == 0
    collect(Store(local.store), NOW)
    assert not list((local.store / "layers").iterdir())
    assert not list((local.store / "realizations").iterdir())


def test_a_record_that_is_taken_away_is_not_held(tmp_path):
    path = tmp_path / "record"
    assert hold(str(path)) == -1
    path.touch()
    held = hold(str(path))
    assert held >= 0
    os.close(held)


@pytest.mark.userns
@pytest.mark.slow
def test_many_realize_run_and_forget_beside_gc(local):
    """Whatever is taken away when, nobody meets a thing that is going."""
    cli("lock", "-C", local.path, "-q")
    until = time.monotonic() + 8

    def use() -> None:
        while time.monotonic() < until:
            cli("run", "-C", local.path, "-q", "--", "cat", "/one")
            cli("cache", "forget", "-C", local.path)
        os._exit(0)

    def take() -> None:
        while time.monotonic() < until:
            collect(Store(local.store), NOW)
        os._exit(0)

    processes = [FORK.Process(target=work) for work in (use, use, take)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0, 0]


# -- wrong input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (
            ["--older-than", "30"],
            "error: --older-than: expected an age, found '30'\n  hint: such as 90m, 12h, 30d, 4w; 0d for any age\n",
        ),
        (
            ["--max-size", "lots"],
            "error: --max-size: expected a size, found 'lots'\n  hint: such as 20GiB, 500MB, 0\n",
        ),
    ],
)
def test_ages_and_sizes_that_are_none(store, capsys, argv, text):
    assert main(["cache", "gc", *argv]) == 2
    assert capsys.readouterr().err == text


@pytest.mark.parametrize(
    ("text", "size"), [("20GiB", 20 << 30), ("500MB", 500_000_000), ("500 mb", 500_000_000), ("0", 0), ("1.5k", 1500)]
)
def test_sizes(store, capsys, text, size):
    from reprobox.cli.cache import _size

    assert _size(text) == size


def test_a_relative_store_is_refused(monkeypatch, capsys):
    monkeypatch.setenv("REPROBOX_STORE", "store")
    assert main(["cache", "info"]) == 2
    assert capsys.readouterr().err == (
        'error: REPROBOX_STORE: expected an absolute path, found "store"\n  hint: begin it with / or ~/\n'
    )
