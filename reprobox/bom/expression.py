"""What packages say of their licences, as SPDX licence expressions.

https://spdx.github.io/spdx-spec/v2.3/SPDX-license-expressions/. What has no identifier in SPDX's list is a
``LicenseRef-`` of the package that says it, since "BSD" of one is not "BSD" of another.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from reprobox.bom.component import Component, ref_of
from reprobox.errors import ReproboxError
from reprobox.licences import CLASSIFIERS, DEP5, PROSE

if TYPE_CHECKING:
    from license_expression import Licensing

#: Debian's short names that are not SPDX's: the machine-readable copyright format has them, and packages use them.
_DEBIAN = {
    "apache-2": "Apache-2.0",
    "artistic": "Artistic-1.0-Perl",
    "artistic-1": "Artistic-1.0-Perl",
    "artistic-2": "Artistic-2.0",
    "boost-1.0": "BSL-1.0",
    "bsl-1": "BSL-1.0",
    "cc0": "CC0-1.0",
    "expat": "MIT",
    "psf-2": "PSF-2.0",
    "python-2": "PSF-2.0",
    "zlib/libpng": "Zlib",
}
_FAMILY = re.compile(
    r"(?P<name>A?GPL|LGPL|GFDL)(?P<plain>-NIV)?-?v?(?P<number>[0-9](?:\.[0-9])?)(?:\.0)?(?P<later>\+|-only|-or-later)?",
    re.IGNORECASE,
)
#: Trove classifiers that name one licence, from the list of the Python Packaging Authority.
_TROVE = {
    "Apache Software License": "Apache-2.0",
    "Boost Software License 1.0 (BSL-1.0)": "BSL-1.0",
    "CC0 1.0 Universal (CC0 1.0) Public Domain Dedication": "CC0-1.0",
    "GNU Affero General Public License v3": "AGPL-3.0-only",
    "GNU Affero General Public License v3 or later (AGPLv3+)": "AGPL-3.0-or-later",
    "GNU General Public License v2 (GPLv2)": "GPL-2.0-only",
    "GNU General Public License v2 or later (GPLv2+)": "GPL-2.0-or-later",
    "GNU General Public License v3 (GPLv3)": "GPL-3.0-only",
    "GNU General Public License v3 or later (GPLv3+)": "GPL-3.0-or-later",
    "GNU Lesser General Public License v2 or later (LGPLv2+)": "LGPL-2.0-or-later",
    "GNU Lesser General Public License v3 (LGPLv3)": "LGPL-3.0-only",
    "GNU Lesser General Public License v3 or later (LGPLv3+)": "LGPL-3.0-or-later",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 1.1 (MPL 1.1)": "MPL-1.1",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "The Unlicense (Unlicense)": "Unlicense",
    "zlib/libpng License": "Zlib",
}
_WORDS = {"mit license": "MIT", "apache 2.0": "Apache-2.0", "apache license 2.0": "Apache-2.0"}
_WORDS |= {"apache license, version 2.0": "Apache-2.0", "bsd 3-clause": "BSD-3-Clause", "psf": "PSF-2.0"}
_JOINED = re.compile(r"\s+(and/or|and|or)\s+", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Declared:
    """An SPDX expression, empty where nothing is declared; its own references, by name, with what they stand for;
    and what people should know of it."""

    expression: str = ""
    references: tuple[tuple[str, str], ...] = ()
    comment: str = ""


def declared(item: Component) -> Declared:
    """The licence that a component declares. Raises :class:`ReproboxError` where the libraries are missing."""
    said = item.licence
    if said.told_in == PROSE:
        refers = f", which refers to the common licences {', '.join(said.refers)}" if said.refers else ""
        return Declared(comment=f"The package has a copyright file for people{refers}.")
    if not said.names:
        return Declared()
    named = _Naming(item)
    if said.told_in == DEP5:
        parts = sorted({_debian(name, named) for name in said.names})
    elif said.told_in == CLASSIFIERS and len(said.names) > 1:  # whether both hold, or either, they do not say
        parts = [named.reference(" / ".join(said.names))]
    else:
        (name,) = said.names
        parts = [_TROVE.get(name) or _WORDS.get(name.lower()) or _expression(name) or named.reference(name)]
    both = [f"({part})" if " OR " in part and len(parts) > 1 else part for part in parts]
    comment = f"As the package's {said.told_in} says."
    return Declared(expression=" AND ".join(both), references=tuple(sorted(named.made.items())), comment=comment)


class _Naming:
    """References that one component needs."""

    def __init__(self, item: Component) -> None:
        self._item = item
        self.made: dict[str, str] = {}

    def reference(self, name: str) -> str:
        item = self._item
        found = f"LicenseRef-{ref_of(item.kind, item.name, name)}"
        place = f"usr/share/doc/{item.name}/copyright" if item.kind == "deb" else item.licence.told_in
        self.made[found] = f"What {item.name} {item.version} calls {name!r}; its text is in the package: {place}"
        return found


def _debian(name: str, named: _Naming) -> str:
    """A short name, or several with "and" and "or"."""
    pieces = _JOINED.split(name)
    words = [_debian_name(piece) or named.reference(piece) for piece in pieces[::2]]
    joined = words[0]
    for joint, word in zip(pieces[1::2], words[1:], strict=True):
        joined += f" {'AND' if joint.lower() == 'and' else 'OR'} {word}"
    return joined


def _debian_name(name: str) -> str:
    if family := _FAMILY.fullmatch(name):
        number = family["number"] if "." in family["number"] else f"{family['number']}.0"
        ending = "-or-later" if (family["later"] or "").lower() in ("+", "-or-later") else "-only"
        return _known(f"{family['name']}-{number}{'-no-invariants' if family['plain'] else ''}{ending}")
    return _DEBIAN.get(name.lower()) or _known(name)


def _known(name: str) -> str:
    """The identifier as SPDX's list writes it; empty for one that is not there, or that is an exception."""
    return _by_lower_case().get(name.lower(), "")


def _expression(text: str) -> str:
    """A valid expression, in SPDX's own spelling; empty for another text."""
    from license_expression import ExpressionError

    try:
        parsed = _licensing().parse(text, validate=True, strict=True)
    except (ExpressionError, AttributeError, TypeError):
        return ""
    if parsed is None or any(key.startswith("LicenseRef-") for key in parsed.objects):
        return ""
    return str(parsed.render())


@cache
def _licensing() -> Licensing:
    try:
        from license_expression import get_spdx_licensing
    except ImportError:
        raise missing("license-expression") from None
    return get_spdx_licensing()


@cache
def _by_lower_case() -> dict[str, str]:
    """Names of SPDX's list, without what others add to it."""
    symbols = _licensing().known_symbols.values()
    names = (str(symbol.key) for symbol in symbols if not symbol.is_exception)
    return {name.lower(): name for name in names if not name.startswith("LicenseRef-")}


def missing(library: str) -> ReproboxError:
    """What is said where a library of the extra is not installed."""
    return ReproboxError(
        f"bills of materials are written with {library}, which is not installed",
        hint="pip install 'reprobox[publish]'",
    )
