"""``reprobox remove``"""

from __future__ import annotations

import argparse

from reprobox.cli import editing
from reprobox.manifest_edit import remove

DETAILS = """\
Comments and layout of research.toml stay as they are; a layer that has no other package is removed with its last one.

examples:
  reprobox remove apt jq
  reprobox remove pip matplotlib seaborn
  reprobox remove pip numpy --layer notebooks
  reprobox remove apt make --no-lock"""


def configure(parser: argparse.ArgumentParser) -> None:
    editing.configure(parser, "a package that the manifest names; versions do not count")


def execute(options: argparse.Namespace) -> int:
    editing.check(options.kind, options.packages)
    name_of = editing.name_of(options.kind)
    return editing.edit(options, lambda text: remove(text, options.kind, options.packages, options.layer, name_of))
