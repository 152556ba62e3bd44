"""A reference in a line, and the paragraph for the methods section, in plain text, LaTeX and Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from reprobox.cite.bibtex import key
from reprobox.cite.citation import SHORT, Citation, Named
from reprobox.cite.languages import code_span, latex, latex_url, markdown, one_line, web_address


def reference(citation: Citation, form: str = "text") -> str:
    """One line, as the APA style has software; ``form`` is one of :data:`FORMATS`."""
    language = _LANGUAGES[form]
    version = f"Version {citation.version}; " if citation.version else ""
    thing = f"{citation.title} ({version}lock sha256:{citation.lock[:SHORT]}) [Computational environment]."
    authors = _listed([f"{family}, {_initials(given)}" if given else family for given, family in citation.authors])
    told = f"{authors.rstrip('.')}. ({citation.year}). {thing}" if authors else f"{thing} ({citation.year})."
    return f"{language.plain(told)} {language.link(citation.address)}".strip()


def _initials(given: str) -> str:
    return " ".join("-".join(f"{part[0]}." for part in word.split("-") if part) for word in given.split())


def _listed(names: Sequence[str]) -> str:
    if len(names) < 3:
        return " & ".join(names)
    return f"{', '.join(names[:-1])}, & {names[-1]}"


# -- the paragraph -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Language:
    """How a language writes words, names of programs and hashes, addresses, and the entry of a bibliography."""

    plain: Callable[[str], str]
    code: Callable[[str], str]
    link: Callable[[str], str]
    cited: Callable[[Citation], str]


def _nothing(_: Citation) -> str:
    return ""


_LANGUAGES = {
    "text": _Language(plain=one_line, code=one_line, link=web_address, cited=_nothing),
    "latex": _Language(
        plain=latex,
        code=lambda text: f"\\texttt{{{latex(text)}}}",
        link=latex_url,
        cited=lambda citation: f"~\\cite{{{key(citation)}}}",
    ),
    "markdown": _Language(
        plain=markdown, code=code_span, link=lambda text: f"<{web_address(text)}>" if text else "", cited=_nothing
    ),
}
FORMATS = tuple(_LANGUAGES)


def paragraph(citation: Citation, form: str = "text") -> str:
    """The paragraph for a methods section, as one line; ``form`` is one of :data:`FORMATS`."""
    language = _LANGUAGES[form]
    return " ".join(
        (
            _what(citation, language),
            _holds(citation, language),
            *_results(citation, language),
            _again(citation, language),
        )
    )


def _what(citation: Citation, language: _Language) -> str:
    version = f" {citation.version}" if citation.version else ""
    target = f", target {citation.target}" if citation.targets > 1 else ""
    named = language.plain(f"{citation.title}{version}{target}")
    lock = language.code(f"sha256:{citation.lock[:SHORT]}")
    return f"The computational environment ({named}; lock {lock}) is described with reprobox{language.cited(citation)}."


def _holds(citation: Citation, language: _Language) -> str:
    on = f"It is based on {language.plain(citation.base)} for {language.plain(citation.platform)}"
    counts = _and([f"{count} {kind} package{'s' if count > 1 else ''}" for count, kind in citation.counts])
    among = _and([language.plain(_version(named)) for named in citation.named])
    holds = f" and holds {counts}" if counts else ""
    holds += f", among them {among}" if counts and among else ""
    every = "every input" if citation.pinned else "every input but those that build steps take from the network"
    return f"{on}{holds}; {every} is identified by its SHA-256 hash."


def _version(named: Named) -> str:
    return f"{named.name} {named.version}".strip()


def _results(citation: Citation, language: _Language) -> list[str]:
    if not citation.image_digest:
        return []
    digests = (citation.image_digest, citation.tree_digest)
    image, tree = (language.code(f"sha256:{digest[:SHORT]}") for digest in digests)
    vouch = "1 key vouches" if citation.keys == 1 else f"{citation.keys} keys vouch"
    vouched = f", for which {vouch} with signed statements" if citation.keys else ""
    return [f"Building it gives the image {image} and the file tree {tree}{vouched}."]


def _again(citation: Citation, language: _Language) -> str:
    where = f" at {language.link(citation.address)}" if citation.address else ""
    return f"It can be made again with {language.code('reprobox realize')} from its manifest and lock{where}."


def _and(items: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(items[:-1]), *items[-1:]) if part)
