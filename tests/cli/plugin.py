"""Plugins as people install them: a distribution on the path, with an entry point, in processes of their own."""

from __future__ import annotations

import os
from pathlib import Path

#: A backend that merges the layers into one folder, and lets the sandbox do the rest.
MERGING = """
import os
from dataclasses import replace
from pathlib import Path
from reprobox.backend import Realization
from reprobox.plugins import hookimpl
from reprobox.sandbox.backend import Sandbox

class Merging:
    name = "merging"
    needs_image = False

    def __init__(self, inner=None):
        self._inner = inner or Sandbox()
        for name in ("probe", "build", "tool", "changes"):
            setattr(self, name, getattr(self._inner, name))

    def at(self, scratch):
        return Merging(self._inner.at(scratch))

    def realize(self, request):
        place = request.output or request.keep / request.image_digest
        if not place.exists():
            self._inner.realize(replace(request, output=place))
        return Realization(location=str(place))

    def has(self, realization):
        return os.path.isdir(realization.location)

    def inspect(self, realization):
        return {}

    def run(self, request):
        if "REPROBOX_TEST_LOADED" in os.environ:
            import sys
            print(*sorted(sys.modules), file=open(os.environ["REPROBOX_TEST_LOADED"], "w"))
        here = Realization(location=request.realization.location, trees=(Path(request.realization.location),))
        return self._inner.run(replace(request, realization=here))

    def edit(self, request):
        return self._inner.edit(request)

class Plugin:
    @hookimpl
    def reprobox_backends(self):
        return [Merging()]

plugin = Plugin()
"""


def install(folder: Path, name: str, module: str, version: str = "1.0") -> Path:
    """Put a distribution with one module into ``folder``, which belongs on PYTHONPATH."""
    folder.mkdir(exist_ok=True)
    information = folder / f"{name}-{version}.dist-info"
    information.mkdir()
    (folder / f"{name}.py").write_text(module)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (information / "entry_points.txt").write_text(f"[reprobox]\n{name} = {name}:plugin\n")
    return folder


def path_with(folder: Path) -> str:
    """PYTHONPATH with ``folder`` first."""
    return os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH", ""))))
