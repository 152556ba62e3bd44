"""The entry for a bibliography."""

from __future__ import annotations

import re
import unicodedata

from reprobox.cite.citation import Citation
from reprobox.cite.languages import latex, one_line


def key(citation: Citation) -> str:
    """The entry's name: letters, digits and hyphens, such as ``lovelace2026-xor``."""
    first = _ascii(citation.authors[0][1]) if citation.authors else ""
    return f"{first}{citation.year}-{_ascii(citation.name)}".lower()


def _ascii(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub("[^A-Za-z0-9]+", "", plain)


def bibtex(citation: Citation) -> str:
    """An entry that old BibTeX and biblatex both read, in UTF-8."""
    year, month, _ = citation.day.split("-")
    fields = {
        "author": " and ".join(_bibtex_name(given, family) for given, family in citation.authors),
        "title": f"{{{latex(citation.title)}}}",
        "year": year,
        "month": str(int(month)),
        "version": latex(citation.version),
        "doi": _verbatim(citation.doi),
        "url": _verbatim(citation.address),
        "note": latex(f"Computational environment, research.lock sha256:{citation.lock}"),
    }
    lines = [f"  {name:7} = {{{value}}}," for name, value in fields.items() if value]
    return "\n".join((f"@misc{{{key(citation)},", *lines, "}"))


def _bibtex_name(given: str, family: str) -> str:
    """Both parts in braces where their words would be taken for others: `and`, commas."""
    parts = [
        f"{{{latex(part)}}}" if re.search(r",|\band\b", part, re.IGNORECASE) else latex(part)
        for part in (family, given)
    ]
    return ", ".join(parts) if given else f"{{{latex(family)}}}"


def _verbatim(text: str) -> str:
    """Fields that are taken as they are: no brace and no backslash may be in them, and nothing else is escaped."""
    return "".join(f"%{ord(char):02X}" if char in "{}\\" else char for char in one_line(text))
