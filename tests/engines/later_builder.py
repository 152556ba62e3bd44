"""A builder whose steps live ten years ahead: the sandbox, with libfaketime loaded into every program of a step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from reprobox.backend import Backend, Bind, BuildRequest, BuildResult
from reprobox.plugins import hookimpl
from reprobox.sandbox.backend import Sandbox

_INSIDE = "/run/reprobox/libfaketime.so.1"
#: Times that programs read from files or give to them stay as they are: only the clock is another.
_CLOCK = {"LD_PRELOAD": _INSIDE, "FAKETIME": "+10y", "NO_FAKE_STAT": "1", "FAKE_UTIME": "0"}


class Later(Sandbox):
    """libfaketime is looked for where Debian has it. Each step's log begins with the year that the step saw."""

    name = "later"

    def at(self, scratch: Path) -> Later:
        return Later(scratch)

    def build(self, request: BuildRequest) -> BuildResult:
        (library,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
        return super().build(
            replace(
                request,
                commands=(("date", "+the year is %Y"), *request.commands),
                environment={**request.environment, **_CLOCK},
                binds=(*request.binds, Bind(source=library, target=_INSIDE)),
            )
        )


class Plugin:
    @hookimpl
    def reprobox_backends(self) -> list[Backend]:
        return [Later()]


plugin = Plugin()


def install(folder: Path) -> Path:
    """Make ``folder`` a place of ``PYTHONPATH`` where reprobox finds the plugin, as an installed distribution is found."""
    about = folder / "reprobox_later-1.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: reprobox-later\nVersion: 1\n")
    (about / "entry_points.txt").write_text(f"[reprobox]\nlater = {__name__}:plugin\n")
    return folder
