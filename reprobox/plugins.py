"""Hook specifications and discovery. Hooks register nouns; behaviour lives in the class behind the noun.

Built-in kinds, the sandbox and first-party plugins enter through the same hooks as anyone's plugin. Distributions offer
a plugin under the entry point group ``reprobox``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

import pluggy

from reprobox import __version__
from reprobox.errors import UsageError

if TYPE_CHECKING:
    from reprobox.backend import Backend
    from reprobox.layers.kind import Kind
    from reprobox.providers import Provider

GROUP = "reprobox"
hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


class Specification:
    """What a plugin may register."""

    @hookspec
    def reprobox_backends(self) -> Iterable[Backend]:
        """Objects that satisfy :class:`reprobox.backend.Backend`."""
        return ()

    @hookspec
    def reprobox_layer_kinds(self) -> Iterable[Kind]:
        """Objects that satisfy :class:`reprobox.layers.kind.Kind`; base kinds too."""
        return ()

    @hookspec
    def reprobox_providers(self, session: Any) -> Iterable[Provider]:  # noqa: ARG002 - hooks are called by name
        """Objects that satisfy :class:`reprobox.providers.Provider`, made for one :class:`reprobox.engine.Session`."""
        return ()


class BuiltIn:
    """What comes with reprobox, registered as a stranger's plugin would be."""

    @hookimpl
    def reprobox_backends(self) -> Iterable[Backend]:
        from reprobox.sandbox.backend import Sandbox

        return [Sandbox()]

    @hookimpl
    def reprobox_layer_kinds(self) -> Iterable[Kind]:
        from reprobox.layers.apt import Apt
        from reprobox.layers.archive import ArchiveBase
        from reprobox.layers.bootstrap import Bootstrap
        from reprobox.layers.code import CodeKind
        from reprobox.layers.copy import Copy
        from reprobox.layers.fetch import Fetch
        from reprobox.layers.git import Git
        from reprobox.layers.image import Image, OciLayout
        from reprobox.layers.pip import Pip
        from reprobox.layers.rootfs import Rootfs
        from reprobox.layers.run import RunKind
        from reprobox.layers.skeleton import Skeleton

        kinds: list[Kind] = [Bootstrap(), Image(), OciLayout(), ArchiveBase(), Rootfs()]
        return [*kinds, Apt(), Pip(), Copy(), RunKind(), Fetch(), Git(), Skeleton(), CodeKind()]

    @hookimpl
    def reprobox_providers(self, session: Any) -> Iterable[Provider]:
        from reprobox.debian.provider import ArchiveProvider
        from reprobox.layers.apt import declared
        from reprobox.layers.archive import ImageArchiveProvider
        from reprobox.layers.fetch import UrlProvider
        from reprobox.layers.git import CommitProvider
        from reprobox.pypi import IndexProvider
        from reprobox.registry import BlobProvider

        apt_sources = declared(session.manifest)
        return [
            ArchiveProvider(session.config, session.documents, session.target, session.store, apt_sources),
            IndexProvider(session.store, session.config.index, offline=session.offline, project=session.project),
            BlobProvider(session.registries),
            ImageArchiveProvider(session.store, session.project),
            UrlProvider(session.manifest),
            CommitProvider(session.store, session.manifest, session.project, offline=session.offline),
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Installed:
    """One plugin, as ``reprobox plugins`` shows it; ``problem`` says why a broken one could not be used."""

    name: str
    version: str
    origin: str
    backends: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    problem: str = ""


class Plugins:
    """Everything that is registered, by name. A plugin that cannot be loaded is reported and left out."""

    def __init__(self, *, discover: bool = True) -> None:
        self.backends: dict[str, Backend] = {}
        self.kinds: dict[str, Kind] = {}
        self.installed: list[Installed] = []
        self._manager = pluggy.PluginManager(GROUP)
        self._manager.add_hookspecs(Specification)
        self._register(BuiltIn(), "built in", __version__, "reprobox")
        for point in metadata.entry_points(group=GROUP) if discover else ():
            self._load(point)

    def _load(self, point: metadata.EntryPoint) -> None:
        origin = point.dist.name if point.dist else point.value
        version = point.dist.version if point.dist else ""
        try:
            self._register(point.load(), point.name, version, origin)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a stranger's code must not take the tool down
            problem = f"{type(error).__name__}: {error}"
            self.installed.append(Installed(name=point.name, version=version, origin=origin, problem=problem))

    def _register(self, plugin: object, name: str, version: str, origin: str) -> None:
        self._manager.register(plugin, name=name)
        try:
            others = [other for other in self._manager.get_plugins() if other is not plugin]
            hooks = self._manager.subset_hook_caller
            backends = _named(hooks("reprobox_backends", others)(), self.backends, _BACKEND)
            kinds = _named(hooks("reprobox_layer_kinds", others)(), self.kinds, _KIND)
        except BaseException:
            self._manager.unregister(plugin)
            raise
        self.backends |= backends
        self.kinds |= kinds
        self.installed.append(
            Installed(name=name, version=version, origin=origin, backends=tuple(backends), kinds=tuple(kinds))
        )

    def providers(self, session: Any) -> list[Provider]:
        """The providers that plugins offer to a session; those that came last are asked first, built-in ones last."""
        return [provider for offered in self._manager.hook.reprobox_providers(session=session) for provider in offered]

    def backend(self, name: str) -> Backend:
        """The backend called ``name``. Raises :class:`reprobox.errors.UsageError`."""
        if name in self.backends:
            return self.backends[name]
        raise UsageError(
            f"there is no backend {name!r}",
            hint=f"installed: {', '.join(sorted(self.backends))}; `reprobox plugins` shows what each offers",
        )


#: What the protocols ask for: a noun that lacks something is refused when it is registered, not when it is used.
_BACKEND = (
    "name", "needs_image", "probe", "build", "tool", "realize", "run", "has", "inspect", "edit", "changes",
)  # fmt: skip
_KIND = ("name", "recipe", "pinned", "options", "needs", "resolve", "step")


def _named(offers: Iterable[Iterable[Any]], known: Mapping[str, Any], wanted: Sequence[str]) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for item in (item for offered in offers for item in offered):
        if lacking := [attribute for attribute in wanted if not hasattr(item, attribute)]:
            raise TypeError(f"{type(item).__name__} has no {', '.join(lacking)}")
        if item.name in known or item.name in named:
            raise ValueError(f"the name {item.name!r} is taken")
        named[item.name] = item
    return named
