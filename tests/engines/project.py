"""A project in a folder of its own, used through the command line as its researcher would."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = "tree_digest.py"


@dataclass(frozen=True, kw_only=True, slots=True)
class Project:
    """``path`` has the manifest; ``store`` is where its environments are made; ``wrapper`` goes before every command."""

    path: Path
    store: Path
    wrapper: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def call(self, verb: str, *argv: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        """``reprobox VERB -C path ARGV``, whatever its exit status."""
        command = [*self.wrapper, sys.executable, "-m", "reprobox.cli", verb, "-C", str(self.path), *map(str, argv)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "REPROBOX_STORE": str(self.store), **self.environment}
        settings = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL, "timeout": 900, **options}
        return subprocess.run(command, env=environment, check=False, **settings)

    def __call__(self, verb: str, *argv: str | Path, **options: Any) -> str:
        """Standard output of a command that must end with 0."""
        done = self.call(verb, *argv, **options)
        assert done.returncode == 0, f"reprobox {verb} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def realize(self, *argv: str) -> dict[str, Any]:
        """What ``realize --json`` tells."""
        told: dict[str, Any] = json.loads(self("realize", "--json", *argv))
        return told

    def copied(self, folder: Path) -> Project:
        """The same manifest, lock, code and data in another folder."""
        ignore = shutil.ignore_patterns("*.png", "*.npz", "__pycache__")
        return replace(self, path=Path(shutil.copytree(self.path, folder, ignore=ignore)))

    def with_inputs_only(self, store: Path) -> Project:
        """The same project with a store that has the input files and no layer."""
        store.mkdir(mode=0o700, parents=True)
        subprocess.run(["cp", "-a", "--reflink=auto", self.store / "blobs", store / "blobs"], check=True)
        return replace(self, store=store)


def digests(told: Mapping[str, Any]) -> tuple[str, str]:
    """Tree digest and image digest of what ``realize --json`` told."""
    return told["tree_digest"], told["image_digest"]


def script_digest(tree: Path) -> str:
    """The tree digest of a folder as the script on the reference page computes it, without reprobox."""
    page = (ROOT / "docs/reference/digests.md").read_text()
    program = page.partition(f"```python file={SCRIPT}\n")[2].partition("```")[0]
    argv = [sys.executable, "-I", "-c", program, str(tree)]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()
