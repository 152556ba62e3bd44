"""What a verification found: frozen values, which are printed, written as JSON and attested."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from reprobox.errors import IntegrityError, LockError

STALE, MISMATCH = LockError.status, IntegrityError.status


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Something that is not as it should be: the fact, and the fix.

    ``check`` is the :class:`Check` that found it, ``where`` the thing that it is about, ``status`` the exit status that
    it stands for (:data:`STALE` or :data:`MISMATCH`).
    """

    check: str
    where: str
    message: str
    hint: str
    status: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One thing that was looked at. ``ok`` is None where there was nothing to look at; ``said`` tells it in words."""

    name: str  # manifest, code, data, lock, inputs, layers, seal, sandbox and other backends, rebuild
    ok: bool | None
    said: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """One path that two builds of a layer do not have in common.

    ``kind`` is ``content``, ``mode``, ``target``, ``type``, ``time``, ``hard link`` or ``only in one``; ``one`` and
    ``other`` are what each has (empty where it has nothing). ``package`` owns the path: ``libc6 2.36-9`` (deb) or
    ``numpy 2.1.0`` (wheel); empty where none does. ``text`` shows the content, as lines of a diff.
    """

    path: str
    kind: str
    one: str
    other: str
    package: str = ""
    text: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Divergence:
    """The first layer of a target that two builds do not have in common.

    ``one`` and ``other`` say whose they are (``the seal``, ``the store``, ``sandbox``, ``sandbox (2)``), ``one_digest``
    and ``other_digest`` are the diff ids. ``differences`` are the first of ``count`` paths; ``count`` is 0, and
    ``said`` tells why, where the paths cannot be known.
    """

    target: str
    layer: str
    kind: str
    one: str
    other: str
    one_digest: str
    other_digest: str
    differences: tuple[Difference, ...]
    count: int
    said: str = ""
    hint: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rebuilt:
    """What one builder made of a target from an empty store: diff ids by layer name, and the digests of the whole.

    The digests are empty where only some layers were built. ``name`` is ``builder``, with a number from its second
    build on. ``seconds`` is the time that it took.
    """

    name: str
    builder: str
    layers: Mapping[str, str]
    tree_digest: str
    image_digest: str
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifiedTarget:
    """One target: what its digests are here, and who made it again.

    ``tree_digest``, ``image_digest`` and ``layers`` (diff ids by name) are of the layers in the store; where those are
    not all there, of the rebuild; else of the seal; else empty. All are ``sha256:`` hex.
    """

    name: str
    platform: str
    tree_digest: str
    image_digest: str
    layers: Mapping[str, str]
    sealed: bool
    rebuilt: tuple[Rebuilt, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """All that was verified. ``lock`` and ``manifest`` are ``sha256:`` hex, ``code`` a git tree hash or empty."""

    project: str
    version: str
    lock: str
    manifest: str
    code: str
    epoch: int
    targets: tuple[VerifiedTarget, ...]
    checks: tuple[Check, ...]
    findings: tuple[Finding, ...] = ()
    divergences: tuple[Divergence, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.findings and not self.divergences

    @property
    def status(self) -> int:
        """The exit status: bytes that are wrong count more than a lock that is stale."""
        if self.divergences:
            return MISMATCH
        return max((finding.status for finding in self.findings), default=0)
