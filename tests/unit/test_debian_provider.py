"""Where .debs are looked for, from what the lock says of them."""

from __future__ import annotations

import gzip
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import pytest

from reprobox.debian import provider as module
from reprobox.debian.provider import ArchiveProvider, BaseArchiveProvider, MirrorProvider
from reprobox.debian.sources import Source
from reprobox.digest import sha256, write_index
from reprobox.errors import FetchError
from reprobox.layers.apt import Apt
from reprobox.lock import Input, LockedLayer, LockedTarget
from reprobox.manifest_reader import parse
from reprobox.plugins import BuiltIn
from reprobox.providers import fetch
from reprobox.tree import scan
from tests import images
from tests.debs import Key, Suite, make_deb, serve


@dataclass
class Settings:
    archives: dict[str, tuple[str, ...]] = field(default_factory=dict)
    snapshots: dict[str, tuple[str, ...]] = field(default_factory=dict)


ITEM = Input(
    type="deb",
    name="jq_1.6_amd64.deb",
    sha256="0" * 64,
    size=1,
    facts={"archive": "debian", "suite": "bookworm", "path": "pool/main/j/jq/jq_1.6_amd64.deb"},
)
TARGET = LockedTarget(
    name="default",
    platform="linux/amd64",
    layers=(
        LockedLayer(
            name="base",
            kind="bootstrap",
            recipe=1,
            request="",
            inputs=(ITEM,),
            facts={"indices": [{"archive": "debian", "suite": "bookworm", "date": 1783764997}]},
        ),
    ),
)


@pytest.fixture(autouse=True)
def host(monkeypatch) -> list[Source]:
    """The sources of this machine, as the test wants them."""
    sources: list[Source] = []
    monkeypatch.setattr(module, "host_sources", lambda: tuple(sources))
    return sources


def of_base(settings: Settings, world, target: LockedTarget | None) -> BaseArchiveProvider:
    near = ArchiveProvider(settings, world.documents)
    return BaseArchiveProvider(settings, world.documents, near, target, world.store)


def urls(found, item=ITEM) -> list[str]:
    return [location.url for location in found[item.sha256]]


def test_configured_mirrors_come_first_and_snapshots_last(world):
    settings = Settings(
        archives={"debian": ("http://mirror.example/debian",)},
        snapshots={"debian": ("http://snapshot.example/archive/debian",)},
    )
    assert urls(MirrorProvider(settings).locate([ITEM])) == [
        "http://mirror.example/debian/pool/main/j/jq/jq_1.6_amd64.deb"
    ]
    (places,) = of_base(settings, world, TARGET).locate([ITEM]).values()
    assert [(place.url, place.alone) for place in places] == [
        ("http://snapshot.example/archive/debian/20260711T101637Z/pool/main/j/jq/jq_1.6_amd64.deb", True),
    ]


def test_the_hosts_sources_are_known_by_what_they_call_themselves(world, server, host):
    key = Key()
    base = serve(server, "/debian", [Suite("bookworm")], key)
    security = serve(server, "/sec", [Suite("bookworm-security", label="Debian-Security")], key)
    host += [Source(uri=base, suite="bookworm"), Source(uri=security, suite="bookworm-security")]
    provider = ArchiveProvider(Settings(), world.documents)
    assert urls(provider.locate([ITEM])) == [f"{base}/{ITEM.facts['path']}"]
    other = Input(
        type="deb", name="x.deb", sha256="1" * 64, size=1, facts={"archive": "debian-security", "path": "pool/x.deb"}
    )
    assert urls(provider.locate([other]), other)[0] == f"{security}/pool/x.deb"
    assert len(server.seen) == 2  # asked once, whatever is located


def test_other_inputs_and_unknown_archives_are_left_to_others(world):
    wheel = Input(type="wheel", name="x.whl", sha256="2" * 64, size=1)
    found = ArchiveProvider(Settings(), world.documents).locate([wheel, ITEM])
    assert wheel.sha256 not in found
    assert found[ITEM.sha256] == []


def test_a_source_that_does_not_answer_is_no_source(world, server, host):
    base = serve(server, "/debian", [Suite("bookworm")], Key())
    host += [Source(uri=server.url("/gone"), suite="bookworm"), Source(uri=base, suite="bookworm")]
    assert urls(ArchiveProvider(Settings(), world.documents).locate([ITEM])) == [f"{base}/{ITEM.facts['path']}"]


def test_when_no_archive_can_be_asked_the_network_is_named(world, host):
    host.append(Source(uri="http://127.0.0.1:1/debian", suite="bookworm"))
    provider = ArchiveProvider(Settings(), world.documents)
    with pytest.raises(FetchError) as caught:
        fetch([ITEM], [provider], world.store, downloader=world.downloader)
    assert "http://127.0.0.1:1/debian/dists/bookworm/InRelease: it cannot be reached" in caught.value.message
    assert "check the network connection" in (caught.value.hint or "")
    assert "--upgrade" not in str(caught.value)
    wheel = Input(type="wheel", name="x.whl", sha256="2" * 64, size=1)
    assert ArchiveProvider(Settings(), world.documents).locate([wheel]) == {}


def test_snapshot_services_are_asked_by_hash_too(world):
    item = replace(ITEM, facts={**ITEM.facts, "sha1": "a" * 40})
    settings = Settings(snapshots={"debian": ("http://snapshot.example/archive/debian", "http://other.example/debian")})
    found = of_base(settings, world, TARGET).locate([item])
    assert urls(found) == [
        "http://snapshot.example/archive/debian/20260711T101637Z/pool/main/j/jq/jq_1.6_amd64.deb",
        f"http://snapshot.example/file/{'a' * 40}/jq_1.6_amd64.deb",
        "http://other.example/debian/20260711T101637Z/pool/main/j/jq/jq_1.6_amd64.deb",
    ]
    unknown = of_base(settings, world, None).locate([item])  # no target: no moment
    assert urls(unknown) == [f"http://snapshot.example/file/{'a' * 40}/jq_1.6_amd64.deb"]


def test_the_sources_of_a_built_base_come_after_this_machines(world, server, host):
    key = Key()
    bases, hosts = (serve(server, place, [Suite("bookworm")], key) for place in ("/base", "/host"))
    host.append(Source(uri=hosts, suite="bookworm"))
    layer = LockedLayer(name="base", kind="rootfs", recipe=1, request="", id="b" * 64)
    with world.store.scratch() as staged:
        apt = staged / "tree/etc/apt"
        (apt / "sources.list.d").mkdir(parents=True)
        (apt / "sources.list").symlink_to("/etc/apt/sources.list")  # in a circle
        (apt / "real").write_text(f"deb {bases} bookworm main\n")
        (apt / "sources.list.d/x.list").symlink_to("/etc/apt/real")  # inside the root
        (staged / "index").write_bytes(write_index(scan(staged / "tree")))
        world.store.publish_layer(layer.id, staged, {})
    target = LockedTarget(name="default", platform="linux/amd64", layers=(layer,))
    session = SimpleNamespace(
        config=SimpleNamespace(archives={}, snapshots={}, index={}),
        documents=world.documents,
        target=target,
        store=world.store,
        offline=False,
        registries=None,
        manifest=None,
        project=world.project,
    )
    _, near, far, *_ = BuiltIn().reprobox_providers(session)
    for provider, place in ((near, hosts), (far, bases)):
        assert urls(provider.locate([ITEM])) == [f"{place}/{ITEM.facts['path']}"]
    host.append(Source(uri=bases, suite="bookworm"))
    _, near, far, *_ = BuiltIn().reprobox_providers(session)
    assert urls(near.locate([ITEM])) == [f"{place}/{ITEM.facts['path']}" for place in (hosts, bases)]
    assert urls(far.locate([ITEM])) == [], "it was asked already"


def test_sources_of_the_manifest_are_asked_before_those_of_this_machine(world, server, host):
    vendor = ITEM.facts | {"archive": "a-vendor", "path": "tool.deb"}
    item = replace(ITEM, facts=vendor)
    base, gone = server.url("/vendor"), server.url("/gone")
    files = Suite("", label="A Vendor").flat(Key())
    server.files |= {f"/vendor/{name}": data for name, data in files.items()}
    host.append(Source(uri=serve(server, "/host", [Suite("x", label="A Vendor")], Key()), suite="x"))
    text = '[project]\nname = "x"\n[base]\nbootstrap = "debian:bookworm"\n[[layers]]\nname = "a"\nkind = "apt"\npackages = ["jq"]\n'
    text += f'sources = [{{ uris = ["{gone}", "{base}"], suites = ["./"], key = "k.asc" }}]\n'
    session = SimpleNamespace(
        config=SimpleNamespace(archives={}, snapshots={}, index={}),
        documents=world.documents,
        target=None,
        store=world.store,
        offline=False,
        registries=None,
        project=world.project,
        manifest=parse(text, kinds={"apt": Apt()}),
    )
    _, provider, *_ = BuiltIn().reprobox_providers(session)
    assert urls(provider.locate([item])) == [f"{base}/tool.deb", server.url("/host/tool.deb")]


def test_a_release_file_that_is_signed_apart_tells_the_archive_too(world, server, host):
    files = Suite("stable", label="A Vendor").files(Key(), in_release=False)
    server.files |= {f"/vendor/{name}": data for name, data in files.items()}
    item = replace(ITEM, facts=ITEM.facts | {"archive": "a-vendor"})
    declared = [Source(uri=server.url("/vendor"), suite="stable")]
    found = ArchiveProvider(Settings(), world.documents, declared).locate([item])
    assert urls(found) == [f"{server.url('/vendor')}/{item.facts['path']}"]


def test_a_base_that_is_not_built_yet_is_told(world):
    layer = LockedLayer(name="base", kind="rootfs", recipe=1, request="", id="b" * 64)
    target = LockedTarget(name="default", platform="linux/amd64", layers=(layer,))
    with pytest.raises(FetchError, match="was not built yet"):
        of_base(Settings(), world, target).locate([ITEM])


def test_the_sources_of_a_base_image_are_read_from_its_blobs(world, server):
    base = serve(server, "/debian", [Suite("bookworm")], Key())
    source = f"Types: deb\nURIs: {base}\nSuites: bookworm\nComponents: main\n".encode()
    layers = [
        gzip.compress(images.tar(images.entry("etc/apt/sources.list", b"deb http://old.example/ x main\n"))),
        images.tar(
            images.entry("./etc/apt/sources.list.d/debian.sources", source), images.entry("etc/apt/sources.list")
        ),
    ]
    blobs = [
        Input(
            type="blob", name=f"{number}", sha256=world.store.add_blob(data), size=len(data), facts={"media_type": kind}
        )
        for number, (data, kind) in enumerate(zip(layers, (images.GZIP, images.PLAIN), strict=True))
    ]
    missing = Input(type="blob", name="m", sha256="3" * 64, size=1, facts={"media_type": images.GZIP})
    layer = LockedLayer(name="base", kind="image", recipe=1, request="", inputs=(*blobs, missing))
    target = LockedTarget(name="default", platform="linux/amd64", layers=(layer,))
    provider = of_base(Settings(), world, target)
    assert urls(provider.locate([ITEM])) == [f"{base}/{ITEM.facts['path']}"]


def test_nothing_is_read_of_an_image_where_this_machine_knows_the_package(world, server, host, tmp_path, monkeypatch):
    base = serve(server, "/debian", [Suite("bookworm")], Key())
    host.append(Source(uri=base, suite="bookworm"))
    deb = make_deb(tmp_path, "jq")
    item = replace(ITEM, sha256=sha256(deb.read_bytes()), size=deb.stat().st_size)
    server.files[f"/debian/{item.facts['path']}"] = deb.read_bytes()
    near = ArchiveProvider(Settings(), world.documents)
    far = BaseArchiveProvider(Settings(), world.documents, near, TARGET, world.store)
    monkeypatch.setattr(module, "base_sources", lambda *_: pytest.fail("the base was read"))
    fetch([item], [near, far], world.store, downloader=world.downloader)
    assert world.store.has_blob(item.sha256)


def test_what_is_known_near_is_not_asked_again_and_no_base_is_waited_for(world, server, host):
    key = Key()
    near_by, gone = serve(server, "/debian", [Suite("bookworm")], key), server.url("/gone")
    host += [Source(uri=near_by, suite="bookworm"), Source(uri=gone, suite="bookworm")]
    apt = f"deb {near_by} bookworm main\ndeb {gone} bookworm main\n".encode()
    data = images.tar(images.entry("etc/apt/sources.list", apt))
    blob = Input(
        type="blob", name="b", sha256=world.store.add_blob(data), size=len(data), facts={"media_type": images.PLAIN}
    )
    layer = LockedLayer(name="base", kind="image", recipe=1, request="", id="b" * 64, inputs=(blob,))
    target = LockedTarget(name="default", platform="linux/amd64", layers=(layer,))
    near = ArchiveProvider(Settings(), world.documents)
    assert urls(near.locate([ITEM])) == [f"{near_by}/{ITEM.facts['path']}"]
    seen = len(server.seen)
    far = BaseArchiveProvider(Settings(), world.documents, near, target, world.store)
    assert urls(far.locate([ITEM])) == []
    assert len(server.seen) == seen
    unbuilt = LockedTarget(name="default", platform="linux/amd64", layers=(replace(layer, inputs=()),))
    far = BaseArchiveProvider(Settings(), world.documents, near, unbuilt, world.store)
    assert urls(far.locate([ITEM])) == [], "nobody is told to wait for the base"
