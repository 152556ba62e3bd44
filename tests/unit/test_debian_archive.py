"""Archives on a loopback server: what is asked for, what is believed, what is kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

import pytest

from reprobox.debian import archive, suites
from reprobox.debian.release import Keyring
from reprobox.debian.sources import Source
from reprobox.debian.system import System
from reprobox.errors import FetchError, IntegrityError, OfflineError, ResolveError
from reprobox.store import Store
from tests.debs import NOW, Key, SmallWorld, Suite, make_deb, serve
from tests.servers import Server, status, wrong

pytestmark = pytest.mark.tool("dpkg-deb")


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture(scope="module")
def key() -> Key:
    return Key()


@pytest.fixture
def trusted(key) -> Keyring:
    found = Keyring()
    found.add(key.armored, "test.asc")
    return found


@pytest.fixture
def world(store, tmp_path) -> SmallWorld:
    return SmallWorld(Store(store), tmp_path)


@pytest.fixture
def debs(tmp_path):
    return [make_deb(tmp_path, "apt", files={"usr/bin/apt": b"1"}), make_deb(tmp_path, "libc6", version="2:2.0")]


def debian(server, key, debs=(), **extra) -> str:
    """A mirror with bookworm and its updates, and security beside it."""
    base = serve(server, "/debian", [Suite("bookworm", debs), Suite("bookworm-updates")], key)
    security = Suite("bookworm-security", label="Debian-Security", **extra)
    serve(server, "/debian-security", [security], key)
    return base


def source(uri: str, suite: str = "bookworm", **more) -> Source:
    return Source(uri=uri, suite=suite, where="/etc/apt/sources.list:1", **more)


def opened(world, known, trusted, suite="bookworm"):
    return [origin.source.dists for origin in suites.open_debian(world, suite, known, trusted)]


# -- finding suites ----------------------------------------------------------------------------------------------------


def test_updates_and_security_are_found_where_mirrors_have_them(world, server, key, trusted):
    base = debian(server, key)
    assert opened(world, [source(base)], trusted) == [
        f"{base}/dists/bookworm",
        f"{base}/dists/bookworm-updates",
        f"{base}-security/dists/bookworm-security",
    ]
    assert world.said == []


def test_a_source_of_another_suite_serves_too(world, server, key, trusted):
    base = debian(server, key)
    assert len(opened(world, [source(base, "trixie", components=("main", "contrib"))], trusted)) == 3


def test_configured_mirrors_are_asked_first(world, server, key, trusted):
    base = debian(server, key)
    world.archives = {"debian": [base]}
    assert opened(world, [source(server.url("/elsewhere"))], trusted)[0] == f"{base}/dists/bookworm"
    assert not any(path.startswith("/elsewhere/dists/bookworm/") for path in server.paths())


def test_without_security_updates_one_goes_on_and_says_so(world, server, key, trusted):
    base = serve(server, "/debian", [Suite("bookworm")], key)
    assert opened(world, [source(base)], trusted) == [f"{base}/dists/bookworm"]
    assert world.said == [
        "no source has bookworm-updates: locking without it",
        "no source has bookworm-security: locking without it",
    ]


def test_a_suite_that_a_source_names_must_answer(world, server, key, trusted):
    base = serve(server, "/debian", [Suite("bookworm")], key)
    with pytest.raises(FetchError, match=r"'bookworm-security' could not be had(.|\n)*/gone/.*404"):
        opened(world, [source(base), source(server.url("/gone"), "bookworm-security")], trusted)


def test_sid_has_no_updates(world, server, key, trusted):
    base = serve(server, "/debian", [Suite("sid")], key)
    assert opened(world, [source(base)], trusted, "sid") == [f"{base}/dists/sid"]
    assert server.paths() == ["/debian/dists/sid/InRelease"]


def test_no_source_at_all(world, trusted):
    with pytest.raises(ResolveError, match="no source of packages is known for debian:bookworm") as caught:
        opened(world, [], trusted)
    assert "[archives] debian" in (caught.value.hint or "")


def test_a_suite_that_does_not_exist(world, server, key, trusted):
    base = debian(server, key)
    with pytest.raises(FetchError, match=r"'bokworm' could not be had from any known source\n  .*404"):
        opened(world, [source(base)], trusted, "bokworm")


def test_another_distribution_is_not_debian(world, server, key, trusted):
    other = serve(server, "/other", [Suite("bookworm", origin="Other")], key)
    base = debian(server, key)
    assert opened(world, [source(other), source(base)], trusted)[0] == f"{base}/dists/bookworm"


def test_a_source_that_lies_is_told_of(world, server, key, trusted):
    base = debian(server, key)
    server.always["/bad/dists/bookworm/InRelease"] = wrong()
    server.files["/bad/dists/bookworm/InRelease"] = server.files["/debian/dists/bookworm/InRelease"]
    assert opened(world, [source(server.url("/bad")), source(base)], trusted)[0] == f"{base}/dists/bookworm"
    assert any("/bad/" in line and "using another source" in line for line in world.said)
    with pytest.raises(IntegrityError):
        opened(world, [source(server.url("/bad"))], trusted)


def test_a_server_that_fails_does_not_lead_to_a_lock_without_security(world, server, key, trusted):
    base = debian(server, key)
    server.always["/debian-security/dists/bookworm-security/InRelease"] = status(500)
    with pytest.raises(FetchError, match=r"'bookworm-security' could not be had(.|\n)*500"):
        opened(world, [source(base)], trusted)


def test_a_stale_mirror(world, server, key, trusted):
    base = debian(server, key, valid=NOW - 10)
    security = source(f"{base}-security", "bookworm-security")
    with pytest.raises(IntegrityError, match="only good until"):
        opened(world, [source(base), security], trusted)
    kept = source(f"{base}-security", "bookworm-security", expires=False)
    assert len(opened(world, [source(base), kept], trusted)) == 3


def test_release_with_a_detached_signature(world, server, key, trusted):
    server.files.update({f"/debian/{path}": data for path, data in Suite("sid").files(key, in_release=False).items()})
    origins = suites.open_debian(world, "sid", [source(server.url("/debian"))], trusted)
    assert origins[0].release.signer == key.fingerprint


# -- indices -----------------------------------------------------------------------------------------------------------


def indices(world, base, trusted, architecture="amd64"):
    origins = suites.open_debian(world, "bookworm", [source(base)], trusted)
    return origins, archive.open_indices(world, origins, architecture)


def test_indices_are_checked_and_kept(world, server, key, trusted, debs):
    base = debian(server, key, debs)
    _, found = indices(world, base, trusted)
    assert [index.label for index in found] == [
        "debian bookworm/main/amd64",
        "debian bookworm-updates/main/amd64",
        "debian-security bookworm-security/main/amd64",
    ]
    assert sorted(archive.universe(found).names()) == ["apt", "libc6"]
    assert found[0].fact() == {
        "archive": "debian",
        "suite": "bookworm",
        "component": "main",
        "architecture": "amd64",
        "date": NOW - 3600,
        "signer": key.fingerprint,
        "sha256": found[0].release.sha256,
    }


def test_a_warm_lock_only_asks_whether_anything_changed(world, server, key, trusted, debs):
    base = debian(server, key, debs)
    indices(world, base, trusted)
    server.seen.clear()
    again = SmallWorld(world.store, world.project)
    indices(again, base, trusted)
    assert {path.rpartition("/")[2] for path in server.paths()} == {"InRelease"}
    assert all("If-None-Match" in request.headers for request in server.seen)


def test_offline_what_is_kept_is_enough(world, server, key, trusted, debs):
    base = debian(server, key, debs, valid=NOW + 2)
    indices(world, base, trusted)
    server.seen.clear()
    offline = SmallWorld(world.store, world.project, offline=True)
    assert len(indices(offline, base, trusted)[1]) == 3
    assert server.seen == []


def test_offline_without_anything(world, server, trusted):
    offline = SmallWorld(world.store, world.project, offline=True)
    with pytest.raises(OfflineError):
        indices(offline, server.url("/debian"), trusted)


def test_indices_by_hash_and_without(world, server, key, trusted, debs):
    base = debian(server, key, debs)
    indices(world, base, trusted)
    assert any("/by-hash/SHA256/" in path for path in server.paths())
    plain = serve(server, "/plain", [Suite("sid", debs, by_hash=False)], key)
    origins = suites.open_debian(world, "sid", [source(plain)], trusted)
    assert len(archive.open_indices(world, origins, "amd64")) == 1


def test_an_index_that_is_not_the_signed_one(world, server, key, trusted, debs):
    base = debian(server, key, debs)
    for path in list(server.files):
        if "/binary-amd64/" in path:
            server.always[path] = wrong()
    with pytest.raises(IntegrityError, match="package indices that the Release files name") as caught:
        indices(world, base, trusted)
    assert "update" in (caught.value.hint or "")


def test_a_mirror_without_its_indices(world, server, key, trusted, debs):
    base = debian(server, key, debs)
    for path in list(server.files):
        if "/binary-amd64/" in path:
            server.always[path] = status(404)
    with pytest.raises(FetchError, match="could not be had"):
        indices(world, base, trusted)


BOTH = (".gz", ".xz")


def packed(server: Server) -> dict[str, list[str]]:
    """Paths of the indices that a mirror has, by how they are packed."""
    named = [path for path in server.files if "/binary-amd64/Packages." in path]
    return {suffix: [path for path in named if path.endswith(suffix)] for suffix in BOTH}


@pytest.mark.parametrize(("packings", "asked"), [(BOTH, ".gz"), ((".gz",), ".gz"), ((".xz",), ".xz")])
def test_an_index_is_fetched_as_it_is_unpacked_soonest(world, server, key, trusted, debs, packings, asked):
    base = serve(server, "/debian", [Suite("sid", debs, packings=packings, by_hash=False)], key)
    (found,) = archive.open_indices(world, suites.open_debian(world, "sid", [source(base)], trusted), "amd64")
    assert [path for path in server.paths() if "/Packages" in path] == packed(server)[asked]
    assert b"Package: " in found.path.read_bytes()
    assert "gz" not in json.dumps(found.fact())


@pytest.mark.parametrize("answer", [status(404), status(500), wrong()], ids=["missing", "failing", "wrong"])
def test_an_index_that_is_not_to_be_had_packed_so_is_fetched_packed_otherwise(
    world, server, key, trusted, debs, answer
):
    base = serve(server, "/debian", [Suite("sid", debs, packings=BOTH, by_hash=False)], key)
    server.always |= dict.fromkeys(packed(server)[".gz"], answer)
    (found,) = archive.open_indices(world, suites.open_debian(world, "sid", [source(base)], trusted), "amd64")
    assert b"Package: " in found.path.read_bytes()
    assert server.paths()[-1:] == packed(server)[".xz"]
    server.always |= dict.fromkeys(packed(server)[".xz"], answer)
    fresh = type(world)(Store(world.store.root.with_name("fresh")), world.project)
    with pytest.raises((FetchError, IntegrityError), match="the package indices that the Release files name"):
        archive.open_indices(fresh, suites.open_debian(fresh, "sid", [source(base)], trusted), "amd64")


def test_an_index_that_cannot_be_unpacked(world, server, key, trusted, debs):
    suite = Suite("sid", debs, packings=(".gz",), by_hash=False)
    files = suite.files(key)
    cut = files["dists/sid/main/binary-amd64/Packages.gz"][:-9]
    release = suite._release({"main/binary-amd64/Packages.gz": cut})
    files |= {"dists/sid/main/binary-amd64/Packages.gz": cut, "dists/sid/InRelease": key.clear(release)}
    server.files.update({f"/debian/{path}": data for path, data in files.items()})
    with pytest.raises(IntegrityError, match="the index cannot be unpacked: its gzip data is cut off"):
        archive.open_indices(world, suites.open_debian(world, "sid", [source(server.url("/debian"))], trusted), "amd64")


def test_an_architecture_that_the_suite_lacks(world, server, key, trusted, debs):
    base = debian(server, key, debs)
    with pytest.raises(ResolveError, match="no 'main' packages for s390x") as caught:
        indices(world, base, trusted, "s390x")
    assert "amd64" in (caught.value.hint or "")


def test_packages_are_locked_with_what_providers_need(world, server, key, trusted, debs):
    base = debian(server, key, debs)
    origins, found = indices(world, base, trusted)
    package = archive.universe(found).newest("libc6")
    assert package is not None
    (item,) = archive.lock_packages(world, [package], found)
    assert item.name == "libc6_2.0_amd64.deb"
    assert item.facts == {
        "package": "libc6",
        "version": "2:2.0",
        "architecture": "amd64",
        "path": "pool/main/libc6_2.0_amd64.deb",
        "archive": "debian",
        "suite": "bookworm",
        "sha1": item.facts["sha1"],
    }
    assert len(item.facts["sha1"]) == 40
    assert world.store.has_blob(item.sha256)
    told = archive.facts(found, origins)
    assert str(told["keys"]).startswith("-----BEGIN PGP PUBLIC KEY BLOCK-----")
    assert "127.0.0.1" not in str((item, told))


@pytest.mark.parametrize("torn", [b"", b"0" * 40, b"0" * 84])
def test_a_torn_sum_is_not_believed(world, server, key, trusted, debs, torn):
    base = debian(server, key, debs)
    _, found = indices(world, base, trusted)
    package = archive.universe(found).newest("libc6")
    (item,) = archive.lock_packages(world, [package], found)
    data = world.store.blob(item.sha256).read_bytes()
    assert item.facts["sha1"] == hashlib.sha1(data, usedforsecurity=False).hexdigest()
    world.store.remember("sha1", item.sha256, torn)
    assert archive.lock_packages(world, [package], found) == (item,)


# -- the base's own sources --------------------------------------------------------------------------------------------


def system(*sources, keys=None) -> System:
    return System(sources=tuple(sources), trusted=keys or Keyring(), read=lambda _: None)


def test_a_base_says_where_its_packages_are(world, server, key, trusted, debs):
    base = debian(server, key, debs)
    found = suites.open_sources(world, system(source(base), keys=trusted), system())
    assert [origin.source.uri for origin in found] == [base]


def test_the_hosts_mirror_stands_in_for_the_bases(world, server, key, trusted, debs):
    base = debian(server, key, debs)
    found = suites.open_sources(world, system(source(server.url("/gone")), keys=trusted), system(source(base)))
    assert [origin.source.uri for origin in found] == [base]


def test_a_configured_mirror_goes_before_the_bases_own_if_it_is_of_that_archive(world, server, key, trusted, debs):
    base = debian(server, key, debs)
    other = serve(server, "/other", [Suite("bookworm", label="Other")], key)
    world.archives = {"debian": [other, base]}
    found = suites.open_sources(world, system(source(server.url("/own")), keys=trusted), system())
    assert [origin.source.uri for origin in found] == [base]


def test_a_base_without_sources(world):
    with pytest.raises(ResolveError, match="names no package sources"):
        suites.open_sources(world, system(), system())


def test_sources_that_do_not_answer(world, server, trusted):
    with pytest.raises(FetchError, match=r"sources.list:1: suite 'bookworm' of these package sources") as caught:
        suites.open_sources(world, system(source(server.url("/gone")), keys=trusted), system())
    assert "[archives]" in (caught.value.hint or "")


def test_platforms():
    assert archive.debian_architecture("linux/arm64") == "arm64"
    with pytest.raises(ResolveError, match="linux/mips"):
        archive.debian_architecture("linux/mips")


def test_a_component_named_twice_is_one_index(world, server, key, trusted, debs):
    base = debian(server, key, debs)
    origins = suites.open_sources(
        world, system(source(base), source(base, components=("main", "main")), keys=trusted), system()
    )
    assert len(archive.open_indices(world, origins, "amd64")) == 1


def test_sources_for_some_architectures_only(world, server, key, trusted, debs):
    base = debian(server, key, debs)
    origins = suites.open_sources(world, system(source(base, architectures=("amd64",)), keys=trusted), system())
    assert archive.open_indices(world, origins, "i386") == ()
    plain = suites.open_sources(world, system(source(base), keys=trusted), system())
    assert archive.open_indices(world, plain, "i386", needed=False) == ()
