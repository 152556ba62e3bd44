"""The examples with several targets: what a CPU and a GPU environment share, and a lock for processors of another kind."""

from __future__ import annotations

import argparse
import shutil
import struct
import subprocess
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from reprobox.cli.session import open_session
from reprobox.lock import Input, Lock, LockedTarget
from reprobox.lock_text import read
from tests.engines import archives
from tests.engines.project import ROOT, Project
from tests.images import Layout, entry, tar
from tests.local import Listener

pytestmark = [pytest.mark.userns, pytest.mark.network, pytest.mark.slow]


def example(name: str, folder: Path) -> Project:
    """The example, locked in a folder of its own; in a store that has its base and its Python, if other tests ran."""
    path = Path(shutil.copytree(ROOT / "examples" / name, folder / name, ignore=shutil.ignore_patterns("*.lock")))
    project = Project(path=path, store=folder / "quickstart-store")
    project("lock")
    return project


def lock_of(project: Project) -> Lock:
    return read((project.path / "research.lock").read_text())


# -- a CPU and a GPU ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(session_folder) -> Project:
    return example("cpu-and-gpu", session_folder)


def test_what_both_have_is_locked_once(pair):
    cpu, gpu = lock_of(pair).targets.values()
    assert [layer.name for layer in gpu.layers] == ["base", "system", "python", "gpu", "skeleton"]
    assert gpu.layers[:3] == cpu.layers[:3]
    text = (pair.path / "research.lock").read_text()
    assert text.count('shared_with = "cpu"') == 3
    assert text.count("numpy-") == 1


def test_both_are_realized_here_and_the_second_costs_one_layer(pair):
    built = {}
    for target in ("cpu", "gpu"):
        layers = pair.realize("--target", target, "--ignore-requires")["layers"]
        built[target] = [layer["name"] for layer in layers if not layer["cached"]]
    assert built["gpu"] == ["gpu", "skeleton"]
    assert pair("run", "--target", "cpu") == "on the CPU: 783.537\n"
    assert pair("run", "--target", "gpu", "--ignore-requires").endswith(": 783.537\n")


def test_the_gpu_environment_says_what_this_machine_lacks(pair):
    done = pair.call("realize", "--target", "gpu")
    assert done.returncode in (0, 4)  # there may be one
    assert done.returncode == 0 or "targets.gpu.requires.cuda" in done.stderr


# -- another processor -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def arm(session_folder) -> Project:
    return example("arm-cluster", session_folder)


@pytest.fixture(scope="module")
def cluster(arm) -> LockedTarget:
    return lock_of(arm).targets["cluster"]


def of(target: LockedTarget, kind: str) -> list[Input]:
    return [item for layer in target.layers for item in layer.inputs if item.type == kind]


def test_every_name_in_the_lock_is_of_that_processor(cluster):
    names = [item.name for layer in cluster.layers for item in layer.inputs]
    assert len(names) > 100
    for item in of(cluster, "deb"):
        assert item.name.endswith(("_arm64.deb", "_all.deb"))
        assert item.facts["architecture"] == item.name.removesuffix(".deb").rpartition("_")[2]
    for item in (*of(cluster, "wheel"), *of(cluster, "uv")):
        assert item.name.endswith(("aarch64.whl", "-any.whl"))
    assert sum(name.endswith("_arm64.deb") for name in names) > 80
    assert not [name for name in names if "amd64" in name or "x86_64" in name]


@pytest.mark.tool("dpkg-deb")
def test_every_package_says_so_itself(arm, cluster):
    for item in of(cluster, "deb"):
        path = arm.store / "blobs" / item.sha256[:2] / item.sha256
        argv = ["dpkg-deb", "--field", path, "Package", "Version", "Architecture"]
        said = dict(line.split(": ") for line in subprocess.check_output(argv, text=True).splitlines())
        assert said["Architecture"] in ("arm64", "all")
        assert (said["Package"], said["Version"]) == (item.facts["package"], item.facts["version"])


def test_every_wheel_says_so_itself(arm, cluster, monkeypatch):
    monkeypatch.setenv("REPROBOX_STORE", str(arm.store))
    session, _ = open_session(argparse.Namespace(project=str(arm.path), reporter=Listener()))
    session.fetch([*of(cluster, "wheel"), *of(cluster, "uv")])
    machines = set()
    for item in (*of(cluster, "wheel"), *of(cluster, "uv")):
        with zipfile.ZipFile(session.store.blob(item.sha256)) as wheel:
            (about,) = (name for name in wheel.namelist() if name.endswith(".dist-info/WHEEL"))
            tags = [line for line in wheel.read(about).decode().splitlines() if line.startswith("Tag: ")]
            assert tags
            assert all(tag.endswith(("_aarch64", "-any")) for tag in tags)
            machines |= set(elf_machines(wheel))
    assert machines == {183}  # EM_AARCH64


def elf_machines(wheel: zipfile.ZipFile) -> Iterator[int]:
    for name in wheel.namelist():
        with wheel.open(name) as file:
            head = file.read(20)
        if head.startswith(b"\x7fELF"):
            yield struct.unpack_from("<H", head, 18)[0]


@pytest.mark.tool("apt-get")
@pytest.mark.tool("dpkg-deb")
def test_this_machines_own_apt_would_install_the_same(arm, cluster, tmp_path):
    """Asked for the other architecture over its own indices, on a system with the locked base and nothing else."""
    base, system, *_ = cluster.layers
    (tmp_path / "status").write_bytes(status_of(arm, base.inputs))
    (tmp_path / "sources.list").write_text("".join(f"{item.source}\n" for item in archives.configured()))
    for folder in ("lists/partial", "cache/archives/partial"):
        (tmp_path / folder).mkdir(parents=True)
    options = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        "Dir::Cache": tmp_path / "cache",
        "Dir::Etc::SourceList": tmp_path / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State::Lists": tmp_path / "lists",
        "Dir::State::Status": tmp_path / "status",
    }
    told = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    subprocess.run(["apt-get", *told, "--quiet=2", "update"], check=True, capture_output=True)
    argv = ["apt-get", *told, "--quiet", "--assume-yes", "--simulate", "install", "python3"]
    printed = subprocess.check_output(argv, text=True)
    chosen = [line.split() for line in printed.splitlines() if line.startswith("Inst ")]
    assert {(words[1], words[2].strip("(")) for words in chosen} == {
        (item.facts["package"], item.facts["version"]) for item in system.inputs
    }


def test_the_other_environment_can_be_seen_and_is_not_made_here(arm):
    assert "base (bootstrap)" in arm("graph", "--target", "cluster")
    arm("lock", "--check", "--target", "cluster")
    done = arm.call("realize", "--target", "cluster", "--ignore-requires")
    assert done.returncode == 4
    assert "target 'cluster' is for linux/arm64" in done.stderr


def test_locked_without_the_laptops_target_it_is_the_same(arm, cluster, session_folder):
    """A small root of this machine is made for apt where no target of it has one."""
    path = session_folder / "arm-alone"
    path.mkdir()
    text = (arm.path / "research.toml").read_text()
    (path / "research.toml").write_text(text.replace('[targets.laptop]\nplatform = "linux/amd64"\n', ""))
    alone = Project(path=path, store=arm.store)
    alone("lock")
    assert lock_of(alone).targets["cluster"].layers == cluster.layers


@pytest.mark.tool("dpkg-deb")
def test_an_image_for_the_other_processor_takes_the_same_packages(arm, cluster, session_folder):
    """Its files say what is installed, where packages come from and who signs them; none of its programs runs."""
    base, system, python, *_ = cluster.layers
    path = session_folder / "arm-on-an-image"
    layout = Layout(path / "layout")
    sources = "".join(f"{item.source}\n" for item in archives.configured()).encode()
    files = {
        "etc/apt/preferences.d/no-tk": b"Package: python3-tk\nPin: version *\nPin-Priority: -1\n",
        "etc/apt/sources.list": sources,
        "etc/os-release": b"ID=debian\nVERSION_CODENAME=bookworm\n",
        "usr/bin/apt-get": b"\x7fELF of another machine",
        archives.KEYRING.lstrip("/"): Path(archives.KEYRING).read_bytes(),
        "var/lib/dpkg/arch": b"arm64\n",
        "var/lib/dpkg/status": status_of(arm, base.inputs),
    }
    image = layout.image(tar(*(entry(name, data) for name, data in files.items())), platform="linux/arm64")
    layout.tag(image)
    text = (arm.path / "research.toml").read_text().replace('bootstrap = "debian:bookworm"', 'oci = "layout"')
    (path / "research.toml").write_text(text.replace('[targets.laptop]\nplatform = "linux/amd64"\n', ""))
    alone = Project(path=path, store=arm.store)
    alone("lock")
    layers = lock_of(alone).targets["cluster"].layers
    assert layers[1].inputs == system.inputs
    assert layers[2].inputs == python.inputs
    (path / "research.toml").write_text(
        (path / "research.toml").read_text().replace('["python3"]', '["python3", "python3-tk"]')
    )
    done = alone.call("lock")
    assert done.returncode == 1
    assert "python3-tk" in done.stderr  # what the image's own apt would not install, nor does this one


def status_of(project: Project, inputs: Sequence[Input]) -> bytes:
    """A dpkg status in which these packages are installed, by dpkg-deb's reading of them."""
    status = b""
    for item in inputs:
        control = subprocess.check_output(
            ["dpkg-deb", "--field", project.store / "blobs" / item.sha256[:2] / item.sha256]
        )
        name, _, rest = control.partition(b"\n")
        status += name + b"\nStatus: install ok installed\n" + rest.strip() + b"\n\n"
    return status
