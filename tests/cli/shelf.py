"""A layer kind whose packages are on a shelf that the test fills: it keeps pins as the real ones do, without a network."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from reprobox.layers.kind import Files, Resolution
from reprobox.lock import Input
from reprobox.plugins import hookimpl
from reprobox.tables import key


@dataclass(frozen=True, kw_only=True, slots=True)
class ShelfKeys:
    packages: tuple[str, ...] = key("What is taken from the shelf.")


class Shelf:
    """``versions`` is what the shelf has today; ``asked`` counts how often it was looked at."""

    name = "shelf"
    recipe = 1
    pinned = True
    options = ShelfKeys

    def __init__(self, **versions: str) -> None:
        self.versions = versions
        self.asked = 0

    def needs(self, layer: Any, above: Any) -> tuple[str, ...]:
        return ()

    def destinations(self, layer: Any) -> tuple[str, ...]:
        return (f"/shelf/{layer.name}",)

    def resolve(self, request: Any) -> Resolution:
        self.asked += 1
        previous = request.previous.inputs if request.previous and not request.upgrade else ()
        pins = {item.facts["package"]: item.facts["version"] for item in previous}
        chosen = {name: pins.get(name) or self.versions[name] for name in request.layer.options.packages}
        return Resolution(inputs=tuple(thing(name, version) for name, version in sorted(chosen.items())))

    def step(self, request: Any) -> Files:
        place = f"shelf/{request.layer.name}"

        def write(root: Any, tree: Any) -> None:
            (root / place).mkdir(parents=True)
            for item in request.layer.inputs:
                (root / place / item.name).write_text(item.facts["version"])

        return Files(write=write)

    @hookimpl
    def reprobox_layer_kinds(self) -> list[Any]:
        return [self]


def thing(name: str, version: str) -> Input:
    data = content(name, version)
    facts = {"package": name, "version": version}
    digest = hashlib.sha256(data).hexdigest()
    return Input(type="thing", name=f"{name}-{version}", sha256=digest, size=len(data), facts=facts)


def content(name: str, version: str) -> bytes:
    return f"{name} {version}\n".encode()


def layer(name: str, *packages: str) -> str:
    listed = ", ".join(f'"{package}"' for package in packages)
    return f'[[layers]]\nname = "{name}"\nkind = "shelf"\npackages = [{listed}]\n'
