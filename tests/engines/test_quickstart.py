"""The quickstart from lock to plot, and its digests by every way that there is to make it or to look at it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
import time
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from reprobox.archives import sif
from tests.engines import later_builder
from tests.engines.project import ROOT, Project, digests, script_digest

pytestmark = [pytest.mark.userns, pytest.mark.network, pytest.mark.slow]


@pytest.fixture(scope="module")
def quickstart(session_folder) -> Project:
    """The example, locked and realized once for this module, in a folder of its own."""
    ignore = shutil.ignore_patterns("research.lock", "*.png", "*.npz")
    path = Path(shutil.copytree(ROOT / "examples/quickstart", session_folder / "quickstart", ignore=ignore))
    project = Project(path=path, store=session_folder / "quickstart-store")
    project("lock")
    return project


@pytest.fixture(scope="module")
def told(quickstart):
    return quickstart.realize()


def test_it_learns_and_leaves_a_plot(quickstart, told):
    printed = quickstart("run")
    assert "1 xor 1 -> 0.0" in printed
    plot = quickstart.path / "out/loss.png"
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert plot.stat().st_uid == os.getuid()


def test_the_lock_names_every_file_and_no_host(quickstart):
    text = (quickstart.path / "research.lock").read_text()
    lock = tomllib.loads(text)
    (target,) = lock["targets"].values()
    assert {layer["kind"] for layer in target["layers"]} >= {"bootstrap", "apt", "pip"}
    assert all(len(item["sha256"]) == 64 for layer in target["layers"] for item in layer.get("inputs", ()))
    assert "://" not in text


def test_locking_again_changes_nothing(quickstart):
    before = (quickstart.path / "research.lock").read_bytes()
    quickstart("lock")
    assert (quickstart.path / "research.lock").read_bytes() == before
    quickstart("lock", "--check")


def test_realizing_again_does_nothing(quickstart, told):
    again = quickstart.realize()
    assert digests(again) == digests(told)
    assert all(layer["cached"] for layer in again["layers"])


@pytest.mark.tool("strace")
def test_another_store_and_folder_under_a_hostile_umask_and_a_setgid_parent(quickstart, told, session_folder):
    """And from inputs in the store no connection is opened, to whomever."""
    parent, trace = session_folder / "setgid", session_folder / "trace"
    parent.mkdir()
    parent.chmod(0o2777)
    traced = ("strace", "--follow-forks", "--seccomp-bpf", "--trace=connect,sendto", "--output", str(trace))
    other = replace(quickstart.with_inputs_only(parent / "store").copied(parent / "project"), wrapper=traced)
    done = other.call("realize", "--json", umask=0o077)
    assert done.returncode == 0, done.stderr
    assert digests(json.loads(done.stdout)) == digests(told)
    assert "AF_INET" not in trace.read_text()


@pytest.mark.ordinary
def test_an_ordinary_user_gets_the_same(quickstart, told, user):
    project = user.copy(quickstart.path, "project")
    store = user.home / "store"
    store.mkdir(mode=0o700)
    shutil.copytree(quickstart.store / "blobs", store / "blobs")
    user.give(store)
    done = user.run([user.command, "realize", "-C", project, "--json", "--offline"], env={"REPROBOX_STORE": str(store)})
    assert done.returncode == 0, done.stderr
    assert digests(json.loads(done.stdout)) == digests(told)
    done = user.run([user.command, "run", "-C", project], env={"REPROBOX_STORE": str(store)})
    assert done.returncode == 0, done.stderr
    assert (project / "out/loss.png").stat().st_uid == user.uid


@pytest.mark.tool("faketime")
def test_ten_years_later_the_plain_way_in_a_store_without_overlay_gives_the_same(quickstart, told, session_folder):
    later = quickstart.with_inputs_only(session_folder / "later")
    plain = {"REPROBOX_PLAIN": "1", "REPROBOX_SANDBOX_OVERLAY": "no"}
    later = replace(later, wrapper=("faketime", "-f", "+10y"), environment=plain)
    assert digests(later.realize("--offline")) == digests(told)
    logs = ["".join(path.read_text() for path in (project.store / "logs").iterdir()) for project in (quickstart, later)]
    for short_cut in ("in the background", "was done ahead"):
        assert [text.count(short_cut) for text in logs] == [1, 0]


@pytest.mark.tool("faketime")
def test_steps_that_live_ten_years_later_give_the_same(quickstart, told, session_folder):
    """Every program of every step sees the other clock: dpkg, the packages' scripts, the compiler of bytecode."""
    later = quickstart.with_inputs_only(session_folder / "later-steps")
    path = os.pathsep.join((str(later_builder.install(session_folder / "later-builder")), str(ROOT)))
    later = replace(later, environment={"PYTHONPATH": path})
    result = later.realize("--offline", "--builder", "later")
    assert result["builder"] == "later"
    assert digests(result) == digests(told)
    logs = [path.read_text().splitlines() for path in (later.store / "logs").iterdir()]
    assert len(logs) == len([layer for layer in told["layers"] if layer["kind"] in {"bootstrap", "apt", "pip"}])
    assert {log[0] for log in logs} == {f"the year is {time.gmtime().tm_year + 10}"}


def test_offline_without_an_input_says_which(quickstart, session_folder):
    other = quickstart.with_inputs_only(session_folder / "incomplete")
    (target,) = tomllib.loads((other.path / "research.lock").read_text())["targets"].values()
    layer = next(layer for layer in target["layers"] if layer["name"] == "python")
    wheel = next(item for item in layer["inputs"] if item["name"].startswith("numpy-"))
    (other.store / "blobs" / wheel["sha256"][:2] / wheel["sha256"]).unlink()
    done = other.call("realize", "--offline")
    assert done.returncode == 6
    assert wheel["name"] in done.stderr


def test_one_package_more_is_installed_alone_and_gives_what_all_anew_give(quickstart, told, session_folder):
    more = quickstart.copied(session_folder / "more")
    manifest = more.path / "research.toml"
    manifest.write_text(manifest.read_text().replace('"matplotlib"', '"matplotlib", "six"'))
    more("lock")
    added = {layer["name"]: layer for layer in more.realize()["layers"]}
    assert [name for name, layer in added.items() if not layer["cached"]] == ["python", "skeleton"]
    identity = added["python"]["id"].removeprefix("sha256:")
    log = (more.store / "logs" / f"{identity}.log").read_text()
    assert "six" in log
    assert "numpy" not in log
    shutil.rmtree(more.store / "memo" / "like")
    shutil.rmtree(more.store / "layers" / identity)
    anew = {layer["name"]: layer for layer in more.realize()["layers"]}
    assert not anew["python"]["cached"]
    assert anew["python"]["diff_id"] == added["python"]["diff_id"]
    assert "numpy" in (more.store / "logs" / f"{identity}.log").read_text()


# -- what others make of it --------------------------------------------------------------------------------------------


def test_the_script_finds_the_same_tree_digest(quickstart, told, session_folder):
    tree = session_folder / "rootfs"
    quickstart("export", "--format", "rootfs", "-o", tree)
    assert script_digest(tree) == told["tree_digest"]


@pytest.mark.docker
def test_docker_loads_runs_and_shows_the_same(quickstart, told, docker, session_folder):
    archive, container = session_folder / "image.tar", session_folder / "container"
    quickstart("export", "--format", "docker-archive", "-o", archive, "--tag", "reprobox-test/xor:1")
    docker("load", "--input", archive)
    try:
        assert docker("run", "--rm", "reprobox-test/xor:1", "python3", "-c", "import numpy; print(6 * 7)") == "42\n"
        exported = docker.export("reprobox-test/xor:1", session_folder / "container.tar")
    finally:
        docker("image", "rm", "--force", "reprobox-test/xor:1")
    container.mkdir()
    subprocess.run(
        ["tar", "--extract", "--same-permissions", "--no-same-owner", "-f", exported, "-C", container], check=True
    )
    assert script_digest(container) == told["tree_digest"]


@pytest.mark.tool("skopeo")
@pytest.mark.tool("umoci")
def test_skopeo_and_umoci_accept_the_layout(quickstart, told, session_folder):
    layout, bundle = session_folder / "layout", session_folder / "bundle"
    quickstart("export", "--format", "oci", "-o", layout)
    argv = ["skopeo", "inspect", "--format", "{{.Digest}}", f"oci:{layout}"]
    assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip() == told["image_digest"]
    (entry,) = json.loads((layout / "index.json").read_text())["manifests"]
    name = entry["annotations"]["org.opencontainers.image.ref.name"]
    rootless = [] if os.geteuid() == 0 else ["--rootless"]
    subprocess.run(
        ["umoci", "unpack", *rootless, "--image", f"{layout}:{name}", bundle], check=True, capture_output=True
    )
    assert script_digest(bundle / "rootfs") == told["tree_digest"]


def test_exports_are_the_same_bytes_each_time(quickstart, told, session_folder):
    first, second = session_folder / "first.tar", session_folder / "second.tar"
    for path in (first, second):
        quickstart("export", "--format", "docker-archive", "-o", path)
    assert first.read_bytes() == second.read_bytes()
    with tarfile.open(first) as archive:
        assert not [entry.name for entry in archive if entry.name.startswith("./")]


# -- sealing -----------------------------------------------------------------------------------------------------------


def test_a_seal_is_kept_and_a_broken_one_stops(quickstart, told, session_folder):
    sealed = quickstart.copied(session_folder / "sealed")
    sealed("lock", "--seal")
    assert digests(sealed.realize()) == digests(told)
    lock = sealed.path / "research.lock"
    text = lock.read_text()
    tables = tomllib.loads(text)
    (target,) = tables["targets"].values()
    digest = target["seal"]["layers"]["system"]
    lock.write_text(text.replace(digest, "sha256:" + "0" * 64))
    done = sealed.call("realize")
    assert done.returncode == 5
    assert "system" in done.stderr


# -- the same with an image base ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def on_an_image(quickstart, base_image, session_folder):
    """The quickstart on an image, and what ``realize`` tells."""
    project = quickstart.copied(session_folder / "on-an-image")
    manifest = project.path / "research.toml"
    manifest.write_text(manifest.read_text().replace('bootstrap = "debian:bookworm"', f'image = "{base_image}"'))
    (project.path / "research.lock").unlink()
    project("lock")
    return project, project.realize()


@pytest.mark.registry
def test_the_same_manifest_on_an_image_from_a_registry(on_an_image, session_folder):
    project, told = on_an_image
    project("run")
    assert (project.path / "out/loss.png").exists()
    tree = session_folder / "image-rootfs"
    project("export", "--format", "rootfs", "-o", tree)
    assert script_digest(tree) == told["tree_digest"]


# -- other builders and backends ---------------------------------------------------------------------------------------

OTHERS = [
    pytest.param("docker", marks=pytest.mark.docker),
    pytest.param("singularity", marks=[pytest.mark.apptainer, pytest.mark.tool("unsquashfs")]),
]


@pytest.mark.parametrize("builder", OTHERS)
def test_another_builder_makes_the_same_layers(quickstart, told, session_folder, builder):
    built = quickstart.with_inputs_only(session_folder / f"by-{builder}").realize("--offline", "--builder", builder)
    assert built["builder"] == builder
    assert not any(layer["cached"] for layer in built["layers"])
    assert [layer["diff_id"] for layer in built["layers"]] == [layer["diff_id"] for layer in told["layers"]]
    assert digests(built) == digests(told)


@pytest.mark.parametrize("backend", OTHERS)
def test_another_backend_holds_the_same_tree(quickstart, told, session_folder, request, backend):
    tree = held(quickstart, backend, session_folder / f"held-by-{backend}", request)
    assert script_digest(tree) == told["tree_digest"]
    printed = quickstart("run", "--backend", backend)
    assert "1 xor 1 -> 0.0" in printed
    assert (quickstart.path / "out/loss.png").stat().st_uid == os.getuid()


@pytest.mark.registry
@pytest.mark.parametrize("backend", OTHERS)
def test_another_backend_holds_the_same_tree_on_an_image_from_a_registry(on_an_image, session_folder, request, backend):
    project, told = on_an_image
    tree = held(project, backend, session_folder / f"image-held-by-{backend}", request)
    assert script_digest(tree) == told["tree_digest"]


def held(project: Project, backend: str, tree: Path, request) -> Path:
    """What the backend holds, got out of it by the engine's own means."""
    told = project.realize("--backend", backend)
    tree.mkdir()
    if backend == "docker":
        exported = request.getfixturevalue("docker").export(told["location"], tree.with_suffix(".tar"))
        argv = ["tar", "--extract", "--same-permissions", "--no-same-owner", "-f", exported, "-C", tree]
    else:
        argv = ["unsquashfs", "-force", "-quiet", "-no-progress", "-offset", offset_of(Path(told["location"]))]
        argv += ["-dest", tree, told["location"]]
    subprocess.run(list(map(str, argv)), check=True, capture_output=True)
    return tree


def offset_of(image: Path) -> int:
    """Where the file system begins in a SIF."""
    with image.open("rb") as file:
        primary = sif.read(file).primary
    assert primary is not None
    return primary.offset


@pytest.mark.apptainer
@pytest.mark.ordinary
def test_a_sif_runs_for_anyone(quickstart, session_folder, user):
    image = session_folder / "quickstart.sif"
    quickstart("realize", "--backend", "singularity", "--output", image)
    copy = shutil.copy(image, user.home / "quickstart.sif")
    program = "import numpy; print(numpy.arange(3).sum())"
    done = user.run(["apptainer", "--silent", "exec", copy, "python3", "-c", program])
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr
