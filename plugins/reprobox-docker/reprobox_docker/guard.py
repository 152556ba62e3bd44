"""A small process that takes containers away when the one that made them is killed.

It reads lines from standard input, ``+ID`` and ``-ID``; when that ends, what is left is removed. Standard library only,
and little of it: there is one for each reprobox that uses an engine.
"""

import socket
import sys


def main(path: str) -> None:
    """Watch for the owner's end; ``path`` is the engine's socket."""
    mine = set()
    for line in sys.stdin:
        name = line[1:].strip()
        if line.startswith("+"):
            mine.add(name)
        else:
            mine.discard(name)
    for name in mine:
        remove(path, name)


def remove(path: str, name: str) -> None:
    """Have the engine kill and remove a container; there is nobody to tell if that fails."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(path)
            ask = f"DELETE /containers/{name}?force=1&v=1 HTTP/1.0\r\nHost: localhost\r\n\r\n"
            connection.sendall(ask.encode())
            while connection.recv(1 << 16):
                pass
        except OSError:
            return


if __name__ == "__main__":
    main(sys.argv[1])
