"""Attaching to images in real registries, with the referrers API and without it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import pdfs
from tests.engines.ordinary import OrdinaryUser
from tests.engines.registry import Registry
from tests.images import INDEX, Layout, folder, layers
from tests.local import HEAD, programs_in
from tests.machine import Machine, Told
from tests.registry_proxy import Proxy, answer, swapped

pytestmark = [pytest.mark.registry, pytest.mark.userns]

TYPE = "application/vnd.reprobox.research.v1"
OUT = '[mounts]\n"/out" = { mode = "rw", source = "out" }\n'
CODE = '[code]\npath = "src"\n[run]\ncommand = ["/bin/sh", "/work/main.sh"]\n'
NAMES = ["research.toml", "research.lock", "research-project.tar"]


@pytest.fixture(scope="module")
def made(session_folder: Path) -> Machine:
    path = session_folder / "attached"
    programs_in(path)
    (path / "src").mkdir()
    (path / "src/main.sh").write_text("echo attached; cat /bin/sh > /out/result\n")
    (path / "out").mkdir()
    (path / "research.toml").write_text(HEAD + CODE + OUT)
    project = Machine(path=path, store=session_folder / "attached-store")
    project("lock")
    return project


@pytest.fixture
def proxy(registry: Registry) -> Iterator[Proxy]:
    """The same registry with the referrers API."""
    with Proxy(registry.host, referrers=True) as running:
        yield running


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return request.node.name.removeprefix("test_").replace("[", "-").strip("]")


@pytest.fixture
def image(made: Machine, registry: Registry, name: str) -> str:
    """An image of the project: repository and tag, to be had from the registry and from the proxy."""
    made("export", "--push", registry.reference(name, "1.0"))
    return f"{name}:1.0"


def told(machine: Machine, *argv: str | Path) -> Any:
    return machine(*map(str, argv), "--json").json


def refusal(told: Told, status: int) -> str:
    assert (told.status, told.out) == (status, "")
    return told.err.removeprefix("error: ").rstrip("\n")


def fetched(url: str) -> Any:
    with urllib.request.urlopen(f"http://{url}") as found:
        return json.loads(found.read())


def kept(host: str, repository: str, name: str) -> Any:
    """The manifest or index of that name."""
    accepted = f"application/vnd.oci.image.manifest.v1+json, {INDEX}"
    asked = urllib.request.Request(f"http://{host}/v2/{repository}/manifests/{name}", headers={"Accept": accepted})
    with urllib.request.urlopen(asked) as found:
        return json.loads(found.read())


@pytest.mark.ordinary
def test_from_the_attached_pdf_alone(made: Machine, user: OrdinaryUser, tmp_path: Path) -> None:
    """Another user, with an empty folder and an empty store, gets the same digests and the same output."""
    (tmp_path / "paper.pdf").write_bytes(pdfs.paper())
    made("attach", tmp_path / "paper.pdf", "--in-place", "--page")
    wanted = told(made, "realize")
    run = [sys.executable, "-m", "reprobox.cli", "run", "-C", made.path]
    subprocess.run(run, env={**os.environ, "REPROBOX_STORE": str(made.store)}, check=True, capture_output=True)
    folder = user.home / "reader"
    folder.mkdir()
    shutil.copy(tmp_path / "paper.pdf", folder)
    user.give(folder)
    reachable = user.can_start(sys.executable)
    argv = [sys.executable, "-m", "reprobox.cli"] if reachable else [str(user.command)]
    environment = {"REPROBOX_STORE": str(user.home / "reader-store"), "PYTHONDONTWRITEBYTECODE": "1"}
    done = user.run([*argv, "realize", "paper.pdf", "--yes", "--offline", "--json"], cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [found[name] for name in ("tree_digest", "image_digest")] == [
        wanted[name] for name in ("tree_digest", "image_digest")
    ]
    done = user.run([*argv, "run", "-C", found["project"]], cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    assert (folder / "test/out/result").read_bytes() == (made.path / "out/result").read_bytes()


def test_a_registry_with_the_api_lists_the_referrer(made: Machine, proxy: Proxy, image: str, tmp_path: Path) -> None:
    reference = f"{proxy.host}/{image}"
    done = told(made, "attach", reference)
    assert (done["referrers_api"], done["fallback_tag"], done["notes"]) == (True, "", [])
    repository = image.partition(":")[0]
    (item,) = fetched(f"{proxy.host}/v2/{repository}/referrers/{done['digest']}")["manifests"]
    assert (item["digest"], item["artifactType"]) == (done["referrer"], TYPE)
    assert item["annotations"]["org.reprobox.lock"] == done["lock"]
    raw = subprocess.run(
        ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{proxy.host}/{repository}@{done['referrer']}"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    document = json.loads(raw)
    assert document["subject"]["digest"] == done["digest"]
    assert document["config"]["mediaType"] == "application/vnd.oci.empty.v1+json"
    assert [layer["annotations"]["org.opencontainers.image.title"] for layer in document["layers"]] == NAMES
    assert [layer["mediaType"] for layer in document["layers"]] == [
        "application/vnd.reprobox.manifest.v1",
        "application/vnd.reprobox.lock.v1",
        "application/x-tar",
    ]
    assert told(made, "attach", reference)["referrer"] == done["referrer"]  # the same files, the same artifact
    found = told(made, "inspect", reference)
    assert (found["belongs"], found["digest"], found["referrer"]) == (True, done["digest"], done["referrer"])
    made("detach", reference, "-o", tmp_path / "out")
    assert (tmp_path / "out/research.lock").read_bytes() == (made.path / "research.lock").read_bytes()
    less = told(made, "attach", reference, "--without-code")
    assert less["replaced"] == [done["referrer"]]
    assert len(fetched(f"{proxy.host}/v2/{repository}/referrers/{done['digest']}")["manifests"]) == 1
    made("detach", reference, "--remove")
    assert fetched(f"{proxy.host}/v2/{repository}/referrers/{done['digest']}")["manifests"] == []


def test_a_registry_without_the_api_has_them_under_a_tag(made: Machine, registry: Registry, image: str) -> None:
    reference = f"{registry.host}/{image}"
    done = told(made, "attach", reference)
    assert done["referrers_api"] is False
    tag = done["digest"].replace(":", "-")
    assert done["fallback_tag"] == tag
    listed = subprocess.run(
        ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{reference.rpartition(':')[0]}:{tag}"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    document = json.loads(listed)
    assert document["mediaType"] == INDEX
    assert [item["digest"] for item in document["manifests"]] == [done["referrer"]]
    assert told(made, "attach", reference, "--without-code")["replaced"] == [done["referrer"]]
    assert told(made, "inspect", reference)["belongs"]
    made("detach", reference, "--remove")
    assert refusal(made.call("inspect", reference), 1) == (
        f"{reference}: no research.lock is attached to it\n  hint: its authors attach one with `reprobox attach`"
    )


def put(host: str, repository: str, name: str, document: dict[str, Any]) -> None:
    url = f"http://{host}/v2/{repository}/manifests/{name}"
    request = urllib.request.Request(url, json.dumps(document).encode(), method="PUT")
    request.add_header("Content-Type", document["mediaType"])
    urllib.request.urlopen(request).close()


@pytest.mark.parametrize("api", [True, False], ids=["api", "tag"])
def test_others_referrers_stay(made: Machine, proxy: Proxy, registry: Registry, image: str, api: bool) -> None:
    """A bill of materials of the same image, on another page of the list, or under the same tag."""
    host, repository = proxy.host if api else registry.host, image.partition(":")[0]
    done = told(made, "attach", f"{host}/{image}")
    other = kept(host, repository, done["referrer"]) | {"artifactType": "application/vnd.example.sbom.v1"}
    put(host, repository, "other", other)
    if not api:
        index = kept(host, repository, done["fallback_tag"])
        digest = hashlib.sha256(json.dumps(other).encode()).hexdigest()
        entry = {**index["manifests"][0], "digest": f"sha256:{digest}", "size": len(json.dumps(other))}
        index["manifests"].insert(0, {**entry, "artifactType": other["artifactType"]})
        put(host, repository, done["fallback_tag"], index)
    again = told(made, "attach", f"{host}/{image}", "--without-code")
    assert again["replaced"] == [done["referrer"]]
    assert told(made, "inspect", f"oci://{host}/{image}")["referrer"] == again["referrer"]
    there = proxy.listed[done["digest"]] if api else kept(host, repository, done["fallback_tag"])["manifests"]
    assert [item["artifactType"] for item in there] == [other["artifactType"], TYPE]
    assert kept(host, repository, "other") == other


def test_an_index_of_images(made: Machine, proxy: Proxy, registry: Registry, name: str, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    images = [layout.image(*layers([folder("etc")]), platform=f"linux/{cpu}") for cpu in ("amd64", "arm64")]
    layout.tag(layout.index(*images), "both")
    registry.push(f"oci:{layout.root}:both", name, "1", "--all")
    reference = f"{proxy.host}/{name}:1"
    single = told(made, "attach", reference, "--platform", "linux/arm64")
    assert single["digest"] == images[1]["digest"]
    assert told(made, "inspect", f"oci://{reference}")["digest"] == images[1]["digest"]  # found through the index
    whole = told(made, "attach", reference)
    assert whole["digest"] not in {image["digest"] for image in images}
    assert told(made, "inspect", f"oci://{reference}")["digest"] == whole["digest"]
    assert refusal(made.call("attach", reference, "--platform", "linux/s390x"), 1).startswith(
        f"{reference}: it has no image for linux/s390x; it has linux/amd64, linux/arm64"
    )


def test_several_locks_are_told_apart(made: Machine, proxy: Proxy, image: str) -> None:
    """A registry that does not delete keeps the first one; readers choose by digest."""
    reference = f"{proxy.host}/{image}"
    first = told(made, "attach", reference)["referrer"]
    proxy.break_("DELETE", "/manifests/", answer(405))
    second = made("attach", reference, "--without-code")
    assert "the registry does not delete what was attached before, and readers must choose" in second.err
    there = sorted({first, second.out.split(" as ")[1].split()[0]})
    repository = reference.rpartition(":")[0]
    assert refusal(made.call("inspect", f"oci://{reference}"), 5) == (
        f"{reference}: 2 locks are attached to {told_digest(second)}, and only one can be meant:\n"
        f"  {repository}@{there[0]}\n  {repository}@{there[1]}\n"
        "  hint: give the name of one of them instead; `reprobox inspect` shows it"
    )
    assert told(made, "inspect", f"oci://{repository}@{first}")["referrer"] == first
    assert refusal(made.call("detach", f"oci://{repository}@{first}", "--remove"), 1) == (
        f"{repository}@{first}: {proxy.host} does not delete {first}\n"
        "  hint: ask those who keep the registry to allow it, or to do it"
    )


def told_digest(attached: Told) -> str:
    return attached.out.split("attached to ")[1].split()[0]


def test_faults_of_the_registry_are_told(made: Machine, proxy: Proxy, image: str, tmp_path: Path) -> None:
    reference = f"{proxy.host}/{image}"
    assert refusal(made.call("attach", f"{proxy.host}/nobody/nothing:1"), 1) == (
        f"{proxy.host}/nobody/nothing:1: {proxy.host} has no such image\n"
        "  hint: check the name: the registry lists nothing under 'nobody/nothing'"
    )
    proxy.break_("POST", "/blobs/uploads/", answer(403, b'{"errors": [{"code": "DENIED", "message": "read only"}]}'))
    assert refusal(made.call("attach", reference), 1) == (
        f"{reference}: {proxy.host} does not let us push there: it answered 403 (DENIED: read only)\n"
        f"  hint: check the name, and log in with `docker login {proxy.host}` or `podman login {proxy.host}` as somebody"
        " who may push, whose files are read"
    )
    assert proxy.listed == {}
    proxy.mend()
    done = told(made, "attach", reference)
    proxy.break_("GET", "/referrers/", answer(401))
    assert refusal(made.call("inspect", f"oci://{reference}"), 1) == (
        f"{reference.rpartition(':')[0]}: {proxy.host} does not say what is attached: it answered 401 Unauthorized\n"
        f"  hint: log in with `docker login {proxy.host}` or `podman login {proxy.host}`"
    )
    proxy.mend()
    proxy.break_("GET", "/blobs/sha256:", swapped())
    assert refusal(made.call("detach", reference, "-o", tmp_path / "out"), 5).startswith(
        f"{reference}: research.toml: it has other bytes: their sha256 is "
    )
    proxy.mend()
    proxy.listed[done["digest"]][0]["digest"] = done["digest"]  # the image itself, under our type
    assert refusal(made.call("inspect", f"oci://{reference}"), 5).startswith(
        f"{reference}: the artifact refers to no image: "
    )
