"""A project on a base of this machine's own programs, locked and built in this process, without any network."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reprobox import config
from reprobox.download.downloader import Downloader
from reprobox.freshness import ensure_fresh
from reprobox.lock import Lock
from reprobox.manifest import Manifest
from reprobox.oci.registry import Registries
from reprobox.plugins import Plugins
from reprobox.project import Project
from reprobox.providers import Documents, HintProvider
from reprobox.realize import Realized, Wish, realize
from reprobox.resolve import resolve
from reprobox.session import Session, staged
from reprobox.store import Store
from reprobox.testing import small_base

HEAD = '[project]\nname = "test"\nversion = "1"\n[base]\nrootfs = "base"\n'


class Silence:
    """The progress of one fetch, shown to nobody."""

    def __getattr__(self, _: str) -> Any:
        return lambda *_, **__: None


@dataclass
class Listener:
    """A reporter that remembers."""

    said: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        self.said.append(text)

    def fetching(self) -> Any:
        return Silence()

    def moving(self, label: str) -> Any:
        return Silence()

    def building(self, name: str, number: int, total: int) -> None:
        self.steps.append(name)

    def built(self, name: str, seconds: float, size: int) -> None:
        pass


@dataclass
class Local:
    """A project in ``path``, with a store of its own. Every call is a command: nothing is remembered in the process."""

    path: Path
    store: Path
    listener: Listener = field(default_factory=Listener)
    offline: bool = True

    @property
    def session(self) -> Session:
        settings = config.load()
        store = Store(self.store)
        downloader = Downloader(offline=self.offline)
        plugins = Plugins(discover=False)
        return Session(
            store=store,
            config=settings,
            plugins=plugins,
            builder=staged(plugins.backend("sandbox"), store),
            reporter=self.listener,
            project=self.path,
            downloader=downloader,
            documents=Documents(store, downloader),
            hints=HintProvider(store),
            registries=Registries(downloader, settings.registries),
            offline=self.offline,
        )

    @property
    def project(self) -> Project:
        return Project.find(self.path)

    def write(self, layers: str, head: str = HEAD) -> Local:
        """Write the manifest: ``layers`` and whatever else comes after the base."""
        (self.path / "research.toml").write_text(head + layers)
        return self

    def file(self, name: str, content: str = "", mode: int = 0o644) -> Local:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        path.chmod(mode)
        return self

    def manifest(self) -> Manifest:
        return self.project.manifest(Plugins(discover=False).kinds)

    def lock(self, **options: Any) -> Lock:
        session = self.session
        lock = resolve(session, self.manifest(), self.project.lock_or_none(session.store), **options)
        self.project.write_lock(lock)
        return lock

    def realize(self, **wish: Any) -> Realized:
        session, manifest = self.session, self.manifest()
        lock = self.project.lock(session.store)
        ensure_fresh(session, manifest, lock, str(self.project.lock_path))
        made = realize(session, self.project, manifest, lock, Wish(target="default", **wish))
        self.project.write_lock(made.lock)
        return made

    def elsewhere(self, store: Path) -> Local:
        """The same project with another, empty store."""
        return Local(self.path, store)


def programs_in(folder: Path) -> None:
    """Put the small environment of ``reprobox.testing`` into ``folder/base``; its files are links: change none of them."""
    folder.mkdir(parents=True)
    base = small_base().tree
    linked = "--link" if base.stat().st_dev == folder.stat().st_dev else "--reflink=auto"
    subprocess.run(["cp", "--archive", linked, base, folder / "base"], check=True)


def copying(name: str, source: str, to: str, after: str = "") -> str:
    followed = f'after = ["{after}"]\n' if after else ""
    return f'[[layers]]\nname = "{name}"\nkind = "copy"\n{followed}files = [{{ from = "{source}", to = "{to}" }}]\n'


def running(name: str, script: str) -> str:
    return f"[[layers]]\nname = \"{name}\"\nkind = \"run\"\nscript = '''\n{script}\n'''\n"
