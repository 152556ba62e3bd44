"""What layer kinds may do to the world while they resolve: the store, the network, and the programs of a base."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from reprobox.ahead import Ahead
from reprobox.backend import Bind, ToolRequest, ToolResult
from reprobox.building import BUILD_ENVIRONMENT, image_environment
from reprobox.engine import build
from reprobox.errors import ReproboxError
from reprobox.lock import BASE, Input, Lock, LockedLayer, LockedTarget
from reprobox.oci.registry import Registries
from reprobox.providers import Found
from reprobox.session import Session, this_platform
from reprobox.store import StoredLayer
from reprobox.tree import Tree, opened

#: The epoch of an environment whose base knows no date: the first moment that a zip file can say.
NO_DATE = 315_532_800


@dataclass(kw_only=True)
class ProjectWorld:
    """What kinds may do while they resolve: see :class:`reprobox.layers.kind.World`."""

    session: Session
    platform: str
    base: LockedLayer | None = None
    epoch: int = NO_DATE
    roots: Mapping[str, Lock] = field(default_factory=dict)
    here: str = field(default_factory=this_platform)
    _tree: Tree | None = None

    @property
    def store(self) -> object:
        return self.session.store

    @property
    def project(self) -> object:
        return self.session.project

    @property
    def offline(self) -> bool:
        return self.session.offline

    @property
    def archives(self) -> Mapping[str, Sequence[str]]:
        return self.session.config.archives

    @property
    def registries(self) -> Registries:
        return self.session.registries

    @property
    def ahead(self) -> Ahead:
        return self.session.ahead

    @property
    def index(self) -> Mapping[str, str]:
        return self.session.config.index

    @property
    def seen(self) -> dict[str, str]:
        return self.session.seen

    def get(self, url: str, *, fresh: bool = True, limit: int = 64 << 20) -> bytes:
        return self.session.documents.get(url, fresh=fresh, limit=limit)

    def fetch(self, inputs: Sequence[Input]) -> None:
        if self.base is not None:  # where its own sources have packages, providers look there
            self.session.target = self._target()
        self.session.fetch(inputs)

    def obtain(self, urls: Sequence[str]) -> list[Found]:
        return self.session.obtain(urls)

    def remember(self, item: Input, urls: Sequence[str]) -> None:
        self.session.hints.remember(item, urls)

    def say(self, text: str) -> None:
        self.session.reporter.say(text)

    def read(self, path: str) -> bytes | None:
        place = self._place(path)
        entry = self._files().get(place) if place is not None else None
        if place is None or entry is None or entry.kind != "f":
            return None
        with opened(os.fsencode(self._built_base().tree) + b"/" + place) as file:
            return file.read()

    def find(self, folder: str) -> tuple[str, ...]:
        place = self._place(folder)
        if place is None:
            return ()
        below = [path for path, entry in self._files().entries.items() if entry.kind != "d"]
        found = (path.removeprefix(place + b"/") for path in below if path.startswith(place + b"/"))
        return tuple(sorted(f"/{folder.strip('/')}/{os.fsdecode(name)}" for name in found))

    def tool(
        self, argv: Sequence[str], *, binds: Sequence[Bind] = (), stdin: bytes = b"", root: Lock | None = None
    ) -> ToolResult:
        base = self._built_base() if root is None else _built(self.session, root.targets[BASE], root.epoch)
        base = self.session.store.own(base)
        environment = {**image_environment(base.record), **BUILD_ENVIRONMENT}
        return self.session.builder.tool(
            ToolRequest(
                parents=(base.tree,), argv=tuple(argv), environment=environment, binds=tuple(binds), stdin=stdin
            )
        )

    def _place(self, path: str) -> bytes | None:
        try:
            return self._files().resolve(os.fsencode(path), final=True)
        except OSError:  # links in a circle
            return None

    def _files(self) -> Tree:
        if self._tree is None:
            self._tree = Tree.load(self._built_base().index)
        return self._tree

    def _target(self) -> LockedTarget:
        if self.base is None:
            raise ReproboxError("the base cannot be looked into while it is being resolved")
        return LockedTarget(name="", platform=self.platform, layers=(self.base,))

    def _built_base(self) -> StoredLayer:
        return _built(self.session, self._target(), self.epoch)


def _built(session: Session, target: LockedTarget, epoch: int) -> StoredLayer:
    build(session, target, epoch)
    stored = session.store.layer(target.base.id)
    assert stored is not None
    return stored
