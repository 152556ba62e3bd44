"""apt's own configuration, in both of its styles."""

from __future__ import annotations

from reprobox.debian.sources import Source, host_sources, parse_deb822, parse_list, read_sources, sibling

ONE_LINE = """\
# deb http://old.example/debian stretch main
deb http://mirror.example/debian/ bookworm main contrib # the usual
deb-src http://mirror.example/debian bookworm main
deb [arch=amd64,arm64 signed-by=/etc/apt/keyrings/a.gpg check-valid-until=no] https://x.example/y stable main
deb http://flat.example/ ./
deb cdrom:[Debian]/ bookworm main
deb file:/srv/debian bookworm main
deb http://mirror.example/debian-security buster/updates main
"""

DEB822 = """\
# a comment
Types: deb deb-src
URIs: http://mirror.example/debian
  http://second.example/debian
Suites: bookworm bookworm-updates
# in between
Components: main non-free-firmware
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Enabled: no
Types: deb
URIs: http://off.example/
Suites: x
Components: main

Types: deb
URIs: https://key.example
Suites: stable
Components: main
Architectures: amd64
Check-Valid-Until: no
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQINBGPL
 -----END PGP PUBLIC KEY BLOCK-----
"""


def read(files: dict[str, str]) -> tuple[Source, ...]:
    return read_sources(
        lambda path: files[path].encode() if path in files else None,
        [path for path in files if path.endswith((".list", ".sources"))],
    )


def test_one_line_style():
    first, second, *_ = parse_list(ONE_LINE, "/etc/apt/sources.list")
    assert first == Source(
        uri="http://mirror.example/debian",
        suite="bookworm",
        components=("main", "contrib"),
        where="/etc/apt/sources.list:2",
    )
    assert second.architectures == ("amd64", "arm64")
    assert second.signed_by == ("/etc/apt/keyrings/a.gpg",)
    assert not second.expires
    assert first.dists == "http://mirror.example/debian/dists/bookworm"


def test_what_cannot_be_used_is_skipped():
    found = read({"/etc/apt/sources.list": ONE_LINE})
    assert [(source.uri, source.suite) for source in found] == [
        ("http://mirror.example/debian", "bookworm"),
        ("https://x.example/y", "stable"),
        ("http://flat.example", "./"),
        ("file:///srv/debian", "bookworm"),
        ("http://mirror.example/debian-security", "buster/updates"),
    ]


def test_flat_repositories():
    found = read(
        {"/etc/apt/sources.list": "deb http://a.example ./\ndeb http://b.example cran40/\ndeb http://c.example /\n"}
    )
    assert [source.flat for source in found] == [True] * 3
    assert [source.dists for source in found] == ["http://a.example", "http://b.example/cran40", "http://c.example"]
    wrong = "deb http://a.example ./ main\ndeb http://a.example stable\n"
    assert read({"/etc/apt/sources.list": wrong}) == ()
    stanza = "Types: deb\nURIs: http://a.example\nSuites: /\n"
    assert [source.flat for source in read({"/etc/apt/sources.list.d/a.sources": stanza})] == [True]


def test_deb822_style():
    found = list(parse_deb822(DEB822, "debian.sources"))
    assert [(source.uri, source.suite) for source in found] == [
        ("http://mirror.example/debian", "bookworm"),
        ("http://mirror.example/debian", "bookworm-updates"),
        ("http://second.example/debian", "bookworm"),
        ("http://second.example/debian", "bookworm-updates"),
        ("https://key.example", "stable"),
    ]
    assert found[0].components == ("main", "non-free-firmware")
    assert found[0].signed_by == ("/usr/share/keyrings/debian-archive-keyring.gpg",)
    (block,) = found[-1].signed_by
    assert block == "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmQINBGPL\n-----END PGP PUBLIC KEY BLOCK-----\n"
    assert not found[-1].expires


def test_mirror_lists_are_places_of_one_source():
    (found,) = read(
        {
            "/etc/apt/sources.list": "deb mirror+file:/etc/apt/mirrors/debian.list bookworm main\n",
            "/etc/apt/mirrors/debian.list": "http://a.example/debian\tpriority:1\n# no\nhttp://b.example/debian/\n",
        }
    )
    assert [place.uri for place in found.places()] == ["http://a.example/debian", "http://b.example/debian"]
    assert found.suite == "bookworm"


def test_files_are_read_in_apts_order():
    line = "deb http://{}.example/ x main\n"
    found = read(
        {
            "/etc/apt/sources.list.d/b.list": line.format("b"),
            "/etc/apt/sources.list.d/a.list": line.format("a"),
            "/etc/apt/sources.list": line.format("main"),
        }
    )
    assert [source.uri for source in found] == ["http://main.example", "http://a.example", "http://b.example"]


def test_the_archive_beside():
    assert (
        sibling("https://mirror.example/pub/debian", "debian-security") == "https://mirror.example/pub/debian-security"
    )


def test_this_machine_can_be_read():
    assert all(source.uri.startswith(("http", "file:")) for source in host_sources())
