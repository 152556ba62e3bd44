"""Where builds of a target stop being the same: the first layer, and in it the paths that differ."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from reprobox.digest import Entry, read_index, unescape
from reprobox.layers.kind import uses_network
from reprobox.lock import LockedLayer, LockedTarget
from reprobox.store import StoredLayer
from reprobox.verify.content import Shown
from reprobox.verify.owner import Owners
from reprobox.verify.result import Difference, Divergence

SHOWN = 20  # paths that are told of a layer
NOWHERE = "the bytes of one of them are nowhere here, so that what differs cannot be told"


@dataclass(frozen=True, kw_only=True, slots=True)
class Party:
    """Somebody who says what a target's layers are: the seal, the store, a builder.

    ``digests`` are ``sha256:`` diff ids by layer name. ``stored`` are the layers themselves; of others, ``remembered``
    gives the index by its diff id, if it was built here once.
    """

    name: str
    digests: Mapping[str, str]
    stored: Mapping[str, StoredLayer] = field(default_factory=dict)
    remembered: Callable[[str], list[Entry] | None] = lambda _: None

    def entries(self, layer: str) -> list[Entry] | None:
        """What the layer is made of, if that is known."""
        if layer in self.stored:
            return read_index(self.stored[layer].index.read_bytes())
        return self.remembered(self.digests[layer])


def first(target: LockedTarget, parties: Sequence[Party], shown: Shown) -> tuple[Divergence, ...]:
    """The first layer on which the parties do not agree: one divergence for each of them that is alone with its bytes.

    What stands on it differs too, or might, and is not told.
    """
    for layer in target.layers:
        groups: dict[str, list[Party]] = {}
        for party in parties:
            if layer.name in party.digests:
                groups.setdefault(party.digests[layer.name], []).append(party)
        if len(groups) > 1:
            (digest, one), *others = groups.items()
            return tuple(
                _divergence(target, layer, (digest, one), (other_digest, other), shown)
                for other_digest, other in others
            )
    return ()


def _divergence(
    target: LockedTarget,
    layer: LockedLayer,
    one: tuple[str, Sequence[Party]],
    other: tuple[str, Sequence[Party]],
    shown: Shown,
) -> Divergence:
    sides = [_side(layer.name, parties) for _, parties in (one, other)]
    differences, count, said = _differences(target, layer, sides, shown)
    return Divergence(
        target=target.name,
        layer=layer.name,
        kind=layer.kind,
        one=_names(one[1]),
        other=_names(other[1]),
        one_digest=one[0],
        other_digest=other[0],
        differences=differences,
        count=count,
        said=said,
        hint=_what_to_do(layer),
    )


def _names(parties: Sequence[Party]) -> str:
    return " and ".join(party.name for party in parties)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Side:
    """One layer as one side has it: its entries, and the layer itself where its bytes are here."""

    entries: Sequence[Entry] | None
    stored: StoredLayer | None
    below: Mapping[str, StoredLayer]


def _side(name: str, parties: Sequence[Party]) -> _Side:
    """The layer by the first party that has its bytes, else by the first that knows its index."""
    by_bytes = next((party for party in parties if name in party.stored), None)
    known = (party.entries(name) for party in parties)
    entries = next((found for found in known if found is not None), None)
    return _Side(
        entries=entries,
        stored=by_bytes.stored[name] if by_bytes else None,
        below=by_bytes.stored if by_bytes else {},
    )


def _differences(
    target: LockedTarget, layer: LockedLayer, sides: Sequence[_Side], shown: Shown
) -> tuple[tuple[Difference, ...], int, str]:
    one, other = sides
    if one.entries is None or other.entries is None:
        return (), 0, NOWHERE
    found = list(_by_entries(one.entries, other.entries))
    if not found and one.stored is not None and other.stored is not None:
        found = list(_by_times_and_links(one.stored, other.stored))
    said = "" if found else "types, modes and contents are the same; times or links between files differ"
    known = [side for side in (other, one) if side.stored is not None]
    owners = Owners(target, layer, known[0].below) if known else None
    differences = tuple(
        Difference(
            path=_shown_path(path),
            kind=kind,
            one=first_says,
            other=second_says,
            package=owners.of(path) if owners else "",
            text=shown.of(path, one.stored, other.stored) if "content" in kind else (),
        )
        for path, kind, first_says, second_says in found[:SHOWN]
    )
    return differences, len(found), said


def _by_entries(one: Sequence[Entry], other: Sequence[Entry]) -> Iterator[tuple[bytes, str, str, str]]:
    first, second = {entry.path: entry for entry in one}, {entry.path: entry for entry in other}
    for path in sorted(first.keys() | second.keys()):
        left, right = first.get(path), second.get(path)
        if left != right:
            yield (path, *_kind(left, right))


def _kind(one: Entry | None, other: Entry | None) -> tuple[str, str, str]:
    """The kind of a difference, and what each side has."""
    if one is None or other is None:
        return "only in one", _whole(one), _whole(other)
    if one.kind != other.kind:
        return "type", _whole(one), _whole(other)
    if one.kind == "l":
        return "target", _link(one), _link(other)
    if one.detail == other.detail:
        return "mode", f"{one.mode:04o}", f"{other.mode:04o}"
    if one.mode == other.mode:
        return "content", f"sha256:{one.detail}", f"sha256:{other.detail}"
    return "content and mode", f"sha256:{one.detail} {one.mode:04o}", f"sha256:{other.detail} {other.mode:04o}"


_KINDS = {"d": "folder", "f": "file", "l": "link", "w": "deletion"}


def _whole(entry: Entry | None) -> str:
    if entry is None:
        return ""
    if entry.kind == "l":
        return f"link to {_link(entry)}"
    return _KINDS[entry.kind] if entry.kind == "w" else f"{_KINDS[entry.kind]} {entry.mode:04o}"


def _link(entry: Entry) -> str:
    return os.fsdecode(unescape(entry.detail))


def _by_times_and_links(one: StoredLayer, other: StoredLayer) -> Iterator[tuple[bytes, str, str, str]]:
    """What a layer's tar holds besides its index: whole seconds of times, and which names are one file."""
    first, second = _outside_the_index(one), _outside_the_index(other)
    for path in sorted(first.keys() & second.keys()):
        (left_time, left_twin), (right_time, right_twin) = first[path], second[path]
        if left_time != right_time:
            yield path, "time", str(left_time), str(right_time)
        elif left_twin != right_twin:
            yield path, "hard link", _shown_path(left_twin), _shown_path(right_twin)


def _outside_the_index(layer: StoredLayer) -> dict[bytes, tuple[int, bytes]]:
    root = os.fsencode(layer.tree)
    names: dict[tuple[int, int], bytes] = {}
    found = {}
    for entry in read_index(layer.index.read_bytes()):
        if entry.kind in "fl":
            try:
                status = os.lstat(root + b"/" + entry.path)
            except OSError:  # behind a folder that this user may not enter
                continue
            twin = names.setdefault((status.st_dev, status.st_ino), entry.path)
            found[entry.path] = (status.st_mtime_ns // 10**9, twin)
    return found


def _shown_path(path: bytes) -> str:
    return "/" + path.decode(errors="backslashreplace")


def _what_to_do(layer: LockedLayer) -> str:
    if uses_network(layer):
        return (
            "the layer's step uses the network, where something changed: let it fetch exactly one version, by its hash"
        )
    if layer.kind == "run":
        return (
            "the step does not always give the same bytes: let it write no times (SOURCE_DATE_EPOCH is the one clock),"
            " no random numbers and nothing of the machine, or remove the file in the same step"
        )
    return (
        "its inputs are the same, so a program of the step writes what changes: remove the file in a `run` layer above"
        " where nothing needs it, and tell the authors of the package, or of reprobox"
    )
