"""The child process of the sandbox: a bare interpreter, started with the way and what it goes with.

``step REQUEST ANSWER`` builds or runs a tool, ``merge REQUEST ANSWER`` copies layers into one folder, ``pack REQUEST
ANSWER`` makes a layer of what was changed, ``probe FOLDER ANSWER`` tries what works, ``command REQUEST`` becomes a
command. ANSWER is a descriptor, and so is the last way's REQUEST.

A child, because namespaces can only be entered by a process with one thread. Standard library only.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

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
    way, argument, *rest = arguments
    if way == "command":
        from reprobox.sandbox.command import become

        with os.fdopen(int(argument)) as file:
            record = json.load(file)
        become(record)
    answer = int(rest[0])
    os.set_inheritable(answer, False)  # noqa: FBT003 - it takes no keyword
    with os.fdopen(answer, "w") as file:
        json.dump(_answer(_work(way), argument), file)


def _work(way: str) -> Callable[[str], Any]:
    if way == "probe":
        from reprobox.sandbox.probe import probe

        return probe
    from reprobox.sandbox import process_one, step

    work = {"step": step.carry_out, "merge": process_one.merge, "pack": process_one.pack}[way]
    return lambda path: work(json.loads(Path(path).read_text()))


def _answer(work: Callable[[str], Any], argument: str) -> dict[str, Any]:
    try:
        return {"result": work(argument)}
    except OSError as error:
        return {"error": [error.errno, error.strerror, error.filename if isinstance(error.filename, str) else None]}
