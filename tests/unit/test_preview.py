"""The page of a crate: what it holds, that nothing in it is anybody else's markup, and how real Chromium shows it."""

from __future__ import annotations

import html.parser
import itertools
import json
import re
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from reprobox.lock import Input, Lock, LockedLayer, LockedMount, LockedTarget, Seal, request_digest, with_ids
from reprobox.manifest_reader import parse
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
        "11" * 32, "22" * 32, "ab" * 32, "aa" * 32, "reprobox verify -C project --attestations attestations", "signed by 1 key", "1 run recorded", "2023-11-14T22:13:20Z",
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
    started = time.process_time()
    data = page(page_of(manifest_of(HEAD), lock))
    assert time.process_time() - started < 2
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


@needs_chromium
def test_long_words_hostile_names_and_many_targets_stay_in_their_window(browser, tmp_path):
    names = [f"t{number}" for number in range(30)]
    many = WHOLE.partition("[targets.cpu]")[0] + "".join(f"[targets.{name}]\n" for name in names)
    long = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerk" * 4
    evil = (
        WHOLE.replace("Four numbers, learned", json.dumps(EVIL)[1:-1])
        .replace("Ada Lovelace", long)
        .replace("A network learns XOR", long)
    )
    pages = {
        "many": page_of(manifest_of(many), lock_of(*names)),
        "evil": page_of(
            manifest_of(evil),
            lock_of("cpu", "gpu", packages=(deb(1, EVIL.replace("/", ""), long),)),
            known=Known(metadata=EVIL),
        ),
        "bare": page_of(manifest_of(HEAD), lock_of()),
    }
    for name, content in pages.items():
        path = tmp_path / f"{name}.html"
        path.write_bytes(page(content))
        for width in (1280, 390):
            browser.open(path, width)
            quiet(browser, path)
            assert browser.value("document.documentElement.scrollWidth") == width, name


#: For every text that is seen: its contrast (WCAG 2.2) with what is behind it, if that is less than it must be.
FAINT = """
(() => {
  const number = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, at) => sum + c * [0.2126, 0.7152, 0.0722][at], 0);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const style = getComputedStyle(at);
      if (at.tagName === "g" && at.querySelector("rect")) return number(getComputedStyle(at.querySelector("rect")).fill);
      const colour = number(style.backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const faint = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let seen = 0;
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.data.trim() || ["SCRIPT", "STYLE"].includes(element.tagName) || !element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const [one, two] = [number(element.closest("svg") ? style.fill : style.color), behind(element)].map(light);
    const ratio = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
    seen += 1;
    if (ratio < 4.5) faint.push([node.data.trim().slice(0, 40), ratio]);
  }
  return { seen, faint };
})()
"""


@needs_chromium
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_text_has_contrast(browser, shown, dark):
    found = browser.open(shown, dark=dark).value(FAINT)
    assert found["faint"] == []
    assert found["seen"] > 150
    assert browser.value("matchMedia('(prefers-color-scheme: dark)').matches") is dark


@needs_chromium
def test_the_accessibility_tree_has_landmarks_tables_and_names(browser, shown):
    nodes = browser.open(shown).call("Accessibility.getFullAXTree")["nodes"]
    told = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node.get("ignored")]
    roles = [role for role, _ in told]
    for role in ("banner", "navigation", "main", "contentinfo", "search"):
        assert roles.count(role) == 1, role
    assert ("searchbox", "Search the packages") in told
    assert ("checkbox", "Show hashes and licences in full") in told
    assert {name for role, name in told if role == "table"} >= {
        "Layers of the target cpu",
        "Installed packages, by layer and name",
        "Digests (sha256)",
    }
    assert all(
        name
        for role, name in told
        if role in ("link", "table", "region", "image", "heading", "rowheader", "columnheader", "searchbox", "checkbox")
    )
    assert [name for role, name in told if role == "image"] == [
        f"What stands on what in the target {target}; the table below says the same" for target in ("cpu", "gpu")
    ]
    assert browser.value("document.documentElement.lang") == "en"


@needs_chromium
def test_keys_reach_everything_in_its_order_and_focus_is_seen(browser, shown):
    browser.open(shown)
    browser.press("Tab")
    assert browser.value("document.activeElement.textContent") == "Skip to the content"
    assert browser.value("document.activeElement.getBoundingClientRect().left") == 0
    browser.press("Enter")
    assert browser.value("location.hash") == "#content"
    wanted = browser.value("document.querySelectorAll('a[href], input, [tabindex=\"0\"], summary').length")
    browser.open(shown)
    seen = []
    for _ in range(wanted):
        browser.press("Tab")
        seen.append(browser.value("(() => { const at = document.activeElement; at.dataset.seen = 1; const box = at.getBoundingClientRect();"
                                  " return [getComputedStyle(at).outlineStyle, box.width > 0, at.tagName]; })()"))  # fmt: skip
    assert all(style == "solid" and there for style, there, _ in seen)
    assert browser.value("document.querySelectorAll('[data-seen]').length") == wanted
    assert browser.value("[...document.querySelectorAll('[tabindex]')].every(e => e.tabIndex === 0)")


@needs_chromium
def test_two_thousand_packages_are_searched_at_once(browser, tmp_path):
    path = tmp_path / "page.html"
    path.write_bytes(
        page(page_of(manifest_of(HEAD), lock_of(packages=tuple(deb(number) for number in range(1, 2000)))))
    )
    browser.open(path, 390)
    quiet(browser, path)
    assert browser.value("document.getElementById('found').textContent") == "2,000 of 2,000 shown"
    browser.value("document.getElementById('search').focus()")
    browser.type("LIB1999  1.0")
    assert browser.value("document.getElementById('found').textContent") == "1 of 2,000 shown"
    assert browser.value(
        "[...document.querySelectorAll('#package-list tbody tr')].filter(r => r.checkVisibility()).map(r => r.cells[0].textContent)"
    ) == ["lib1999"]
    spent = "(() => { const box = document.getElementById('search'); const start = performance.now();"
    spent += " for (const text of ['l', 'li', 'lib1', '']) { box.value = text; box.dispatchEvent(new Event('input')); }"
    spent += " return (performance.now() - start) / 4; })()"
    assert browser.value(spent) < 300  # milliseconds for each letter, on a machine that does other things too
    assert browser.value("document.getElementById('found').textContent") == "2,000 of 2,000 shown"


@needs_chromium
def test_hashes_are_shown_in_full_when_asked_for_without_any_script(browser, shown):
    hidden = "[...document.querySelectorAll('#package-list td:last-child')].filter(c => c.scrollWidth > c.clientWidth).length"
    browser.open(shown, scripts=False)
    assert browser.value(hidden) == 3
    browser.value("document.getElementById('full').click()")
    assert browser.value(hidden) == 0


@needs_chromium
def test_without_scripts_everything_is_there_but_the_search(browser, shown):
    browser.open(shown, scripts=False)
    quiet(browser, shown)
    assert browser.value("document.getElementById('search-packages').checkVisibility()") is False
    assert browser.value("[...document.querySelectorAll('#package-list tbody tr')].every(r => r.checkVisibility())")


@needs_chromium
def test_nothing_moves_for_those_who_want_no_motion(browser, shown):
    browser.open(shown)
    assert browser.value("getComputedStyle(document.documentElement).scrollBehavior") == "auto"
    moving = "[...document.querySelectorAll('*')].filter(e => getComputedStyle(e).animationName !== 'none' || parseFloat(getComputedStyle(e).transitionDuration)).length"
    assert browser.value(moving) == 0


@needs_chromium
def test_the_policy_lets_nothing_else_run_or_load(browser, shown):
    """A page in which a stranger's markup was not escaped, by somebody's mistake."""
    hurt = shown.with_name("hurt.html")
    hurt.write_bytes(
        shown.read_bytes().replace(
            b"<main",
            b"<script>document.title='hurt'</script><img src='https://example.org/x.png' onerror='document.title=1'><main",
        )
    )
    browser.open(hurt)
    assert browser.value("document.title") == "A network learns XOR 1.0.0"
    assert len(browser.said("Log.entryAdded")) >= 2
    assert [item["response"]["url"] for item in browser.said("Network.responseReceived")] == [hurt.as_uri()]


@needs_chromium
@pytest.mark.tool("pdftotext")
def test_it_prints_whole(browser, shown, tmp_path):
    (tmp_path / "page.pdf").write_bytes(browser.open(shown).pdf())
    argv = ["pdftotext", "-layout", tmp_path / "page.pdf", "-"]
    told = " ".join(subprocess.run(argv, check=True, capture_output=True, text=True).stdout.split())
    for word in (
        "A network learns XOR",
        "With Apptainer only",
        "Layers of the target gpu",
        "lib2",
        "How to cite",
        "11" * 32,
    ):
        assert word in told, word
    assert "On this page" not in told
    assert "Search the packages" not in told
