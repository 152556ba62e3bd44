"""Changing an environment by hand: a container for each call, and between calls what differs, as one more layer.

A container cannot be given other mounts once it is made, and engines lose containers; what is kept is therefore a
folder of this machine, like any layer, but as it is: nothing is scrubbed from it until somebody asks what changed.
"""

from __future__ import annotations

import os
from pathlib import Path

from reprobox.backend import BuildResult, ChangesRequest, EditRequest
from reprobox.digest import Entry, read_index, write_index
from reprobox.image import layer_digest
from reprobox.layer_copies import copy_changes
from reprobox.normalise import Changes, normalise
from reprobox.staging import staging_folder
from reprobox.tree import Tree, remove, scan
from reprobox.whiteouts import whiteout
from reprobox_docker import terminal
from reprobox_docker.difference import Difference, made_for
from reprobox_docker.engine import Engine
from reprobox_docker.images import ParentStacks
from reprobox_docker.step import Start, container, machine_files, status_of, wrapped

_KEPT = "changes"
_SCRIPT = 'umask 022; cd "$1" || exit 126; shift; exec "$@"'


def edit(engine: Engine, stacks: ParentStacks, scratch: Path, request: EditRequest) -> int:
    """Run a command in the copy, and keep what it left."""
    kept = request.state / _KEPT
    trees = (*request.parents, kept / "tree") if kept.is_dir() else request.parents
    parents = Tree.merged([read_index(request.parent_index.read_bytes())])
    shown = Tree(parents.entries)
    if kept.is_dir():
        shown.apply(read_index((kept / "index").read_bytes()))
    epoch = int(request.parents[-1].stat().st_mtime)
    start = Start(image=stacks.image(engine, trees, epoch), tree=shown)
    with staging_folder(scratch) as stage:
        binds = (*request.binds, *machine_files(stage, shown, network=True, podman=engine.is_podman))
        with container(engine, start, stage, binds, network=True) as name:
            argv = wrapped(shown, _SCRIPT, request.workdir, request.environment, request.argv)
            status = _at_the_terminal(engine, name, argv)
            with engine.errors("the edit cannot be ended"):
                engine.api.kill(name)
            _keep(engine, name, parents, made_for([bind.target for bind in binds], shown), stage, kept)
    return status


def _at_the_terminal(engine: Engine, name: str, argv: tuple[str, ...]) -> int:
    at_terminal = terminal.at_a_terminal()
    with engine.errors("a command cannot be started"):
        made = engine.api.exec_create(name, list(argv), user="0:0", workdir="/", stdin=True, tty=at_terminal)
        command = str(made["Id"])
        stream = engine.stream(f"/exec/{command}/start", {"Detach": False, "Tty": at_terminal})
    try:
        return terminal.connect(
            stream,
            terminal=at_terminal,
            send=lambda word: engine.api.kill(name, "KILL" if word != "SIGWINCH" else word),
            resize=lambda lines, columns: engine.api.exec_resize(command, lines, columns),
            begin=lambda: None,
            wait=lambda: status_of(engine, command, patient=True),
        )
    finally:
        stream.close()


def _keep(engine: Engine, name: str, parents: Tree, made: frozenset[bytes], stage: Path, kept: Path) -> None:
    """Put what differs from the parents in the place of what was kept."""
    fresh = stage / "kept"
    (fresh / "tree").mkdir(parents=True)
    (fresh / "tree").chmod(0o755)
    difference = Difference(fresh / "tree", parents, made, lambda path: engine.read(name, "/" + os.fsdecode(path)))
    with engine.errors("what was changed cannot be read"):
        difference.fill(engine.api.export(name))
    entries = {entry.path: entry for entry in scan(fresh / "tree")}
    entries |= {path: Entry("w", 0, "-", path) for path in difference.deleted}
    for path in difference.deleted:
        whiteout(os.fsencode(fresh / "tree") + b"/" + path)
    (fresh / "index").write_bytes(write_index(entries[path] for path in sorted(entries)))
    kept.parent.mkdir(parents=True, exist_ok=True)
    remove(kept)
    fresh.rename(kept)


def changes(scratch: Path, request: ChangesRequest) -> BuildResult:
    """What was changed until now, normalised; it stays as it is."""
    kept = request.state / _KEPT
    parents = Tree.merged([read_index(request.parent_index.read_bytes())])
    with staging_folder(scratch) as stage:
        root, deleted = stage / "copy", frozenset[bytes]()
        if kept.is_dir():
            copy_changes(str(kept / "tree"), str(root))
            index = read_index((kept / "index").read_bytes())
            deleted = frozenset(entry.path for entry in index if entry.kind == "w")
        else:
            root.mkdir(mode=0o755)
        what = Changes(root=root, epoch=request.epoch, started=float(request.epoch), deleted=deleted, installing=True)
        dropped = normalise(what, parents, request.output)
    diff_id, size = layer_digest(request.output / "tree", request.output / "index", request.epoch)
    return BuildResult(diff_id=diff_id, size=size, dropped=dropped)
