"""``reprobox plugins``"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

from reprobox.backend import Availability, Backend
from reprobox.guarded import PATIENCE, bounded_probe
from reprobox.plugins import Installed, Plugins

DETAILS = """\
Each backend is tried, all at once, and has half a minute to answer. A plugin that cannot be used is told with the
reason, and left out; of two that claim one name, neither is used.

examples:
  reprobox plugins
  reprobox plugins --no-probe           only what they say of themselves
  reprobox plugins --json"""


_SOON = 5.0  # seconds after which somebody who waits is told for whom


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-probe", action="store_true", help="do not try whether they work here")


def execute(options: argparse.Namespace) -> int:
    plugins = Plugins()
    works = {} if options.no_probe else probed(plugins.backends, options.reporter.say)
    if options.json:
        print(json.dumps([_document(item, works) for item in plugins.installed]))
        return 0
    for item in plugins.installed:
        print(f"{item.name} {item.version}".rstrip() + f" (from {item.origin})")
        for line in _lines(item, works):
            print(f"  {line}")
    return 0


def probed(backends: Mapping[str, Backend], say: Callable[[str], None]) -> dict[str, Availability]:
    """What each backend says of this machine, asked side by side; ``say`` hears of those that take long."""
    with ThreadPoolExecutor(max_workers=16) as pool:
        asked = {name: pool.submit(bounded_probe, item, f"the backend {name!r}") for name, item in backends.items()}
        wait(asked.values(), timeout=_SOON)
        late = [name for name, answer in asked.items() if not answer.done()]
        if late:
            say(f"waiting for {', '.join(late)}, up to {PATIENCE:g} s")
        found = {name: answer.result() for name, answer in asked.items()}
    for backend in backends.values():
        close = getattr(backend, "close", None)  # of a connection, where it has one
        if close is not None:
            close()
    return found


def _document(item: Installed, works: Mapping[str, Availability]) -> dict[str, Any]:
    told = {name: dataclasses.asdict(works[name]) for name in item.backends if name in works}
    return {**dataclasses.asdict(item), **({"works": told} if works else {})}


def _lines(item: Installed, works: Mapping[str, Availability]) -> list[str]:
    lines = [f"cannot be used: {item.problem}"] if item.problem else []
    for name in item.backends:
        found = works.get(name)
        if found is None:
            lines.append(f"backend {name}")
        elif found.ok:
            lines.append(f"backend {name}: works here")
        else:
            lines += [f"backend {name}: does not work here: {found.reason}", f"  hint: {found.hint}"]
    if item.kinds:
        lines.append(f"layer kinds: {', '.join(item.kinds)}")
    if item.more:
        lines.append(f"also: {', '.join(item.more)}")
    return lines
