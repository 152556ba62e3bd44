"""``reprobox freeze``"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reprobox import writable
from reprobox.cli.editing import replace_manifest, with_text
from reprobox.cli.lock import relock
from reprobox.cli.options import (
    add_backend_option,
    add_builder_option,
    add_mount_option,
    add_network_options,
    check_output,
    mounts_given,
)
from reprobox.cli.report import human
from reprobox.cli.session import open_session
from reprobox.cli.writing import project_copy
from reprobox.digest import Entry, read_index
from reprobox.engine import build
from reprobox.errors import ManifestError
from reprobox.freeze import (
    MARKS,
    STATUS,
    AptChanges,
    PipChanges,
    Rest,
    apt_changes,
    dpkg_files,
    pip_changes,
    rest_of,
    secrets_in,
    write_files,
)
from reprobox.lock_text import lock_digest
from reprobox.manifest import Manifest
from reprobox.manifest_edit import add_files, add_layer
from reprobox.manifest_reader import parse
from reprobox.project import Project
from reprobox.resolve import resolve
from reprobox.secret_values import secret_values
from reprobox.session import Session, available
from reprobox.tree import Tree
from reprobox.writable import Copy

DETAILS = """\
Looks at what was changed by hand in `reprobox shell --writable`, and writes the layers that give the same: packages of
apt and pip with their versions, and every other file into a folder of the project that a `copy` layer puts in place.
Comments and layout of research.toml stay. What no layer can say is told. Caches, histories and credentials are never
frozen.

examples:
  reprobox freeze --dry-run          only say what was changed
  reprobox freeze
  reprobox freeze --to by-hand       the folder for files"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target", metavar="NAME", help="the target, where the manifest has several")
    add_backend_option(parser, "holds the writable copy")
    parser.add_argument("--to", metavar="FOLDER", type=Path, help="the folder of the project for files; frozen")
    parser.add_argument("--dry-run", action="store_true", help="only say what was changed")
    add_mount_option(parser)
    add_builder_option(parser)
    add_network_options(parser)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """What was changed by hand, and the manifest with the packages among it."""

    apt: AptChanges
    pip: PipChanges
    rest: Rest
    tree: Path
    index: Sequence[Entry]
    text: bytes


def execute(options: argparse.Namespace) -> int:
    session, project = open_session(options)
    manifest = project.manifest(session.plugins.kinds)
    target = next(iter(manifest.select(options.target).targets))
    copy = project_copy(session, project, target, options.backend)
    backend = available(session.plugins.backend(options.backend), session.store)
    folder = _folder(project, options)
    with writable.in_use(copy.place), session.store.scratch() as output:
        writable.changes(backend, copy, output)
        found = _look(session, project, manifest, target, copy, output, options)
        written: dict[str, Any] = {"folder": None, "lock": None}
        if not options.dry_run and (found.apt.asked or found.apt.moved or found.pip.asked or found.rest.paths):
            written = _write(session, project, found, folder, options)
    _tell(options, found, written)
    return 0


def _folder(project: Project, options: argparse.Namespace) -> Path:
    if options.to is not None:
        folder: Path = project.root / options.to
        check_output(folder, "--to")
        return folder
    names = ["frozen", *(f"frozen-{number}" for number in range(2, 1000))]
    return next(project.root / name for name in names if not os.path.lexists(project.root / name))


def _look(
    session: Session,
    project: Project,
    manifest: Manifest,
    target: str,
    copy: Copy,
    output: Path,
    options: argparse.Namespace,
) -> _Found:
    tree, index = output / "tree", read_index((output / "index").read_bytes())
    parents = copy.parents()

    def read(path: str) -> bytes:
        file = tree / path
        return file.read_bytes() if file.is_file() and not file.is_symlink() else writable.content(copy, path)

    apt = apt_changes(writable.content(copy, STATUS), read(STATUS), read(MARKS))
    now = Tree.merged([parents.sorted(), index])
    listed = dpkg_files(now, read)
    before = dpkg_files(parents, lambda path: writable.content(copy, path)) if apt.removed else listed
    pip = pip_changes(parents, index, read, listed | before)
    gone = (before - listed).union(pip.gone)  # what another package lists too is not of those that went
    text = _with_packages(project.manifest_path.read_bytes(), apt, pip)
    built = parents
    if apt.asked or apt.moved or pip.asked:
        built = _built(session, project, text, target, options)
    secret = secrets_in(tree, _secrets(manifest, project.root))
    return _Found(
        apt=apt,
        pip=pip,
        rest=rest_of(parents, built, index, pip.records, secret, gone),
        tree=tree,
        index=index,
        text=text,
    )


def _with_packages(data: bytes, apt: AptChanges, pip: PipChanges) -> bytes:
    def change(text: str) -> str:
        for kind, packages in (("apt", (*apt.asked, *apt.moved)), ("pip", pip.asked)):
            if packages:
                text = add_layer(text, kind, f"by-hand-{kind}", packages)
        return text

    return with_text(data, change)


def _built(session: Session, project: Project, text: bytes, target: str, options: argparse.Namespace) -> Tree:
    """The environment with the packages, locked and built beside the project's own lock."""
    manifest = parse(text, kinds=session.plugins.kinds, file=str(project.manifest_path))
    previous = project.lock_or_none(session.store)
    lock = resolve(session, manifest, previous, only=(target,), mounts=mounts_given(options.mount))
    build(session, lock.targets[target], lock.epoch)
    stored = [session.store.layer(layer.id) for layer in lock.targets[target].image_layers]
    return Tree.load(*(layer.index for layer in stored if layer is not None))


def _secrets(manifest: Manifest, project: Path) -> Mapping[str, bytes]:
    """The values of the manifest's secrets, as far as they are here."""
    values: dict[str, bytes] = {}
    for name in manifest.secrets:
        try:
            values |= secret_values(manifest, project, [(name, "freeze")])
        except ManifestError:  # it is not here, so nobody can have copied it from here
            continue
    return values


def _write(
    session: Session, project: Project, found: _Found, folder: Path, options: argparse.Namespace
) -> dict[str, Any]:
    text, size = found.text, 0
    if found.rest.paths:
        size = write_files(found.tree, found.index, found.rest.paths, folder)
        text = with_text(
            text, lambda given: add_files(given, "by-hand", f"{folder.relative_to(project.root)}/", "/")[0]
        )
    manifest = parse(text, kinds=session.plugins.kinds, file=str(project.manifest_path))
    with replace_manifest(session, project, text):
        lock, _ = relock(session, project, manifest, mounts=mounts_given(options.mount))
    written = str(folder.relative_to(project.root)) if found.rest.paths else None
    return {"folder": written, "size": size, "lock": f"sha256:{lock_digest(lock)}"}


def _tell(options: argparse.Namespace, found: _Found, written: Mapping[str, Any]) -> None:
    if options.json:
        pip = {name: value for name, value in dataclasses.asdict(found.pip).items() if name not in _PATHS}
        document = {"apt": dataclasses.asdict(found.apt), "pip": pip, "files": found.rest.paths}
        print(json.dumps({**document, "told": found.rest.told, "dry_run": options.dry_run, **written}))
        return
    for kind, packages in (("apt", found.apt), ("pip", found.pip)):
        _list(f"{kind} packages", packages.asked)
        _list(f"  came along with {kind} packages", packages.along)
        _list(f"{kind} packages removed, which no layer says: leave them out of what brings them", packages.removed)
    _list("apt packages of another version", found.apt.moved)
    _list("Python packages from a file or a repository, kept as files", found.pip.as_files)
    _list("files", [f"/{path}" for path in found.rest.paths])
    _list("not kept", found.rest.told)
    changed = (found.apt, found.pip, found.rest) != (AptChanges(), PipChanges(), Rest())
    if not changed:
        print("nothing was changed by hand")
    elif options.dry_run:
        print("nothing was written: `reprobox freeze` writes it into research.toml, and locks")
    elif written["lock"] is None:
        print("there is nothing that a layer could say")
    else:
        place = f"; files are in {written['folder']}/ ({human(written['size'])})" if written["folder"] else ""
        print(f"research.toml has the layers, and is locked{place}")
        print("next: `reprobox realize`, and when it is right `reprobox shell --writable --discard`")


def _list(title: str, items: Sequence[str]) -> None:
    if items:
        print(f"{title}: {len(items)}")
        for item in items[:_MOST]:
            print(f"  {item}")
        if len(items) > _MOST:
            print(f"  … and {len(items) - _MOST} more (--json has all)")


_MOST = 40
_PATHS = ("records", "gone")  # of packages, which are told by their names
