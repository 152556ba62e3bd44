"""The system calls of a rootless sandbox: namespaces, mounts, pivot_root.

Python 3.11 has no ``os.unshare``, and the standard library has no mount at all, so these go through ctypes.
Source: unshare(2), mount(2), mount_setattr(2), pivot_root(2), user_namespaces(7).
"""

from __future__ import annotations

import errno
import os
import struct

from reprobox.namespace import NEWUSER, check, die_with_parent, libc, map_one_id, unshare

__all__ = ["NEWUSER", "die_with_parent", "libc", "map_one_id", "unshare"]  # with what is defined here

NEWNS, NEWUTS, NEWIPC, NEWPID, NEWNET = 0x00020000, 0x04000000, 0x08000000, 0x20000000, 0x40000000
RDONLY, NOSUID, NODEV, NOEXEC, REMOUNT, BIND, REC, PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18

_MOUNT_SETATTR = 442
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_AT_RECURSIVE = 0x8000
_MOUNT_ATTR_RDONLY = 1
_STAT_FLAGS = {2: NOSUID, 4: NODEV, 8: NOEXEC, 1024: 1 << 10, 2048: 1 << 11, 4096: 1 << 21}  # statvfs -> mount flags
_DETACH = 2
_MOUNTS = "/proc/self/mountinfo"
_NO_NEW_PRIVS = 38
_IGNORED_BY_PYTHON = (13, 25)  # SIGPIPE, SIGXFSZ


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    check(
        libc.mount(os.fsencode(source), os.fsencode(target), kind.encode(), flags, os.fsencode(options)),
        f"mount {kind or 'bind'} {source} on {target}",
    )


def bind(source: str, target: str, *, writable: bool = False, recursive: bool = False, mounts: str = _MOUNTS) -> None:
    """Bind ``source`` at ``target``; read-only unless ``writable``, without losing the source mount's own flags.

    ``mounts`` is a mountinfo(5) file of this namespace, for :func:`make_read_only`.
    """
    mount(source, target, flags=BIND | (REC if recursive else 0))
    if not writable:
        make_read_only(target, recursive=recursive, mounts=mounts)


def make_read_only(target: str, *, recursive: bool = False, mounts: str = _MOUNTS) -> None:
    """Make a mount read-only, with those below it if ``recursive``; they are found in ``mounts`` before Linux 5.12."""
    attributes = struct.pack("=QQQQ", _MOUNT_ATTR_RDONLY, 0, 0, 0)
    at = _AT_RECURSIVE if recursive else 0
    if libc.syscall(_MOUNT_SETATTR, -100, os.fsencode(target), at, attributes, len(attributes)) == 0:
        return
    for path in _mounted_at_and_below(target, mounts) if recursive else [target]:
        kept = os.statvfs(path).f_flag
        flags = sum(flag for bit, flag in _STAT_FLAGS.items() if kept & bit)
        mount("none", path, flags=BIND | REMOUNT | RDONLY | flags)


def _mounted_at_and_below(target: str, mounts: str) -> list[str]:
    with open(mounts, "rb") as file:
        found = [_unescaped(line.split(b" ")[4]) for line in file]
    below = os.fsencode(target.rstrip("/")) + b"/"
    return [target, *(os.fsdecode(path) for path in found if path.startswith(below))]


def _unescaped(path: bytes) -> bytes:
    r"""A path of proc(5), in which blanks and backslashes stand as ``\040``."""
    first, *rest = path.split(b"\\")
    return first + b"".join(bytes([int(piece[:3], 8)]) + piece[3:] for piece in rest)


def private_mounts() -> None:
    """Nothing mounted from here on is seen outside."""
    mount("none", "/", flags=REC | PRIVATE)


def pivot(root: str, old: str) -> None:
    """Make ``root``, a mount point, the file system's root; the old one is then at ``old``, a folder inside it."""
    check(libc.syscall(_PIVOT_ROOT[os.uname().machine], os.fsencode(root), os.fsencode(root + old)), "pivot_root")
    os.chdir("/")


def detach(path: str) -> None:
    """Unmount everything at ``path``, now for this namespace, later for those who still use it."""
    check(libc.umount2(os.fsencode(path), _DETACH), f"umount {path}")


def no_new_privileges() -> None:
    check(libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")


def restore_signals() -> None:
    """Undo what Python's start changed, for the program that this process becomes: `yes | head` must end quietly."""
    for number in _IGNORED_BY_PYTHON:
        libc.signal(number, None)  # SIG_DFL


def execute(argv: list[str], environment: dict[str, str]) -> None:
    """Become a program, found on the PATH of ``environment``. Raises :class:`OSError`: ENOENT if there is none.

    ``os.execvpe`` would import a module first, and the files of Python may be out of reach by then.
    """
    names = [argv[0]]
    if "/" not in argv[0]:
        names = [f"{folder}/{argv[0]}" for folder in environment.get("PATH", "/usr/bin:/bin").split(":") if folder]
    denied = None
    for name in names:
        try:
            os.execve(name, argv, environment)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except PermissionError as error:
            denied = error
    raise denied or FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


def host_name(name: str) -> None:
    check(libc.sethostname(name.encode(), len(name)), "sethostname")


def flush(folder: str) -> None:
    """Write everything of the folder's file system to the disk: syncfs(2)."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        check(libc.syncfs(descriptor), f"syncfs {folder}")
    finally:
        os.close(descriptor)


def loopback_up() -> None:
    """Bring ``lo`` of a new network namespace up, so that a step can talk to itself. netdevice(7)"""
    import fcntl
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as interface:
        fcntl.ioctl(interface, 0x8914, struct.pack("16sh14x", b"lo", 0x41))  # SIOCSIFFLAGS: up, running
