"""Before ``realize`` and ``run``: does this machine have what the target requires?"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from reprobox import launch, survey, tables
from reprobox.errors import HostError, ReproboxError
from reprobox.manifest import Manifest, Target
from reprobox.requirements import check, facts, problems
from reprobox.store import Store

#: Set to 1, it is --ignore-requires.
VARIABLE = "REPROBOX_IGNORE_REQUIRES"


def check_requires(
    options: argparse.Namespace, manifest: Manifest, store: Store, places: Sequence[tuple[str, Path]]
) -> None:
    """Look at this machine for the one target of ``manifest``; ``places`` are those that will be written to.

    Raises :class:`HostError` with everything that is lacking; where that is to be ignored, it is a warning.
    """
    ((name, target),) = manifest.targets.items()
    host = survey.look(facts(target.requires), places if target.requires.disk else ())
    lacking = problems(manifest, name, check(target.platform, target.requires, host))
    if not lacking:
        _remember(store, target)
    elif not (options.ignore_requires or os.environ.get(VARIABLE, "0") not in ("", "0")):
        raise HostError(lacking)
    for problem in lacking:
        print(f"warning: {problem}", file=sys.stderr)


def _remember(store: Store, target: Target) -> None:
    """For the next runs on this machine, which take the quick way."""
    asked = tables.document(target.requires)
    if not asked:
        return
    state = launch.machine_state()
    does = launch.known(str(store.root)) | {json.dumps(asked): time.time()}
    path = Path(launch.verdicts_path(str(store.root), state))
    with contextlib.suppress(OSError, ReproboxError):  # a store that may not be written
        store.remember(path.parent.name, path.name, json.dumps({"machine": state, "does": does}).encode())
        _forget(path.parent)


def _forget(folder: Path) -> None:
    """Drop what no longer holds: every job is another state."""
    for path in folder.iterdir():
        if time.time() - path.stat().st_mtime > launch.HOLDS:
            path.unlink(missing_ok=True)
