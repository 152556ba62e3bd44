"""Deletions as overlayfs marks them in a folder: whiteouts, and opaque folders.

Source: "whiteouts and opaque directories" in the kernel's documentation of overlayfs. In the tar of a layer they have
other forms (OCI image specification, "Whiteouts"): ``reprobox.image`` writes those.

Standard library only: the sandbox's launcher imports this module in a bare interpreter.
"""

from __future__ import annotations

import contextlib
import os
import stat


def whiteout(target: bytes) -> None:
    """A deletion as overlayfs reads it. Where the device cannot be made, overlay is not used, and the index says it."""
    with contextlib.suppress(PermissionError):
        os.mknod(target, stat.S_IFCHR, os.makedev(0, 0))


def is_whiteout(status: os.stat_result) -> bool:
    """Whether a path of an upper directory, of which this is lstat(2)'s answer, is a deletion."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_opaque(full: bytes) -> bool:
    """Whether a folder of an upper directory shows nothing of the folder below it."""
    for name in (b"user.overlay.opaque", b"trusted.overlay.opaque"):
        with contextlib.suppress(OSError):
            return os.getxattr(full, name) == b"y"
    return False


def make_opaque(folder: bytes) -> None:
    """Let a folder of an upper directory show nothing of the folder below it, as overlayfs marks it for a user."""
    os.setxattr(folder, b"user.overlay.opaque", b"y")
