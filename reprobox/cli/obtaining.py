"""What comes from others, on the command line: brought here, checked, shown, and used once the reader agreed."""

from __future__ import annotations

import argparse
import os
import secrets
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from reprobox import config
from reprobox.cli.options import check_output
from reprobox.cli.report import on_one_line
from reprobox.cli.session import open_session, open_store
from reprobox.cli.telling import sentences
from reprobox.download.downloader import Downloader
from reprobox.errors import IntegrityError, ReproboxError, UsageError
from reprobox.oci.registry import Registries
from reprobox.sources.checked import Documents, check_files, code_state, read_documents
from reprobox.sources.description import Description, Origin, describe
from reprobox.sources.obtain import obtain
from reprobox.sources.obtained import Means, Obtained
from reprobox.sources.reach import Reach, reaches
from reprobox.sources.source import Source
from reprobox.tree import remove


@dataclass(frozen=True, kw_only=True, slots=True)
class Looked:
    """A source that was brought here and checked: what came, its manifest and lock, and what is to be said of it."""

    obtained: Obtained
    documents: Documents
    description: Description


def add_source_options(parser: argparse.ArgumentParser) -> None:
    """Options of verbs that take any SOURCE."""
    parser.add_argument("--lock", metavar="NAME", default="", help="which of several locks that a vault keeps")


def means_of(options: argparse.Namespace, *, inputs: bool) -> Means:
    """What may be used to get a source."""
    settings = config.load()
    downloader = Downloader(offline=getattr(options, "offline", False))
    return Means(
        store=open_store(settings, options.reporter.say),
        downloader=downloader,
        registries=Registries(downloader, settings.registries),
        reporter=options.reporter,
        lock=getattr(options, "lock", ""),
        resolver=settings.doi_resolver,
        inputs=inputs,
    )


@contextmanager
def looked_at(options: argparse.Namespace, source: Source, place: Path, *, inputs: bool) -> Iterator[Looked]:
    """Bring a source into a folder in ``place`` that is gone at the end, and check it. Nothing of it is run."""
    means = means_of(options, inputs=inputs)
    folder = place / f".reprobox-{secrets.token_hex(4)}"
    try:
        folder.mkdir(mode=0o700)
    except OSError as error:
        hint = "go to a folder that you may write, or give --into a place in one"
        raise UsageError(f"nothing can be put here: {error.strerror}", where=str(place), hint=hint) from None
    try:
        obtained = obtain(source, means, folder)
        yield look(options, source, obtained)
    finally:
        remove(folder)


def look(options: argparse.Namespace, source: Source, obtained: Obtained) -> Looked:
    """Check a project, and describe it."""
    given = argparse.Namespace(**{**vars(options), "project": str(obtained.folder / obtained.manifest), "vault": []})
    session, _ = open_session(given)
    kinds = session.plugins.kinds
    documents = read_documents(obtained.folder, kinds, session.store, source.text, obtained.manifest)
    found = reaches(documents.manifest, documents.lock, obtained.folder)
    if not found:  # else it is not even looked at what it leads to
        check_files(session, documents, source.text)
    code = code_state(obtained.folder, documents)
    origin = Origin(what=obtained.what, facts=obtained.facts, vaults=obtained.vaults, left_out=obtained.left_out)
    description = describe(origin, obtained.folder, documents, code, found, session.store)
    return Looked(obtained=obtained, documents=documents, description=description)


# -- the reader's word -------------------------------------------------------------------------------------------------

#: What --allow takes for code that is not the locked one.
CHANGED_CODE = "changed-code"


def agree(options: argparse.Namespace, source: Source, description: Description) -> None:
    """Show what it is, and go on only if the reader agrees. Raises :class:`UsageError` where he does not."""
    close = getattr(options.reporter, "close", None)
    if close is not None:
        close()
    if not (options.quiet and options.yes):
        for line in sentences(description, brief=True):
            print(line, file=sys.stderr)
    concerns = [*_changed_code(description), *description.reaches]
    unknown = sorted({*options.allow} - {concern.name for concern in concerns})
    if unknown:
        raise UsageError(f"there is nothing to allow by the name {unknown[0]!r}", hint=_names(concerns))
    left = [concern for concern in concerns if concern.name not in options.allow]
    if options.yes or not sys.stdin.isatty():
        _refuse(source, left, description)
        if not options.yes:
            raise UsageError(
                "nothing of it is built or run before you agree, and there is no terminal to ask on",
                where=source.text,
                hint="read what it is, and add --yes",
            )
        return
    for concern in left:
        _ask(f"{on_one_line(concern.key)}: {on_one_line(concern.message)}. Allow it?")
    _ask("Build this, and run its scripts?" if description.runs else "Build this?")


def _changed_code(description: Description) -> Iterator[Reach]:
    code = description.code
    if not code.locked:
        yield Reach(name=CHANGED_CODE, key="code", message=f"it is not what the lock pins: its tree is {code.tree}")


def _refuse(source: Source, left: Sequence[Reach], description: Description) -> None:
    if not left:
        return
    if not description.code.locked and left[0].name == CHANGED_CODE:
        raise IntegrityError(
            f"code: {left[0].message}",
            where=source.text,
            hint="get it again from where it was published; or, if you know why, add --allow changed-code",
        )
    listed = "".join(f"\n  {on_one_line(reach.key)}: {on_one_line(reach.message)}" for reach in left)
    names = " ".join(
        f"--allow {on_one_line(shlex.quote(name))}" for name in dict.fromkeys(reach.name for reach in left)
    )
    raise UsageError(
        f"it names what is outside its own folder, and is not yours:{listed}",
        where=source.text,
        hint=f"if you want that, say so by name: {on_one_line(names)}",
    )


def _names(concerns: Sequence[Reach]) -> str:
    names = list(dict.fromkeys(concern.name for concern in concerns))
    return (
        on_one_line(f"it can be {', '.join(names)}")
        if names
        else "leave --allow out: this names nothing outside its own folder"
    )


def _ask(question: str) -> None:
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline().strip().lower()
    if answer not in ("y", "yes"):
        raise ReproboxError("you did not agree: nothing was run, and nothing is kept")


# -- keeping it --------------------------------------------------------------------------------------------------------


def destination(options: argparse.Namespace, name: str) -> Path:
    """The new folder that a project is put into. Raises :class:`UsageError` where it cannot be made."""
    folder: Path = options.into if options.into is not None else Path(name)
    if os.path.lexists(folder) and options.into is None:
        raise UsageError(
            "there is a folder or file of the project's name already",
            where=str(folder),
            hint=f"if it is this project, go on in it with `reprobox realize {folder}`; else give --into another name",
        )
    check_output(folder, "--into")
    return folder


def keep(looked: Looked, folder: Path) -> None:
    """Make the project the reader's own."""
    looked.obtained.folder.chmod(0o755)
    try:
        looked.obtained.folder.rename(folder)
    except OSError as error:
        message = f"the project cannot be put there: {error.strerror}"
        raise UsageError(message, where=str(folder), hint="give --into another name") from None
