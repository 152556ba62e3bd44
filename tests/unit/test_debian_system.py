"""What apt in a base is set up to use, and what is installed there: read from its files, or known from its packages."""

from __future__ import annotations

import hashlib

import pytest

from reprobox.debian import system
from reprobox.debian.control import fields, stanzas
from reprobox.errors import ResolveError
from reprobox.lock import Input, LockedLayer
from tests.debs import Key, make_deb

SOURCES = b"deb http://mirror.example/debian bookworm main\n"


def test_sources_of_both_styles_and_keys_are_found(world):
    key = Key()
    world.files = {
        "/etc/apt/sources.list": SOURCES,
        "/etc/apt/sources.list.d/more.sources": b"Types: deb\nURIs: http://more.example/x\nSuites: s\nComponents: c\n",
        "/etc/apt/sources.list.d/old.list.save": b"deb http://saved.example/debian bookworm main\n",
        "/etc/apt/trusted.gpg.d/test.asc": key.armored,
        "/usr/share/doc/x": b"",
    }
    found = system.base_system(world)
    assert [source.uri for source in found.sources] == ["http://mirror.example/debian", "http://more.example/x"]
    assert key.fingerprint.lower() in found.trusted.certs
    assert found.read("/etc/apt/sources.list") == SOURCES


def test_what_a_base_prefers_is_read_as_apt_reads_it(world):
    world.files = {
        "/etc/apt/preferences": b"Package: a\nPin: version 1\nPin-Priority: 1001\n",
        "/etc/apt/preferences.d/b.pref": b"Package: b\n",
        "/etc/apt/preferences.d/c": b"Package: c\n",
        "/etc/apt/preferences.d/d.disabled": b"Package: d\n",
    }
    text = system.preferences(world)
    assert [line for line in text.splitlines() if line.startswith("Package")] == [
        "Package: a",
        "Package: b",
        "Package: c",
    ]
    assert "1001\n\n\nPackage: b" in text


@pytest.mark.parametrize(
    ("text", "suite"),
    [
        (b"ID=debian\nVERSION_CODENAME=bookworm\n", "bookworm"),
        (b'ID="debian"\nVERSION_CODENAME="trixie"\n', "trixie"),
        (b"ID=ubuntu\nVERSION_CODENAME=jammy\n", ""),
        (b"ID=debian\n", ""),
        (None, ""),
    ],
)
def test_the_debian_release_of_a_base(world, text, suite):
    world.files = {"/etc/os-release": text} if text is not None else {}
    assert system.debian_suite(world) == suite


BASE = LockedLayer(name="base", kind="image", recipe=1, request="")


def test_what_is_installed_in_an_image_of_another_architecture_is_read(world):
    world.files = {
        "/var/lib/dpkg/status": b"Package: a\nStatus: install ok installed\n",
        "/usr/bin/apt-get": b"\x7fELF",
        "/var/lib/dpkg/arch": b"arm64\narmhf\n",
    }
    found = system.installed(world, BASE, "linux/arm64")
    assert found.status == world.files["/var/lib/dpkg/status"]
    assert found.foreign == ("armhf",)
    del world.files["/usr/bin/apt-get"]
    with pytest.raises(ResolveError, match="the base has no apt"):
        system.installed(world, BASE, "linux/arm64")


@pytest.mark.tool("dpkg-deb")
def test_a_base_of_locked_packages_that_cannot_be_built_here_is_known_from_them(world, tmp_path):
    debs = [
        make_deb(tmp_path, "libc6", version="2.36", architecture="arm64", control={"Depends": "libgcc-s1"}),
        make_deb(tmp_path, "adduser", version="3.1", architecture="all"),
    ]
    inputs = []
    for path in debs:
        data = path.read_bytes()
        world.store.add_blob(data)
        inputs.append(Input(type="deb", name=path.name, sha256=hashlib.sha256(data).hexdigest(), size=len(data)))
    base = LockedLayer(name="base", kind="bootstrap", recipe=1, request="", inputs=tuple(inputs))
    for _ in range(2):  # found out, and as it is remembered
        found = system.installed(world, base, "linux/arm64")
        said = [fields(item) for item in stanzas(found.status)]
        assert [(item["Package"], item["Version"], item["Architecture"], item["Status"]) for item in said] == [
            ("libc6", "2.36", "arm64", "install ok installed"),
            ("adduser", "3.1", "all", "install ok installed"),
        ]
        assert said[0]["Depends"] == "libgcc-s1"
        assert found.foreign == ()
