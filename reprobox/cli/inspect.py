"""``reprobox inspect``"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from reprobox import __version__, launch
from reprobox.attach.pdf import is_pdf
from reprobox.backend import Realization
from reprobox.cli.inspected import nothing_known, project_of, shown_as
from reprobox.cli.options import add_backend_option
from reprobox.cli.report import human
from reprobox.cli.session import open_session, open_store
from reprobox.cli.subject import PDF, add_git_option, is_image, subject_of
from reprobox.config import load
from reprobox.environment import Environment, assemble
from reprobox.errors import BackendError, UsageError
from reprobox.freshness import ensure_fresh
from reprobox.image import rfc3339
from reprobox.lock import FILE_NAME, Lock, LockedTarget
from reprobox.lock_text import lock_digest
from reprobox.manifest import Manifest
from reprobox.plugins import Plugins
from reprobox.project import Project
from reprobox.realize import settings_of
from reprobox.session import Session, available

DETAILS = """\
Of a project: the image, the lock that it is of, the layers that it is made of, and what the backend holds. Nothing is
built or fetched; what is not in the store yet has no digests. SOURCE may also be something that a backend holds and
reprobox need not have made, such as a SIF file or the name of an image: then its labels are shown. Of an OCI layout, an
oci-archive or a docker-archive it shows the image; of a folder into which a system was unpacked, which system that is,
its packages and its tree digest. Of a PDF, an image in a registry or a commit (--git) it shows what is attached; exit 5
if that does not belong together.

examples:
  reprobox inspect
  reprobox inspect --backend docker --json
  reprobox inspect --backend singularity xor.sif
  reprobox inspect --backend docker debian:bookworm
  reprobox inspect layout/
  reprobox inspect rootfs/
  reprobox inspect paper.pdf
  reprobox inspect registry.example/lab/xor:1.0"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "subject",
        nargs="?",
        metavar="SOURCE",
        help="a project or its lock, a PDF, an image, its layout or archive, the folder of a system, or what the"
        " backend calls its own",
    )
    add_git_option(parser, "show what is attached to the commit that TAG names")
    parser.add_argument("--target", metavar="NAME", help="the target, where the manifest has several")
    add_backend_option(parser, "holds the environment")


def execute(options: argparse.Namespace) -> int:
    if kind := _carrier(options):
        return _attached(options, kind)
    source = options.subject and Path(options.subject)
    if source and (shown := shown_as(source)):
        return _tell(options, shown.describe(source), shown.show)
    document = _foreign(options) if source and not _is_project(source) else _project(options, source or None)
    return _tell(options, document, _print)


def _carrier(options: argparse.Namespace) -> str:
    """The kind of thing that files may be attached to, if it is one."""
    text = options.subject or ""
    if options.git or (is_image(text) and ("://" in text or options.backend == launch.SANDBOX)):
        return subject_of(options)
    return PDF if text and (text.endswith(".pdf") or is_pdf(Path(text))) else ""


def _attached(options: argparse.Namespace, kind: str) -> int:
    from reprobox.cli.attached import describe, show, status

    document = describe(options, kind, Plugins().kinds)
    if options.json:
        print(json.dumps(document))
    else:
        show(document)
    return status(document)


def _tell(options: argparse.Namespace, document: dict[str, Any], show: Callable[[dict[str, Any]], None]) -> int:
    if options.json:
        print(json.dumps(document))
    else:
        show(document)
    return 0


def _is_project(path: Path) -> bool:
    return path.is_dir() or path.suffix == ".toml" or (path.name == FILE_NAME and path.is_file())


def _foreign(options: argparse.Namespace) -> dict[str, Any]:
    """The labels of something that the backend can read."""
    if options.backend == launch.SANDBOX:  # it holds folders of layers, which have no labels
        raise nothing_known(options.subject)
    backend = available(Plugins().backend(options.backend), open_store(load(), options.reporter.say))
    place = str(Path(options.subject).absolute()) if Path(options.subject).exists() else options.subject
    there = Realization(location=place)
    if not backend.has(there):
        raise UsageError(
            f"{options.backend} has nothing of that name", where=options.subject, hint="look how it is spelled"
        )
    return {"backend": options.backend, "location": place, "there": True, "labels": dict(backend.inspect(there))}


def _project(options: argparse.Namespace, source: Path | None) -> dict[str, Any]:
    if source and (source.is_dir() or source.name == FILE_NAME):
        source = project_of(source)
    session, project = open_session(options, source)
    if source and source.is_dir() and source.resolve() != project.root.resolve():
        options.reporter.say(f"{source} is in the project {project.root}, which is shown")
    manifest = project.manifest(session.plugins.kinds)
    lock = project.lock(session.store)
    selected = manifest.select(options.target)
    name = next(iter(selected.targets))
    ensure_fresh(session, manifest, lock, str(project.lock_path), name)
    target = lock.targets[name]
    environment = _built(session, selected, target, lock.epoch)
    return {
        "reprobox": __version__,
        "project": manifest.project.name,
        "target": name,
        "platform": target.platform,
        "image": _image(environment) if environment else None,
        "lock": _lock(lock, target, project),
        "layers": _layers(session, target),
        "held": _held(session, project, options),
    }


def _built(session: Session, manifest: Manifest, target: LockedTarget, epoch: int) -> Environment | None:
    """The environment, if every layer of it is in the store."""
    if any(session.store.layer(layer.id) is None for layer in target.layers):
        return None
    return assemble(session.store, target, epoch, settings_of(manifest, target))


def _image(environment: Environment) -> dict[str, Any]:
    settings = environment.image.settings
    return {
        "image_digest": f"sha256:{environment.image_digest}",
        "tree_digest": f"sha256:{environment.tree_digest}",
        "created": rfc3339(environment.image.epoch),
        "entrypoint": list(settings.entrypoint),
        "command": list(settings.command),
        "workdir": settings.workdir,
        "user": settings.user,
        "environment": dict(settings.environment),
        "labels": dict(settings.labels),
    }


def _lock(lock: Lock, target: LockedTarget, project: Project) -> dict[str, Any]:
    seal = target.seal
    return {
        "path": str(project.lock_path),
        "digest": f"sha256:{lock_digest(lock)}",
        "manifest": f"sha256:{lock.manifest}",
        "epoch": lock.epoch,
        "seal": {"image_digest": seal.image_digest, "tree_digest": seal.tree_digest} if seal else None,
    }


def _layers(session: Session, target: LockedTarget) -> list[dict[str, Any]]:
    unpinned = target.unpinned()
    rows = []
    for layer in target.layers:
        stored = session.store.layer(layer.id)
        record = stored.record if stored is not None else {}
        rows.append(
            {
                "name": layer.name,
                "kind": layer.kind,
                "recipe": layer.recipe,
                "id": f"sha256:{layer.id}",
                "diff_id": f"sha256:{record['diff_id']}" if record else None,
                "size": record.get("size"),
                "inputs": len(layer.inputs),
                "pinned": layer.name not in unpinned,
            }
        )
    return rows


def _held(session: Session, project: Project, options: argparse.Namespace) -> dict[str, Any]:
    """What the backend has of it, by the record that `realize` left."""
    path = launch.record_path(str(session.store.root), str(project.root), options.target or "", options.backend)
    record = launch.read(path)
    nothing = {"backend": options.backend, "location": None, "there": False, "current": False, "labels": {}}
    backend = session.plugins.backend(options.backend)
    if record is None:
        return nothing
    realization = Realization(location=record["result"]["location"], trees=tuple(map(Path, record["trees"])))
    held = nothing | {"location": realization.location}
    try:
        backend = available(backend, session.store)
    except BackendError as error:
        return held | {"problem": error.message}
    if not backend.has(realization):
        return held
    current = launch.is_current(record, str(project.manifest_path))
    return held | {"there": True, "current": current, "labels": dict(backend.inspect(realization))}


# -- in words ----------------------------------------------------------------------------------------------------------


def _print(document: Mapping[str, Any]) -> None:
    if "project" not in document:
        print(f"{document['location']}, held by {document['backend']}")
        _pairs("labels", document["labels"])
        return
    print(f"{document['project']}, target {document['target']}, {document['platform']}")
    _print_image(document["image"])
    lock = document["lock"]
    print(f"lock          {lock['digest']}, epoch {rfc3339(lock['epoch'])}{', sealed' if lock['seal'] else ''}")
    print(f"manifest      {lock['manifest']}")
    for layer in document["layers"]:
        size = human(layer["size"]) if layer["size"] is not None else "not built"
        note = "" if layer["pinned"] else ", not pinned"
        print(f"layer         {layer['name']:16} {layer['kind']:10} {size:>9}  {layer['id'][:19]}…{note}")
    _print_held(document["held"])


def _print_image(image: Mapping[str, Any] | None) -> None:
    if image is None:
        print("image         not built here: `reprobox realize` does")
        return
    print(f"image digest  {image['image_digest']}\ntree digest   {image['tree_digest']}")
    for name in ("entrypoint", "command"):
        if image[name]:
            print(f"{name:13} {_words(image[name])}")
    print(f"workdir       {image['workdir'] or '/'}")
    _pairs("environment", image["environment"])
    _pairs("labels", image["labels"])


def _print_held(held: Mapping[str, Any]) -> None:
    if "problem" in held:
        print(f"{held['backend']:13} cannot be asked: {held['problem']}")
    elif not held["there"]:
        print(f"{held['backend']:13} does not hold it: `reprobox realize --backend {held['backend']}`")
    else:
        old = "" if held["current"] else ", which is of an earlier state of the project"
        print(f"{held['backend']:13} holds it at {held['location']}{old}")
        _pairs("its labels", held["labels"])


def _pairs(title: str, pairs: Mapping[str, str]) -> None:
    for number, (name, value) in enumerate(sorted(pairs.items())):
        print(f"{title if number == 0 else '':13} {name}={value}")


def _words(argv: Sequence[str]) -> str:
    import shlex

    return shlex.join(argv)
