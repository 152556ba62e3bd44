"""What is said in an attestation: an in-toto Statement v1 with SLSA provenance v1. Values in, bytes out, and back.

Somebody built the targets of a lock again, from nothing but their inputs, with the builders that are named, and all of
them gave these digests, which are the ones that the lock's seal has.

Sources: in-toto attestation framework, Statement v1, DigestSet, ResourceDescriptor; SLSA v1.0 provenance.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from reprobox.attestation.dependencies import Dependency
from reprobox.digest import Json, bare, canonical, prefixed
from reprobox.errors import IntegrityError

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
#: Names, not places: what they stand for is in docs/reference/attestations.md.
BUILD_TYPE = "urn:reprobox:rebuild:v1"
BUILDER_ID = "urn:reprobox:builder:own-machine:v1"
#: The algorithm of a tree digest: sha256 hex over one line for each path; see docs/reference/digests.md.
TREE = "reproboxTree1"

LOCK_NAME, MANIFEST_NAME = "research.lock", "research.toml"
_VERIFIED = "reprobox_verified"
#: What every statement says of every target: its digests are those of the lock's seal; nothing was built before.
_CLAIMS = ("sealed", "fromEmptyStores")
_HEX = re.compile(r"[0-9a-f]{64}\Z")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\Z")
_MOST_TARGETS = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What one target came to, the same with every one of ``builders``.

    Digests are sha256 hex; ``layers`` has diff ids by the layers' names.
    """

    target: str
    platform: str
    builders: tuple[str, ...]
    image: str
    tree: str
    layers: Mapping[str, str]

    def subjects(self) -> list[dict[str, Json]]:
        """What is vouched for. Names begin with the target's, so that each is there once."""
        found = [("image", "sha256", self.image), ("tree", TREE, self.tree)]
        found += [(f"layers/{name}", "sha256", digest) for name, digest in self.layers.items()]
        return [{"name": f"{self.target}/{name}", "digest": {algorithm: text}} for name, algorithm, text in found]


@dataclass(frozen=True, kw_only=True, slots=True)
class Statement:
    """One person's word for a lock.

    ``lock`` and ``manifest`` are sha256 hex of the files' bytes; ``finished`` is the time in UTC, to seconds, as
    RFC 3339 has it; ``versions`` are those of the programs that did the work; ``inputs`` is how many the lock has.
    """

    lock: str
    manifest: str
    outcomes: tuple[Outcome, ...]
    inputs: int
    finished: str
    versions: Mapping[str, str]
    dependencies: tuple[Dependency, ...] = ()
    host: Mapping[str, str] = field(default_factory=dict)

    @property
    def builders(self) -> tuple[str, ...]:
        """Builders that every target was built with."""
        first = self.outcomes[0].builders if self.outcomes else ()
        return tuple(name for name in first if all(name in outcome.builders for outcome in self.outcomes))

    def data(self) -> bytes:
        """The statement as RFC 8785 JSON: the same words, the same bytes, the same signature."""
        return canonical(self.document())

    def document(self) -> dict[str, Json]:
        lock: Json = {"name": LOCK_NAME, "digest": {"sha256": self.lock}}
        subjects = [subject for outcome in self.outcomes for subject in outcome.subjects()]
        return {
            "_type": STATEMENT_TYPE,
            "subject": [lock, *subjects],
            "predicateType": PREDICATE_TYPE,
            "predicate": {
                "buildDefinition": self._definition(),
                "runDetails": {
                    "builder": {"id": BUILDER_ID, "version": dict(self.versions)},
                    "metadata": {"finishedOn": self.finished},
                },
                _VERIFIED: self._verified(),
            },
        }

    def _definition(self) -> dict[str, Json]:
        return {
            "buildType": BUILD_TYPE,
            "externalParameters": {
                "manifest": {"name": MANIFEST_NAME, "digest": {"sha256": self.manifest}},
                "lock": {"name": LOCK_NAME, "digest": {"sha256": self.lock}},
                "targets": [outcome.target for outcome in self.outcomes],
            },
            "internalParameters": {"host": dict(self.host)},
            "resolvedDependencies": [item.document() for item in self.dependencies],
        }

    def _verified(self) -> dict[str, Json]:
        """What was done, for reports; it adds to what the standard fields say and changes none of it."""
        targets: list[Json] = [
            {
                "target": outcome.target,
                "platform": outcome.platform,
                "builders": list(outcome.builders),
                "image": prefixed(outcome.image),
                "tree": prefixed(outcome.tree),
                "layers": {name: prefixed(digest) for name, digest in outcome.layers.items()},
            }
            for outcome in self.outcomes
        ]
        return {**dict.fromkeys(_CLAIMS, True), "inputs": self.inputs, "targets": targets}


# -- reading -----------------------------------------------------------------------------------------------------------


def read_statement(data: bytes, where: str) -> Statement:
    """The statement that ``data`` is. Raises :class:`IntegrityError` for what is none of ours."""
    try:
        document = json.loads(data)
        _expect("_type", document["_type"], STATEMENT_TYPE)
        _expect("predicateType", document["predicateType"], PREDICATE_TYPE)
        predicate = document["predicate"]
        _expect("buildType", predicate["buildDefinition"]["buildType"], BUILD_TYPE)
        statement = _statement(document, predicate)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"missing key {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
        raise IntegrityError(f"it is no attestation of a lock: {reason[:300]}", where=where) from None
    return statement


def _expect(name: str, found: object, wanted: object) -> None:
    if found != wanted or type(found) is not type(wanted):
        raise ValueError(f"{name} is {found!r}, and must be {wanted!r}")


def _statement(document: Mapping[str, Any], predicate: Mapping[str, Any]) -> Statement:
    definition, details, verified = predicate["buildDefinition"], predicate["runDetails"], predicate[_VERIFIED]
    for claim in _CLAIMS:
        _expect(claim, verified[claim], wanted=True)
    statement = Statement(
        lock=_sha256(definition["externalParameters"]["lock"]),
        manifest=_sha256(definition["externalParameters"]["manifest"]),
        outcomes=tuple(map(_outcome, _list(verified["targets"]))),
        inputs=_number(verified["inputs"]),
        finished=_matching(details["metadata"]["finishedOn"], _TIME),
        versions=_strings(details["builder"]["version"]),
        dependencies=tuple(map(_dependency, _list(definition["resolvedDependencies"]))),
        host=_strings(definition["internalParameters"]["host"]),
    )
    if not statement.outcomes or len(statement.outcomes) > _MOST_TARGETS:
        raise ValueError(f"it has {len(statement.outcomes)} targets")
    subjects, ours = document["subject"], statement.document()["subject"]
    assert isinstance(ours, list)
    if any(subject not in subjects for subject in ours):
        raise ValueError("its subjects are not the lock and the targets that it says were built")
    return statement


def _outcome(item: Mapping[str, Any]) -> Outcome:
    builders = tuple(_word(name) for name in _list(item["builders"]))
    if not builders:
        raise ValueError("a target has no builder")
    return Outcome(
        target=_word(item["target"]),
        platform=_word(item["platform"]),
        builders=builders,
        image=_digest(item["image"]),
        tree=_digest(item["tree"]),
        layers={_word(name): _digest(value) for name, value in item["layers"].items()},
    )


def _dependency(item: Mapping[str, Any]) -> Dependency:
    return Dependency(uri=_word(item["uri"]), name=_word(item["name"]), sha256=_sha256(item))


def _sha256(item: Mapping[str, Any]) -> str:
    return _matching(item["digest"]["sha256"], _HEX)


def _digest(text: Any) -> str:
    if not isinstance(text, str) or not text.startswith("sha256:"):
        raise ValueError(f"not a digest: {text!r}")
    return _matching(bare(text), _HEX)


def _matching(text: Any, form: re.Pattern[str]) -> str:
    if not isinstance(text, str) or not form.match(text):
        raise ValueError(f"not of the form {form.pattern.removesuffix(chr(92) + 'Z')}: {text!r}")
    return text


def _word(text: Any) -> str:
    """Text that is shown to people: it may not move their cursor."""
    if not isinstance(text, str) or not text or not text.isprintable() or len(text) > 1000:
        raise ValueError(f"not a plain word: {text!r}")
    return text


def _strings(table: Any) -> dict[str, str]:
    return {_word(name): _word(value) for name, value in table.items()}


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"expected a list, found {type(value).__name__}")
    return value


def _number(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"not a number: {value!r}")
    return value
