"""The rule that turns what a step changed into a normalised layer.

A layer on disk is a folder with ``index`` (the layer's entries in the line format of the tree digest, ``w`` lines for
deletions) and ``tree/`` (the entries themselves, deletions as 0:0 character devices, so that overlayfs can stack it).
The layer's tar is a pure function of the two (``reprobox.image``). ``digest.NORMALISER`` counts the versions of the
rule.

Standard library only: the sandbox's launcher imports this module in a bare interpreter, inside the user namespace,
where files that their owner may not read can be read.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from reprobox.digest import Entry, hidden, write_index
from reprobox.scrub import Rewrite, Rule, rule_for
from reprobox.tree import Tree, entry_of, file_sha256, make_plain_folder, opened, walk
from reprobox.whiteouts import is_opaque, is_whiteout, whiteout


@dataclass(frozen=True, kw_only=True, slots=True)
class Changes:
    """What a step left: ``root`` is an overlay's upper directory, or with ``whole`` the complete resulting tree.

    ``deleted`` are paths that are gone, where ``root`` has no whiteouts. ``ignored`` are paths that the builder itself
    put there (mount points of binds). ``started`` is the unix time at which the step began: files newer than that, or
    than the epoch, get the epoch. ``installing`` says that the step installed packages, whose scripts leave more behind
    than what anybody asked for.
    """

    root: Path
    epoch: int
    started: float
    whole: bool = False
    deleted: frozenset[bytes] = frozenset()
    ignored: frozenset[bytes] = frozenset()
    installing: bool = False


@dataclass(slots=True)
class _Findings:
    entries: dict[bytes, Entry] = field(default_factory=dict)  # what is new or different
    present: set[bytes] = field(default_factory=set)  # every path seen, kept or not
    folders: dict[bytes, int] = field(default_factory=dict)  # modes of folders seen
    cleared: list[bytes] = field(default_factory=list)  # an upper directory shows nothing of the parents from here on
    deleted: set[bytes] = field(default_factory=set)
    dropped: list[str] = field(default_factory=list)
    told: set[Rule] = field(default_factory=set)  # rules that are told once, and were


def normalise(changes: Changes, parents: Tree, output: Path) -> tuple[str, ...]:
    """Write ``output/tree`` and ``output/index`` from what a step changed; returns what was dropped, in words.

    Files are moved out of ``changes.root``, which is of no use afterwards. A path enters only if its type, mode,
    content or target differ from the parents'; ancestors of an entry enter with their merged mode; a deletion is one
    whiteout at the topmost path.
    """
    found = _find(changes, parents)
    _find_deletions(changes, parents, found)
    index = _with_ancestors(found, parents)
    tree = output / "tree"
    make_plain_folder(tree)
    _move(changes, index, os.fsencode(tree))
    (output / "index").write_bytes(write_index(index))
    return tuple(found.dropped)


def _find(changes: Changes, parents: Tree) -> _Findings:
    root = os.fsencode(changes.root)
    found = _Findings(cleared=sorted(changes.deleted))
    for path, status in walk(root):
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFDIR:
            found.folders[path] = stat.S_IMODE(status.st_mode)
        if not changes.whole and _clears(root + b"/" + path, path, status, parents):
            found.cleared.append(path)
        if is_whiteout(status) or _outside(root, path, status, changes, parents, found):
            continue
        if kind in (stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK):
            _look(root, path, status, changes, parents, found)
        else:
            found.dropped.append(f"/{os.fsdecode(path)}: a device, FIFO or socket")
    return found


def _clears(full: bytes, path: bytes, status: os.stat_result, parents: Tree) -> bool:
    """Whether an entry of an upper directory hides what the parents have at and below its path."""
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFDIR:
        return is_opaque(full)
    old = parents.entries.get(path)
    return old is not None and (old.kind == "d" or kind not in (stat.S_IFREG, stat.S_IFLNK))


def _outside(
    root: bytes, path: bytes, status: os.stat_result, changes: Changes, parents: Tree, found: _Findings
) -> bool:
    """Whether a path is not the step's to change: run-time folders, what rules leave out, the builder's own."""
    text = os.fsdecode(path)
    if hidden(path) or path in changes.ignored:
        return True
    rule = _left_out(text, changes, folder=stat.S_ISDIR(status.st_mode))
    if rule is not None:
        if rule.told:
            found.present.add(path)
            if path not in parents.entries or entry_of(root, path, status) != parents.entries[path]:
                _tell(rule, text, found)
        return True
    if path.startswith(b".wh.") or b"/.wh." in path:
        above, _, name = path.rpartition(b"/")
        if name.startswith(b".wh.") and not (above.startswith(b".wh.") or b"/.wh." in above):
            found.dropped.append(f"/{text}: names that start with .wh. cannot be in an image")
        return True
    return False


def _left_out(path: str, changes: Changes, *, folder: bool) -> Rule | None:
    """The rule that leaves a path out of the layer, if there is one."""
    rule = rule_for(path, installing=changes.installing)
    return rule if rule is not None and rule.rewrite is None and (rule.whole or not folder) else None


def _tell(rule: Rule, path: str, found: _Findings) -> None:
    if not rule.whole:
        found.dropped.append(f"/{path}: {rule.told}")
    elif rule not in found.told:
        found.told.add(rule)
        found.dropped.append(f"/{', /'.join(rule.paths)}: {rule.told}")


def _look(root: bytes, path: bytes, status: os.stat_result, changes: Changes, parents: Tree, found: _Findings) -> None:
    entry, old = entry_of(root, path, status), parents.entries.get(path)
    assert entry is not None
    found.present.add(path)
    if entry != old and entry.kind == "f":
        rule = rule_for(os.fsdecode(path), installing=changes.installing)
        if rule is not None and rule.rewrite is not None:
            _rewrite(root + b"/" + path, status, rule.rewrite, changes.epoch)
            entry = entry._replace(detail=file_sha256(root + b"/" + path))
    if entry == old:
        return
    if entry.kind == "f" and entry.mode & 0o6000:
        found.dropped.append(f"/{os.fsdecode(path)}: setuid or setgid bit of {entry.mode:04o}")
        entry = entry._replace(mode=entry.mode & 0o1777)
        if entry == old:
            return
    found.entries[path] = entry


def _rewrite(full: bytes, status: os.stat_result, rule: Rewrite, epoch: int) -> None:
    with opened(full) as file:
        content = file.read()
    wanted = rule(content, epoch)
    if wanted != content:
        os.unlink(full)  # other names of the same file keep the old content
        with open(full, "xb") as new:
            new.write(wanted)
        os.chmod(full, stat.S_IMODE(status.st_mode))
        os.utime(full, ns=(status.st_atime_ns, status.st_mtime_ns))


def _find_deletions(changes: Changes, parents: Tree, found: _Findings) -> None:
    for path in parents.entries if changes.whole else _below(found.cleared, parents):
        if path not in found.present and not _keeps(parents.entries[path], changes):
            found.deleted.add(path)
    found.deleted = {path for path in found.deleted if not _covered(path, found)}


def _below(cleared: Sequence[bytes], parents: Tree) -> Iterator[bytes]:
    """What the parents have at and below the cleared paths."""
    known = [path for path in cleared if path in parents.entries]
    yield from known
    folders = tuple(path + b"/" for path in known if parents.entries[path].kind == "d")
    if folders:
        yield from (path for path in parents.entries if path.startswith(folders))


def _keeps(entry: Entry, changes: Changes) -> bool:
    """Whether a path that the step deleted stays as the parents have it."""
    if hidden(entry.path) or entry.path in changes.ignored:
        return True
    rule = _left_out(os.fsdecode(entry.path), changes, folder=entry.kind == "d")
    return rule is not None and not rule.told


def _covered(path: bytes, found: _Findings) -> bool:
    """Whether a deletion is already said by one above it, or by a folder that became something else."""
    parent = path.rpartition(b"/")[0]
    while parent:
        if parent in found.deleted:
            return True
        entry = found.entries.get(parent)
        if entry is not None and entry.kind != "d":
            return True
        parent = parent.rpartition(b"/")[0]
    return False


def _with_ancestors(found: _Findings, parents: Tree) -> list[Entry]:
    entries = dict(found.entries)
    for path in found.deleted:
        if path not in entries:
            entries[path] = Entry("w", 0, "-", path)
    for path in list(entries):
        parent = path.rpartition(b"/")[0]
        while parent and parent not in entries:
            mode = found.folders.get(parent)
            entries[parent] = Entry("d", parents.entries[parent].mode if mode is None else mode, "-", parent)
            parent = parent.rpartition(b"/")[0]
    return [entries[path] for path in sorted(entries)]


def _move(changes: Changes, index: Sequence[Entry], tree: bytes) -> None:
    root = os.fsencode(changes.root)
    for entry in index:
        source, target = root + b"/" + entry.path, tree + b"/" + entry.path
        if entry.kind == "d":
            os.mkdir(target, 0o700)
            _let_go(source)
        elif entry.kind == "w":
            whiteout(target)
        else:
            status = os.lstat(source)
            os.rename(source, target)
            if entry.kind == "f" and stat.S_IMODE(status.st_mode) != entry.mode:
                os.chmod(target, entry.mode)
            _strip(target)
            _set_time(target, _file_time(status.st_mtime_ns, changes))
    for entry in reversed(index):
        if entry.kind == "d":
            os.chmod(tree + b"/" + entry.path, entry.mode)
            _strip(tree + b"/" + entry.path)
            _set_time(tree + b"/" + entry.path, changes.epoch)
    _set_time(tree, changes.epoch)


def _let_go(folder: bytes) -> None:
    """Let files be moved out of a folder whose mode does not allow it; the folder itself is of no use any more."""
    with contextlib.suppress(FileNotFoundError):
        if not os.access(folder, os.W_OK | os.X_OK):
            os.chmod(folder, 0o700)


def _file_time(mtime_ns: int, changes: Changes) -> int:
    """The normalised time of a file or link with this time in nanoseconds, in whole unix seconds."""
    seconds = mtime_ns // 10**9
    # Times of files are coarser than the clock: some milliseconds on Linux, a second on some network file systems.
    if seconds > changes.epoch or mtime_ns > (changes.started - 1) * 10**9:
        return changes.epoch
    return max(seconds, 0)


def _strip(path: bytes) -> None:
    """Remove every extended attribute that can be removed: ACLs, capabilities, overlayfs's own marks."""
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError:
        return
    for name in names:
        with contextlib.suppress(OSError):
            os.removexattr(path, name, follow_symlinks=False)


def _set_time(path: bytes, seconds: int) -> None:
    os.utime(path, (seconds, seconds), follow_symlinks=False)
