"""Options that several verbs share."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from reprobox import launch
from reprobox.backend import Limits
from reprobox.errors import ReproboxError, UsageError


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """``--offline`` and ``--jobs``, for verbs that may fetch."""
    parser.add_argument(
        "--offline", action="store_true", help="use only the store and vaults; exit 6 if they lack an input"
    )
    parser.add_argument(
        "--vault", metavar="PATH|REF", action="append", default=[], help="look into this vault first; may be repeated"
    )
    parser.add_argument("--jobs", type=_jobs, metavar="N", help="downloads at a time, 1 to 64")


def _jobs(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 64:
        raise argparse.ArgumentTypeError(f"a number from 1 to 64, not {text!r}")
    return int(text)


def add_mount_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--mount", metavar="/INSIDE=PATH", action="append", default=[], help="give a mount another source"
    )


def mounts_given(given: Sequence[str]) -> dict[str, str]:
    """The sources that ``--mount`` names, by mount point. Raises :class:`UsageError`."""
    from reprobox.value_checks import mount_point

    mounts = {}
    for text in given:
        target, equals, source = text.partition("=")
        if not equals or not source or not target.startswith("/"):
            raise UsageError(f"--mount takes /INSIDE=PATH, not {text!r}", hint="such as --mount /dataset=/scratch/data")
        if wrong := mount_point.find(target):
            raise UsageError(wrong.message, where=f"--mount {text}", hint=wrong.hint)
        if target in mounts:
            raise UsageError(f"two sources are given for {target}", where=f"--mount {text}", hint="give one")
        if not os.path.exists(source):
            raise UsageError(
                f"the source of the mount {target} does not exist: {source}",
                where=f"--mount {text}",
                hint="give a folder or a file that is there",
            )
        mounts[target] = source
    return mounts


def add_backend_option(parser: argparse.ArgumentParser, does: str) -> None:
    """``--backend``; left out, it is the one that this user's settings name."""
    chosen = launch.default_backend()
    parser.add_argument("--backend", metavar="NAME", default=chosen, help=f"what {does}; {chosen} if left out")


def add_builder_option(parser: argparse.ArgumentParser) -> None:
    chosen = launch.default_builder()
    help_ = f"the backend that runs build steps; {chosen} if left out"
    parser.add_argument("--builder", metavar="NAME", default=chosen, help=help_)


def add_limit_options(parser: argparse.ArgumentParser) -> None:
    """``--memory``, ``--cpus`` and ``--gpus``."""
    parser.add_argument("--memory", metavar="SIZE", type=_memory, default=0, help="at most this much memory: 8GiB")
    parser.add_argument("--cpus", metavar="N", type=_cpus, default=0, help="at most this many processors: 2 or 1.5")
    parser.add_argument("--gpus", metavar="WHICH", type=_gpus, help="all, none, or which: 0,1 or UUIDs")


def limits(options: argparse.Namespace) -> Limits:
    return Limits(memory=options.memory, cpus=options.cpus)


def _memory(text: str) -> int:
    from reprobox.requirements import size

    found = size(text)
    if found is None or found < 1 << 20:
        raise argparse.ArgumentTypeError(f"a size of at least 1 MiB, such as 8GiB or 512MB, not {text!r}")
    return found


def _cpus(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0
    if not 0.01 <= number <= 65536:
        raise argparse.ArgumentTypeError(f"a number of processors, such as 2 or 1.5, not {text!r}")
    return number


def _gpus(text: str) -> str:
    if text in ("all", "none"):
        return text
    words = text.split(",")
    if not all(word.isdecimal() or re.fullmatch(r"(GPU|MIG)-[0-9A-Za-z/-]+", word) for word in words):
        raise argparse.ArgumentTypeError(f"all, none, or numbers and UUIDs with commas such as 0,1, not {text!r}")
    return ",".join(dict.fromkeys(words))


def add_requires_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--ignore-requires", action="store_true", help="go on where this machine lacks what the target requires"
    )


@contextlib.contextmanager
def writing(path: Path, option: str) -> Iterator[None]:
    """Name the place that has no room or cannot be written: it is seldom the store's. Raises :class:`ReproboxError`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            what = "no space is left on its disk" if error.errno == errno.ENOSPC else "the disk quota there is used up"
            hint = f"make room there, or give {option} another place"
        elif _is_beside(error.filename, path):
            what, hint = f"it cannot be written: {error.strerror}", f"give {option} another place"
        else:
            raise
        raise ReproboxError(what, where=str(path), hint=hint) from None


def _is_beside(name: str | bytes | None, path: Path) -> bool:
    """Whether a file, of which an error tells, is that place or what is staged beside it."""
    return bool(name) and Path(os.fsdecode(name or "")).absolute().is_relative_to(path.absolute().parent)


def check_output(path: Path, option: str) -> None:
    """Refuse, before anything is built, a place where no new file or folder can be made. Raises :class:`UsageError`."""
    if os.path.lexists(path):
        raise UsageError("it exists already", where=str(path), hint=f"give {option} a new name")
    parent = path.absolute().parent
    if not parent.is_dir():
        raise UsageError("its folder does not exist", where=str(path), hint="make the folder first")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UsageError("its folder cannot be written", where=str(path), hint=f"give {option} another place")
