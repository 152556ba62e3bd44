"""References as Docker reads them, and the client against real registries: open, with passwords, with tokens, broken."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from reprobox import config
from reprobox.download.downloader import Downloader
from reprobox.errors import FetchError, IntegrityError, OfflineError, UsageError
from reprobox.lock import Input
from reprobox.oci.credentials import Credentials, Login
from reprobox.oci.registry import BlobProvider, Reference, Registries, _challenges
from reprobox.providers import fetch
from reprobox.store import Store
from tests import images, servers
from tests.engines.registry import Registry
from tests.servers import Request, Server

HELLO = images.tar(images.entry("hello", b"hello\n"))
HEX = "0123456789abcdef" * 4


# -- names -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("python", "docker.io/library/python:latest"),
        ("python:3.11-slim", "docker.io/library/python:3.11-slim"),
        ("me/tool", "docker.io/me/tool:latest"),
        ("docker.io/python", "docker.io/library/python:latest"),
        ("index.docker.io/me/tool:1", "docker.io/me/tool:1"),
        ("ghcr.io/a/b/c:v1", "ghcr.io/a/b/c:v1"),
        ("localhost/x", "localhost/x:latest"),
        ("localhost:5000/x:1", "localhost:5000/x:1"),
        ("127.0.0.1:5000/group/name", "127.0.0.1:5000/group/name:latest"),
        ("[::1]:5000/x", "[::1]:5000/x:latest"),
        ("Host/x", "Host/x:latest"),
        ("localhost:5000", "docker.io/library/localhost:5000"),
        (f"python@sha256:{HEX}", f"docker.io/library/python@sha256:{HEX}"),
        (f"a.b/python:3.11@sha256:{HEX}", f"a.b/python:3.11@sha256:{HEX}"),
        ("a__b/c-d--e.f", "docker.io/a__b/c-d--e.f:latest"),
    ],
)
def test_references(text: str, full: str) -> None:
    reference = Reference.parse(text)
    assert str(reference) == full
    assert Reference.parse(full) == reference


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'library/' is not an image's name"),
        ("Python", "'library/Python' is not an image's name: it must be in lower case"),
        ("docker://python", "'docker:' is not the name of a registry"),
        (HEX, "64 hexadecimal digits are an image's id"),
        ("a..b", "is not an image's name"),
        ("-a", "is not an image's name"),
        ("a:", "'' is not a tag"),
        ("a:-x", "'-x' is not a tag"),
        ("a@", "'' is not a digest"),
        ("a@sha512:00", "'sha512:00' is not a digest"),
        ("a@sha256:abc", "'sha256:abc' is not a digest"),
        ("exa_mple.com/x", "'exa_mple.com' is not the name of a registry"),
        ("a/" * 150 + "a", "is not an image's name"),
        ("a\n", "is not an image's name"),
    ],
)
def test_what_is_no_reference(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Reference.parse(text)
    assert message in caught.value.message


def test_challenges() -> None:
    header = 'Basic realm="a, b", Bearer realm="https://auth/token?x=1",service=reg,scope="repository:a/b:pull,push"'
    bearer = {"realm": "https://auth/token?x=1", "service": "reg", "scope": "repository:a/b:pull,push"}
    assert _challenges(header) == [("basic", {"realm": "a, b"}), ("bearer", bearer)]
    assert _challenges("") == [("", {})]


# -- logins ----------------------------------------------------------------------------------------------------------------


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "home"
    path.mkdir()
    return path


def written(path: Path, document: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def test_nobody_is_logged_in(home: Path) -> None:
    assert Credentials({"HOME": str(home)}).login("ghcr.io", "a/b") is None


def test_dockers_file(home: Path) -> None:
    auths = {
        "https://index.docker.io/v1/": {"auth": encoded("hub:p:w")},
        "https://ghcr.io": {"auth": encoded("gh:1")},
        "quay.io": {"identitytoken": "idt", "auth": encoded("<token>:")},
        "broken.example": {"auth": "***"},
        "empty.example": {},
    }
    written(home / ".docker" / "config.json", {"auths": auths})
    logins = Credentials({"HOME": str(home)})
    assert logins.login("docker.io", "library/python") == Login(user="hub", password="p:w")
    assert logins.login("ghcr.io", "a/b") == Login(user="gh", password="1")
    assert logins.login("quay.io", "a/b") == Login(token="idt")
    assert logins.login("broken.example", "a/b") is None
    assert logins.login("empty.example", "a/b") is None
    assert logins.login("ghcr.io:443", "a/b") is None


def test_podmans_files_know_repositories_and_the_environment_comes_first(home: Path, tmp_path: Path) -> None:
    written(home / ".docker" / "config.json", {"auths": {"quay.io": {"auth": encoded("docker:1")}}})
    environment = {"HOME": str(home)}
    assert Credentials(environment).login("quay.io", "a/b") == Login(user="docker", password="1")
    auths = {name: {"auth": encoded(f"{name}:2")} for name in ("quay.io/a", "quay.io/a/b", "quay.io")}
    written(home / ".config" / "containers" / "auth.json", {"auths": auths})
    assert Credentials(environment).login("quay.io", "a/b") == Login(user="quay.io/a/b", password="2")
    assert Credentials(environment).login("quay.io", "a/c") == Login(user="quay.io/a", password="2")
    assert Credentials(environment).login("quay.io", "ab/c") == Login(user="quay.io", password="2")
    written(tmp_path / "run" / "containers" / "auth.json", {"auths": {"quay.io": {"auth": encoded("run:3")}}})
    environment["XDG_RUNTIME_DIR"] = str(tmp_path / "run")
    assert Credentials(environment).login("quay.io", "a/b") == Login(user="run", password="3")
    written(tmp_path / "docker" / "config.json", {"auths": {"quay.io": {"auth": encoded("moved:4")}}})
    environment["DOCKER_CONFIG"] = str(tmp_path / "docker")
    assert Credentials(environment).login("quay.io", "a/b") == Login(user="moved", password="4")
    environment["REGISTRY_AUTH_FILE"] = str(
        written(tmp_path / "auth.json", {"auths": {"quay.io": {"auth": encoded("named:5")}}})
    )
    assert Credentials(environment).login("quay.io", "a/b") == Login(user="named", password="5")


def test_credential_helpers(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "docker-credential-box"
    written(
        program,
        "#!/bin/sh\nread server\ncase $server in\n"
        'ghcr.io) echo \'{"Username": "me", "Secret": "s3"}\';;\n'
        'https://index.docker.io/v1/) echo \'{"Username": "<token>", "Secret": "idt"}\';;\n'
        "odd.example) echo nonsense;;\n"
        "*) echo credentials not found in native keychain; exit 1;;\nesac\n",
    ).chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    stores = {
        "credHelpers": {"ghcr.io": "box", "gone.example": "missing"},
        "auths": {"odd.example": {"auth": encoded("a:b")}},
    }
    written(home / ".docker" / "config.json", stores)
    logins = Credentials({"HOME": str(home)})
    assert logins.login("ghcr.io", "a/b") == Login(user="me", password="s3")
    assert logins.login("docker.io", "a/b") is None
    assert logins.login("gone.example", "a/b") is None
    assert "docker-credential-missing, which" in logins.notes[0]
    written(home / ".docker" / "config.json", {**stores, "credsStore": "box"})
    assert logins.login("docker.io", "a/b") == Login(token="idt")
    assert logins.login("odd.example", "a/b") == Login(user="a", password="b")
    assert logins.login("quay.io", "a/b") is None
    written(home / ".docker" / "config.json", {"credsStore": "../x"})
    with pytest.raises(UsageError, match="is no name of a credential helper"):
        logins.login("quay.io", "a/b")


def test_a_broken_file_is_named(home: Path) -> None:
    path = written(home / ".docker" / "config.json", "{")
    with pytest.raises(UsageError, match="the registry logins are not JSON") as caught:
        Credentials({"HOME": str(home)}).login("ghcr.io", "a/b")
    assert caught.value.where == str(path)


# -- a real registry -------------------------------------------------------------------------------------------------------


@pytest.fixture
def layout(tmp_path: Path) -> images.Layout:
    return images.Layout(tmp_path / "layout")


def quick(**options: Any) -> Downloader:
    return Downloader(**{"backoff": 0.01, "timeout": 5.0} | options)


def opened(home: Path, settings: config.Registries | None = None, **options: Any) -> Registries:
    return Registries(quick(**options), settings, Credentials({"HOME": str(home)}))


def skopeo(*argv: str) -> str:
    done = subprocess.run(["skopeo", *argv], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def three(registry: Registry, layout: images.Layout) -> str:
    """An index of three platforms, and one more manifest that is no image for anybody."""
    amd64, v7, v8 = (
        layout.image(images.tar(images.entry("platform", name.encode())), platform=name)
        for name in ("linux/amd64", "linux/arm/v7", "linux/arm64/v8")
    )
    attestation = {**layout.image(HELLO), "platform": {"os": "unknown", "architecture": "unknown"}}
    layout.tag(layout.index(v8, attestation, amd64, v7), "all")
    return registry.push(f"oci:{layout.root}:all", "three", "all", "--all")


@pytest.mark.registry
def test_an_index_is_resolved_for_the_platform(three: str, home: Path, kept: Store) -> None:
    reference = Reference.parse(three)
    for platform, architecture in (("linux/amd64", "amd64"), ("linux/arm64", "arm64"), ("linux/arm/v7", "arm")):
        image = opened(home).image(reference, platform)
        assert image.config.platform.architecture == architecture
        assert image.config.created == images.CREATED_SECONDS
        assert image.config.settings["Env"] == ["PATH=/usr/bin", "A=b=c"]
        assert image.index == json.loads(skopeo("inspect", "--tls-verify=false", f"docker://{three}"))[
            "Digest"
        ].removeprefix("sha256:")
        by_digest = opened(home).image(Reference.parse(f"{reference.name}@sha256:{image.index}"), platform)
        assert by_digest == image
        direct = opened(home).image(Reference.parse(f"{reference.name}@sha256:{image.descriptor.digest}"), platform)
        assert (direct.index, direct.manifest) == ("", image.manifest)


@pytest.mark.registry
def test_a_platform_that_is_not_there(three: str, home: Path) -> None:
    with pytest.raises(FetchError) as caught:
        opened(home).image(Reference.parse(three), "linux/riscv64")
    assert caught.value.message == "it has no image for linux/riscv64; it has linux/arm64/v8, linux/amd64, linux/arm/v7"
    assert caught.value.where == three
    reference = Reference.parse(three)
    amd64 = opened(home).image(reference, "linux/amd64").descriptor.digest
    with pytest.raises(FetchError, match="it is an image for linux/amd64, not for linux/arm64"):
        opened(home).image(Reference.parse(f"{reference.name}@sha256:{amd64}"), "linux/arm64")
    with pytest.raises(FetchError, match="it has no image for linux/arm/v6"):
        opened(home).image(reference, "linux/arm/v6")


@pytest.mark.registry
@pytest.mark.parametrize("media_type", [images.GZIP, images.ZSTD, images.PLAIN])
def test_blobs_arrive_in_the_store(
    registry: Registry, layout: images.Layout, home: Path, kept: Store, media_type: str
) -> None:
    layout.tag(layout.image(HELLO, media_type=media_type), "x")
    name = registry.push(f"oci:{layout.root}:x", f"blobs/{media_type[-4:].strip('.')}", "latest", "--preserve-digests")
    registries = opened(home)
    image = registries.image(Reference.parse(name), "linux/amd64")
    facts = {"repository": Reference.parse(name).name}
    inputs = [
        Input(
            type="blob",
            name=f"{number}",
            sha256=item.digest,
            size=item.size,
            facts={**facts, "media_type": item.media_type},
        )
        for number, item in enumerate((image.descriptor, image.manifest.config, *image.manifest.layers))
    ]
    foreign = Input(type="deb", name="x.deb", sha256=HEX, size=1)
    assert BlobProvider(registries).locate([foreign]) == {}
    fetch(inputs, [BlobProvider(registries)], kept, downloader=quick())
    assert kept.blob(inputs[2].sha256).read_bytes() == images.packed(HELLO, media_type)
    assert {digest: kept.blob(digest).read_bytes() for digest in image.documents} == dict(image.documents)


@pytest.mark.registry
def test_dockers_own_types(registry: Registry, layout: images.Layout, home: Path) -> None:
    layout.tag(layout.image(HELLO), "x")
    name = registry.push(f"oci:{layout.root}:x", "docker-types", "latest", "--format", "v2s2")
    image = opened(home).image(Reference.parse(name), "linux/amd64")
    assert image.descriptor.media_type == "application/vnd.docker.distribution.manifest.v2+json"
    assert [item.media_type for item in image.manifest.layers] == [images.GZIP]


@pytest.mark.registry
def test_an_image_that_does_not_exist(three: str, registry: Registry, home: Path) -> None:
    with pytest.raises(FetchError) as caught:
        opened(home).image(Reference.parse(three + "x"), "linux/amd64")
    assert str(caught.value) == f"{three}x: {registry.host} has no such image\n  hint: did you mean {three}?"
    with pytest.raises(FetchError, match="tags there are all"):
        opened(home).image(Reference.parse(f"{registry.host}/three:9.9"), "linux/amd64")
    with pytest.raises(FetchError, match="the registry lists nothing under 'no/such'"):
        opened(home).image(Reference.parse(f"{registry.host}/no/such"), "linux/amd64")
    with pytest.raises(FetchError, match="check the digest"):
        opened(home).image(Reference.parse(f"{registry.host}/three@sha256:{HEX}"), "linux/amd64")


@pytest.mark.registry
def test_offline_says_so(three: str, home: Path) -> None:
    with pytest.raises(OfflineError, match="the network may not be used to ask 127") as caught:
        opened(home, offline=True).image(Reference.parse(three), "linux/amd64")
    assert caught.value.where == three


def test_a_registry_that_is_not_there(home: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(FetchError, match="Connection refused") as caught:
        opened(home).image(Reference.parse(f"127.0.0.1:{port}/x:1"), "linux/amd64")
    assert caught.value.where == f"127.0.0.1:{port}/x:1"
    with pytest.raises(FetchError) as caught:
        opened(home).image(Reference.parse("registry.example.invalid/x:1"), "linux/amd64")
    assert "https://registry.example.invalid/v2/x/manifests/1: it cannot be reached" in caught.value.message
    assert "`insecure` in [registries]" in str(caught.value.hint)


# -- logins at real registries ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def guarded(folder: Path, auth: Mapping[str, Any]) -> Iterator[str]:
    """A real registry that asks who is there; yields ``host:port``."""
    folder.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{probe.getsockname()[1]}"
    settings = {
        "version": "0.1",
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "blobs")}},
        "http": {"addr": host},
        "auth": auth,
    }
    written(folder / "config.yml", settings)
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(["docker-registry", "serve", str(folder / "config.yml")], stdout=log, stderr=log)
    try:
        for _ in range(200):
            with contextlib.suppress(urllib.error.HTTPError, urllib.error.URLError):
                urllib.request.urlopen(f"http://{host}/v2/", timeout=5).close()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", int(host.rpartition(":")[2])), 1):
                break
            time.sleep(0.05)
        yield host
    finally:
        server.terminate()
        server.wait(timeout=10)


#: What `htpasswd -nbB me secret` printed.
HTPASSWD = "me:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n"


@pytest.mark.registry
def test_a_registry_with_passwords(tmp_path: Path, layout: images.Layout, home: Path, kept: Store) -> None:
    path = written(tmp_path / "htpasswd", HTPASSWD)
    layout.tag(layout.image(HELLO), "x")
    with guarded(tmp_path / "registry", {"htpasswd": {"realm": "here", "path": str(path)}}) as host:
        skopeo(
            "copy", "--dest-tls-verify=false", "--dest-creds=me:secret", f"oci:{layout.root}:x", f"docker://{host}/x"
        )
        reference = Reference.parse(f"{host}/x")
        with pytest.raises(FetchError) as caught:
            opened(home).image(reference, "linux/amd64")
        assert caught.value.message == f"{host} does not give it to us: it answered 401"
        assert f"`docker login {host}`" in str(caught.value.hint)
        written(home / ".docker" / "config.json", {"auths": {host: {"auth": encoded("me:wrong")}}})
        with pytest.raises(FetchError, match="it answered 401"):
            opened(home).image(reference, "linux/amd64")
        written(home / ".docker" / "config.json", {"auths": {host: {"auth": encoded("me:secret")}}})
        image = opened(home).image(reference, "linux/amd64")
        item = Input(
            type="blob",
            name="layer",
            sha256=image.manifest.layers[0].digest,
            size=image.manifest.layers[0].size,
            facts={"repository": reference.name},
        )
        fetch([item], [BlobProvider(opened(home))], kept, downloader=quick())
        assert kept.has_blob(item.sha256)


@pytest.mark.registry
@pytest.mark.parametrize("login", ["", "me:secret", "<token>"])
def test_a_registry_with_tokens(tmp_path: Path, layout: images.Layout, home: Path, login: str) -> None:
    with (
        Server() as issuer,
        guarded(tmp_path / "registry", {"silly": {"realm": issuer.url("/token"), "service": "reg"}}) as host,
    ):
        issuer.answers["/token"] = lambda _: (200, {}, b'{"token": "abc", "expires_in": 300}')
        layout.tag(layout.image(HELLO), "x")
        skopeo("copy", "--dest-tls-verify=false", f"oci:{layout.root}:x", f"docker://{host}/group/x")
        issuer.seen.clear()
        entry = {"identitytoken": "idt"} if login == "<token>" else {"auth": encoded(login)}
        written(home / ".docker" / "config.json", {"auths": {host: entry} if login else {}})
        assert opened(home).image(Reference.parse(f"{host}/group/x"), "linux/amd64").config.diff_ids
        (asked,) = issuer.seen
        if login == "<token>":
            assert asked.method == "POST"
            assert b"grant_type=refresh_token" in asked.body
            assert b"refresh_token=idt" in asked.body
        else:
            assert re.search(r"scope=repository%3Agroup%2Fx%3Apull&service=reg", asked.path)
            assert asked.headers.get("Authorization") == (f"Basic {encoded(login)}" if login else None)


@pytest.mark.registry
def test_tokens_that_cannot_be_had(tmp_path: Path, home: Path) -> None:
    with (
        Server() as issuer,
        guarded(tmp_path / "registry", {"silly": {"realm": issuer.url("/token"), "service": "reg"}}) as host,
    ):
        reference = Reference.parse(f"{host}/x")
        issuer.answers["/token"] = lambda _: (401, {}, b"{}")
        with pytest.raises(FetchError, match=f"{host} does not give it to us: it answered 401"):
            opened(home).image(reference, "linux/amd64")
        issuer.answers["/token"] = lambda _: (200, {}, b"<html>")
        with pytest.raises(FetchError, match="it gave no token that can be read"):
            opened(home).image(reference, "linux/amd64")


# -- a real registry behind something that breaks --------------------------------------------------------------------------


@pytest.fixture
def front(registry: Registry) -> Iterator[Server]:
    """Passes everything on to the real registry."""

    def passed(request: Request) -> tuple[int, Mapping[str, str], bytes]:
        headers = {name: value for name, value in request.headers.items() if name in ("Accept", "Range")}
        try:
            with urllib.request.urlopen(
                urllib.request.Request(f"http://{registry.host}{request.path}", headers=headers)
            ) as answer:
                said = {
                    name: value
                    for name, value in answer.headers.items()
                    if name.startswith(("Content-T", "Content-R", "Docker"))
                }
                return answer.status, said, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, {}, error.read()

    with Server(otherwise=passed) as server:
        yield server


@pytest.fixture
def fronted(front: Server, registry: Registry, layout: images.Layout) -> Reference:
    layout.tag(layout.image(HELLO), "x")
    registry.push(f"oci:{layout.root}:x", "fronted", "x")
    return Reference.parse(f"{front.host}/fronted:x")


def changed(body: Callable[[bytes], bytes], front: Server) -> servers.Fault:
    def fault(handler: servers.Handler) -> None:
        assert front.otherwise
        code, headers, found = front.otherwise(Request("GET", handler.path, dict(handler.headers.items())))
        handler.send(code, headers, body(found))

    return fault


@pytest.mark.registry
def test_busy_and_breaking_registries_are_asked_again(front: Server, fronted: Reference, home: Path) -> None:
    front.faults["/v2/fronted/manifests/x"] = [
        servers.status(429, retry_after="0"),
        servers.status(500),
        servers.silent(0),
    ]
    assert opened(home).image(fronted, "linux/amd64").config.diff_ids
    assert len(front.seen) == 5


@pytest.mark.registry
def test_a_registry_that_sends_wrong_bytes(front: Server, fronted: Reference, home: Path, kept: Store) -> None:
    good = opened(home).image(fronted, "linux/amd64")
    spoilt = changed(lambda body: body.replace(b"2", b"3"), front)
    front.always["/v2/fronted/manifests/x"] = spoilt
    with pytest.raises(
        IntegrityError, match=f"{front.host} sent other bytes than those of sha256:{good.descriptor.digest}"
    ):
        opened(home).image(fronted, "linux/amd64")
    front.always = {f"/v2/fronted/blobs/sha256:{good.manifest.config.digest}": spoilt}
    with pytest.raises(IntegrityError, match=f"than those of sha256:{good.manifest.config.digest}"):
        opened(home).image(fronted, "linux/amd64")

    layer = good.manifest.layers[0]
    item = Input(type="blob", name="layer", sha256=layer.digest, size=layer.size, facts={"repository": fronted.name})
    front.always = {f"/v2/fronted/blobs/sha256:{layer.digest}": changed(lambda body: body[::-1], front)}
    with pytest.raises(IntegrityError, match="it has other bytes"):
        fetch([item], [BlobProvider(opened(home))], kept, downloader=quick())
    assert not kept.has_blob(layer.digest)
    front.always = {f"/v2/fronted/blobs/sha256:{layer.digest}": changed(lambda body: body[:7], front)}
    with pytest.raises(IntegrityError, match="it has 7 bytes where"):
        fetch([item], [BlobProvider(opened(home))], kept, downloader=quick())


@pytest.mark.registry
def test_what_is_no_image_says_what_it_is(front: Server, fronted: Reference, home: Path) -> None:
    old = {"schemaVersion": 1, "fsLayers": []}
    config_type = "application/vnd.cncf.helm.config.v1+json"
    chart = {
        "schemaVersion": 2,
        "config": {"mediaType": config_type, "digest": f"sha256:{HEX}", "size": 2},
        "layers": [],
    }
    foreign = {**chart, "config": {**chart["config"], "mediaType": images.CONFIG}}  # type: ignore[dict-item]
    foreign["layers"] = [
        {"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "digest": f"sha256:{HEX}", "size": 2}
    ]
    odd = {**chart, "config": {"mediaType": images.CONFIG, "digest": "sha256:../x", "size": 2}}
    for body, message in (
        (json.dumps(old), "Docker's first image format"),
        (json.dumps(chart), f"it is not a container image but {config_type}"),
        (json.dumps(foreign), "a layer that cannot be used, of type application/vnd.docker.image.rootfs.foreign"),
        (json.dumps(odd), "it is not an OCI manifest: bad digest 'sha256:../x'"),
        ("{}", "it is not an OCI manifest: no 'config'"),
        ("[]", "it is no JSON object"),
        ("[" * 100_000, "it is no JSON object"),
        ("<html>", "it is no JSON object"),
        ("x" * (4 << 20) + "x", "more than the 4194304 bytes allowed"),
    ):
        front.answers["/v2/fronted/manifests/x"] = lambda _, body=body: (200, {}, body.encode())  # type: ignore[misc]
        with pytest.raises(FetchError) as caught:
            opened(home).image(fronted, "linux/amd64")
        assert message in caught.value.message
        assert caught.value.where == str(fronted)


@pytest.mark.registry
def test_an_index_that_names_itself_ends(front: Server, fronted: Reference, home: Path) -> None:
    inner = images.descriptor(b"{}", images.INDEX)
    front.answers["/v2/fronted/manifests/x"] = lambda _: (200, {}, json.dumps({"manifests": [inner]}).encode())
    front.answers[f"/v2/fronted/manifests/{inner['digest']}"] = lambda _: (200, {"Content-Type": images.INDEX}, b"{}")
    with pytest.raises(FetchError, match="it is not an OCI manifest: no 'manifests'"):
        opened(home).image(fronted, "linux/amd64")


@pytest.mark.registry
def test_mirrors_are_asked_first_and_may_fail(
    front: Server, fronted: Reference, registry: Registry, home: Path
) -> None:
    settings = config.Registries(mirrors={"registry.example.invalid": (front.url("/"), f"http://{registry.host}")})
    reference = Reference.parse("registry.example.invalid/fronted:x")
    image = opened(home, settings).image(reference, "linux/amd64")
    assert len(front.seen) == 2
    front.always = dict.fromkeys((request.path for request in front.seen), servers.status(404))
    assert opened(home, settings).image(reference, "linux/amd64") == image
    urls = [place.url for place in opened(home, settings).repository(reference).locations("0" * 64, images.GZIP)]
    assert [url.partition("/v2/")[0] for url in urls] == [
        front.url(""),
        f"http://{registry.host}",
        "https://registry.example.invalid",
    ]


def test_http_is_only_for_this_machine_and_what_the_user_names(home: Path) -> None:
    registries = opened(home, config.Registries(insecure=("lab.example:5000",)))
    schemes = {
        name: registries.repository(Reference.parse(f"{name}/x")).locations(HEX, "")[0].url.partition(":")[0]
        for name in ("localhost", "localhost:1", "127.1.2.3:5", "[::1]:5", "lab.example:5000", "lab.example", "ghcr.io")
    }
    assert list(schemes.values()) == ["http"] * 5 + ["https"] * 2
    (hub,) = registries.repository(Reference.parse("python")).locations(HEX, "")
    assert hub.url.startswith("https://registry-1.docker.io/v2/library/python/blobs/sha256:")
