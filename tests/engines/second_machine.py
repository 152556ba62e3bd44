"""Another machine: a container that has one engine, and of this machine only Python, reprobox and the settings of apt."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.engines.project import ROOT

_PROXIES = ("http_proxy", "https_proxy", "no_proxy")


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """Commands in fresh containers of ``image``; ``options`` are more words for ``docker run``."""

    image: str
    options: tuple[str, ...] = ()

    def run(self, *argv: str | Path, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command, whatever its exit status."""
        command = ["docker", "run", "--rm", "--network", "host", *shared(), *self.options]
        for name, value in {**_settings(), **(environment or {})}.items():
            command += ["--env", f"{name}={value}"]
        command += [self.image, *map(str, argv)]
        return subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)

    def reprobox(self, *argv: str | Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        return self.run(
            sys.executable, "-m", "reprobox.cli", *argv, environment={"PYTHONPATH": str(ROOT), **environment}
        )


def shared() -> list[str]:
    """Read-only mounts, each at its own path: this Python, this reprobox, and how apt is set up."""
    folders = [ROOT, sys.prefix, *(() if sys.base_prefix == "/usr" else (sys.base_prefix,)), "/etc/apt"]
    found = dict.fromkeys(str(folder) for folder in folders if os.path.isdir(folder))
    return [word for folder in found for word in ("--volume", f"{folder}:{folder}:ro")]


def installed(name: str, base: str, script: str, more: Sequence[str] = ()) -> str:
    """An image called ``name``: ``base`` after a shell script has installed something. Raises RuntimeError."""
    maker = f"{name}-maker"
    words = ["docker", "run", "--name", maker, "--network", "host", *shared(), *more]
    words += [word for item in _settings().items() for word in ("--env", "=".join(item))]
    try:
        for argv in ([*words, base, "sh", "-euc", script], ["docker", "commit", maker, name]):
            done = subprocess.run(argv, capture_output=True, text=True, timeout=900, check=False)
            if done.returncode:
                raise RuntimeError(f"{name} cannot be made: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    finally:
        subprocess.run(["docker", "rm", "--force", maker], capture_output=True, check=False)
    return name


def _settings() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k.lower() in _PROXIES}
