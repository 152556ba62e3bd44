"""The parts of the page, from top to bottom. Each takes the :class:`Page` and gives markup, or nothing to tell."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from reprobox.cite import standing
from reprobox.drawing import Box, inline
from reprobox.preview.content import Data, Layer, Package, Page, Person, Target
from reprobox.preview.markup import Markup, join, tag, whole
from reprobox.recreate import Step, Way
from reprobox.sizes import human

_MOST_DRAWN = 200
_NONE = "—"
_OPEN_TARGETS = 3
_KINDS = {"deb": "Debian", "wheel": "Python", "sdist": "Python source", "build": "Python build", "uv": "tool"}
_WEB = re.compile(r"https?://[^\s<>\"]+\Z")


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """One part of the page that the contents list."""

    name: str
    title: str
    markup: Markup


def heading(page: Page) -> str:
    """The title and the version."""
    return f"{page.title} {page.version}".strip()


def all_of(page: Page) -> Iterator[Section | None]:
    """The sections in their order; None for one that has nothing to tell."""
    yield _section("about", "At a glance", _about(page))
    yield _section("recreate", "Recreate it", _recreate(page))
    yield _section("layers", "How it is built", _layers(page))
    yield _section("data", "Code and data", _code_and_data(page)) if page.code or page.data else None
    yield _section("people", "People and licence", _people(page))
    yield _section("cite", "How to cite", _cite(page)) if page.citation else None
    yield _section("verification", "Verification", _verification(page))
    yield _section("packages", "Packages", _packages(page)) if page.packages else None


def _section(name: str, title: str, *children: Markup) -> Section:
    head = tag("h2", title, id=f"{name}-title")
    return Section(
        name=name, title=title, markup=tag("section", head, *children, id=name, aria_labelledby=f"{name}-title")
    )


# -- around the sections -----------------------------------------------------------------------------------------------


def banner(page: Page) -> Markup:
    """Title, what it is, who made it, and how it stands."""
    names = listed([person.name for person in page.people])
    facts = [
        ("Version", tag("span", page.version) if page.version else None),
        ("Released", tag("time", page.date, datetime=page.date) if page.date else None),
        ("Licence", _licence(page) if page.licence else None),
        ("DOI", _link(f"https://doi.org/{page.doi}", page.doi) if page.doi else None),
    ]
    return tag(
        "header",
        tag(
            "div",
            tag("p", "A research environment that can be recreated", class_="kicker"),
            tag("h1", page.title, dir="auto"),
            tag("p", page.description, class_="lead", dir="auto") if page.description else None,
            tag("p", names, class_="authors") if names else None,
            tag("dl", *(_fact(name, value) for name, value in facts if value), class_="facts"),
            tag("p", _standing(page), class_="standing"),
            class_="inner",
        ),
    )


def _fact(name: str, value: Markup) -> Markup:
    return tag("div", tag("dt", name), tag("dd", value))


def _standing(page: Page) -> Markup:
    sealed = sum(target.sealed for target in page.targets)
    pinned = all(layer.pinned for target in page.targets for layer in target.layers)
    signed = [f"signed by {_keys(page)}"] if page.vouchers else []  # by whom, only the reader's own keys can tell
    words = [*standing(sealed, len(page.targets), 0, pinned=pinned), *signed]
    loose = ("in part", " of ")  # not all of it
    kinds = ("open" if any(sign in word for sign in loose) else "good" for word in words)
    return join(*(tag("span", word, class_=kind) for word, kind in zip(words, kinds, strict=True)), between=" ")


def contents(sections: Sequence[Section]) -> Markup:
    """Links to the sections."""
    entries = [tag("li", tag("a", section.title, href=f"#{section.name}")) for section in sections]
    return tag("nav", tag("h2", "On this page", id="contents"), tag("ol", *entries), aria_labelledby="contents")


def footer(page: Page) -> Markup:
    """What this page was made of."""
    return tag(
        "footer",
        tag(
            "p",
            "Written by reprobox from ",
            tag("code", "research.toml"),
            " and ",
            tag("code", "research.lock"),
            ", sha256 ",
            tag("code", page.lock, class_="whole"),
            ". Its clock stands at ",
            tag("time", page.epoch, datetime=page.epoch),
            ".",
            class_="inner",
        ),
    )


# -- at a glance -------------------------------------------------------------------------------------------------------


def _about(page: Page) -> Markup:
    counts = _counted(page.packages)
    bases = list(dict.fromkeys(target.base for target in page.targets))
    platforms = list(dict.fromkeys(target.platform for target in page.targets))
    needs = list(dict.fromkeys(f"{name} {value}" for target in page.targets for name, value in target.requires))
    rows = [
        ("Based on", join(*(tag("span", base) for base in bases), between=", ")),
        ("Runs on", join(*(tag("span", platform) for platform in platforms), between=", ")),
        ("Needs", tag("span", listed(needs))) if needs else None,
        ("Targets", join(*(tag("code", target.name) for target in page.targets), between=" "))
        if len(page.targets) > 1
        else None,
        ("Packages", tag("span", listed([f"{count:,} {what}" for what, count in counts]))) if counts else None,
        ("Runs", tag("code", whole(page.command))) if page.command else None,
        ("Keywords", tag("span", ", ".join(page.keywords))) if page.keywords else None,
        ("More", join(*_links(page), between=" · ")) if page.url or page.repository else None,
    ]
    intro = (
        "This package describes everything that the computation ran in: every file of the environment is named by its"
        " hash, so that anyone can make the same environment again, and can tell whether it is the same."
    )
    return join(tag("p", intro), tag("dl", *(_fact(*row) for row in rows if row), class_="glance"))


def _counted(packages: Sequence[Package]) -> list[tuple[str, int]]:
    kinds = sorted(_kind(package) for package in packages if package.kind != "uv")
    return [
        (f"{kind} package{'s' if count > 1 else ''}", count)
        for kind, group in groupby(kinds)
        if (count := len(list(group)))
    ]


def _kind(package: Package) -> str:
    return _KINDS.get(package.kind, package.kind)


def _links(page: Page) -> Iterator[Markup]:
    if page.url:
        yield _link(page.url, "page of the project")
    if page.repository:
        yield _link(page.repository, "where its code is developed")


# -- recreate ----------------------------------------------------------------------------------------------------------


def _recreate(page: Page) -> Markup:
    where = "Type the commands in the folder of this package, the one that has this page in it."
    more = ""
    if len(page.targets) > 1:
        others = listed([target.name for target in page.targets if target.name != page.ways_target])
        more = f" They are for the target {page.ways_target}; the others are {others}."
    return join(tag("p", where + more), *(_way(way) for way in page.ways))


def _way(way: Way) -> Markup:
    return tag(
        "section",
        tag("h3", way.title, id=f"with-{way.name}"),
        tag("p", f"You need {way.needs}.", class_="needs"),
        tag("ol", *map(_step, way.steps), class_="steps"),
        class_="way",
        aria_labelledby=f"with-{way.name}",
    )


def _step(step: Step) -> Markup:
    return tag(
        "li", tag("p", whole(step.says)), _block("\n".join(step.commands), "Commands") if step.commands else None
    )


def _block(text: str, label: str) -> Markup:
    """Text as it is; whoever has no mouse can scroll it."""
    return tag("pre", tag("code", whole(text)), tabindex=0, role="group", aria_label=label)


# -- layers ------------------------------------------------------------------------------------------------------------


def _layers(page: Page) -> Markup:
    intro = (
        "The environment is a stack of layers. Each is built, without a network, from locked inputs on top of those"
        " that it stands on, and its id is a hash of all of them."
    )
    parts = [
        _target(target, alone=len(page.targets) == 1, shut=number >= _OPEN_TARGETS)
        for number, target in enumerate(page.targets)
    ]
    return join(tag("p", intro), *parts)


def _target(target: Target, *, alone: bool, shut: bool) -> Markup:
    told = tag("div", _picture(target), _layer_table(target), class_="beside")
    if alone:
        return told
    title = tag("h3", f"Target {target.name}", Markup(" "), tag("small", target.platform))
    return tag("details", tag("summary", title), told, open=not shut)


def _picture(target: Target) -> Markup | None:
    if len(target.layers) > _MOST_DRAWN:
        return tag("p", f"{len(target.layers)} layers are too many for a picture; the table has them all.")
    boxes = [_box(layer) for layer in target.layers]
    title = f"What stands on what in the target {target.name}; the table below says the same"
    return tag(
        "figure",
        tag(
            "div",
            Markup(inline(boxes, title)),
            class_="scroll",
            tabindex=0,
            role="group",
            aria_label="Picture of the layers",
        ),
        tag("figcaption", "The layers, from the base at the top to what is built last."),
    )


def _box(layer: Layer) -> Box:
    told = (f"{_inputs(layer)}, {human(layer.size)}",) if layer.inputs else ()
    return Box(name=layer.name, kind=layer.kind, parents=layer.parents, state="stored", lines=told)


def _inputs(layer: Layer) -> str:
    return f"{layer.inputs:,} input{'s' if layer.inputs != 1 else ''}"


def _layer_table(target: Target) -> Markup:
    rows = [
        (
            tag("th", layer.name, scope="row"),
            tag("td", layer.kind),
            tag("td", layer.asks, None if layer.pinned else tag("strong", " not pinned: it uses the network")),
            tag("td", ", ".join(layer.parents) or _NONE),
            tag("td", f"{layer.inputs:,}", class_="number"),
            tag("td", human(layer.size) if layer.inputs else _NONE, class_="number"),
            tag("td", _digest(layer.id)),
        )
        for layer in target.layers
    ]
    return _table(
        f"Layers of the target {target.name}",
        ("Layer", "Kind", "Asks for", "Stands on", "#Inputs", "#Size", "Id (sha256)"),
        rows,
    )


# -- packages ----------------------------------------------------------------------------------------------------------


def _packages(page: Page) -> Markup:
    several = len(page.targets) > 1
    licences = any(package.licence for package in page.packages)
    heads = [
        "Package",
        "Version",
        "From",
        *(["Targets"] if several else []),
        *(["Licence"] if licences else []),
        "#Size",
        "File (sha256)",
    ]
    rows = [_package(package, several=several, licences=licences) for package in page.packages]
    search = tag(
        "div",
        tag("label", "Search the packages", for_="search"),
        tag("input", id="search", type="search", autocomplete="off", spellcheck="false", aria_controls="package-list"),
        tag("output", id="found", for_="search", aria_live="polite"),
        id="search-packages",
        role="search",
        hidden=True,
    )
    full = tag(
        "p",
        tag("input", type="checkbox", id="full"),
        tag("label", " Show hashes and licences in full" if licences else " Show hashes in full", for_="full"),
    )
    intro = f"{len(page.packages):,} files are installed, each named by the hash of its bytes."
    caption = "Installed packages, by layer and name"
    return join(
        tag("p", intro), tag("div", search, full, class_="tools"), _table(caption, heads, rows, id_="package-list")
    )


def _package(package: Package, *, several: bool, licences: bool) -> tuple[Markup | None, ...]:
    return (
        tag("th", package.name, scope="row"),
        tag("td", package.version or _NONE),
        tag("td", f"{_kind(package)}, {package.layer}"),
        tag("td", ", ".join(package.targets) or "all") if several else None,
        tag("td", tag("span", package.licence or _NONE, class_="clamp")) if licences else None,
        tag("td", human(package.size), class_="number"),
        tag("td", _digest(package.sha256)),
    )


# -- code and data -----------------------------------------------------------------------------------------------------


def _code_and_data(page: Page) -> Markup:
    code = page.code
    parts: list[Markup | None] = []
    if code:
        source = (
            join("from ", _link(code.repository, code.repository))
            if code.repository
            else join("in ", tag("code", code.place))
        )
        rows = [
            ("Where", join(source, ", seen at ", tag("code", code.target))),
            ("Commit", tag("code", code.commit, class_="whole")) if code.commit else None,
            ("Git tree", tag("code", code.tree, class_="whole")) if code.tree else None,
        ]
        parts += [tag("h3", "Code"), tag("dl", *(_fact(*row) for row in rows if row), class_="glance")]
    if page.data:
        parts += [
            tag("h3", "Data"),
            _table("Folders that the environment sees", ("Seen at", "Use", "Where", "Content"), map(_data, page.data)),
        ]
    return join(*parts)


def _data(data: Data) -> tuple[Markup, ...]:
    place = data.source or "given when it runs"
    note = "" if data.mode == "rw" else ", enclosed" if data.enclosed else ", not enclosed"
    return (
        tag("th", tag("code", data.target), scope="row"),
        tag("td", "data, read-only" if data.mode == "ro" else "results, written"),
        tag("td", f"{place}{note}"),
        tag("td", *_content(data)),
    )


def _content(data: Data) -> Iterator[Markup]:
    if data.tree:
        words = f"{data.files:,} file{'s' if data.files != 1 else ''}, {human(data.size)}, tree sha256 "
        yield tag("p", words, tag("code", data.tree, class_="whole"))
    for url, digest, size in data.downloads:
        yield tag("p", _link(url, url), f", {human(size)}, sha256 ", tag("code", digest, class_="whole"))
    if not data.tree and not data.downloads:
        yield tag("p", _NONE if data.mode == "rw" else "not locked: its content was not recorded")


# -- people, licence, citation -----------------------------------------------------------------------------------------


def _people(page: Page) -> Markup:
    people = [tag("li", *_person(person)) for person in page.people]
    grants = [
        tag(
            "li",
            _link(grant.ror, grant.funder) if grant.ror else tag("span", grant.funder),
            f", {grant.title}" if grant.title else None,
            f", {grant.award}" if grant.award else None,
            join(", ", _link(grant.url, "page of the grant")) if grant.url else None,
        )
        for grant in page.funding
    ]
    licence = join("Licence of this package: ", _licence(page), ".") if page.licence else join("No licence is stated.")
    more = " The packages of the environment have licences of their own."
    return join(
        tag("ul", *people, class_="people") if people else tag("p", "Nobody is named."),
        tag("p", licence, more),
        *((tag("h3", "Funding"), tag("ul", *grants)) if grants else ()),
    )


def _person(person: Person) -> Iterator[Markup | str]:
    yield tag("bdi", person.name, class_="name")
    if person.affiliation:
        yield ", "
        yield _link(person.ror, person.affiliation) if person.ror else tag("span", person.affiliation)
    if person.orcid:
        yield ", "
        yield _link(f"https://orcid.org/{person.orcid}", f"ORCID {person.orcid}")


def _licence(page: Page) -> Markup:
    return _link(page.licence_url, page.licence) if page.licence_url else tag("span", page.licence)


def _cite(page: Page) -> Markup:
    return join(
        tag("p", page.citation, class_="citation", dir="auto"),
        tag("h3", "BibTeX") if page.bibtex else None,
        _block(page.bibtex, "BibTeX") if page.bibtex else None,
    )


# -- verification ------------------------------------------------------------------------------------------------------


def _verification(page: Page) -> Markup:
    checks = [_locked(page), _sealed(page), _vouched(page), _recorded(page)]
    note = (
        "This page says what was known when it was written; it proves nothing. These commands check it on your machine:"
    )
    signed = ["reprobox verify -C project --attestations attestations"] if page.vouchers else []
    commands = "\n".join(("reprobox verify -C project", "reprobox realize -C project", *signed))
    return join(
        tag("ul", *checks, class_="checks"),
        _voucher_table(page) if page.vouchers else None,
        _run_table(page) if page.runs else None,
        _digest_table(page),
        tag("p", note),
        _block(commands, "Commands"),
    )


def _good(word: str, text: str) -> Markup:
    return _check("good", "✓", word, text)


def _open(word: str, text: str) -> Markup:
    return _check("open", "○", word, text)


def _check(kind: str, sign: str, word: str, text: str) -> Markup:
    mark = tag("span", sign, aria_hidden="true", class_="sign")
    return tag("li", mark, tag("strong", word), f" {text}", class_=kind)


def _locked(page: Page) -> Markup:
    loose = sorted({layer.name for target in page.targets for layer in target.layers if not layer.pinned})
    if loose:
        text = f"but for what the steps of {listed(loose)} take from the network, which no hash names."
        return _open("Locked,", text)
    return _good("Locked.", "Every input is named by its SHA-256 hash.")


def _sealed(page: Page) -> Markup:
    sealed = [target.name for target in page.targets if target.sealed]
    if not sealed:
        return _open("Not sealed.", "Inputs are locked; what building them gives was not recorded.")
    if len(sealed) < len(page.targets):
        return _open("Sealed in part.", f"The results of building {listed(sealed)} are recorded, the others' are not.")
    return _good("Sealed.", "What building gives was recorded: whoever builds it again must get the same bytes.")


def _vouched(page: Page) -> Markup:
    if not page.vouchers:
        return _open("Nobody vouches.", "No signed statement of a rebuild is enclosed.")
    says = "Statements are enclosed that it was built again and gave the recorded results; whether the signatures hold,"
    return _good(f"Signed by {_keys(page)}.", f"{says} is for you to check with the keys that you believe.")


def _keys(page: Page) -> str:
    count = len({voucher.key for voucher in page.vouchers})
    return "1 key" if count == 1 else f"{count} keys"


def _recorded(page: Page) -> Markup:
    count = len(page.runs)
    if not count:
        return _open("No run is recorded.", "How the results were made is not part of this package.")
    return _good(f"{count} run{'s' if count != 1 else ''} recorded.", "What ran, on which inputs, with which results.")


def _voucher_table(page: Page) -> Markup:
    rows = [
        (
            tag("th", item.who or "A key", scope="row"),
            tag("td", _moment(item.when)),
            tag("td", item.says or _NONE),
            tag("td", tag("code", item.key, class_="whole")),
        )
        for item in page.vouchers
    ]
    return _table("Signed statements", ("Name", "When", "Says", "Key"), rows)


def _moment(when: str) -> Markup:
    """A moment of RFC 3339 as people write it."""
    return tag("time", when.replace("T", " ").replace("Z", " UTC"), datetime=when) if when else tag("span", _NONE)


def _run_table(page: Page) -> Markup:
    rows = [
        (
            tag("th", tag("code", item.command), scope="row"),
            tag("td", item.target or _NONE),
            tag("td", item.who or _NONE),
            tag("td", _moment(item.ended)),
            tag("td", str(item.status), class_="number"),
            tag("td", f"{item.outputs:,}", class_="number"),
        )
        for item in page.runs
    ]
    return _table("Recorded runs", ("Command", "Target", "Who", "Ended", "#Exit status", "#Files written"), rows)


def _digest_table(page: Page) -> Markup:
    said = [("research.lock", page.lock), ("Manifest, as it is read", page.manifest)]
    for target in page.targets:
        of = f" of {target.name}" if len(page.targets) > 1 else ""
        said += [(f"Image{of}", target.image_digest), (f"File tree{of}", target.tree_digest)] if target.sealed else []
    rows = [(tag("th", name, scope="row"), tag("td", tag("code", digest, class_="whole"))) for name, digest in said]
    return _table("Digests (sha256)", ("Of what", "Digest"), rows)


# -- small parts -------------------------------------------------------------------------------------------------------


def _table(caption: str, heads: Sequence[str], rows: object, id_: str = "") -> Markup:
    """A table that scrolls by itself where it is too wide. ``#`` before a heading: its column has numbers."""
    head = tag(
        "tr",
        *(
            tag("th", name.removeprefix("#"), scope="col", class_="number" if name[0] == "#" else None)
            for name in heads
        ),
    )
    body = [tag("tr", *cells) for cells in rows]  # type: ignore[attr-defined]
    table = tag("table", tag("caption", caption), tag("thead", head), tag("tbody", *body), id=id_ or None)
    return tag("div", table, class_="scroll", tabindex=0, role="group", aria_label=caption)


def _digest(hexadecimal: str) -> Markup:
    return tag("code", hexadecimal, class_="digest")


def _link(url: str, text: str) -> Markup:
    """A link, if it leads to the web; else the text alone."""
    return tag("a", text, href=url) if _WEB.match(url) else tag("span", text)


def listed(names: Sequence[str]) -> str:
    """``a, b and c``"""
    return " and ".join(part for part in (", ".join(names[:-1]), *names[-1:]) if part)
