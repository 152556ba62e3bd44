"""``git``: the files of a commit, locked by commit and tree, kept in the store as a bundle.

The bytes come from git's objects themselves: no filter, no attribute and no setting of the machine has a say. The lock
has no URL: where a repository is, the manifest says, and a submodule's place follows from its parents.
"""

from __future__ import annotations

import hashlib
import os
import re
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from reprobox.digest import Json
from reprobox.download.transfer import Location, Watch
from reprobox.errors import BuildError, FetchError, ManifestError, OfflineError
from reprobox.git.commits import (
    FOLDER,
    LINK,
    MODULE,
    PROGRAM,
    Bundle,
    CommitError,
    Item,
    Read,
    bundle,
    is_oid,
    subtree,
    tree_of,
    walk,
)
from reprobox.git.repository import Clone, Remote, modules
from reprobox.git.worktree import IN_THE_WAY, Placing
from reprobox.layers.copy import destination
from reprobox.layers.kind import Files, Resolution, ResolveRequest, StepRequest
from reprobox.lock import Input, request_digest
from reprobox.manifest import Code, Layer, Manifest
from reprobox.store import Store
from reprobox.tables import key
from reprobox.tree import Tree
from reprobox.value_checks import relative_inside, repository, word
from reprobox.wording import did_you_mean, quote

_DEEPEST = 16  # submodules within submodules


@dataclass(frozen=True, kw_only=True, slots=True)
class GitOptions:
    """The keys of a ``git`` layer."""

    repository: str = key(
        "Where it is: a URL, user@host:path, or the path of a folder.",
        check=repository,
        hint='add repository = "https://…"',
    )
    rev: str = key("Commit, tag or branch; the lock has the commit.", check=word, hint='add rev = "…"')
    to: str = key("Folder that its files are put into.", check=destination, hint='add to = "/opt/…"')
    subdirectory: str | None = key(
        "Folder of the repository to take, instead of all.", default=None, check=relative_inside
    )
    submodules: bool = key("Take the files of its submodules too.", default=True)


class Git:
    """The kind. Modes are 0644, 0755 for programs and folders; links stay links."""

    name = "git"
    recipe = 1
    pinned = True
    options = GitOptions

    def needs(self, layer: Layer, above: Sequence[Layer]) -> tuple[str, ...]:  # noqa: ARG002 - the protocol's names
        """Nothing: it may be beside others that write elsewhere."""
        return ()

    def destinations(self, layer: Layer) -> tuple[str, ...]:
        """Where it writes in the environment."""
        return (layer.options.to,)

    def resolve(self, request: ResolveRequest) -> Resolution:
        """The commit, and those of its submodules. A pin stays until it is upgraded, or another rev is asked for."""
        return resolved(request, request.layer.options, ("layers", request.layer.index))

    def step(self, request: StepRequest) -> Files:
        """Put the files where they go."""
        return Files(write=partial(_write, request.layer.options, request.files))


#: Where a checkout of the code is in its layer, which is mounted and never stacked.
CHECKOUT = "/code"


def checkout_layer(code: Code) -> Layer:
    """The code as a layer of this kind."""
    assert code.git is not None
    options = GitOptions(repository=code.git, rev=code.rev or "HEAD", to=CHECKOUT)
    return Layer(name="code", kind=Git.name, options=options)


def resolve_checkout(request: ResolveRequest) -> Resolution:
    """The commit of the code, which the manifest has in ``[code]``."""
    return resolved(request, request.layer.options, ("code",))


# -- locking -----------------------------------------------------------------------------------------------------------


def resolved(request: ResolveRequest, options: GitOptions, path: tuple[str | int, ...]) -> Resolution:
    """What ``options`` ask for; ``path`` is where the manifest has them, for messages."""
    try:
        return _Resolving(request, options).resolution()
    except CommitError as error:
        where = Remote.of(options.repository, request.world.project).shown
        leave_out = ", or leave submodules out with `submodules = false`" if path[0] == "layers" else ""
        hint = f"choose another `rev`{leave_out}"
        raise ManifestError([request.manifest.problem((*path, "rev"), f"{where}: {error}", hint)]) from None
    except _MissingError as error:
        raise ManifestError([request.manifest.problem((*path, error.key), error.message, error.hint)]) from None


class _MissingError(Exception):
    """A key names what the commit does not have."""

    def __init__(self, key: str, message: str, hint: str) -> None:
        super().__init__(message)
        self.key, self.message, self.hint = key, message, hint


class _Resolving:
    """One layer's commits, with what the old lock and the store know of them."""

    def __init__(self, request: ResolveRequest, options: GitOptions) -> None:
        self._world = request.world
        self._options = options
        self._source = request_digest(options.repository)
        self._old = request.previous.inputs if request.previous is not None and not request.upgrade else ()
        self._inputs: dict[str, Input] = {}
        self._modules: list[Json] = []

    def resolution(self) -> Resolution:
        options, remote = self._options, Remote.of(self._options.repository, self._world.project)
        top = self._input(remote, self._pinned() or options.rev, {"rev": options.rev})
        with self._opened(top) as files:
            tree = tree_of(files.read, files.commit)
            if options.subdirectory:
                tree = _subtree(files.read, tree, options.subdirectory)
            self._say_large_files(files, tree)
            if options.submodules:
                self._add_modules(remote, files, files.commit, b"", 0)
        said: dict[str, Json] = {"to": options.to, "bundle": top.name}
        said |= {"subdirectory": os.path.normpath(options.subdirectory)} if options.subdirectory else {}
        said |= {"modules": self._modules} if self._modules else {}
        commit = top.facts["commit"]
        swhid = [f"swh:1:rev:{commit}", f"swh:1:dir:{tree}"]
        facts: dict[str, Json] = {"commit": commit, "tree": tree, "swhid": swhid}
        return Resolution(inputs=tuple(self._inputs.values()), options=said, facts=facts)

    def _pinned(self) -> str | None:
        """The commit that the old lock has for what is asked."""
        wanted = {"source": self._source, "rev": self._options.rev}
        for item in self._old:
            if {name: item.facts.get(name) for name in wanted} == wanted:
                return item.facts["commit"]
        return None

    def _input(self, remote: Remote, rev: str, facts: Mapping[str, str]) -> Input:
        store = self._world.store
        seen = self._world.seen
        wanted = seen.get(f"{remote.url} {rev}", rev)
        commit = wanted if is_oid(wanted) and known_bundle(store, wanted) else self._bring(remote, wanted)
        seen[f"{remote.url} {rev}"] = commit
        path = known_bundle(store, commit)
        assert path is not None
        slug = _slug(remote)
        more = {"package": slug, "source": self._source, "commit": commit, **facts}
        name = f"{slug}.bundle"
        if name in self._inputs and self._inputs[name].sha256 != path.name:
            name = f"{slug}-{commit[:12]}.bundle"
        item = Input(type="git", name=name, sha256=path.name, size=path.stat().st_size, facts=more)
        return self._inputs.setdefault(name, item)

    def _bring(self, remote: Remote, rev: str) -> str:
        if self._world.offline and not remote.local:
            raise OfflineError("the network may not be used", where=remote.shown, hint="run it again without --offline")
        self._world.say(f"looking for {rev} in {remote.shown}")
        with self._world.store.scratch() as folder:
            clone = Clone(folder / "clone", remote)
            commit = clone.known(rev)
            if commit and known_bundle(self._world.store, commit):
                return commit
            commit = clone.fetch(rev)
            if not known_bundle(self._world.store, commit):
                _keep(self._world.store, clone, commit, folder / "bundle")
        return commit

    @contextmanager
    def _opened(self, item: Input) -> Iterator[Bundle]:
        with Bundle(self._world.store.blob(item.sha256)) as files:
            yield files

    def _add_modules(self, remote: Remote, files: Bundle, top: str, below: bytes, depth: int) -> None:
        """Those of one commit, and theirs."""
        for path, oid in _module_paths(files.read, files.commit):
            if depth >= _DEEPEST:
                raise CommitError(f"its submodules are more than {_DEEPEST} deep")
            place = below + path
            if not _within(place, self._options.subdirectory):
                continue
            with self._world.store.scratch() as folder:
                of_module = _module(remote, files.read, files.commit, path, folder)
            item = self._input(of_module, oid, {"top": top, "path": os.fsdecode(place)})
            self._modules.append({"path": os.fsdecode(place), "bundle": item.name})
            with self._opened(item) as inside:
                self._add_modules(of_module, inside, top, place + b"/", depth + 1)

    def _say_large_files(self, files: Bundle, tree: str) -> None:
        """Git LFS keeps large files elsewhere; the commit has pointers to them."""
        found = sum(
            _is_pointer(files, item.oid) for item in walk(files.read, tree) if item.mode not in (FOLDER, MODULE)
        )
        if found:
            self._world.say(
                f"{found} file{'s' if found > 1 else ''} of it are pointers to Git LFS, and stay so:"
                ' take what they point to with a layer of kind "fetch"'
            )


def _subtree(read: Read, tree: str, path: str) -> str:
    found = subtree(read, tree, os.path.normpath(path)) if os.path.normpath(path) != "." else tree
    if found is None:
        names = [os.fsdecode(item.path) for item in walk(read, tree) if item.mode == FOLDER]
        hint = did_you_mean(path.rstrip("/"), names, "name a folder of the repository")
        raise _MissingError("subdirectory", f"the commit has no folder {quote(path)}", hint)
    return found


def _within(path: bytes, folder: str | None) -> bool:
    return (
        not folder or os.path.normpath(folder) == "." or path.startswith(os.fsencode(os.path.normpath(folder)) + b"/")
    )


def _is_pointer(files: Bundle, oid: str) -> bool:
    _, size, content = files.read(oid)
    return size < 1024 and b"".join(content).startswith(b"version https://git-lfs.")


def _slug(remote: Remote) -> str:
    name = re.split(r"[/:]", urllib.parse.unquote(remote.url).rstrip("/"))[-1].removesuffix(".git")
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "repository"


def _module_paths(read: Read, commit: str) -> list[tuple[bytes, str]]:
    return [(item.path, item.oid) for item in walk(read, tree_of(read, commit)) if item.mode == MODULE]


def _module(remote: Remote, read: Read, commit: str, path: bytes, folder: Path) -> Remote:
    """The repository of the submodule at ``path`` of a commit of ``remote``."""
    shown = os.fsdecode(path)
    items = (item for item in walk(read, tree_of(read, commit)) if item.path == b".gitmodules")
    file = next((item for item in items if item.mode != LINK), None)
    urls = modules(b"".join(read(file.oid)[2]), folder) if file else {}
    if path not in urls:
        raise CommitError(f"the commit {commit} has a submodule at {shown}, and .gitmodules does not say where it is")
    found = remote.module(urls[path])
    if found is None:
        raise CommitError(f"the submodule at {shown} is said to be at {quote(urls[path])}, which is no server")
    return found


# -- bundles in the store ----------------------------------------------------------------------------------------------


def known_bundle(store: Store, commit: str) -> Path | None:
    """The bundle of a commit, if the store has it."""
    try:
        digest = store.memo("commits", commit).read_text("ascii")
    except (OSError, UnicodeDecodeError):
        return None
    return store.blob(digest) if len(digest) == 64 and store.has_blob(digest) else None


def _keep(store: Store, clone: Clone, commit: str, path: Path) -> None:
    state = hashlib.sha256()
    with clone.objects() as objects, path.open("wb") as file:
        for piece in bundle(objects.read, commit):
            state.update(piece)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    digest = state.hexdigest()
    if not store.has_blob(digest):
        store.adopt(path, digest)
    store.remember("commits", commit, digest.encode())


# -- providing ---------------------------------------------------------------------------------------------------------


class CommitProvider:
    """Makes bundles again from the repositories that the manifest has."""

    name = "git"

    def __init__(self, store: Store, manifest: Manifest | None, project: Path, *, offline: bool) -> None:
        self._store = store
        self._offline = offline
        layers = manifest.layers if manifest else ()
        named = [layer.options.repository for layer in layers if layer.kind == Git.name]
        named += [manifest.code.git] if manifest and manifest.code.git else []
        self._remotes = {request_digest(text): Remote.of(text, project) for text in named}

    def locate(self, inputs: Sequence[Input]) -> Mapping[str, Sequence[Location]]:
        found = {}
        for item in inputs:
            remote = self._remotes.get(item.facts.get("source", ""))
            if item.type == "git" and remote is not None:
                make, ask = partial(self._make, remote, item), partial(self._ask, remote, item)
                found[item.sha256] = [Location(url=remote.url, label=remote.shown, make=make, ask=ask)]
        return found

    def _ask(self, remote: Remote, item: Input) -> int:
        """Whether the repository still has the commit; of a submodule, the one that it is in."""
        commit = item.facts["top"] if "path" in item.facts else item.facts["commit"]
        with self._store.scratch() as folder:
            Clone(folder / "clone", remote).ask(commit)
        return -1

    def _make(self, remote: Remote, item: Input, write: Callable[[bytes], None], watch: Watch) -> None:
        try:
            with self._store.scratch() as folder:
                if path := item.facts.get("path"):
                    remote = self._module(remote, item.facts["top"], os.fsencode(path), folder, watch)
                if self._offline and not remote.local:
                    raise FetchError("the network may not be used", where=remote.shown)
                clone = Clone(folder / "clone", remote, watch)
                commit = clone.fetch(item.facts["commit"])
                with clone.objects() as objects:
                    for piece in bundle(objects.read, commit):
                        write(piece)
                self._store.remember("commits", commit, item.sha256.encode())
        except CommitError as error:
            raise FetchError(str(error), where=remote.shown) from None

    def _module(self, remote: Remote, commit: str, path: bytes, folder: Path, watch: Watch) -> Remote:
        """Walk from the repository that the manifest has to the one of the submodule at ``path``."""
        for number in range(_DEEPEST):
            work = folder / str(number)
            work.mkdir()
            with self._reading(remote, commit, work, watch) as read:
                within = dict(_module_paths(read, commit))
                here = next((name for name in within if path == name or path.startswith(name + b"/")), None)
                if here is None:
                    break
                remote, commit = _module(remote, read, commit, here, work), within[here]
            if path == here:
                return remote
            path = path[len(here) + 1 :]
        raise CommitError(f"it has no submodule {os.fsdecode(path)}")

    @contextmanager
    def _reading(self, remote: Remote, commit: str, folder: Path, watch: Watch) -> Iterator[Read]:
        """The objects of a commit, from the store or from its repository."""
        if known := known_bundle(self._store, commit):
            with Bundle(known) as files:
                yield files.read
            return
        clone = Clone(folder / "clone", remote, watch)
        clone.fetch(commit)
        with clone.objects() as objects:
            yield objects.read


# -- building ----------------------------------------------------------------------------------------------------------


def _write(options: Mapping[str, Json], files: Mapping[str, Path], root: Path, parents: Tree) -> None:
    to = str(options["to"])
    folder = os.fsencode(str(options.get("subdirectory", "")))
    start = folder + b"/" if folder not in (b"", b".") else b""
    with Placing(root, parents) as placing:
        putting = _Putting(
            placing=placing, home=os.fsencode(to.strip("/")), cut=len(start), modules=_modules(options, files)
        )
        try:
            placing.folder(putting.home)
            putting.bundle(files[str(options["bundle"])], b"", start)
        except CommitError as error:
            raise BuildError(f"the files of the commit cannot be read: {error}", hint="run it again") from None
        except OSError as error:
            if error.errno not in IN_THE_WAY:
                raise
            reason = f"{error.filename}: {error.strerror}"
            raise BuildError(f"{to} cannot be written: {reason}", hint="choose another `to`") from None


def _modules(options: Mapping[str, Json], files: Mapping[str, Path]) -> dict[bytes, Path]:
    """The bundles of submodules, by where they are in the whole."""
    listed = options.get("modules", ())
    assert isinstance(listed, Sequence)
    found = {}
    for module in listed:
        assert isinstance(module, Mapping)
        found[os.fsencode(str(module["path"]))] = files[str(module["bundle"])]
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class _Putting:
    """Puts files below ``home``; ``cut`` bytes at the start of their paths are left out."""

    placing: Placing
    home: bytes
    cut: int
    modules: Mapping[bytes, Path]

    def bundle(self, path: Path, below: bytes, start: bytes = b"") -> None:
        """The files of one commit, which is at ``below`` of the whole; of the first one, those in ``start``."""
        with Bundle(path) as files:
            tree = tree_of(files.read, files.commit)
            root = subtree(files.read, tree, os.fsdecode(start.rstrip(b"/"))) if start else tree
            if root is None:
                raise CommitError(f"it has no folder {os.fsdecode(start)}")
            for item in walk(files.read, root):
                self._item(files, item, below + start + item.path)

    def _item(self, files: Bundle, item: Item, whole: bytes) -> None:
        target = self.home + b"/" + whole[self.cut :]
        if item.mode in (FOLDER, MODULE):
            self.placing.folder(target)
            if item.mode == MODULE and whole in self.modules:
                self.bundle(self.modules[whole], whole + b"/")
        elif item.mode == LINK:
            self.placing.link(target, b"".join(files.content(item.oid)))
        else:
            self.placing.write(target, files.content(item.oid), executable=item.mode == PROGRAM)
