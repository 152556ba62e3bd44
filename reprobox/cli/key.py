"""``reprobox key``"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from reprobox.attestation.keys import Keyring, PublicKey, open_keyring, shown
from reprobox.errors import UsageError

DETAILS = """\
With a key of your own, `reprobox verify --rebuild --sign` vouches for a lock; with the public keys of others, `reprobox
verify --attestations` says who does. Compare key ids with their owners before you trust: by telephone, or on paper.

examples:
  reprobox key new                      make a key; it asks for a passphrase, which may be empty
  reprobox key show > ada.pub           your public key, to send to others
  reprobox key trust grace.pub          believe what Grace signs
  reprobox key list                     your keys, and those that you trust
  reprobox key distrust grace           no longer"""
_VARIABLE = "REPROBOX_KEY_PASSPHRASE"


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    new = _action(actions, "new", "make a pair of keys, which stays on this machine")
    new.add_argument("--name", metavar="NAME", default="", help="what to call it; your user name if left out")
    show = _action(actions, "show", "print a public key of yours, or of somebody that you trust")
    show.add_argument("name", nargs="?", default="", metavar="NAME", help="which; your own if left out")
    trust = _action(actions, "trust", "believe what this key signs")
    trust.add_argument("file", type=Path, metavar="FILE", help="a public key: NAME.pub")
    trust.add_argument("--name", metavar="NAME", default="", help="whose it is; the file's name if left out")
    distrust = _action(actions, "distrust", "believe it no longer")
    distrust.add_argument("name", metavar="NAME", help="the name that you trust it by")
    _action(actions, "list", "list your keys, and those that you trust")


def _action(actions: Any, name: str, summary: str) -> argparse.ArgumentParser:
    action: argparse.ArgumentParser = actions.add_parser(
        name, help=summary, description=f"{summary[0].upper()}{summary[1:]}."
    )
    action.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print the result as JSON")
    action.add_argument("-q", "--quiet", action="store_true", default=argparse.SUPPRESS, help="no progress")
    return action


def execute(options: argparse.Namespace) -> int:
    ways: Mapping[str, Callable[[argparse.Namespace, Keyring], int]] = {
        "new": _new,
        "show": _show,
        "trust": _trust,
        "distrust": _distrust,
        "list": _list,
    }
    return ways[options.action](options, open_keyring())


def _new(options: argparse.Namespace, keyring: Keyring) -> int:
    key = keyring.make(options.name or _user(), _new_passphrase())
    if options.json:
        print(json.dumps(_document(key)))
        return 0
    print(f"made {key.path.with_suffix('.key')}: private, keep it and give it to nobody")
    print(f"made {key.path}: public, for those who shall believe you")
    print(f"key id {key.id}")
    return 0


def _show(options: argparse.Namespace, keyring: Keyring) -> int:
    key = _named(keyring, options.name) if options.name else keyring.chosen()
    if options.json:
        print(json.dumps(_document(key)))
        return 0
    options.reporter.say(f"{key.name}: key id {key.id}")
    print(key.pem, end="" if key.pem.endswith("\n") else "\n")
    return 0


def _named(keyring: Keyring, name: str) -> PublicKey:
    keys = {key.name: key for key in (*keyring.trusted(), *keyring.own())}
    if name not in keys:
        there = ", ".join(sorted(keys)) or "none"
        raise UsageError(f"there is no key {name!r}", where=str(keyring.folder), hint=f"there are {there}")
    return keys[name]


def _trust(options: argparse.Namespace, keyring: Keyring) -> int:
    key = keyring.trust(options.file, options.name)
    if options.json:
        print(json.dumps(_document(key)))
        return 0
    print(f"what {key.name} signs is believed now; key id {key.id}")
    print(f"ask {key.name} whether `reprobox key show` says the same there")
    return 0


def _distrust(options: argparse.Namespace, keyring: Keyring) -> int:
    keyring.distrust(options.name)
    print(json.dumps({"name": options.name}) if options.json else f"{options.name} is believed no longer")
    return 0


def _list(options: argparse.Namespace, keyring: Keyring) -> int:
    own, trusted = keyring.own(), keyring.trusted()
    if options.json:
        print(json.dumps({"own": [_document(key) for key in own], "trusted": [_document(key) for key in trusted]}))
        return 0
    for what, keys in (("own", own), ("trusted", trusted)):
        for key in keys:
            locked = "  with a passphrase" if key.own and keyring.is_locked(key.name) else ""
            print(f"{what:<8} {key.name:<16} {shown(key.id)}{locked}")
    if not own and not trusted:
        options.reporter.say("there are no keys yet: `reprobox key new` makes one")
    return 0


def _document(key: PublicKey) -> dict[str, Any]:
    return {"name": key.name, "id": key.id, "own": key.own, "path": str(key.path), "public": key.pem}


def _user() -> str:
    """The user's name, as far as a key can have it."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = "key"
    return re.sub(r"[^A-Za-z0-9._@+-]", "-", name).lstrip("._@+-")[:64] or "key"


# -- passphrases -------------------------------------------------------------------------------------------------------


def passphrase(keyring: Keyring, name: str) -> bytes:
    """The passphrase of an own key that has one: from the environment, else asked for on the terminal."""
    if not keyring.is_locked(name):
        return b""
    given = os.environ.get(_VARIABLE, "")
    if not given and sys.stdin.isatty():
        given = getpass.getpass(f"passphrase of the key {name}: ")
    return given.encode()


def _new_passphrase() -> bytes:
    """For a new key; where there is no terminal and no variable, none."""
    given = os.environ.get(_VARIABLE, "")
    if given or not sys.stdin.isatty():
        return given.encode()
    typed = getpass.getpass("passphrase for the new key (empty: none): ")
    if typed and getpass.getpass("once more: ") != typed:
        raise UsageError("the two passphrases differ", hint="type the same twice")
    return typed.encode()
