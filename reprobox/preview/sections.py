"""The parts of the page, from top to bottom. Each takes the :class:`Page` and gives markup, or nothing to tell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from reprobox.cite import standing
from reprobox.drawing import Box, inline
from reprobox.preview.content import Data, Layer, Package, Page, Person, Target
from reprobox.preview.markup import Markup, join, tag, whole
from reprobox.preview.parts import NONE, block, digest_code, fact, link, listed, table
from reprobox.preview.verification import keys, verification
from reprobox.recreate import Step, Way
from reprobox.sizes import human

_MOST_DRAWN = 200
_OPEN_TARGETS = 3
_KINDS = {"deb": "Debian", "wheel": "Python", "sdist": "Python source", "build": "Python build", "uv": "tool"}


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
    yield _section("verification", "Verification", verification(page))
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
        ("DOI", link(f"https://doi.org/{page.doi}", page.doi) if page.doi else None),
    ]
    return tag(
        "header",
        tag(
            "div",
            tag("p", "A research environment that can be recreated", class_="kicker"),
            tag("h1", page.title, dir="auto"),
            tag("p", page.description, class_="lead", dir="auto") if page.description else None,
            tag("p", names, class_="authors") if names else None,
            tag("dl", *(fact(name, value) for name, value in facts if value), class_="facts"),
            tag("p", _standing(page), class_="standing"),
            class_="inner",
        ),
    )


def _standing(page: Page) -> Markup:
    sealed = sum(target.sealed for target in page.targets)
    pinned = all(layer.pinned for target in page.targets for layer in target.layers)
    signed = [f"signed by {keys(page)}"] if page.vouchers else []  # by whom, only the reader's own keys can tell
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
    return join(tag("p", intro), tag("dl", *(fact(*row) for row in rows if row), class_="glance"))


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
        yield link(page.url, "page of the project")
    if page.repository:
        yield link(page.repository, "where its code is developed")


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
    return tag("li", tag("p", whole(step.says)), block("\n".join(step.commands), "Commands") if step.commands else None)


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
            tag("td", ", ".join(layer.parents) or NONE),
            tag("td", f"{layer.inputs:,}", class_="number"),
            tag("td", human(layer.size) if layer.inputs else NONE, class_="number"),
            tag("td", digest_code(layer.id)),
        )
        for layer in target.layers
    ]
    return table(
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
        tag("p", intro), tag("div", search, full, class_="tools"), table(caption, heads, rows, id_="package-list")
    )


def _package(package: Package, *, several: bool, licences: bool) -> tuple[Markup | None, ...]:
    return (
        tag("th", package.name, scope="row"),
        tag("td", package.version or NONE),
        tag("td", f"{_kind(package)}, {package.layer}"),
        tag("td", ", ".join(package.targets) or "all") if several else None,
        tag("td", tag("span", package.licence or NONE, class_="clamp")) if licences else None,
        tag("td", human(package.size), class_="number"),
        tag("td", digest_code(package.sha256)),
    )


# -- code and data -----------------------------------------------------------------------------------------------------


def _code_and_data(page: Page) -> Markup:
    code = page.code
    parts: list[Markup | None] = []
    if code:
        source = (
            join("from ", link(code.repository, code.repository))
            if code.repository
            else join("in ", tag("code", code.place))
        )
        rows = [
            ("Where", join(source, ", seen at ", tag("code", code.target))),
            ("Commit", tag("code", code.commit, class_="whole")) if code.commit else None,
            ("Git tree", tag("code", code.tree, class_="whole")) if code.tree else None,
        ]
        parts += [tag("h3", "Code"), tag("dl", *(fact(*row) for row in rows if row), class_="glance")]
    if page.data:
        parts += [
            tag("h3", "Data"),
            table("Folders that the environment sees", ("Seen at", "Use", "Where", "Content"), map(_data, page.data)),
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
        yield tag("p", link(url, url), f", {human(size)}, sha256 ", tag("code", digest, class_="whole"))
    if not data.tree and not data.downloads:
        yield tag("p", NONE if data.mode == "rw" else "not locked: its content was not recorded")


# -- people, licence, citation -----------------------------------------------------------------------------------------


def _people(page: Page) -> Markup:
    people = [tag("li", *_person(person)) for person in page.people]
    grants = [
        tag(
            "li",
            link(grant.ror, grant.funder) if grant.ror else tag("span", grant.funder),
            f", {grant.title}" if grant.title else None,
            f", {grant.award}" if grant.award else None,
            join(", ", link(grant.url, "page of the grant")) if grant.url else None,
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
        yield link(person.ror, person.affiliation) if person.ror else tag("span", person.affiliation)
    if person.orcid:
        yield ", "
        yield link(f"https://orcid.org/{person.orcid}", f"ORCID {person.orcid}")


def _licence(page: Page) -> Markup:
    return link(page.licence_url, page.licence) if page.licence_url else tag("span", page.licence)


def _cite(page: Page) -> Markup:
    return join(
        tag("p", page.citation, class_="citation", dir="auto"),
        tag("h3", "BibTeX") if page.bibtex else None,
        block(page.bibtex, "BibTeX") if page.bibtex else None,
    )
