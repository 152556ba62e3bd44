"""Whether the sandbox works here, found out by trying every link of its chain."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from reprobox.sandbox import kernel, seccomp
from reprobox.sandbox.root import mount_stacked


def probe(scratch: str) -> dict[str, str]:
    """Try every link of the chain in turn; ``{"user namespace": "", "overlay": "Operation not permitted (…)", …}``.

    ``scratch`` is an empty folder on the file system that holds the layers.
    """
    for name in ("mounts", "overlay", "layers"):
        os.mkdir(f"{scratch}/{name}")
    outside = (os.getuid(), os.getgid())
    results = _try(
        {
            "user namespace": lambda: kernel.unshare(kernel.NEWUSER),
            "id map": lambda: kernel.map_one_id((0, 0), outside),
            "namespaces": lambda: kernel.unshare(kernel.NEWPID | kernel.NEWIPC | kernel.NEWUTS | kernel.NEWNET),
        }
    )
    if any(results.values()):
        return results
    return results | _in_child(
        lambda: _try(
            {
                "overlay": lambda: _overlay(f"{scratch}/overlay", f"{scratch}/layers"),
                "seccomp": _filter,
                "mounts": lambda: _mounts(f"{scratch}/mounts"),
            }
        )
    )


def _try(attempts: Mapping[str, Callable[[], None]]) -> dict[str, str]:
    """What each attempt failed with; a failed one ends the series, except that overlay has a substitute."""
    results: dict[str, str] = {}
    for name, attempt in attempts.items():
        try:
            attempt()
            results[name] = ""
        except OSError as error:
            results[name] = error.strerror or str(error)
            if name != "overlay":
                break
    return results


def _in_child(work: Callable[[], dict[str, str]]) -> dict[str, str]:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, json.dumps(work()).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        text = answer.read()
    os.waitpid(child, 0)
    results: dict[str, str] = json.loads(text)
    return results


def _overlay(stage: str, scratch: str) -> None:
    """Stack two layers, replace and delete lower folders, and read back.

    Mounting alone proves nothing: some file systems mount and then fail at the first whiteout or opaque folder.
    """
    kernel.unshare(kernel.NEWNS)
    kernel.private_mounts()
    for path in ("low/a/b", "low/gone", "high/a", "upper", "work"):
        os.makedirs(f"{scratch}/{path}")
    Path(scratch, "low/a/b/file").write_text("x")
    os.mknod(f"{scratch}/high/gone", 0o020000, 0)
    root = mount_stacked([f"{scratch}/low", f"{scratch}/high"], stage, f"{scratch}/upper", f"{scratch}/work")
    os.unlink(f"{root}/a/b/file")
    os.rmdir(f"{root}/a/b")
    os.mkdir(f"{root}/a/b")
    if os.path.exists(f"{root}/gone") or os.listdir(f"{root}/a/b") or not os.path.isdir(f"{scratch}/upper/a/b"):
        raise OSError(5, "overlayfs shows what was deleted")


def _filter() -> None:
    seccomp.install(kernel.libc)
    os.chown("/", 12345, 12345)


def _mounts(stage: str) -> None:
    kernel.unshare(kernel.NEWNS)
    kernel.private_mounts()
    kernel.mount("tmpfs", stage, "tmpfs", kernel.NOSUID | kernel.NODEV, "mode=0755")
    for name in ("proc", "sys"):
        os.mkdir(f"{stage}/{name}")
    kernel.mount("proc", f"{stage}/proc", "proc")
    kernel.bind("/sys", f"{stage}/sys", recursive=True)
    kernel.loopback_up()
    os.mkdir(f"{stage}/old")
    kernel.pivot(stage, "/old")
    kernel.detach("/old")
