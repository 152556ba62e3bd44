"""Addresses: what of them may be shown, and which are of this machine."""

from __future__ import annotations

import urllib.parse
from pathlib import Path

from reprobox.errors import FetchError


def without_password(url: str) -> str:
    """``url`` as it may be shown and remembered."""
    return split_login(url)[0]


def split_login(url: str) -> tuple[str, dict[str, str]]:
    """``url`` without user and password, and the header that says them."""
    import base64

    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        return url, {}
    login, at, host = parts.netloc.rpartition("@")
    if not at:
        return url, {}
    user, _, password = login.partition(":")
    pair = f"{urllib.parse.unquote(user)}:{urllib.parse.unquote(password)}".encode()
    return parts._replace(netloc=host).geturl(), {"Authorization": "Basic " + base64.b64encode(pair).decode()}


def origin(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2].lower()}"


def local_path(url: str) -> Path | None:
    """The path of a ``file:`` URL; None for other schemes."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "file":
        return None
    if parts.netloc not in ("", "localhost"):
        raise FetchError("a file: URL cannot name another machine", where=url)
    return Path(urllib.parse.unquote(parts.path))


def loopback(host: str) -> bool:
    """Whether ``host`` (a name or an address, no port) is this machine."""
    return host in ("localhost", "::1") or host.endswith(".localhost") or host.startswith("127.")
