"""A machine of its own as far as reprobox can tell: a project's folder, a store, settings, called in this process."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from reprobox.cli import main


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """How a command ended, and what it said."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """``path`` has the manifest; ``environment`` is added to this process's own."""

    path: Path
    store: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def call(self, verb: str, *argv: str | Path) -> Told:
        out, err = io.StringIO(), io.StringIO()
        with self._environment(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = main([verb, *map(str, argv), "-C", str(self.path)])
            except SystemExit as ended:
                status = int(ended.code or 0)
        return Told(status=status, out=out.getvalue(), err=err.getvalue())

    def __call__(self, verb: str, *argv: str | Path) -> Told:
        """A command that must end with 0."""
        told = self.call(verb, *argv)
        assert told.status == 0, f"reprobox {verb} ended with {told.status}\n{told.out}\n{told.err}"
        return told

    def another(self, folder: Path, **environment: str) -> Machine:
        """The same manifest, lock and files on another machine, whose store is empty."""
        ignored = shutil.ignore_patterns("store")
        path = Path(shutil.copytree(self.path, folder / "project", symlinks=True, ignore=ignored, copy_function=_copy))
        return Machine(path=path, store=folder / "store", environment=environment)

    def knowing(self, **environment: str) -> Machine:
        """This machine with more in its environment."""
        return replace(self, environment={**self.environment, **environment})

    @contextlib.contextmanager
    def _environment(self) -> Iterator[None]:
        before = dict(os.environ)
        os.environ.update(self.environment, REPROBOX_STORE=str(self.store))
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def _copy(source: str, target: str) -> None:
    """Big files are the same file: nobody writes into them."""
    if os.path.getsize(source) > 1 << 16:
        os.link(source, target)
    else:
        shutil.copy2(source, target)
