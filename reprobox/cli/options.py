"""Options that several verbs share."""

from __future__ import annotations

import argparse

DEFAULT_BACKEND = "sandbox"


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """``--offline`` and ``--jobs``, for verbs that may fetch."""
    parser.add_argument("--offline", action="store_true", help="use nothing but the store; exit 6 if it lacks an input")
    parser.add_argument("--jobs", type=_jobs, metavar="N", help="downloads at a time, 1 to 64")


def _jobs(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 64:
        raise argparse.ArgumentTypeError(f"a number from 1 to 64, not {text!r}")
    return int(text)


def add_builder_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--builder", metavar="NAME", default=DEFAULT_BACKEND, help="the backend that runs build steps")
