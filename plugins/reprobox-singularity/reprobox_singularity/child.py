"""Children of reprobox that enter namespaces: a bare interpreter, started with what it is to do.

A child, because namespaces can only be entered by a process with one thread. Its side is standard library only; the
answer comes back by a pipe.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import reprobox

_ROOTS = tuple(str(Path(module).resolve().parents[1]) for module in (reprobox.__file__, __file__))
_PROGRAM = "import sys; sys.path += sys.argv[1:3]; from reprobox_singularity.child import main; main(sys.argv[3:])"
#: How to start one, and a program that uses what is compiled already.
ARGV = (sys.executable, "-IS", "-c", _PROGRAM, *_ROOTS)


def ask(function: str, document: Mapping[str, Any], pass_fds: Sequence[int] = (), **options: Any) -> Any:
    """What ``function`` (``module:name``, of this distribution) of a child returns for ``document``, both JSON.

    Raises the :class:`OSError` that it met, or :class:`BuildError` if the child was killed.
    """
    from reprobox.sandbox.children import answer_of

    with os.fdopen(os.memfd_create("request"), "wb") as file:
        file.write(json.dumps({**document, "parent": os.getpid()}).encode())
        file.flush()
        file.seek(0)
        request = file.fileno()
        return answer_of([*ARGV, function, str(request)], pass_fds=(request, *pass_fds), **options)


def main(arguments: Sequence[str]) -> None:
    """``FUNCTION REQUEST ANSWER``, or ``run REQUEST``: the last ones are descriptors."""
    if arguments[0] == "run":
        from reprobox_singularity.enter import become

        with os.fdopen(int(arguments[1])) as file:
            record = json.load(file)
        become(record)
    function, request, answer = arguments
    module, _, name = function.partition(":")
    work = getattr(importlib.import_module(f"reprobox_singularity.{module}"), name)
    with os.fdopen(int(request)) as file:
        document = json.load(file)
    os.set_inheritable(int(answer), False)  # noqa: FBT003 - it takes no keyword
    with os.fdopen(int(answer), "w") as told:
        try:
            result = {"result": work(document)}
        except OSError as error:
            place = error.filename if isinstance(error.filename, str) else None
            result = {"error": [error.errno, error.strerror, place]}
        json.dump(result, told)
