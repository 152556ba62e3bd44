"""A plain text for people: what a vault keeps, under which licences, and what it does not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from reprobox.licences import Licence
from reprobox.lock import Input


def inventory(
    inputs: Iterable[Input], licences: Mapping[str, Licence], left_out: Mapping[str, str], titles: Mapping[str, str]
) -> str:
    """A plain text for people: every input with its hash, size, licence and file; what is closed, what is left out."""
    items = sorted({item.sha256: item for item in inputs}.values(), key=lambda item: (item.type, item.name))
    lines = ["What this vault keeps of the lock, as each file tells its licence itself.", ""]
    lines += [f"{item.sha256}  {item.size:>12}  {titles[item.sha256]}  {licences[item.sha256].name}" for item in items]
    closed = [item for item in items if licences[item.sha256].closed]
    if closed:
        lines += ["", "Perhaps not to be passed on to everybody:"]
        lines += [f"  {item.name}: {licences[item.sha256].closed}" for item in closed]
    if left_out:
        lines += ["", "Not in this vault:"]
        lines += [f"  {name}: {reason}" for name, reason in sorted(left_out.items())]
    return "\n".join(lines) + "\n"
