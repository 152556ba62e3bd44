"""Merged trees, and the rule that turns what a step changed into a normalised layer.

A layer on disk is a folder with ``index`` (the layer's entries in the line format of the tree digest, ``w`` lines for
deletions) and ``tree/`` (the entries themselves, deletions as 0:0 character devices, so that overlayfs can stack it).
The layer's tar is a pure function of the two (``reprobox.image``).

Standard library only: the sandbox's launcher imports this module in a bare interpreter, inside the user namespace,
where files that their owner may not read can be read.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from types import MappingProxyType

from reprobox import namespace
from reprobox.digest import Entry, escape, hidden, read_index, unescape, write_index
from reprobox.scrub import Rewrite, Rule, rule_for

_LINKS = 40  # as the kernel's MAXSYMLINKS


class Tree:
    """A merged file system as metadata: what a user of the stacked layers would see."""

    def __init__(self, entries: Mapping[bytes, Entry] | None = None) -> None:
        self.entries: dict[bytes, Entry] = dict(entries or {})

    @classmethod
    def merged(cls, indexes: Iterable[Iterable[Entry]]) -> Tree:
        """The tree that layers with these indexes, lowest first, show."""
        tree = cls()
        for index in indexes:
            tree.apply(index)
        return tree

    @classmethod
    def load(cls, *indexes: Path) -> Tree:
        """The merged tree of index files, lowest first."""
        return cls.merged(read_index(path.read_bytes()) for path in indexes)

    def apply(self, index: Iterable[Entry]) -> None:
        """Put one layer on top."""
        entries = self.entries
        gone = set()
        new = []
        for entry in index:
            old = entries.get(entry.path)
            if old is not None and old.kind == "d" and entry.kind != "d":
                gone.add(entry.path)
            if entry.kind == "w":
                entries.pop(entry.path, None)
            else:
                new.append(entry)
        if gone:
            self._remove_below(gone)
        for entry in new:
            entries[entry.path] = entry

    def _remove_below(self, folders: set[bytes]) -> None:
        prefixes = tuple(folder + b"/" for folder in folders)
        for path in [path for path in self.entries if path.startswith(prefixes)]:
            del self.entries[path]

    def get(self, path: bytes) -> Entry | None:
        """The entry at exactly ``path`` (relative, no ``./``); nothing is followed."""
        return self.entries.get(path)

    def resolve(self, path: bytes, *, final: bool = False) -> bytes:
        """``path`` with every symlink of its folders followed inside the root (the last component too if ``final``).

        Components that do not exist stand for themselves. Raises :class:`OSError` (ELOOP) after 40 links.
        """
        done: list[bytes] = []
        todo = [part for part in reversed(path.split(b"/")) if part]
        followed = 0
        while todo:
            part = todo.pop()
            if part == b".":
                continue
            if part == b"..":
                del done[-1:]
                continue
            entry = self.entries.get(b"/".join([*done, part]))
            if entry is None or entry.kind != "l" or not (todo or final):
                done.append(part)
                continue
            followed += 1
            if followed > _LINKS:
                raise OSError(40, "too many symbolic links", os.fsdecode(path))
            target = unescape(entry.detail)
            if target.startswith(b"/"):
                done.clear()
            todo.extend(piece for piece in reversed(target.split(b"/")) if piece)
        return b"/".join(done)

    def sorted(self) -> list[Entry]:
        """All entries by path bytes."""
        return [self.entries[path] for path in sorted(self.entries)]


def opened(path: bytes | str | Path) -> BufferedReader:
    """Open a file of a tree for reading, also one of this user that its mode lets nobody read."""
    try:
        return open(path, "rb")
    except PermissionError:
        mode = stat.S_IMODE(os.lstat(path).st_mode)
        os.chmod(path, mode | 0o400)
        try:
            return open(path, "rb")
        finally:
            os.chmod(path, mode)


def file_sha256(path: bytes | str | Path) -> str:
    """sha256 hex of a file's content."""
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def scan(root: Path, known: Mapping[bytes, str] | None = None) -> list[Entry]:
    """The index of a plain folder: every directory, file and link below it, by path bytes; other types are left out.

    ``known`` has the sha256 hex of files, by path, that need not be read again.
    """
    entries = []
    for path, status in walk(os.fsencode(root)):
        entry = _entry(os.fsencode(root), path, status, known or {})
        if entry is not None:
            entries.append(entry)
    return sorted(entries, key=lambda item: item.path)


def _entry(
    root: bytes, path: bytes, status: os.stat_result, known: Mapping[bytes, str] = MappingProxyType({})
) -> Entry | None:
    mode = stat.S_IMODE(status.st_mode)
    full = root + b"/" + path
    if stat.S_ISDIR(status.st_mode):
        return Entry("d", mode, "-", path)
    if stat.S_ISLNK(status.st_mode):
        return Entry("l", 0o777, escape(os.readlink(full)), path)
    if stat.S_ISREG(status.st_mode):
        return Entry("f", mode, known.get(path) or file_sha256(full), path)
    return None


def walk(root: bytes, below: bytes = b"") -> Iterator[tuple[bytes, os.stat_result]]:
    """Every path below a folder that this user owns, relative to it, whatever the modes of the folders."""
    folder = root + b"/" + below if below else root
    with _allowed(folder, os.R_OK | os.X_OK), os.scandir(folder) as items:
        for item in sorted(items, key=lambda found: found.name):
            path = below + b"/" + item.name if below else item.name
            status = item.stat(follow_symlinks=False)
            yield path, status
            if stat.S_ISDIR(status.st_mode):
                yield from walk(root, path)


@contextlib.contextmanager
def _allowed(folder: bytes, wanted: int) -> Iterator[None]:
    """While this is held, the folder's owner may use it, whatever its mode says."""
    if os.access(folder, wanted):
        yield
        return
    mode = stat.S_IMODE(os.lstat(folder).st_mode)
    os.chmod(folder, mode | 0o700)
    try:
        yield
    finally:
        os.chmod(folder, mode)


# -- normalising -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Changes:
    """What a step left: ``root`` is an overlay's upper directory, or with ``whole`` the complete resulting tree.

    ``deleted`` are paths that are gone, where ``root`` has no whiteouts. ``ignored`` are paths that the builder itself
    put there (mount points of binds). ``started`` is the unix time at
    which the step began: files newer than that, or than the epoch, get the epoch. ``installing`` says that the step
    installed packages, whose scripts leave more behind than what anybody asked for.
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
    _make_plain_folder(tree)
    _move(changes, index, os.fsencode(tree))
    (output / "index").write_bytes(write_index(index))
    return tuple(found.dropped)


def _make_plain_folder(path: Path) -> None:
    path.mkdir(mode=0o755, exist_ok=True)
    strip_inherited(path, 0o755)


def strip_inherited(path: Path, mode: int) -> None:
    """Give a folder exactly ``mode``, without the ACLs and the setgid bit that it may have from its parent folder."""
    for name in ("system.posix_acl_default", "system.posix_acl_access"):
        with contextlib.suppress(OSError):
            os.removexattr(path, name)
    path.chmod(mode)


def _find(changes: Changes, parents: Tree) -> _Findings:
    root = os.fsencode(changes.root)
    found = _Findings(cleared=sorted(changes.deleted))
    for path, status in walk(root):
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFDIR:
            found.folders[path] = stat.S_IMODE(status.st_mode)
        if not changes.whole and _clears(root + b"/" + path, path, status, parents):
            found.cleared.append(path)
        if _is_whiteout(status) or _outside(root, path, status, changes, parents, found):
            continue
        if kind in (stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK):
            _look(root, path, status, changes, parents, found)
        else:
            found.dropped.append(f"/{os.fsdecode(path)}: a device, FIFO or socket")
    return found


def _is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _clears(full: bytes, path: bytes, status: os.stat_result, parents: Tree) -> bool:
    """Whether an entry of an upper directory hides what the parents have at and below its path."""
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFDIR:
        return _is_opaque(full)
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
            if path not in parents.entries or _entry(root, path, status) != parents.entries[path]:
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
    entry, old = _entry(root, path, status), parents.entries.get(path)
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


def _is_opaque(full: bytes) -> bool:
    for name in (b"user.overlay.opaque", b"trusted.overlay.opaque"):
        with contextlib.suppress(OSError):
            return os.getxattr(full, name) == b"y"
    return False


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
            _set_time(target, file_time(status.st_mtime_ns, changes))
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


def file_time(mtime_ns: int, changes: Changes) -> int:
    """The normalised time of a file or link with this time in nanoseconds, in whole unix seconds."""
    seconds = mtime_ns // 10**9
    # Times of files are coarser than the clock: some milliseconds on Linux, a second on some network file systems.
    if seconds > changes.epoch or mtime_ns > (changes.started - 1) * 10**9:
        return changes.epoch
    return max(seconds, 0)


def whiteout(target: bytes) -> None:
    """A deletion as overlayfs reads it. Where the device cannot be made, overlay is not used, and the index says it."""
    with contextlib.suppress(PermissionError):
        os.mknod(target, stat.S_IFCHR, os.makedev(0, 0))


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


# -- copies ------------------------------------------------------------------------------------------------------------


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
        namespace.call("reprobox.tree:merge_by_name", str(target), [[str(tree), str(index)] for tree, index in layers])
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
        namespace.call("reprobox.tree:copy_by_name", str(tree), str(output), readable)
    else:
        _copy_entries(os.fsencode(tree), os.fsencode(output / "tree"), entries, readable=readable)


def copy_by_name(tree: str, output: str, readable: bool) -> None:  # noqa: FBT001 - it comes as JSON
    """:func:`copy_layer` by one who may read the whole layer."""
    entries = read_index(Path(output, "index").read_bytes())
    _copy_entries(os.fsencode(tree), os.fsencode(output) + b"/tree", entries, readable=readable)


def _copy_entries(source: bytes, root: bytes, entries: Sequence[Entry], *, readable: bool) -> None:
    first: dict[tuple[int, int], bytes] = {}
    _make_plain_folder(Path(os.fsdecode(root)))
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


def add_kept(output: Path, earlier: Path, kept: Sequence[Entry], epoch: int) -> None:
    """Add entries of another normalised layer, whose tree is ``earlier``, to the one at ``output``, which has none.

    ``kept`` has the folders of its entries too. Files are linked: layers never change.
    """
    tree, index = output / "tree", output / "index"
    _make_plain_folder(tree)
    own = {entry.path: entry for entry in read_index(index.read_bytes())} if index.exists() else {}
    into, out_of = os.fsencode(tree), os.fsencode(earlier)
    for entry in kept:
        target = into + b"/" + entry.path
        if entry.kind == "d":
            with contextlib.suppress(FileExistsError):
                os.mkdir(target)
            os.chmod(target, 0o700)
        elif entry.kind == "w":
            whiteout(target)
        else:
            _link(out_of + b"/" + entry.path, target, entry)
    entries = {**{entry.path: entry for entry in kept}, **own}
    for entry in reversed(kept):
        if entry.kind == "d":
            os.chmod(into + b"/" + entry.path, entries[entry.path].mode)
            _set_time(into + b"/" + entry.path, epoch)
    _set_time(into, epoch)
    index.write_bytes(write_index(entries[path] for path in sorted(entries)))


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
    elif _is_whiteout(status):
        whiteout(new)
    else:
        return  # a socket, or a pipe: nothing that a layer has
    os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)


def _copy_mark(old: bytes, new: bytes) -> None:
    if _is_opaque(old):
        os.setxattr(new, b"user.overlay.opaque", b"y")


def remove(path: Path) -> None:
    """Delete a folder that this user owns, whatever the modes inside it."""
    if not path.is_symlink() and path.is_dir():
        _remove(os.fsencode(path))
    else:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def _remove(path: bytes) -> None:
    try:
        os.chmod(path, 0o700)
        items = list(os.scandir(path))
    except FileNotFoundError:
        return
    for item in items:
        if item.is_dir(follow_symlinks=False):
            _remove(item.path)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(item.path)
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(path)
