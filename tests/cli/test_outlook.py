"""What `reprobox outlook` finds where upstream forgets: a real registry, and servers with real packages and wheels."""

from __future__ import annotations

import hashlib
import os
import ssl
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from reprobox.debian import provider as debian
from reprobox.debian.sources import Source
from reprobox.layers.code import code_hash
from reprobox.layers.image import Image
from reprobox.lock import Input, Lock, LockedLayer, LockedTarget, with_ids
from reprobox.lock_text import write
from reprobox.manifest_reader import parse
from reprobox.outlook.fix import edit
from reprobox.plugins import Plugins
from reprobox.store import Store
from tests import bases, images
from tests.cli.conftest import Project
from tests.debs import Key, Suite, make_deb, serve
from tests.engines.registry import Registry
from tests.python_index import Index
from tests.servers import Server

FIX = ("--fix", "--without-reprobox")
MOMENT, SECONDS = "20260711T101637Z", 1783764997
MANIFEST = """\
[project]
name = "seen"
version = "1"

[base]
image = "{image}"

[[layers]]
name = "system"
kind = "apt"
packages = ["jq"]

[[layers]]
name = "python"
kind = "pip"
packages = ["demo==1.0"]
"""
CONFIG = """\
# mine
jobs = 4

[archives]
debian = ["{base}/mirror"]

[snapshots]
debian = ["{base}/snapshot/archive/debian"]

[index]
url = "{index}"
"""


@dataclass
class World:
    """A locked project, and the servers that have what its lock names."""

    project: Project
    server: Server
    index: Index
    registry: Registry
    reference: str
    deb: Input
    wheel: Input
    base: LockedLayer
    config: Path

    def __call__(self, *options: str) -> Any:
        return self.project("outlook", "--fresh", *options)

    def finding(self, kind: str, told: Any) -> dict[str, Any]:
        (found,) = [item for item in told.json["findings"] if item["kind"] == kind]
        return found

    def input(self, item: Input, told: Any) -> dict[str, Any]:
        found = [one for layer in told.json["layers"] for one in layer["inputs"]]
        return next(one for one in found if one["sha256"] == item.sha256)

    def drop_deb(self) -> None:
        del self.server.files[f"/mirror/{self.deb.facts['path']}"]

    def snapshot(self, data: bytes) -> None:
        self.server.files[f"/snapshot/archive/debian/{MOMENT}/{self.deb.facts['path']}"] = data

    def delete_tag(self) -> None:
        """As an owner does it: the manifest goes, the blobs wait for garbage collection."""
        manifest = next(item for item in self.base.inputs if item.name == "manifest.json")
        name = self.reference.partition("/")[2].rpartition(":")[0]
        url = f"http://{self.registry.host}/v2/{name}/manifests/sha256:{manifest.sha256}"
        urllib.request.urlopen(urllib.request.Request(url, method="DELETE")).close()


def locked_project(root: Path, text: str, layers: list[LockedLayer]) -> None:
    manifest = parse(text, kinds=Plugins(discover=False).kinds)
    root.mkdir(exist_ok=True)
    (root / "research.toml").write_text(text)
    target = LockedTarget(name="default", platform="linux/amd64", layers=with_ids(layers, SECONDS))
    lock = Lock(
        epoch=SECONDS,
        manifest=manifest.digest(),
        keys=dict(manifest.keys()),
        targets={"default": target},
        code=code_hash(root, manifest),
    )
    (root / "research.lock").write_text(write(lock))


def deb_of(folder: Path, name: str) -> tuple[Input, bytes]:
    data = make_deb(folder, name).read_bytes()
    facts = {
        "package": name,
        "version": "1.0",
        "architecture": "amd64",
        "archive": "debian",
        "suite": "bookworm",
        "path": f"pool/main/{name}_1.0_amd64.deb",
        "sha1": hashlib.sha1(data, usedforsecurity=False).hexdigest(),
    }
    digest = hashlib.sha256(data).hexdigest()
    return Input(type="deb", name=f"{name}_1.0_amd64.deb", sha256=digest, size=len(data), facts=facts), data


def apt_layer(items: list[Input], key: Key) -> LockedLayer:
    indices = [
        {"archive": "debian", "suite": "bookworm", "date": SECONDS, "sha256": "0" * 64, "signer": key.fingerprint}
    ]
    return LockedLayer(
        name="system",
        kind="apt",
        recipe=1,
        request="",
        parents=("base",),
        inputs=tuple(items),
        facts={"indices": indices, "keys": key.armored.decode()},
    )


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture
def index() -> Iterator[Index]:
    with Server() as running:
        yield Index(running)


@pytest.fixture
def settings(server: Server, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a user with a mirror, a snapshot service and an index, on a machine whose apt knows nothing."""
    monkeypatch.setattr(debian, "host_sources", tuple)
    path = tmp_path / "config.toml"
    base = server.url("/").rstrip("/")
    path.write_text(CONFIG.format(base=base, index=index.url))
    monkeypatch.setenv("REPROBOX_CONFIG", str(path))
    return path


@pytest.fixture
def world(
    server: Server, index: Index, settings: Path, tmp_path: Path, registry: Registry, monkeypatch, capsys
) -> World:
    store = Path(os.environ["REPROBOX_STORE"])
    wheel_data = index.add("demo", "1.0")
    facts = {"package": "demo", "version": "1.0", "python": "3.11"}
    digest = hashlib.sha256(wheel_data).hexdigest()
    wheel = Input(type="wheel", name="demo-1.0-py3-none-any.whl", sha256=digest, size=len(wheel_data), facts=facts)
    deb, deb_data = deb_of(tmp_path, "jq")
    server.files[f"/mirror/{deb.facts['path']}"] = deb_data
    layout = images.Layout(tmp_path / "layout")
    layout.tag(layout.image(images.tar(images.entry("hello", tmp_path.name.encode()))), "v1")
    reference = registry.push(f"oci:{tmp_path}/layout:v1", f"outlook/{tmp_path.name.lower()}", "v1")
    small = bases.SmallWorld(Store(store), tmp_path, bases.registries(tmp_path))
    found = Image().resolve(bases.asked(small, {"image": reference}))
    base = replace(bases.locked(found), id="")
    python = LockedLayer(name="python", kind="pip", recipe=2, request="", parents=("system",), inputs=(wheel,))
    root = tmp_path / "project"
    locked_project(root, MANIFEST.format(image=reference), [base, apt_layer([deb], Key()), python])
    monkeypatch.chdir(root)
    return World(
        project=Project(root, capsys),
        server=server,
        index=index,
        registry=registry,
        reference=reference,
        deb=deb,
        wheel=wheel,
        base=base,
        config=settings,
    )


# -- what is found -----------------------------------------------------------------------------------------------------


@pytest.mark.registry
def test_all_is_there_and_nothing_is_downloaded(world: World):
    told = world("--json")
    assert told.status == 0, told.err
    assert told.json["grade"] == "D"
    assert {item["grade"] for layer in told.json["layers"] for item in layer["inputs"]} == {"D"}
    assert {item["kind"] for item in told.json["findings"]} == {"single", "ends"}
    seen = [*world.server.seen, *world.index._server.seen]
    big = [request for request in seen if request.path.endswith((".deb", ".whl"))]
    assert len(big) == 4  # the snapshot service is asked too, by date and by hash
    assert {request.method for request in big} == {"HEAD"}
    (base,) = [layer for layer in told.json["layers"] if layer["name"] == "base"]
    assert base["tag"] == {"name": world.reference, "state": "has", "said": base["tag"]["said"]}


@pytest.mark.registry
def test_a_vanished_tag_a_dropped_deb_and_a_yanked_wheel(world: World):
    world.delete_tag()
    world.drop_deb()
    world.index.yanked[world.wheel.name] = "it counts wrongly"
    told = world("--json")
    assert (told.status, told.json["grade"]) == (6, "F")

    gone = world.finding("tag-gone", told)
    assert gone["message"] == (
        f"the registry has no image {world.reference} any more; its blobs may be removed at any time"
    )
    assert gone["do"].startswith("keep a vault while they are there: `reprobox outlook --fix`")
    only_here = world.finding("only-here", told)  # its manifest, which locking left in the store
    assert [item["name"] for item in only_here["inputs"]] == ["manifest.json"]
    assert "keep a vault now" in only_here["do"]

    lost = world.finding("lost", told)
    base = world.server.url("/").rstrip("/")
    assert [item["name"] for item in lost["inputs"]] == ["jq_1.0_amd64.deb"]
    assert lost["said"] == [
        f"debian ({base}/mirror): it answered 404 Not Found",
        f"debian of {MOMENT} ({base}/snapshot/archive/debian): it answered 404 Not Found",
    ]
    assert "reprobox lock --upgrade-package" in lost["do"]

    yanked = world.finding("yanked", told)
    assert yanked["message"] == "its owner has withdrawn it: it counts wrongly"
    assert [item["name"] for item in yanked["inputs"]] == [world.wheel.name]
    assert world.input(world.wheel, told)["yanked"] == "it counts wrongly"


@pytest.mark.registry
def test_people_see_a_table_and_what_to_do(world: World):
    world.drop_deb()
    told = world()
    assert told.status == 6
    lines = told.out.splitlines()
    assert lines[0] == "grade F: 1 of 5 inputs: no place has it"
    assert lines[1] == "inputs: 4 D, 1 F"
    assert lines[3:7] == [
        "layer   inputs  in a vault  one supplier  none  grade",
        "base         3           0             3     0      D",
        "system       1           0             0     1      F",
        "python       1           0             1     0      D",
    ]
    assert "lost (1): no place has it any more\n  jq_1.0_amd64.deb\n" in told.out
    assert "jq_1.0_amd64.deb\n       lost" not in told.out
    shown = world("--all").out
    assert f"  F  {world.deb.name}\n       lost     debian (" in shown
    assert "       has      the Python index\n" in shown


@pytest.mark.registry
def test_a_snapshot_service_that_has_what_the_archive_dropped_is_a_supplier(world: World, tmp_path: Path):
    data = world.server.files[f"/mirror/{world.deb.facts['path']}"]
    world.drop_deb()
    world.snapshot(data)
    told = world("--json")
    assert told.status == 0
    found = world.input(world.deb, told)
    assert found["grade"] == "C"
    assert [(one["kind"], one["state"], one["rules"]) for one in found["suppliers"]] == [
        ("mirror", "lost", []),
        ("snapshot", "has", ["debian-snapshot"]),
    ]
    dropped = world.finding("dropped", told)
    assert dropped["message"] == "a place has dropped it; others still have it"
    assert f"debian of {MOMENT} ({world.server.url('/snapshot/archive/debian')}): it has it" in dropped["said"]


@pytest.mark.registry
def test_a_tag_that_moved_a_wheel_that_is_gone_and_a_deb_that_was_replaced(world: World, tmp_path: Path):
    layout = images.Layout(tmp_path / "other")
    layout.tag(layout.image(images.tar(images.entry("hello", b"again"))), "v1")
    repository, _, tag = world.reference.partition("/")[2].rpartition(":")
    world.registry.push(f"oci:{tmp_path}/other:v1", repository, tag)
    world.index.forget("demo", world.wheel.name)
    world.server.files[f"/mirror/{world.deb.facts['path']}"] += b"more"
    told = world("--json")
    assert told.status == 6
    assert "is another image now than the one that is locked" in world.finding("tag-moved", told)["message"]
    (said,) = world.finding("replaced", told)["said"]
    assert said.endswith(f"it has {world.deb.size + 4} bytes under this name where {world.deb.size} are locked")
    lost = world.finding("lost", told)
    assert sorted(item["name"] for item in lost["inputs"]) == sorted([world.deb.name, world.wheel.name])
    assert world.input(world.wheel, told)["suppliers"][0]["said"] == "it does not list it any more"


@pytest.mark.registry
def test_in_ci_a_grade_can_be_demanded(world: World):
    assert world("--fail-below", "D").status == 0
    assert world("--fail-below", "c").status == 1
    told = world("--fail-below", "G")
    assert (told.status, "a grade from A to F, not 'G'" in told.err) == (2, True)
    told = world("--target", "gpu")
    assert (told.status, told.err) == (
        2,
        "error: --target: there is no target 'gpu'\n  hint: there are default\n",
    )


@pytest.mark.registry
def test_answers_are_remembered_for_an_hour(world: World):
    assert world.project("outlook").status == 0
    before = sum(request.path.startswith("/mirror") for request in world.server.seen)
    world.drop_deb()
    assert world.project("outlook").status == 0
    assert sum(request.path.startswith("/mirror") for request in world.server.seen) == before
    assert world("--json").status == 6


@pytest.mark.registry
def test_offline_nobody_is_asked(world: World):
    world.server.seen.clear()
    told = world("--offline", "--json")
    assert (told.status, told.json["grade"]) == (0, "E")
    assert world.server.seen == []
    assert world.input(world.deb, told)["suppliers"][0]["said"] == "the network may not be used"


# -- mending -----------------------------------------------------------------------------------------------------------


@pytest.mark.registry
def test_fix_keeps_a_vault_and_names_it_and_changes_no_byte_of_the_lock(world: World, tmp_path: Path):
    before = (world.project.lock.read_bytes(), world.project.manifest.read_bytes())
    told = world(*FIX, "--vault", str(tmp_path / "kept"), "--json")
    assert told.status == 0, told.err
    assert told.json["grade"] == "A"
    assert (told.json["fixed"]["before"], told.json["fixed"]["inputs"]) == ("D", 5)
    assert told.json["reason"] == "every input is in a vault of yours, or in the project itself"
    assert (world.project.lock.read_bytes(), world.project.manifest.read_bytes()) == before
    text = world.config.read_text()
    base = world.server.url("/").rstrip("/")
    assert text == f'# mine\nvaults = ["{tmp_path}/kept"]\n' + CONFIG.format(base=base, index=world.index.url)[7:]

    world.drop_deb()
    world.delete_tag()
    told = world("--json")  # by the settings alone
    assert (told.status, told.json["grade"]) == (0, "A")
    told = world(*FIX)
    assert f"kept 5 inputs in {tmp_path}/kept: 0 B new\n" in told.err
    assert world.config.read_text() == text


@pytest.mark.registry
def test_fix_keeps_what_there_is_where_something_is_lost(world: World, tmp_path: Path):
    world.drop_deb()
    told = world(*FIX, "--vault", str(tmp_path / "kept.tar"), "--json")
    assert (told.status, told.json["grade"]) == (6, "F")
    assert told.json["fixed"]["left_out"][world.deb.sha256] == f"{world.deb.name}: no place had it"
    assert told.json["grades"] == {"A": 4, "F": 1}
    told = world("--fix", "--target", "default")
    assert (told.status, told.err) == (
        2,
        "error: --target: --fix keeps all targets\n  hint: leave one of the two out\n",
    )


def test_settings_keep_their_mode_and_are_written_where_they_lie(tmp_path: Path):
    (tmp_path / "dotfiles").mkdir()
    real = tmp_path / "dotfiles" / "reprobox.toml"
    real.write_text("jobs = 2\n")
    real.chmod(0o640)
    (tmp_path / "config.toml").symlink_to(real)
    edit(tmp_path / "config.toml", ["/v"], {})
    assert (tmp_path / "config.toml").is_symlink()
    assert real.read_text() == 'vaults = ["/v"]\njobs = 2\n'
    assert real.stat().st_mode & 0o777 == 0o640
    assert sorted(os.listdir(tmp_path / "dotfiles")) == ["reprobox.toml"]
    edit(tmp_path / "new" / "deep" / "config.toml", ["/v"], {})
    assert (tmp_path / "new" / "deep" / "config.toml").read_text() == 'vaults = ["/v"]\n'


def test_fix_names_the_mirrors_that_this_machine_knows(server, settings, tmp_path, monkeypatch, capsys):
    key = Key()
    item, data = deb_of(tmp_path, "jq")
    base = serve(server, "/host", [Suite("bookworm")], key)
    server.files[f"/host/{item.facts['path']}"] = data
    monkeypatch.setattr(debian, "host_sources", lambda: (Source(uri=base, suite="bookworm"),))
    text = '[project]\nname = "x"\n[base]\nbootstrap = "debian:bookworm"\n'
    layer = apt_layer([item], key)
    root = LockedLayer(name="base", kind="bootstrap", recipe=1, request="", inputs=layer.inputs, facts=layer.facts)
    locked_project(tmp_path / "project", text, [root])
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("REPROBOX_CONFIG", str(tmp_path / "new" / "config.toml"))
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "config.toml").write_text("jobs = 4  # few\n")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    told = Project(tmp_path / "project", capsys)("outlook", *FIX)
    assert told.status == 0, told.err
    assert (tmp_path / "new" / "config.toml").read_text() == (
        f'vaults = ["{tmp_path}/data/reprobox/vault"]\njobs = 4  # few\n\n[archives]\ndebian = ["{base}"]\n'
    )
    assert told.out.startswith("grade A: every input is in a vault of yours, or in the project itself\n")
    assert f"config.toml: [archives] debian has {base}\n" in told.err


# -- what no lock holds ------------------------------------------------------------------------------------------------


@pytest.mark.userns
def test_a_base_outside_the_project_is_nobodys_but_yours(fresh: Project):
    told = fresh("outlook", "--json")
    assert (told.status, told.json["grade"]) == (0, "D")
    assert told.json["reason"] == "base of default is not locked as an input: nobody but you can have it"
    kinds = [(one["kind"], one["message"].partition(":")[0]) for one in told.json["findings"]]
    assert kinds == [("not-locked", "data /data"), ("not-locked", "base of default")]


# -- keys and certificates --------------------------------------------------------------------------------------------------------------


def test_a_key_that_expired_and_one_that_soon_will(settings: Path, tmp_path: Path, monkeypatch, capsys):
    import time

    expired = Key(seconds=1)
    item, _ = deb_of(tmp_path, "jq")
    base = LockedLayer(name="base", kind="rootfs", recipe=1, request="", facts={"path": "base"})
    for name, key in {"one": expired, "two": Key(seconds=86_400 * 30), "three": Key(seconds=86_400 * 3000)}.items():
        text = (
            '[project]\nname = "x"\n[base]\nimage = "x"\n[[layers]]\nname = "system"\nkind = "apt"\npackages = ["jq"]\n'
        )
        locked_project(tmp_path / name, text, [replace(base, kind="image", facts={}), apt_layer([item], key)])
    time.sleep(1.1)
    kinds = {}
    for name in ("one", "two", "three"):
        monkeypatch.chdir(tmp_path / name)
        told = Project(tmp_path / name, capsys)("outlook", "--json", "--offline")
        kinds[name] = [one for one in told.json["findings"] if one["kind"].startswith("key-")]
    assert [[one["kind"] for one in found] for found in kinds.values()] == [["key-expired"], ["key-expires"], []]
    (finding,) = kinds["one"]
    assert finding["message"].startswith(f"the key {expired.fingerprint} of debian bookworm expired on 20")
    assert finding["message"].endswith("The lock stays good: hashes count when realizing")
    assert finding["do"].startswith("get the archive's current key")


def expired_certificate(folder: Path) -> Path:
    """A certificate of 127.0.0.1 that was good until yesterday, with its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=key.public_key(), serial_number=1)
        .not_valid_before(now - timedelta(days=30))
        .not_valid_after(now - timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "both.pem").write_bytes(secret + made.public_bytes(pem))
    (folder / "cert.pem").write_bytes(made.public_bytes(pem))
    return folder / "both.pem"


def test_a_certificate_that_expired(settings: Path, tmp_path: Path, monkeypatch, capsys):
    both = expired_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    item, _ = deb_of(tmp_path, "jq")
    text = '[project]\nname = "x"\n[base]\nbootstrap = "debian:bookworm"\n'
    root = LockedLayer(name="base", kind="bootstrap", recipe=1, request="", inputs=(item,))
    locked_project(tmp_path / "project", text, [root])
    monkeypatch.chdir(tmp_path / "project")
    with Server(context=context) as secure:
        settings.write_text(f'[archives]\ndebian = ["{secure.url("/mirror")}"]\n')
        told = Project(tmp_path / "project", capsys)("outlook", "--json")
    assert (told.status, told.json["grade"]) == (0, "E")
    (finding,) = [one for one in told.json["findings"] if one["kind"] == "certificate"]
    assert finding["said"][0].startswith(f"debian ({secure.url('/mirror')}): its certificate is not trusted: ")
    assert "certificate has expired" in finding["said"][0]
    assert finding["do"].startswith("only its owner can renew it")


# -- registries of one's own -------------------------------------------------------------------------------------------


@pytest.mark.registry
def test_a_vault_in_a_registry_of_ones_own_is_a_vault(world: World):
    place = f"oci://{world.registry.host}/outlook/vault-{world.wheel.sha256[:8]}:x"
    done = world.project("vault", "--without-reprobox", place)
    assert done.status == 0, done.err
    told = world("--vault", place, "--json")
    assert (told.status, told.json["grade"]) == (0, "A")
    kinds = {one["kind"] for one in world.input(world.deb, told)["suppliers"] if one["state"] == "has"}
    assert kinds == {"store", "vault", "mirror"}


@pytest.mark.registry
@pytest.mark.userns
def test_layers_that_the_remote_has_built_are_told(fresh: Project, registry: Registry, monkeypatch):
    monkeypatch.setenv("REPROBOX_REMOTE", f"{registry.host}/outlook/layers")
    assert fresh("lock", "--seal").status == 0
    before = {layer["name"]: layer["built"] for layer in fresh("outlook", "--json").json["layers"]}
    assert set(before.values()) == {False}
    done = fresh("cache", "push")
    assert done.status == 0, done.err
    after = {layer["name"]: layer["built"] for layer in fresh("outlook", "--json").json["layers"]}
    assert (after["settings"], after["greeting"]) == (True, True)
