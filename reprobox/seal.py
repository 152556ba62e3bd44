"""Checking a build against the seal, and naming the first layer and file that differ."""

from __future__ import annotations

from reprobox.building import rebuild
from reprobox.digest import Entry, read_index
from reprobox.environment import Environment
from reprobox.errors import IntegrityError
from reprobox.layers.kind import uses_network
from reprobox.lock import LockedTarget, ancestors
from reprobox.session import Session


def remember_build(session: Session, environment: Environment) -> None:
    """Keep each layer's index by its diff id, so that a later build that differs can say where."""
    built = [(layer.index, record) for layer, record in zip(environment.layers, environment.records, strict=True)]
    for index, record in (*built, *((item.stored.index, item.stored.record) for item in environment.outside)):
        path = session.store.memo("indexes", record["diff_id"])
        if not path.exists():
            session.store.remember("indexes", record["diff_id"], index.read_bytes())


def check_seal(session: Session, target: LockedTarget, epoch: int, environment: Environment) -> None:
    """Raise :class:`IntegrityError` (exit 5) if the environment is not what the seal says.

    A layer outside the image that was locked anew since is not sealed, and the seal holds for the rest.
    """
    seal = target.seal
    assert seal is not None
    unsealed = {item.layer.name for item in environment.outside} - seal.layers.keys()
    for name, digest in environment.diff_ids().items():
        if name in unsealed:
            continue
        wanted = seal.layers.get(name)
        if wanted != digest:
            raise IntegrityError(
                f"layer {name!r} is not the sealed one: {_first_difference(session, target, epoch, name, wanted or '')}"
                f"\n  sealed {wanted or 'nothing'}\n  built  {digest}",
                where=f"target {target.name!r}",
                hint=_what_to_do(target, name),
            )
    for what, sealed, found in (
        ("tree digest", seal.tree_digest, f"sha256:{environment.tree_digest}"),
        ("image digest", seal.image_digest, f"sha256:{environment.image_digest}"),
    ):
        if sealed != found:
            raise IntegrityError(f"the {what} is {found}, and sealed was {sealed}", where=f"target {target.name!r}")


def _what_to_do(target: LockedTarget, name: str) -> str:
    if any(uses_network(layer) for layer in target.layers if layer.name == name):
        return (
            "the layer's step uses the network, where something changed: fetch exactly what was sealed, or take what is"
            " there now with `reprobox lock --seal`"
        )
    return "the layer's step does not always give the same bytes: make it, then `reprobox lock --seal` again"


def _first_difference(session: Session, target: LockedTarget, epoch: int, name: str, sealed: str) -> str:
    if not sealed:
        return "the seal does not have it"
    layer = next(item for item in target.layers if item.name == name)
    stored = session.store.layer(layer.id)
    assert stored is not None
    ours = read_index(stored.index.read_bytes())
    remembered = session.store.memo("indexes", sealed.removeprefix("sha256:"))
    if remembered.exists():
        return _difference(read_index(remembered.read_bytes()), ours)
    # The sealed bytes were never on this machine. A step that is not deterministic differs from itself, too.
    session.reporter.say(f"building {name} once more, to find what differs")
    return _difference(ours, rebuild(session, layer, ancestors(target.layers, name), target.platform, epoch))


def _difference(one: list[Entry], other: list[Entry]) -> str:
    first, second = {entry.path: entry for entry in one}, {entry.path: entry for entry in other}
    differing = sorted(path for path in first.keys() | second.keys() if first.get(path) != second.get(path))
    if not differing:
        return "types, modes and contents are the same; times or links between files differ"
    more = f", and {len(differing) - 1} more" if len(differing) > 1 else ""
    return f"first in /{differing[0].decode(errors='replace')}{more}"
