"""The grade of an input, of a layer and of a lock: how much has to go wrong before it cannot be recreated. Pure.

A lock is as good as the worst of its inputs. docs/reference/outlook.md explains the scale; a test holds the two
together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from reprobox.outlook.asking import HAS, SILENT, UNASKED, Supplier
from reprobox.outlook.rules import Term

#: Best first, and what each says of every input.
GRADES = {
    "A": "it is in a vault of yours, or in the project itself",
    "B": "two places that follow different rules have it, and one of them states that it keeps it",
    "C": "two places that follow different rules have it, or one that states that it keeps it",
    "D": "one place has it, which may drop it any day or is about to",
    "E": "only this machine has it, or no place that has it could be asked",
    "F": "no place has it",
}
#: What ends within so many days is not counted on.
SOON = timedelta(days=183)
#: Places that are this machine's alone.
_HERE = ("store", "engine")
_OWN = ("vault", "project")


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """A supplier, and the rules that hold for what it has."""

    supplier: Supplier
    terms: tuple[Term, ...] = ()

    @property
    def has(self) -> bool:
        return self.supplier.state == HAS

    @property
    def keeps(self) -> bool:
        """Whether somebody states that it is kept."""
        return any(term.rule.ends == "kept" for term in self.terms)

    @property
    def until(self) -> date | None:
        """The first day on which a rule ends it, if one is known."""
        return min((term.until for term in self.terms if term.until), default=None)

    def ends_soon(self, today: date) -> bool:
        return self.until is not None and self.until <= today + SOON


def grade(standings: Sequence[Standing], today: date) -> str:
    """The letter of one input."""
    there = [item for item in standings if item.has]
    if any(item.supplier.kind in _OWN for item in there):
        return "A"
    others = [item for item in there if item.supplier.kind not in _HERE]
    firm = [item for item in others if not item.ends_soon(today)]
    several = len({item.supplier.authority for item in firm}) > 1
    keeps = any(item.keeps for item in firm)
    if others:
        return "B" if several and keeps else "C" if several or keeps else "D"
    upstream = [item.supplier.state for item in standings if item.supplier.kind not in ("store", "vault")]
    unknown = not upstream or any(state in (SILENT, UNASKED) for state in upstream)
    return "E" if there or unknown else "F"


def worst(grades: Iterable[str]) -> str:
    """The grade of what needs all of them; of nothing, the best."""
    return max(grades, default="A")
