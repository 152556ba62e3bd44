"""Which suites of which sources are taken: Debian's own, found at a mirror, and those that a base names."""

from __future__ import annotations

import pytest

from reprobox.debian import suites
from reprobox.debian.release import Keyring
from reprobox.debian.system import System
from reprobox.errors import FetchError, IntegrityError, ResolveError
from tests.debs import Suite, debian, serve, source
from tests.servers import status, wrong


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


# -- the base's own sources --------------------------------------------------------------------------------------------


def system(*sources, keys=None) -> System:
    return System(sources=tuple(sources), trusted=keys or Keyring(), read=lambda _: None)


def test_a_base_says_where_its_packages_are(world, server, key, trusted):
    base = debian(server, key)
    found = suites.open_sources(world, system(source(base), keys=trusted), system())
    assert [origin.source.uri for origin in found] == [base]


def test_the_hosts_mirror_stands_in_for_the_bases(world, server, key, trusted):
    base = debian(server, key)
    found = suites.open_sources(world, system(source(server.url("/gone")), keys=trusted), system(source(base)))
    assert [origin.source.uri for origin in found] == [base]


def test_a_configured_mirror_goes_before_the_bases_own_if_it_is_of_that_archive(world, server, key, trusted):
    base = debian(server, key)
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
