"""What ``add`` and ``remove`` share: the manifest is edited, locked again, and put back if that cannot be done."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from reprobox.cli.lock import relock, summary
from reprobox.cli.options import add_builder_option, add_mount_option, add_network_options, mounts_given
from reprobox.cli.session import open_session
from reprobox.errors import ReproboxError, UsageError
from reprobox.layers.pip import requirement
from reprobox.manifest_edit import Done, NameOf
from reprobox.manifest_reader import MAX_BYTES, parse
from reprobox.project import Project
from reprobox.session import Session
from reprobox.table_rules import Check
from reprobox.value_checks import apt_package

KINDS: dict[str, Check] = {"apt": apt_package, "pip": requirement}
Change = Callable[[str], tuple[str, tuple[Done, ...]]]


def configure(parser: argparse.ArgumentParser, words: str) -> None:
    parser.add_argument("kind", metavar="KIND", choices=sorted(KINDS), help="apt or pip")
    parser.add_argument("packages", metavar="NAME", nargs="+", help=words)
    parser.add_argument("--layer", metavar="NAME", help="the layer, where the manifest has several of the kind")
    parser.add_argument("--no-lock", action="store_true", help="only edit the manifest")
    add_mount_option(parser)
    add_network_options(parser)
    add_builder_option(parser)


def name_of(kind: str) -> NameOf:
    """How the kind spells a package's name: Debian's with its architecture, Python's as PEP 503 normalises it."""
    return _python_name if kind == "pip" else lambda text: text.partition("=")[0]


def _python_name(text: str) -> str:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    return canonicalize_name(Requirement(text).name)


def check(kind: str, packages: Sequence[str]) -> None:
    """Refuse what is no package. Raises :class:`UsageError`."""
    for package in packages:
        finding = KINDS[kind].find(package)
        if finding is not None:
            raise UsageError(finding.message, where=f"{kind} package", hint=finding.hint)


def edit(options: argparse.Namespace, change: Change) -> int:
    """Change the manifest, and lock; the manifest is as it was, byte for byte, where that fails."""
    session, project = open_session(options)
    path = project.manifest_path.resolve()
    project.manifest(session.plugins.kinds)  # a manifest that is wrong already is told as it is
    before = path.read_bytes()
    after, done = _changed(before, change)
    manifest = parse(after, kinds=session.plugins.kinds, file=str(project.manifest_path))
    if options.no_lock:
        _write(path, after)
        _tell(options, done, None)
        return 0
    with replace_manifest(session, project, after):
        lock, changed = relock(session, project, manifest, mounts=mounts_given(options.mount))
    _tell(options, done, summary(lock, changed=changed))
    return 0


@contextlib.contextmanager
def replace_manifest(session: Session, project: Project, data: bytes) -> Iterator[None]:
    """Write another manifest; the old one is there again, byte for byte, if what is done with it fails."""
    path = project.manifest_path.resolve()
    before = path.read_bytes()
    try:
        _write(path, data)
        yield
    except BaseException:
        _write(path, before)
        session.reporter.say(f"{project.manifest_path.name} is left as it was")
        raise


def with_text(data: bytes, change: Callable[[str], str]) -> bytes:
    """The same file with other text: what stands before it and how its lines end stay."""
    return _changed(data, lambda text: (change(text), ()))[0]


def _changed(data: bytes, change: Change) -> tuple[bytes, tuple[Done, ...]]:
    text = data.decode("utf-8-sig")
    mark = data[: len(data) - len(text.encode())]
    windows = text.count("\r\n")
    if windows and windows != text.count("\n"):
        raise UsageError(
            "some lines end as on Windows, and some do not",
            where="research.toml",
            hint="save it with one kind of line end",
        )
    text, done = change(text.replace("\r\n", "\n"))
    edited = mark + (text.replace("\n", "\r\n") if windows else text).encode()
    if len(edited) > MAX_BYTES:
        raise UsageError("the manifest would be larger than 1 MiB", where="research.toml", hint="add fewer packages")
    return edited, done


def _write(path: Path, data: bytes) -> None:
    """Readers see the old manifest or the new one; its mode stays."""
    if path.read_bytes() == data:
        return
    staged = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with staged.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        staged.chmod(path.stat().st_mode & 0o7777)
        staged.replace(path)
    except OSError as error:
        raise ReproboxError(
            f"it cannot be written: {error.strerror}", where=str(path), hint="its folder must be writable"
        ) from None
    finally:
        staged.unlink(missing_ok=True)


def _tell(options: argparse.Namespace, done: Sequence[Done], lock: tuple[dict[str, Any], list[str]] | None) -> None:
    if options.json:
        changes = [{"change": item.what, "package": item.package, "layer": item.layer} for item in done]
        print(json.dumps({"packages": changes, "lock": lock[0] if lock else None}))
        return
    words = {"added": "added {} to layer {}", "changed": "{} in layer {} now", "removed": "removed {} from layer {}"}
    for item in done:
        print(words.get(item.what, "{} is in layer {} already").format(item.package, item.layer))
    for line in lock[1] if lock else ():
        print(line)
