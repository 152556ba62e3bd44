"""Where bytes come from: providers say which places may have a locked file, ``fetch`` brings it into the store.

Identity is not supply: any place will do, because every byte is hashed while it is written and only what has the locked
sha256 is published.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Protocol

from reprobox.crew import Crew, Errand, Progress, Silent
from reprobox.digest import sha256
from reprobox.download.downloader import Downloader
from reprobox.download.transfer import Document, Location, Watch
from reprobox.errors import FetchError, IntegrityError, OfflineError, ReproboxError, cannot_write
from reprobox.lock import Input
from reprobox.room import check_room
from reprobox.staging import lock
from reprobox.store import Store
from reprobox.urls import local_path, without_password

__all__ = ["Documents", "Downloader", "Found", "HintProvider", "Location", "Progress", "Provider", "fetch", "obtain"]

_TOLD = 5  # inputs that a message names before it only counts


class Provider(Protocol):
    """Knows places. Registered by the ``reprobox_providers`` hook; asked in order, each for what is still missing.

    One that has an attribute ``first`` that is true is asked before places where inputs were seen earlier.
    """

    name: str

    def locate(self, inputs: Sequence[Input]) -> Mapping[str, Sequence[Location]]:
        """Places to try, best first, by sha256; nothing for inputs it does not know. May use the network."""


def fetch(
    inputs: Sequence[Input],
    providers: Sequence[Provider],
    store: Store,
    *,
    progress: Progress | None = None,
    downloader: Downloader | None = None,
    jobs: int = 16,
    offline: bool = False,
) -> None:
    """Bring every missing input into the store, ``jobs`` at a time.

    Providers are asked in order, each for what the ones before it could not supply. What is interrupted is continued by
    the next call; processes that want the same file share the work. ``downloader`` should be the one the providers use,
    so that they agree on being offline.

    Raises :class:`OfflineError`; :class:`IntegrityError` if some place had other bytes and none the right ones; else
    :class:`FetchError`. Each names the inputs, and every place with what it said. A full disk ends it at once, and one
    that cannot hold the inputs before anything is asked for.
    """
    missing = list({item.sha256: item for item in inputs if not store.has_blob(item.sha256)}.values())
    if not missing:
        return
    progress = progress or Silent()
    downloader = downloader or Downloader(offline=offline)
    offline = offline or downloader.offline
    if not offline:
        check_room(missing, store)
    answers: dict[str, list[ReproboxError]] = {item.sha256: [] for item in missing}
    wanted = missing
    progress.start(sum(item.size for item in missing), len(missing))
    try:
        for provider in providers:
            located = _located(provider, wanted, answers, offline=offline)
            found = [(item, located[item.sha256]) for item in wanted if located.get(item.sha256)]
            found.sort(key=lambda pair: -pair[0].size)  # no large one is left for the end, when the others are done
            if tasks := [
                partial(_bring, store, downloader, answers[item.sha256], item, places) for item, places in found
            ]:
                Crew().work(tasks, progress, jobs)
                wanted = [item for item in wanted if not store.has_blob(item.sha256)]
            if not wanted:
                return
    finally:
        progress.stop()
    raise _failure(wanted, answers, offline=offline)


def _located(
    provider: Provider, wanted: Sequence[Input], answers: Mapping[str, list[ReproboxError]], *, offline: bool
) -> Mapping[str, Sequence[Location]]:
    """What the provider knows; if it fails, that is one more thing to tell about each input."""
    try:
        located = provider.locate(wanted)
    except OfflineError:
        return {}
    except ReproboxError as error:
        for item in wanted:
            answers[item.sha256].append(FetchError(error.message, where=error.where or provider.name, hint=error.hint))
        return {}
    if offline:
        return {digest: [place for place in places if local_path(place.url)] for digest, places in located.items()}
    return located


# -- downloads ---------------------------------------------------------------------------------------------------------


def _bring(
    store: Store,
    downloader: Downloader,
    answers: list[ReproboxError],
    item: Input,
    locations: Sequence[Location],
    watch: Errand,
) -> None:
    """Have one file in the store, from the first place that has it."""
    with _alone(store, item, watch) as file:
        if file is None:  # another process brought it meanwhile
            watch.advance(item.size)
            watch.done(item.name)
            return
        for location in locations:
            try:
                downloader.save(location, file, sha256=item.sha256, size=item.size, watch=watch)
            except (FetchError, IntegrityError) as error:
                answers.append(error)
            else:
                _publish(store, file, Path(file.name), item.sha256)
                watch.done(item.name)
                return


def _publish(store: Store, file: IO[bytes], path: Path, digest: str) -> None:
    try:
        os.fsync(file.fileno())
        store.adopt(path, digest)
    except OSError as error:
        raise cannot_write(path, error) from None


@contextlib.contextmanager
def _alone(store: Store, item: Input, watch: Watch) -> Iterator[IO[bytes] | None]:
    """The input's partial file, locked against other processes and threads; None once somebody has published it."""
    path = store.partial(item.sha256)
    told = False
    while not store.has_blob(item.sha256):
        with _opened(path) as file:
            try:
                locked = lock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not told:
                    watch.note(f"{item.name}: another process is downloading it; waiting")
                    told = True
                watch.sleep(0.1)
                continue
            if not locked:  # then others may be at it too: each has a file of its own
                path.unlink(missing_ok=True)
                path = path.with_name(f"{item.sha256}.{os.getpid()}-{threading.get_ident()}")
                with _opened(path) as own:
                    yield own
                path.unlink(missing_ok=True)
                return
            if _same_file(path, file) and not store.has_blob(item.sha256):
                yield file
                if os.fstat(file.fileno()).st_size == 0:  # nothing to continue
                    path.unlink(missing_ok=True)
                return
    yield None


def _opened(path: Path) -> IO[bytes]:
    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_CREAT | os.O_NOFOLLOW, 0o600)

    try:
        return open(path, "r+b", buffering=0, opener=opener)
    except OSError as error:
        raise cannot_write(path, error) from None


def _same_file(path: Path, file: IO[bytes]) -> bool:
    """False when the file that was waited for has been published, and so renamed, meanwhile."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


# -- files that nobody knows yet ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What a URL had: sha256 hex, and size in bytes. It is in the store."""

    sha256: str
    size: int


def obtain(
    urls: Sequence[str],
    store: Store,
    *,
    progress: Progress | None = None,
    downloader: Downloader | None = None,
    jobs: int = 16,
) -> list[Found]:
    """Bring what each URL has into the store, ``jobs`` at a time. Raises what :meth:`Downloader.obtain` does."""
    progress = progress or Silent()
    downloader = downloader or Downloader()
    found: dict[str, Found] = {}

    def task(url: str, watch: Errand) -> None:
        with store.scratch() as folder, (folder / "file").open("w+b", buffering=0) as file:
            digest, size = downloader.obtain(url, file, watch=watch)
            if not store.has_blob(digest):
                _publish(store, file, folder / "file", digest)
        found[url] = Found(sha256=digest, size=size)
        watch.done(without_password(url).rpartition("/")[2])

    tasks = [partial(task, url) for url in dict.fromkeys(urls)]
    progress.start(0, len(tasks))
    try:
        Crew().work(tasks, progress, jobs)
    finally:
        progress.stop()
    return [found[url] for url in urls]


# -- what to say when it failed ----------------------------------------------------------------------------------------


def _failure(
    wanted: Sequence[Input], answers: Mapping[str, Sequence[ReproboxError]], *, offline: bool
) -> ReproboxError:
    wrong = [item for item in wanted if any(isinstance(error, IntegrityError) for error in answers[item.sha256])]
    if wrong:
        return IntegrityError(
            f"{_counted(wrong)} could only be had with other bytes than those that are locked{_listed(wrong, answers)}",
            hint=_advice(wrong, answers)
            or "the places named have changed or are broken: name another mirror in the settings",
        )
    if offline:
        return OfflineError(
            f"the network may not be used, and the store lacks {_counted(wanted)}{_listed(wanted, answers)}",
            hint="run it once without --offline, or give a vault that has it with --vault",
        )
    return FetchError(
        f"{_counted(wanted)} could not be had from any place{_listed(wanted, answers)}",
        hint=_advice(wanted, answers)
        or "name a mirror that has what is missing in the settings, or lock again with `reprobox lock --upgrade`",
    )


def _advice(wanted: Sequence[Input], answers: Mapping[str, Sequence[ReproboxError]]) -> str:
    """The first hint that a place's answer has."""
    return next((error.hint for item in wanted for error in answers[item.sha256] if error.hint), "")


def _listed(wanted: Sequence[Input], answers: Mapping[str, Sequence[ReproboxError]]) -> str:
    lines = [""]
    for item in wanted[:_TOLD]:
        lines.append(f"  {item.name} (sha256 {item.sha256}, {item.size} bytes)")
        errors = answers[item.sha256]
        lines += [f"    {error.where}: {error.message}" for error in errors] or ["    no provider knows a place for it"]
    if len(wanted) > _TOLD:
        lines.append(f"  and {len(wanted) - _TOLD} more")
    return "\n".join(lines)


def _counted(items: Sequence[Input]) -> str:
    return f"{len(items)} input{'' if len(items) == 1 else 's'}"


# -- what is remembered ------------------------------------------------------------------------------------------------


class HintProvider:
    """Places where inputs were seen while locking, kept in the store beside the lock's world, never in the lock."""

    name = "seen before"
    _KEPT = 8

    def __init__(self, store: Store) -> None:
        self._store = store

    def locate(self, inputs: Sequence[Input]) -> Mapping[str, Sequence[Location]]:
        return {item.sha256: [Location(url=url) for url in urls] for item in inputs if (urls := self._seen(item))}

    def remember(self, item: Input, urls: Sequence[str]) -> None:
        """``urls`` have ``item``; the newest are asked first, and passwords in them are forgotten."""
        seen = self._seen(item)
        merged = list(dict.fromkeys([*map(without_password, urls), *seen]))[: self._KEPT]
        if merged != seen:
            self._store.remember("supply", item.sha256, "".join(f"{url}\n" for url in merged).encode())

    def _seen(self, item: Input) -> list[str]:
        try:
            lines = self._store.memo("supply", item.sha256).read_text("utf-8", "replace").splitlines()
        except FileNotFoundError:
            return []
        return [line for line in lines if line.startswith(("https://", "http://", "file:///"))]


class Documents:
    """Small documents by URL, remembered in the store with what the server needs to say that they have not changed."""

    def __init__(self, store: Store, downloader: Downloader) -> None:
        self._store = store
        self._downloader = downloader

    def get(self, url: str, *, fresh: bool = True, limit: int = 64 << 20) -> bytes:
        """The document. ``fresh`` asks the server whether a remembered copy is current; offline, the copy is all.

        Raises :class:`OfflineError` when there is none, and what :meth:`Downloader.get` raises.
        """
        key = sha256(url.encode())
        validators, body = self._remembered(key)
        if body is not None and (self._downloader.offline or not fresh):
            return body
        answer = self._downloader.get(url, headers=validators, limit=limit)
        if answer.status == 304 and body is not None:
            return body
        self._keep(key, answer)
        return answer.body

    def _remembered(self, key: str) -> tuple[dict[str, str], bytes | None]:
        """Conditional headers and the copy; nothing if it was torn, for what can be had again is not flushed."""
        try:
            head, _, body = self._store.memo("documents", key).read_bytes().partition(b"\n\n")
        except FileNotFoundError:
            return {}, None
        digest, *lines = head.decode("latin-1").split("\n")
        if digest != sha256(body):
            return {}, None
        return {name: value for name, _, value in (line.partition(": ") for line in lines)}, body

    def _keep(self, key: str, answer: Document) -> None:
        validators = {"If-None-Match": "etag", "If-Modified-Since": "last-modified"}
        head = [sha256(answer.body)]
        head += [f"{ask}: {answer.headers[name]}" for ask, name in validators.items() if name in answer.headers]
        self._store.remember("documents", key, "\n".join(head).encode("latin-1") + b"\n\n" + answer.body)
