"""The layer graph of one target: nodes in stacking order, and what each stands on. The only user of networkx."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, overload

from reprobox.errors import ManifestError
from reprobox.manifest import IN_IMAGE, Layer, Manifest

if TYPE_CHECKING:  # takes a quarter of a second to load, and a lock that holds needs no graph
    import networkx

BASE, SKELETON, CODE = "base", "skeleton", "code"
#: What ``Kind.needs`` answers to follow every layer above.
EVERYTHING = ("*",)


class Kind(Protocol):
    """What the graph asks of a layer kind."""

    def needs(self, layer: Layer, above: Sequence[Layer]) -> Iterable[str]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """A layer in its place; ``parents`` are the names it directly stands on."""

    name: str
    kind: str
    parents: tuple[str, ...]
    layer: Layer


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerGraph:
    """All layers of a target, the base first, in one stable topological order; those outside the image come last."""

    nodes: tuple[Node, ...]

    def node(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)

    def generations(self) -> list[tuple[str, ...]]:
        """Names that do not depend on one another, generation by generation: what can be built side by side."""
        import networkx

        graph: networkx.DiGraph[str] = networkx.DiGraph()
        graph.add_nodes_from(node.name for node in self.nodes)
        graph.add_edges_from((parent, node.name) for node in self.nodes for parent in node.parents)
        return [tuple(names) for names in networkx.topological_generations(graph)]


def build(manifest: Manifest, kinds: Mapping[str, Kind], *, with_code: bool = False) -> LayerGraph:
    """The graph of a manifest that was narrowed to one target.

    Edges come from ``after`` and from what the kinds need; layers are stacked in the topological order that keeps
    closest to the manifest. Raises :class:`reprobox.errors.ManifestError` for a cycle, printing it.
    """
    import networkx

    _check_nothing_stands_outside(manifest)
    inside = [layer for layer in manifest.layers if layer.placement == IN_IMAGE]
    graph: networkx.DiGraph[str] = networkx.DiGraph()
    graph.add_nodes_from(layer.name for layer in inside)
    for layer, needed in _needs(inside, kinds):
        graph.add_edges_from((name, layer.name) for name in (*needed, *layer.after))
    order = _stacking_order(graph, manifest)
    layers = {layer.name: layer for layer in manifest.layers}
    nodes = [_special(manifest, BASE, manifest.base.kind, ())]
    for name in order:
        parents = tuple(sorted(graph.predecessors(name), key=order.__getitem__)) or (BASE,)
        nodes.append(Node(name=name, kind=layers[name].kind, parents=parents, layer=layers[name]))
    ends = tuple(name for name in order if graph.out_degree(name) == 0) or (BASE,)
    nodes.append(_special(manifest, SKELETON, SKELETON, ends))
    if with_code:
        nodes.append(_special(manifest, CODE, CODE, (SKELETON,)))
    return LayerGraph(nodes=(*nodes, *_outside(manifest, kinds, order)))


def unordered(manifest: Manifest) -> LayerGraph:
    """The nodes that :func:`build` finds, in the manifest's order and without parents: for who asks what there is."""
    nodes = [_special(manifest, BASE, manifest.base.kind, ())]
    nodes += [Node(name=layer.name, kind=layer.kind, parents=(), layer=layer) for layer in manifest.layers]
    return LayerGraph(nodes=(*nodes, _special(manifest, SKELETON, SKELETON, ())))


def _outside(manifest: Manifest, kinds: Mapping[str, Kind], order: Mapping[str, int]) -> Iterator[Node]:
    """Layers that are no part of the image: they stand on layers of the image, and nothing stands on them."""
    above: list[Layer] = []
    for layer in manifest.layers:
        if layer.placement == IN_IMAGE:
            above.append(layer)
            continue
        needed = {*kinds[layer.kind].needs(layer, above), *layer.after}
        parents = tuple(sorted(needed, key=order.__getitem__)) or (BASE,)
        yield Node(name=layer.name, kind=layer.kind, parents=parents, layer=layer)


def _check_nothing_stands_outside(manifest: Manifest) -> None:
    outside = {layer.name: layer.placement for layer in manifest.layers if layer.placement != IN_IMAGE}
    problems = [
        manifest.problem(
            ("layers", layer.index, "after", number),
            f"layer {name!r} is in the {outside[name]}, and no part of the image: nothing can stand on it",
            f"leave it out, or put {name!r} into the image",
        )
        for layer in manifest.layers
        for number, name in enumerate(layer.after)
        if name in outside
    ]
    if problems:
        raise ManifestError(problems)


def _special(manifest: Manifest, name: str, kind: str, parents: tuple[str, ...]) -> Node:
    options: Any = manifest.base if name == BASE else None
    return Node(name=name, kind=kind, parents=parents, layer=Layer(name=name, kind=kind, options=options))


def _needs(layers: Sequence[Layer], kinds: Mapping[str, Kind]) -> Iterator[tuple[Layer, Iterable[str]]]:
    """What each layer needs of those above. ``EVERYTHING`` becomes the layers that nothing needs yet."""
    ends: dict[str, None] = {}
    for position, layer in enumerate(layers):
        needed = tuple(kinds[layer.kind].needs(layer, _Above(layers, position)))
        if needed == EVERYTHING:
            needed = tuple(ends)
        for name in (*needed, *layer.after):
            ends.pop(name, None)
        ends[layer.name] = None
        yield layer, needed


class _Above(Sequence[Layer]):
    """The first ``count`` layers, without a copy of them for every layer of a long manifest."""

    def __init__(self, layers: Sequence[Layer], count: int) -> None:
        self._layers = layers
        self._count = count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Layer: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Layer]: ...
    def __getitem__(self, index: int | slice) -> Layer | Sequence[Layer]:
        if isinstance(index, slice):
            return [self._layers[at] for at in range(*index.indices(self._count))]
        if not -self._count <= index < self._count:
            raise IndexError(index)
        return self._layers[index % self._count]

    def __iter__(self) -> Iterator[Layer]:
        return islice(self._layers, self._count)


def _stacking_order(graph: networkx.DiGraph[str], manifest: Manifest) -> dict[str, int]:
    import networkx

    position = {layer.name: number for number, layer in enumerate(manifest.layers)}
    try:
        order = list(networkx.lexicographical_topological_sort(graph, key=position.__getitem__))
    except networkx.NetworkXUnfeasible:
        raise _cycle(graph, manifest, position) from None
    return {name: number for number, name in enumerate(order)}


def _cycle(graph: networkx.DiGraph[str], manifest: Manifest, position: Mapping[str, int]) -> ManifestError:
    import networkx

    names = [edge[0] for edge in networkx.find_cycle(graph)]
    start = names.index(min(names, key=position.__getitem__))
    path = [*names[start:], *names[:start], names[start]]
    return ManifestError(
        [
            manifest.problem(
                ("layers", position[path[0]]),
                f"the layers stand on one another in a circle: {' -> '.join(path)}",
                "remove one `after`, or move a layer: a layer follows those above it that it needs",
            )
        ]
    )
