"""From parsed options to a session: store, configuration, plugins, providers."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from reprobox import config, launch
from reprobox.download.downloader import Downloader
from reprobox.errors import UsageError
from reprobox.oci.registry import Registries
from reprobox.oci.remote import Remote, open_remote
from reprobox.plugins import Plugins, left_out
from reprobox.project import MANIFEST_NAME, Project
from reprobox.providers import Documents, HintProvider, Provider
from reprobox.session import Session, staged
from reprobox.shared import SharedStore, is_shared, problem
from reprobox.store import Store


def open_store(settings: config.Config, say: Callable[[str], None]) -> Store:
    """The user's store over the shared ones; those that cannot be read are told, and done without."""
    shelves = []
    for root in settings.shared:
        if wrong := problem(root):
            say(f"warning: the shared store {root} is left out: {wrong}")
        else:
            shelves.append(SharedStore(root))
    return Store(settings.store, shelves)


def _refuse_vault(source: Path) -> None:
    folder = (source / "oci-layout").is_file() and not (source / MANIFEST_NAME).exists()
    if folder or (source.is_file() and source.suffix == ".tar"):
        raise UsageError(
            "this is a vault, and no project",
            where=str(source),
            hint=f"`reprobox realize {source}` makes the project that it keeps exist",
        )


def open_session(options: argparse.Namespace, source: Path | None = None) -> tuple[Session, Project]:
    """The session and the project of one command."""
    if source is not None:
        _refuse_vault(source)
    project = Project.find(source or Path(options.project))
    settings = config.load()
    store = open_store(settings, options.reporter.say)
    if is_shared(store.root):
        raise UsageError(
            "this store is shared: people read it, and nothing is built in it",
            where=str(store.root),
            hint="name it in REPROBOX_SHARED_STORES, and fill it with `reprobox cache share`",
        )
    downloader = Downloader(offline=getattr(options, "offline", False))
    registries = Registries(downloader, settings.registries)
    near, far = _vaults(options, settings, registries)
    plugins = Plugins()
    for broken in (plugin for plugin in plugins.installed if plugin.problem):
        options.reporter.say(f"warning: {left_out(broken)}")
    return Session(
        store=store,
        config=settings,
        plugins=plugins,
        builder=staged(plugins.backend(getattr(options, "builder", None) or launch.default_builder()), store),
        reporter=options.reporter,
        project=project.root,
        downloader=downloader,
        documents=Documents(store, downloader),
        hints=HintProvider(store),
        registries=registries,
        vaults=near,
        far_vaults=far,
        offline=downloader.offline,
        jobs=getattr(options, "jobs", None) or settings.jobs,
        remote=_remote(settings, offline=downloader.offline),
    ), project


def _vaults(
    options: argparse.Namespace, settings: config.Config, registries: Registries
) -> tuple[tuple[Provider, ...], tuple[Provider, ...]]:
    """The vaults of the command line and the settings: those that are asked first, and those that are asked last."""
    named = getattr(options, "vault", ())
    if not named and not settings.vaults:
        return (), ()
    from reprobox.vault.provider import in_order, open_configured, open_vault

    given = [open_vault(text, registries) for text in named]
    return in_order(given, open_configured(settings.vaults, registries, options.reporter.say))


def _remote(settings: config.Config, *, offline: bool) -> Remote | None:
    """The remote of the settings."""
    said = settings.remote
    if not said.repository:
        return None
    where = f"{settings.path}: remote.repository" if settings.path else "REPROBOX_REMOTE"
    return open_remote(
        said.repository, settings.registries, where=where, trust=said.trust, pushes=said.push, offline=offline
    )
