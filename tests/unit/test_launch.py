"""The launch record, the environment of a run, and its mounts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from reprobox import launch
from reprobox.errors import ReproboxError, UsageError

ROOT = Path(__file__).resolve().parents[2]


# -- which record, and whether it still holds --------------------------------------------------------------------------


def test_where_the_store_is(monkeypatch, tmp_path):
    monkeypatch.setenv("REPROBOX_STORE", "relative")
    assert not Path(launch.store_root()).is_dir()  # refused, with the reason, on the long way
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("REPROBOX_STORE", "~/box")
    assert launch.store_root() == "/home/someone/box"
    monkeypatch.delenv("REPROBOX_STORE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert launch.store_root() == "/cache/reprobox"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert launch.store_root() == "/home/someone/.cache/reprobox"


def test_the_store_is_where_the_configuration_says_by_default(monkeypatch, tmp_path):
    from reprobox import config

    for name, value in {"XDG_CACHE_HOME": str(tmp_path / "c"), "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    for name in ("REPROBOX_STORE", "REPROBOX_CONFIG", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert str(config.load().store) == launch.store_root()


def test_every_project_target_and_backend_has_its_own_record():
    paths = {
        launch.record_path("/store", project, target, backend)
        for project in ("/a/b", "/a%2Fb", "/a/b@x", "/a")
        for target in ("", "x", "x@y")
        for backend in ("sandbox", "y@sandbox")
    }
    assert len(paths) == 4 * 3 * 2
    assert all(os.path.dirname(path) == "/store/realizations" for path in paths)


def test_a_record_of_a_very_long_path_has_a_name_that_a_file_system_takes():
    names = {os.path.basename(launch.record_path("/store", f"/{'long/' * 60}{end}", "", "sandbox")) for end in "ab"}
    assert len(names) == 2
    assert all(len(name) < 255 for name in names)


def test_a_project_reached_by_a_link_is_the_same_project(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    one, other = (launch.record_path("/store", str(tmp_path / name), "", "sandbox") for name in ("real", "link"))
    assert one == other


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 1}', b'{"format": 999}', b"\xff\xfe", b"null"])
def test_a_record_that_cannot_be_used_is_none(tmp_path, content):
    (tmp_path / "record").write_bytes(content)
    assert launch.read(str(tmp_path / "record")) is None
    assert launch.read(str(tmp_path / "missing")) is None


@pytest.fixture
def project(tmp_path):
    (tmp_path / "research.toml").write_text("[project]\n")
    (tmp_path / "research.lock").write_text("format = 1\n")
    (tmp_path / "conf/sub").mkdir(parents=True)
    (tmp_path / "conf/file").write_text("1\n")
    (tmp_path / "conf/folder-link").symlink_to("sub")
    (tmp_path / "tree").mkdir()
    return tmp_path


def record_of(project: Path) -> dict:
    watched = [str(project / "conf")]
    files = launch.signature([str(project / "research.toml"), str(project / "research.lock"), *watched])
    trees = [str(project / "tree")]
    return json.loads(json.dumps({"files": files, "watched": watched, "trees": trees, "built": launch.built(trees)}))


def is_current(record, project) -> bool:
    return launch.is_current(record, str(project / "research.toml"))


def test_a_record_of_things_as_they_are_is_current(project):
    assert is_current(record_of(project), project)


def same_size_and_time(path: Path) -> None:
    before = path.stat()
    path.write_text(path.read_text()[::-1])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def relink(path: Path) -> None:
    path.unlink()
    path.symlink_to("bus")


def rebuilt(path: Path) -> None:
    path.rmdir()
    path.mkdir()


@pytest.mark.parametrize(
    "change",
    [
        lambda p: (p / "research.toml").write_text("[project]\n#"),
        lambda p: (p / "research.lock").unlink(),
        lambda p: same_size_and_time(p / "research.lock"),
        lambda p: (p / "conf/sub/new").write_text(""),
        lambda p: (p / "conf/file").chmod(0o755),
        lambda p: (p / "conf/file").rename(p / "conf/other"),
        lambda p: relink(p / "conf/folder-link"),
        lambda p: (p / "tree").rmdir(),
        lambda p: rebuilt(p / "tree"),
    ],
    ids=["manifest", "no lock", "lock", "new file", "mode", "name", "link", "layer", "layer built again"],
)
def test_any_change_is_seen(project, change):
    record = record_of(project)
    change(project)
    assert not is_current(record, project)


def test_what_changed_while_it_was_used_is_known(project):
    files = launch.signature([str(project / "research.toml")])
    changed = max(files[0][2], files[0][3]) / 1e9
    assert launch.changed_since(files, changed)
    assert launch.changed_since(files, changed - 60)
    assert not launch.changed_since(files, changed + 1)


# -- the environment of a run ------------------------------------------------------------------------------------------


def test_a_run_sees_little_of_the_callers_environment(monkeypatch):
    host = {
        "PATH": "/home/me/bin",
        "HOME": "/home/me",
        "LD_PRELOAD": "evil.so",
        "PYTHONPATH": "/home/me/lib",
        "SLURM_JOB_ID": "7",
        "OMPI_COMM_WORLD_RANK": "1",
        "PMIX_RANK": "1",
        "PMI_RANK": "1",
        "MPI_LOCALRANKID": "0",
        "OMP_NUM_THREADS": "4",
        "CUDA_VISIBLE_DEVICES": "0",
        "TERM": "xterm",
        "JOB_ID": "9",
    }
    seen = launch.environment({}, host)
    kept = {name for name in host if name not in ("PATH", "HOME", "LD_PRELOAD", "PYTHONPATH")}
    assert {name: seen[name] for name in kept} == {name: host[name] for name in kept}
    assert set(seen) == kept | {"PATH", "HOME", "USER", "LOGNAME"}
    assert seen["PATH"] == launch.DEFAULT_PATH
    assert seen["HOME"] == launch.HOME


def test_what_is_declared_wins(monkeypatch):
    declared = {"PATH": "/opt/bin", "HOME": "/home/inside", "OMP_NUM_THREADS": "1", "TERM": "dumb", "USER": "x"}
    seen = launch.environment(declared, {"OMP_NUM_THREADS": "64", "TERM": "xterm"})
    assert {name: seen[name] for name in declared} == declared


def test_a_user_whom_the_machine_does_not_know_has_a_name(monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_123)
    assert launch.user_name() == "user4000000123"


# -- mounts ------------------------------------------------------------------------------------------------------------


def mounts(given=None, **declared):
    record = {
        "code": {"source": "/project", "target": "/work"},
        "mounts": {f"/{name}": {"mode": mode, "source": source} for name, (mode, source) in declared.items()},
    }
    return record, {bind["target"]: (bind["source"], bind["writable"]) for bind in launch.binds(record, given or {})}


def test_the_code_and_the_declared_mounts():
    _, found = mounts(data=("ro", "/srv/data"), out=("rw", "/srv/out"))
    assert found == {"/work": ("/project", True), "/data": ("/srv/data", False), "/out": ("/srv/out", True)}


def test_a_given_source_takes_the_declared_mode(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, found = mounts({"/data/": "here", "/out": "/there", "/work": "/other/code"}, data=("ro", None), out=("rw", "/a"))
    assert found == {
        "/work": ("/other/code", True),
        "/data": (str(tmp_path / "here"), False),
        "/out": ("/there", True),
    }


def test_a_mount_that_nobody_declared_is_read_only():
    _, found = mounts({"/extra": "/srv"})
    assert found["/extra"] == ("/srv", False)


def test_outer_mounts_come_first():
    record, _ = mounts()
    given = {"/a/b/c": "/1", "/a": "/2", "/a/b": "/3"}
    targets = [bind["target"] for bind in launch.binds(record, given)]
    assert targets.index("/a") < targets.index("/a/b") < targets.index("/a/b/c")


def test_a_mount_without_a_source_says_what_to_give():
    record, _ = mounts(data=("ro", None))
    record["code"]["source"] = "/"
    binds = launch.binds(record, {})
    assert not launch.ready(binds)
    with pytest.raises(UsageError, match="nothing is given for the mount /data") as caught:
        launch.prepare(binds, record["mounts"])
    assert "--mount /data=PATH" in (caught.value.hint or "")
    assert caught.value.where == 'mounts."/data"'


@pytest.mark.parametrize("mode", ["ro", "rw"])
def test_a_missing_source_is_named(tmp_path, mode):
    record, _ = mounts(data=(mode, str(tmp_path / "far/away")))
    record["code"]["source"] = str(tmp_path)
    binds = launch.binds(record, {})
    assert not launch.ready(binds)
    with pytest.raises(ReproboxError, match=str(tmp_path / "far/away")) as caught:
        launch.prepare(binds, record["mounts"])
    assert "--mount /data=PATH" in (caught.value.hint or "")


def test_a_declared_output_folder_is_made_and_a_given_one_is_not(tmp_path):
    record, _ = mounts(out=("rw", str(tmp_path / "out")))
    record["code"]["source"] = str(tmp_path)
    launch.prepare(launch.binds(record, {}), record["mounts"])
    assert (tmp_path / "out").is_dir()
    assert launch.ready(launch.binds(record, {}))
    with pytest.raises(ReproboxError, match="typo"):
        launch.prepare(launch.binds(record, {"/out": str(tmp_path / "typo")}), record["mounts"])
    assert not (tmp_path / "typo").exists()


def test_a_link_to_nowhere_is_a_missing_source(tmp_path):
    (tmp_path / "out").symlink_to("nowhere")
    record, _ = mounts(out=("rw", str(tmp_path / "out")))
    record["code"]["source"] = str(tmp_path)
    with pytest.raises(ReproboxError, match="does not exist"):
        launch.prepare(launch.binds(record, {}), record["mounts"])


# -- what a quick run loads --------------------------------------------------------------------------------------------


def test_a_quick_run_loads_next_to_nothing():
    """Each of these costs as much as entering the sandbox, or more."""
    slow = {
        *("argparse", "dataclasses", "hashlib", "inspect", "pathlib", "pluggy", "subprocess", "tomllib", "typing"),
        *("networkx", "rich", "urllib3", "logging", "socket", "tempfile", "importlib.metadata", "asyncio", "ssl"),
        *("signal", "shutil", "contextlib", "platform", "reprobox.errors", "reprobox.backend", "reprobox.manifest"),
    }
    program = "import sys, json\nbefore = set(sys.modules)\nsys.path.insert(0, sys.argv[1])\n"
    program += "import reprobox.cli\nimport reprobox.cli.fast, reprobox.sandbox.command\nprint(*sys.modules)"
    argv = [sys.executable, "-IS", "-c", program, str(ROOT)]
    loaded = set(subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split())
    assert not loaded & slow
    assert {name for name in loaded if name.startswith("reprobox")} == {
        *("reprobox", "reprobox.cli", "reprobox.cli.fast", "reprobox.launch", "reprobox.namespace"),
        *("reprobox.sandbox", "reprobox.sandbox.command", "reprobox.sandbox.kernel", "reprobox.sandbox.root"),
    }
