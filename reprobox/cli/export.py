"""``reprobox export``"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from reprobox.backend import Exporter, RealizeRequest
from reprobox.cli.export_push import add_push_options, check_wishes, push_image
from reprobox.cli.options import add_builder_option, add_network_options, check_output, writing
from reprobox.cli.report import human
from reprobox.cli.session import open_session
from reprobox.environment import Environment
from reprobox.errors import FetchError, OfflineError, UsageError
from reprobox.freshness import ensure_fresh
from reprobox.image import write_docker_archive, write_layout
from reprobox.layer_copies import merge_into
from reprobox.lock import Input, Lock, LockedTarget
from reprobox.manifest import Manifest
from reprobox.oci.registry import Reference
from reprobox.pypi import IndexProvider
from reprobox.realize import Wish, realize
from reprobox.session import Session
from reprobox.tree import remove
from reprobox.urls import without_password

DETAILS = """\
The same lock gives the same bytes, on every machine.

examples:
  reprobox export --format docker-archive -o env.tar && docker load -i env.tar
  reprobox export --format oci -o layout && skopeo copy oci:layout docker://registry.example/env
  reprobox export --format rootfs -o rootfs
  reprobox export --format sif -o env.sif               for Apptainer, with the plugin reprobox-singularity
  reprobox export --format pylock -o pylock.toml        the Python packages, for pip and uv
  reprobox export --format spdx -o sbom.spdx.json       what it is made of, with licences: a bill of materials
  reprobox export --push registry.example/group/env:1   the image to a registry, for docker pull and apptainer pull"""
_BILLS = {"sbom": "spdx", "spdx": "spdx", "cyclonedx": "cyclonedx"}
FORMATS = ("oci", "docker-archive", "rootfs", "pylock", *_BILLS)
_EXTRAS = {"sif": "singularity", "squashfs": "singularity"}  # what to install for a plugin's format


def configure(parser: argparse.ArgumentParser) -> None:
    formats = f"what to write: {', '.join(FORMATS)}, or what a plugin offers (sif, squashfs)"
    parser.add_argument("--format", metavar="FORMAT", help=formats)
    parser.add_argument("-o", "--output", metavar="PATH", type=Path, help="the new file or folder")
    parser.add_argument(
        "--target", metavar="NAME", action="append", help="the target, where the manifest has several; several to push"
    )
    add_push_options(parser)
    parser.add_argument("--tag", metavar="NAME:TAG", help="the image's name, if not the project's")
    parser.add_argument("--with-code", action="store_true", help="bake the code in, as the last layer")
    add_builder_option(parser)
    add_network_options(parser)


def execute(options: argparse.Namespace) -> int:
    if options.push is not None:
        return push_image(options)
    check_wishes(options)
    options.target = options.target[0] if options.target else None
    check_output(options.output, "-o")
    session, project = open_session(options)
    exporter = _exporter(session, options.format)
    manifest = project.manifest(session.plugins.kinds)
    lock = project.lock(session.store)
    tag = (
        options.tag or f"{manifest.project.name}:{re.sub('[^A-Za-z0-9_.-]', '-', manifest.project.version or 'latest')}"
    )
    Reference.parse(tag)
    name = next(iter(manifest.select(options.target).targets))
    ensure_fresh(session, manifest, lock, str(project.lock_path), name)
    if options.format == "pylock":
        return _export_pylock(session, lock.targets[name], options)
    if options.format in _BILLS:
        return _export_bill(session, manifest, lock, name, options)
    wants_image = exporter.needs_image if exporter else options.format != "rootfs"
    wish = Wish(target=name, image=wants_image, with_code=options.with_code)
    realized = realize(session, project, manifest, lock, wish)
    for item in realized.environment.outside:
        session.reporter.say(f"layer {item.layer.name} is placed in the project, and is not in what is exported")
    staged = options.output.with_name(f".{options.output.name}.new")
    remove(staged)
    try:
        with writing(options.output, "-o"):
            if exporter:
                exporter.export(replace(_request(session, realized.environment, manifest, name), output=staged))
            else:
                _write(options.format, staged, realized.environment, tag)
            staged.rename(options.output)
    finally:
        remove(staged)
    environment = realized.environment
    document = {
        "format": options.format,
        "output": str(options.output),
        "tag": tag if wants_image else None,
        "image_digest": f"sha256:{environment.image_digest}",
        "tree_digest": f"sha256:{environment.tree_digest}",
    }
    if options.json:
        print(json.dumps(document))
    else:
        size = options.output.stat().st_size if options.output.is_file() else 0
        print(f"wrote {options.output} ({options.format}{f', {human(size)}' if size else ''})")
        print(f"tree digest   {document['tree_digest']}\nimage digest  {document['image_digest']}")
    return 0


def _exporter(session: Session, name: str) -> Exporter | None:
    """The plugin's that writes this format; None where reprobox does. Raises :class:`UsageError`."""
    if name in FORMATS:
        return None
    if name in session.plugins.exporters:
        return session.plugins.exporters[name]
    hint = f"formats: {', '.join((*FORMATS, *sorted(session.plugins.exporters)))}"
    if name in _EXTRAS:
        hint += f"; `pip install 'reprobox[{_EXTRAS[name]}]'` brings {name}"
    raise UsageError(f"nothing here writes the format {name!r}", where="--format", hint=hint)


def _request(session: Session, environment: Environment, manifest: Manifest, target: str) -> RealizeRequest:
    return RealizeRequest(
        name=f"{manifest.project.name}-{target}",
        version=manifest.project.version or "",
        layers=environment.layers,
        image=environment.image,
        image_digest=environment.image_digest,
        tree_digest=environment.tree_digest,
        keep=session.store.root / "realizations",
    )


def _export_pylock(session: Session, target: LockedTarget, options: argparse.Namespace) -> int:
    """Nothing is built: the lock knows the files, and the index where they are today."""
    from reprobox.layers import pylock
    from reprobox.layers.pip import packages_of

    packages, python = packages_of(target)
    options.output.write_text(pylock.write(packages, python, _places(session, packages, options.output)), "utf-8")
    if options.json:
        print(json.dumps({"format": "pylock", "output": str(options.output), "packages": len(packages)}))
    else:
        print(f"wrote {options.output} (pylock, {len(packages)} packages for Python {python} on {target.platform})")
    return 0


def _export_bill(session: Session, manifest: Manifest, lock: Lock, target: str, options: argparse.Namespace) -> int:
    """Nothing is built but a base whose packages the lock does not name; inputs are fetched, to be asked."""
    from reprobox.bom.bill import bill

    form = _BILLS[options.format]
    made = bill(session, manifest, lock, target)
    with writing(options.output, "-o"):
        options.output.write_bytes(getattr(import_module(f"reprobox.bom.{form}"), form)(made))
    unknown = sum(not item.licence.names for item in made.components if item.kind in ("deb", "pypi"))
    if options.json:
        document = {"format": form, "output": str(options.output), "components": len(made.components)}
        print(json.dumps({**document, "without_licence": unknown, "notes": list(made.notes)}))
        return 0
    for note in made.notes:
        session.reporter.say(note)
    print(f"wrote {options.output} ({form}, {len(made.components)} components of {target} for {made.platform})")
    if unknown:
        print(f"{unknown} packages tell no licence that a program can read")
    return 0


def _places(session: Session, packages: Sequence[Input], output: Path) -> dict[str, str]:
    """Where each file is: in the project, where it was seen when it was locked, or where the index has it. A file of
    this machine is the last choice."""
    inside = {item.sha256: session.project / item.facts["path"] for item in packages if "path" in item.facts}
    found = {digest: os.path.relpath(path, output.absolute().parent) for digest, path in inside.items()}
    index = IndexProvider(session.store, session.config.index, offline=session.offline)
    for provider in (session.hints, index):
        missing = [item for item in packages if _is_local(found.get(item.sha256, "file:"))]
        for digest, locations in (provider.locate(missing) if missing else {}).items():
            urls = sorted((without_password(location.url) for location in locations), key=_is_local)
            found[digest] = urls[0]
    lacking = [item.name for item in packages if item.sha256 not in found]
    if lacking:
        raise (OfflineError if session.offline else FetchError)(
            f"it is not known where to get {', '.join(lacking)}, and a pylock.toml must say it",
            hint="run it without --offline" if session.offline else "check the index that is set in your settings",
        )
    return found


def _is_local(url: str) -> bool:
    return url.startswith("file:")


def _write(kind: str, path: Path, environment: Environment, tag: str) -> None:
    if kind == "docker-archive":
        with path.open("wb") as file:
            write_docker_archive(environment.image, tag, file)
        return
    path.mkdir(mode=0o755)
    if kind == "oci":
        write_layout(environment.image, path, name=tag.rpartition(":")[2])
    else:
        merge_into(path, [(layer.tree, layer.index) for layer in environment.layers])
