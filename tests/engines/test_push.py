"""Images pushed to a real registry, and pulled from there by Docker, Apptainer and skopeo."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import zstandard

from reprobox.tree import scan
from tests.engines.project import script_digest
from tests.engines.registry import Registry
from tests.local import HEAD, programs_in
from tests.machine import Machine
from tests.registry_proxy import Proxy, answer, unanswered, unheard

pytestmark = [pytest.mark.registry, pytest.mark.userns]

BIG = 17 << 20  # bytes of a layer that takes several chunks
LAYERS = '[[layers]]\nname = "data"\nkind = "copy"\nfiles = [{ from = "data", to = "/opt/data" }]\n[run]\ncommand = ["cat", "/opt/data/name"]\n'
TARGETS = '[targets.intel]\nplatform = "linux/amd64"\n[targets.arm]\nplatform = "linux/arm64"\n'


@pytest.fixture(scope="module")
def made(session_folder: Path) -> Machine:
    """A project with a base, a layer of 17 MiB that nothing can pack, and another target for another machine."""
    path = session_folder / "pushed"
    programs_in(path)
    (path / "data").mkdir()
    (path / "data/name").write_text("pushed\n")
    (path / "data/noise").write_bytes(os.urandom(BIG))
    (path / "research.toml").write_text(HEAD + LAYERS)
    project = Machine(path=path, store=session_folder / "pushed-store")
    project("lock")
    project("realize")
    return project


@pytest.fixture
def proxy(registry: Registry) -> Iterator[Proxy]:
    with Proxy(registry.host) as running:
        yield running


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A repository of this test's own."""
    return request.node.name.removeprefix("test_").replace("[", "-").strip("]")


def pushed(project: Machine, reference: str, *argv: str) -> dict[str, Any]:
    told: dict[str, Any] = project("export", "--push", reference, "--json", *argv).json
    return told


def kept(registry: Registry, repository: str, name: str) -> tuple[str, dict[str, Any]]:
    """The digest of what the registry has under a name, and the document."""
    accepted = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json"
    asked = urllib.request.Request(
        f"http://{registry.host}/v2/{repository}/manifests/{name}", headers={"Accept": accepted}
    )
    with urllib.request.urlopen(asked) as found:
        data = found.read()
    return f"sha256:{hashlib.sha256(data).hexdigest()}", json.loads(data)


def blob(registry: Registry, repository: str, digest: str) -> bytes:
    with urllib.request.urlopen(f"http://{registry.host}/v2/{repository}/blobs/{digest}") as found:
        data: bytes = found.read()
    return data


def unpack(compression: str, data: bytes) -> bytes:
    return (
        gzip.decompress(data)
        if compression == "gzip"
        else zstandard.ZstdDecompressor().decompressobj().decompress(data)
    )


def test_registry_has_the_image_digest(made: Machine, registry: Registry, name: str) -> None:
    reference = registry.reference(name, "1")
    told = pushed(made, reference)
    (image,) = told["images"]
    digest, document = kept(registry, name, "1")
    assert digest == told["digest"] == image["image_digest"] == image["transport_digest"]
    assert image["image_digest"] == made("realize", "--json").json["image_digest"]
    assert {layer["mediaType"] for layer in document["layers"]} == {"application/vnd.oci.image.layer.v1.tar"}
    assert (told["sent"], told["there"]) == (4, 0)  # base, data, skeleton, config
    again = pushed(made, reference)
    assert (again["sent"], again["there"]) == (0, 4)


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_packed_layers_are_the_same_image(
    made: Machine, registry: Registry, name: str, compression: str, tmp_path: Path
) -> None:
    told = pushed(made, registry.reference(name), "--compression", compression)
    (image,) = told["images"]
    digest, document = kept(registry, name, "latest")
    assert digest == image["transport_digest"] != image["image_digest"]
    assert document["annotations"] == {"reprobox.image-digest": image["image_digest"]}
    assert {layer["mediaType"] for layer in document["layers"]} == {
        f"application/vnd.oci.image.layer.v1.tar+{compression}"
    }
    config = json.loads(blob(registry, name, document["config"]["digest"]))
    unpacked = [unpack(compression, blob(registry, name, layer["digest"])) for layer in document["layers"]]
    assert [f"sha256:{hashlib.sha256(data).hexdigest()}" for data in unpacked] == config["rootfs"]["diff_ids"]
    made("export", "--format", "oci", "-o", tmp_path / "layout")
    index = json.loads((tmp_path / "layout/index.json").read_bytes())
    own = json.loads(
        (tmp_path / "layout/blobs/sha256" / index["manifests"][0]["digest"].removeprefix("sha256:")).read_bytes()
    )
    assert document["config"] == own["config"]


@pytest.mark.docker
def test_docker_pulls_and_runs_it(made: Machine, registry: Registry, name: str, docker: Any, tmp_path: Path) -> None:
    reference = registry.reference(name)
    told = pushed(made, reference)
    docker("pull", "--quiet", reference)
    try:
        assert docker("run", "--rm", "--network", "none", reference) == "pushed\n"
        assert json.loads(docker("image", "inspect", reference))[0]["RepoDigests"] == [
            f"{registry.host}/{name}@{told['digest']}"
        ]
        tree = tmp_path / "tree"
        tree.mkdir()
        subprocess.run(["tar", "-C", tree, "-xf", docker.export(reference, tmp_path / "tree.tar")], check=True)
        assert script_digest(tree) == told["images"][0]["tree_digest"]
    finally:
        docker("rmi", "--force", reference)


@pytest.mark.apptainer
def test_apptainer_pulls_it(made: Machine, registry: Registry, name: str, tmp_path: Path) -> None:
    pushed(made, registry.reference(name))
    environment = {**os.environ, "APPTAINER_CACHEDIR": str(tmp_path / "cache"), "APPTAINER_TMPDIR": str(tmp_path)}
    done = subprocess.run(
        ["apptainer", "build", "--sandbox", "--no-https", tmp_path / "tree", f"docker://{registry.reference(name)}"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    made("export", "--format", "rootfs", "-o", tmp_path / "own")
    found = set(scan(tmp_path / "tree"))  # Apptainer adds files of its own, and folders that this small root lacks
    assert [entry for entry in scan(tmp_path / "own") if entry not in found] == []


@pytest.mark.tool("skopeo")
def test_targets_become_an_index(made: Machine, registry: Registry, name: str, session_folder: Path) -> None:
    project = made.another(session_folder / "pushed-targets")
    (project.path / "research.toml").write_text(HEAD + LAYERS + TARGETS)
    project("lock")
    told = pushed(project, registry.reference(name, "all"), "--all-targets")
    digest, document = kept(registry, name, "all")
    assert digest == told["digest"]
    assert [item["platform"] for item in document["manifests"]] == [
        {"architecture": "amd64", "os": "linux"},
        {"architecture": "arm64", "os": "linux"},
    ]
    assert [item["digest"] for item in document["manifests"]] == [item["image_digest"] for item in told["images"]]
    for architecture in ("amd64", "arm64"):
        found = subprocess.check_output(
            [
                "skopeo",
                "inspect",
                "--tls-verify=false",
                "--override-arch",
                architecture,
                f"docker://{registry.reference(name, 'all')}",
            ]
        )
        assert json.loads(found)["Architecture"] == architecture
    one = pushed(project, registry.reference(name, "arm"), "--target", "arm")
    assert one["digest"] == told["images"][1]["image_digest"]
    assert one["sent"] == 0


def test_two_targets_of_one_platform_are_no_index(
    made: Machine, registry: Registry, name: str, session_folder: Path
) -> None:
    project = made.another(session_folder / "pushed-twins")
    (project.path / "research.toml").write_text(HEAD + LAYERS + TARGETS.replace("arm64", "amd64"))
    project("lock")
    done = project.call("export", "--push", registry.reference(name), "--all-targets")
    assert done.status == 2
    assert (
        "error: targets 'intel' and 'arm' are both for linux/amd64, and an index has one image for each platform\n"
        in done.err
    )


@pytest.mark.tool("skopeo")
def test_base_is_mounted_from_where_it_came(
    registry: Registry, proxy: Proxy, name: str, tmp_path: Path, made: Machine
) -> None:
    """The blobs of a base that is in the same registry are not sent at all."""
    made("export", "--format", "oci", "-o", tmp_path / "layout")
    registry.push(f"oci:{tmp_path}/layout", "mounted-base", "1")
    (tmp_path / "project").mkdir()
    head = HEAD.replace('rootfs = "base"', f'image = "{proxy.host}/mounted-base:1"')
    (tmp_path / "project/research.toml").write_text(head)
    project = Machine(path=tmp_path / "project", store=tmp_path / "store")
    project("lock")
    told = pushed(project, f"{proxy.host}/{name}:1")
    assert len(proxy.asked("POST", r"mount=sha256.*from=mounted-base")) == 3
    assert told["sent"] == 2  # config and skeleton
    assert not proxy.asked("PATCH", "")


# -- registries that fail ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "fault"),
    [
        ("HEAD", "/blobs/", answer(500)),
        ("POST", "/blobs/uploads/", answer(429, retry_after="0")),
        ("PATCH", "/blobs/uploads/", answer(503)),
        ("PATCH", "/blobs/uploads/", unheard()),
        ("PATCH", "/blobs/uploads/", unanswered()),
        ("PATCH", "/blobs/uploads/", answer(405)),
        ("PUT", "/blobs/uploads/", unanswered()),
        ("PUT", "/manifests/", answer(500)),
        ("PUT", "/manifests/", unanswered()),
    ],
    ids=[
        "busy",
        "throttled",
        "chunk-503",
        "chunk-lost",
        "chunk-answer-lost",
        "no-chunks",
        "end-answer-lost",
        "manifest-500",
        "manifest-answer-lost",
    ],
)
def test_one_failure_is_survived(
    made: Machine, proxy: Proxy, registry: Registry, name: str, method: str, path: str, fault: Any
) -> None:
    proxy.break_(method, path, fault, times=1)
    told = pushed(made, f"{proxy.host}/{name}:1")
    assert kept(registry, name, "1")[0] == told["images"][0]["image_digest"]
    assert proxy.asked(method, path)


def test_an_upload_is_continued(made: Machine, proxy: Proxy, registry: Registry, name: str) -> None:
    """After a chunk that never arrived, the chunks before it are not sent again."""
    seen: list[int] = []

    def second(request: Any, ask: Any) -> Any:
        start = int(request.headers["Content-Range"].partition("-")[0])
        seen.append(start)
        return None if start and seen.count(start) == 1 else ask(request)

    proxy.break_("PATCH", "/blobs/uploads/", second)
    pushed(made, f"{proxy.host}/{name}:1")
    resumed = [start for start in seen if start]
    assert resumed
    assert seen.count(0) == len(set(proxy_uploads(proxy)))


def proxy_uploads(proxy: Proxy) -> list[str]:
    """The uploads that were sent in chunks."""
    return [request.path.partition("?")[0] for request in proxy.asked("PATCH", "")]


def test_login_is_used(made: Machine, registry: Registry, name: str, tmp_path: Path) -> None:
    login = base64.b64encode(b"me:secret").decode()
    with Proxy(registry.host, login=login) as proxy:
        reference = f"{proxy.host}/{name}:1"
        done = made.call("export", "--push", reference)
        assert done.status == 1
        assert done.err.splitlines()[-2:] == [
            f"error: {reference}: {proxy.host} does not let us push there: it answered 401",
            f"  hint: check the name, and log in with `docker login {proxy.host}` or `podman login {proxy.host}` as somebody who may push, whose files are read",
        ]
        (tmp_path / "config.json").write_text(json.dumps({"auths": {proxy.host: {"auth": login}}}))
        named = Machine(path=made.path, store=made.store, environment={"DOCKER_CONFIG": str(tmp_path)})
        assert pushed(named, reference)["digest"] == kept(registry, name, "1")[0]


def test_a_token_for_reading_is_traded_for_one_for_writing(made: Machine, registry: Registry, name: str) -> None:
    with Proxy(registry.host, tokens=True) as proxy:
        told = pushed(made, f"{proxy.host}/{name}:1")
        scopes = {parse_qs(urlsplit(request.path).query)["scope"][0] for request in proxy.asked("GET", "/token")}
    assert told["digest"] == kept(registry, name, "1")[0]
    assert scopes == {f"repository:{name}:{rights}" for rights in ("pull", "pull,push")}


def test_registry_that_refuses_says_why(made: Machine, proxy: Proxy, name: str) -> None:
    proxy.break_(
        "PUT", "/manifests/", answer(400, b'{"errors": [{"code": "MANIFEST_INVALID", "message": "not today"}]}')
    )
    done = made.call("export", "--push", f"{proxy.host}/{name}:1")
    assert done.status == 1
    assert done.err.splitlines()[-1] == (
        f"error: {proxy.host}/{name}:1: {proxy.host} does not take it: it answered 400 Bad Request (MANIFEST_INVALID: not today)"
    )


def test_registry_that_changes_the_manifest_is_found_out(made: Machine, proxy: Proxy, name: str) -> None:
    proxy.break_("PUT", "/manifests/", answer(201, docker_content_digest="sha256:" + 64 * "0"))
    done = made.call("export", "--push", f"{proxy.host}/{name}:1")
    assert done.status == 5
    assert "it changed what was pushed" in done.err


def test_registry_that_nobody_reaches_is_named(made: Machine) -> None:
    done = made.call("export", "--push", "nobody.invalid/a:1")
    assert done.status == 1
    assert done.err.splitlines()[-2].startswith("error: nobody.invalid/a:1: it cannot be reached: ")
    assert done.err.splitlines()[-1].endswith(
        "; if nobody.invalid has no TLS, list it under `insecure` in [registries] of the settings"
    )


# -- wrong use ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--push", "a/b@sha256:" + 64 * "0"], "a digest follows from what is pushed, and cannot be chosen"),
        (["--push", "Upper/Case:1"], "'Case' is not an image's name: it must be in lower case"),
        (["--push", "a/b", "--format", "oci"], "--format and --push do not go together"),
        (["--push", "a/b", "--offline"], "--push needs the network, and --offline forbids it"),
        (["--push", "a/b", "--all-targets", "--target", "x"], "--target and --all-targets do not go together"),
        (["--format", "oci"], "it is not said where to: give --format and -o, or --push REF"),
        (["--format", "oci", "-o", "x", "--all-targets"], "--all-targets is for --push"),
    ],
)
def test_wrong_use_is_refused(made: Machine, argv: list[str], words: str) -> None:
    done = made.call("export", *argv)
    assert done.status == 2
    assert words in done.err
