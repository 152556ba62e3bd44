"""What a target requires of the machine: told by ``doctor``, insisted on by ``realize`` and ``run``."""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path

import pytest

from reprobox import launch

pytestmark = pytest.mark.userns

LACKING = 'requires = { memory = "900 TiB", mpi = "openmpi>=99" }'
LOOK_UP = "`reprobox doctor` shows all of it; --ignore-requires goes on all the same\n"


def require(project, text: str) -> None:
    """Give the project's one target what it requires, and lock."""
    platforms = {"x86_64": "linux/amd64", "aarch64": "linux/arm64"}
    project.manifest.write_text(
        f'{project.manifest.read_text()}\n[targets.default]\nplatform = "{platforms[platform.machine()]}"\n{text}\n'
    )
    assert project("lock", "-q").status == 0


def program(folder: Path, name: str, script: str) -> str:
    """A program in a folder of its own; PATH with that folder first."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


@pytest.fixture(autouse=True)
def openmpi(tmp_path, monkeypatch) -> None:
    """This machine has an MPI."""
    monkeypatch.setenv("PATH", program(tmp_path / "bin", "mpirun", "echo 'mpirun (Open MPI) 4.1.4'"))


# -- before realize and run --------------------------------------------------------------------------------------------


def refusal(project, memory: str, mpirun: Path) -> str:
    lines = project.manifest.read_text().splitlines()
    line = lines.index(LACKING) + 1
    return (
        f"error: {project.manifest}:{line}: targets.default.requires.memory: needs 900 TiB, found {memory}\n"
        "  hint: use a machine with more memory\n"
        f"error: {project.manifest}:{line}: targets.default.requires.mpi: needs openmpi>=99, found openmpi 4.1.4 ({mpirun})\n"
        "  hint: load another version; `module avail openmpi` lists those of a cluster\n"
    )


@pytest.mark.parametrize("verb", [["realize"], ["run", "--", "true"], ["shell"]])
def test_a_machine_that_lacks_something_is_refused_with_need_fact_and_fix(fresh, verb, store, tmp_path):
    require(fresh, LACKING)
    memory = fresh("doctor").out.partition(" memory, Linux")[0].rpartition(", ")[2]
    told = fresh(*verb)
    assert (told.status, told.out) == (4, "")
    assert told.err == refusal(fresh, memory, tmp_path / "bin/mpirun") + LOOK_UP
    assert not list((store / "layers").glob("*/*"))  # nothing was built before
    document = fresh(verb[0], "--json", *verb[1:]).json["error"]
    assert (document["status"], document["where"]) == (4, None)
    assert [item["key"] for item in document["problems"]] == [
        "targets.default.requires.memory",
        "targets.default.requires.mpi",
    ]


def test_going_on_all_the_same(project, monkeypatch):
    require(project, LACKING)
    told = project("realize", "--ignore-requires")
    assert told.status == 0
    assert "tree digest" in told.out
    assert told.err.count("warning: ") == 2
    assert "targets.default.requires.mpi: needs openmpi>=99, found openmpi 4.1.4 (" in told.err
    monkeypatch.setenv("REPROBOX_IGNORE_REQUIRES", "0")
    assert project("realize").status == 4  # and nobody takes it for a machine that does
    told = project.process("run", "--", "sh", "-c", "echo ran", REPROBOX_IGNORE_REQUIRES="1")
    assert (told.status, told.out) == (0, "ran\n")
    assert told.err.count("warning: ") == 2


def test_what_requires_say_is_in_no_layer(project):
    before = project("realize", "--json").json
    require(project, 'requires = { memory = "1 MB", kernel = "3" }')
    after = project("realize", "--json").json
    assert (after["tree_digest"], after["image_digest"]) == (before["tree_digest"], before["image_digest"])
    assert [layer["id"] for layer in after["layers"]] == [layer["id"] for layer in before["layers"]]


def test_a_target_for_another_platform(project):
    other = "linux/arm64" if platform.machine() == "x86_64" else "linux/amd64"
    require(project, "")
    project.edit('platform = "linux/', f'platform = "{other}" # ')
    project("lock", "-q")
    told = project("run", "--", "true")
    assert told.status == 4
    assert f"targets.default.platform: needs {other}, found linux/" in told.err
    assert told.err.endswith("\n`reprobox doctor` shows all of it\n")  # and nobody can go on


# -- the quick way -----------------------------------------------------------------------------------------------------


@pytest.fixture
def mpi_project(project):
    """Realized on a machine that has the MPI which it requires."""
    require(project, 'requires = { mpi = "openmpi>=4", kernel = "3" }')
    time.sleep(0.05)  # files that changed just before they were read are not trusted
    assert project("realize").status == 0
    return project


def record_of(project) -> dict:
    (path,) = Path(os.environ["REPROBOX_STORE"], "realizations").glob(f"*{project.root.parent.name}*@@sandbox.json")
    return json.loads(path.read_text())


def test_what_was_checked_is_not_looked_at_again(mpi_project, tmp_path):
    store = os.environ["REPROBOX_STORE"]
    assert launch.suits(record_of(mpi_project), store, [])
    (tmp_path / "bin/mpirun").write_text("#!/bin/sh\nsleep 60\n")  # would be noticed
    assert mpi_project.process("run", "--", "sh", "-c", "echo ran").out == "ran\n"
    assert mpi_project("realize").status == 0


def test_another_machine_is_looked_at_again(mpi_project):
    """Another PATH is another machine: the module with the MPI is not loaded."""
    assert mpi_project.process("run", "--", "true").status == 0
    path = os.environ["PATH"].partition(os.pathsep)[2]
    told = mpi_project.process("run", "--", "true", PATH=path)
    assert told.status == 4
    assert "targets.default.requires.mpi: needs openmpi>=4, found no mpirun on PATH\n" in told.err
    assert mpi_project.process("run", "--", "true").status == 0


def test_what_was_found_holds_for_a_while_and_for_one_machine(mpi_project, monkeypatch):
    store, record = os.environ["REPROBOX_STORE"], record_of(mpi_project)
    assert launch.suits(record, store, [])
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "7")
            assert not launch.suits(record, store, [])
    assert not launch.suits(record | {"requires": {"mpi": "openmpi>=5"}}, store, [])
    path = Path(launch.verdicts_path(store, launch.machine_state()))
    found = json.loads(path.read_text())
    for age, holds in ((launch.HOLDS - 60, True), (launch.HOLDS + 1, False), (-60, False)):
        does = {asked: time.time() - age for asked in found["does"]}
        path.write_text(json.dumps(found | {"does": does}))
        assert launch.suits(record, store, []) is holds
    for text in ("", "[]", "{", '{"machine": 1}', "null"):
        path.write_text(text)
        assert not launch.suits(record, store, [])


def test_free_space_is_looked_at_each_time(project, tmp_path):
    require(project, 'requires = { disk = "1 MB" }')
    time.sleep(0.05)
    assert project("realize").status == 0
    record, store = record_of(project), os.environ["REPROBOX_STORE"]
    assert record["disk"] == 1_000_000
    assert launch.suits(record, store, [str(tmp_path / "not" / "there")])
    assert not launch.suits(record | {"disk": 1 << 60}, store, [str(tmp_path)])
    assert launch.outputs(launch.binds(record, {}), record) == [str(project.root / "out")]
    assert launch.outputs(launch.binds(record | {"mounts": {}}, {}), record) == [str(project.root / "src")]


def test_what_requires_nothing_costs_nothing(realized):
    record, store = record_of(realized), os.environ["REPROBOX_STORE"]
    binds = launch.binds(record, {})
    start = time.perf_counter()
    for _ in range(100):
        assert launch.suits(record, store, launch.outputs(binds, record))
    assert time.perf_counter() - start < 0.1  # a millisecond each, on a busy machine


def test_disk_space_of_runs_is_that_of_their_outputs(project):
    require(project, 'requires = { disk = "900 PB" }')
    told = project("run", "--mount", "/out=/dev/shm", "--", "true")
    assert told.status == 4
    assert "targets.default.requires.disk: needs 900 PB, found " in told.err
    assert "free for the output, at /dev/shm\n  hint: free some space, or give it, with --mount," in told.err
    assert f"free for the store, at {os.environ['REPROBOX_STORE']}\n" in project("realize").err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_what_cannot_be_kept_is_looked_at_each_time(mpi_project):
    folder = Path(os.environ["REPROBOX_STORE"], "memo", "hosts")
    for path in folder.iterdir():
        path.unlink()
    folder.chmod(0o500)
    try:
        assert mpi_project("realize").status == 0
        assert mpi_project.process("run", "--", "true").status == 0
        assert not list(folder.iterdir())
    finally:
        folder.chmod(0o700)


def test_ranks_that_see_a_gpu_each_are_all_remembered(mpi_project, monkeypatch):
    store = os.environ["REPROBOX_STORE"]
    folder = Path(store, "memo", "hosts")
    for path in folder.iterdir():
        os.utime(path, (0, 0))  # of other jobs, long ago
    for gpu in ("0", "1", "0", "1"):
        with monkeypatch.context() as patch:
            patch.setenv("CUDA_VISIBLE_DEVICES", gpu)
            assert mpi_project("realize").status == 0
    for gpu, known in (("0", True), ("1", True), ("2", False), ("", False)):
        with monkeypatch.context() as patch:
            patch.setenv("CUDA_VISIBLE_DEVICES", gpu)
            assert launch.suits(record_of(mpi_project), store, []) is known
    assert len(list(folder.iterdir())) == 2


# -- doctor ------------------------------------------------------------------------------------------------------------

TARGETS = """
[targets.cpu]
requires = { cpu = "x86-64-v2", kernel = "3", glibc = "2.17" }

[targets.gpu]
requires = { cuda = "12.4", gpu_memory = "40 GiB", mpi = "openmpi>=4" }
"""
CLUSTER = {
    "format": 1,
    "name": "node17",
    "architecture": "amd64",
    "cpu": {"name": "zen3", "also": ["zen2", "x86_64_v3", "x86_64_v2"]},
    "memory": {"total": 256 << 30, "limit": 64 << 30, "limited_by": "the Slurm job (SLURM_MEM_PER_NODE)"},
    "kernel": "5.14.0",
    "glibc": "2.34",
    "nvidia": {"driver": "525.60.13", "cuda": "12.0", "gpus": [{"name": "NVIDIA A100-SXM4-80GB", "memory": 80 << 30}]},
    "mpi": {"family": "mpich", "version": "4.0.2", "program": "/opt/mpich/bin/mpirun"},
    "backends": {"sandbox": "", "docker": "there is no daemon"},
}


@pytest.fixture
def paper(fresh, tmp_path, monkeypatch):
    """A project with two targets, and the description of a cluster beside it."""
    fresh.manifest.write_text(fresh.manifest.read_text() + TARGETS)
    (fresh.root / "cluster.json").write_text(json.dumps({"reprobox": "0.1.0", "host": CLUSTER}))
    return fresh


def test_will_the_cluster_do(paper):
    told = paper("doctor", "--host", "cluster.json")
    assert (told.status, told.err) == (0, "")
    assert told.out == (
        "machine node17: linux/amd64, CPU zen3 (x86-64-v3), 64.0 GiB of 256.0 GiB memory, Linux 5.14.0, glibc 2.34\n"
        "GPU: NVIDIA driver 525.60.13, CUDA 12.0\n"
        "  NVIDIA A100-SXM4-80GB, 80.0 GiB\n"
        "MPI: mpich 4.0.2, /opt/mpich/bin/mpirun\n"
        "backend sandbox: works there\n"
        "backend docker: does not work there: there is no daemon\n"
        "target cpu: node17 will do\n"
        "  requires  need               found\n"
        "  platform  linux/amd64    ok  linux/amd64\n"
        "  cpu       x86-64-v2      ok  zen3 (x86-64-v3)\n"
        "  kernel    3 or newer     ok  Linux 5.14.0\n"
        "  glibc     2.17 or newer  ok  glibc 2.34\n"
        "target gpu: node17 will not do\n"
        "  requires    need                    found\n"
        "  platform    linux/amd64    ok       linux/amd64\n"
        "  cuda        12.4 or newer  ok       driver 525.60.13, which supports CUDA 12.0\n"
        "              note: by CUDA's minor-version compatibility: code that is shipped as PTX alone, and features newer"
        " than the driver, need a driver that supports CUDA 12.4\n"
        "  gpu_memory  40 GiB         ok       1 NVIDIA A100-SXM4-80GB with 80.0 GiB\n"
        "  mpi         openmpi>=4     LACKING  mpich 4.0.2 (/opt/mpich/bin/mpirun)\n"
        "              fix: load Open MPI, for example `module load openmpi`, or install it\n"
    )


@pytest.mark.parametrize(("target", "status"), [("cpu", 0), ("gpu", 4)])
def test_a_target_that_is_asked_for_decides_the_status(paper, target, status):
    told = paper("doctor", "--host", "cluster.json", "--target", target)
    assert told.status == status
    assert told.out.count("target ") == 1
    document = paper("doctor", "--host", "cluster.json", "--target", target, "--json")
    assert document.status == status
    assert document.json["targets"][target]["ok"] is (status == 0)
    assert document.json["host"] == CLUSTER
    requirement = document.json["targets"][target]["requirements"][0]
    assert requirement == {
        "key": "platform", "need": "linux/amd64", "found": "linux/amd64", "ok": True, "fix": "", "note": ""
    }  # fmt: skip


def test_the_only_target_decides_too(fresh, paper):
    text = paper.manifest.read_text()
    paper.manifest.write_text(text.replace("[targets.cpu]", "[targets.other]").split("[targets.gpu]")[0])
    assert paper("doctor", "--host", "cluster.json").status == 0
    paper.manifest.write_text(paper.manifest.read_text().replace("2.17", "2.99"))
    assert paper("doctor", "--host", "cluster.json").status == 4


def test_a_cluster_on_which_no_backend_works_will_not_do(paper):
    (paper.root / "c.json").write_text(json.dumps({"host": CLUSTER | {"backends": {"sandbox": "not allowed"}}}))
    assert paper("doctor", "--host", "c.json").status == 4


def test_this_machine_is_described_for_others(paper, monkeypatch):
    document = paper("doctor", "--json")
    assert document.status == 0
    (paper.root / "here.json").write_text(document.out)
    again = paper("doctor", "--json", "--host", "here.json").json
    assert again["host"] == document.json["host"]
    assert again["targets"] == document.json["targets"]
    host = document.json["host"]
    assert host["name"] == platform.node()
    assert [disk["use"] for disk in host["disks"]] == ["store", "output"]
    assert host["disks"][1]["path"] == str(paper.root / "out")
    assert host["backends"]["sandbox"] == ""
    here = paper("doctor").out
    assert "target cpu: this machine will do\n" in here
    assert "target gpu: this machine will not do\n" in here


def test_wrong_descriptions_are_told(paper):
    told = paper("doctor", "--host", "nowhere.json")
    assert told.status == 2
    assert told.err == (
        "error: --host nowhere.json: it cannot be read: No such file or directory\n"
        "  hint: write it on that machine: `reprobox doctor --json > FILE`\n"
    )
    (paper.root / "new.json").write_text('{"host": {"format": 2}}')
    told = paper("doctor", "--host", "new.json")
    assert (told.status, told.err.splitlines()[0]) == (
        2,
        "error: new.json: the description has format 2, and this reprobox knows up to 1",
    )
    assert paper("doctor", "--host", str(paper.manifest)).status == 2
    assert paper("doctor", "--host", ".").status == 2


def test_doctor_where_there_is_no_manifest_or_a_wrong_one(paper, tmp_path, monkeypatch):
    description = str(paper.root / "cluster.json")
    told = paper("doctor", "--target", "gpux")
    assert told.status == 2
    assert 'there is no target "gpux"\n  hint: did you mean "gpu"?' in told.err
    paper.manifest.write_text("[project\n")
    told = paper("doctor", "--host", description)
    assert (told.status, told.out.count("target ")) == (0, 0)
    assert "warning: targets are not compared, since the manifest is wrong:\n" in told.err
    assert paper("doctor", "--target", "gpu").status == 2
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    told = paper("doctor", "--host", description)
    assert told.status == 0
    assert told.out.endswith("there is no research.toml here or in a folder above: nothing to compare it with\n")
    assert paper("doctor").status == 0
    assert paper("doctor", "--target", "gpu").status == 2
    assert paper("doctor", "-C", "no-such-folder").status == 2
