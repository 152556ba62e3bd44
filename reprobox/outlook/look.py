"""The outlook of a lock: every input with all its suppliers, graded, and what was found out on the way."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date

from reprobox.digest import bare, prefixed
from reprobox.download.downloader import Downloader
from reprobox.download.transfer import StatusError
from reprobox.errors import OfflineError, ReproboxError
from reprobox.lock import Input, Lock, LockedLayer, LockedTarget
from reprobox.manifest import Manifest
from reprobox.oci.registry import Reference
from reprobox.oci.remote import Offer, Wanted
from reprobox.outlook.asking import HAS, LOST, OTHER, SILENT, Asker, Supplier, heritage
from reprobox.outlook.grade import Standing, grade, worst
from reprobox.outlook.rules import About, day_of, rules
from reprobox.pypi import IndexProvider
from reprobox.session import Session
from reprobox.store import Store

#: What the code and the data of a project are called beside its targets.
BESIDE = "code and data"
#: Setting under [snapshots] that names services with Software Heritage's interface.
HERITAGE = "software-heritage"
_KEPT_FOR = 3600.0  # seconds for which answers are remembered
_MEMO = ("outlook", "answers")


@dataclass(frozen=True, kw_only=True, slots=True)
class Looked:
    """One input: its suppliers with the rules that hold for them, its grade, and why its owner withdrew it, if so."""

    item: Input
    standings: tuple[Standing, ...]
    grade: str
    yanked: str = ""

    @property
    def suppliers(self) -> tuple[str, ...]:
        """Whose rules are followed by the places that have it; this machine's store is none of them."""
        there = (item.supplier for item in self.standings if item.has)
        return tuple(dict.fromkeys(item.authority for item in there if item.kind not in ("store", "engine")))


@dataclass(frozen=True, kw_only=True, slots=True)
class Tag:
    """What a base's name stands for today: ``state`` is has (the same image), other (another one), lost, silent."""

    reference: str
    state: str
    said: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class LookedLayer:
    """One layer, or the code, or the data at one mount point."""

    target: str
    layer: LockedLayer
    inputs: tuple[Looked, ...]
    tag: Tag | None = None
    built: bool = False  # whether the remote has it built

    @property
    def grade(self) -> str:
        return worst(item.grade for item in self.inputs)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outlook:
    """All of it. ``asked`` is how many questions were asked, ``today`` the day on which."""

    layers: tuple[LookedLayer, ...]
    today: date
    asked: int
    offline: bool
    heritage: bool  # whether Software Heritage was asked

    @property
    def inputs(self) -> dict[str, Looked]:
        """Every input once, by sha256."""
        return {looked.item.sha256: looked for layer in self.layers for looked in layer.inputs}


def look(
    session: Session,
    manifest: Manifest,
    lock: Lock,
    *,
    target: str | None = None,
    thorough: bool = False,
    fresh: bool = False,
    now: float | None = None,
) -> Outlook:
    """Ask who can supply what the lock names: of all targets and the code and data, or of one target.

    Nothing is downloaded but lists; ``thorough`` asks slow services for everything, ``fresh`` forgets what was answered
    within the last hour.
    """
    now = time.time() if now is None else now
    session.manifest = manifest
    remembered = {} if fresh else _remembered(session.store, now)
    asker = Asker(
        store=session.store,
        downloader=Downloader(offline=session.offline, attempts=3, timeout=20.0),
        project=session.project,
        say=session.reporter.say,
        jobs=session.jobs,
        thorough=thorough,
        remembered={url: (state, said) for url, (state, said, _) in remembered.items()},
    )
    looking = _Looking(session=session, asker=asker, today=day_of(now))
    parts = list(_parts(lock, target))
    layers = [found for name, part in parts for found in looking.target(name, part)]
    _remember(session.store, asker, remembered, now)
    return Outlook(
        layers=tuple(layers),
        today=looking.today,
        asked=asker.asked,
        offline=session.offline,
        heritage=bool(session.config.snapshots.get(HERITAGE)),
    )


def _parts(lock: Lock, target: str | None) -> Iterator[tuple[str, LockedTarget]]:
    """What is looked at, target by target; the code and the data as one more."""
    for name, locked in lock.targets.items():
        if target in (None, name):
            yield name, locked
    alone = (*((lock.checkout,) if lock.checkout else ()), *lock.downloads.values())
    if alone and target is None:
        yield BESIDE, LockedTarget(name=BESIDE, platform="", layers=alone)


@dataclass(kw_only=True)
class _Looking:
    """One look, target by target."""

    session: Session
    asker: Asker
    today: date

    def target(self, name: str, target: LockedTarget) -> Iterator[LookedLayer]:
        self.session.target = target if name != BESIDE else None
        inputs = list({item.sha256: item for layer in target.layers for item in layer.inputs}.values())
        found = self.asker.suppliers(inputs, self.session.in_order())
        self._add_heritage(inputs, found)
        yanked = self._yanked(inputs)
        built = self._built(target)
        for layer in target.layers:
            tag = self._tag(layer)
            looked = tuple(
                self._looked(item, layer, found[item.sha256], tag, yanked.get(item.sha256, "")) for item in layer.inputs
            )
            yield LookedLayer(target=name, layer=layer, inputs=looked, tag=tag, built=layer.id in built)

    def _looked(
        self, item: Input, layer: LockedLayer, suppliers: Sequence[Supplier], tag: Tag | None, yanked: str
    ) -> Looked:
        standings = []
        for supplier in suppliers:
            terms = rules().terms(_about(supplier, item, layer)) if supplier.state == HAS else ()
            gone = supplier.kind == "registry" and tag is not None and tag.state == LOST
            if gone or (supplier.kind == "index" and yanked):
                terms = tuple(replace(term, until=self.today) for term in terms)
            standings.append(Standing(supplier=supplier, terms=terms))
        return Looked(item=item, standings=tuple(standings), grade=grade(standings, self.today), yanked=yanked)

    def _add_heritage(self, inputs: Sequence[Input], found: Mapping[str, list[Supplier]]) -> None:
        services = self.session.config.snapshots.get(HERITAGE, ()) if not self.session.offline else ()
        items = [item for item in inputs if item.type == "git"]
        for digest, suppliers in heritage(items, services, self.asker.downloader).items():
            found[digest].extend(suppliers)

    def _yanked(self, inputs: Sequence[Input]) -> Mapping[str, str]:
        for provider in self.session.in_order():
            if isinstance(provider, IndexProvider):
                with suppress(ReproboxError):  # that it does not answer was told already
                    return provider.withdrawn(inputs)
        return {}

    def _built(self, target: LockedTarget) -> frozenset[str]:
        """Ids of layers that the remote has built, as they were sealed."""
        remote, seal = self.session.remote, target.seal
        if remote is None or seal is None or self.session.offline:
            return frozenset()
        wanted = [
            Wanted(id=layer.id, name=layer.name, diff_id=bare(seal.layers[layer.name]))
            for layer in target.layers
            if layer.name in seal.layers
        ]
        return frozenset(item.id for item, answer in remote.offers(wanted) if isinstance(answer, Offer))

    def _tag(self, layer: LockedLayer) -> Tag | None:
        """What the name of a base stands for today, where it has one in a registry."""
        text = layer.facts.get("reference")
        if not isinstance(text, str) or self.session.offline:
            return None
        reference = Reference.parse(text.removeprefix("oras://"))
        if reference.digest:
            return None
        locked = {str(layer.facts.get("index", ""))} | {prefixed(item.sha256) for item in layer.inputs}
        try:
            place = self.session.registries.repository(reference).tagged(reference)
            now = self.asker.downloader.ask(place).headers.get("docker-content-digest", "")
        except StatusError as error:
            return Tag(reference=str(reference), state=LOST if error.code == 404 else SILENT, said=error.message)
        except (ReproboxError, OfflineError) as error:
            return Tag(reference=str(reference), state=SILENT, said=error.message)
        return Tag(reference=str(reference), state=HAS if now in locked or not now else OTHER, said=now)


def _about(supplier: Supplier, item: Input, layer: LockedLayer) -> About:
    """What rules look at."""
    dated = next(
        (
            int(index["date"])
            for index in _tables(layer.facts.get("indices"))
            if (index.get("archive"), index.get("suite")) == (item.facts.get("archive"), item.facts.get("suite"))
        ),
        None,
    )
    reference = str(layer.facts.get("reference", "")).removeprefix("oras://")
    return About(
        place=supplier.follows,
        archive=item.facts.get("archive", ""),
        suite=item.facts.get("suite", ""),
        image=item.facts.get("repository", ""),
        tag=Reference.parse(reference).tag if reference else "",
        host=supplier.authority.rpartition("//")[2].partition(":")[0],
        dated=day_of(dated) if dated is not None else None,
    )


def _tables(value: object) -> list[Mapping[str, str]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list | tuple) else []


# -- what is remembered ------------------------------------------------------------------------------------------------


def _remembered(store: Store, now: float) -> dict[str, tuple[str, str, float]]:
    """Answers of the last hour, by URL: state, words, and when."""
    try:
        known = json.loads(store.memo(*_MEMO).read_bytes())
        return {url: (state, said, at) for url, (state, said, at) in known.items() if 0 <= now - at < _KEPT_FOR}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _remember(store: Store, asker: Asker, before: Mapping[str, tuple[str, str, float]], now: float) -> None:
    kept = {url: before.get(url, (*answer, now)) for url, answer in asker.remembered.items()}
    store.remember(*_MEMO, json.dumps(kept).encode())
