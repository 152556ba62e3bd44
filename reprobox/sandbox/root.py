"""The root file system of a step or a run: mounted, entered, and filled with what belongs to this machine or this run.

Everything is put in place after ``pivot_root``, so that paths are looked up inside: no link of an environment leads a
mount or a file to the host. The host's root stays reachable meanwhile, under a name that no environment can know.

Standard library only, and little of it: this is on the way of every ``reprobox run``.
"""

from __future__ import annotations

import errno
import os
import stat

from reprobox.sandbox import kernel

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing would take as long to load as the root takes to mount
    from collections.abc import Sequence

HOST = f"/run/.{os.urandom(16).hex()}"
_OWN = f"/run/.{os.urandom(16).hex()}"
#: Folders that every root has, and that are never links; and files that a run shows its own of.
FOLDERS = ("dev", "etc", "proc", "run", "sys", "tmp")
FILES = ("etc/group", "etc/hostname", "etc/hosts", "etc/passwd", "etc/resolv.conf")


def mount_stacked(trees: Sequence[str], stage: str, upper: str = "", work: str = "") -> str:
    """Mount ``trees``, lowest first, and return where.

    What is written goes to ``upper``, by way of ``work``; into memory if they are not given. ``stage`` is an empty
    folder that becomes a tmpfs.
    """
    root = _staged(stage)
    # Short names: mount(2) takes one page of options, in which commas and colons mean something.
    for number, tree in enumerate(trees):
        os.symlink(tree, f"{stage}/{number}")
    for name, place in (("upper", upper), ("work", work)):
        if place:
            os.symlink(place, f"{stage}/{name}")
        else:
            os.mkdir(f"{stage}/{name}", 0o755)
    if not upper:
        _own_etc(trees, f"{stage}/upper/etc")
    os.chdir(stage)
    lower = ":".join(str(number) for number in reversed(range(len(trees))))
    options = f"lowerdir={lower},upperdir=upper,workdir=work,userxattr"
    kernel.mount("overlay", root, "overlay", kernel.NOSUID | kernel.NODEV, options)
    return root


def _own_etc(trees: Sequence[str], place: str) -> None:
    """Have a folder of this user over /etc of somebody else's layers, where files of the machine may be missing."""
    for tree in reversed(trees):
        try:
            status = os.lstat(f"{tree}/etc")
        except FileNotFoundError:
            continue
        if stat.S_ISDIR(status.st_mode) and status.st_uid != os.getuid():
            os.mkdir(place)
            os.chmod(place, stat.S_IMODE(status.st_mode))
        return


def mount_folder(folder: str, stage: str, *, writable: bool) -> str:
    """Mount one folder, a complete tree, as it is; returns where."""
    root = _staged(stage)
    kernel.mount(folder, root, flags=kernel.BIND)
    access = 0 if writable else kernel.RDONLY
    kernel.mount("none", root, flags=kernel.BIND | kernel.REMOUNT | kernel.NOSUID | kernel.NODEV | access)
    return root


def _staged(stage: str) -> str:
    kernel.mount("tmpfs", stage, "tmpfs", kernel.NOSUID | kernel.NODEV, "mode=0755")
    os.mkdir(f"{stage}/root", 0o755)
    return f"{stage}/root"


class UnmountableError(OSError):
    """A mount that was asked for cannot be made; the rest of the sandbox is fine."""


class Root:
    """The root that this process has entered. ``made`` are paths that were missing and had to be made for mounts."""

    def __init__(self, mounted: str) -> None:
        """Enter the root that is mounted at ``mounted``; nothing more can be imported from here on."""
        self.made: list[str] = []
        self._shown = 0
        for name in FOLDERS:
            path = f"{mounted}/{name}"
            if not os.path.lexists(path):
                os.mkdir(path, 0o755)
                self.made.append(f"/{name}")
            elif os.path.islink(path) or not os.path.isdir(path):
                raise OSError(errno.ENOTDIR, f"/{name} of the environment is not a folder")
        kernel.mount("tmpfs", f"{mounted}/run", "tmpfs", kernel.NOSUID | kernel.NODEV, "mode=0755")
        os.mkdir(mounted + HOST, 0o700)
        kernel.pivot(mounted, HOST)
        os.mkdir(_OWN, 0o700)

    def leave_host(self) -> None:
        """Let go of the host's root."""
        kernel.detach(HOST)
        os.rmdir(HOST)
        os.rmdir(_OWN)

    def bind(self, source: str, target: str, *, writable: bool = False) -> None:
        """Show the host's ``source`` (a path without links) at ``target``, with everything that is mounted below it."""
        try:
            place = self._folder(target) if os.path.isdir(HOST + source) else self._file(target)
            mounts = f"{HOST}/proc/self/mountinfo"
            kernel.bind(HOST + source, place, writable=writable, recursive=True, mounts=mounts)
        except OSError as error:
            reason = error.strerror.partition(" (mount ")[0] if error.strerror else error
            if error.errno == errno.EROFS:
                reason = "the environment has no such path; declare it in [mounts], and realize again"
            raise UnmountableError(error.errno, f"cannot mount {source} at {target}: {reason}") from None

    def show(self, path: str, text: str, mode: int = 0o644) -> None:
        """Have ``path`` hold ``text``, whatever it holds now: bound over it, so that nothing below changes."""
        self._shown += 1
        source = f"{_OWN}/{self._shown}"
        _write(source, text, mode)
        try:
            kernel.bind(source, self._file(path))
        finally:
            os.unlink(source)

    def write(self, path: str, text: str) -> None:
        """Have ``path``, in a folder that is there, be a plain file that a step may replace as any other."""
        if os.path.lexists(path):
            os.unlink(path)
        _write(path, text, 0o644)
        self.made.append(path)

    def _folder(self, path: str) -> str:
        place = os.path.realpath(path)
        if os.path.lexists(place) and not os.path.isdir(place):
            raise NotADirectoryError(errno.ENOTDIR, "the source is a folder, and there is a file")
        self._make_folders(place)
        return place

    def _make_folders(self, place: str) -> None:
        if not os.path.isdir(place):
            self._make_folders(os.path.dirname(place))
            os.mkdir(place, 0o755)
            self.made.append(place)

    def _file(self, path: str) -> str:
        place = os.path.realpath(path)
        if os.path.isdir(place):
            raise IsADirectoryError(errno.EISDIR, "the source is a file, and there is a folder")
        if not os.path.lexists(place):
            self._make_folders(os.path.dirname(place))
            _write(place, "", 0o644)
            self.made.append(place)
        return place


def _write(path: str, text: str, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    try:
        os.write(descriptor, os.fsencode(text))
    finally:
        os.close(descriptor)
