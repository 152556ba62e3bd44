"""What has to be done to have a locked target: pure, from the lock and from what the store has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from reprobox.lock import Input, LockedLayer, LockedTarget, ancestors


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One layer to be built: the layers it stands on, in stacking order, and those among them that are built first."""

    layer: LockedLayer
    below: tuple[LockedLayer, ...]
    waits_for: tuple[str, ...]


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
    missing_layers = {layer.name for layer in target.layers if not has_layer(layer.id)}
    steps = []
    wanted: dict[str, Input] = {}
    for layer in target.layers:
        if layer.name in missing_layers:
            below = ancestors(target.layers, layer.name)
            waits = tuple(item.name for item in below if item.name in missing_layers)
            steps.append(Step(layer=layer, below=below, waits_for=waits))
        if layer.name in missing_layers or (image and layer is target.base):
            wanted |= {item.sha256: item for item in layer.inputs if not has_blob(item.sha256)}
    return Plan(layers=target.layers, steps=tuple(steps), missing=tuple(wanted.values()))
