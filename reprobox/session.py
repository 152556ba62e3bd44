"""One command's hold on the world: its store, plugins, providers and reporter. Nothing here prints."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from reprobox import providers
from reprobox.ahead import Ahead
from reprobox.backend import Backend
from reprobox.config import Config
from reprobox.errors import BackendError, LockError
from reprobox.layers.kind import Kind
from reprobox.lock import Input, LockedLayer, LockedTarget
from reprobox.manifest import Manifest
from reprobox.oci.registry import Registries
from reprobox.oci.remote import Remote
from reprobox.plugins import Plugins
from reprobox.store import Store

_MACHINES = {"linux/amd64": "x86_64", "linux/arm64": "aarch64"}  # platforms, and what uname calls them
PLATFORMS = tuple(_MACHINES)


class Reporter(Protocol):
    """Shows people what happens. Calls may come from several threads."""

    def say(self, text: str) -> None:
        """One line of news."""

    def fetching(self) -> providers.Progress:
        """A display for one fetch."""

    def moving(self, label: str) -> providers.Progress:
        """A display for another transfer, which ``label`` names."""

    def building(self, name: str, number: int, total: int) -> None:
        """Step ``number`` of ``total`` starts."""

    def built(self, name: str, seconds: float, size: int) -> None:
        """It is done; ``size`` is the layer's in bytes."""


@dataclass(kw_only=True)
class Session:
    """What one command works with."""

    store: Store
    config: Config
    plugins: Plugins
    builder: Backend
    reporter: Reporter
    project: Path
    downloader: providers.Downloader
    documents: providers.Documents
    hints: providers.HintProvider
    registries: Registries
    offline: bool = False
    jobs: int = 16
    manifest: Manifest | None = None  # it says where some inputs, and secrets, are: providers may look into it
    obtained: dict[str, providers.Found] = field(default_factory=dict)
    seen: dict[str, str] = field(default_factory=dict)  # what moving names were found to stand for, such as branches
    ahead: Ahead = field(default_factory=Ahead)
    target: LockedTarget | None = None  # whose inputs are fetched: providers may look at its base
    vaults: tuple[providers.Provider, ...] = ()  # asked before all other places
    far_vaults: tuple[providers.Provider, ...] = ()  # asked last
    remote: Remote | None = None  # where built layers are shared

    def kind(self, name: str) -> Kind:
        try:
            return self.plugins.kinds[name]
        except KeyError:
            raise LockError(
                f"the lock has a layer of kind {name!r}, which nothing here provides",
                hint="install the plugin that offers it; `reprobox plugins` shows what is installed",
            ) from None

    def buildable(self, layer: LockedLayer) -> Kind:
        """The kind of a locked layer, if it still builds by the recipe that the layer was locked with."""
        kind = self.kind(layer.kind)
        if layer.recipe not in getattr(kind, "recipes", (kind.recipe,)):
            raise LockError(
                f"layer {layer.name!r} was locked with recipe {layer.recipe} of kind {layer.kind!r}, and this version"
                f" builds by recipe {kind.recipe}",
                hint="install the version of reprobox that made the lock, or run `reprobox lock`",
            )
        return kind

    def fetch(self, inputs: Sequence[Input]) -> None:
        """Bring inputs into the store, showing progress."""
        missing = [item for item in inputs if not self.store.has_blob(item.sha256)]
        if missing:
            providers.fetch(
                missing,
                self.in_order(),
                self.store,
                progress=self.reporter.fetching(),
                downloader=self.downloader,
                jobs=self.jobs,
                offline=self.offline,
            )

    def in_order(self) -> list[providers.Provider]:
        """Who knows places for inputs of the target at hand, in the order in which they are asked."""
        offered = self.plugins.providers(self)
        first = [provider for provider in offered if getattr(provider, "first", False)]
        others = [provider for provider in offered if provider not in first]
        return [*self.vaults, *first, self.hints, *others, *self.far_vaults]

    def obtain(self, urls: Sequence[str]) -> list[providers.Found]:
        """Bring files of unknown content into the store, showing progress. For one command, a URL has one content."""
        if missing := [url for url in dict.fromkeys(urls) if url not in self.obtained]:
            progress = self.reporter.fetching()
            found = providers.obtain(missing, self.store, progress=progress, downloader=self.downloader, jobs=self.jobs)
            self.obtained.update(zip(missing, found, strict=True))
        return [self.obtained[url] for url in urls]


def staged(backend: Backend, store: Store) -> Backend:
    """The backend, staging on the store's file system where it can choose."""
    at: Any = getattr(backend, "at", None)
    return at(store.root / "tmp") if at is not None else backend


def available(backend: Backend, store: Store) -> Backend:
    """The backend, if it works here. Raises :class:`BackendError` with the fix."""
    found = staged(backend, store).probe()
    if not found.ok:
        raise BackendError(f"{backend.name} does not work here: {found.reason}", hint=found.hint)
    return staged(backend, store)


def this_platform() -> str:
    """The platform whose programs run on this machine, such as ``linux/amd64``; empty for one without a name here."""
    return next((name for name, machine in _MACHINES.items() if machine == platform.machine()), "")


def check_platform(target: LockedTarget) -> None:
    """Raise :class:`BackendError` unless the target's programs run on this machine: its steps run them."""
    if target.platform != this_platform():
        raise other_machine(f"target {target.name!r}", target.platform)


def other_machine(what: str, wanted: str) -> BackendError:
    machine = _MACHINES.get(wanted, wanted)
    return BackendError(
        f"{what} is for {wanted}, and this machine is {platform.machine()}",
        hint=f"take the project with its lock to a machine with {machine} processors and realize it there",
    )
