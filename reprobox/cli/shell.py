"""``reprobox shell``"""

from __future__ import annotations

import argparse

from reprobox.cli.session import open_session
from reprobox.cli.start import add_run_options, start
from reprobox.errors import UsageError
from reprobox.session import staged

DETAILS = """\
The same view as `run` has: the declared mounts, the code, a read-only root. With --failed, that of a build step that
failed: its files as it left them, without network; what is changed there has no effect on any build.

With --writable, it is a copy of the environment in which you are root: apt-get install, pip install and any edit work,
and are kept for the next time. Nothing else uses the copy; `reprobox freeze` writes layers that give the same.

examples:
  reprobox shell
  reprobox shell --writable
  reprobox shell --writable --discard
  reprobox shell --mount /dataset=/scratch/data
  reprobox shell --failed compile"""

_ANY_SHELL = ("/bin/sh", "-c", "command -v bash >/dev/null && exec bash; exec sh")


def configure(parser: argparse.ArgumentParser) -> None:
    add_run_options(parser)
    parser.add_argument("--failed", metavar="LAYER", help="look into the step of LAYER as it failed")
    parser.add_argument("--writable", action="store_true", help="a copy that may be changed, and is kept")
    parser.add_argument("--discard", action="store_true", help="with --writable: take the copy away")


def execute(options: argparse.Namespace) -> int:
    if options.discard and not options.writable:
        raise UsageError("--discard goes with --writable", hint="`reprobox shell --writable --discard`")
    if options.writable:
        from reprobox.cli.writing import write

        return write(options)
    return start(options, None) if options.failed is None else _look_into(options)


def _look_into(options: argparse.Namespace) -> int:
    session, project = open_session(options)
    lock = project.lock(session.store)
    name = next(iter(project.manifest(session.plugins.kinds).select(options.target).targets))
    layers = lock.targets[name].layers if name in lock.targets else ()
    layer = next((layer for layer in layers if layer.name == options.failed), None)
    state = session.store.failed(layer.id) if layer else None
    reenter = getattr(staged(session.builder, session.store), "reenter", None)
    if state is None or not state.is_dir() or reenter is None:
        hint = "`reprobox realize` says which step fails; `reprobox graph` shows the layers"
        raise UsageError(f"no failed step of a layer {options.failed!r} was kept", hint=hint)
    status: int = reenter(state, _ANY_SHELL)
    return status
