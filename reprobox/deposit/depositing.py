"""The way of a deposit: a draft, its DOI, its metadata, its files, and, where somebody agrees, its publication.

Every step is remembered before the next begins, and looked up before it is done: a command that was cut off is run
again, sends what is missing, and publishes nothing twice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from reprobox.deposit.files import File
from reprobox.deposit.invenio import AGAIN, SANDBOX, Draft, Invenio
from reprobox.deposit.memory import DRAFT, GONE, PUBLISHED, Deposit, Memory, alone, recall
from reprobox.deposit.metadata import check_complete, metadata
from reprobox.deposit.written_back import paper_of, write_doi
from reprobox.digest import Json
from reprobox.download.transfer import Watch
from reprobox.errors import DepositError, IntegrityError, UsageError
from reprobox.manifest import Manifest
from reprobox.project import Project


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """What is to be deposited: ``kind`` is InvenioRDM's resource type. ``version_of`` is the id of a published record
    of which it is the next version; empty with ``new_version`` means the one that is remembered."""

    files: tuple[File, ...]
    kind: str = "software"
    publisher: str = ""
    publish: bool = False
    new_version: bool = False
    version_of: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Deposited:
    """What became of it. ``sent`` are names of files that had to be sent, ``also`` of those that were there besides;
    ``written`` the project's files that have the DOI now; ``already`` that it was published before, just so."""

    deposit: Deposit
    sent: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    written: tuple[Path, ...] = ()
    already: bool = False


@dataclass(frozen=True, kw_only=True)
class Depositing:
    """One deposit of a project. ``say`` tells what happens; ``agreed`` is asked before anything is published."""

    archive: Invenio
    project: Project
    manifest: Manifest
    say: Callable[[str], None]
    agreed: Callable[[Deposit], bool]
    watch: Watch

    def deposit(self, wish: Wish) -> Deposited:
        """Do what is wished. Raises :class:`ManifestError` for missing metadata, before anything is sent;
        :class:`DepositError` for what the archive refuses, :class:`IntegrityError` for what arrived otherwise."""
        check_complete(self.manifest.project, str(self.project.manifest_path))
        with alone(self.project.root):
            return self._deposit(wish)

    def _deposit(self, wish: Wish) -> Deposited:
        memory = recall(self.project.root)
        memory.check_writable()
        memory, found = self._begun(memory, wish)
        if found.state == PUBLISHED:
            return self._already(found, wish.files)
        draft = self._with_doi(found)
        found = replace(found, doi=draft.doi, page=draft.page or found.page)
        memory = memory.with_deposit(found)
        paper = paper_of(self.manifest, memory.dois())
        written = self._write_back(draft.doi, paper)
        draft = self.archive.update(draft, self.metadata(wish, paper))
        memory, found, sent, also = self._send(memory, found, wish.files)
        if wish.publish:
            found = self._publish(found, draft, wish.files)
            memory.with_deposit(found)
        return Deposited(deposit=found, sent=sent, also=also, written=written)

    def metadata(self, wish: Wish, paper: str) -> dict[str, Json]:
        """What the archive is told."""
        today = datetime.now(UTC).strftime("%Y-%m-%d")
        return metadata(self.manifest.project, kind=wish.kind, date=today, publisher=wish.publisher, paper=paper)

    # -- which draft

    def _begun(self, memory: Memory, wish: Wish) -> tuple[Memory, Deposit]:
        """The draft to go on with: the one that is remembered and still there, else a new one; or what is published."""
        server = self.archive.server
        latest = memory.latest(server)
        begun = latest is not None and latest.state == DRAFT
        if latest is not None and begun:
            found = self._looked_up(latest)
            if found is None:
                self.say(f"the draft {latest.id} is no longer there: a new one is made")
                memory = memory.with_deposit(replace(latest, state=GONE))
                latest = memory.latest(server)
            else:
                latest = found
                memory = memory.with_deposit(found)
        if latest is not None and latest.state == DRAFT:
            self.say(f"going on with the draft {latest.id}")
            return memory, latest
        if latest is not None and (not wish.new_version or _is_done(latest, wish.files, begun=begun)):
            return memory, latest
        if wish.new_version:
            return self._next(memory, latest, wish)
        draft = self._created(wish, memory.dois())
        return self._remembered(memory, draft)

    def _looked_up(self, latest: Deposit) -> Deposit | None:
        """What became of a draft that is remembered: somebody may have published or deleted it on the web."""
        draft = self.archive.draft(latest.id)
        if draft is None or draft.published:
            draft = self.archive.record(latest.id)
        if draft is None:
            return None
        doi, page = draft.doi or latest.doi, draft.page or latest.page
        return replace(latest, state=PUBLISHED if draft.published else DRAFT, doi=doi, page=page)

    def _next(self, memory: Memory, latest: Deposit | None, wish: Wish) -> tuple[Memory, Deposit]:
        record = wish.version_of or (latest.id if latest else "")
        if not record:
            hint = "give the id of its record: --new-version 1234567; or leave the option out for a first deposit"
            raise UsageError("no earlier version is remembered here", where=str(memory.path), hint=hint)
        draft = self.archive.new_version(record)
        self.say(f"a new version of {record}: the draft {draft.id}")
        return self._remembered(memory, draft)

    def _created(self, wish: Wish, ours: Collection[str]) -> Draft:
        try:
            draft = self.archive.create(self.metadata(wish, paper_of(self.manifest, ours)))
        except DepositError as error:
            if error.hint == AGAIN and error.code == 0:  # perhaps it was made: seen by nobody else, and can be deleted
                hint = "run it again; if your page there shows a draft that is empty, delete it"
                raise DepositError(error.message, where=error.where, hint=hint) from None
            raise
        self.say(f"the draft {draft.id}")
        return draft

    def _remembered(self, memory: Memory, draft: Draft) -> tuple[Memory, Deposit]:
        new = Deposit(server=self.archive.server, id=draft.id, state=DRAFT, doi=draft.doi, page=draft.page)
        return memory.with_deposit(new), new

    def _already(self, found: Deposit, files: Collection[File]) -> Deposited:
        """The same files again are nothing to do; others are another version."""
        if all(found.files.get(item.name) == item.md5 for item in files):
            return Deposited(deposit=found, already=True)
        raise DepositError(
            f"it is published already as {found.doi or found.id}, and what is published does not change",
            where=found.page or self.archive.server,
            hint="deposit these files as its next version: --new-version",
        )

    # -- what is in it

    def _with_doi(self, found: Deposit) -> Draft:
        draft = self.archive.draft(found.id)
        if draft is None:
            raise DepositError("its draft is gone", where=self.archive.server, hint="run it again for a new one")
        if draft.doi:
            return draft
        reserved = self.archive.reserve(found.id)
        self.say(f"the DOI {reserved.doi} is reserved")
        return reserved

    def _write_back(self, doi: str, paper: str) -> tuple[Path, ...]:
        if not doi:
            return ()
        if self.archive.server == SANDBOX:
            self.say(f"the DOI {doi} is the sandbox's, and is written nowhere")
            return ()
        if paper and paper.lower() != doi.lower():
            self.say(f"research.toml keeps the DOI {paper}; the deposit says that it belongs to that")
            return ()
        return write_doi(self.project.manifest_path, doi)

    def _send(
        self, memory: Memory, found: Deposit, files: Collection[File]
    ) -> tuple[Memory, Deposit, tuple[str, ...], tuple[str, ...]]:
        there = self.archive.files(found.id)
        sent = []
        for item in files:
            held = there.pop(item.name, None)
            if held is not None and held.complete and (held.md5, held.size) == (item.md5, item.size):
                self.say(f"{item.name} is there already")
            else:
                if held is not None:
                    self.archive.delete_file(found.id, item.name)
                self._upload(found, item)
                sent.append(item.name)
            found = replace(found, files={**found.files, item.name: item.md5})
            memory = memory.with_deposit(found)
        return memory, found, tuple(sent), tuple(sorted(there))

    def _upload(self, found: Deposit, item: File) -> None:
        self.say(f"sending {item.name} ({item.size} bytes)")
        held = self.archive.upload(found.id, item.name, item.path, self.watch)
        if (held.md5, held.size) == (item.md5, item.size):
            return
        with suppress(DepositError):  # the next attempt would delete it, too
            self.archive.delete_file(found.id, item.name)
        raise IntegrityError(
            f"{item.name} arrived with the md5 {held.md5 or 'of nothing'} and {held.size} bytes, and has"
            f" {item.md5} and {item.size} here",
            where=self.archive.server,
            hint="it was taken away there: run the command again",
        )

    # -- for ever

    def _publish(self, found: Deposit, draft: Draft, files: Collection[File]) -> Deposit:
        if not files and not found.files:
            raise UsageError("nothing was deposited yet", hint="give the files that are to be published")
        if draft.wrong:
            listed = "".join(f"\n  {line}" for line in draft.wrong)
            hint = "mend it in research.toml, or on the page of the draft"
            raise DepositError(f"the archive finds its metadata wrong:{listed}", where=found.page, hint=hint)
        if not self.agreed(found):
            self.say("it stays a draft")
            return found
        try:
            done = self.archive.publish(found.id)
        except DepositError:
            settled = self._settled(found)  # an answer may be lost although it was done
            if settled is None:
                raise
            done = settled
        return replace(found, state=PUBLISHED, doi=done.doi or found.doi, page=done.page or found.page)

    def _settled(self, found: Deposit) -> Draft | None:
        with suppress(DepositError):
            record = self.archive.record(found.id)
            return record if record is not None and record.published else None
        return None


def _is_done(latest: Deposit, files: Collection[File], *, begun: bool) -> bool:
    """Whether the next version is what is published already: the same command, run again, makes no version more.

    A draft that was ``begun`` here and is published now may have files that other commands sent.
    """
    wanted = {item.name: item.md5 for item in files}
    return bool(wanted) and (wanted.items() <= latest.files.items() if begun else wanted == latest.files)
