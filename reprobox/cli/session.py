"""From parsed options to a session: store, configuration, plugins, providers."""

from __future__ import annotations

import argparse
from pathlib import Path

from reprobox import config
from reprobox.cli.options import DEFAULT_BACKEND
from reprobox.download import Downloader
from reprobox.engine import Session, staged
from reprobox.plugins import Plugins
from reprobox.project import Project
from reprobox.providers import Documents, HintProvider
from reprobox.registry import Registries
from reprobox.store import Store


def open_session(options: argparse.Namespace, source: Path | None = None) -> tuple[Session, Project]:
    """The session and the project of one command."""
    project = Project.find(source or Path(options.project))
    settings = config.load()
    store = Store(settings.store)
    downloader = Downloader(offline=getattr(options, "offline", False))
    plugins = Plugins()
    return Session(
        store=store,
        config=settings,
        plugins=plugins,
        builder=staged(plugins.backend(getattr(options, "builder", DEFAULT_BACKEND)), store),
        reporter=options.reporter,
        project=project.root,
        downloader=downloader,
        documents=Documents(store, downloader),
        hints=HintProvider(store),
        registries=Registries(downloader, settings.registries),
        offline=downloader.offline,
        jobs=getattr(options, "jobs", None) or settings.jobs,
    ), project
