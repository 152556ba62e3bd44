"""What a backend does whose steps are children of reprobox: start them, hand secrets over, and tell of what failed.

The children's side is :mod:`reprobox.sandbox.process_one`.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from reprobox.backend import Bind, BuildRequest, BuildResult
from reprobox.errors import BuildError
from reprobox.redact import Redactor, holders
from reprobox.tree import remove

#: Of the caller's environment, what an interpreter may need to start. All of it would be seen in a step as process 1's.
_NEEDS = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "LC_CTYPE")
_LAST_LINES = 20


def answer_of(
    argv: Sequence[str], stdin: Any = subprocess.DEVNULL, pass_fds: Sequence[int] = (), **options: Any
) -> Any:
    """The result that a child answers: JSON, at the descriptor that is its last argument.

    Raises the :class:`OSError` that it met, or :class:`BuildError` if it was killed.
    """
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as answer:
        try:
            process = subprocess.Popen(
                [*argv, str(writer)],
                stdin=stdin,
                pass_fds=(writer, *pass_fds),
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


# -- what a request says -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def handed_over(secrets: Mapping[str, bytes]) -> Iterator[int | None]:
    """A descriptor of a file in memory with the values, which only the child is given; None where there are none."""
    if not secrets:
        yield None
        return
    document = {name: base64.b64encode(value).decode() for name, value in secrets.items()}
    with os.fdopen(os.memfd_create("secrets"), "wb") as file:
        file.write(json.dumps(document).encode())
        file.flush()
        file.seek(0)
        yield file.fileno()


def resolver() -> str:
    """The host's resolv.conf, for a step that uses the host's network."""
    try:
        return Path("/etc/resolv.conf").read_text(errors="surrogateescape")
    except OSError:
        return ""


def bind_document(bind: Bind) -> dict[str, Any]:
    """A mount, its source without links."""
    return {"source": os.path.realpath(bind.source), "target": bind.target, "writable": bind.writable}


def with_indexes(trees: Sequence[Path]) -> list[list[str]]:
    """Layers in the store: the tree of each, and its index."""
    return [[str(tree), str(tree.parent / "index")] for tree in map(Path.absolute, trees)]


# -- what became of it -------------------------------------------------------------------------------------------------


def result(answer: Mapping[str, Any]) -> BuildResult:
    """Of a step that went well."""
    return BuildResult(diff_id=answer["diff_id"], size=answer["size"], dropped=tuple(answer["dropped"]))


def keep_failed(request: BuildRequest, document: Mapping[str, Any], left: Path, name: str) -> list[str]:
    """Keep what a step ``left``, under ``name``, but for files that hold a secret; returns which they were."""
    if request.failed is None:
        return []
    remove(request.failed)
    removed = list(holders(left, request.secrets))
    for path, _ in removed:
        remove(left / os.fsdecode(path))
    request.failed.mkdir(mode=0o700, parents=True)
    left.rename(request.failed / name)
    # The address of a proxy can hold a password.
    kept = {name: value for name, value in document["environment"].items() if not name.lower().endswith("_proxy")}
    (request.failed / "request.json").write_text(json.dumps({**document, "environment": kept}))
    return [Redactor(request.secrets).text(f"/{os.fsdecode(path)}") for path, _ in removed]


def failure(request: BuildRequest, status: int, removed: Sequence[str] = ()) -> BuildError:
    """What to tell of a step that ended with ``status``, and that was kept without the files that are ``removed``."""
    lines = request.log.read_text(errors="replace").splitlines()
    shown = "\n".join(f"    {line}" for line in lines[-_LAST_LINES:])
    how = f"ended with status {status}"
    if status > 128:
        how += f", which stands for signal {status - 128}"
    hint = f"the full log is {request.log}"
    if removed:
        hint += f"; what it left was kept without {', '.join(removed[:5])}, which held a secret"
    return BuildError(f"the step {how}; its last lines:\n{shown}", hint=hint)
