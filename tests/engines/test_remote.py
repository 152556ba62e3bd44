"""Built layers shared through a real registry: two machines, and a remote that loses, swaps, refuses and dies."""

from __future__ import annotations

import json
import re
import shutil
import socket
import tomllib
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reprobox import engine
from reprobox.oci import remote
from tests.engines.ordinary import OrdinaryUser
from tests.engines.registry import Registry
from tests.local import HEAD, programs_in, running
from tests.machine import Machine, Told
from tests.registry_proxy import Answer, Proxy, Request, answer, changed, cut, swapped, truncated

pytestmark = [pytest.mark.registry, pytest.mark.userns]

# Hard links, links, a deletion, a folder that hides what is in it, a name in another alphabet, an old file, a sticky folder.
STEP = """\
mkdir -p /opt/deep/closed /opt/wide
echo one > /opt/deep/first; ln /opt/deep/first /opt/deep/second; ln -s first /opt/deep/third
echo hidden > /opt/deep/closed/file
echo héllo > "/opt/deep/nämé with space"
echo long > "/opt/deep/$(printf 'n%.0s' 1 2 3 4 5 6 7 8 9 10)-0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"
rm /etc/shared/gone; chmod 700 /opt/deep/first; chmod 1777 /opt/wide
chmod 0 /opt/deep/closed
"""
LAYERS = '[[layers]]\nname = "files"\nkind = "copy"\nfiles = [{ from = "conf", to = "/etc/shared" }]\n' + running(
    "step", STEP
)
NAMES = ["base", "files", "step", "skeleton"]
REPOSITORY = "team/layers"


@pytest.fixture(scope="module")
def made(session_folder: Path, registry: Registry) -> Machine:
    """The machine where it was built, sealed and pushed."""
    path = session_folder / "shared-builds"
    programs_in(path)
    (path / "conf").mkdir()
    (path / "conf/gone").write_text("gone\n")
    (path / "conf/stays").write_text("stays\n")
    (path / "research.toml").write_text(HEAD + LAYERS)
    machine = Machine(path=path, store=session_folder / "shared-builds-store")
    machine("lock", "--seal")
    told = machine("cache", "push", f"{registry.host}/{REPOSITORY}", "--json").json
    assert [(layer["name"], layer["state"]) for layer in told["layers"]] == [(name, "sent") for name in NAMES]
    return machine


@pytest.fixture(scope="module")
def digests(made: Machine) -> tuple[str, str]:
    told = made("realize", "--json").json
    return told["tree_digest"], told["image_digest"]


@pytest.fixture
def proxy(registry: Registry) -> Iterator[Proxy]:
    with Proxy(registry.host) as running_proxy:
        yield running_proxy


@pytest.fixture
def there(proxy: Proxy) -> str:
    """The remote, as seen through the proxy."""
    return f"{proxy.host}/{REPOSITORY}"


def without_seal(machine: Machine) -> Machine:
    lock = machine.path / "research.lock"
    lock.write_text(re.sub(r"\n\[targets\.default\.seal.*", "", lock.read_text(), flags=re.DOTALL) + "\n")
    return machine


def realized(machine: Machine, digests: tuple[str, str]) -> tuple[Told, dict[str, str]]:
    """Realize; how each layer came."""
    told = machine("realize", "--json")
    assert (told.json["tree_digest"], told.json["image_digest"]) == digests
    return told, {layer["name"]: "taken" if "remote" in layer else "built" for layer in told.json["layers"]}


def identity(made: Machine, name: str) -> str:
    """The layer id that the lock says."""
    lock = tomllib.loads((made.path / "research.lock").read_text())
    return next(
        "sha256:" + layer["id"].removeprefix("sha256:")
        for layer in lock["targets"]["default"]["layers"]
        if layer["name"] == name
    )


def tag_of(made: Machine, name: str) -> str:
    return "layer-" + identity(made, name).removeprefix("sha256:")


def manifest(registry: Registry, tag: str, repository: str = REPOSITORY) -> dict[str, Any]:
    accepted = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
    with urllib.request.urlopen(
        urllib.request.Request(f"http://{registry.host}/v2/{repository}/manifests/{tag}", headers=accepted)
    ) as found:
        document: dict[str, Any] = json.load(found)
    return document


def blob_of(registry: Registry, made: Machine, name: str) -> str:
    return str(manifest(registry, tag_of(made, name))["layers"][0]["digest"])


# -- two machines ------------------------------------------------------------------------------------------------------


def test_another_machine_builds_nothing(made: Machine, there: str, tmp_path: Path, digests: tuple[str, str]) -> None:
    other = made.another(tmp_path, REPROBOX_REMOTE=there)
    told, how = realized(other, digests)
    assert how == dict.fromkeys(NAMES, "taken")
    assert "building" not in told.err
    for layer in (made.store / "layers").iterdir():
        assert (other.store / "layers" / layer.name / "index").read_bytes() == (layer / "index").read_bytes()
        ours, theirs = (
            json.loads((store / "layers" / layer.name / "layer.json").read_bytes())
            for store in (made.store, other.store)
        )
        assert {**ours, "seconds": 0, "remote": there} == {**theirs, "seconds": 0}
    assert not list((other.store / "partial").iterdir())
    assert "0 things damaged" in other("cache", "verify").out
    assert (
        "stays"
        in other("export", "--format", "rootfs", "-o", tmp_path / "tree").out
        + (tmp_path / "tree/etc/shared/stays").read_text()
    )
    assert not (tmp_path / "tree/etc/shared/gone").exists()


def test_layers_are_artifacts(made: Machine, registry: Registry) -> None:
    document = manifest(registry, tag_of(made, "step"))
    record = json.loads(
        (made.store / "layers" / identity(made, "step").removeprefix("sha256:") / "layer.json").read_bytes()
    )
    assert document["artifactType"] == "application/vnd.reprobox.layer.v1"
    assert document["layers"][0]["mediaType"] == "application/vnd.oci.image.layer.v1.tar+zstd"
    assert document["annotations"] == {
        "reprobox.layer": identity(made, "step"),
        "reprobox.diff-id": f"sha256:{record['diff_id']}",
        "reprobox.size": str(record["size"]),
        "org.opencontainers.image.title": "step",
    }


def test_pushing_again_sends_nothing(made: Machine, there: str, proxy: Proxy) -> None:
    told = made("cache", "push", there)
    assert told.out == f"{there} has 4 layers of this project (0 new)\n"
    assert not proxy.asked("POST", "")
    assert not proxy.asked("PUT", "")


def test_pull_takes_what_is_there(made: Machine, there: str, tmp_path: Path) -> None:
    other = made.another(tmp_path)
    assert other("cache", "pull", there).out == f"took 4 layers from {there}; 0 were in the store\n"
    again = other("cache", "pull", there, "--json").json
    assert [(layer["name"], layer["state"]) for layer in again["layers"]] == [(name, "here") for name in NAMES]
    assert "building" not in other("realize", "--offline").err


def test_graph_shows_what_is_there(made: Machine, registry: Registry, there: str, proxy: Proxy, tmp_path: Path) -> None:
    proxy.break_("GET", f"/manifests/{tag_of(made, 'files')}", answer(404))
    other = made.another(tmp_path, REPROBOX_REMOTE=there)
    assert {row["state"] for row in other("graph", "--json").json["layers"]} == {"missing"}
    assert proxy.seen == []  # nobody is asked without being told to
    rows = {row["name"]: row for row in other("graph", "--remote", "--json").json["layers"]}
    assert {name: row["state"] for name, row in rows.items()} == {**dict.fromkeys(NAMES, "remote"), "files": "missing"}
    size = sum(layer["size"] for layer in manifest(registry, tag_of(made, "step"))["layers"])
    assert (rows["step"]["take_size"], rows["step"]["to_fetch"], rows["files"]["take_size"]) == (size, 0, None)
    told = other("graph", "--remote").out
    assert f"step (run) · at the remote, {size} B to take" in told
    assert re.search(r"^0 of 4 layers in the store, 3 at the remote \(.* to take\), 1 to be built$", told, re.MULTILINE)
    assert "at the remote" in other("graph", "--remote", "--format", "svg").out
    other("cache", "pull")
    assert {row["state"] for row in other("graph", "--remote", "--json").json["layers"]} == {"stored", "missing"}


def test_graph_says_why_the_remote_is_not_told_of(made: Machine, there: str, proxy: Proxy, tmp_path: Path) -> None:
    told = without_seal(made.another(tmp_path / "a", REPROBOX_REMOTE=there))("graph", "--remote")
    assert told.err == f"{there} was not asked: no seal vouches for what it has (`reprobox lock --seal` makes one)\n"
    assert proxy.seen == []
    proxy.break_("GET", f"/manifests/{tag_of(made, 'step')}", changed(lambda body: body[:40]))
    told = made.another(tmp_path / "b", REPROBOX_REMOTE=there)("graph", "--remote")
    assert f"warning: layer 'step' at {there}: what it has under this layer's name is no layer: manifest " in told.err
    assert re.search(r"step \(run\) · .*to be built", told.out)
    none = made.another(tmp_path / "c").call("graph", "--remote")
    assert none.status == 2
    assert none.err == (
        "error: --remote: the settings name no remote\n"
        "  hint: set `repository` in [remote] of the settings, or REPROBOX_REMOTE\n"
    )
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        dead = f"127.0.0.1:{nobody.getsockname()[1]}/a/b"
    unheard = made.another(tmp_path / "d", REPROBOX_REMOTE=dead).call("graph", "--remote")
    assert (unheard.status, unheard.err.splitlines()[0]) == (
        1,
        f"error: {dead}: it cannot be reached: Connection refused",
    )


def test_what_is_not_there_is_built(
    made: Machine, registry: Registry, proxy: Proxy, there: str, tmp_path: Path, digests: tuple[str, str]
) -> None:
    """A layer that stands on others is taken before these are built."""
    proxy.break_("GET", f"/manifests/{tag_of(made, 'files')}", answer(404))
    other = made.another(tmp_path, REPROBOX_REMOTE=there)
    pulled = other("cache", "pull", there)
    assert pulled.out.splitlines()[1] == "not there: files; `reprobox realize` builds them"
    shutil.rmtree(other.store)
    assert realized(other, digests)[1] == {"base": "taken", "files": "built", "step": "taken", "skeleton": "taken"}


def test_a_changed_layer_is_built_on_what_is_taken(made: Machine, there: str, tmp_path: Path) -> None:
    other = made.another(tmp_path, REPROBOX_REMOTE=there, REPROBOX_REMOTE_TRUST="pushers")
    with (other.path / "research.toml").open("a") as text:
        text.write(running("more", "cat /opt/deep/first > /opt/more"))
    other("lock")
    how = {layer["name"]: "remote" in layer for layer in other("realize", "--json").json["layers"]}
    assert how == {"base": True, "files": True, "step": True, "more": False, "skeleton": False}


@pytest.mark.slow
@pytest.mark.ordinary
def test_another_user_builds_nothing(
    made: Machine, registry: Registry, user: OrdinaryUser, digests: tuple[str, str]
) -> None:
    project = user.copy(made.path, "shared-builds")
    environment = {
        "REPROBOX_REMOTE": f"{registry.host}/{REPOSITORY}",
        "REPROBOX_STORE": str(user.home / "remote-store"),
    }
    done = user.run([user.command, "realize", "--json", "-C", project], env=environment)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["tree_digest"], told["image_digest"]) == digests
    assert all("remote" in layer for layer in told["layers"])
    assert "building" not in done.stderr


# -- trust -------------------------------------------------------------------------------------------------------------


def test_without_a_seal_nothing_is_taken(
    made: Machine, there: str, proxy: Proxy, tmp_path: Path, digests: tuple[str, str]
) -> None:
    other = without_seal(made.another(tmp_path, REPROBOX_REMOTE=there))
    told, how = realized(other, digests)
    assert set(how.values()) == {"built"}
    assert f"{there} was not asked: no seal vouches for what it has (`reprobox lock --seal` makes one)\n" in told.err
    assert proxy.seen == []


def test_pull_without_a_seal_is_refused(made: Machine, there: str, proxy: Proxy, tmp_path: Path) -> None:
    told = without_seal(made.another(tmp_path)).call("cache", "pull", there)
    assert told.status == 2
    assert told.err == (
        f"error: {there}: no seal vouches for base, files, step, skeleton: a layer id says how a layer is built, and proves nothing"
        " about the bytes that somebody pushed under it\n"
        "  hint: seal the lock where it is built (`reprobox lock --seal`), or take them on the word of whoever may push there: --trust pushers\n"
    )
    assert proxy.seen == []


def test_pushers_may_be_trusted(made: Machine, there: str, tmp_path: Path, digests: tuple[str, str]) -> None:
    other = without_seal(made.another(tmp_path, REPROBOX_REMOTE=there, REPROBOX_REMOTE_TRUST="pushers"))
    assert set(realized(other, digests)[1].values()) == {"taken"}


def test_a_seal_is_made_of_what_was_built_here(made: Machine, there: str, proxy: Proxy, tmp_path: Path) -> None:
    other = without_seal(made.another(tmp_path, REPROBOX_REMOTE=there, REPROBOX_REMOTE_TRUST="pushers"))
    told = other("lock", "--seal")
    assert "building step" in told.err
    assert "was not asked" not in told.err
    assert (other.path / "research.lock").read_bytes() == (made.path / "research.lock").read_bytes()


def test_other_bytes_than_sealed_are_not_taken(
    made: Machine, registry: Registry, proxy: Proxy, there: str, tmp_path: Path, digests: tuple[str, str]
) -> None:
    """Somebody who may push gave a layer of their own, in good order, under the layer's name."""
    own = made.another(tmp_path / "evil")
    step = (own.path / "research.toml").read_text()
    (own.path / "research.toml").write_text(step.replace("echo one", "echo evil"))
    own("lock", "--seal")
    evil = f"{registry.host}/evil/layers"
    own("cache", "push", evil)
    tag = tag_of(own, "step")
    document = manifest(registry, tag, "evil/layers")
    document["annotations"]["reprobox.layer"] = identity(made, "step")
    theirs = json.dumps(document).encode()
    proxy.break_("GET", f"/manifests/{tag_of(made, 'step')}", answer(200, theirs))
    other = made.another(tmp_path, REPROBOX_REMOTE=there)
    told, how = realized(other, digests)
    assert how["step"] == "built"
    found = document["annotations"]["reprobox.diff-id"]
    assert (
        f"warning: layer 'step' is not taken from {there}: it has other bytes for this layer: their diff id is {found}, and sealed is sha256:"
        in told.err
    )


# -- a remote that fails -----------------------------------------------------------------------------------------------


def of_another(made: Machine, registry: Registry) -> Any:
    return answer(200, json.dumps(manifest(registry, tag_of(made, "files"))).encode())


FAULTS: list[Any] = [
    ("blobs", answer(404), "it has lost the blob sha256:"),
    ("blobs", swapped(), "it has other bytes: their sha256 is "),
    ("blobs", truncated(), " bytes where "),
    ("manifests", changed(lambda body: body[:40]), "what it has under this layer's name is no layer: manifest sha256:"),
    (
        "manifests",
        changed(lambda body: body.replace(b"reprobox.size", b"reprobox.else")),
        "what it has under this layer's name is no layer: manifest sha256:",
    ),
    ("manifests", of_another, "it has another layer under this layer's name: sha256:"),
]


@pytest.mark.parametrize("case", FAULTS, ids=["lost", "swapped", "truncated", "garbage", "unsaid", "exchanged"])
def test_what_is_wrong_there_is_named_and_built(
    made: Machine,
    registry: Registry,
    proxy: Proxy,
    there: str,
    tmp_path: Path,
    digests: tuple[str, str],
    case: tuple[str, Any, str],
) -> None:
    what, fault, words = case
    path = blob_of(registry, made, "step") if what == "blobs" else tag_of(made, "step")
    proxy.break_("GET", f"/{what}/{path}", fault(made, registry) if fault is of_another else fault)
    other = made.another(tmp_path)
    asked = other.call("cache", "pull", there)
    assert asked.status == 5
    assert asked.err.splitlines()[-2].startswith(
        f"error: layer 'step' at {there}: {words}" if words[0] != " " else "error: layer 'step' at"
    )
    assert words in asked.err
    assert (
        asked.err.splitlines()[-1]
        == "  hint: build it here (`reprobox realize`), and replace it there: `reprobox cache push --replace`"
    )
    told, how = realized(other.knowing(REPROBOX_REMOTE=there), digests)
    assert re.search(
        rf"warning: layer 'step' is not taken from {there}: .*{re.escape(words)}.*; it is built instead\n", told.err
    )
    assert how == {"base": "taken", "files": "taken", "step": "built", "skeleton": "taken"}


@pytest.mark.parametrize("fault", [answer(500), answer(429, retry_after="0"), cut()], ids=["500", "429", "cut"])
def test_one_failure_is_survived(
    made: Machine, registry: Registry, proxy: Proxy, there: str, tmp_path: Path, digests: tuple[str, str], fault: Any
) -> None:
    proxy.break_("GET", "/manifests/", fault, times=1)
    proxy.break_("GET", f"/blobs/{blob_of(registry, made, 'base')}", fault, times=1)
    assert set(realized(made.another(tmp_path, REPROBOX_REMOTE=there), digests)[1].values()) == {"taken"}


@pytest.mark.parametrize(
    ("fault", "words"),
    [(answer(500), "it answered 500 Internal Server Error"), (answer(401), "it answered 401 Unauthorized")],
    ids=["500", "401"],
)
def test_a_remote_that_refuses_is_told_once(
    made: Machine, proxy: Proxy, there: str, tmp_path: Path, digests: tuple[str, str], fault: Any, words: str
) -> None:
    proxy.break_("GET", "", fault)
    other = made.another(tmp_path, REPROBOX_REMOTE=there)
    told, how = realized(other, digests)
    assert told.err.count(f"warning: {there} is not used: {words}\n") == 1
    assert set(how.values()) == {"built"}
    shutil.rmtree(other.store)
    assert other.call("cache", "pull").status == 1


def test_a_dead_remote_is_a_warning(made: Machine, tmp_path: Path, digests: tuple[str, str]) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        dead = f"127.0.0.1:{nobody.getsockname()[1]}/a/b"
    told, how = realized(made.another(tmp_path, REPROBOX_REMOTE=dead, REPROBOX_REMOTE_PUSH="1"), digests)
    assert told.err.count(f"warning: {dead} is not used: it cannot be reached: Connection refused\n") == 1
    assert told.err.count(f"warning: nothing is pushed to {dead}: it cannot be reached: Connection refused\n") == 1
    assert set(how.values()) == {"built"}


def test_a_silent_remote_is_not_waited_for(
    made: Machine, tmp_path: Path, digests: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_SILENCE", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        name = f"127.0.0.1:{silent.getsockname()[1]}/a/b"
        told, how = realized(made.another(tmp_path, REPROBOX_REMOTE=name), digests)
    assert f"warning: {name} is not used: it does not answer within " in told.err
    assert set(how.values()) == {"built"}


def test_a_slow_remote_is_not_waited_for(
    made: Machine, there: str, tmp_path: Path, digests: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_PATIENCE", 0.0)
    monkeypatch.setattr(engine, "_SLOW", 10**12)
    told, how = realized(made.another(tmp_path, REPROBOX_REMOTE=there), digests)
    assert re.search(
        rf"warning: layer 'base' is not taken from {there}: it sends only \d+ kB a second; it is built instead\n",
        told.err,
    )
    assert how["base"] == "built"


def test_offline_asks_nobody(made: Machine, proxy: Proxy, there: str, tmp_path: Path) -> None:
    told = made.another(tmp_path, REPROBOX_REMOTE=there, REPROBOX_REMOTE_PUSH="1")("realize", "--offline")
    assert "building step" in told.err
    assert proxy.seen == []


# -- pushing -----------------------------------------------------------------------------------------------------------


def without_artifacts(request: Request, ask: Any) -> Answer:
    if b'"artifactType"' in request.body:
        return Answer(400, {}, b'{"errors": [{"code": "MANIFEST_INVALID", "message": "unknown field"}]}')
    answered: Answer = ask(request)
    return answered


def test_a_registry_without_artifacts_has_images(
    made: Machine, registry: Registry, proxy: Proxy, tmp_path: Path, digests: tuple[str, str]
) -> None:
    proxy.break_("PUT", "/manifests/", without_artifacts)
    name = f"{proxy.host}/old/layers"
    made("cache", "push", name)
    document = manifest(registry, tag_of(made, "step"), "old/layers")
    assert "artifactType" not in document
    assert document["config"]["mediaType"] == "application/vnd.oci.image.config.v1+json"
    assert set(realized(made.another(tmp_path, REPROBOX_REMOTE=name), digests)[1].values()) == {"taken"}


def test_what_is_built_is_pushed_by_itself(
    made: Machine, registry: Registry, tmp_path: Path, digests: tuple[str, str]
) -> None:
    name = f"{registry.host}/automatic/layers"
    settings = {"REPROBOX_REMOTE": name, "REPROBOX_REMOTE_PUSH": "1"}
    told, _ = realized(made.another(tmp_path / "one", **settings), digests)
    assert f"pushed 4 layers to {name}\n" in told.err
    told, how = realized(made.another(tmp_path / "two", **settings), digests)
    assert set(how.values()) == {"taken"}
    assert "pushed" not in told.err


def test_other_bytes_are_not_overwritten(made: Machine, registry: Registry, tmp_path: Path) -> None:
    """A step that uses a clock: two machines build two layers under one id."""
    clock = made.another(tmp_path / "one")
    (clock.path / "research.toml").write_text(HEAD + running("clock", "cat /proc/sys/kernel/random/uuid > /opt-now"))
    clock("lock")
    clock("realize")
    twin = clock.another(tmp_path / "two")
    twin("realize")
    name = f"{registry.host}/clock/layers"
    clock("cache", "push", name)
    told = twin.call("cache", "push", name)
    assert told.status == 5
    assert re.fullmatch(
        rf"error: layer 'clock' at {name}: it has other bytes for this layer: their diff id is sha256:\w+, and here it is sha256:\w+",
        told.err.splitlines()[-2],
    )
    assert told.err.splitlines()[-1] == (
        "  hint: its step does not always give the same bytes, or somebody pushed others: look at both, then `reprobox cache push --replace`"
    )
    assert f"{name} has 3 layers of this project (1 new)\n" in twin("cache", "push", name, "--replace").out
    assert f"{name} has 3 layers of this project (0 new)\n" in twin("cache", "push", name).out


def test_what_is_not_built_is_not_pushed(made: Machine, there: str, tmp_path: Path) -> None:
    told = made.another(tmp_path)("cache", "push", there)
    assert told.out == (
        f"{there} has 0 layers of this project (0 new)\n"
        "not built here, and so not sent: base, files, step, skeleton; `reprobox realize` them first\n"
    )


# -- wrong use ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "environment", "words"),
    [
        (
            ["push"],
            {},
            "error: no remote is given, and the settings name none\n  hint: `reprobox cache push registry.example/group/layers`, or set `repository` in [remote] of the settings\n",
        ),
        (
            ["pull", "host.example/a:1"],
            {},
            "error: host.example/a:1: 'host.example/a:1' names one image, and a remote is a repository with a tag for each layer\n  hint: leave out what follows host.example/a\n",
        ),
        (
            ["pull"],
            {"REPROBOX_REMOTE": "Host/A"},
            "error: REPROBOX_REMOTE: 'A' is not an image's name: it must be in lower case\n  hint: such as registry.example/group/layers\n",
        ),
        (["pull", "--target", "gpu"], {"REPROBOX_REMOTE": "host.example/a"}, 'there is no target "gpu"'),
    ],
    ids=["none", "tag", "name", "target"],
)
def test_wrong_use_is_refused(made: Machine, argv: list[str], environment: dict[str, str], words: str) -> None:
    told = made.knowing(**environment).call("cache", *argv)
    assert told.status == 2
    assert words in told.err


def test_pushers_are_not_trusted_over_http(made: Machine, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(
        '[registries]\ninsecure = ["lan.example:5000"]\n[remote]\nrepository = "lan.example:5000/a"\ntrust = "pushers"\n'
    )
    told = made.knowing(REPROBOX_CONFIG=str(tmp_path / "config.toml")).call("cache", "pull")
    assert told.status == 2
    assert told.err == (
        "error: lan.example:5000/a: lan.example:5000 is asked over http, where anybody on the way may change a layer, and no seal would tell\n"
        '  hint: set trust = "seal" in [remote], or give the registry TLS\n'
    )


# -- bases that are images ---------------------------------------------------------------------------------------------


def test_a_base_that_is_an_image_stays_where_it_is(made: Machine, registry: Registry, tmp_path: Path) -> None:
    made("export", "--push", f"{registry.host}/shared-base:1")
    (tmp_path / "one").mkdir()
    head = HEAD.replace('rootfs = "base"', f'image = "{registry.host}/shared-base:1"')
    (tmp_path / "one/research.toml").write_text(head + running("more", "cat /opt/deep/first > /opt/more"))
    machine = Machine(path=tmp_path / "one", store=tmp_path / "store")
    machine("lock", "--seal")
    told = machine("cache", "push", f"{registry.host}/on-image/layers")
    assert (
        "has 2 layers of this project (2 new)\nbase is an image, and stays where it came from: others unpack it themselves\n"
        in told.out
    )
    other = machine.another(tmp_path / "two", REPROBOX_REMOTE=f"{registry.host}/on-image/layers")
    own = machine("realize", "--json").json
    _, how = realized(other, (own["tree_digest"], own["image_digest"]))
    assert how == {"base": "built", "more": "taken", "skeleton": "taken"}
    third = machine.another(tmp_path / "three", REPROBOX_REMOTE=f"{registry.host}/on-image/layers")
    assert third("cache", "pull").out.endswith(
        "0 were in the store\nbase is an image, and stays where it came from: `reprobox realize` unpacks it\n"
    )
