"""What has to be done to have a locked target: pure, from the lock and from what the store has."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from reprobox.lock import Input, LockedLayer, LockedTarget, ancestors


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One layer of ``target`` to be built, and the steps that it waits for; what those wait for is not repeated."""

    layer: LockedLayer
    target: LockedTarget
    waits_for: tuple[str, ...]

    @property
    def below(self) -> tuple[LockedLayer, ...]:
        """The layers it stands on, in stacking order."""
        return ancestors(self.target.layers, self.layer.name)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Every layer of the target in stacking order, the steps still to do among them, and the inputs to be fetched."""

    layers: tuple[LockedLayer, ...]
    steps: tuple[Step, ...]
    missing: tuple[Input, ...]

    @property
    def cached(self) -> frozenset[str]:
        """Ids of the layers that need no step."""
        return frozenset(layer.id for layer in self.layers) - {step.layer.id for step in self.steps}


def plan(
    target: LockedTarget, *, has_layer: Callable[[str], bool], has_blob: Callable[[str], bool], image: bool = False
) -> Plan:
    """The plan for ``target``. A layer in the store needs neither its inputs nor a step.

    ``image`` says that an image is wanted: then the blobs of a base that is kept verbatim are wanted too.
    """
    steps: list[Step] = []
    wanted: dict[str, Input] = {}
    ready: dict[str, tuple[str, ...]] = {}  # by layer: the steps after which it is there
    for layer in target.layers:
        waits_for = _joined([ready[name] for name in layer.parents])
        missing = not has_layer(layer.id)
        ready[layer.name] = (layer.name,) if missing else waits_for
        if missing:
            steps.append(Step(layer=layer, target=target, waits_for=waits_for))
        if missing or (image and layer is target.base):
            wanted |= {item.sha256: item for item in layer.inputs if not has_blob(item.sha256)}
    return Plan(layers=target.layers, steps=tuple(steps), missing=tuple(wanted.values()))


def _joined(names: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    return names[0] if len(names) == 1 else tuple(dict.fromkeys(itertools.chain.from_iterable(names)))
