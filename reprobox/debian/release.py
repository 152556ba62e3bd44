"""Whether to believe an archive: Release files, signatures and dates. DebianRepository/Format, apt-secure(8)

Signatures count when a lock is made; from then on the hashes in the lock do. So the moment that matters to a key is
the one at which it signed: a key that has expired since is still good for what it signed before.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING

from reprobox.debian.control import fields
from reprobox.debian.sources import Read, read_host
from reprobox.digest import sha256
from reprobox.errors import IntegrityError, ResolveError

if TYPE_CHECKING:
    from pysequoia import Cert, Sig

#: Where systems keep the keys that apt trusts, and where keyring packages of any distribution put archive keys.
KEY_PATTERNS = (
    "/etc/apt/trusted.gpg.d/*.gpg",
    "/etc/apt/trusted.gpg.d/*.asc",
    "/etc/apt/trusted.gpg",
    "/usr/share/keyrings/*-archive-keyring.gpg",
    "/usr/share/keyrings/*-archive-keyring.asc",
    "/usr/share/keyrings/*-archive-keyring.pgp",
)
_CLOCK_SKEW = 24 * 3600


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """A verified Release file.

    ``sha256`` is of the signed file as it came (InRelease, or Release); ``date`` and ``valid_until`` (0: never ends)
    are in unix seconds; ``signer`` is the primary fingerprint, upper-case hex, of a key that signed; ``files`` maps
    paths below the suite's folder to (sha256, size).
    """

    sha256: str
    text: bytes
    fields: Mapping[str, str]
    date: int
    valid_until: int
    signer: str
    files: Mapping[str, tuple[str, int]]

    @property
    def archive(self) -> str:
        """The archive's own name, as snapshot services use it: ``debian``, ``debian-security``, ``ubuntu``."""
        return archive_name(self.fields)

    @property
    def by_hash(self) -> bool:
        return self.fields.get("Acquire-By-Hash") == "yes"

    @property
    def called(self) -> str:
        """What it calls its suite, in words."""
        return " or ".join(sorted({self.fields[name] for name in ("Suite", "Codename") if name in self.fields}))

    def is_called(self, suite: str) -> bool:
        """Whether ``suite`` is a name of what this file describes; ``buster/updates`` is one of codename ``buster``.

        Of a flat repository, and of a suite in a folder of its own, the file says nothing that could be compared.
        """
        names = {self.fields.get("Suite", ""), self.fields.get("Codename", "")}
        return suite in names or suite.removesuffix("/updates") in names or "/" in suite.removesuffix("/updates")


def archive_name(values: Mapping[str, str]) -> str:
    """The name of the archive whose Release file has these fields, from its label: ``debian-security``."""
    label = values.get("Label") or values.get("Origin") or "unnamed"
    return re.sub(r"[^a-z0-9.+-]+", "-", label.lower()).strip("-")


class UnknownSignerError(IntegrityError):
    """A Release file that none of the keys at hand has signed."""


class ExpiredKeyError(IntegrityError):
    """A Release file that was signed by a key that was no longer good, as we have it."""


@dataclass(slots=True)
class Keyring:
    """Keys that may sign, and where they were looked for."""

    certs: dict[str, Cert] = field(default_factory=dict)
    places: list[str] = field(default_factory=list)

    def add(self, data: bytes, place: str) -> None:
        """Take the keys of a keyring file, binary or armored. Raises :class:`ResolveError` if it is none."""
        from pysequoia import Cert

        try:
            found = Cert.split_bytes(data)
        except Exception as error:  # noqa: BLE001 - the library raises bare RuntimeError and ValueError
            raise ResolveError(
                f"not a keyring: {_first_line(error)}",
                where=place,
                hint="it must be an OpenPGP public key as the archive offers it, usually called .asc or .gpg",
            ) from None
        for cert in found:
            known = self.certs.get(cert.fingerprint)
            self.certs[cert.fingerprint] = known.merge(cert) if known else cert
        self.places.append(place)

    def only(self, fingerprints: Iterable[str]) -> Keyring:
        """The keys with these fingerprints."""
        wanted = {item.lower().removesuffix("!") for item in fingerprints}
        return Keyring({name: cert for name, cert in self.certs.items() if name in wanted}, self.places)

    def armored(self, fingerprints: Iterable[str]) -> str:
        """These keys as one ASCII-armored block, each with what is needed to check its signatures and no more."""
        from pysequoia import ArmorKind, armor

        wanted = sorted({name.lower() for name in fingerprints})
        return armor(b"".join(_minimal(self.certs[name]) for name in wanted), ArmorKind.PublicKey)


def _minimal(cert: Cert) -> bytes:
    """A key without the signatures that others put on it."""
    from pysequoia.packet import PacketPile, Tag

    kept = []
    for packet in PacketPile.from_bytes(bytes(cert)):
        foreign = packet.tag == Tag.Signature and not _made_by(packet, cert.fingerprint)
        if not foreign:
            kept.append(bytes(packet))
    return b"".join(kept)


def _made_by(packet: object, fingerprint: str) -> bool:
    issuer = getattr(packet, "issuer_fingerprint", None) or getattr(packet, "issuer_key_id", None) or ""
    return bool(issuer) and fingerprint.endswith(str(issuer).lower())


def trusted_keys(read: Read = read_host, paths: Iterable[str] | None = None) -> Keyring:
    """The keys that a system trusts for archives: this machine's, or those that ``read`` finds at ``paths``."""
    keyring = Keyring()
    if paths is None:
        paths = [path for pattern in KEY_PATTERNS for path in sorted(glob.glob(pattern))]
        keyring.places.extend(KEY_PATTERNS)
    for path in paths:
        data = read(path)
        if data:
            keyring.add(data, path)
    return keyring


def keys_for(signed_by: Sequence[str], trusted: Keyring, read: Read = read_host) -> Keyring:
    """The keys that a source's ``Signed-By`` allows: those of its files or its own block, or all trusted ones."""
    if not signed_by:
        return trusted
    keyring, fingerprints = Keyring(), []
    for item in signed_by:
        if item.startswith("-----BEGIN"):
            keyring.add(item.encode(), "Signed-By")
        elif item.startswith("/"):
            data = read(item)
            keyring.places.append(f"{item} (not there)") if data is None else keyring.add(data, item)
        else:
            fingerprints.append(item)
    if fingerprints:
        keyring.certs |= trusted.only(fingerprints).certs
        keyring.places += trusted.places
    return keyring


def verify(signed: bytes, keyring: Keyring, *, where: str, detached: bytes | None = None) -> tuple[bytes, str]:
    """The content of an InRelease file (or ``signed`` itself, where ``detached`` is its Release.gpg) and who signed it.

    Of several good signatures the first in the file names the signer. Raises :class:`IntegrityError` where no known key
    signed it, saying which keys did and where keys were looked for.
    """
    import pysequoia

    issuers: list[str] = []

    def known(names: list[str]) -> list[Cert]:
        issuers.extend(names)
        return list(keyring.certs.values())

    try:
        if detached is None:
            answer = pysequoia.verify(bytes=signed, store=known)
            content, good = answer.bytes or b"", answer.valid_sigs
        else:
            content, good = signed, _detached(signed, detached, known)
    except Exception as error:  # noqa: BLE001 - the library raises bare RuntimeError
        raise _unverified(_first_line(error), issuers, keyring, where) from None
    if not good:
        raise _unverified("no good signature", issuers, keyring, where)
    return content, str(good[0].certificate).upper()


def _detached(content: bytes, signatures: bytes, known: object) -> list[object]:
    import pysequoia
    from pysequoia.packet import PacketPile

    good: list[object] = []
    problem: Exception | None = None
    for packet in PacketPile.from_bytes(signatures):
        signature: Sig = pysequoia.Sig.from_bytes(bytes(packet))
        try:
            good += pysequoia.verify(bytes=content, store=known, signature=signature).valid_sigs
        except Exception as error:  # noqa: BLE001 - the library raises bare RuntimeError
            problem = error
    if not good and problem:
        raise problem
    return good


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0].removeprefix("Signature verification failed: ").rstrip(".")


def _unverified(reason: str, issuers: Sequence[str], keyring: Keyring, where: str) -> IntegrityError:
    if not issuers:
        return IntegrityError(
            f"this is not a signed Release file: {reason}",
            where=where,
            hint="something between here and the mirror may answer in its place: a login page, a proxy",
        )
    wanted = ", ".join(sorted({issuer.upper() for issuer in issuers}))
    for cert in keyring.certs.values():
        if not any(name.lower().endswith(issuer.lower()) for issuer in issuers for name in _key_names(cert)):
            continue
        if cert.expiration and cert.expiration < datetime.now(UTC):
            return ExpiredKeyError(
                f"it is signed by key {wanted}, which expired on {_day(cert.expiration.timestamp())}",
                where=where,
                hint="the archive has extended or replaced its key: get the current one",
            )
        return IntegrityError(
            f"the signature is bad: {reason} (by key {wanted})",
            where=where,
            hint="the file was changed on its way, or the mirror is broken: try again, or use another mirror",
        )
    places = ", ".join(dict.fromkeys(keyring.places)) or "nowhere"
    return UnknownSignerError(
        f"it is signed by keys that are not known here: {wanted}; looked in {places}",
        where=where,
        hint="install the distribution's archive keys (package debian-archive-keyring), or give them in the manifest:"
        ' [base] key = "keys/archive.asc"',
    )


def _key_names(cert: Cert) -> list[str]:
    from pysequoia.packet import PacketPile

    return [packet.fingerprint for packet in PacketPile.from_bytes(bytes(cert)) if packet.fingerprint]


def parse(signed: bytes, content: bytes, signer: str, *, where: str) -> Release:
    """The Release whose verified ``content`` came in the file ``signed``."""
    values = fields(content)
    try:
        date = _seconds(values["Date"])
        valid_until = _seconds(values["Valid-Until"]) if "Valid-Until" in values else 0
        lines = (line.split() for line in values["SHA256"].split("\n") if line)
        files = {path.removeprefix("./"): (digest, int(size)) for digest, size, path in lines}
    except (KeyError, ValueError) as error:
        raise IntegrityError(f"a Release file without a usable {error}", where=where) from None
    return Release(
        sha256=sha256(signed),
        text=signed,
        fields={name: value for name, value in values.items() if "\n" not in value},
        date=date,
        valid_until=valid_until,
        signer=signer,
        files=files,
    )


def _seconds(text: str) -> int:
    moment = parsedate_to_datetime(text)
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def check(release: Release, suite: str | None, *, where: str, now: float, expires: bool = True) -> None:
    """That ``release`` is of ``suite`` (None: of whichever) and current; if not, :class:`IntegrityError` says why."""
    if suite is not None and not release.is_called(suite):
        raise IntegrityError(
            f"asked for suite {suite!r}, it answers with {release.called or 'a Release file without a suite'}",
            where=where,
            hint="the mirror, or a cache before it, mixes up suites: use another mirror",
        )
    if release.date > now + _CLOCK_SKEW:
        raise IntegrityError(
            f"it was signed on {_day(release.date)}, which is in the future here",
            where=where,
            hint=f"this machine's clock says {_day(now)}: set it right",
        )
    if expires and release.valid_until and now > release.valid_until:
        raise IntegrityError(
            f"it was only good until {_day(release.valid_until)}, and it is {_day(now)}",
            where=where,
            hint="the mirror is no longer updated (use another one; if it is meant to keep old states, say"
            " `Check-Valid-Until: no` in its apt source), or this machine's clock is wrong",
        )


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def read_key_file(path: Path) -> Keyring:
    """The keys of the file that a manifest names."""
    keyring = Keyring()
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ResolveError(
            f"the key file cannot be read: {error.strerror}",
            where=str(path),
            hint="save the archive's public key there; its own pages say where to get it",
        ) from None
    if b"-----BEGIN PGP PRIVATE KEY" in data:
        raise ResolveError(
            "the key file holds a secret key", where=str(path), hint="take it away, and put the public key there"
        )
    keyring.add(data, str(path))
    return keyring
