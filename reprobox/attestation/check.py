"""Who vouches for a lock: every attestation held to the lock, to its seal, and to the keys that are believed here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from reprobox.attestation.envelope import Signed, open_envelope
from reprobox.attestation.folder import read_attestation
from reprobox.attestation.keys import PublicKey, shown
from reprobox.attestation.statement import Statement, read_statement
from reprobox.digest import bare
from reprobox.errors import IntegrityError
from reprobox.lock import Lock, Seal

State = Literal["valid", "unknown key", "bad signature", "another lock", "not the seal", "damaged"]

#: States that only tell: anybody may add an attestation with a key that nobody here knows.
HARMLESS = frozenset(("valid", "unknown key"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One signature of one attestation: what it is worth, and why.

    ``key`` is the key if it is known here; ``statement`` is what is said, where it could be read: it is only worth
    something where the state is ``valid``.
    """

    file: str
    state: State
    message: str
    keyid: str = ""
    key: PublicKey | None = None
    statement: Statement | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What was found in all attestations of a lock."""

    lock: str
    findings: tuple[Finding, ...]

    @property
    def valid(self) -> tuple[Finding, ...]:
        return tuple(item for item in self.findings if item.state == "valid")

    @property
    def wrong(self) -> tuple[Finding, ...]:
        return tuple(item for item in self.findings if item.state not in HARMLESS)

    @property
    def keys(self) -> tuple[str, ...]:
        """Ids of the distinct keys that vouch: one person who signs twice is one."""
        return tuple(dict.fromkeys(item.keyid for item in self.valid))

    def keys_of(self, target: str) -> tuple[str, ...]:
        """Those of them that vouch for this target: a statement speaks of the targets that were built, of no others."""
        return tuple(
            dict.fromkeys(
                item.keyid
                for item in self.valid
                if item.statement and any(outcome.target == target for outcome in item.statement.outcomes)
            )
        )


def check_attestations(files: Iterable[Path], digest: str, lock: Lock, keys: Mapping[str, PublicKey]) -> Report:
    """Judge all ``files`` for the lock whose bytes have this sha256 hex; ``keys`` are those that are believed."""
    judged = (item for path in files for item in _judge(_read(path), str(path), digest, lock, keys))
    return Report(lock=digest, findings=tuple(judged))


def _read(path: Path) -> bytes | IntegrityError:
    """The bytes of a file, or why there are none: one that cannot be read does not hide the others."""
    try:
        return read_attestation(path)
    except IntegrityError as error:
        return error


def _judge(
    data: bytes | IntegrityError, file: str, digest: str, lock: Lock, keys: Mapping[str, PublicKey]
) -> Iterator[Finding]:
    """One finding for each signature of an envelope; one alone where it cannot be read."""
    try:
        if isinstance(data, IntegrityError):
            raise data
        opened = open_envelope(data, keys, file)
        bad = next((item for item in opened.signatures if item.state == "bad"), None)
        if bad is not None:  # what it says was perhaps changed: it is not even read
            yield _bad(file, bad)
            return
        statement = read_statement(opened.payload, file)
    except IntegrityError as error:
        yield Finding(file=file, state="damaged", message=error.message)
        return
    for signed in opened.signatures:
        state, message = _judged(statement, signed, digest, lock)
        yield Finding(file=file, state=state, message=message, keyid=signed.keyid, key=signed.key, statement=statement)


def _bad(file: str, signed: Signed) -> Finding:
    assert signed.key is not None
    message = f"its signature is not the one of {signed.key.name} (key {shown(signed.keyid)}): it was changed"
    return Finding(file=file, state="bad signature", message=message, keyid=signed.keyid, key=signed.key)


def _judged(statement: Statement, signed: Signed, digest: str, lock: Lock) -> tuple[State, str]:
    if statement.lock != digest:
        same = _same_results(statement, lock)
        also = f", which gave the same as this one: {', '.join(same)}" if same else ""
        return "another lock", f"it is for the lock sha256:{statement.lock[:12]}…, and this one is {digest[:12]}…{also}"
    if wrong := next(_contradictions(statement, lock), ""):
        return "not the seal", wrong
    if signed.key is None:
        return "unknown key", f"nobody here knows the key {shown(signed.keyid)}"
    return "valid", f"signed by {signed.key.name} (key {shown(signed.keyid)})"


def _same_results(statement: Statement, lock: Lock) -> list[str]:
    """Targets that came to the digests of this lock's seal all the same."""
    seals = {name: target.seal for name, target in lock.targets.items()}
    return [
        outcome.target
        for outcome in statement.outcomes
        if (seal := seals.get(outcome.target))
        and (bare(seal.image_digest), bare(seal.tree_digest)) == (outcome.image, outcome.tree)
    ]


def _contradictions(statement: Statement, lock: Lock) -> Iterator[str]:
    for outcome in statement.outcomes:
        target = lock.targets.get(outcome.target)
        if target is None:
            yield f"the lock has no target {outcome.target!r}"
        elif target.seal is None:
            yield f"target {outcome.target!r} of the lock is not sealed"
        else:
            yield from _differences(outcome.target, target.seal, outcome.image, outcome.tree, outcome.layers)


def _differences(target: str, seal: Seal, image: str, tree: str, layers: Mapping[str, str]) -> Iterator[str]:
    pairs = [("image digest", seal.image_digest, image), ("tree digest", seal.tree_digest, tree)]
    pairs += [(f"layer {name!r}", seal.layers.get(name, ""), digest) for name, digest in layers.items()]
    for what, sealed, said in pairs:
        if bare(sealed) != said:
            yield f"of target {target!r} it says another {what} than the seal: sha256:{said}"


def attested_lock(data: bytes, where: str) -> str:
    """sha256 hex of the lock that an attestation is for, whoever signed it. Raises :class:`IntegrityError`."""
    return read_statement(open_envelope(data, {}, where).payload, where).lock
