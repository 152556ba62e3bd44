"""One question to an engine without the SDK, which takes longer to load than all else that a quick command does.

Docker Engine API: ``GET /images/{name}/json``.
"""

from __future__ import annotations

import socket
from http.client import HTTPConnection, HTTPException
from urllib.parse import quote

_PATIENCE = 10  # seconds


def has_image(path: str, name: str) -> bool | None:
    """Whether the engine behind the socket at ``path`` has an image of this name; None if it gives no clear answer."""
    connection = HTTPConnection("localhost", timeout=_PATIENCE)
    try:
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(_PATIENCE)
        connection.sock.connect(path)
        connection.request("GET", f"/images/{quote(name)}/json")
        return {200: True, 404: False}.get(connection.getresponse().status)
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()
