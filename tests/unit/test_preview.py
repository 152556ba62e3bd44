"""The page of a crate: what it holds, that nothing in it is anybody else's markup, and how real Chromium shows it."""

from __future__ import annotations

import html.parser
import itertools
import json
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest

from reprobox.lock import Input, Lock, LockedLayer, LockedMount, LockedTarget, Seal, request_digest, with_ids
from reprobox.manifest import parse
from reprobox.plugins import Plugins
from reprobox.preview import Known, Page, page, page_of
from reprobox.preview.content import Run, Voucher
from tests.browser import Browser, chromium

HEAD = '[project]\nname = "xor"\n[base]\nbootstrap = "debian:bookworm"\n'
WHOLE = """\
[project]
name = "xor"
title = "A network learns XOR"
version = "1.0.0"
description = "Four numbers, learned"
license = "Apache-2.0"
doi = "10.5281/zenodo.1234567"
date = "2026-11-22"
keywords = ["neural networks", "logic"]
url = "https://example.org/xor"
authors = [
    { name = "Josiah Carberry", orcid = "0000-0002-1825-0097", affiliation = "Brown University" },
    { name = "Ada Lovelace" },
]
funding = [{ funder = "A Foundation", award = "XOR-1" }]
[base]
bootstrap = "debian:bookworm"
[[layers]]
name = "system"
kind = "apt"
packages = ["python3"]
[[layers]]
name = "python"
kind = "pip"
packages = ["numpy>=2"]
[mounts]
"/dataset" = { source = "data", digest = true, files = [{ url = "https://example.org/data.csv" }] }
"/final_log" = { mode = "rw", source = "out" }
[run]
command = ["python3", "/work/train.py"]
[targets.cpu]
[targets.gpu]
requires = { cuda = "12.4" }
"""
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'`&\u202egnp\u0007 --><!--"


def digest(number: int) -> str:
    return f"{number:064x}"


def deb(number: int, name: str = "", version: str = "1.0-1") -> Input:
    name = name or f"lib{number}"
    return Input(
        type="deb",
        name=f"{name}.deb",
        sha256=digest(number),
        size=number * 1000,
        facts={"package": name, "version": version},
    )


def layers(*packages: Input) -> tuple[LockedLayer, ...]:
    made = (
        LockedLayer(name="base", kind="bootstrap", recipe=1, request="", inputs=packages),
        LockedLayer(
            name="system",
            kind="apt",
            recipe=1,
            request="",
            parents=("base",),
            inputs=(deb(9000, "python3", "3.11.2-1+b1"),),
        ),
        LockedLayer(name="python", kind="pip", recipe=1, request="", parents=("system",)),
    )
    return with_ids(made, 1_700_000_000)


def lock_of(*targets: str, packages: tuple[Input, ...] = (deb(1), deb(2)), **facts) -> Lock:
    return Lock(
        epoch=1_700_000_000,
        manifest="ab" * 32,
        keys={},
        code="c0de" * 10,
        targets={
            name: LockedTarget(name=name, platform="linux/amd64", layers=layers(*packages))
            for name in targets or ("default",)
        },
        **facts,
    )


def sealed(lock: Lock, *names: str) -> Lock:
    seal = Seal(image_digest="sha256:" + "11" * 32, tree_digest="sha256:" + "22" * 32, layers={})
    return replace(
        lock,
        targets={
            name: replace(target, seal=seal) if name in names else target for name, target in lock.targets.items()
        },
    )


def manifest_of(text: str):
    return parse(text, kinds=Plugins(discover=False).kinds)


def whole() -> Page:
    source = {"source": request_digest("https://example.org/data.csv")}
    item = Input(type="file", name="data.csv", sha256="ee" * 32, size=1234, facts=source)
    download = LockedLayer(name="/dataset", kind="fetch", recipe=1, request="", inputs=(item,))
    mount = LockedMount(tree="dd" * 32, files=1, size=1234)
    lock = sealed(lock_of("cpu", "gpu", mounts={"/dataset": mount}, downloads={"/dataset": download}), "cpu", "gpu")
    known = Known(
        licences={digest(1): "GPL-3.0-or-later"},
        vouchers=(Voucher(key="aa" * 32, who="Ada", when="2026-11-23", says="cpu, gpu rebuilt with sandbox"),),
        runs=(Run(command="python3 /work/train.py", ended="2026-11-22T10:00:00Z", status=0, outputs=2, target="cpu"),),
        metadata=json.dumps({"@context": "https://w3id.org/ro/crate/1.1/context", "name": EVIL}),
    )
    return page_of(manifest_of(WHOLE), lock, known=known)


class Reader(html.parser.HTMLParser):
    """Tags, text by section, and whatever of the nesting is wrong."""

    EMPTY = frozenset(("meta", "input", "br"))

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(data.decode())
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if self.stack and self.stack[-1] not in ("script", "style"):
            self.text.append(data)

    def count(self, name: str) -> int:
        return sum(tag == name for tag, _ in self.tags)


def words(data: bytes) -> str:
    return " ".join(" ".join(Reader(data).text).split())


# -- what it says ------------------------------------------------------------------------------------------------------


def test_everything_that_a_reader_looks_for_is_on_the_page():
    told = words(page(whole()))
    for word in (
        "A network learns XOR", "Four numbers, learned", "1.0.0", "Apache-2.0", "10.5281/zenodo.1234567", "2026-11-22", "neural networks",
        "Josiah Carberry", "ORCID 0000-0002-1825-0097", "Brown University", "Ada Lovelace", "A Foundation", "XOR-1",
        "Debian bookworm", "linux/amd64", "cuda 12.4", "python3 /work/train.py",
        "With reprobox", "With Docker only", "With Apptainer only", "docker load --input environment.tar",
        "numpy>=2", "python3", "3.11.2-1+b1", "GPL-3.0-or-later", digest(9000),
        "c0de" * 10, "dd" * 32, "ee" * 32, "https://example.org/data.csv", "/final_log",
        "11" * 32, "22" * 32, "ab" * 32, "aa" * 32, "1 key vouches", "1 run recorded", "2023-11-14T22:13:20Z",
        "Carberry, J. & Lovelace, A. (2026)", "@misc{carberry2026-xor,",
    ):  # fmt: skip
        assert word in told, word


def test_the_least_that_a_manifest_can_say_makes_a_page():
    told = words(page(page_of(manifest_of(HEAD), lock_of())))
    assert "Nobody is named." in told
    assert "No licence is stated." in told
    assert "Not sealed." in told
    assert "Nobody vouches." in told
    assert "Sealed" not in told
    assert "[Computational environment]. (2023)." in told


def test_what_is_not_pinned_and_what_is_sealed_in_part_is_said():
    lock = lock_of("cpu", "gpu")
    loose = replace(lock.targets["gpu"].layers[2], facts={"unpinned": True})
    gpu = replace(lock.targets["gpu"], layers=(*lock.targets["gpu"].layers[:2], loose))
    lock = sealed(replace(lock, targets={**lock.targets, "gpu": gpu}), "cpu")
    told = words(page(page_of(manifest_of(WHOLE), lock)))
    assert "Locked, but for what the steps of python take from the network" in told
    assert "Sealed in part. The results of building cpu are recorded" in told
    assert "locked in part 1 of 2 targets sealed" in told


def test_the_same_value_gives_the_same_bytes():
    assert page(whole()) == page(whole())
    assert len(page(whole())) < 100_000


def test_the_document_is_sound_and_its_headings_descend_in_order():
    read = Reader(page(whole()))
    levels = [int(tag[1]) for tag, _ in read.tags if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    names = [attributes["id"] for _, attributes in read.tags if "id" in attributes]
    assert len(names) == len(set(names))
    for tag, attributes in read.tags:
        for key in ("aria-labelledby", "for", "aria-controls"):
            assert attributes.get(key) in (None, *names), (tag, attributes)
        assert (
            not (attributes.get("href") or "#content").startswith("#")
            or (attributes.get("href") or "#content")[1:] in names
        )
    assert read.count("table") == read.count("caption") == read.count("thead")
    assert all("scope" in attributes for tag, attributes in read.tags if tag == "th")


def test_nothing_of_a_stranger_is_markup():
    text = WHOLE.replace("Four numbers, learned", json.dumps(EVIL)[1:-1].replace("\\u0007", "\\u0007"))
    text = text.replace("Ada Lovelace", json.dumps(EVIL)[1:-1]).replace("Apache-2.0", json.dumps(EVIL)[1:-1])
    plain, hostile = (
        Reader(page(whole())),
        Reader(
            page(
                page_of(
                    manifest_of(text),
                    lock_of("cpu", "gpu", packages=(deb(1, EVIL.replace("/", "")), deb(2, "b", EVIL))),
                    known=Known(metadata=EVIL),
                )
            )
        ),
    )
    assert hostile.count("script") == plain.count("script") == 2
    assert hostile.count("img") == 0
    assert not any(key.startswith("on") or key == "style" for _, attributes in hostile.tags for key in attributes)
    told = "".join(hostile.text)
    assert "<img src=x onerror=alert(1)>" in told
    assert "\\u{202e}gnp\\u{7}" in told
    assert "\u202e" not in told


def test_addresses_that_are_none_are_no_links():
    shown = replace(whole(), url="javascript:alert(1)", repository="https://a b")
    links = [attributes["href"] for tag, attributes in Reader(page(shown)).tags if tag == "a"]
    assert all(re.match(r"#|https://", link) for link in links)
    assert "javascript" not in " ".join(links)


def test_very_long_text_is_cut_and_commands_never_are():
    long = "x" * 100_000
    told = page(replace(whole(), description=long, command=long)).decode()
    assert "… (98,000 characters more)" in told
    assert told.count(long) == 1


def test_metadata_for_machines_is_what_was_given():
    found = re.search(r'<script type="application/ld\+json">(.*?)</script>', page(whole()).decode(), re.DOTALL)
    assert json.loads(found[1])["name"] == EVIL


def test_a_page_of_two_thousand_packages_is_quickly_made():
    lock = lock_of(packages=tuple(deb(number) for number in range(1, 2001)))
    started = time.monotonic()
    data = page(page_of(manifest_of(HEAD), lock))
    assert time.monotonic() - started < 2
    assert len(data) < 1_000_000


# -- in Chromium -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def shown(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "ro-crate-preview.html"
    path.write_bytes(page(whole()))
    return path


def quiet(browser: Browser, path: Path) -> None:
    """Nothing was complained of, and nothing but the page itself was asked for."""
    assert browser.said("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown") == []
    assert [item["request"]["url"] for item in browser.said("Network.requestWillBeSent")] == [path.as_uri()]


needs_chromium = pytest.mark.tool("chromium")


@needs_chromium
@pytest.mark.parametrize("width", [1280, 768, 390, 320])
def test_no_page_is_wider_than_its_window(browser, shown, width):
    browser.open(shown, width)
    quiet(browser, shown)
    assert browser.value("document.documentElement.scrollWidth") == width
    assert browser.value("document.title") == "A network learns XOR 1.0.0"
