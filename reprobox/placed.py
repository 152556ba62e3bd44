"""Layers in the project's folder: virtual environments that the image knows nothing of.

Such a layer is built like any other, at the place where the code is mounted, and kept in the store. Here it is copied
from there into the project, whenever the one that is there is another.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

from reprobox.environment import Environment, Outside
from reprobox.errors import LockError, ReproboxError
from reprobox.session import Session
from reprobox.tree import remove

#: The folder of a project that is reprobox's own; never code.
FOLDER = ".reprobox"
#: What says which layer a virtual environment is.
MARK = "reprobox-layer"


def place(session: Session, environment: Environment) -> list[Path]:
    """Have every layer that belongs into the project's folder there; returns the files that say which they are.

    Raises :class:`ReproboxError` where the project cannot be written.
    """
    return [_place(session, item) for item in environment.outside]


def variables(environment: Environment, declared: Mapping[str, str], default_path: str) -> dict[str, str]:
    """What a command must see besides what is ``declared``, so that it uses the virtual environments."""
    places = [str(item.layer.options["venv"]) for item in environment.outside]
    if not places:
        return {}
    path = ":".join([*(f"{place}/bin" for place in places), declared.get("PATH", default_path)])
    return {"VIRTUAL_ENV": places[0], "PATH": path}


def _place(session: Session, item: Outside) -> Path:
    folder, venv = _checked(session.project, item)
    mark = folder / MARK
    source = item.stored.tree / venv.lstrip("/")
    with session.store.working_on(f"placed-{item.layer.id}"):
        if _marked(mark) == item.layer.id:
            return mark
        session.reporter.say(f"putting {item.layer.name} into {item.layer.facts['folder']}")
        try:
            _copy(source, folder, item.layer.id)
        except OSError as error:
            raise ReproboxError(
                f"layer {item.layer.name!r} cannot be put into the project: {error.strerror}",
                where=str(folder),
                hint='make the project\'s folder writable, or leave `placement = "project"` out',
            ) from None
    return mark


def _checked(project: Path, item: Outside) -> tuple[Path, str]:
    """The folder that is replaced, and where the layer has it. A lock can be anybody's, and says both.

    Raises :class:`LockError` for what is no place of ours.
    """
    said, venv = str(item.layer.facts["folder"]), str(item.layer.options["venv"])
    name = os.path.basename(said)
    plain = os.path.normpath(said) == said and not said.startswith(("/", "..")) and os.path.normpath(venv) == venv
    own = os.path.basename(os.path.dirname(said)) == FOLDER and venv.endswith(f"/{FOLDER}/{name}")
    within_project = Path(os.path.realpath(project / os.path.dirname(said))).is_relative_to(os.path.realpath(project))
    if not (plain and own and within_project):
        raise LockError(
            f"layer {item.layer.name!r} would be put into {said!r}, and such layers go into {FOLDER} of the code",
            where=str(project),
            hint="take the lock from somebody you trust, or make it anew with `reprobox lock`",
        )
    return project / said, venv


def _marked(mark: Path) -> str:
    try:
        return mark.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def _copy(source: Path, folder: Path, identity: str) -> None:
    """A copy that appears as a whole; whoever looks sees the old one, or the new one."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    ignored = folder.parent / ".gitignore"
    if not ignored.exists():
        ignored.write_text("*\n", encoding="ascii")
    staged, old = (folder.with_name(f"{folder.name}.{word}-{secrets.token_hex(4)}") for word in ("new", "old"))
    try:
        if source.is_dir():
            shutil.copytree(source, staged, symlinks=True)
        else:  # nothing is in it
            staged.mkdir()
        (staged / MARK).write_text(f"{identity}\n", encoding="ascii")
        if os.path.lexists(folder):
            folder.rename(old)
        staged.rename(folder)
    finally:
        for leftover in (staged, old):
            remove(leftover)
