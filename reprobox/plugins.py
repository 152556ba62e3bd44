"""Hook specifications and discovery. Hooks register nouns; behaviour lives in the class behind the noun.

Built-in kinds, the sandbox and first-party plugins enter through the same hooks as anyone's plugin. Distributions offer
a plugin under the entry point group ``reprobox``.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib import metadata
from typing import TYPE_CHECKING, Any

import pluggy

from reprobox import __version__
from reprobox.errors import UsageError
from reprobox.guarded import Guarded

if TYPE_CHECKING:
    from reprobox.backend import Backend, Exporter
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
    def reprobox_exporters(self) -> Iterable[Exporter]:
        """Objects that satisfy :class:`reprobox.backend.Exporter`."""
        return ()

    @hookspec
    def reprobox_layer_kinds(self) -> Iterable[Kind]:
        """Objects that satisfy :class:`reprobox.layers.kind.Kind`; base kinds too."""
        return ()

    @hookspec
    def reprobox_providers(self, session: Any) -> Iterable[Provider]:  # noqa: ARG002 - hooks are called by name
        """Objects that satisfy :class:`reprobox.providers.Provider`, made for one :class:`reprobox.session.Session`."""
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
        from reprobox.layers.engine_image import EngineImage
        from reprobox.layers.fetch import Fetch
        from reprobox.layers.git import Git
        from reprobox.layers.image import Image, OciLayout
        from reprobox.layers.pip import Pip
        from reprobox.layers.rootfs import Rootfs
        from reprobox.layers.run import RunKind
        from reprobox.layers.sif import OrasSif, Sif
        from reprobox.layers.skeleton import Skeleton

        kinds: list[Kind] = [
            Bootstrap(),
            Image(),
            OciLayout(),
            ArchiveBase(),
            Sif(),
            OrasSif(),
            EngineImage(),
            Rootfs(),
        ]
        return [*kinds, Apt(), Pip(), Copy(), RunKind(), Fetch(), Git(), Skeleton(), CodeKind()]

    @hookimpl
    def reprobox_providers(self, session: Any) -> Iterable[Provider]:
        from reprobox.debian.provider import ArchiveProvider, BaseArchiveProvider, MirrorProvider
        from reprobox.layers.apt import declared
        from reprobox.layers.archive import ImageArchiveProvider
        from reprobox.layers.engine_image import EngineProvider
        from reprobox.layers.fetch import UrlProvider
        from reprobox.layers.git import CommitProvider
        from reprobox.layers.sif import SifProvider
        from reprobox.oci.registry import BlobProvider
        from reprobox.pypi import IndexProvider

        near = ArchiveProvider(session.config, session.documents, declared(session.manifest))
        return [
            MirrorProvider(session.config),
            near,
            BaseArchiveProvider(session.config, session.documents, near, session.target, session.store),
            IndexProvider(session.store, session.config.index, offline=session.offline, project=session.project),
            BlobProvider(session.registries),
            ImageArchiveProvider(session.store, session.project),
            SifProvider(session.project),
            EngineProvider(session.store),
            UrlProvider(session.manifest),
            CommitProvider(session.store, session.manifest, session.project, offline=session.offline),
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Installed:
    """One plugin, as ``reprobox plugins`` shows it; ``problem`` says why a broken one could not be used.

    ``more`` are the other hooks that it answers, by the words that they register: ``providers`` and the like.
    """

    name: str
    version: str
    origin: str
    backends: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    more: tuple[str, ...] = ()
    problem: str = ""

    def told(self) -> str:
        """``'mine' (mine-plugin 1.2)``"""
        return f"{self.name!r} ({' '.join(filter(None, (self.origin, self.version)))})"


@dataclass(kw_only=True)
class _Offer:
    """What one plugin offers, before anything of it is used."""

    plugin: object
    name: str
    version: str
    origin: str
    backends: dict[str, Backend] = field(default_factory=dict)
    kinds: dict[str, Kind] = field(default_factory=dict)
    exporters: dict[str, Exporter] = field(default_factory=dict)
    more: tuple[str, ...] = ()
    problem: str = ""

    def shown(self) -> Installed:
        sound = not self.problem
        return Installed(
            name=self.name,
            version=self.version,
            origin=self.origin,
            backends=tuple(self.backends) if sound else (),
            kinds=tuple(self.kinds) if sound else (),
            more=self.more if sound else (),
            problem=self.problem,
        )


#: What to install for the backends of this project's own plugins, and for other names that people call them by.
_EXTRAS = {"docker": "docker", "podman": "docker", "singularity": "singularity", "apptainer": "singularity"}


class Plugins:
    """Everything that is registered, by name. A plugin that cannot be loaded is reported and left out.

    So is each of two plugins that offer the same thing, or have the same name: nobody could tell which is meant.
    """

    def __init__(self, *, discover: bool = True) -> None:
        self._built_in = _Offer(plugin=BuiltIn(), name="built in", version=__version__, origin="reprobox")
        _collect(self._built_in)
        self._offers = [_loaded(point) for point in metadata.entry_points(group=GROUP)] if discover else []
        _refuse_doubles(self._built_in, self._offers)
        sound = [offer for offer in self._offers if not offer.problem]
        self._used = [self._built_in, *sound]
        self.backends: dict[str, Backend] = dict(self._built_in.backends)
        self.kinds: dict[str, Kind] = {name: kind for offer in self._used for name, kind in offer.kinds.items()}
        self.exporters: dict[str, Exporter] = {name: item for offer in sound for name, item in offer.exporters.items()}
        for offer in sound:
            self.backends |= {name: Guarded(backend, offer.name) for name, backend in offer.backends.items()}

    @property
    def installed(self) -> list[Installed]:
        """Every plugin, the built-in one first."""
        return [offer.shown() for offer in (self._built_in, *self._offers)]

    def providers(self, session: Any) -> list[Provider]:
        """The providers that plugins offer to a session; those that came last are asked first, built-in ones last.

        A plugin that fails to offer any is told, and done without from then on.
        """
        providers: list[Provider] = []
        for offer in reversed(self._used):
            try:
                providers += _answers(offer.plugin, "reprobox_providers", session=session)
            except (Exception, SystemExit) as error:
                if offer is self._built_in:
                    raise
                offer.problem = f"{type(error).__name__}: {error}"
                self._used.remove(offer)
                session.reporter.say(f"warning: {left_out(offer.shown())}")
        return providers

    def backend(self, name: str) -> Backend:
        """The backend called ``name``. Raises :class:`reprobox.errors.UsageError` with what to install for it."""
        if name in self.backends:
            return self.backends[name]
        claimed = [offer.shown() for offer in self._offers if offer.problem and name in (offer.name, *offer.backends)]
        if claimed:
            raise UsageError(
                f"the backend {name!r} cannot be used: " + "; ".join(map(left_out, claimed)),
                hint="mend or uninstall what is told here; `reprobox plugins` shows all of it",
            )
        raise UsageError(f"there is no backend {name!r}", hint=self._instead(name))

    def _instead(self, name: str) -> str:
        installed = f"installed: {', '.join(sorted(self.backends))}"
        known = name.lower() if name.lower() in _EXTRAS else next(iter(get_close_matches(name.lower(), _EXTRAS)), "")
        backend = _EXTRAS.get(known, "")
        if not backend:
            return f"{installed}; `reprobox plugins` shows what each plugin offers"
        if backend in self.backends:
            return f"did you mean {backend!r}? {installed}"
        called = f"the backend for it is {backend!r}: " if backend != name else ""
        return f'{called}install it with `pip install "reprobox[{backend}]"`; {installed}'


def left_out(plugin: Installed) -> str:
    """What is said of a plugin that is not used."""
    return f"the plugin {plugin.told()} is left out: {plugin.problem}"


# -- loading -----------------------------------------------------------------------------------------------------------

#: What the protocols ask for: a noun that lacks something is refused when it is registered, not when it is used.
_BACKEND = (
    "name", "needs_image", "probe", "build", "tool", "realize", "run", "has", "inspect", "edit", "changes",
)  # fmt: skip
_EXPORTER = ("name", "needs_image", "export")
_KIND = ("name", "recipe", "pinned", "options", "needs", "resolve", "step")
#: Seconds in which a plugin must be there.
PATIENCE = 20.0


def _loaded(point: metadata.EntryPoint) -> _Offer:
    """What an entry point leads to, or why it leads to nothing."""
    origin = point.dist.name if point.dist else point.value
    version = point.dist.version if point.dist else ""
    offer = _Offer(plugin=None, name=point.name, version=version, origin=origin)
    try:
        with _patience(PATIENCE):
            offer.plugin = point.load()
            _collect(offer)
    except (Exception, SystemExit, _TooSlow) as error:  # noqa: BLE001 - a stranger's code must not take the tool down
        offer.problem = str(error) if isinstance(error, _TooSlow) else f"{type(error).__name__}: {error}"
    return offer


class _TooSlow(BaseException):
    """It took too long. No Exception, since much code goes on after those."""


@contextlib.contextmanager
def _patience(seconds: float) -> Iterator[None]:
    """Raise :class:`_TooSlow` in the main thread after so many seconds; elsewhere nothing can be done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: object) -> None:
        raise _TooSlow(f"it was not loaded within {seconds:g} seconds")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _collect(offer: _Offer) -> None:
    """Ask a plugin for its nouns. Raises what it raises, and :class:`TypeError` for a noun that lacks something."""
    offer.backends = _named(_answers(offer.plugin, "reprobox_backends"), _BACKEND)
    offer.kinds = _named(_answers(offer.plugin, "reprobox_layer_kinds"), _KIND)
    offer.exporters = _named(_answers(offer.plugin, "reprobox_exporters"), _EXPORTER)
    hooks = _alone(offer.plugin)[1]
    asked = ("reprobox_backends", "reprobox_layer_kinds")
    offer.more = tuple(hook.removeprefix("reprobox_").replace("_", " ") for hook in hooks if hook not in asked)


def _alone(plugin: object) -> tuple[pluggy.PluginManager, list[str]]:
    """A manager that knows this plugin alone, so that nobody else's mistake is met; and the hooks that it answers."""
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(Specification)
    manager.register(plugin, name="it")
    return manager, sorted(caller.name for caller in manager.get_hookcallers(plugin) or ())


def _answers(plugin: object, hook: str, **arguments: Any) -> list[Any]:
    manager, _ = _alone(plugin)
    return [item for offered in getattr(manager.hook, hook)(**arguments) for item in offered]


def _named(items: Iterable[Any], wanted: Sequence[str]) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for item in items:
        if lacking := [attribute for attribute in wanted if not hasattr(item, attribute)]:
            raise TypeError(f"{type(item).__name__} has no {', '.join(lacking)}")
        if not isinstance(item.name, str) or not item.name:
            raise TypeError(f"the name of {type(item).__name__} is {item.name!r}, and not a word")
        if item.name in named:
            raise ValueError(f"it offers two of the name {item.name!r}")
        named[item.name] = item
    return named


def _refuse_doubles(built_in: _Offer, offers: Sequence[_Offer]) -> None:
    """Of two that claim one name neither is used; what is built in stays."""
    claims: tuple[tuple[str, Callable[[_Offer], Iterable[str]]], ...] = (
        ("the name", lambda offer: (offer.name,)),
        ("the backend", lambda offer: offer.backends),
        ("the layer kind", lambda offer: offer.kinds),
        ("the export format", lambda offer: offer.exporters),
    )
    sound = [offer for offer in offers if not offer.problem]
    for what, names in claims:
        for offer in sound:
            for name in names(offer):
                others = [other for other in sound if other is not offer and name in names(other)]
                if name in names(built_in):
                    offer.problem = f"{what} {name!r} is reprobox's own"
                elif others:
                    told = " and ".join(other.shown().told() for other in others)
                    offer.problem = f"{what} {name!r} is claimed by {told} too; uninstall one of them"
