"""``reprobox verify``"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from reprobox.cli.options import add_network_options
from reprobox.cli.session import open_session
from reprobox.resolve import refuse_unavailable
from reprobox.verify.checks import Subject
from reprobox.verify.result import Check, Finding, Verification
from reprobox.verify.verifying import verify

DETAILS = """\
Says whether the lock is of the manifest, and whether what the store and the backends have of it is what the lock says:
every byte of it is read. Nothing is fetched or built. Exit status 3 is a lock that is stale, 5 bytes that do not match.

examples:
  reprobox verify                    everything that is here
  reprobox verify --target gpu       of this target alone"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target", metavar="NAME", help="only this target")
    add_network_options(parser)


def execute(options: argparse.Namespace) -> int:
    found = verify(_subject(options), tell=lambda check: _tell(options, check))
    _show(options, found)
    return found.status


def _subject(options: argparse.Namespace) -> Subject:
    session, project = open_session(options)
    manifest = project.manifest(session.plugins.kinds)
    refuse_unavailable(manifest)
    session.manifest = manifest
    names = manifest.select(options.target).targets if options.target else manifest.targets
    return Subject.of(session, project, manifest, names)


def _tell(options: argparse.Namespace, check: Check) -> None:
    """A line of the report as soon as it is known."""
    if not options.json:
        mark = {True: "ok", False: "WRONG", None: "-"}[check.ok]
        print(f"{check.name:13} {mark:6} {check.said}", flush=True)


def _show(options: argparse.Namespace, found: Verification) -> None:
    if options.json:
        print(json.dumps(document(found)))
        return
    sys.stdout.flush()
    for line in _lines(found.findings):
        print(line, file=sys.stderr)
    if found.ok:
        print(f"verified: lock {found.lock}")


def _lines(findings: Sequence[Finding]) -> list[str]:
    return [
        f"error: {finding.where}: {finding.message}" + (f"\n  hint: {finding.hint}" if finding.hint else "")
        for finding in findings
    ]


def document(found: Verification) -> dict[str, Any]:
    """The result as ``--json`` prints it."""
    return {**asdict(found), "ok": found.ok, "status": found.status}
