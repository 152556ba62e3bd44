"""``reprobox outlook``"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from reprobox.cli.options import add_network_options
from reprobox.cli.report import human
from reprobox.cli.session import open_session
from reprobox.errors import OfflineError, UsageError
from reprobox.freshness import ensure_fresh
from reprobox.lock import Lock
from reprobox.manifest import Manifest
from reprobox.outlook.findings import Finding, Verdict, judge
from reprobox.outlook.fix import Fixed, Wish, fix, vault_place
from reprobox.outlook.grade import GRADES
from reprobox.outlook.look import Looked, LookedLayer, Outlook, look
from reprobox.project import Project
from reprobox.session import Session
from reprobox.vault.contents import not_kept
from reprobox.vault.remote import is_registry

DETAILS = f"""\
Asks every place that may have an input of the lock whether it still has it, without downloading anything; says which
have one supplier or none, and which are known to vanish and when; and grades the lock by its worst input:

{chr(10).join(f"  {letter}  {meaning}" for letter, meaning in GRADES.items())}

exit status: 0; 6 if an input is lost already; 1 if --fail-below says so.

examples:
  reprobox outlook                        what is known today
  reprobox outlook --all                  every input, and who has it
  reprobox outlook --fix                  keep a vault, and name it and the mirrors found in the settings
  reprobox outlook --fail-below C -q      in CI, every month"""
_NAMED = 5


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target", metavar="NAME", help="only this target")
    parser.add_argument(
        "--fix",
        action="store_true",
        help="keep a vault (the first --vault, else that of the settings, else a new one), and name it and the mirrors"
        " that were found in the settings",
    )
    parser.add_argument("--without-reprobox", action="store_true", help="do not keep reprobox itself in the vault")
    parser.add_argument("--all", action="store_true", help="show every input, and who has it")
    parser.add_argument("--fresh", action="store_true", help="ask again what was answered within the last hour")
    parser.add_argument(
        "--thorough", action="store_true", help="ask for everything also where one is to ask over one connection"
    )
    parser.add_argument(
        "--fail-below", metavar="GRADE", type=_grade, help="exit 1 if the grade is worse than this: A to F"
    )
    add_network_options(parser)


def _grade(text: str) -> str:
    if text.upper() not in GRADES:
        raise argparse.ArgumentTypeError(f"a grade from A to F, not {text!r}")
    return text.upper()


def execute(options: argparse.Namespace) -> int:
    _check(options)
    there = [text for text in options.vault if is_registry(text) or not options.fix or Path(text).exists()]
    session, project = open_session(argparse.Namespace(**{**vars(options), "vault": there}))
    manifest = project.manifest(session.plugins.kinds)
    lock = _lock(session, project, manifest, options.target)
    outlook = look(session, manifest, lock, target=options.target, thorough=options.thorough, fresh=options.fresh)
    verdict = _judged(outlook, manifest, lock)
    fixed: dict[str, Any] = {}
    if options.fix:
        wish = Wish(place=vault_place(session, options.vault), tools=not options.without_reprobox)
        done = fix(session, project, manifest, lock, outlook, verdict.lost, wish)
        fixed = {"fixed": _fixed_document(done, verdict)}
        _tell_fixed(options, done, verdict)
        outlook = look(session, manifest, lock, target=options.target, thorough=options.thorough)
        verdict = _judged(outlook, manifest, lock)
    if options.json:
        print(json.dumps(_document(outlook, verdict) | fixed))
    else:
        _show(outlook, verdict, everything=options.all)
    return _status(verdict, options.fail_below)


def _check(options: argparse.Namespace) -> None:
    if options.fix and options.target is not None:
        raise UsageError("--fix keeps all targets", where="--target", hint="leave one of the two out")


def _lock(session: Session, project: Project, manifest: Manifest, target: str | None) -> Lock:
    """The lock, which must be of this manifest."""
    lock = project.lock(session.store)
    if target is not None and target not in lock.targets:
        raise UsageError(
            f"there is no target {target!r}", where="--target", hint=f"there are {', '.join(sorted(lock.targets))}"
        )
    for name in manifest.targets if target is None else (target,):
        ensure_fresh(session, manifest, lock, str(project.lock_path), name if len(manifest.targets) > 1 else None)
    return lock


def _judged(outlook: Outlook, manifest: Manifest, lock: Lock) -> Verdict:
    return judge(outlook, dict(not_kept(manifest, lock)), manifest.private_layers())


def _status(verdict: Verdict, least: str | None) -> int:
    if verdict.lost:
        return OfflineError.status
    return 1 if least is not None and verdict.grade > least else 0


# -- mending -----------------------------------------------------------------------------------------------------------


def _tell_fixed(options: argparse.Namespace, done: Fixed, before: Verdict) -> None:
    say = options.reporter.say
    say(f"it was grade {before.grade}")
    say(f"kept {done.report.inputs} inputs in {done.vault}: {human(done.report.written.added_size)} new")
    for name, reason in done.report.closed.items():
        say(f"perhaps not to be passed on: {name}: {reason}")
    for text in done.vaults:
        say(f"{done.settings}: vaults has {text}")
    for name, uris in done.archives.items():
        for uri in uris:
            say(f"{done.settings}: [archives] {name} has {uri}")
    if not is_registry(done.vault):
        say("one copy is no archive: put another one on another machine")


def _fixed_document(done: Fixed, before: Verdict) -> dict[str, Any]:
    return {
        "before": before.grade,
        "vault": done.vault,
        "inputs": done.report.inputs,
        "added_size": done.report.written.added_size,
        "left_out": dict(done.report.kept.left_out),
        "settings": str(done.settings),
        "vaults": list(done.vaults),
        "archives": {name: list(uris) for name, uris in done.archives.items()},
    }


# -- for people --------------------------------------------------------------------------------------------------------


def _show(outlook: Outlook, verdict: Verdict, *, everything: bool) -> None:
    print(f"grade {verdict.grade}: {verdict.reason}")
    if verdict.grades:
        print(f"inputs: {', '.join(f'{count} {name}' for name, count in verdict.grades.items())}")
    for line in _table(outlook.layers):
        print(line)
    if everything:
        for line in _every(outlook):
            print(line)
    for finding in verdict.findings:
        print()
        for line in _told(finding):
            print(line)


def _table(layers: Sequence[LookedLayer]) -> Iterator[str]:
    head = ("layer", "inputs", "in a vault", "one supplier", "none", "grade")
    rows: list[tuple[str, ...]] = [head]
    targets = dict.fromkeys(layer.target for layer in layers)
    for target in targets:
        for layer in layers:
            if layer.target == target and layer.inputs:
                name = layer.layer.name if len(targets) == 1 else f"{target}/{layer.layer.name}"
                rows.append((name, *map(str, _counts(layer)), layer.grade + (" (built)" if layer.built else "")))
    if len(rows) == 1:
        return
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    yield ""
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        yield "  ".join(cells).rstrip()


def _counts(layer: LookedLayer) -> tuple[int, int, int, int]:
    """Inputs, and those of them that are in a vault, have one supplier, have none."""
    kept = sum(item.grade == "A" for item in layer.inputs)
    single = sum(item.grade != "A" and len(item.suppliers) == 1 for item in layer.inputs)
    none = sum(not item.suppliers for item in layer.inputs)
    return len(layer.inputs), kept, single, none


def _every(outlook: Outlook) -> Iterator[str]:
    for layer in outlook.layers:
        if layer.inputs:
            yield ""
            yield f"{layer.target}/{layer.layer.name}"
        for item in layer.inputs:
            yield f"  {item.grade}  {item.item.name}"
            for standing in item.standings:
                supplier = standing.supplier
                until = f", until {standing.until}" if standing.until else ""
                said = f": {supplier.said}" if supplier.said else ""
                yield f"       {supplier.state:8} {supplier.place}{until}{said}"


def _told(finding: Finding) -> Iterator[str]:
    count = f" ({len(finding.inputs)})" if finding.inputs else ""
    yield f"{finding.kind}{count}: {finding.message}"
    names = [item.name for item in finding.inputs[:_NAMED]]
    if names:
        more = f" and {len(finding.inputs) - _NAMED} more" if len(finding.inputs) > _NAMED else ""
        yield f"  {', '.join(names)}{more}"
    for said in finding.said:
        yield f"  {said}"
    yield f"  do: {finding.do}"


# -- for programs ------------------------------------------------------------------------------------------------------


def _document(outlook: Outlook, verdict: Verdict) -> dict[str, Any]:
    return {
        "grade": verdict.grade,
        "reason": verdict.reason,
        "date": outlook.today.isoformat(),
        "offline": outlook.offline,
        "asked": outlook.asked,
        "grades": dict(verdict.grades),
        "layers": [_layer_document(layer) for layer in outlook.layers],
        "findings": [_finding_document(finding) for finding in verdict.findings],
    }


def _layer_document(layer: LookedLayer) -> dict[str, Any]:
    tag = {"tag": {"name": layer.tag.reference, "state": layer.tag.state, "said": layer.tag.said}} if layer.tag else {}
    return {
        "target": layer.target,
        "name": layer.layer.name,
        "kind": layer.layer.kind,
        "grade": layer.grade,
        "built": layer.built,
        **tag,
        "inputs": [_input_document(item) for item in layer.inputs],
    }


def _input_document(item: Looked) -> dict[str, Any]:
    return {
        "name": item.item.name,
        "type": item.item.type,
        "sha256": item.item.sha256,
        "size": item.item.size,
        "grade": item.grade,
        **({"yanked": item.yanked} if item.yanked else {}),
        "suppliers": [
            {
                "kind": standing.supplier.kind,
                "place": standing.supplier.place,
                "authority": standing.supplier.authority,
                "state": standing.supplier.state,
                "said": standing.supplier.said,
                "rules": [term.rule.id for term in standing.terms],
                "until": standing.until.isoformat() if standing.until else None,
            }
            for standing in item.standings
        ],
    }


def _finding_document(finding: Finding) -> dict[str, Any]:
    return {
        "kind": finding.kind,
        "level": finding.level,
        "message": finding.message,
        "do": finding.do,
        "layers": list(finding.layers),
        "inputs": [{"name": item.name, "sha256": item.sha256} for item in finding.inputs],
        "until": finding.until.isoformat() if finding.until else None,
        "rule": finding.rule or None,
        "said": list(finding.said),
    }
