"""``reprobox realize``"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reprobox import crate_files, launch
from reprobox.cli.held import held
from reprobox.cli.options import (
    add_backend_option,
    add_builder_option,
    add_network_options,
    add_requires_option,
    check_output,
)
from reprobox.cli.report import human, on_one_line
from reprobox.errors import UsageError

if TYPE_CHECKING:
    from reprobox.sources.description import Description
    from reprobox.sources.source import Source

DETAILS = """\
Builds what the store lacks, from the lock alone, and never locks by itself. A project that is not a folder of yours is
brought into a new folder, checked and shown; nothing of it is built or run before you agree. `reprobox show SOURCE`
only shows it.

examples:
  reprobox realize                      the project in this folder
  reprobox realize ../paper             another project
  reprobox realize paper.zip            a project out of a crate, into a new folder
  reprobox realize vault.tar --offline  the same out of a vault, from nothing else
  reprobox realize --offline            from the store alone
  reprobox realize --output rootfs      write the whole file system to a new folder
  reprobox realize --ignore-requires    build here what only another machine can run"""

_FILES = {".sif": "singularity", ".sqfs": "singularity", ".tar": "docker"}  # what writes which, of what is our own
_FEW = 3  # names that stand for all


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", nargs="?", metavar="SOURCE", help="a project's folder, a crate, a vault")
    parser.add_argument("--target", metavar="NAME", help="the target, where the manifest has several")
    add_backend_option(parser, "holds the environment")
    parser.add_argument("--output", metavar="PATH", type=Path, help="also write the file system to this new folder")
    parser.add_argument("--with-code", action="store_true", help="bake the code in, as the last layer")
    add_requires_option(parser)
    add_builder_option(parser)
    add_network_options(parser)
    _add_consent_options(parser)


def _add_consent_options(parser: argparse.ArgumentParser) -> None:
    others = parser.add_argument_group("projects of others")
    others.add_argument("--into", metavar="DIR", type=Path, help="the new folder to put it into; its name if left out")
    others.add_argument("--lock", metavar="NAME", default="", help="which of several locks that a vault keeps")
    others.add_argument("--yes", action="store_true", help="you know what it is: do not ask")
    others.add_argument(
        "--allow", metavar="NAME", action="append", default=[], help="let it have this, which is outside its folder"
    )


def execute(options: argparse.Namespace) -> int:
    if options.source and not _is_plainly_own(options.source):
        from reprobox.sources.source import understand

        source = understand(options.source)
        if not source.is_own:
            return _realize_other(options, source)
        options.source = source.place
    _refuse_consent_options(options)
    asks_more = options.output or options.with_code or options.builder != launch.default_builder()
    known = None if asks_more else _already(options)
    _show(options, known if known is not None else _realize(options))
    return 0


def _is_plainly_own(folder: str) -> bool:
    """Whether it is a project's folder, said quickly: others are looked into."""
    names = ("research.toml", crate_files.METADATA)
    return [os.path.isfile(os.path.join(folder, name)) for name in names] == [True, False]


def _refuse_consent_options(options: argparse.Namespace) -> None:
    for name in ("into", "lock", "allow"):
        if getattr(options, name):
            hint = "leave it out: your own project is used where it is"
            raise UsageError(f"--{name} is for projects of others", where=options.source or options.project, hint=hint)


def _realize_other(options: argparse.Namespace, source: Source) -> int:
    """Bring it here, have the reader agree, and go on as with an own project."""
    from reprobox.cli.obtaining import agree, destination, keep, looked_at

    if options.into is not None:
        check_output(options.into, "--into")
    place = (options.into or Path("x")).absolute().parent
    with looked_at(options, source, place, inputs=True) as looked:
        looked.documents.manifest.select(options.target)
        folder = destination(options, looked.description.name)
        agree(options, source, looked.description)
        keep(looked, folder)
        options.reporter.say(f"put into {folder}")
        given = {"source": str(folder), "vault": [*looked.obtained.vaults, *options.vault]}
        result = _realize(argparse.Namespace(**{**vars(options), **given}))
    _show(options, {**result, "project": str(folder.absolute())})
    if not options.json:
        print(f"project       {folder}")
        print(f"go on with    {_next(looked.description, folder)}")
    return 0


def _next(description: Description, folder: Path) -> str:
    import shlex

    asked = [f"--mount {shlex.quote(item.target)}=PATH" for item in description.mounts if item.to_give]
    command = "run" if description.command else "shell"
    return on_one_line(" ".join(["reprobox", command, "-C", shlex.quote(str(folder)), *asked]))


def _realize(options: argparse.Namespace) -> Mapping[str, Any]:
    from reprobox.cli.requires import check_requires
    from reprobox.cli.session import open_session
    from reprobox.freshness import ensure_fresh
    from reprobox.locked_data import check_data
    from reprobox.realize import Wish, realize

    if options.output is not None:
        check_output(options.output, "--output")
        _check_form(options.output, options.backend)
    session, project = open_session(options, Path(options.source) if options.source else None)
    if session.builder.name == options.backend:  # it is tried in any case: a process does so while files are read
        session.ahead.begin("the builder", session.builder.probe)
    try:
        manifest = project.manifest(session.plugins.kinds)
        lock = project.lock(session.store)
        selected = manifest.select(options.target)
        name = next(iter(selected.targets))
        ensure_fresh(session, manifest, lock, str(project.lock_path), name)
        check_data(session, manifest, lock, {}, needed=False)
        check_requires(options, selected, session.store, [("store", session.store.root)])
        wish = Wish(target=name, backend=options.backend, output=options.output, with_code=options.with_code)
        return realize(session, project, manifest, lock, wish).result
    finally:
        session.ahead.stop()


def _check_form(output: Path, backend: str) -> None:
    """A name that asks for a file is no name for a folder. Plugins of others decide for themselves."""
    meant = _FILES.get(output.suffix)
    if meant not in (None, backend) and backend in ("sandbox", *_FILES.values()):
        raise UsageError(
            f"{backend} would make a folder of this name",
            where=str(output),
            hint=f"give --backend {meant} for the file, or a name without {output.suffix} for the folder",
        )


def _already(options: argparse.Namespace) -> Mapping[str, Any] | None:
    """What an earlier run found, if manifest, lock and layers are as they were: nothing to do, and quickly."""
    folder = os.path.abspath(options.source or options.project)
    manifest = os.path.join(folder, "research.toml")
    path = launch.record_path(launch.store_root(), folder, options.target or "", options.backend)
    record = launch.read(path)
    if record is None or not launch.is_current(record, manifest):
        return None
    if any(mount.get("digest") for mount in record["mounts"].values()):
        return None  # its data is looked at
    if not launch.suits(record, launch.store_root(), [launch.store_root()]):
        return None
    if not held(record, launch.store_root()):
        return None
    result: dict[str, Any] = record["result"]
    return {**result, "layers": [{**layer, "cached": True, "seconds": 0} for layer in result["layers"]]}


def _dropped(told: Sequence[str]) -> Iterator[str]:
    """What was left out of a layer, a line for each reason."""
    paths: dict[str, list[str]] = {}
    for line in told:
        path, _, reason = line.partition(": ")
        paths.setdefault(reason, []).append(path)
    for reason, found in paths.items():
        more = f" and {len(found) - _FEW} more (--json has all)" if len(found) > _FEW else ""
        count = f" ({len(found)} files)" if len(found) > 1 else ""
        yield f"{', '.join(found[:_FEW])}{more}: {reason}{count}"


def _taken(source: str) -> str:
    return f"taken from {source}" if source.startswith("the vault ") else "taken from the remote"


def _show(options: argparse.Namespace, result: Mapping[str, Any]) -> None:
    if options.json:
        print(json.dumps(result))
        return
    for layer in result["layers"]:
        place = f"shared: {layer['shared']}" if "shared" in layer else "in the store"
        verb = _taken(layer["remote"]) if "remote" in layer else "built"
        done = place if layer["cached"] else f"{verb} in {layer['seconds']:.1f} s"
        note = "" if layer.get("pinned", True) else ", not pinned: `reprobox lock --seal` pins it"
        note += f", in {layer['folder']}" if "folder" in layer else ""
        print(f"{layer['name']:16} {layer['kind']:10} {human(layer['size']):>9}  {done}{note}")
        for line in () if layer["cached"] else _dropped(layer["dropped"]):
            print(on_one_line(f"{'':16} left out: {line}"))
    print(f"tree digest   {result['tree_digest']}")
    print(f"image digest  {result['image_digest']}")
    print(f"location      {result['location']}")
