"""``reprobox doctor``"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
from typing import Any

from reprobox import __version__, config
from reprobox.cli.report import human
from reprobox.engine import staged
from reprobox.plugins import Plugins
from reprobox.store import Store

DETAILS = """\
Exit status 4 if no backend works here.

examples:
  reprobox doctor
  reprobox doctor --json"""


def configure(parser: argparse.ArgumentParser) -> None:  # noqa: ARG001 - no options of its own
    return


def execute(options: argparse.Namespace) -> int:
    settings = config.load()
    store = Store(settings.store)
    backends = {name: staged(item, store).probe() for name, item in Plugins().backends.items()}
    free = shutil.disk_usage(store.root).free
    document: dict[str, Any] = {
        "reprobox": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "store": {"path": str(store.root), "free": free},
        "configuration": str(settings.path) if settings.path else None,
        "backends": {
            name: {"ok": found.ok, "reason": found.reason, "hint": found.hint, "details": dict(found.details)}
            for name, found in backends.items()
        },
    }
    works = any(found.ok for found in backends.values())
    if options.json:
        print(json.dumps(document))
        return 0 if works else 4
    print(f"reprobox {__version__}, Python {document['python']}, {document['system']}, {document['cpus']} CPUs")
    print(f"store {store.root}: {human(free)} free")
    print(f"configuration {document['configuration'] or 'none'}")
    for name, found in backends.items():
        print(f"backend {name}: {'works' if found.ok else f'does not work: {found.reason}'}")
        for link, state in found.details.items():
            print(f"  {link}: {state}")
        if found.hint:
            print(f"  hint: {found.hint}")
        if found.ok and found.details.get("overlay", "yes") != "yes":
            print("  without overlay, layers are copied: slower, and the same bytes")
    sys.stdout.flush()
    return 0 if works else 4
