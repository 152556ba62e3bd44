"""``reprobox run``"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import NoReturn

from reprobox.cli.start import add_run_options, start
from reprobox.errors import UsageError
from reprobox.run_record.agent import CHOICES

DETAILS = """\
The command sees the environment's read-only file system, the declared mounts and the code; a private HOME and /tmp; and
the environment variables that the manifest declares, with those of schedulers, MPI and GPUs. Its exit status is passed
on.

examples:
  reprobox run                                    the manifest's [run] command
  reprobox run -- python3 -c 'import numpy'       another command
  reprobox run --mount /dataset=/scratch/data     with the data elsewhere
  reprobox run --backend docker --memory 8GiB     held to a limit, by Docker
  reprobox run --cpus 2 --gpus 0                  on two processors, with the first GPU
  reprobox run --locked                           only if code and data are exactly what was locked
  reprobox run --record final                     and write down what ran on what, with which result
  reprobox run --check final --tolerance 1e-9     again, in fresh folders: is the result the same?"""


_OF_RECORDS = {"by": "--record", "tolerance": "--check", "absolute": "--check", "only": "--check", "keep": "--check"}


def configure(parser: argparse.ArgumentParser) -> None:
    add_run_options(parser)
    parser.add_argument("--locked", action="store_true", help="insist that code and data are what the lock pins")
    parser.add_argument(
        "--record", metavar="NAME", nargs="?", const="", help="record the run in research.runs/; --locked is included"
    )
    parser.add_argument("--by", choices=CHOICES, help="who ran it, for --record: git's name if left out, or the login")
    parser.add_argument("--check", metavar="RECORD", help="run a recorded command again, and compare what it writes")
    parser.add_argument("--tolerance", metavar="REL", type=tolerance, help="relative difference that numbers may have")
    parser.add_argument("--absolute", metavar="ABS", type=tolerance, help="absolute difference that numbers may have")
    parser.add_argument("--only", metavar="GLOB", action="append", help="compare only these outputs; may be repeated")
    parser.add_argument("--keep", metavar="DIR", type=Path, help="keep what the checking run writes in this new folder")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="instead of the manifest's")


def execute(options: argparse.Namespace) -> int:
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if options.record is not None or options.check is not None:
        from reprobox.cli import recorded_run

        return recorded_run.execute(options, command)
    if wrong := next((name for name in _OF_RECORDS if getattr(options, name) is not None), ""):
        _refuse(wrong)
    return start(options, command)


def _refuse(name: str) -> NoReturn:
    raise UsageError(f"--{name} goes with {_OF_RECORDS[name]}", hint=f"add {_OF_RECORDS[name]}, or leave --{name} out")


def tolerance(text: str) -> float:
    """A difference that may be."""
    try:
        number = float(text)
    except ValueError:
        number = -1
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"a number such as 1e-6, not {text!r}")
    return number
