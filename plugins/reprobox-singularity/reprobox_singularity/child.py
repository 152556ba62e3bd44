"""Children of reprobox that enter namespaces: a bare interpreter, started with what it is to do.

A child, because namespaces can only be entered by a process with one thread. Its side is standard library only; the
answer comes back by a pipe.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import reprobox
from reprobox.errors import BuildError

_ROOTS = tuple(str(Path(module).resolve().parents[1]) for module in (reprobox.__file__, __file__))
_PROGRAM = "import sys; sys.path += sys.argv[1:3]; from reprobox_singularity.child import main; main(sys.argv[3:])"
#: How to start one, and a program that uses what is compiled already.
ARGV = (sys.executable, "-IS", "-c", _PROGRAM, *_ROOTS)
#: Of the caller's environment, what an interpreter may need to start. All of it would be seen in a step as process 1's.
_NEEDS = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "LC_CTYPE")


def ask(function: str, document: Mapping[str, Any], stdin: Any = subprocess.DEVNULL, **options: Any) -> Any:
    """What ``function`` (``module:name``, of this distribution) of a child returns for ``document``, both JSON.

    Raises the :class:`OSError` that it met, or :class:`BuildError` if the child was killed.
    """
    reader, writer = os.pipe()
    request = os.memfd_create("request")
    with os.fdopen(reader, "rb") as answer, os.fdopen(request, "wb") as file:
        file.write(json.dumps({**document, "parent": os.getpid()}).encode())
        file.flush()
        file.seek(0)
        try:
            process = subprocess.Popen(
                [*ARGV, function, str(request), str(writer)],
                stdin=stdin,
                pass_fds=(request, writer, *options.pop("pass_fds", ())),
                env={name: os.environ[name] for name in _NEEDS if name in os.environ},
                **{"start_new_session": True, **options},  # a new session: Ctrl-C is the parent's to handle
            )
        finally:
            os.close(writer)
        try:
            told = answer.read()
            process.wait()
        finally:
            process.kill()
            process.wait()
    try:
        document = json.loads(told)
    except ValueError:
        raise BuildError(f"its process was ended (status {process.returncode})", hint="run it again") from None
    if "error" in document:
        raise OSError(*document["error"])
    return document["result"]


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
