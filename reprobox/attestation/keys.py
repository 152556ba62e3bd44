"""Keys of this user, and keys of others that this user trusts: Ed25519, in files as OpenSSL reads them.

In the platform's configuration folder, or where ``$REPROBOX_KEYS`` says::

    keys/ada.key            private: PKCS #8 in PEM, for nobody else to read (0600); with or without a passphrase
    keys/ada.pub            public: SubjectPublicKeyInfo in PEM, to be given to others
    keys/trusted/grace.pub  public keys of others

Nothing that comes with a project is ever trusted: it would vouch for itself. A key id is that of securesystemslib:
sha256 hex of the public key as canonical JSON.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reprobox.errors import ReproboxError, UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from securesystemslib.signer import CryptoSigner, SSlibKey

VARIABLE = "REPROBOX_KEYS"
PRIVATE, PUBLIC = ".key", ".pub"
_TRUSTED = "trusted"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}\Z")
_MOST = 1 << 14  # bytes of a key file
_SHOWN = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class PublicKey:
    """A public key by the name that this user has for it. ``own`` means that this user has the private one too."""

    name: str
    pem: str
    path: Path
    own: bool = False

    @property
    def key(self) -> SSlibKey:
        return _public(self.pem.encode(), str(self.path))

    @property
    def id(self) -> str:
        """The key id, hex."""
        return str(self.key.keyid)


def shown(keyid: str) -> str:
    """The beginning of a key id, for people."""
    return f"{keyid[:_SHOWN]}…"


class Keyring:
    """The keys in one folder; it is made when the first key is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def _trusted(self) -> Path:
        return self.folder / _TRUSTED

    # -- own keys

    def make(self, name: str, passphrase: bytes = b"") -> PublicKey:
        """A new pair. Raises :class:`UsageError` for a bad name, or one that is taken."""
        from cryptography.hazmat.primitives import serialization as forms
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        _check_name(name)
        private, public = self._private_path(name), self.folder / f"{name}{PUBLIC}"
        for path in (private, public):
            if os.path.lexists(path):
                raise UsageError("there is such a key already", where=str(path), hint="give --name another name")
        key = Ed25519PrivateKey.generate()
        locked = forms.BestAvailableEncryption(passphrase) if passphrase else forms.NoEncryption()
        form = forms.PrivateFormat.PKCS8
        with _writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            _write(private, key.private_bytes(forms.Encoding.PEM, form, locked), 0o600)
            with _gone_if_it_fails(private):
                _write(public, _pem(key), 0o644)
        return PublicKey(name=name, pem=_pem(key).decode(), path=public, own=True)

    def own(self) -> tuple[PublicKey, ...]:
        """The user's own keys, by name."""
        return tuple(self._own(path) for path in sorted(self.folder.glob(f"*{PRIVATE}")))

    def _own(self, path: Path) -> PublicKey:
        return _read_public(path.with_suffix(PUBLIC), path.stem, own=True)

    def chosen(self, name: str = "") -> PublicKey:
        """The own key that is meant; the only one, where no name is given. Raises :class:`UsageError`."""
        keys = self.own()
        for key in keys:
            if key.name == name or (not name and len(keys) == 1):
                return key
        there = ", ".join(key.name for key in keys)
        if not keys:
            raise UsageError("you have no key", where=str(self.folder), hint="make one with `reprobox key new`")
        if name:
            raise UsageError(f"you have no key {name!r}", where=str(self.folder), hint=f"you have {there}")
        raise UsageError(
            f"you have {len(keys)} keys: {there}", where=str(self.folder), hint="choose one with --key NAME"
        )

    def is_locked(self, name: str) -> bool:
        """Whether the private key wants a passphrase."""
        return b"ENCRYPTED" in self._private_bytes(name).partition(b"\n")[0]

    def signer(self, name: str, passphrase: bytes = b"") -> CryptoSigner:
        """What signs with an own key. Raises :class:`UsageError` where the file, or the passphrase, is not right."""
        from securesystemslib.signer import CryptoSigner

        path = self._private_path(name)
        data, locked = self._private_bytes(name), self.is_locked(name)
        key = _private(data, passphrase if locked else b"", path)
        if _pem(key).decode() != self._own(path).pem:
            raise UsageError(f"{name}{PUBLIC} is the public half of another key", where=str(path), hint=_MADE_ANEW)
        return CryptoSigner(key)

    def _private_path(self, name: str) -> Path:
        return self.folder / f"{name}{PRIVATE}"

    def _private_bytes(self, name: str) -> bytes:
        path = self._private_path(name)
        with _reading(path), path.open("rb") as file:
            status = os.fstat(file.fileno())
            if stat.S_IMODE(status.st_mode) & 0o077:
                mode = f"{stat.S_IMODE(status.st_mode):04o}"
                raise UsageError(
                    f"others may read this private key: its mode is {mode}", where=str(path), hint=f"chmod 600 {path}"
                )
            return file.read(_MOST)

    # -- keys of others

    def trust(self, file: Path, name: str = "") -> PublicKey:
        """Believe the key in ``file`` from now on, by ``name`` or the file's. Raises :class:`UsageError`."""
        found = read_key(file, name)
        _check_name(found.name)
        path = self._trusted / f"{found.name}{PUBLIC}"
        if os.path.lexists(path):
            there = _read_public(path, found.name)
            if there.id == found.id:
                return there
            hint = f"give --name another name, or first `reprobox key distrust {found.name}`"
            raise UsageError(f"you trust another key by the name {found.name!r}", where=str(path), hint=hint)
        with _writing(self.folder):
            self._trusted.mkdir(parents=True, exist_ok=True, mode=0o700)
            _write(path, found.pem.encode(), 0o644)
        return PublicKey(name=found.name, pem=found.pem, path=path)

    def distrust(self, name: str) -> None:
        """Believe it no longer. Raises :class:`UsageError` where there is no such key."""
        _check_name(name)
        try:
            (self._trusted / f"{name}{PUBLIC}").unlink()
        except FileNotFoundError:
            there = ", ".join(key.name for key in self.trusted()) or "none"
            raise UsageError(
                f"you trust no key {name!r}", where=str(self._trusted), hint=f"you trust {there}"
            ) from None

    def trusted(self) -> tuple[PublicKey, ...]:
        """Keys of others, by name."""
        return tuple(_read_public(path, path.stem) for path in sorted(self._trusted.glob(f"*{PUBLIC}")))

    def believed(self) -> dict[str, PublicKey]:
        """All keys whose signatures count, by key id: one's own and those of others."""
        return {key.id: key for key in (*self.trusted(), *self.own())}


def open_keyring(environment: Mapping[str, str] = os.environ) -> Keyring:
    """The keys of this user."""
    if chosen := environment.get(VARIABLE):
        if not chosen.startswith(("/", "~/")):
            raise UsageError(
                f"expected an absolute path, found {chosen!r}", where=VARIABLE, hint="begin it with / or ~/"
            )
        return Keyring(Path(chosen).expanduser())
    import platformdirs

    return Keyring(platformdirs.user_config_path("reprobox", appauthor=False) / "keys")


def read_key(file: Path, name: str = "") -> PublicKey:
    """A public key in any file, by ``name`` or the file's. Raises :class:`UsageError` for what is none."""
    return _read_public(file, name or file.name.removesuffix(PUBLIC))


# -- files -------------------------------------------------------------------------------------------------------------

_MADE_ANEW = "restore both files from a copy, or make another key with `reprobox key new`"
_WHAT = "give the .pub file that `reprobox key new` wrote"


def _check_name(name: str) -> None:
    if not _NAME.match(name):
        hint = "up to 64 letters, digits and .-_@+ that begin with a letter or digit, such as ada"
        raise UsageError(f"{name!r} cannot be the name of a key", hint=hint)


def _read_public(path: Path, name: str, *, own: bool = False) -> PublicKey:
    with _reading(path), path.open("rb") as file:
        data = file.read(_MOST)
    if b"PRIVATE KEY" in data:
        raise UsageError("it is a private key: nobody else may have it", where=str(path), hint=_WHAT)
    _public(data, str(path))
    return PublicKey(name=name, pem=data.decode(), path=path, own=own)


def _public(data: bytes, where: str) -> SSlibKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from securesystemslib.signer import SSlibKey

    try:
        data.decode()
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        raise UsageError("it is no public key in PEM", where=where, hint=_WHAT) from None
    if not isinstance(key, Ed25519PublicKey):
        kind = type(key).__name__.removesuffix("PublicKey").lstrip("_")
        raise UsageError(f"it is a key of kind {kind}, and must be Ed25519", where=where, hint=_WHAT)
    return SSlibKey.from_crypto(key)


def _private(data: bytes, passphrase: bytes, path: Path) -> Ed25519PrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(data, passphrase or None)
    except TypeError:
        hint = "type it when you are asked, or set REPROBOX_KEY_PASSPHRASE"
        raise UsageError("this key wants its passphrase", where=str(path), hint=hint) from None
    except (ValueError, UnsupportedAlgorithm):
        wrong = "the passphrase is not the one of this key" if passphrase else "it is no private key in PEM"
        raise UsageError(wrong, where=str(path), hint="try again" if passphrase else _MADE_ANEW) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError("it is no Ed25519 key", where=str(path), hint=_MADE_ANEW)
    return key


def _pem(key: Ed25519PrivateKey) -> bytes:
    from cryptography.hazmat.primitives import serialization as forms

    return key.public_key().public_bytes(forms.Encoding.PEM, forms.PublicFormat.SubjectPublicKeyInfo)


def _write(path: Path, data: bytes, mode: int) -> None:
    """A new file, with its mode from the first byte on; none that is cut short, for it would hide all other keys."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with _gone_if_it_fails(path), open(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _gone_if_it_fails(path: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = "`reprobox key list` shows the keys that there are"
        raise UsageError(f"this key cannot be read: {error.strerror}", where=str(path), hint=hint) from None


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = f"{VARIABLE} names another folder for keys"
        raise ReproboxError(f"keys cannot be written: {error.strerror}", where=str(folder), hint=hint) from None
