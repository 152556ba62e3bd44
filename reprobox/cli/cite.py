"""``reprobox cite``"""

from __future__ import annotations

import argparse
import json
import secrets
from pathlib import Path
from typing import Any

from reprobox import cite
from reprobox.cli.session import open_session
from reprobox.digest import prefixed, sha256
from reprobox.errors import LockError, UsageError
from reprobox.freshness import ensure_fresh
from reprobox.lock import Lock
from reprobox.manifest import Manifest
from reprobox.project import Project
from reprobox.session import Session

DETAILS = """\
A paragraph for the methods section and a reference, from what manifest and lock say. The badge says which lock it is,
and what is true of it: locked, sealed, and how many keys that you believe vouch for it (in research.attestations).

examples:
  reprobox cite
  reprobox cite --format latex >> methods.tex
  reprobox cite --format bibtex >> references.bib
  reprobox cite --badge badge.svg"""
BIBTEX = "bibtex"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--format",
        choices=(*cite.FORMATS, BIBTEX),
        default="text",
        help="the paragraph and the reference in this language; `bibtex` is the entry for a bibliography",
    )
    parser.add_argument("--badge", metavar="FILE", type=Path, help="write the badge there, as SVG, and nothing else")
    parser.add_argument("--target", metavar="NAME", help="the target that it is about; the first if left out")


def execute(options: argparse.Namespace) -> int:
    session, project = open_session(options)
    citation = _citation(session, project, options.target)
    if options.badge:
        _write(options.badge, cite.badge(citation))
    if options.json:
        print(json.dumps(_document(citation, options)))
    elif options.badge:
        print(f"wrote {options.badge} ({', '.join(_standing(citation))})")
    else:
        print(_text(citation, options.format))
    return 0


def _citation(session: Session, project: Project, target: str | None) -> cite.Citation:
    manifest = project.manifest(session.plugins.kinds)
    lock = project.lock(session.store)
    name = _target(session, manifest, lock, target, str(project.lock_path))
    if not manifest.project.authors:
        session.reporter.say("nobody is named as author: add `authors` to [project] of the manifest")
    ensure_fresh(session, manifest, lock, str(project.lock_path))
    digest = sha256(project.lock_text().encode())
    return cite.citation_of(manifest, lock, name, digest=digest, keys=_keys(session, project, lock, digest))


def _target(session: Session, manifest: Manifest, lock: Lock, target: str | None, where: str) -> str:
    """The target that the paragraph is about: the first, unless one is named. The badge is about all of them."""
    names = [name for name in manifest.targets if name in lock.targets]
    if target is None and len(manifest.targets) > 1 and names:
        session.reporter.say(f"the paragraph is about the target {names[0]}; --target names another")
        return names[0]
    name = next(iter(manifest.select(target).targets))
    if name not in lock.targets:
        raise LockError(f"it has no target {name!r}", where=where, hint=f"run `reprobox lock --target {name}`")
    return name


def _keys(session: Session, project: Project, lock: Lock, digest: str) -> int:
    """How many of the keys that are believed here vouch for every target. What does not hold is told, not counted."""
    from reprobox.attestation.check import check_attestations
    from reprobox.attestation.folder import FOLDER, attestations_in
    from reprobox.attestation.keys import open_keyring

    folder = project.root / FOLDER
    if not folder.is_dir():
        return 0
    report = check_attestations(attestations_in([folder]), digest, lock, open_keyring().believed())
    for item in report.findings:
        if item.state != "valid":
            session.reporter.say(f"warning: {FOLDER}/{Path(item.file).name} does not count: {item.message}")
    return min(len(report.keys_of(name)) for name in lock.targets)


def _text(citation: cite.Citation, form: str) -> str:
    if form == BIBTEX:
        return cite.bibtex(citation)
    return f"{cite.paragraph(citation, form)}\n\n{cite.reference(citation, form)}"


def _standing(citation: cite.Citation) -> tuple[str, ...]:
    return cite.standing(citation.sealed, citation.targets, citation.keys, pinned=citation.pinned)


def _document(citation: cite.Citation, options: argparse.Namespace) -> dict[str, Any]:
    return {
        "target": citation.target,
        "lock": prefixed(citation.lock),
        "standing": list(_standing(citation)),
        "keys": citation.keys,
        "key": cite.key(citation),
        "paragraph": {form: cite.paragraph(citation, form) for form in cite.FORMATS},
        "reference": {form: cite.reference(citation, form) for form in cite.FORMATS},
        "bibtex": cite.bibtex(citation),
        "badge": str(options.badge) if options.badge else None,
    }


def _write(path: Path, text: str) -> None:
    """Whoever reads the file sees the old badge or the new one."""
    hint = "give --badge a file in a folder that is there"
    if not path.name:
        raise UsageError("it is no name of a file", where=f"--badge {path}", hint=hint)
    staged = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        try:
            staged.write_text(text, encoding="utf-8")
            staged.replace(path)
        finally:
            staged.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"it cannot be written: {error.strerror}", where=str(path), hint=hint) from None
