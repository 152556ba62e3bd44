"""Killed or interrupted in any phase, a command leaves a valid store and nothing that runs; and what a machine denies is told."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from reprobox.image import layer_digest
from reprobox.testing import running, until
from reprobox.world import NO_DATE

pytestmark = [pytest.mark.userns, pytest.mark.slow]
SLEEP = "sleep 1414.2"
BIG = 192 << 20


@pytest.fixture
def heavy(fresh):
    """The project with enough in it that every phase can be met."""
    root = fresh.root / "root"
    shutil.copytree(fresh.manifest.read_text().partition('rootfs = "')[2].partition('"')[0], root, symlinks=True)
    with (root / "big").open("wb") as file:
        file.truncate(BIG)
    text = fresh.manifest.read_text()
    fresh.manifest.write_text(text.replace(text.partition('rootfs = "')[2].partition('"')[0], "root"))
    return fresh


def unpacking(store: Path) -> bool:
    return bool(list(store.glob("tmp/*/files/big")))


def commanding(store: Path) -> bool:
    return bool(running(SLEEP))


def packing(store: Path) -> bool:
    return len(list(store.glob("layers/*"))) == 2 and bool(list(store.glob("tmp/*/layer/tree/*")))


def check(store: Path) -> None:
    """Every layer in the store is whole: its bytes are those of its record."""
    for layer in store.glob("layers/*"):
        record = json.loads((layer / "layer.json").read_bytes())
        assert layer_digest(layer / "tree", layer / "index", NO_DATE) == (record["diff_id"], record["size"])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("phase", [unpacking, commanding, packing])
def test_nothing_is_half_done(heavy, store, phase: Callable[[Path], bool], number):
    step = {unpacking: "true", commanding: f"{SLEEP} & {SLEEP}", packing: "cp /big /bigger"}[phase]
    heavy.edit("mkdir -p /opt/deep", step)
    assert heavy("lock", "-q").status == 0
    locked = heavy.lock.read_bytes()
    for _ in range(5):  # packing may be over before the signal comes
        shutil.rmtree(store / "layers")
        (store / "layers").mkdir()
        command = [sys.executable, "-m", "reprobox.cli", "realize"]
        process = subprocess.Popen(command, cwd=heavy.root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert until(lambda: phase(store) or process.poll() is not None)  # noqa: B023 - called at once
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
        if process.returncode != 0:
            break
    assert process.returncode in ({130, -signal.SIGINT} if number == signal.SIGINT else {-number}), err
    assert "Traceback" not in err
    assert until(lambda: not running(SLEEP) and not running(str(store)), 10)
    check(store)
    assert heavy.lock.read_bytes() == locked
    heavy.edit(step, "true")
    assert heavy("lock", "-q").status == 0
    assert heavy("realize", "-q").status == 0
    check(store)
    assert [path.name for path in (store / "tmp").iterdir() if not path.name.startswith("stage-")] == []


# -- a machine without user namespaces ---------------------------------------------------------------------------------

DENIED = (
    "unshare",
    "--user",
    "--map-root-user",
    "sh",
    "-c",
    'echo 0 >/proc/sys/user/max_user_namespaces; exec "$@"',
    "sh",
)


def denied(project, *argv: str) -> subprocess.CompletedProcess[str]:
    command = [*DENIED, sys.executable, "-m", "reprobox.cli", *argv]
    return subprocess.run(command, cwd=project.root, capture_output=True, text=True, timeout=60, check=False)


def test_doctor_names_what_is_denied_and_the_remedy(fresh, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")  # no other backend works
    done = denied(fresh, "doctor")
    assert done.returncode == 4
    assert "backend sandbox: does not work: user namespace: " in done.stdout
    assert "hint: " in done.stdout
    assert "sysctl -w user.max_user_namespaces" in done.stdout
    found = json.loads(denied(fresh, "doctor", "--json").stdout)["backends"]["sandbox"]
    assert found["ok"] is False
    assert found["details"]["user namespace"].startswith("no: ")


@pytest.mark.parametrize("argv", [["realize"], ["run", "--", "true"], ["shell"], ["lock", "--upgrade"]])
def test_what_needs_them_exits_4(fresh, argv):
    done = denied(fresh, *argv)
    assert done.returncode == 4
    assert "sysctl -w user.max_user_namespaces" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_quick_run_that_is_denied_exits_4(realized):
    done = denied(realized, "run", "--", "true")
    assert done.returncode == 4
    assert "cannot enter the sandbox" in done.stderr
    assert "reprobox doctor" in done.stderr


def test_what_needs_none_works_without_them(fresh):
    for argv in (["graph"], ["lock", "--check"], ["cache", "info"], ["plugins"]):
        assert denied(fresh, *argv).returncode == 0


def test_the_machine_is_as_it_was():
    assert int(Path("/proc/sys/user/max_user_namespaces").read_text()) > 0
    assert os.path.exists("/proc/self/ns/user")
