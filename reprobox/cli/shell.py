"""``reprobox shell``"""

from __future__ import annotations

import argparse

from reprobox.cli.run import add_run_options, start

DETAILS = """\
The same view as `run` has: the declared mounts, the code, a read-only root.

examples:
  reprobox shell
  reprobox shell --mount /dataset=/scratch/data"""


def configure(parser: argparse.ArgumentParser) -> None:
    add_run_options(parser)


def execute(options: argparse.Namespace) -> int:
    return start(options, None)
