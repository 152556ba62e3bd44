"""The rules by which places stop having things, read from ``rules.toml``: what is said, where, and until when.

Nothing here asks anybody; dates are computed from what a lock says.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources
from typing import Any

#: What ``ends`` may say.
ENDS = ("superseded", "life", "window", "owner", "expiry", "kept")
#: Kinds of places that rules speak of.
PLACES = ("archive", "snapshot", "registry", "index", "url", "git", "heritage", "key")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One statement; see ``rules.toml`` for what its fields mean. ``read`` is the day on which it was read."""

    id: str
    place: str
    ends: str
    says: str
    do: str
    source: str
    read: date
    archive: tuple[str, ...] = ()
    image: tuple[str, ...] = ()
    tag: str = ""
    host: tuple[str, ...] = ()
    product: str = ""
    days: int = 0

    def __post_init__(self) -> None:
        assert self.place in PLACES, self.id
        assert self.ends in ENDS, self.id


@dataclass(frozen=True, kw_only=True, slots=True)
class Life:
    """When versions of a product are no longer supported, by version; ``source`` and ``read`` as in a rule."""

    source: str
    read: date
    ends: Mapping[str, date]


@dataclass(frozen=True, kw_only=True, slots=True)
class About:
    """What rules look at: the kind of place, and what is known of the thing. ``dated`` is its index's date, or None.

    ``image`` is registry and repository, ``tag`` the name in it that the base was locked from.
    """

    place: str
    archive: str = ""
    suite: str = ""
    image: str = ""
    tag: str = ""
    host: str = ""
    dated: date | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Term:
    """A rule that holds for a place and a thing, and the day on which it takes effect, where that is known."""

    rule: Rule
    until: date | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """All rules, in the order of the file, and the ends of life that they refer to."""

    rules: tuple[Rule, ...]
    lives: Mapping[str, Life]

    def terms(self, about: About) -> tuple[Term, ...]:
        """What holds for a place: every rule that names it, or the general one of its kind where none does."""
        named = tuple(self._matching(about, general=False))
        return named or tuple(self._matching(about, general=True))

    def by_id(self, identity: str) -> Rule:
        return next(rule for rule in self.rules if rule.id == identity)

    def _matching(self, about: About, *, general: bool) -> Iterator[Term]:
        for rule in self.rules:
            if rule.place != about.place or general != (not (rule.archive or rule.image or rule.host)):
                continue
            found = _matches(rule, about)
            if found is not None:
                yield Term(rule=rule, until=self._until(rule, about, found))

    def _until(self, rule: Rule, about: About, version: str) -> date | None:
        if rule.ends == "window" and about.dated:
            return about.dated + timedelta(days=rule.days)
        if rule.ends == "life":
            ends = self.lives[rule.product].ends.get(version or re.split(r"[-/]", about.suite)[0])
            return ends + timedelta(days=rule.days) if ends else None
        return None


def _matches(rule: Rule, about: About) -> str | None:
    """None where the rule is of something else; else the version that it finds in the tag, or nothing."""
    if rule.archive and about.archive not in rule.archive:
        return None
    if rule.host and not any(fnmatchcase(about.host, pattern) for pattern in rule.host):
        return None
    if rule.image and about.image not in rule.image:
        return None
    if not rule.tag:
        return ""
    found = re.fullmatch(rule.tag, about.tag)
    return found.groupdict().get("version", "") if found else None


def day_of(seconds: float) -> date:
    """The day, in UTC, of a moment in unix seconds."""
    return datetime.fromtimestamp(seconds, UTC).date()


@cache
def rules() -> Rules:
    """The rules that come with reprobox."""
    return parse(resources.files("reprobox.outlook").joinpath("rules.toml").read_text("utf-8"))


def parse(text: str) -> Rules:
    """The rules that a file says. Raises :class:`TypeError` and :class:`AssertionError` for what is no rule."""
    document: dict[str, Any] = tomllib.loads(text)
    tables: list[dict[str, Any]] = document["rule"]
    for table in tables:
        table |= {name: tuple(value) for name, value in table.items() if isinstance(value, list)}
    found = [Rule(**table) for table in tables]
    lives = {name: Life(**table) for name, table in document.get("life", {}).items()}
    return Rules(rules=tuple(found), lives=lives)
