"""Which places have an input today: asked without sending it, over few connections, and left alone when they wish it.

Providers say the places; see :mod:`reprobox.providers`. A place is known as a *supplier*: what kind of place it is, and
whose rule it follows. All mirrors of an archive follow one rule, for they drop what the archive drops.
"""

from __future__ import annotations

import threading
import time
import urllib.parse
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from reprobox.crew import Crew, Errand, Silent
from reprobox.download.downloader import Downloader
from reprobox.download.transfer import Location, StatusError
from reprobox.errors import FetchError, IntegrityError, OfflineError, ReproboxError
from reprobox.lock import Input
from reprobox.providers import Provider
from reprobox.pypi import LABEL as INDEX
from reprobox.pypi import TYPES
from reprobox.store import Store
from reprobox.urls import local_path, without_password
from reprobox.vault.provider import LocalVault, RegistryVault

#: What a place may say: it has it; it has it no more, or never had; it has another file under this name; it does not
#: give it to us; it said nothing that could be used; it was not asked.
HAS, LOST, OTHER, REFUSED, SILENT, UNASKED = "has", "lost", "other", "refused", "silent", "unasked"
#: A service that wants to be asked over one connection is asked about so many inputs for which there is another place.
MOST_ALONE = 200
_OFFLINE = "the network may not be used"
_GONE = (404, 410)
_CLOSED = (401, 403, 451)
#: Kinds of places by the name of the provider that knows them.
_KINDS = {
    "package mirrors": "mirror",
    "package archives": "archive",
    "archives of the base": "archive",
    INDEX: "index",
    "registry": "registry",
    "manifest": "url",
    "git": "git",
    "archive": "folder",
    "sif": "folder",
    "container engine": "engine",
}
_SEEN = "seen before"
#: Kinds that copy another place: the rule that they follow is that one's.
_COPIES = {"mirror": "archive"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Supplier:
    """A place and what it says of one input. ``authority`` is whose rule it follows; ``said`` is in its words.

    ``base`` is where an archive begins, for those that could be named in the settings.
    """

    kind: str
    place: str
    authority: str
    state: str
    said: str = ""
    base: str = ""

    @property
    def follows(self) -> str:
        """The kind of place whose rules hold for it."""
        return _COPIES.get(self.kind, self.kind)


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One supplier and one input: places of it that are asked in turn, until one has it."""

    item: Input
    kind: str
    authority: str
    places: tuple[Location, ...]

    @property
    def origin(self) -> str:
        """The server; nothing for what is on this machine."""
        return _origin(self.places[0])

    @property
    def alone(self) -> bool:
        return any(place.alone for place in self.places)


@dataclass(kw_only=True)
class Asker:
    """Asks for one command. ``remembered`` has earlier answers by URL, and takes the new ones."""

    store: Store
    downloader: Downloader
    project: Path
    say: Callable[[str], None]
    jobs: int = 8
    thorough: bool = False
    remembered: MutableMapping[str, tuple[str, str]] = field(default_factory=dict)
    asked: int = 0
    _closed: dict[str, str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def suppliers(self, inputs: Sequence[Input], providers: Sequence[Provider]) -> dict[str, list[Supplier]]:
        """What every place says of every input, by sha256; those on this machine first."""
        found: dict[str, list[Supplier]] = {item.sha256: list(self._in_store(item)) for item in inputs}
        questions = list(self._all_questions(inputs, providers, found))
        near = [question for question in questions if not question.origin]
        far = [question for question in questions if question.origin and not question.alone]
        self._ask(near, found)
        self._ask(far, found)
        self._ask_alone([question for question in questions if question.alone], found)
        return found

    # -- whom to ask ---------------------------------------------------------------------------------------------------

    def _in_store(self, item: Input) -> Iterator[Supplier]:
        if self.store.has_blob(item.sha256):
            yield Supplier(kind="store", place="the store", authority="store", state=HAS)

    def _all_questions(
        self, inputs: Sequence[Input], providers: Sequence[Provider], found: Mapping[str, list[Supplier]]
    ) -> Iterator[Question]:
        """Each place once: where something was seen before is mostly a place that another provider knows by name."""
        asked: set[tuple[str, str]] = set()
        for provider in sorted(providers, key=lambda provider: provider.name == _SEEN):
            for question in self._questions(provider, inputs, found):
                places = tuple(
                    place
                    for place in question.places
                    if place.make or (question.item.sha256, without_password(place.url)) not in asked
                )
                asked |= {(question.item.sha256, without_password(place.url)) for place in places}
                if places:
                    yield replace(question, places=places)

    def _questions(
        self, provider: Provider, inputs: Sequence[Input], found: Mapping[str, list[Supplier]]
    ) -> Iterator[Question]:
        try:
            located = provider.locate(inputs)
        except OfflineError:
            return
        except ReproboxError as error:
            for item in inputs:
                if _concerns(provider, item):
                    told = Supplier(
                        kind=_KINDS.get(provider.name, "other"),
                        place=error.where or provider.name,
                        authority=provider.name,
                        state=SILENT,
                        said=error.message,
                    )
                    found[item.sha256].append(told)
            return
        for item in inputs:
            if provider.name == INDEX and item.sha256 not in located:
                found[item.sha256] += _unlisted(item, offline=self.downloader.offline)
            groups: dict[tuple[str, str, str], list[Location]] = defaultdict(list)
            for place in located.get(item.sha256, ()):
                kind, authority = self._known_as(provider, place, item)
                groups[kind, authority, _origin(place)].append(place)
            for (kind, authority, _), places in groups.items():
                yield Question(item=item, kind=kind, authority=authority, places=tuple(places))

    def _known_as(self, provider: Provider, place: Location, item: Input) -> tuple[str, str]:
        """The kind of a place, and whose rule it follows."""
        if isinstance(provider, LocalVault | RegistryVault):
            return "vault", provider.name
        kind = _KINDS.get(provider.name, "other") if provider.name != _SEEN else _seen(item)
        if place.alone:
            return "snapshot", f"snapshot {_origin(place)}"
        path = local_path(place.url) if place.url.startswith("file:") and kind != "engine" else None
        if path is not None:
            inside = path.is_relative_to(self.project)
            return ("project", "the project") if inside else ("folder", f"folder {path.parent}")
        if kind == "index" and place.label != INDEX and provider.name != _SEEN:
            kind = "url"
        if kind in ("archive", "mirror"):
            return kind, f"archive {item.facts.get('archive', '')}"
        if kind == "registry":
            return kind, f"registry {item.facts.get('repository', '')}"
        return kind, "index" if kind == "index" else f"{kind} {_origin(place) or place.shown}"

    # -- asking --------------------------------------------------------------------------------------------------------

    def _ask(self, questions: Sequence[Question], found: Mapping[str, list[Supplier]]) -> None:
        """All of them, ``jobs`` at a time."""
        if not questions:
            return
        progress = _Counted(self.say, len(questions))
        answers: list[tuple[str, Supplier]] = []

        def task(question: Question, watch: Errand) -> None:
            answers.append((question.item.sha256, self._answer(question, watch)))
            watch.done(question.item.name)

        Crew().work([partial(task, question) for question in questions], progress, self.jobs)
        order = {(question.item.sha256, question.authority): at for at, question in enumerate(questions)}
        for digest, supplier in sorted(answers, key=lambda pair: order[pair[0], pair[1].authority]):
            found[digest].append(supplier)

    def _ask_alone(self, questions: Sequence[Question], found: Mapping[str, list[Supplier]]) -> None:
        """Each server question by question: first for what nobody else has, then for some of the rest."""
        by_origin: dict[str, list[Question]] = defaultdict(list)
        for question in questions:
            by_origin[question.origin].append(question)
        tasks = []
        results: list[tuple[str, Supplier]] = []
        for several in by_origin.values():
            needed = [item for item in several if not _elsewhere(found[item.item.sha256])]
            others = [item for item in several if _elsewhere(found[item.item.sha256])]
            asked = [*needed, *(others if self.thorough else others[:MOST_ALONE])]
            tasks.append(partial(self._one_by_one, asked, results))
            reason = f"it asks for one connection, and was asked for {len(asked)} others: --thorough asks for all"
            for question in others[len(asked) - len(needed) :]:
                found[question.item.sha256].append(_told(question, question.places[0], UNASKED, reason))
        Crew().work(tasks, _Counted(self.say, len(questions)), self.jobs)
        for digest, supplier in results:
            found[digest].append(supplier)

    def _one_by_one(self, questions: Sequence[Question], results: list[tuple[str, Supplier]], watch: Errand) -> None:
        for question in questions:
            results.append((question.item.sha256, self._answer(question, watch)))
            watch.done(question.item.name)

    def _answer(self, question: Question, watch: Errand) -> Supplier:
        """What the first of its places says that has it; else what the first said."""
        first: Supplier | None = None
        for place in question.places:
            state, said = self._remembered(place, question.item, watch)
            supplier = _told(question, place, state, said)
            if state == HAS:
                return supplier
            first = first or supplier
        assert first is not None
        return first

    def _remembered(self, place: Location, item: Input, watch: Errand) -> tuple[str, str]:
        key = f"{without_password(place.url)} {item.size}"
        if place.make or local_path(place.url) or key not in self.remembered:
            answer = self._asked(place, item, watch)
            if answer[0] in (HAS, LOST, OTHER) and not place.make and _origin(place):
                self.remembered[key] = answer
            return answer
        return self.remembered[key]

    def _asked(self, place: Location, item: Input, watch: Errand) -> tuple[str, str]:
        if self.downloader.offline and _origin(place):
            return UNASKED, _OFFLINE
        if place.make and not place.ask:
            return UNASKED, "only fetching it shows whether it is there"
        origin = _origin(place)
        if origin and (reason := self._closed.get(origin)):
            return SILENT, reason
        with self._lock:
            self.asked += 1
        try:
            size = place.ask() if place.ask else self._size(place, watch)
        except StatusError as error:
            return self._status(origin, error)
        except FetchError as error:
            if place.make and (not origin or _absent(error.message)):
                return LOST, error.message
            if origin and not place.make:
                self._closed[origin] = f"{error.message}; it was not asked again"
            return SILENT if origin else LOST, error.message
        except IntegrityError as error:
            return OTHER, error.message
        except ReproboxError as error:  # an engine that does not run here
            return SILENT, error.message
        if size not in (-1, item.size):
            return OTHER, f"it has {size} bytes under this name where {item.size} are locked"
        return HAS, ""

    def _status(self, origin: str, error: StatusError) -> tuple[str, str]:
        if error.code in _GONE:
            return LOST, error.message
        if error.code in _CLOSED:
            return REFUSED, error.message
        self._closed[origin] = f"{error.message}; it was left alone after that"
        return SILENT, error.message

    def _size(self, place: Location, watch: Errand) -> int:
        length = self.downloader.ask(place, watch=watch).headers.get("content-length", "")
        return int(length) if length.isdecimal() else -1


def _concerns(provider: Provider, item: Input) -> bool:
    """Whether the provider could have had it: that it failed is told of such inputs alone."""
    kinds = {"archive": ("deb",), "index": TYPES}
    wanted = kinds.get(_KINDS.get(provider.name, ""))
    return wanted is None or item.type in wanted


def _unlisted(item: Input, *, offline: bool) -> list[Supplier]:
    """That the index has it no more: its answer is the list in which the file is not."""
    if item.type not in TYPES or item.facts.keys() & {"url", "path"}:
        return []
    state, said = (UNASKED, _OFFLINE) if offline else (LOST, "it does not list it any more")
    return [Supplier(kind="index", place=INDEX, authority="index", state=state, said=said)]


def _seen(item: Input) -> str:
    return {"deb": "archive", "blob": "registry", "file": "url", "git": "git"}.get(item.type, "index")


def _origin(place: Location) -> str:
    """The server of a place; nothing for what is on this machine."""
    if place.url.startswith("file:"):
        return ""
    parts = urllib.parse.urlsplit(place.url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}" if host else place.url.partition(":")[0]  # user@host:path, as git has it


def _elsewhere(suppliers: Iterable[Supplier]) -> bool:
    return any(item.state == HAS and item.kind != "store" for item in suppliers)


def _absent(message: str) -> bool:
    """Whether git says that the repository or the commit is not there, and not that the server is out of reach."""
    words = ("not our ref", "not found", "does not exist", "no such", "not a git repository", "has no commit")
    return any(word in message.lower() for word in words)


def _told(question: Question, place: Location, state: str, said: str) -> Supplier:
    base = ""
    if question.kind in ("archive", "mirror") and without_password(place.url) == place.url:
        base = place.url.removesuffix("/" + question.item.facts.get("path", "\0"))
        base = base if base != place.url else ""
    return Supplier(
        kind=question.kind, place=place.shown, authority=question.authority, state=state, said=said, base=base
    )


class _Counted(Silent):
    """Says now and then how far the asking is."""

    _EVERY = 5.0

    def __init__(self, say: Callable[[str], None], total: int) -> None:
        self._say = say
        self._total = total
        self._count = 0
        self._told = time.monotonic()

    def done(self, name: str) -> None:
        self._count += 1
        if time.monotonic() - self._told > self._EVERY:
            self._told = time.monotonic()
            self._say(f"  asked {self._count} of {self._total}; the last for {name}")

    def note(self, text: str) -> None:
        self._say(f"  {text}")


def heritage(items: Sequence[Input], services: Sequence[str], downloader: Downloader) -> dict[str, list[Supplier]]:
    """What services with Software Heritage's interface say of commits, by their SWHIDs; see its `/known/` endpoint."""
    import json

    found: dict[str, list[Supplier]] = {}
    commits = {f"swh:1:rev:{item.facts['commit']}": item for item in items if "commit" in item.facts}
    for service in services if commits else ():
        base: dict[str, Any] = {"kind": "heritage", "authority": f"heritage {service}"}
        known: dict[str, bool] = {}
        said = ""
        try:
            body = json.dumps(list(commits)).encode()
            answer = json.loads(_posted(downloader, f"{service}/api/1/known/", body))
            known = {swhid: answer[swhid]["known"] is True for swhid in commits}
        except (ReproboxError, ValueError, TypeError, KeyError, RecursionError) as error:
            said = error.message if isinstance(error, ReproboxError) else "its answer cannot be read"
        for swhid, item in commits.items():
            there = known.get(swhid, False)
            state = SILENT if said else HAS if there else LOST
            words = said or ("" if there else "it was never archived there")
            found.setdefault(item.sha256, []).append(
                Supplier(place=f"{swhid} ({service})", state=state, said=words, **base)
            )
    return found


def _posted(downloader: Downloader, url: str, body: bytes) -> bytes:
    from reprobox.download.transfer import Body

    return downloader.send("POST", url, body=Body(data=body), headers={"Content-Type": "application/json"}).body
