"""``reprobox attach``"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from reprobox.attach import git_tag, pdf, referrer
from reprobox.attach.files import LOCK, MANIFEST, PROJECT, Attached, prepare
from reprobox.attach.pdf_notice import notice
from reprobox.cli.options import check_output, writing
from reprobox.cli.report import human
from reprobox.cli.session import open_session
from reprobox.cli.subject import COMMIT, IMAGE, PDF, add_git_option, subject_of
from reprobox.digest import prefixed
from reprobox.errors import UsageError
from reprobox.lock import Lock
from reprobox.manifest import Manifest
from reprobox.project import Project
from reprobox.session import Session
from reprobox.tree import file_sha256

DETAILS = """\
Puts research.toml, research.lock and, where code is needed, research-project.tar with the paper: into a PDF, beside an
image in a registry, or on a commit of a git repository. The lock must be fresh, and the code what it pins. Attaching
again replaces what was attached. `reprobox realize paper.pdf` makes the environment from it.

examples:
  reprobox attach paper.pdf -o paper-with-environment.pdf
  reprobox attach paper.pdf --in-place --line          and say so in a line on the first page
  reprobox attach registry.example/lab/xor:1.0         as an OCI referrer of the image
  reprobox attach --git v1.0                           as a git note on the tag's commit
  reprobox attach --git v1.0 --release-file dist       as a file for a release, too"""
#: Many submission systems take no larger files, or ask for supplements to be sent apart.
_LARGE = 10 << 20


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("subject", nargs="?", metavar="PDF|REF", help="a PDF, or an image: REGISTRY/NAME:TAG")
    add_git_option(parser, "attach to the commit that TAG names, in the project's repository")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("-o", "--output", metavar="PDF", type=Path, help="the new PDF")
    where.add_argument("--in-place", action="store_true", help="change the PDF itself")
    parser.add_argument("--page", action="store_true", help="add a page to the PDF that says what is attached")
    parser.add_argument("--line", action="store_true", help="say it in a line at the bottom of the PDF's first page")
    parser.add_argument("--break-signature", action="store_true", help="go on where a signature of the PDF breaks")
    parser.add_argument("--without-code", action="store_true", help=f"attach no {PROJECT}: the code is elsewhere")
    parser.add_argument("--platform", metavar="OS/ARCH", help="attach to one image of an index: linux/amd64")
    parser.add_argument("--release-file", metavar="DIR", type=Path, help="with --git: also write a file for a release")


#: Options that only one kind of subject takes.
_OWN = {
    PDF: ("output", "in_place", "page", "line", "break_signature"),
    IMAGE: ("platform",),
    COMMIT: ("release_file",),
}


def execute(options: argparse.Namespace) -> int:
    kind = subject_of(options)
    _check_options(options, kind)
    document = {PDF: _to_pdf, IMAGE: _to_image, COMMIT: _to_commit}[kind](options)
    if options.json:
        print(json.dumps(document))
        return 0
    for note in document["notes"]:
        options.reporter.say(f"warning: {note}")
    _print(document)
    return 0


def _check_options(options: argparse.Namespace, kind: str) -> None:
    for other, names in _OWN.items():
        for name in names:
            if other != kind and getattr(options, name):
                raise UsageError(
                    f"--{name.replace('_', '-')} is for {other}", hint="`reprobox attach --help` has examples"
                )
    if kind == COMMIT and options.without_code:
        raise UsageError("--without-code is for PDFs and images", hint="a commit has its code already: leave it out")
    if kind == PDF and not (options.output or options.in_place):
        raise UsageError(
            "it is not said where to write the PDF",
            where=options.subject,
            hint="give -o NEW.pdf, or --in-place to change this one",
        )


@contextmanager
def _prepared(
    options: argparse.Namespace, session: Session, project: Project
) -> Iterator[tuple[Attached, Manifest, Lock]]:
    with session.store.scratch() as folder:
        yield prepare(session, project, folder, code=not options.without_code)


# -- to a PDF ----------------------------------------------------------------------------------------------------------


def _to_pdf(options: argparse.Namespace) -> dict[str, Any]:
    source = Path(options.subject)
    if options.output:
        check_output(options.output, "-o")
    target = options.output or source.resolve()
    wish = pdf.Wish(page=options.page, line=options.line, break_signature=options.break_signature)
    session, project = open_session(options)
    with _prepared(options, session, project) as (attached, manifest, lock):
        of = manifest.project
        said = notice(of.name, of.version or "", file_sha256(attached.lock), attached.names, target.name)
        with writing(target, "-o"):
            done = pdf.attach(source, target, attached, lock.epoch, said, wish)
        notes = [*done.notes, *_size_notes(attached)]
        facts = {
            "subject": options.subject,
            "output": str(target),
            "size": done.after,
            "added": done.after - done.before,
        }
        return {
            "kind": "pdf",
            **facts,
            "replaced": list(done.replaced),
            **_told(attached, manifest, lock),
            "notes": notes,
        }


def _size_notes(attached: Attached) -> list[str]:
    if attached.size < _LARGE:
        return []
    whole = f", {PROJECT} alone {human(attached.project.stat().st_size)}" if attached.project else ""
    hint = "leave what is large out with code.exclude, or give --without-code and publish the code elsewhere"
    return [f"the files have {human(attached.size)}{whole}, and submission systems often take less: {hint}"]


# -- to an image -------------------------------------------------------------------------------------------------------


def _to_image(options: argparse.Namespace) -> dict[str, Any]:
    reference = referrer.reference_of(options.subject)
    session, project = open_session(options)
    with _prepared(options, session, project) as (attached, manifest, lock):
        done = referrer.attach(session.registries, reference, attached, lock, options.platform or "")
        return {
            "kind": "image",
            "subject": str(reference),
            "digest": prefixed(done.subject),
            "referrer": prefixed(done.artifact),
            "referrers_api": done.api,
            "fallback_tag": done.fallback,
            "replaced": [prefixed(digest) for digest in done.replaced],
            **_told(attached, manifest, lock),
            "notes": list(done.notes),
        }


# -- to a commit -------------------------------------------------------------------------------------------------------


def _to_commit(options: argparse.Namespace) -> dict[str, Any]:
    session, project = open_session(options)
    if options.release_file and not options.release_file.is_dir():
        raise UsageError("there is no such folder", where=str(options.release_file), hint="make it first")
    commit = git_tag.commit_of(project.root, options.git)
    with session.store.scratch() as folder:
        attached, manifest, lock, inside = git_tag.prepare_at(session, project, commit, options.git, folder)
        release = _release(options, attached, manifest) if options.release_file else None
        note = git_tag.Note(folder=inside, manifest=attached.manifest.read_bytes(), lock=attached.lock.read_bytes())
        new = git_tag.attach(project.root, commit, note)
        names = {"commit": commit, "ref": git_tag.NOTES, "new": new, "release_file": release}
        told = _told(replace(attached, names=(MANIFEST, LOCK)), manifest, lock)
        return {"kind": "commit", "subject": options.git, **names, **told, "notes": []}


def _release(options: argparse.Namespace, attached: Attached, manifest: Manifest) -> str:
    """Write the project as one file; returns its path."""
    if attached.project is None:
        raise UsageError(
            "the code comes from a repository, and manifest and lock are all that there is",
            where="--release-file",
            hint="leave --release-file out, and release these two",
        )
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{manifest.project.name}-{options.git}").strip("-.")
    path: Path = options.release_file / f"{stem}.{PROJECT}"
    check_output(path, "--release-file")
    with writing(path, "--release-file"):
        shutil.copyfile(attached.project, path)
    return str(path)


# -- in words ----------------------------------------------------------------------------------------------------------


def _told(attached: Attached, manifest: Manifest, lock: Lock) -> dict[str, Any]:
    """The files, the lock's digest as readers will name it, and the mount points whose data they need besides."""
    data = [path for path, mount in manifest.mounts.items() if mount.mode == "ro" and path not in lock.downloads]
    files = [
        {
            "name": name,
            "size": (attached.folder / name).stat().st_size,
            "sha256": prefixed(file_sha256(attached.folder / name)),
        }
        for name in attached.names
    ]
    complete = attached.project is not None or lock.checkout is not None
    return {"lock": prefixed(file_sha256(attached.lock)), "files": files, "data": sorted(data), "complete": complete}


def _for_readers(document: dict[str, Any], name: str) -> str:
    name = shlex.quote(name)
    if document["complete"]:
        return f"readers: reprobox realize {name}"
    return f"readers: reprobox detach {name}, and then they put the code beside what comes out: say where it is"


def _print(document: dict[str, Any]) -> None:
    for item in document["files"]:
        print(f"{item['name']:22} {human(item['size']):>9}")
    for path in document["data"]:
        print(f"not in it: the data at {path}; say in the paper where it is")
    print(f"lock {document['lock']}")
    if document["kind"] == "pdf":
        again = " again" if document["replaced"] else ""
        print(
            f"attached{again} to {document['output']}: {human(document['size'])}, {human(document['added'])} of it new"
        )
        print(_for_readers(document, document["output"]))
    elif document["kind"] == "image":
        print(f"attached to {document['digest']} as {document['referrer']}")
        if document["fallback_tag"]:
            print(f"this registry has no referrers API: it is listed under the tag {document['fallback_tag']}")
        print(_for_readers(document, document["subject"]))
    else:
        how = "attached to" if document["new"] else "was there already on"
        print(f"{how} commit {document['commit']}, in {document['ref']}")
        if document["release_file"]:
            print(f"release file: {document['release_file']}")
        print(f"notes are not pushed with the rest: git push origin {document['ref']}")
