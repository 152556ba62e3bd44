"""What is wrong with a file that a base is in, told at the key of the manifest that names it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from reprobox.errors import FetchError, ManifestError, PlatformError, Problem
from reprobox.layers.kind import ResolveRequest


def problem(request: ResolveRequest, name: str, message: str, hint: str) -> Problem:
    """A problem at the key ``name`` of the base, be it a target's own or the one of all."""
    target = request.key.removeprefix("targets.").removesuffix(".base")
    path = ("base",) if request.key == "base" else ("targets", target, "base")
    return request.manifest.problem((*path, name), message, hint)


@contextmanager
def told_at(request: ResolveRequest, name: str) -> Iterator[None]:
    """Tell of what cannot be used as a problem of the key ``name``. That it is for another platform, others tell."""
    try:
        yield
    except PlatformError:
        raise
    except FetchError as error:
        raise ManifestError([problem(request, name, f"{error.where}: {error.message}", error.hint or "")]) from None
