"""Where a suite is had from: a configured mirror, the place that was meant, or one beside it that has the same.

A base names sources of its own, a manifest declares some, and a bootstrap base asks for a distribution's suites.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from reprobox.debian import release as trust
from reprobox.debian.archive import Origin, open_source
from reprobox.debian.release import Keyring
from reprobox.debian.sources import Source, sibling
from reprobox.download.transfer import StatusError
from reprobox.errors import FetchError, IntegrityError, OfflineError, ReproboxError, ResolveError

if TYPE_CHECKING:
    from reprobox.debian.system import System
    from reprobox.layers.kind import World


# -- a base's own sources ----------------------------------------------------------------------------------------------


def open_sources(world: World, base: System, host: System) -> tuple[Origin, ...]:
    """Every suite that the base's apt uses, from a configured mirror, from its own place, or from the host's.

    Raises :class:`ResolveError` where the base names no source.
    """
    if not base.sources:
        raise ResolveError(
            "the base names no package sources",
            hint="use a base image with an /etc/apt/sources.list, or a bootstrap base",
        )
    trusted = Keyring({**host.trusted.certs, **base.trusted.certs}, [*base.trusted.places, *host.trusted.places])

    def opened(source: Source) -> Origin:
        return _open_anywhere(world, source, trust.keys_for(source.signed_by, trusted, base.read), host.sources)

    with ThreadPoolExecutor(len(base.sources)) as pool:
        return tuple(pool.map(opened, base.sources))


def open_declared(world: World, source: Source, keyring: Keyring) -> Origin:
    """A source that a manifest declares with its keys, from a configured mirror or from one of its own places."""
    return _open_anywhere(world, source, keyring, ())


def _open_anywhere(world: World, source: Source, keys: Keyring, known: Sequence[Source]) -> Origin:
    """``known`` are sources that may have the same suite, although they were not meant."""
    plain = replace(source, signed_by=())
    problems: list[ReproboxError] = []
    for name, uris in world.archives.items():
        for uri in uris:
            with contextlib.suppress(FetchError, IntegrityError, OfflineError):
                origin = open_source(world, replace(plain, uri=uri), keys)
                if origin.release.archive == name:
                    return origin
    elsewhere = [
        replace(plain, uri=place.uri)
        for item in known
        for place in item.places()
        if place.suite == source.suite and not source.flat
    ]
    for place in dict.fromkeys((*plain.places(), *elsewhere)):
        try:
            return open_source(world, place, keys)
        except (FetchError, OfflineError) as error:
            problems.append(error)
    told = "".join(f"\n  {error.where}: {error.message}" for error in problems)
    kind = OfflineError if all(isinstance(error, OfflineError) for error in problems) else FetchError
    raise kind(
        f"suite {source.suite!r} of these package sources could not be had{told}",
        where=source.where,
        hint='a mirror that has it can be named in reprobox\'s configuration: [archives] debian = ["…"]',
    )


# -- a distribution's suites -------------------------------------------------------------------------------------------

_ROLLING = ("sid", "unstable", "testing", "experimental", "rc-buggy")
_OLD_SECURITY = ("buster", "stretch", "jessie", "wheezy")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Wish:
    suite: str
    archive: str
    needed: bool


def _wishes(suite: str) -> Iterator[_Wish]:
    yield _Wish(suite=suite, archive="debian", needed=True)
    if suite not in _ROLLING:
        security = f"{suite}/updates" if suite in _OLD_SECURITY else f"{suite}-security"
        yield _Wish(suite=f"{suite}-updates", archive="debian", needed=False)
        yield _Wish(suite=security, archive="debian-security", needed=False)


def open_debian(world: World, suite: str, known: Sequence[Source], trusted: Keyring) -> tuple[Origin, ...]:
    """The suite, its updates and its security updates, from whatever sources this machine knows.

    A suite that a source names must answer; one that is only looked for where mirrors usually have it may be missing,
    which is said. Raises :class:`ResolveError` where no source of Debian packages is known.
    """
    wishes = list(_wishes(suite))
    with ThreadPoolExecutor(len(wishes)) as pool:
        answers = list(pool.map(lambda wish: _first(world, wish, _candidates(world, wish, known), trusted), wishes))
    for wish, answer in zip(wishes, answers, strict=True):
        if answer is None:
            world.say(f"no source has {wish.suite}: locking without it")
    return tuple(answer for answer in answers if answer is not None)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Candidate:
    source: Source
    guessed: bool


def _candidates(world: World, wish: _Wish, known: Sequence[Source]) -> list[_Candidate]:
    """Where a suite may be, best first: as configured, where apt has that suite, where mirrors have its like."""
    configured = [uri.rstrip("/") for uri in world.archives.get(wish.archive, ())]
    beside = [uri.rstrip("/") for uri in world.archives.get("debian", ())] if wish.archive != "debian" else []
    found = [_Candidate(source=Source(uri=uri, suite=wish.suite), guessed=False) for uri in configured]
    places = [place for source in known for place in source.places() if not place.flat]
    found += [_Candidate(source=_main_only(item), guessed=False) for item in places if item.suite == wish.suite]
    for item in places:
        if item.suite != wish.suite and _is_security(item.suite) == (wish.archive == "debian-security"):
            found.append(_Candidate(source=_main_only(replace(item, suite=wish.suite)), guessed=True))
        elif wish.archive == "debian-security" and not _is_security(item.suite):
            beside.append(item.uri)
    for uri in dict.fromkeys(beside):
        found.append(_Candidate(source=Source(uri=sibling(uri, wish.archive), suite=wish.suite), guessed=True))
    unique: dict[tuple[str, str], _Candidate] = {}
    for candidate in found:
        unique.setdefault((candidate.source.uri, candidate.source.suite), candidate)
    return list(unique.values())


_ADVICE = "a mirror that has it can be named in reprobox's configuration:"


def _main_only(source: Source) -> Source:
    return replace(source, components=("main",), architectures=())


def _is_security(suite: str) -> bool:
    return suite.endswith(("-security", "/updates"))


def _first(world: World, wish: _Wish, candidates: Sequence[_Candidate], trusted: Keyring) -> Origin | None:
    """The first candidate that answers with a Release of Debian's; None where an optional suite is nowhere.

    That an optional suite is nowhere is only believed when servers say so: one that cannot be reached must not lead to
    a lock without security updates.
    """
    problems: list[ReproboxError] = []
    for candidate in candidates:
        try:
            origin = open_source(world, candidate.source, trusted)
        except (FetchError, OfflineError, IntegrityError) as error:
            if wish.needed or not candidate.guessed or not _absent(error):
                problems.append(error)
            continue
        if origin.release.fields.get("Origin") == "Debian":
            for problem in problems:
                world.say(f"{problem.where}: {problem.message}; using another source")
            return origin
    if wish.needed and not candidates:
        raise ResolveError(
            f"no source of packages is known for debian:{wish.suite}",
            hint="this machine's apt names none, so say it in reprobox's configuration:"
            ' [archives] debian = ["<address of a mirror, ending in /debian>"]',
        )
    if wish.needed or problems:
        raise _nowhere(wish, problems)
    return None


def _absent(error: ReproboxError) -> bool:
    """Whether a place has answered that it has no such suite: so, or with something that is no Release file at all."""
    return isinstance(error, (IntegrityError, OfflineError)) or (
        isinstance(error, StatusError) and error.code in (403, 404)
    )


def _nowhere(wish: _Wish, problems: Sequence[ReproboxError]) -> ReproboxError:
    if len(problems) == 1 and not isinstance(problems[0], FetchError):
        return problems[0]
    kind = OfflineError if problems and all(isinstance(item, OfflineError) for item in problems) else FetchError
    told = "".join(f"\n  {error.where}: {error.message}" for error in problems)
    return kind(
        f"suite {wish.suite!r} could not be had from any known source{told}",
        hint=f'check the suite\'s name and the network; {_ADVICE} [archives] {wish.archive} = ["…"]',
    )
