"""The token that lets reprobox deposit in somebody's name: from the environment or a keyring, and no command line."""

from __future__ import annotations

import os
import urllib.parse
from collections.abc import Mapping

from reprobox.deposit.invenio import SANDBOX, ZENODO
from reprobox.errors import UsageError

ANY = "REPROBOX_DEPOSIT_TOKEN"
#: Variables that only hold for one server: a token is not shown to another one.
OWN = {ZENODO: "ZENODO_TOKEN", SANDBOX: "ZENODO_SANDBOX_TOKEN"}
_SERVICE = "reprobox"


def token_for(server: str, environment: Mapping[str, str] = os.environ) -> str:
    """The token for a server. Raises :class:`UsageError` where there is none, without saying any."""
    names = [OWN[server], ANY] if server in OWN else [ANY]
    host = urllib.parse.urlsplit(server).netloc
    for name in names:
        if value := environment.get(name, "").strip():
            return _checked(value, name)
    if value := _from_keyring(host).strip():
        return _checked(value, f"the keyring's entry {_SERVICE} {host}")
    raise UsageError(
        "there is no token to deposit with",
        where=server,
        hint=f"make one on your account's page there, with deposit:write and deposit:actions, and put it into"
        f" {names[0]}, or into the keyring with `keyring set {_SERVICE} {host}`",
    )


def _checked(value: str, where: str) -> str:
    if not value.isascii() or not value.isprintable() or " " in value:
        raise UsageError("what is there is no token", where=where, hint="copy it once more, without anything around it")
    return value


def _from_keyring(host: str) -> str:
    """What the keyring has, where that package is installed and has a backend that works."""
    try:
        import keyring
        from keyring.errors import KeyringError
    except ImportError:
        return ""
    try:
        return keyring.get_password(_SERVICE, host) or ""
    except KeyringError:
        return ""
