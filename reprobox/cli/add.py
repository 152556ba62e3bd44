"""``reprobox add``"""

from __future__ import annotations

import argparse

from reprobox.cli import editing
from reprobox.manifest_edit import add

DETAILS = """\
Comments and layout of research.toml stay as they are. Where the packages cannot be locked, it is put back as it was.

examples:
  reprobox add apt git jq
  reprobox add apt "libhdf5-dev=1.10.8*"
  reprobox add pip "numpy>=2" matplotlib
  reprobox add pip jupyterlab --layer notebooks
  reprobox add apt make --no-lock"""


def configure(parser: argparse.ArgumentParser) -> None:
    editing.configure(parser, "a package as the manifest has it, with versions if they matter")


def execute(options: argparse.Namespace) -> int:
    editing.check(options.kind, options.packages)
    name_of = editing.name_of(options.kind)
    return editing.edit(options, lambda text: add(text, options.kind, options.packages, options.layer, name_of))
