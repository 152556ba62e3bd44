"""Squashing and copying layers, in a child that is user 0 of a namespace of its own and can read all of them.

Standard library only: it runs in a bare interpreter.
"""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reprobox.layer_copies import merge_into
from reprobox.sandbox import kernel
from reprobox.sandbox.process_one import become_user_0


def squash(request: Mapping[str, Any]) -> dict[str, Any]:
    """Run ``argv`` in the merged tree of ``layers`` with ``top`` above them; ``{"status", "said"}``."""
    if problem := become_user_0(request, kernel.NEWNS):
        return {"problem": problem}
    try:
        root = _stacked([tree for tree, _ in request["layers"]], request["top"], request["stage"])
    except OSError:
        root = request["copy"]
        _copied(request["layers"], request["top"], root)
    done = subprocess.run(
        request["argv"],
        cwd=root,
        env=request["environment"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
    )
    return {"status": done.returncode, "said": done.stderr}


def copy(request: Mapping[str, Any]) -> dict[str, Any]:
    """Copy ``layers`` with ``top`` above them into the empty folder ``root``."""
    if problem := become_user_0(request, 0):
        return {"problem": problem}
    _copied(request["layers"], request["top"], request["root"])
    return {}


def _stacked(trees: Sequence[str], top: str, stage: str) -> str:
    """Mount them over one another, read-only; in short names, since mount(2) takes one page of options."""
    if not stage:
        raise OSError(errno.ENOTSUP, "layers are to be copied")
    kernel.private_mounts()
    kernel.mount("tmpfs", stage, "tmpfs", kernel.NOSUID | kernel.NODEV, "mode=0755")
    os.mkdir(f"{stage}/root", 0o755)
    for number, tree in enumerate((*trees, top)):
        os.symlink(tree, f"{stage}/{number}")
    os.chdir(stage)
    lower = ":".join(str(number) for number in reversed(range(len(trees) + 1)))
    flags = kernel.NOSUID | kernel.NODEV | kernel.RDONLY
    kernel.mount("overlay", f"{stage}/root", "overlay", flags, f"lowerdir={lower},userxattr")
    return f"{stage}/root"


def _copied(layers: Sequence[Sequence[str]], top: str, root: str) -> None:
    from reprobox.digest import write_index
    from reprobox.tree import scan

    index = Path(top + ".index")
    index.write_bytes(write_index(scan(Path(top))))
    merge_into(Path(root), [*((Path(tree), Path(own)) for tree, own in layers), (Path(top), index)])
    status = os.lstat(top)
    os.chmod(root, 0o755)  # noqa: S103 - the root of an image
    os.utime(root, ns=(status.st_mtime_ns, status.st_mtime_ns))
