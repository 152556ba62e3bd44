"""``reprobox verify``"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from reprobox import launch
from reprobox.cli import attestations
from reprobox.cli.options import add_network_options
from reprobox.cli.session import open_session
from reprobox.errors import UsageError
from reprobox.resolve import refuse_unavailable
from reprobox.verify.checks import Subject
from reprobox.verify.result import Check, Difference, Divergence, Finding, Verification
from reprobox.verify.verifying import Again, verify

DETAILS = """\
Says whether the lock is of the manifest, and whether what the store and the backends have of it is what the lock says:
every byte of it is read. Without --rebuild nothing is fetched or built. With it, each builder makes every layer again,
from an empty store, and the results are held against the seal, the store and one another. Exit status 3 is a lock that
is stale, 5 bytes that do not match, or a layer that did not come out the same.

examples:
  reprobox verify                    everything that is here
  reprobox verify --target gpu       of this target alone
  reprobox verify --rebuild          build it again, and compare
  reprobox verify --rebuild --builder sandbox --builder docker
  reprobox verify --rebuild --layer python --times 3
  reprobox verify --rebuild --sign   and vouch for the result, with a key of yours
  reprobox verify --attestations     who vouches for this lock"""
_SHOWN = 5  # paths; --json has more
_MOST = 20  # times that anything is built


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target", metavar="NAME", help="only this target")
    parser.add_argument("--rebuild", action="store_true", help="build every layer again, from an empty store")
    chosen = launch.default_builder()
    help_ = f"who builds it again; may be repeated; {chosen} if left out"
    parser.add_argument("--builder", metavar="NAME", action="append", help=help_)
    parser.add_argument("--layer", metavar="NAME", action="append", help="only this layer and what it stands on")
    parser.add_argument("--times", type=_times, metavar="N", default=0, help="how often each builder builds it")
    attestations.add_attestation_options(parser)
    add_network_options(parser)


def execute(options: argparse.Namespace) -> int:
    attestations.check_combination(options)
    if options.attestations is not None:
        return attestations.check(options)
    again = _again(options)
    subject = _subject(options)
    pen = attestations.open_pen(options, subject) if options.sign else None
    found = verify(subject, again, tell=lambda check: _tell(options, check))
    signed = attestations.sign(pen, subject, found) if pen and found.ok else None
    _show(options, found, signed)
    return found.status


def _times(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= _MOST:
        raise argparse.ArgumentTypeError(f"a number from 1 to {_MOST}, not {text!r}")
    return int(text)


def _again(options: argparse.Namespace) -> Again | None:
    """What is to be built again. Raises :class:`UsageError` for options that ask for nothing without --rebuild."""
    if not options.rebuild:
        given = [f"--{name}" for name in ("builder", "layer", "times") if getattr(options, name)]
        if given:
            raise UsageError(f"{given[0]} is about building again", hint="add --rebuild")
        return None
    builders = tuple(dict.fromkeys(options.builder or [launch.default_builder()]))
    options.builder = builders[0]  # the session's own
    return Again(builders=builders, times=options.times, layers=tuple(options.layer or ()))


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


def _show(options: argparse.Namespace, found: Verification, signed: Path | None) -> None:
    if options.json:
        print(json.dumps(document(found) | ({"attestation": str(signed)} if signed else {})))
        return
    sys.stdout.flush()
    for line in (*_lines(found.findings), *(line for item in found.divergences for line in _diverged(item))):
        print(line, file=sys.stderr)
    if found.ok:
        print(f"verified: lock {found.lock}")
    if signed is not None:
        print(f"signed: {signed}")


def _lines(findings: Sequence[Finding]) -> list[str]:
    return [
        f"error: {finding.where}: {finding.message}" + (f"\n  hint: {finding.hint}" if finding.hint else "")
        for finding in findings
    ]


def _diverged(found: Divergence) -> Iterator[str]:
    """A divergence in words."""
    yield f"error: layer {found.layer!r} ({found.kind}) of target {found.target!r} did not come out the same"
    yield f"  {found.one:24} {found.one_digest}"
    yield f"  {found.other:24} {found.other_digest}"
    if found.said:
        yield f"  {found.said}"
    for item in found.differences[:_SHOWN]:
        owner = f"  [{item.package}]" if item.package else ""
        yield f"  {item.path}: {_kind(found, item)}{owner}"
        yield from (f"      {line}" for line in item.text)
    if found.count > _SHOWN:
        yield f"  and {found.count - _SHOWN} more paths"
    yield f"  hint: {found.hint}"


def _kind(found: Divergence, item: Difference) -> str:
    if item.kind == "only in one":
        return f"only {found.one if item.one else found.other} has it ({item.one or item.other})"
    if "content" in item.kind:
        return f"{item.kind}"
    return f"{item.kind}: {item.one} and {item.other}"


def document(found: Verification) -> dict[str, Any]:
    """The result as ``--json`` prints it."""
    return {**asdict(found), "ok": found.ok, "status": found.status}
