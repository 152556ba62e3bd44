"""``reprobox plugins``"""

from __future__ import annotations

import argparse
import dataclasses
import json

from reprobox.plugins import Plugins

DETAILS = """\
examples:
  reprobox plugins
  reprobox plugins --json"""


def configure(parser: argparse.ArgumentParser) -> None:  # noqa: ARG001 - no options of its own
    return


def execute(options: argparse.Namespace) -> int:
    plugins = Plugins()
    if options.json:
        print(json.dumps([dataclasses.asdict(item) for item in plugins.installed]))
        return 0
    for item in plugins.installed:
        print(f"{item.name} {item.version} (from {item.origin})")
        if item.problem:
            print(f"  cannot be used: {item.problem}")
        if item.backends:
            print(f"  backends: {', '.join(item.backends)}")
        if item.kinds:
            print(f"  layer kinds: {', '.join(item.kinds)}")
    return 0
