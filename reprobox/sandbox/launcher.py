"""The child process of the sandbox: a bare interpreter, started with the way and its argument.

``step REQUEST`` builds or runs a tool, ``probe FOLDER`` tries what works, ``command DESCRIPTOR`` becomes a command.
A child, because namespaces can only be entered by a process with one thread. Standard library only.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

#: How to start one: the interpreter, its options, and a program that uses what is compiled already.
ARGV = (
    sys.executable,
    "-IS",
    "-c",
    "import sys; sys.path.append(sys.argv[1]); from reprobox.sandbox.launcher import main; main(sys.argv[2:])",
    str(Path(__file__).resolve().parents[2]),
)


def main(arguments: Sequence[str]) -> None:
    """Go one of the ways."""
    way, argument = arguments
    if way == "probe":
        from reprobox.sandbox.probe import probe

        sys.stdout.write(json.dumps(probe(argument)))
    elif way == "step":
        from reprobox.sandbox.step import carry_out

        request = json.loads(Path(argument).read_text())
        Path(request["answer"]).write_text(json.dumps(carry_out(request)))
    else:
        from reprobox.sandbox.command import become

        with os.fdopen(int(argument)) as file:
            record = json.load(file)
        become(record)
