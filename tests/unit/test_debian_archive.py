"""Archives on a loopback server: what is asked for, what is believed, what is kept."""

from __future__ import annotations

import hashlib
import json

import pytest

from reprobox.debian import archive, suites
from reprobox.errors import FetchError, IntegrityError, OfflineError, ResolveError
from reprobox.store import Store
from tests.debs import NOW, SmallWorld, Suite, debian, make_deb, serve, source
from tests.servers import Server, status, wrong

pytestmark = pytest.mark.tool("dpkg-deb")


@pytest.fixture
def debs(tmp_path):
    return [make_deb(tmp_path, "apt", files={"usr/bin/apt": b"1"}), make_deb(tmp_path, "libc6", version="2:2.0")]


# -- Release files ----------------------------------------------------------------------------------------------------


def test_a_stale_mirror(world, server, key, trusted):
    base = serve(server, "/debian", [Suite("bookworm", valid=NOW - 10)], key)
    with pytest.raises(IntegrityError, match="only good until"):
        archive.open_source(world, source(base), trusted)
    kept = source(base, expires=False)
    assert archive.open_source(world, kept, trusted).source.expires is False


def test_release_with_a_detached_signature(world, server, key, trusted):
    server.files.update({f"/debian/{path}": data for path, data in Suite("sid").files(key, in_release=False).items()})
    origin = archive.open_source(world, source(server.url("/debian"), "sid"), trusted)
    assert origin.release.signer == key.fingerprint


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


def test_platforms():
    assert archive.debian_architecture("linux/arm64") == "arm64"
    with pytest.raises(ResolveError, match="linux/mips"):
        archive.debian_architecture("linux/mips")


def test_a_component_named_twice_is_one_index(world, server, key, trusted, debs):
    base = debian(server, key, debs)
    sources = (source(base), source(base, components=("main", "main")))
    origins = [archive.open_source(world, item, trusted) for item in sources]
    assert len(archive.open_indices(world, origins, "amd64")) == 1


def test_sources_for_some_architectures_only(world, server, key, trusted, debs):
    base = debian(server, key, debs)
    some = archive.open_source(world, source(base, architectures=("amd64",)), trusted)
    assert archive.open_indices(world, [some], "i386") == ()
    plain = archive.open_source(world, source(base), trusted)
    assert archive.open_indices(world, [plain], "i386", needed=False) == ()
