"""``reprobox vault``"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from reprobox import config
from reprobox.cli.options import add_builder_option, add_network_options, check_output
from reprobox.cli.report import human
from reprobox.cli.session import open_session, open_store
from reprobox.download.downloader import Downloader
from reprobox.errors import IntegrityError, UsageError
from reprobox.freshness import ensure_fresh
from reprobox.oci.registry import Registries
from reprobox.resolve import refuse_unavailable
from reprobox.vault.check import check_vault
from reprobox.vault.contents import Choice, Report, keep
from reprobox.vault.extract import extract
from reprobox.vault.remote import RegistryShelf, is_registry
from reprobox.vault.shelf import Shelf, open_shelf

DETAILS = """\
Keeps every input of every target, the lock, the manifest, the code and reprobox itself in one OCI image layout: a
folder, or one file where the name ends in .tar. A vault that exists is extended, and may keep many locks.
`reprobox realize --offline --vault xor.tar` makes the environment from it alone.

examples:
  reprobox vault /archive/lab                     keep this project there
  reprobox vault xor.tar --with-image             as one file, with the finished image
  reprobox vault /archive/lab --check             read every byte of it
  reprobox vault xor.tar --extract xor            the project, out of the vault
  reprobox vault oci://registry.example/lab:xor   in a registry, under a tag"""
_SHOWN = 20


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", metavar="PATH|REF", help="the vault: a folder, a file NAME.tar, or oci://REGISTRY/NAME:TAG"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="only look whether the vault is whole; exit 5 if it is not")
    what.add_argument("--extract", metavar="DIR", type=Path, help="only write a kept project into this new folder")
    parser.add_argument("--lock", metavar="NAME", default="", help="which of several to extract: project or lock")
    parser.add_argument("--with-layers", action="store_true", help="keep the built layers too")
    parser.add_argument("--with-image", action="store_true", help="keep the finished image of every target too")
    parser.add_argument("--without-reprobox", action="store_true", help="do not keep reprobox itself")
    add_builder_option(parser)
    add_network_options(parser)


def execute(options: argparse.Namespace) -> int:
    if options.check:
        return _check(options)
    if options.extract is not None:
        return _extract(options)
    return _keep(options)


def _keep(options: argparse.Namespace) -> int:
    session, project = open_session(options)
    manifest = project.manifest(session.plugins.kinds)
    refuse_unavailable(manifest)
    lock = project.lock(session.store)
    for name in manifest.targets:
        ensure_fresh(session, manifest, lock, str(project.lock_path), name if len(manifest.targets) > 1 else None)
    choice = Choice(tools=not options.without_reprobox, layers=options.with_layers, images=options.with_image)
    report = keep(session, project, manifest, lock, options.path, choice)
    if options.json:
        print(json.dumps(_document(options.path, report)))
        return 0
    written = report.written
    print(f"wrote {options.path}: {report.kept.shown}")
    print(f"inputs  {report.inputs}, {human(report.inputs_size)}")
    print(f"vault   {written.blobs} blobs, {human(written.size)}; new {written.added}, {human(written.added_size)}")
    for name in report.images:
        print(f"image   {name}")
    for name, reason in sorted(report.closed.items()):
        print(f"perhaps not to be passed on: {name}: {reason}")
    for name, reason in sorted(report.kept.left_out.items()):
        print(f"not in it: {reason if len(name) == 64 else f'{name}: {reason}'}")
    return 0


def _shelf(options: argparse.Namespace) -> Shelf:
    """The vault that is there already."""
    if not is_registry(options.path):
        return open_shelf(Path(options.path))
    settings = config.load()
    downloader = Downloader(offline=options.offline)
    registries = Registries(downloader, settings.registries)
    return RegistryShelf(options.path, registries, open_store(settings, options.reporter.say), downloader)


def _document(path: str, report: Report) -> dict[str, Any]:
    written = report.written
    return {
        "vault": path,
        "lock": f"sha256:{report.kept.lock}",
        "name": report.kept.name,
        "inputs": report.inputs,
        "inputs_size": report.inputs_size,
        "blobs": written.blobs,
        "size": written.size,
        "added": written.added,
        "added_size": written.added_size,
        "images": list(report.images),
        "closed": dict(report.closed),
        "left_out": dict(report.kept.left_out),
    }


def _check(options: argparse.Namespace) -> int:
    found = check_vault(_shelf(options))
    if options.json:
        document = {
            "vault": options.path,
            "whole": not found.wrongs,
            "blobs": found.blobs,
            "size": found.size,
            "locks": [
                {
                    "name": kept.name,
                    "lock": f"sha256:{kept.lock}",
                    "project": kept.project,
                    "version": kept.version,
                    "left_out": dict(kept.left_out),
                }
                for kept in found.locks
            ],
            "problems": [{"file": wrong.name, "message": wrong.message} for wrong in found.wrongs],
            "notes": list(found.notes),
        }
        print(json.dumps(document))
        return IntegrityError.status if found.wrongs else 0
    for note in found.notes:
        options.reporter.say(note)
    if found.wrongs:
        more = f"\n  and {len(found.wrongs) - _SHOWN} more" if len(found.wrongs) > _SHOWN else ""
        listed = "".join(f"\n  {wrong.name}: {wrong.message}" for wrong in found.wrongs[:_SHOWN])
        raise IntegrityError(
            f"the vault is not whole:{listed}{more}",
            where=options.path,
            hint="take another copy of it, or mend it: write it anew from the project with `reprobox vault`",
        )
    print(f"{options.path} is whole: {found.blobs} blobs, {human(found.size)}")
    for kept in found.locks:
        print(f"{kept.name}  {kept.shown}")
    return 0


def _extract(options: argparse.Namespace) -> int:
    if options.with_layers or options.with_image:
        raise UsageError("--extract writes the project, and nothing into the vault", hint="leave out --with-…")
    check_output(options.extract, "--extract")
    kept = extract(_shelf(options), options.extract, options.lock)
    if options.json:
        print(json.dumps({"project": str(options.extract), "lock": f"sha256:{kept.lock}", "name": kept.name}))
    else:
        print(f"wrote {options.extract}: {kept.shown}")
        print(f"go on with: reprobox realize -C {options.extract} --offline --vault {options.path}")
    return 0
