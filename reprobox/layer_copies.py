"""Copies of layers, for whoever cannot have them mounted over one another, and of what a step changed.

A layer on disk is a folder with ``index`` and ``tree/`` (``reprobox.normalise``).

Standard library only: the sandbox's launcher imports this module in a bare interpreter, inside the user namespace,
where files that their owner may not read can be read.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from reprobox import namespace
from reprobox.digest import Entry, read_index, write_index
from reprobox.tree import Tree, make_plain_folder, opened, walk
from reprobox.whiteouts import is_opaque, is_whiteout, make_opaque, whiteout


def merge_into(target: Path, layers: Sequence[tuple[Path, Path]]) -> None:
    """Copy stacked layers, each ``(tree, index)``, lowest first, into the folder ``target``.

    Names that are hard links of one another in a layer become separate files, so that writing one leaves the others.
    """
    owner: dict[bytes, bytes] = {}
    merged = Tree()
    hides = False
    for tree, index in layers:
        entries = read_index(index.read_bytes())
        hides = hides or namespace.hides(entries)
        merged.apply(entries)
        owner.update((entry.path, os.fsencode(tree)) for entry in entries)
    if hides:
        namespace.call(
            "reprobox.layer_copies:merge_by_name", str(target), [[str(tree), str(index)] for tree, index in layers]
        )
    else:
        _merge(os.fsencode(target), merged, owner)


def merge_by_name(target: str, layers: Sequence[Sequence[str]]) -> None:
    """:func:`merge_into` by one who may read the whole layers."""
    merge_into(Path(target), [(Path(tree), Path(index)) for tree, index in layers])


def _merge(root: bytes, merged: Tree, owner: Mapping[bytes, bytes]) -> None:
    for entry in merged.sorted():
        _copy(owner[entry.path] + b"/" + entry.path, root + b"/" + entry.path, entry)
    for entry in reversed(merged.sorted()):
        if entry.kind == "d":
            os.chmod(root + b"/" + entry.path, entry.mode)
            _keep_times(owner[entry.path] + b"/" + entry.path, root + b"/" + entry.path)


def copy_layer(tree: Path, index: Path, output: Path, *, readable: bool = False) -> None:
    """Copy one layer into the empty folder ``output``, as ``tree`` and ``index``: modes are those of the index.

    ``readable`` lets everybody read the copy's files and folders, whatever the index says. Raises
    :class:`PermissionError` for a deletion that the file system cannot hold.
    """
    shutil.copyfile(index, output / "index")
    entries = read_index(index.read_bytes())
    if namespace.hides(entries):
        namespace.call("reprobox.layer_copies:copy_by_name", str(tree), str(output), readable)
    else:
        _copy_entries(os.fsencode(tree), os.fsencode(output / "tree"), entries, readable=readable)


def copy_by_name(tree: str, output: str, readable: bool) -> None:  # noqa: FBT001 - it comes as JSON
    """:func:`copy_layer` by one who may read the whole layer."""
    entries = read_index(Path(output, "index").read_bytes())
    _copy_entries(os.fsencode(tree), os.fsencode(output) + b"/tree", entries, readable=readable)


def _copy_entries(source: bytes, root: bytes, entries: Sequence[Entry], *, readable: bool) -> None:
    first: dict[tuple[int, int], bytes] = {}
    make_plain_folder(Path(os.fsdecode(root)))
    for entry in entries:
        old, new = source + b"/" + entry.path, root + b"/" + entry.path
        status = None if entry.kind == "w" else os.lstat(old)
        if status is None:
            os.mknod(new, stat.S_IFCHR, os.makedev(0, 0))
        elif entry.kind == "f" and (twin := first.setdefault((status.st_dev, status.st_ino), new)) != new:
            os.link(twin, new)
        else:
            _copy(old, new, entry)
    for entry in reversed(entries):
        path = root + b"/" + entry.path
        if entry.kind == "f" and readable:
            os.chmod(path, entry.mode | 0o444)
        elif entry.kind == "d":
            os.chmod(path, entry.mode | 0o555 if readable else entry.mode)
            _keep_times(source + b"/" + entry.path, path)
    _keep_times(source, root)


def _keep_times(source: bytes, target: bytes) -> None:
    status = os.lstat(source)
    os.utime(target, ns=(status.st_mtime_ns, status.st_mtime_ns), follow_symlinks=False)


def _copy(source: bytes, target: bytes, entry: Entry) -> None:
    if entry.kind == "d":
        os.mkdir(target, 0o700)
        return
    if entry.kind == "l":
        os.symlink(os.readlink(source), target)
    else:
        with opened(source) as old, open(target, "wb") as new:
            shutil.copyfileobj(old, new, 1 << 20)
        os.chmod(target, entry.mode)
    _keep_times(source, target)


def keep(output: Path, earlier: Path, kept: Sequence[Entry], epoch: int) -> None:
    """Make a layer in the empty folder ``output`` of entries of another normalised layer, whose tree is ``earlier``.

    ``kept`` has the folders of its entries too. Files are linked: layers never change.
    """
    tree = output / "tree"
    make_plain_folder(tree)
    into, out_of = os.fsencode(tree), os.fsencode(earlier)
    for entry in kept:
        target = into + b"/" + entry.path
        if entry.kind == "d":
            os.mkdir(target, 0o700)
        elif entry.kind == "w":
            whiteout(target)
        else:
            _link(out_of + b"/" + entry.path, target, entry)
    _finish(into, kept, epoch)
    (output / "index").write_bytes(write_index(kept))


def move_into(output: Path, own: Path, epoch: int) -> None:
    """Move the entries of the normalised layer ``own`` into the one at ``output``; folders that both have get the modes
    that they have in ``own``.
    """
    into, out_of = os.fsencode(output / "tree"), os.fsencode(own / "tree")
    below, above = (read_index((layer / "index").read_bytes()) for layer in (output, own))
    for entry in above:
        source, target = out_of + b"/" + entry.path, into + b"/" + entry.path
        if entry.kind == "d":
            os.chmod(source, 0o700)
            with contextlib.suppress(FileExistsError):
                os.mkdir(target)
            os.chmod(target, 0o700)
        else:
            os.rename(source, target)
    _finish(into, above, epoch)
    entries = {entry.path: entry for entry in (*below, *above)}
    (output / "index").write_bytes(write_index(entries[path] for path in sorted(entries)))


def _finish(tree: bytes, entries: Sequence[Entry], epoch: int) -> None:
    """Give the folders that are among ``entries``, and the tree itself, their modes and the time that all have."""
    for entry in reversed(entries):
        if entry.kind == "d":
            os.chmod(tree + b"/" + entry.path, entry.mode)
            os.utime(tree + b"/" + entry.path, (epoch, epoch), follow_symlinks=False)
    os.utime(tree, (epoch, epoch), follow_symlinks=False)


def _link(source: bytes, target: bytes, entry: Entry) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EMLINK, errno.EPERM):
            raise
        _copy(source, target, entry)


def copy_changes(source: str, target: str) -> None:
    """Copy what a step changed, an overlay's upper directory with its marks or a whole tree, to the new ``target``."""
    first: dict[tuple[int, int], bytes] = {}
    folders = [(b"", os.lstat(source))]
    os.mkdir(target, 0o755)
    _copy_mark(os.fsencode(source), os.fsencode(target))
    for path, status in walk(os.fsencode(source)):
        old, new = os.fsencode(source) + b"/" + path, os.fsencode(target) + b"/" + path
        if stat.S_ISDIR(status.st_mode):
            os.mkdir(new, 0o700)
            _copy_mark(old, new)
            folders.append((path, status))
        elif stat.S_ISREG(status.st_mode) and status.st_nlink > 1 and (status.st_dev, status.st_ino) in first:
            os.link(first[status.st_dev, status.st_ino], new)
        else:
            first[status.st_dev, status.st_ino] = new
            _copy_changed(old, new, status)
    for path, status in reversed(folders):
        os.chmod(os.fsencode(target) + b"/" + path, stat.S_IMODE(status.st_mode))


def _copy_changed(old: bytes, new: bytes, status: os.stat_result) -> None:
    if stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(old), new)
    elif stat.S_ISREG(status.st_mode):
        with opened(old) as content, open(new, "xb") as file:
            shutil.copyfileobj(content, file, 1 << 20)
        os.chmod(new, stat.S_IMODE(status.st_mode))
    elif is_whiteout(status):
        whiteout(new)
    else:
        return  # a socket, or a pipe: nothing that a layer has
    os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)


def _copy_mark(old: bytes, new: bytes) -> None:
    if is_opaque(old):
        make_opaque(new)
