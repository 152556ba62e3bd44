"""``reprobox detach``"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from pathlib import Path
from typing import Any

from reprobox.attach import git_tag, pdf, referrer
from reprobox.attach.files import check, write_all
from reprobox.cli.attached import obtain, registries
from reprobox.cli.options import check_output, writing
from reprobox.cli.report import human
from reprobox.cli.subject import COMMIT, IMAGE, PDF, add_git_option, subject_of
from reprobox.digest import prefixed
from reprobox.errors import UsageError
from reprobox.plugins import Plugins
from reprobox.tree import file_sha256

DETAILS = """\
Writes what `reprobox attach` attached into a folder: research.toml, research.lock and research-project.tar. They must
belong together. With --remove, takes them off instead: a PDF is then what it was before, to the byte.

examples:
  reprobox detach paper.pdf                            into the folder paper-research
  reprobox detach registry.example/lab/xor:1.0 -o xor
  reprobox detach --git v1.0 -o xor
  reprobox detach paper.pdf --remove -o plain.pdf"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("subject", nargs="?", metavar="PDF|REF", help="a PDF, or an image: REGISTRY/NAME:TAG")
    add_git_option(parser, "what is attached to the commit that TAG names, in the repository here")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("-o", "--output", metavar="PATH", type=Path, help="the folder, or the PDF that --remove writes")
    where.add_argument("--in-place", action="store_true", help="with --remove: change the PDF itself")
    parser.add_argument("--remove", action="store_true", help="take the files off")
    parser.add_argument("--break-signature", action="store_true", help="go on where a signature of the PDF breaks")


def execute(options: argparse.Namespace) -> int:
    kind = subject_of(options)
    document = _removed(options, kind) if options.remove else _detached(options, kind)
    if options.json:
        print(json.dumps(document))
        return 0
    for note in document.get("notes", ()):
        options.reporter.say(f"warning: {note}")
    _print(document)
    return 0


def _detached(options: argparse.Namespace, kind: str) -> dict[str, Any]:
    if options.in_place or options.break_signature:
        raise UsageError("--in-place and --break-signature are for --remove", hint="leave them out")
    folder = options.output or Path(f"{_stem(options, kind)}-research")
    if options.output is None:
        check_output(folder, "-o")
    with tempfile.TemporaryDirectory(prefix="reprobox-detach-") as stage:
        attached = obtain(options, kind, Path(stage))
        check(attached, Plugins().kinds)
        with writing(folder, "-o"):
            write_all(attached, folder)
        files = [
            {"name": name, "size": (folder / name).stat().st_size, "sha256": prefixed(file_sha256(folder / name))}
            for name in attached.names
        ]
        return {
            "subject": attached.where,
            "output": str(folder),
            "lock": prefixed(file_sha256(attached.lock)),
            "files": files,
        }


def _stem(options: argparse.Namespace, kind: str) -> str:
    """A name for the folder, out of the subject's own."""
    name = options.git if kind == COMMIT else options.subject
    stem = Path(name).stem if kind == PDF else name.rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-.")[:100] or "attached"


def _removed(options: argparse.Namespace, kind: str) -> dict[str, Any]:
    if kind == PDF:
        return _removed_from_pdf(options)
    if options.output or options.in_place:
        raise UsageError("-o and --in-place are for PDFs", hint="leave them out")
    if kind == IMAGE:
        done = referrer.remove(registries(options), referrer.reference_of(options.subject))
        return {"subject": options.subject, "removed": [prefixed(done.artifact)], "output": None, "notes": []}
    project = Path(options.project)
    commit = git_tag.commit_of(project, options.git)
    git_tag.remove(project, commit)
    notes = [f"it is still where it was pushed to, until: git push origin {git_tag.NOTES}"]
    return {"subject": options.git, "removed": [commit], "output": None, "notes": notes}


def _removed_from_pdf(options: argparse.Namespace) -> dict[str, Any]:
    source = Path(options.subject)
    if not (options.output or options.in_place):
        raise UsageError(
            "it is not said where to write the PDF",
            where=options.subject,
            hint="give -o NEW.pdf, or --in-place to change this one",
        )
    if options.output:
        check_output(options.output, "-o")
    target = options.output or source.resolve()
    with writing(target, "-o"):
        done = pdf.remove(source, target, break_signature=options.break_signature)
    facts = {"subject": options.subject, "output": str(target), "size": done.after}
    return {**facts, "removed": list(done.replaced), "notes": list(done.notes)}


def _print(document: dict[str, Any]) -> None:
    for item in document.get("files", ()):
        print(f"{item['name']:22} {human(item['size']):>9}")
    if "lock" in document:
        print(f"lock {document['lock']}\nwrote {document['output']}")
    elif document["output"]:
        print(f"wrote {document['output']} without {', '.join(document['removed'])}: {human(document['size'])}")
    else:
        print(f"removed from {document['subject']}: {', '.join(document['removed'])}")
