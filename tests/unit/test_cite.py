"""How an environment is cited: what is said, and that no name says more than a name."""

from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from reprobox.cite import FORMATS, Citation, badge, bibtex, citation_of, key, paragraph, reference, standing
from reprobox.cite.badge import width_of
from reprobox.cite.citation import Named
from reprobox.cite.languages import code_span, latex, markdown, one_line, web_address
from reprobox.lock import Input, Lock, LockedLayer, LockedTarget, Seal
from reprobox.lock_text import lock_digest
from reprobox.manifest_reader import parse
from reprobox.plugins import Plugins
from reprobox.publish.citation import citation as citation_file
from tests.browser import chromium

XOR = Citation(
    title="A network learns XOR",
    name="xor",
    authors=(("Josiah", "Carberry"), ("Ada", "Lovelace")),
    day="2026-11-22",
    lock="00e33a505409" + "c" * 52,
    target="default",
    platform="linux/amd64",
    base="Debian bookworm",
    version="1.0.0",
    doi="10.5281/zenodo.1234567",
    counts=((110, "Debian"), (1, "Python")),
    named=(Named(name="python3", version="3.11.2-1+b1"), Named(name="numpy", version="2.4.6")),
    image_digest="d5" * 32,
    tree_digest="ee" * 32,
    sealed=1,
    keys=2,
)
NAMES = st.text(st.characters(codec="utf-8"), max_size=30)
#: Names that LaTeX, BibTeX, Markdown, HTML or a shell would take for something else.
EVIL = (
    '\\input{/etc/passwd} 100% $x_1^2$ #a & b ~ {c} }{ <script> [l](http://e.org) `id` *b* "q" |\nand, Jr. and others'
)


# -- what is said ------------------------------------------------------------------------------------------------------


def test_the_paragraph():
    assert paragraph(XOR) == (
        "The computational environment (A network learns XOR 1.0.0; lock sha256:00e33a505409) is described with reprobox. It is based"
        " on Debian bookworm for linux/amd64 and holds 110 Debian packages and 1 Python package, among them python3 3.11.2-1+b1 and numpy"
        " 2.4.6; every input is identified by its SHA-256 hash. Building it gives the image sha256:d5d5d5d5d5d5 and the file tree"
        " sha256:eeeeeeeeeeee, for which 2 keys vouch with signed statements. It can be made again with reprobox realize from its manifest"
        " and lock at https://doi.org/10.5281/zenodo.1234567."
    )
    told = paragraph(XOR, "latex")
    assert r"lock \texttt{sha256:00e33a505409}) is described with reprobox~\cite{carberry2026-xor}." in told
    assert told.endswith(r"lock at \url{https://doi.org/10.5281/zenodo.1234567}.")
    assert paragraph(XOR, "markdown").endswith("lock at <https://doi.org/10.5281/zenodo.1234567>.")


def test_the_paragraph_claims_no_more_than_is_true():
    told = paragraph(
        replace(XOR, image_digest="", tree_digest="", sealed=0, keys=0, pinned=False, doi="", counts=(), targets=2)
    )
    assert "target default" in told
    assert "Building it" not in told
    assert "vouch" not in told
    assert "every input but those that build steps take from the network is identified" in told
    assert told.endswith("from its manifest and lock.")


def test_the_reference():
    assert reference(XOR) == (
        "Carberry, J. & Lovelace, A. (2026). A network learns XOR (Version 1.0.0; lock sha256:00e33a505409) [Computational environment]."
        " https://doi.org/10.5281/zenodo.1234567"
    )
    many = replace(
        XOR, authors=(("Jean-Luc", "Godard"), ("", "Plato"), ("María José", "García Pérez")), doi="", version=""
    )
    assert reference(many).startswith("Godard, J.-L., Plato, & García Pérez, M. J. (2026). A network")
    assert reference(replace(XOR, authors=(), doi="", url="https://example.org/x")) == (
        "A network learns XOR (Version 1.0.0; lock sha256:00e33a505409) [Computational environment]. (2026). https://example.org/x"
    )


def test_the_entry_of_a_bibliography():
    assert bibtex(XOR) == (
        "@misc{carberry2026-xor,\n"
        "  author  = {Carberry, Josiah and Lovelace, Ada},\n"
        "  title   = {{A network learns XOR}},\n"
        "  year    = {2026},\n"
        "  month   = {11},\n"
        "  version = {1.0.0},\n"
        "  doi     = {10.5281/zenodo.1234567},\n"
        "  url     = {https://doi.org/10.5281/zenodo.1234567},\n"
        f"  note    = {{Computational environment, research.lock sha256:{XOR.lock}}},\n"
        "}"
    )
    named = replace(XOR, authors=(("", "Institute of Salt and Light"), ("Ö.", "Ångström")))
    assert "author  = {{Institute of Salt and Light} and Ångström, Ö.}," in bibtex(named)
    assert key(named) == "instituteofsaltandlight2026-xor"
    assert key(replace(XOR, authors=(("", "李"),))) == "2026-xor"


def test_what_a_manifest_and_a_lock_give():
    text = """
[project]
name = "xor"
authors = [{ name = "Ludwig van Beethoven" }]
[base]
image = "debian:bookworm"
[[layers]]
name = "python"
kind = "pip"
packages = ["Scikit_Learn[x]>=1", "absent"]
"""
    inputs = (
        Input(type="wheel", name="s.whl", sha256="1" * 64, size=1, facts={"package": "scikit-learn", "version": "1.5"}),
        Input(type="uv", name="uv", sha256="2" * 64, size=1),
    )
    layer = LockedLayer(name="python", kind="pip", recipe=1, request="", inputs=inputs)
    seal = Seal(image_digest="sha256:" + "3" * 64, tree_digest="sha256:" + "4" * 64, layers={})
    target = LockedTarget(name="default", platform="linux/arm64", layers=(layer,), seal=seal)
    lock = Lock(epoch=1_700_000_000, manifest="", keys={}, targets={"default": target})
    found = citation_of(parse(text, kinds=Plugins(discover=False).kinds), lock, "default")
    assert (found.authors, found.day, found.base) == (
        (("Ludwig", "van Beethoven"),),
        "2023-11-14",
        "the image debian:bookworm",
    )
    assert (found.counts, found.named) == (((1, "Python"),), (Named(name="scikit-learn", version="1.5"),))
    assert (found.image_digest, found.sealed, found.lock) == ("3" * 64, 1, lock_digest(lock))


def test_it_agrees_with_the_citation_file_of_a_publication():
    text = """
[project]
name = "xor"
title = "A network learns XOR"
version = "1.0.0"
description = "It learns"
license = "MIT"
authors = [{ name = "Ludwig van Beethoven" }]
doi = "10.5281/zenodo.1234567"
date = "2025-02-01"
[base]
image = "debian:bookworm"
"""
    manifest = parse(text, kinds={})
    target = LockedTarget(
        name="default", platform="linux/arm64", layers=(LockedLayer(name="base", kind="image", recipe=1, request=""),)
    )
    found = citation_of(
        manifest, Lock(epoch=0, manifest="", keys={}, targets={"default": target}), "default", digest="ab" * 32
    )
    entry, file = bibtex(found), citation_file(manifest, "ab" * 32).decode()
    for said in ("A network learns XOR", "1.0.0", "10.5281/zenodo.1234567", "van Beethoven", "Ludwig", "ab" * 32):
        assert said in entry
        assert said in file
    assert 'date-released: "2025-02-01"' in file
    assert "year    = {2025}" in entry
    assert "month   = {2}" in entry


# -- names are names ---------------------------------------------------------------------------------------------------


@given(NAMES)
def test_latex_has_no_command_that_is_not_ours_and_its_braces_are_balanced(text):
    told = latex(text)
    rest = re.sub(
        r"\\(text(backslash|braceleft|braceright|asciitilde|asciicircum|less|greater|bar|quotedbl)\{\}|[&%$#_])",
        "",
        told,
    )
    assert not set(rest) & set("\\{}%$#_&~^")
    assert told.count("{") == told.count("}")


@given(NAMES)
def test_markdown_shows_the_text_and_nothing_else(text):
    reader = MarkdownIt("gfm-like", {"linkify": False})
    for told in (markdown(text), f"x {code_span(text)}" if one_line(text) else ""):
        tokens = [child for token in reader.parse(told) for child in token.children or ()]
        assert {token.type for token in tokens} <= {"text", "code_inline", "text_special"}
        shown = "".join(token.content for token in tokens)
        assert shown == (one_line(text) if told == markdown(text) else f"x {one_line(text)}")
        assert {token.type for token in reader.parse(told)} <= {"paragraph_open", "inline", "paragraph_close"}


@given(NAMES)
def test_an_address_has_no_character_that_a_language_takes_for_its_own(text):
    assert re.fullmatch(r"[^\s\\{}<>`\"^|]*", web_address(text))
    assert web_address(text).isascii()


@given(NAMES.filter(one_line), NAMES)
def test_an_entry_keeps_its_shape_whatever_the_names_are(name, title):
    told = bibtex(replace(XOR, authors=((title, name), ("", name)), title=title, version=name, doi=f"10.1000/{name}"))
    assert [line.split("=")[0].strip() for line in told.splitlines()[1:-1]] == [
        "author", "title", "year", "month", "version", "doi", "url", "note",
    ]  # fmt: skip
    for line in told.splitlines()[1:-1]:
        depth = 0
        for char in line:
            depth += {"{": 1, "}": -1}.get(char, 0)
            assert depth >= 0
        assert depth == 0
    names = re.sub(r"\{[^{}]*\{[^{}]*\}[^{}]*\}|\{[^{}]*\}", "", told.splitlines()[1][len("  author  = {") : -2])
    assert len(re.findall(r"\sand\s", f" {names} ")) <= 1 + names.count("{")


def test_hostile_names_in_everything():
    evil = replace(
        XOR,
        title=EVIL,
        authors=((EVIL, EVIL),),
        version=EVIL,
        base=EVIL,
        named=(Named(name=EVIL, version=EVIL),),
        doi="10.1/}{%\\x",
    )
    for form in FORMATS:
        told = f"{paragraph(evil, form)}\n{reference(evil, form)}"
        assert len(told.splitlines()) == 2
    assert "\\input" not in paragraph(evil, "latex")
    assert "<script>" not in MarkdownIt().render(paragraph(evil, "markdown"))
    assert "href" not in MarkdownIt().render(markdown(EVIL))
    assert "\\url{https://doi.org/10.1/%7D%7B%25%5Cx}" in paragraph(evil, "latex")


# -- the badge ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"sealed": 0, "keys": 0}, "00e33a505409 · locked"),
        ({"sealed": 0, "keys": 0, "pinned": False}, "00e33a505409 · locked in part"),
        ({"keys": 0}, "00e33a505409 · sealed"),
        ({"keys": 1}, "00e33a505409 · sealed · 1 key vouches"),
        ({"keys": 0, "targets": 3}, "00e33a505409 · locked · 1 of 3 targets sealed"),
    ],
)
def test_the_badge_says_what_is_true(changed, words):
    root = ElementTree.fromstring(badge(replace(XOR, **changed)))
    name = "{http://www.w3.org/2000/svg}"
    assert [text.text for text in root.iter(f"{name}text")] == ["environment", words]
    assert root.get("role") == "img"
    assert root.get("aria-label") == root.find(f"{name}title").text
    assert "sha256:00e33a505409" in root.find(f"{name}title").text


def test_the_same_citation_gives_the_same_badge():
    assert badge(XOR) == badge(replace(XOR))
    assert standing(1, 1, 0) == ("locked", "sealed")


@pytest.mark.tool("chromium")
def test_texts_of_the_badge_are_as_wide_as_chromium_draws_them(tmp_path):
    """Without the widths that the picture tells, in the font that they were read from."""
    drawn = re.sub(r' textLength="\d+" lengthAdjust="\w+"', "", badge(XOR)).replace("Verdana,", "")
    (tmp_path / "badge.svg").write_text(drawn)
    with chromium() as browser:
        browser.open(tmp_path / "badge.svg")
        found = browser.value(
            "[...document.querySelectorAll('text')].map(t => [t.textContent, t.getComputedTextLength()])"
        )
    for text, width in found:
        assert width_of(text) == pytest.approx(width, rel=0.04)
