"""What an outlook comes to: findings, each with what to do, the worst first. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from reprobox.digest import Json
from reprobox.lock import Input
from reprobox.outlook.asking import HAS, LOST, OTHER, SILENT, UNASKED
from reprobox.outlook.grade import GRADES, Standing, worst
from reprobox.outlook.look import HERITAGE, Looked, LookedLayer, Outlook
from reprobox.outlook.rules import Rule, day_of, rules

#: How much a finding matters: something is lost; something will be; something to know.
BAD, WARNING, NOTE = "bad", "warning", "note"
_KEY_SOON = timedelta(days=365)
#: Kinds of places that had what was locked, when it was locked: if they lack it, they have dropped it.
_LIVE = ("mirror", "archive", "index", "registry", "url", "git")
_QUOTED = 3  # answers of places that a finding repeats


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that was found, and ``do``, what helps. ``kind`` is a word for programs.

    ``until`` is the day on which it takes effect, where one is known; ``rule`` the id of the rule that says so;
    ``said`` what places said, in their words.
    """

    kind: str
    level: str
    message: str
    do: str
    inputs: tuple[Input, ...] = ()
    layers: tuple[str, ...] = ()
    until: date | None = None
    rule: str = ""
    said: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """The grade, its reason in one sentence, and all findings."""

    grade: str
    reason: str
    findings: tuple[Finding, ...]
    grades: Mapping[str, int]

    @property
    def lost(self) -> tuple[Input, ...]:
        """Inputs that no place has any more."""
        return tuple(item for finding in self.findings if finding.kind == "lost" for item in finding.inputs)


def judge(outlook: Outlook, not_kept: Mapping[str, str], private: Iterable[str] = ()) -> Verdict:
    """The verdict. ``not_kept`` is what no lock holds, and why; ``private`` names layers that no vault may hold."""
    everything = outlook.inputs
    grades = [item.grade for item in everything.values()]
    capped = [name for name in not_kept if name.startswith(("base ", "layer "))]
    letter = worst([*grades, *("D" for _ in capped)])
    counts = {name: grades.count(name) for name in GRADES if name in grades}
    findings = [
        *_inputs(outlook),
        *_tags(outlook),
        *_yanked(outlook),
        *_ends(outlook),
        *_keys(outlook),
        *_advice(outlook, set(private)),
        *(
            Finding(kind="not-locked", level=NOTE, message=f"{name}: {why}", do=_BY_HAND)
            for name, why in not_kept.items()
        ),
    ]
    findings.sort(key=lambda finding: (BAD, WARNING, NOTE).index(finding.level))
    return Verdict(grade=letter, reason=_reason(letter, grades, capped), findings=tuple(findings), grades=counts)


_BY_HAND = "keep it yourself, with a copy elsewhere"


def _reason(letter: str, grades: Sequence[str], capped: Sequence[str]) -> str:
    if not grades and not capped:
        return "it needs no input"
    if letter == "A":
        return "every input is in a vault of yours, or in the project itself"
    count = grades.count(letter)
    if not count:
        return f"{capped[0]} is not locked as an input: nobody but you can have it"
    which = "every input" if count == len(grades) else f"{count} of {len(grades)} inputs"
    return f"{which}: {GRADES[letter]}"


# -- inputs ------------------------------------------------------------------------------------------------------------


def _inputs(outlook: Outlook) -> Iterator[Finding]:
    yield from _grouped(
        outlook,
        lambda item: item.grade == "F",
        kind="lost",
        level=BAD,
        message="no place has it any more",
        do="look for a copy by its sha256, such as a colleague's store or vault (--vault); or lock again without it:"
        " `reprobox lock --upgrade-package NAME`, which makes another environment",
        said=lambda item: _said(item, LOST, OTHER, "refused"),
    )
    yield from _grouped(
        outlook,
        lambda item: item.grade == "E" and any(one.has for one in item.standings),
        kind="only-here",
        level=BAD,
        message="only this machine has it: no other place that could be asked does",
        do="keep a vault now, while it is in the store: `reprobox outlook --fix`, or `reprobox vault PATH`",
        said=lambda item: _said(item, LOST, OTHER, "refused", SILENT),
    )
    yield from _grouped(
        outlook,
        lambda item: item.grade == "E" and not any(one.has for one in item.standings),
        kind="unknown",
        level=WARNING,
        message="no place that may have it answered, or none is known on this machine",
        do="ask again later; name a mirror or an index that has it in the settings if it stays so",
        said=lambda item: _said(item, SILENT, UNASKED) or (f"{item.item.name}: no place of it is known here",),
    )
    yield from _grouped(
        outlook,
        lambda item: bool(_certificates(item)),
        kind="certificate",
        level=WARNING,
        message="the certificate of a server is not trusted, as when it has expired",
        do="only its owner can renew it: name another place in the settings, or keep a vault, which needs none",
        said=_certificates,
    )
    yield from _grouped(
        outlook,
        lambda item: _states(item, OTHER),
        kind="replaced",
        level=WARNING,
        message="another file is there now under the same name",
        do="find out why before you trust that place again; what is locked can only come from elsewhere: keep a vault",
        said=lambda item: _said(item, OTHER),
    )
    yield from _grouped(
        outlook,
        lambda item: _states(item, LOST, *_LIVE) and item.grade not in ("A", "E", "F"),
        kind="dropped",
        level=WARNING,
        message="a place has dropped it; others still have it",
        do="keep a vault while they do: `reprobox outlook --fix`",
        said=lambda item: (*_said(item, LOST)[:1], *_said(item, HAS)),
    )
    yield from _grouped(
        outlook,
        lambda item: item.grade != "A" and len(item.suppliers) == 1,
        kind="single",
        level=WARNING,
        message="only one supplier has it",
        do="keep a vault: `reprobox outlook --fix`; or name another place, such as a snapshot service, in the settings",
        said=lambda item: tuple(dict.fromkeys(item.suppliers)),
    )


def _grouped(
    outlook: Outlook,
    wanted: Callable[[Looked], bool],
    *,
    kind: str,
    level: str,
    message: str,
    do: str,
    said: Callable[[Looked], Sequence[str]],
) -> Iterator[Finding]:
    """One finding for all inputs that are wanted, if there are any."""
    found = {digest: item for digest, item in outlook.inputs.items() if wanted(item)}
    if found:
        words = dict.fromkeys(word for item in found.values() for word in said(item))
        yield Finding(
            kind=kind,
            level=level,
            message=message,
            do=do,
            inputs=tuple(item.item for item in found.values()),
            layers=_layers_of(outlook, found),
            said=tuple(words)[:_QUOTED],
        )


def _layers_of(outlook: Outlook, digests: Iterable[str]) -> tuple[str, ...]:
    wanted = set(digests)
    names = (layer.layer.name for layer in outlook.layers if any(item.item.sha256 in wanted for item in layer.inputs))
    return tuple(dict.fromkeys(names))


def _certificates(item: Looked) -> tuple[str, ...]:
    return tuple(word for word in _said(item, SILENT) if "certificate" in word)


def _states(item: Looked, state: str, *kinds: str) -> bool:
    there = (one.supplier for one in item.standings)
    return any(one.state == state and (not kinds or one.kind in kinds) for one in there)


def _said(item: Looked, *states: str) -> tuple[str, ...]:
    there = (one.supplier for one in item.standings if one.supplier.state in states and one.supplier.kind != "store")
    return tuple(f"{supplier.place}: {supplier.said or 'it has it'}" for supplier in there)


# -- names that move, versions that are withdrawn ----------------------------------------------------------------------


def _tags(outlook: Outlook) -> Iterator[Finding]:
    tagged: dict[str, list[LookedLayer]] = defaultdict(list)
    for layer in outlook.layers:
        if layer.tag is not None:
            tagged[layer.tag.reference].append(layer)
    for reference, layers in tagged.items():
        tag = layers[0].tag
        assert tag is not None
        names = tuple(dict.fromkeys(layer.layer.name for layer in layers))
        inputs = tuple({item.item.sha256: item.item for layer in layers for item in layer.inputs}.values())
        if tag.state == LOST:
            yield Finding(
                kind="tag-gone",
                level=WARNING if layers[0].grade != "F" else BAD,
                message=f"the registry has no image {reference} any more; its blobs may be removed at any time",
                do="keep a vault while they are there: `reprobox outlook --fix`; for a new lock, choose another image",
                inputs=inputs,
                layers=names,
                rule="registry-unreferenced",
                said=(tag.said,),
            )
        elif tag.state == OTHER:
            yield Finding(
                kind="tag-moved",
                level=NOTE,
                message=f"{reference} is another image now than the one that is locked; the lock stays what it is",
                do="keep a vault: a registry may remove what no name stands for",
                inputs=inputs,
                layers=names,
                rule="registry-unreferenced",
                said=(f"now it is {tag.said}",),
            )


def _yanked(outlook: Outlook) -> Iterator[Finding]:
    by_reason: dict[str, dict[str, Input]] = defaultdict(dict)
    for digest, item in outlook.inputs.items():
        if item.yanked:
            by_reason[item.yanked][digest] = item.item
    for reason, inputs in by_reason.items():
        yield Finding(
            kind="yanked",
            level=WARNING,
            message=f"its owner has withdrawn it: {reason}",
            do="find out whether that concerns your results; keep a vault, for a withdrawn file may be deleted;"
            " `reprobox lock --upgrade-package NAME` moves to another version, which makes another environment",
            inputs=tuple(inputs.values()),
            layers=_layers_of(outlook, inputs),
            rule="index-withdrawn",
        )


# -- rules -------------------------------------------------------------------------------------------------------------


def _ends(outlook: Outlook) -> Iterator[Finding]:
    """What the rules say of places that have something which is in no vault."""
    held: dict[tuple[str, date | None], dict[str, Input]] = defaultdict(dict)
    for digest, item in outlook.inputs.items():
        for standing in item.standings if item.grade not in ("A", "F") else ():
            for rule, until in _terms(standing):
                held[rule.id, until][digest] = item.item
    for (name, until), inputs in sorted(held.items(), key=lambda pair: (pair[0][1] or date.max, pair[0][0])):
        rule = rules().by_id(name)
        over = until is not None and until <= outlook.today
        yield Finding(
            kind="ends",
            level=WARNING if until is not None else NOTE,
            message=f"{_when(rule, until, over=over)}: {rule.says}",
            do=rule.do,
            inputs=tuple(inputs.values()),
            layers=_layers_of(outlook, inputs),
            until=until,
            rule=rule.id,
        )


def _terms(standing: Standing) -> Iterator[tuple[Rule, date | None]]:
    for term in standing.terms if standing.has else ():
        if term.rule.ends != "kept":
            yield term.rule, term.until


def _when(rule: Rule, until: date | None, *, over: bool) -> str:
    if until is not None:
        return f"since {until}" if over else f"on {until}"
    return {"superseded": "any day", "owner": "when its owner decides so"}.get(rule.ends, "some day")


def _keys(outlook: Outlook) -> Iterator[Finding]:
    """Keys of archives that have expired, or will within a year, as they are in the lock."""
    from reprobox.debian.release import Keyring

    told = set()
    for layer in outlook.layers:
        armored = layer.layer.facts.get("keys")
        if not isinstance(armored, str) or not armored:
            continue
        keyring = Keyring()
        keyring.add(armored.encode(), f"the lock, layer {layer.layer.name}")
        for name, cert in sorted(keyring.certs.items()):
            day = day_of(cert.expiration.timestamp()) if cert.expiration else None
            if day is None or day > outlook.today + _KEY_SOON or name in told:
                continue
            told.add(name)
            yield _key(name.upper(), day, _suites(layer.layer.facts.get("indices")), layer, outlook.today)


def _key(name: str, day: date, suites: str, layer: LookedLayer, today: date) -> Finding:
    over = day <= today
    return Finding(
        kind="key-expired" if over else "key-expires",
        level=WARNING if over else NOTE,
        message=f"the key {name}{suites} {'expired' if over else 'expires'} on {day}."
        " The lock stays good: hashes count when realizing",
        do=rules().by_id("archive-key").do,
        layers=(layer.layer.name,),
        until=day,
        rule="archive-key",
    )


def _suites(indices: Json) -> str:
    listed = indices if isinstance(indices, list | tuple) else ()
    names = sorted({f"{item['archive']} {item['suite']}" for item in listed if isinstance(item, Mapping)})
    return f" of {', '.join(names)}" if names else ""


# -- advice ------------------------------------------------------------------------------------------------------------


def _advice(outlook: Outlook, private: set[str]) -> Iterator[Finding]:
    hidden = {
        item.item.sha256: item.item
        for layer in outlook.layers
        if layer.layer.name in private
        for item in layer.inputs
        if item.grade != "A"
    }
    if hidden:
        yield Finding(
            kind="private",
            level=NOTE,
            message="it is private, and so never in a vault",
            do="keep it yourself where those who may have it find it",
            inputs=tuple(hidden.values()),
            layers=_layers_of(outlook, hidden),
        )
    commits = {digest: item.item for digest, item in outlook.inputs.items() if item.item.type == "git"}
    if commits and not outlook.heritage and not outlook.offline:
        yield Finding(
            kind="heritage-unasked",
            level=NOTE,
            message="Software Heritage was not asked for these commits",
            do=f'name it in the settings: [snapshots] {HERITAGE} = ["https://archive.softwareheritage.org"]; it is told'
            " their identifiers then, and nothing else",
            inputs=tuple(commits.values()),
            layers=_layers_of(outlook, commits),
        )
