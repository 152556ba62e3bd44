"""Mending an outlook: a vault of the project, and the places that were found, named in the settings.

Identity is not supply: no byte of the lock changes.
"""

from __future__ import annotations

import os
import secrets
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reprobox import config
from reprobox.config_edit import with_places
from reprobox.errors import ReproboxError
from reprobox.lock import Input, Lock
from reprobox.manifest import Manifest
from reprobox.outlook.look import Outlook
from reprobox.project import Project
from reprobox.session import Session
from reprobox.vault.contents import Choice, Report, keep
from reprobox.vault.provider import open_vault
from reprobox.vault.remote import is_registry


@dataclass(frozen=True, kw_only=True, slots=True)
class Fixed:
    """What was done: the vault and what it keeps, the file with the settings, and what is new in it."""

    vault: str
    report: Report
    settings: Path
    vaults: tuple[str, ...]
    archives: Mapping[str, Sequence[str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """What to do: the vault to keep, and whether reprobox itself goes into it."""

    place: str
    tools: bool = True


def vault_place(session: Session, given: Sequence[str]) -> str:
    """The vault to keep: the first that was given, else the first of the settings that is on this machine, else a new
    one in the platform's data folder."""
    configured = [text for text in session.config.vaults if not is_registry(text)]
    for text in (*given, *configured):
        return text if is_registry(text) else str(Path(text).expanduser().absolute())
    import platformdirs

    return str(platformdirs.user_data_path("reprobox", appauthor=False) / "vault")


def fix(
    session: Session,
    project: Project,
    manifest: Manifest,
    lock: Lock,
    outlook: Outlook,
    lost: Sequence[Input],
    wish: Wish,
) -> Fixed:
    """Keep everything that is not ``lost`` in a vault, and name it and the mirrors found in the settings.

    Raises what keeping a vault does, and :class:`UsageError` for settings that cannot be edited.
    """
    place, names = wish.place, {item.sha256: item.name for item in lost}
    if not is_registry(place):
        Path(place).parent.mkdir(parents=True, exist_ok=True)
    report = keep(session, project, manifest, lock, place, Choice(tools=wish.tools), lost=names)
    vaults = () if _is_named(place, session.config.vaults) else (place,)
    archives = found_mirrors(session, outlook)
    path = config.place()
    if vaults or archives:
        edit(path, vaults, archives)
    vault = open_vault(place, session.registries)
    session.vaults = (vault, *(item for item in session.vaults if item.name != vault.name))
    return Fixed(vault=place, report=report, settings=path, vaults=vaults, archives=archives)


def found_mirrors(session: Session, outlook: Outlook) -> dict[str, list[str]]:
    """Archives that this machine or the base knows, and the settings do not: base URIs by the archive's name."""
    found: dict[str, list[str]] = defaultdict(list)
    for looked in outlook.inputs.values():
        name = looked.item.facts.get("archive", "")
        for standing in looked.standings:
            base = standing.supplier.base
            if standing.has and base and name and base not in (*session.config.archives.get(name, ()), *found[name]):
                found[name].append(base)
    return {name: uris for name, uris in sorted(found.items()) if uris}


def _is_named(place: str, configured: Sequence[str]) -> bool:
    known = {text if is_registry(text) else str(Path(text).expanduser().absolute()) for text in configured}
    return place in known


def edit(path: Path, vaults: Sequence[str], archives: Mapping[str, Sequence[str]]) -> None:
    """Add to the settings at ``path``: the file is replaced at once, where it really lies, and keeps its mode."""
    target = path.resolve()
    try:
        text = target.read_text("utf-8") if target.exists() else ""
        edited = with_places(text, vaults=vaults, archives=archives)
        config.check(edited, str(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        mode = target.stat().st_mode & 0o777 if target.exists() else 0o600
        staged = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        try:
            with open(staged, "x", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, mode)) as file:
                file.write(edited)
                file.flush()
                os.fsync(file.fileno())
            staged.replace(target)
        finally:
            staged.unlink(missing_ok=True)
    except OSError as error:
        hint = f"write this into it yourself: vaults = {list(vaults)}"
        raise ReproboxError(f"the settings cannot be written: {error.strerror}", where=str(path), hint=hint) from None
