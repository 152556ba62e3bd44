"""``reprobox verify --sign`` and ``--attestations``: vouching for a lock, and who does."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reprobox import config
from reprobox.attestation.check import Finding, Report, check_attestations
from reprobox.attestation.folder import FOLDER, attestations_in, vouch
from reprobox.attestation.keys import PublicKey, open_keyring, read_key
from reprobox.cli.key import passphrase
from reprobox.cli.session import open_store
from reprobox.digest import prefixed, sha256
from reprobox.errors import IntegrityError, ReproboxError, UsageError
from reprobox.lock import Lock
from reprobox.project import Project, read_lock
from reprobox.verify.checks import Subject
from reprobox.verify.result import Verification
from reprobox.verify.vouching import check_sealed, statement_of

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner

_SHOWN = 20


def add_attestation_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sign", action="store_true", help="with --rebuild: vouch for the result with your key")
    parser.add_argument("--key", metavar="NAME", default="", help="the key of yours that signs, where you have several")
    parser.add_argument(
        "--attestations",
        metavar="PATH",
        type=Path,
        nargs="*",
        help=f"only say who vouches for this lock: files and folders, {FOLDER} if none is given",
    )
    parser.add_argument(
        "--trust", metavar="FILE", type=Path, action="append", default=[], help="believe this public key this once"
    )
    parser.add_argument(
        "--threshold", metavar="N", type=_number, default=1, help="how many keys must vouch; 1 if left out"
    )


def _number(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1000:
        raise argparse.ArgumentTypeError(f"a number from 1 to 1000, not {text!r}")
    return int(text)


def check_combination(options: argparse.Namespace) -> None:
    """Raise :class:`UsageError` for options that ask for nothing together."""
    if options.attestations is not None and (options.rebuild or options.sign):
        raise UsageError("--attestations builds nothing and signs nothing", hint="give it alone, in a second command")
    if options.sign and not options.rebuild:
        raise UsageError("only what was built again can be vouched for", where="--sign", hint="add --rebuild")
    if options.sign and options.layer:
        hint = "leave out --layer: people vouch for all layers together"
        raise UsageError("only some layers would be built again", where="--sign", hint=hint)
    if options.key and not options.sign:
        raise UsageError("--key says which key signs", hint="add --sign")
    if options.attestations is None and (options.trust or options.threshold != 1):
        what = "--trust" if options.trust else "--threshold"
        raise UsageError(f"{what} is about attestations", hint="add --attestations")


# -- vouching ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Pen:
    """What signs: a key of the user, opened before the work begins, so that nothing is asked for when it is done."""

    key: PublicKey
    signer: CryptoSigner


def open_pen(options: argparse.Namespace, subject: Subject) -> Pen:
    """The key that signs. Raises where there is none, or nothing to sign."""
    check_sealed(subject.targets, str(subject.project.lock_path))
    keyring = open_keyring()
    key = keyring.chosen(options.key)
    return Pen(key=key, signer=keyring.signer(key.name, passphrase(keyring, key.name)))


def sign(pen: Pen, subject: Subject, found: Verification) -> Path:
    """Vouch for what was found. Returns the file."""
    return vouch(subject.project.root, statement_of(found, subject.project, subject.lock), pen.key, pen.signer)


# -- who vouches -------------------------------------------------------------------------------------------------------


def check(options: argparse.Namespace) -> int:
    """Show who vouches for the lock. Raises :class:`IntegrityError` where that is not enough, or something is wrong."""
    project = Project.find(Path(options.project))
    given = options.attestations or [project.root / FOLDER]
    if not options.attestations and not given[0].is_dir():
        raise _nobody(str(given[0]))
    keys = {key.id: key for key in map(read_key, options.trust)} | open_keyring().believed()
    data = project.lock_text().encode()
    lock = read_lock(data, open_store(config.load(), options.reporter.say), str(project.lock_path))
    targets = _targets(options, lock)
    report = check_attestations(attestations_in(given), sha256(data), lock, keys)
    if not report.findings:
        raise _nobody(str(given[0]))
    _show(options, report, targets)
    problem = _problem(report, targets, options.threshold, str(project.lock_path))
    if problem is not None and not options.json:
        raise problem
    return problem.status if problem else 0


def _targets(options: argparse.Namespace, lock: Lock) -> tuple[str, ...]:
    """The targets that somebody must vouch for: the one that is asked for, or all."""
    if options.target is not None and options.target not in lock.targets:
        hint = f"there are {', '.join(sorted(lock.targets))}"
        raise UsageError(f"there is no target {options.target!r}", where="--target", hint=hint)
    return (options.target,) if options.target is not None else tuple(lock.targets)


def _nobody(where: str) -> ReproboxError:
    hint = "vouch for it yourself with `reprobox verify --rebuild --sign`, or give the files that others sent"
    return ReproboxError("there are no attestations of this lock", where=where, hint=hint)


def _problem(report: Report, targets: Sequence[str], threshold: int, where: str) -> IntegrityError | None:
    if report.wrong:
        more = f"\n  and {len(report.wrong) - _SHOWN} more" if len(report.wrong) > _SHOWN else ""
        listed = "".join(f"\n  {item.file}: {item.message}" for item in report.wrong[:_SHOWN])
        hint = "take these files away, or get others from those who signed them"
        return IntegrityError(f"not every attestation holds:{listed}{more}", where=where, hint=hint)
    lacking = next((name for name in targets if len(report.keys_of(name)) < threshold), None)
    if lacking is None:
        return None
    keys = report.keys_of(lacking)
    count = f"{len(keys)} of the keys that you believe" if keys else "no key that you believe"
    whole = len(report.keys) < threshold
    what = "this lock" if whole else f"target {lacking!r} of this lock"
    asked = f", and {threshold} are asked for" if threshold > 1 else ""
    hint = "believe a key whose owner you asked for its id: `reprobox key trust FILE`"
    hint += "" if whole else "; --target asks about one target alone"
    return IntegrityError(f"{count} vouches for {what}{asked}", where=where, hint=hint)


def _show(options: argparse.Namespace, report: Report, targets: Sequence[str]) -> None:
    if options.json:
        vouching = {name: list(report.keys_of(name)) for name in targets}
        print(json.dumps(document(report) | {"targets": vouching}))
        return
    for item in report.findings:
        print(f"{item.state:14} {Path(item.file).name}")
        for line in _lines(item):
            print(f"{'':14} {line}")
    names = ", ".join(dict.fromkeys(item.key.name for item in report.valid if item.key))
    count = len(report.keys)
    if count:
        print(f"{count} key{'s vouch' if count > 1 else ' vouches'} for the lock {prefixed(report.lock)}: {names}")
    if any(report.keys_of(name) != report.keys for name in targets):
        for name in targets:
            print(f"  {len(report.keys_of(name))} of them for target {name}")


def _lines(item: Finding) -> Iterator[str]:
    yield item.message
    if item.statement is None or item.state not in ("valid", "unknown key"):
        return
    says = "" if item.state == "valid" else "it claims: "
    for outcome in item.statement.outcomes:
        yield f"{says}target {outcome.target} ({outcome.platform}) built again with {', '.join(outcome.builders)}"
    version = item.statement.versions.get("reprobox", "of no known version")
    yield f"{says}{item.statement.finished[:10]}, reprobox {version}, {item.statement.inputs} inputs"


def document(report: Report) -> dict[str, Any]:
    """The report as ``--json`` prints it."""
    return {
        "lock": prefixed(report.lock),
        "keys": [
            {"name": item.key.name, "id": item.keyid}
            for item in {item.keyid: item for item in report.valid}.values()
            if item.key
        ],
        "attestations": [_finding(item) for item in report.findings],
    }


def _finding(item: Finding) -> dict[str, Any]:
    found: dict[str, Any] = {"file": item.file, "state": item.state, "message": item.message, "key": item.keyid}
    found["name"] = item.key.name if item.key else ""
    if item.statement is not None:
        found["says"] = {
            "lock": prefixed(item.statement.lock),
            "finished": item.statement.finished,
            "versions": dict(item.statement.versions),
            "targets": [
                {
                    "target": outcome.target,
                    "platform": outcome.platform,
                    "builders": list(outcome.builders),
                    "image_digest": prefixed(outcome.image),
                    "tree_digest": prefixed(outcome.tree),
                }
                for outcome in item.statement.outcomes
            ],
        }
    return found
