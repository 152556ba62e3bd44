"""The command line: one module per verb; the only code that prints or exits."""

from __future__ import annotations

import sys

#: More values than Python's 700: a command makes many that are small and live until it ends, with little to collect.
_COLLECTED_AFTER = 50_000


def main(arguments: list[str] | None = None) -> int:
    """Entry point of ``reprobox``; returns the exit status. A current ``run`` takes the fast path and never returns."""
    try:
        return _main(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        import signal

        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C changes nothing
        print("interrupted; what was fetched and built is kept", file=sys.stderr)
        return 130


def _main(given: list[str]) -> int:
    if given[:1] in (["run"], ["shell"]):
        from reprobox.cli import fast

        try:
            status = fast.run(given)
        except Exception as error:
            from reprobox.errors import ReproboxError

            if not isinstance(error, ReproboxError):
                raise
            from reprobox.cli.app import fail

            return fail(error)
        if status is not None:
            return status
    import gc

    from reprobox.cli.app import dispatch

    gc.set_threshold(_COLLECTED_AFTER)
    return dispatch(given)
