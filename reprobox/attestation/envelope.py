"""A statement under signatures: a DSSE envelope as securesystemslib writes and verifies it.

Source: DSSE v1.0 (Dead Simple Signing Envelope): what is signed is the payload's type and bytes, never their JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from reprobox.attestation.keys import PublicKey
from reprobox.errors import IntegrityError

if TYPE_CHECKING:
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import CryptoSigner

PAYLOAD_TYPE = "application/vnd.in-toto+json"
#: Bytes of an envelope that are read: a statement of as many inputs as are listed has a tenth of that.
MOST_BYTES = 8 << 20
_MOST_SIGNATURES = 100

State = Literal["valid", "unknown", "bad"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Signed:
    """One signature: the id of its key, the key if it is known here, and whether it is that key's."""

    keyid: str
    key: PublicKey | None
    state: State


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """The bytes that are signed, and who did."""

    payload: bytes
    signatures: tuple[Signed, ...]


def sign(payload: bytes, signer: CryptoSigner) -> bytes:
    """The envelope's bytes: JSON, one signature. Ed25519 gives the same signature each time."""
    from securesystemslib.dsse import Envelope

    envelope = Envelope(payload=payload, payload_type=PAYLOAD_TYPE, signatures={})
    envelope.sign(signer)
    return (json.dumps(envelope.to_dict(), sort_keys=True) + "\n").encode()


def open_envelope(data: bytes, keys: Mapping[str, PublicKey], where: str) -> Opened:
    """What is in an envelope, each signature held to the key of its id. Raises :class:`IntegrityError` if it is none.

    Nothing of the payload is believed because of this: that is for who reads the states.
    """
    envelope = _read(data, where)
    if envelope.payload_type != PAYLOAD_TYPE:
        raise IntegrityError(f"its payload is of type {envelope.payload_type!r}, not {PAYLOAD_TYPE!r}", where=where)
    if not 1 <= len(envelope.signatures) <= _MOST_SIGNATURES:
        raise IntegrityError(f"it has {len(envelope.signatures)} signatures", where=where)
    signatures = tuple(_signed(envelope, keyid, keys.get(keyid)) for keyid in envelope.signatures)
    return Opened(payload=envelope.payload, signatures=signatures)


def _signed(envelope: Envelope, keyid: str, key: PublicKey | None) -> Signed:
    from securesystemslib.exceptions import UnverifiedSignatureError

    if key is None:
        return Signed(keyid=keyid, key=None, state="unknown")
    try:
        key.key.verify_signature(envelope.signatures[keyid], envelope.pae())
    except UnverifiedSignatureError:
        return Signed(keyid=keyid, key=key, state="bad")
    return Signed(keyid=keyid, key=key, state="valid")


def _read(data: bytes, where: str) -> Envelope:
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import Error

    if len(data) > MOST_BYTES:
        hint = "it is no attestation: take it away"
        raise IntegrityError(f"it is larger than {MOST_BYTES} bytes", where=where, hint=hint)
    try:
        document: Any = json.loads(data)
        for signature in document["signatures"]:
            if not _is_word(signature["keyid"]) or len(signature["sig"]) > 1000:
                raise ValueError("a signature has no plain key id, or is too long")
        return Envelope.from_dict(document)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, Error) as error:
        reason = f"missing key {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
        hint = "it is cut short or no attestation: take another copy of it"
        raise IntegrityError(f"it is no DSSE envelope: {reason[:300]}", where=where, hint=hint) from None


def _is_word(text: Any) -> bool:
    return isinstance(text, str) and text.isprintable() and 0 < len(text) <= 200
