"""The full command line: parses, dispatches, and turns errors into text and exit statuses."""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
from importlib import import_module
from typing import Any, NoReturn

from reprobox import __version__
from reprobox.cli.report import plain, reporter
from reprobox.errors import HostError, ManifestError, ReproboxError, StaleLockError, UsageError

#: Verbs in the order of the help, each a module of this package with DETAILS, ``configure`` and ``execute``. Only the
#: module of the verb that is asked for is imported.
VERBS = {
    "init": "write a first manifest from what is in the folder",
    "lock": "pin every byte that the manifest needs, in research.lock",
    "add": "add packages to research.toml, and lock",
    "remove": "remove packages from research.toml, and lock",
    "diff": "say what moved between two locks",
    "realize": "make the environment exist",
    "run": "run a command in the environment",
    "shell": "open a shell in the environment",
    "show": "say what a publication, a vault or a repository holds, and do nothing with it",
    "inspect": "show an environment: its image, its lock, its layers, and what a backend holds",
    "freeze": "make layers of what was changed by hand in `shell --writable`",
    "graph": "show the layers, what they stand on, and which are in the store",
    "export": "hand the environment to other tools",
    "cite": "write how to cite the environment: a paragraph for the methods section, a reference, a badge",
    "verify": "check manifest, lock, store and realizations against one another",
    "publish": "put the environment with the paper: a research object for people and archives",
    "vault": "keep every input, for the day when its upstream is gone",
    "deposit": "put what was published into Zenodo or another archive, and get its DOI",
    "key": "make and keep the keys with which people vouch for a lock",
    "outlook": "say who can still supply every input, and for how long",
    "attach": "put manifest, lock and code into a PDF, beside an image, or on a git tag",
    "detach": "take out, or off, what was attached",
    "cache": "look at the store, make it smaller, check it, share it",
    "doctor": "say what this machine can do, and how to fix what it cannot",
    "plugins": "show what is installed, and where it came from",
}
_INTERRUPTED = 130
_DESCRIPTION = """\
Make computational research recreatable: research.toml says what an environment needs, research.lock names every byte of
it, and every machine makes the same environment from the two."""
_FIRST_STEPS = """\
first steps:
  reprobox lock               pin every byte that research.toml needs
  reprobox realize            make the environment exist
  reprobox run                run the manifest's command in it
  reprobox run -- python3     run another command in it

exit status: 0 done, 1 it failed, 2 wrong use or wrong manifest, 3 the lock is missing or stale, 4 the backend is not
available here, 5 bytes did not match, 6 offline and an input is missing, 130 interrupted; `run` passes on the
command's."""


def dispatch(arguments: list[str]) -> int:
    """Run one command line; returns the exit status."""
    asked = next((word for word in arguments if word in VERBS), "")
    try:
        _check_order(arguments, asked)
        options = parser(asked).parse_args(arguments)
    except UsageError as error:
        own = arguments[: arguments.index("--")] if "--" in arguments else arguments
        _tell(error, argparse.Namespace(json="--json" in own, reporter=None))
        return error.status
    options.reporter = reporter(quiet=options.quiet)
    try:
        status: int = _verb(options.verb).execute(options)
        sys.stdout.flush()
    except ReproboxError as error:
        _tell(error, options)
        return error.status
    except KeyboardInterrupt:
        _close(options)
        if options.json:
            print(json.dumps({"error": _document(ReproboxError("interrupted")) | {"status": _INTERRUPTED}}), flush=True)
        raise
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            _close(options)
            raise
        place = f" at {error.filename}" if error.filename else ""
        hint = "free some space, or move the store with REPROBOX_STORE; nothing that was complete is lost"
        _tell(ReproboxError(f"the disk is full{place}", hint=hint), options)
        return 1
    _close(options)
    return status


def fail(error: ReproboxError) -> int:
    """Tell of an error that was met before there were options; returns the exit status."""
    _tell(error, argparse.Namespace(json=False, reporter=None))
    return error.status


class _Parser(argparse.ArgumentParser):
    """argparse, with its complaints raised as everything else is."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"`{self.prog} --help` shows what it takes")


def _check_order(arguments: list[str], asked: str) -> None:
    """Other tools take ``-C DIR`` before the command; argparse would take DIR for the command."""
    first = arguments[0] if arguments else ""
    if first.startswith(("-C", "--project", "--json", "-q", "--quiet")):
        raise UsageError(
            f"{first} stands before the command", hint=f"write it after: `reprobox {asked or 'COMMAND'} {first} …`"
        )


def parser(asked: str = "") -> argparse.ArgumentParser:
    """The command line; complete for the verb that is ``asked`` for, the others only by name."""
    root = _Parser(
        prog="reprobox",
        description=_DESCRIPTION,
        epilog=_FIRST_STEPS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    root.add_argument("--version", action="version", version=f"reprobox {__version__}")
    verbs = root.add_subparsers(dest="verb", metavar="COMMAND", required=True)
    for name, summary in VERBS.items():
        verb = verbs.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if name == asked:
            module = _verb(name)
            verb.epilog = module.DETAILS
            verb.add_argument("-C", "--project", metavar="DIR", default=".", help="work in DIR instead of this folder")
            verb.add_argument("--json", action="store_true", help="print the result as JSON")
            verb.add_argument("-q", "--quiet", action="store_true", help="no progress")
            module.configure(verb)
    return root


def _verb(name: str) -> Any:
    return import_module(f"reprobox.cli.{name}")


def _close(options: argparse.Namespace) -> None:
    close = getattr(options.reporter, "close", None)
    if close is not None:
        close()


def _tell(error: ReproboxError, options: argparse.Namespace) -> None:
    _close(options)
    if options.json:
        print(json.dumps({"error": _document(error)}))
    for line in _sentences(error):
        print(plain(line), file=sys.stderr)


def _sentences(error: ReproboxError) -> list[str]:
    if isinstance(error, HostError):
        more = "`reprobox doctor` shows all of it"
        if not any(problem.key.endswith(".platform") for problem in error.problems):  # that, nobody can ignore
            more += "; --ignore-requires goes on all the same"
        return [*(f"error: {problem}" for problem in error.problems), more]
    if isinstance(error, ManifestError):
        count = len(error.problems)
        return [f"error: {problem}" for problem in error.problems] + ([f"{count} errors"] if count > 1 else [])
    return [f"error: {error}"]


def _document(error: ReproboxError) -> dict[str, Any]:
    document: dict[str, Any] = {
        "status": error.status,
        "message": error.message,
        "where": error.where,
        "hint": error.hint,
    }
    if isinstance(error, StaleLockError):
        document["keys"] = list(error.keys)
    if isinstance(error, ManifestError | HostError):
        document["problems"] = [
            {"file": item.file, "line": item.line, "key": item.key, "message": item.message, "hint": item.hint}
            for item in error.problems
        ]
    return document
