"""``reprobox export``"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from reprobox.cli.options import add_builder_option, add_network_options, check_output
from reprobox.cli.report import human
from reprobox.cli.session import open_session
from reprobox.engine import Environment
from reprobox.image import write_docker_archive, write_layout
from reprobox.realize import Wish, realize
from reprobox.registry import Reference
from reprobox.resolve import ensure_fresh
from reprobox.tree import merge_into, remove

DETAILS = """\
The same lock gives the same bytes, on every machine.

examples:
  reprobox export --format docker-archive -o env.tar && docker load -i env.tar
  reprobox export --format oci -o layout && skopeo copy oci:layout docker://registry.example/env
  reprobox export --format rootfs -o rootfs"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=("oci", "docker-archive", "rootfs"), required=True, help="what to write")
    parser.add_argument("-o", "--output", metavar="PATH", type=Path, required=True, help="the new file or folder")
    parser.add_argument("--target", metavar="NAME", help="the target, where the manifest has several")
    parser.add_argument("--tag", metavar="NAME:TAG", help="the image's name, if not the project's")
    parser.add_argument("--with-code", action="store_true", help="bake the code in, as the last layer")
    add_builder_option(parser)
    add_network_options(parser)


def execute(options: argparse.Namespace) -> int:
    check_output(options.output, "-o")
    session, project = open_session(options)
    manifest = project.manifest(session.plugins.kinds)
    lock = project.lock(session.store)
    tag = (
        options.tag or f"{manifest.project.name}:{re.sub('[^A-Za-z0-9_.-]', '-', manifest.project.version or 'latest')}"
    )
    Reference.parse(tag)
    name = next(iter(manifest.select(options.target).targets))
    ensure_fresh(session, manifest, lock, str(project.lock_path), name)
    wants_image = options.format != "rootfs"
    wish = Wish(target=name, image=wants_image, with_code=options.with_code)
    realized = realize(session, project, manifest, lock, wish)
    for item in realized.environment.outside:
        session.reporter.say(f"layer {item.layer.name} is placed in the project, and is not in what is exported")
    staged = options.output.with_name(f".{options.output.name}.new")
    remove(staged)
    try:
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
