"""Runs steps over stacked layers, once on a real overlay and once on a merged copy, in a user namespace of its own.

One JSON document a line comes in: ``{"folder", "base", "steps"}``, where the base and each step are lists of edits; one goes
out: what the steps left and what :func:`reprobox.normalise.normalise` made of it, both ways.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import stat
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, sys.argv[1])

from reprobox.digest import write_index
from reprobox.image import layer_digest
from reprobox.layer_copies import merge_into
from reprobox.normalise import Changes, normalise
from reprobox.tree import Tree, remove, scan

EPOCH = 1_700_000_000
libc = ctypes.CDLL(None, use_errno=True)


def mount(target: Path, lower: list[Path], upper: Path | None = None, work: Path | None = None) -> None:
    options = f"userxattr,lowerdir={':'.join(str(path) for path in reversed(lower))}"
    if upper is not None:
        options += f",upperdir={upper},workdir={work}"
    if libc.mount(b"overlay", os.fsencode(target), b"overlay", 0, os.fsencode(options)) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), options)


def unmount(target: Path) -> None:
    if libc.umount2(os.fsencode(target), 0) < 0:
        raise OSError(ctypes.get_errno(), "umount")


class Editor:
    """Makes edits below ``root``. What is impossible is left; nothing is done through links, which could lead away."""

    def __init__(self, root: Path) -> None:
        self.root = os.fsencode(root)

    def edit(self, name: str, path: str, *values: Any) -> None:
        full = self.path(path)
        if full is not None:
            try:
                getattr(self, name)(full, *values)
            except OSError:
                pass

    def path(self, path: str) -> bytes | None:
        raw = path.encode("latin-1")
        parts = raw.split(b"/")
        for count in range(1, len(parts)):
            if os.path.islink(self.root + b"/" + b"/".join(parts[:count])):
                return None
        return self.root + b"/" + raw

    def write(self, full: bytes, content: str, mode: int) -> None:
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(
            os.open(full, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644), "w"
        ) as file:
            file.write(content)
        os.chmod(full, mode)

    def append(self, full: bytes) -> None:
        with open(os.open(full, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK), "w") as file:
            file.write("more")

    def touch(self, full: bytes, seconds: int) -> None:
        os.utime(full, (seconds, seconds), follow_symlinks=False)

    def mkdir(self, full: bytes, mode: int) -> None:
        os.makedirs(full)
        os.chmod(full, mode)

    def chmod(self, full: bytes, mode: int) -> None:
        if not os.path.islink(full):
            os.chmod(full, mode)

    def symlink(self, full: bytes, target: str) -> None:
        os.symlink(target, full)

    def fifo(self, full: bytes) -> None:
        os.mkfifo(full)

    def rm(self, full: bytes) -> None:
        if os.path.isdir(full) and not os.path.islink(full):
            shutil.rmtree(full)
        else:
            os.unlink(full)

    def renew(self, full: bytes, mode: int) -> None:
        if not stat.S_ISDIR(os.lstat(full).st_mode):
            return  # rmtree would open a FIFO, and wait
        shutil.rmtree(full)
        os.mkdir(full)
        os.chmod(full, mode)

    def link(self, full: bytes, other: str) -> None:
        target = self.path(other)
        if target is not None:
            os.link(full, target, follow_symlinks=False)

    def rename(self, full: bytes, other: str) -> None:
        target = self.path(other)
        if target is not None and not stat.S_ISDIR(os.lstat(full).st_mode):
            os.rename(full, target)


def edit(root: Path, edits: list[list[Any]]) -> None:
    editor = Editor(root)
    for name, path, *values in edits:
        editor.edit(name, path, *values)


def text(entries: Any) -> str:
    return write_index(entries).decode("latin-1")


def folder(path: Path) -> Path:
    path.mkdir(mode=0o755)
    return path


def step(here: Path, layers: list[Path], edits: list[list[Any]]) -> dict[str, Any]:
    parents = Tree.load(*(layer / "index" for layer in layers))
    before = text(parents.sorted())
    upper, work, merged = folder(here / "upper"), folder(here / "work"), folder(here / "merged")
    mount(merged, [layer / "tree" for layer in layers], upper, work)
    edit(merged, edits)
    left = text(scan(merged))
    unmount(merged)
    copy = folder(here / "copy")
    merge_into(copy, [(layer / "tree", layer / "index") for layer in layers])
    edit(copy, edits)
    answer: dict[str, Any] = {"parents": before, "left": left, "left_whole": text(scan(copy))}
    for name, root in (("layer", upper), ("whole", copy)):
        output = folder(here / name)
        # The clock of a test is as fast as the test: only files that are given old times are older than the epoch.
        changes = Changes(root=root, epoch=EPOCH, started=EPOCH + 10, whole=name == "whole")
        dropped = normalise(changes, parents, output)
        digest = layer_digest(output / "tree", output / "index", EPOCH)
        answer[name] = {"index": (output / "index").read_text("latin-1"), "dropped": sorted(dropped), "digest": digest}
        answer[name]["on_disk"] = text(scan(output / "tree"))
    shown = folder(here / "shown")
    mount(shown, [layer / "tree" for layer in [*layers, here / "layer"]])
    answer["shown"] = text(scan(shown))
    unmount(shown)
    copied = folder(here / "copied")
    merge_into(copied, [(layer / "tree", layer / "index") for layer in [*layers, here / "layer"]])
    answer["copied"] = text(scan(copied))
    return answer


def carry_out(request: dict[str, Any]) -> list[dict[str, Any]]:
    here = folder(Path(request["folder"]))
    base = folder(here / "base")
    edit(folder(base / "tree"), request["base"])
    (base / "index").write_bytes(write_index(scan(base / "tree")))
    layers, answers = [base], []
    for number, edits in enumerate(request["steps"]):
        answers.append(step(folder(here / str(number)), layers, edits))
        layers.append(here / str(number) / "layer")
    remove(here)
    return answers


if __name__ == "__main__":
    os.umask(0o022)
    for line in sys.stdin:
        print(json.dumps(carry_out(json.loads(line))), flush=True)  # noqa: T201 - its answer
