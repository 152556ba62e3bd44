"""What is attached to a PDF, an image or a commit: had for `detach`, shown by `inspect`."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from reprobox import config
from reprobox.attach import git_tag, pdf, referrer
from reprobox.attach.files import Attached, check
from reprobox.attach.pdf_document import Document
from reprobox.cli.report import human, on_one_line
from reprobox.cli.subject import IMAGE, PDF
from reprobox.digest import prefixed
from reprobox.download.downloader import Downloader
from reprobox.errors import IntegrityError, ReproboxError
from reprobox.lock import Lock
from reprobox.manifest import Manifest
from reprobox.manifest_reader import Kind
from reprobox.oci.registry import Registries
from reprobox.tree import file_sha256


def registries(options: argparse.Namespace) -> Registries:
    """All registries, as this user's settings have them."""
    return Registries(Downloader(offline=getattr(options, "offline", False)), config.load().registries)


def obtain(options: argparse.Namespace, kind: str, folder: Path) -> Attached:
    """What is attached to the subject, in the empty ``folder``."""
    if kind == PDF:
        return pdf.read(Path(options.subject), folder)
    if kind == IMAGE:
        return referrer.read(registries(options), referrer.reference_of(options.subject), folder)
    return git_tag.read(Path(options.project), options.git, folder)[0]


def describe(options: argparse.Namespace, kind: str, kinds: Mapping[str, Kind]) -> dict[str, Any]:
    """What is attached, and whether it belongs together."""
    with tempfile.TemporaryDirectory(prefix="reprobox-inspect-") as stage:
        attached = obtain(options, kind, Path(stage))
        files = [
            {
                "name": name,
                "size": (attached.folder / name).stat().st_size,
                "sha256": prefixed(file_sha256(attached.folder / name)),
            }
            for name in attached.names
        ]
        found = {"subject": attached.where, "files": files, "lock": prefixed(file_sha256(attached.lock))}
        try:
            manifest, lock = check(attached, kinds)
        except ReproboxError as error:
            said = {"belongs": False, "problem": error.message, "status": error.status}
        else:
            said = {"belongs": True, "problem": None, "status": 0, **_facts(manifest, lock)}
        return {**found, **_beside(options, kind), **said}


def _facts(manifest: Manifest, lock: Lock) -> dict[str, Any]:
    project = manifest.project
    targets = [
        {
            "name": name,
            "platform": target.platform,
            "base": target.base.kind,
            "layers": len(target.layers),
            "sealed": target.seal is not None,
            "tree_digest": target.seal.tree_digest if target.seal else None,
        }
        for name, target in lock.targets.items()
    ]
    return {"project": project.name, "version": project.version, "targets": targets}


def _beside(options: argparse.Namespace, kind: str) -> dict[str, Any]:
    """What the subject says of itself."""
    if kind == PDF:
        from reprobox.attach.files import NAMES

        with Document(Path(options.subject)) as document:
            others = [item.name for item in document.embedded if item.name not in NAMES]
            signatures = document.signatures()
            return {"pages": document.pages, "other_files": others, "signatures": signatures.count}
    if kind == IMAGE:
        reference = referrer.reference_of(options.subject)
        there = referrer.look(registries(options).repository(reference), reference)
        return {"digest": prefixed(there.subject.digest), "referrer": prefixed(there.artifact.digest)}
    return {"commit": git_tag.commit_of(Path(options.project), options.git), "ref": git_tag.NOTES}


def show(document: Mapping[str, Any]) -> None:
    """Print what :func:`describe` found."""
    for line in _lines(document):
        print(on_one_line(line))


def _lines(document: Mapping[str, Any]) -> Iterator[str]:
    yield document["subject"]
    for name in ("digest", "referrer", "commit", "ref", "pages"):
        if name in document:
            yield f"{name:13} {document[name]}"
    if document.get("signatures"):
        yield f"signatures    {document['signatures']}"
    for number, item in enumerate(document["files"]):
        yield f"{'attached' if not number else '':13} {item['name']:22} {human(item['size']):>9}"
    for name in document.get("other_files", ()):
        yield f"{'':13} {''.join(sign if sign.isprintable() else '?' for sign in name)[:60]} (not reprobox's)"
    yield f"lock          {document['lock']}"
    if not document["belongs"]:
        for number, line in enumerate(document["problem"].split("\n")):
            yield f"{'' if number else 'problem':13} {line}"
        return
    yield f"project       {document['project']} {document['version'] or ''}".rstrip()
    for target in document["targets"]:
        sealed = f", sealed as {target['tree_digest'][:19]}…" if target["sealed"] else ", not sealed"
        yield f"target        {target['name']}, {target['platform']}, {target['layers']} layers{sealed}"
    yield "manifest and lock belong together"


def status(document: Mapping[str, Any]) -> int:
    """The exit status: that of what is wrong with it."""
    return 0 if document["belongs"] else int(document["status"]) or IntegrityError.status
