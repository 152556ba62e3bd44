"""Where .debs are looked for, from what the lock says of them."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from reprobox.debian import provider as module
from reprobox.debian.provider import ArchiveProvider
from reprobox.debian.sources import Source
from reprobox.lock import Input, LockedLayer, LockedTarget
from reprobox.store import Store
from tests import images
from tests.debs import Key, SmallWorld, Suite, serve
from tests.servers import Server


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


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture
def world(store, tmp_path) -> SmallWorld:
    return SmallWorld(Store(store), tmp_path)


@pytest.fixture(autouse=True)
def host(monkeypatch) -> list[Source]:
    """The sources of this machine, as the test wants them."""
    sources: list[Source] = []
    monkeypatch.setattr(module, "host_sources", lambda: tuple(sources))
    return sources


def urls(found, item=ITEM) -> list[str]:
    return [location.url for location in found[item.sha256]]


def test_configured_mirrors_come_first_and_snapshots_last(world):
    settings = Settings(
        archives={"debian": ("http://mirror.example/debian",)},
        snapshots={"debian": ("http://snapshot.example/archive/debian",)},
    )
    found = ArchiveProvider(settings, world.documents, TARGET).locate([ITEM])
    assert urls(found) == [
        "http://mirror.example/debian/pool/main/j/jq/jq_1.6_amd64.deb",
        "http://snapshot.example/archive/debian/20260711T101637Z/pool/main/j/jq/jq_1.6_amd64.deb",
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
    host.append(Source(uri=server.url("/gone"), suite="bookworm"))
    assert ArchiveProvider(Settings(), world.documents).locate([ITEM])[ITEM.sha256] == []


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
    provider = ArchiveProvider(Settings(), world.documents, target, world.store)
    assert urls(provider.locate([ITEM])) == [f"{base}/{ITEM.facts['path']}"]
