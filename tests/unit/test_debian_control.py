"""Stanzas, relations and indices."""

from __future__ import annotations

import pytest

from reprobox.debian.closure import base_packages
from reprobox.debian.control import Relation, Universe, fields, relations, stanzas, write
from reprobox.errors import ResolveError


def package(name: str, version: str = "1.0", **values: str) -> bytes:
    named = {key.replace("_", "-"): value for key, value in values.items()}
    return write({"Package": name, "Version": version, "Architecture": "amd64", **named})


def test_fields_keep_continuation_lines():
    text = b"Package: a\nDescription: short\n long one\n .\n last\n# a comment\nVersion:1:2\n"
    assert fields(text) == {"Package": "a", "Description": "short\nlong one\n.\nlast", "Version": "1:2"}


def test_a_stanza_comes_back_as_it_was_written():
    values = {"Package": "a", "Conffiles": "\n/etc/a newconffile", "Maintainer": "J\udcfcrgen"}
    assert fields(write(values)) == values


def test_stanzas_are_parted_by_empty_lines():
    assert stanzas(b"A: 1\n\nB: 2\n\n\nC: 3\n") == [b"A: 1", b"B: 2", b"\nC: 3\n"]
    assert stanzas(b"\n\n") == []


def test_relations():
    found = list(
        relations("libc6 (>= 2.36), awk, debconf (>= 0.5) | debconf-2.0,perl:any(<<5.37) , x [amd64] <!nocheck>")
    )
    assert [[str(item) for item in group] for group in found] == [
        ["libc6 (>= 2.36)"],
        ["awk"],
        ["debconf (>= 0.5)", "debconf-2.0"],
        ["perl:any (<< 5.37)"],
        ["x"],
    ]
    assert found[0][0].accepts("2.36-9")
    assert not found[0][0].accepts("2.31-13")
    assert list(relations("")) == []


def test_the_newest_of_all_indices_counts():
    universe = Universe(
        {"main": package("a", "1.0-9") + package("b"), "security": package("a", "1.0-10"), "updates": b""}
    )
    newest = universe.newest("a")
    assert newest is not None
    assert (newest.version, newest.index) == ("1.0-10", "security")
    assert [item.version for item in universe.versions("a")] == ["1.0-10", "1.0-9"]
    assert universe.newest("c") is None
    assert sorted(universe.names()) == ["a", "b"]


def test_of_equal_versions_the_first_index_counts():
    universe = Universe({"main": package("a"), "security": package("a")})
    assert [item.index for item in universe.versions("a")] == ["main", "security"]


def test_lines_are_found_whole_and_only_in_the_newest_version():
    universe = Universe(
        {
            "main": package("a", Essential="yes")
            + package("b", Essential="yes and no")
            + package("c", Essential="yes"),
            "security": package("c", "2.0"),
        }
    )
    assert [item.name for item in universe.containing(b"Essential: yes")] == ["a"]
    assert Universe({"main": package("a", Essential="yes").strip()}).newest("a") is not None


def test_providers_of_virtual_packages():
    universe = Universe(
        {"main": package("mawk", Provides="awk") + package("gawk", Provides="x, awk (= 5.0)") + package("awkward")}
    )
    assert [item.name for item in universe.providers(Relation(name="awk"))] == ["gawk", "mawk"]
    assert [item.name for item in universe.providers(Relation(name="awk", operator=">=", version="4"))] == ["gawk"]
    assert list(universe.providers(Relation(name="awk", operator=">=", version="6"))) == []


def test_file_names_leave_the_epoch_out():
    newest = Universe({"": package("git", "1:2.39.5-0+deb12u2")}).newest("git")
    assert newest is not None
    assert newest.file_name == "git_2.39.5-0+deb12u2_amd64.deb"


# -- a base ------------------------------------------------------------------------------------------------------------


def chosen(*packages: bytes) -> list[str]:
    return [item.name for item in base_packages(Universe({"main": b"".join(packages)}))]


def test_a_base_is_what_is_essential_required_or_apt_and_their_dependencies():
    assert chosen(
        package("dpkg", Essential="yes", Pre_Depends="libc6 (>= 0.9)"),
        package("tzdata", Priority="required"),
        package("apt", Depends="keyring | other, virtual"),
        package("libc6"),
        package("other"),
        package("keyring"),
        package("provider", Provides="virtual"),
        package("unneeded"),
    ) == ["apt", "dpkg", "keyring", "libc6", "provider", "tzdata"]


def test_what_is_chosen_already_satisfies_an_alternative():
    first = package("init", Essential="yes", Depends="gawk | mawk")
    assert chosen(first, package("apt"), package("gawk"), package("mawk", Priority="required")) == [
        "apt",
        "init",
        "mawk",
    ]
    provided = package("mawk", Priority="required", Provides="gawk")
    assert chosen(first, package("apt"), package("gawk"), provided) == ["apt", "init", "mawk"]


def test_merged_usr_needs_no_conversion():
    helpers = package("helpers", Essential="yes", Depends="usrmerge | usr-is-merged")
    assert "usrmerge" not in chosen(helpers, package("apt"), package("usrmerge"), package("usr-is-merged"))


def test_a_version_that_is_too_old_is_no_candidate():
    with pytest.raises(ResolveError, match=r"apt 1\.0 needs libapt \(>= 2\), which no index offers"):
        chosen(package("apt", Depends="libapt (>= 2)"), package("libapt", "1.9"))


def test_packages_that_exclude_each_other():
    with pytest.raises(ResolveError, match="exclude each other"):
        chosen(package("apt", Conflicts="dpkg (<< 2)"), package("dpkg", Essential="yes"))


def test_an_archive_without_apt():
    with pytest.raises(ResolveError, match="no package 'apt'"):
        chosen(package("dpkg", Essential="yes"))
