#!/usr/bin/env python3
"""Print the tree digest of a folder. Written from the definition alone ("Digests" in the documentation), without reprobox.

usage: tree_digest.py DIR
"""

import hashlib
import os
import stat
import sys

RUN_TIME = (b"dev", b"proc", b"sys", b"run", b"tmp")
OF_THE_MACHINE = (b"etc/resolv.conf", b"etc/hosts", b"etc/hostname", b"etc/mtab")
INJECTED = (b".dockerenv", b".singularity.d", b".exec", b".run", b".shell", b".test", b"singularity", b"environment")


def lines(root, below=b""):
    for name in os.listdir(os.path.join(root, below)):
        path = os.path.join(below, name)
        status = os.lstat(os.path.join(root, path))
        if stat.S_ISDIR(status.st_mode) and path not in (*RUN_TIME, b".singularity.d"):
            yield from lines(root, path)
        if path in OF_THE_MACHINE + INJECTED:
            continue
        if stat.S_ISDIR(status.st_mode):
            yield path, b"d", status.st_mode, b"-"
        elif stat.S_ISLNK(status.st_mode):
            yield path, b"l", 0o777, escaped(os.readlink(os.path.join(root, path)))
        elif stat.S_ISREG(status.st_mode):
            with open(os.path.join(root, path), "rb") as file:
                yield path, b"f", status.st_mode, hashlib.sha256(file.read()).hexdigest().encode()


def escaped(raw):
    return b"".join(b"\\x%02X" % byte if byte in b"\\ \n" else bytes([byte]) for byte in raw)


if __name__ == "__main__":
    text = b"".join(
        b"%s %04o %s %s\n" % (kind, stat.S_IMODE(mode), detail, escaped(path))
        for path, kind, mode, detail in sorted(lines(os.fsencode(sys.argv[1])))
    )
    print("sha256:" + hashlib.sha256(text).hexdigest())  # noqa: T201 - it is a program
