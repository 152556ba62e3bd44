"""What a run wrote against what a record says that it wrote."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from reprobox.run_record.record import RunRecord, Written
from reprobox.run_record.values import Compared, Place, Tolerance, UnreadableError, can_compare, compare
from reprobox.tree import file_sha256

SHOWN = 5
SAME, CLOSE, DIFFERS, MISSING, NEW = "same", "close", "differs", "missing", "new"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One output: ``result`` is one of the five words; ``text`` says more; ``places`` are the first that differ."""

    output: str
    result: str
    text: str = ""
    places: tuple[Place, ...] = ()

    @property
    def good(self) -> bool:
        return self.result in (SAME, CLOSE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Against:
    """What to compare with: the folders of the original outputs and of the new ones by mount point, the tolerance
    (none is exactly, byte by byte), and patterns of outputs that count (all if there are none)."""

    originals: Mapping[str, Path]
    fresh: Mapping[str, Path]
    tolerance: Tolerance | None = None
    only: Sequence[str] = ()


def findings(record: RunRecord, status: int, outputs: Mapping[str, Written], against: Against) -> Iterator[Finding]:
    """The exit status, and every output of either run, by mount point and path."""
    if status != record.status:
        yield Finding(output="exit status", result=DIFFERS, text=f"{record.status} was recorded, {status} now")
    for place in sorted(record.outputs.keys() | outputs.keys()):
        old, new = record.outputs.get(place, Written()), outputs.get(place, Written())
        for problem, whose in ((old.problem, "was not recorded"), (new.problem, "cannot be read")):
            if problem:
                yield Finding(output=place, result=DIFFERS, text=f"what was written {whose}: {problem}")
        for path in sorted({*old.files, *old.links, *new.files, *new.links}):
            if _counts(_joined(place, path), against.only):
                yield _finding(place, path, (old, new), against)


def _counts(output: str, only: Sequence[str]) -> bool:
    names = (output, output.rpartition("/")[2])
    return not only or any(fnmatchcase(name, pattern) for pattern in only for name in names)


def _joined(place: str, path: str) -> str:
    return place if path == "." else f"{place.rstrip('/')}/{path}"


def _finding(place: str, path: str, both: tuple[Written, Written], against: Against) -> Finding:
    old, new = both
    output = _joined(place, path)
    if path not in new.files and path not in new.links:
        return Finding(output=output, result=MISSING, text="the recorded run wrote it, and this one did not")
    if path not in old.files and path not in old.links:
        return Finding(output=output, result=NEW, text="this run wrote it, and the recorded one did not")
    if path in old.links or path in new.links:
        before, after = (item.links.get(path, "a file") for item in both)
        said = f"a link to {before} was recorded, {after} now" if before != after else ""
        return Finding(output=output, result=DIFFERS if said else SAME, text=said)
    before_sum, after_sum = old.files[path].sha256, new.files[path].sha256
    if before_sum == after_sum:
        return Finding(output=output, result=SAME)
    bytes_differ = f"other bytes ({_short(before_sum)} was recorded, {_short(after_sum)} now)"
    if not can_compare(path):
        return Finding(output=output, result=DIFFERS, text=bytes_differ)
    original = against.originals[place] / path if place in against.originals else None
    if original is None or not original.is_file() or f"sha256:{file_sha256(original)}" != before_sum:
        more = "the recorded file is not here, so its values cannot be compared"
        return Finding(output=output, result=DIFFERS, text=f"{bytes_differ}; {more}")
    try:
        compared = compare(original, against.fresh[place] / path, against.tolerance or Tolerance())
    except UnreadableError as error:
        return Finding(output=output, result=DIFFERS, text=f"{bytes_differ}; {error}")
    return _judged(output, compared, exact=against.tolerance is None)


def _judged(output: str, compared: Compared, *, exact: bool) -> Finding:
    if compared.shape:
        return Finding(output=output, result=DIFFERS, text=compared.shape)
    if compared.places:
        beyond = "" if exact else " more than allowed"
        text = f"{len(compared.places)} of {_values(compared)} differ{beyond}{_largest(compared.places)}"
        return Finding(output=output, result=DIFFERS, text=text, places=compared.places)
    if exact:
        return Finding(output=output, result=DIFFERS, text="other bytes, though every value is the same")
    text = f"{len(compared.within)} of {_values(compared)} differ, as far as allowed{_largest(compared.within)}"
    return Finding(output=output, result=CLOSE, text=text if compared.within else "every value is the same")


def _values(compared: Compared) -> str:
    return f"{compared.values} value{'' if compared.values == 1 else 's'}"


def _largest(places: Sequence[Place]) -> str:
    known = [place for place in places if math.isfinite(place.off)]
    if not known:
        return ""
    most = max(known, key=lambda place: place.off)
    return f", at most by {most.off:.3g} ({most.where})"


def _short(digest: str) -> str:
    return digest[: len("sha256:") + 12]


def told(finding: Finding) -> Iterator[str]:
    """What people read of a finding; of many places, the first."""
    yield f"{finding.result:8}{finding.output}{f': {finding.text}' if finding.text else ''}"
    for place in finding.places[:SHOWN]:
        part = f", {place.relative:.2g} of it" if math.isfinite(place.relative) else ""
        off = f" (off by {place.off:.3g}{part})" if math.isfinite(place.off) else ""
        yield f"          {place.where}: {place.old} was recorded, {place.new} now{off}"
    if len(finding.places) > SHOWN:
        yield f"          and {len(finding.places) - SHOWN} more"
