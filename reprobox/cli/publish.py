"""``reprobox publish``"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from reprobox.cli.options import add_builder_option, add_network_options, writing
from reprobox.cli.report import human
from reprobox.cli.session import open_session
from reprobox.crate_files import IMAGES, VAULT
from reprobox.errors import UsageError
from reprobox.freshness import ensure_fresh
from reprobox.lock import Lock
from reprobox.manifest import Manifest
from reprobox.project import Project
from reprobox.publish.checklist import BADGES
from reprobox.publish.contents import Choice, Publication, assemble, check_publishable
from reprobox.publish.description import check_described, undescribed
from reprobox.publish.place import check_place, staged
from reprobox.resolve import refuse_unavailable
from reprobox.session import Session

DETAILS = """\
Writes a research object, a folder or one file where the name ends in .zip: manifest, lock and code, an RO-Crate's
metadata, CITATION.cff, codemeta.json, and a README that tells readers how to recreate the environment.
The same lock gives the same bytes. The lock must be fresh, and the code must be what it pins.

examples:
  reprobox publish --dry-run                      what would go in, and what badges still ask for
  reprobox publish -o ../xor-crate                as a folder
  reprobox publish -o ../xor.zip --with-image     with the finished images, for Docker and Apptainer
  reprobox publish -o ../xor.zip --with-vault     with everything that the environment is made of
  reprobox publish -o ../xor.zip --with-data      with the data that mounts read"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o", "--output", metavar="DIR|ZIP", type=Path, help="where to write it; an older one is replaced"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="write nothing; list what would go in, and what is missing"
    )
    parser.add_argument("--with-data", action="store_true", help="put in the data of mounts that lies in the project")
    parser.add_argument("--with-vault", action="store_true", help="put in every input of the environment")
    parser.add_argument("--with-image", action="store_true", help="put in the finished image of every target")
    add_builder_option(parser)
    add_network_options(parser)


def execute(options: argparse.Namespace) -> int:
    if options.output is None and not options.dry_run:
        raise UsageError("there is no place to write to", hint="add -o DIR, -o NAME.zip, or --dry-run")
    choice = Choice(data=options.with_data, vault=options.with_vault, images=options.with_image)
    session, project = open_session(options)
    manifest = project.manifest(session.plugins.kinds)
    refuse_unavailable(manifest)
    if not options.dry_run:
        check_described(manifest)
        _check_outside_code(project, manifest, options.output)
        check_place(options.output)
    lock = project.lock(session.store)
    for name in manifest.targets:
        ensure_fresh(session, manifest, lock, str(project.lock_path), name if len(manifest.targets) > 1 else None)
    check_publishable(session, project, manifest, lock, choice)
    if options.dry_run:
        return _tell_plan(session, project, manifest, lock, choice, options)
    with writing(options.output, "-o"), staged(options.output) as folder:
        publication = assemble(session, project, manifest, lock, choice, folder)
    _tell(publication, options)
    return 0


def _check_outside_code(project: Project, manifest: Manifest, output: Path) -> None:
    """What is published must not become code that is published."""
    code = (project.root / manifest.code.path).resolve()
    if manifest.code.git is None and code in (output.absolute().parent.resolve() / output.name).parents:
        hint = f"give -o a place outside {code}, such as {code.parent / f'{manifest.project.name}-crate'}"
        raise UsageError("it would be part of the code that it publishes", where=str(output), hint=hint)


# -- what is told ------------------------------------------------------------------------------------------------------


def _tell(publication: Publication, options: argparse.Namespace) -> None:
    if options.json:
        print(json.dumps({"publication": str(options.output), **_document(publication)}))
        return
    print(f"wrote {options.output}: {len(publication.files)} files, {human(_size(publication))}")
    print(f"lock    sha256:{publication.lock_digest}")
    _tell_left_out(publication, options.with_vault or options.with_image)
    unmet = [item for item in publication.items if not item.met]
    if unmet:
        print(f"badges  {len(unmet)} things are still missing: `reprobox publish --dry-run` lists them")


def _tell_left_out(publication: Publication, handed_on: bool) -> None:  # noqa: FBT001 - named by its caller
    for name, reason in sorted(publication.closed.items() if handed_on else ()):
        print(f"perhaps not to be passed on: {name}: {reason}")
    for name, reason in sorted(publication.left_out.items()):
        print(f"not in it: {name}: {reason}")


def _size(publication: Publication) -> int:
    return sum(file.size for file in publication.files)


def _document(publication: Publication) -> dict[str, Any]:
    return {
        "lock": f"sha256:{publication.lock_digest}",
        "size": _size(publication),
        "files": [
            {"path": file.path, "size": file.size, "sha256": file.sha256, "type": file.media_type, "licence": licence}
            for file, licence in publication.licensed()
        ],
        "inputs": [
            {"name": item.name, "size": item.size, "licence": item.licence, "closed": item.closed}
            for item in publication.inputs
        ],
        "closed": publication.closed,
        "left_out": dict(publication.left_out),
        "badges": {
            badge: [
                {"what": item.what, "met": item.met, "fix": item.fix}
                for item in publication.items
                if item.badge == badge
            ]
            for badge in BADGES
        },
    }


def _tell_plan(
    session: Session, project: Project, manifest: Manifest, lock: Lock, choice: Choice, options: argparse.Namespace
) -> int:
    with session.store.scratch() as folder:
        publication = assemble(session, project, manifest, lock, choice, folder, dry=True)
    missing = list(undescribed(manifest))
    if options.json:
        listed = [{"key": problem.key, "message": problem.message, "hint": problem.hint} for problem in missing]
        print(json.dumps({"publication": None, **_document(publication), "missing": listed}))
        return 0
    print("would go in:")
    for file, licence in publication.licensed():
        print(f"  {human(file.size):>10}  {file.path}  {licence}")
    for packed in publication.inputs if choice.vault or choice.images else ():
        print(f"  {human(packed.size):>10}  {packed.name}  {packed.licence}  (in {_kept_in(choice)})")
    _tell_left_out(publication, handed_on=choice.vault or choice.images)
    for problem in missing:
        print(f"needed before it can be published: {problem.key}: {problem.hint}")
    for badge in BADGES:
        print(f"\nACM badge: Artifacts {badge}")
        for item in publication.items:
            if item.badge == badge:
                print(f"  [{'x' if item.met else ' '}] {item.what}{f': {item.fix}' if item.fix else ''}")
    return 0


def _kept_in(choice: Choice) -> str:
    return " and ".join(name for name, wanted in ((VAULT, choice.vault), (f"{IMAGES}/", choice.images)) if wanted)
