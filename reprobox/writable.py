"""A copy of an environment that somebody changes by hand: where it is kept, what it stands on, and how it is used.

There is one for each project, target and backend, below ``writable`` in the store. It stands on the layers that it was
begun with, which are needed by the project as long as it is there, whatever becomes of the lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reprobox import launch
from reprobox.backend import Backend, Bind, BuildResult, ChangesRequest, EditRequest, ImageLayer, Realization
from reprobox.digest import write_index
from reprobox.errors import ReproboxError, UsageError
from reprobox.lock_text import lock_digest
from reprobox.realize import Realized
from reprobox.store import Store
from reprobox.tree import Tree, remove

_RECORD = "copy.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Copy:
    """A copy that is kept at ``place``: its layers, lowest first, and ``lock``, the digest of their lock.

    ``held`` is what the backend made of them; ``epoch`` is the lock's.
    """

    place: Path
    layers: tuple[ImageLayer, ...]
    lock: str
    epoch: int
    held: Realization

    @property
    def state(self) -> Path:
        return self.place / "state"

    @property
    def parent_index(self) -> Path:
        return self.place / "parents.index"

    def parents(self) -> Tree:
        """The environment as it was when the copy was begun."""
        return Tree.load(*(layer.index for layer in self.layers))


def place_of(store: Store, project: Path, target: str, backend: str) -> Path:
    """Where the copy of a project's target is, or would be."""
    name = Path(launch.record_path("", str(project), target, backend)).name
    return store.root / "writable" / name.removesuffix(".json")


def find(place: Path) -> Copy | None:
    """The copy that is kept there. Raises :class:`ReproboxError` where the layers that it stands on are gone."""
    try:
        record = json.loads((place / _RECORD).read_bytes())
    except (OSError, ValueError):
        return None
    layers = tuple(
        ImageLayer(id=item["id"], name=item["name"], tree=Path(item["tree"]), index=Path(item["tree"]).parent / "index")
        for item in record["layers"]
    )
    if not all(layer.index.is_file() for layer in layers):
        raise ReproboxError(
            "the layers that the writable copy stands on are not in the store any more",
            where=str(place),
            hint="begin anew: `reprobox shell --writable --discard`, and then without --discard",
        )
    held = Realization(location=record["location"], trees=tuple(map(Path, record["trees"])))
    return Copy(place=place, layers=layers, lock=record["lock"], epoch=record["epoch"], held=held)


def begin(store: Store, place: Path, realized: Realized) -> Copy:
    """A new copy of a realized environment, in which nothing is changed yet."""
    layers = realized.environment.layers
    copy = Copy(
        place=place,
        layers=layers,
        lock=lock_digest(realized.lock),
        epoch=realized.lock.epoch,
        held=realized.realization,
    )
    copy.state.mkdir(parents=True, mode=0o700, exist_ok=True)
    copy.parent_index.write_bytes(write_index(copy.parents().sorted()))
    record = {
        "layers": [{"id": layer.id, "name": layer.name, "tree": str(layer.tree)} for layer in layers],
        "lock": copy.lock,
        "epoch": copy.epoch,
        "location": copy.held.location,
        "trees": [str(tree) for tree in copy.held.trees],
    }
    needs = {"trees": record["trees"], "needs": realized.record["needs"], "lock": realized.record["lock"]}
    store.replace(_needs(store, place), json.dumps(needs).encode())  # gc reads it beside the launch records
    store.replace(place / _RECORD, json.dumps(record).encode())
    return copy


def discard(store: Store, place: Path, backend: Backend) -> None:
    """Take a copy away, and what its backend keeps of it elsewhere."""
    with in_use(place):
        away = getattr(backend, "discard", None)
        if away is not None:
            away(place / "state")
        remove(place)
        _needs(store, place).unlink(missing_ok=True)


def _needs(store: Store, place: Path) -> Path:
    return store.root / "realizations" / f"{place.name}@writable.json"


@contextlib.contextmanager
def in_use(place: Path) -> Iterator[None]:
    """Be the only one that uses the copy. Raises :class:`UsageError` where somebody else does."""
    place.mkdir(parents=True, mode=0o700, exist_ok=True)
    with (place / "lock").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            hint = "end the other `reprobox shell --writable` first"
            raise UsageError("another command uses the writable copy", where=str(place), hint=hint) from None
        except OSError:  # a file system without locks
            pass
        yield


def edit(backend: Backend, copy: Copy, argv: Sequence[str], settings: Mapping[str, Any]) -> int:
    """Run a command in the copy; ``settings`` are the environment, binds and working directory of the request."""
    request = EditRequest(
        realization=copy.held,
        parents=tuple(layer.tree for layer in copy.layers),
        parent_index=copy.parent_index,
        state=copy.state,
        argv=tuple(argv),
        **settings,
    )
    return backend.edit(request)


def changes(backend: Backend, copy: Copy, output: Path) -> BuildResult:
    """What was changed by hand, as a layer in the empty folder ``output``."""
    return backend.changes(
        ChangesRequest(
            realization=copy.held,
            parents=tuple(layer.tree for layer in copy.layers),
            parent_index=copy.parent_index,
            state=copy.state,
            output=output,
            epoch=copy.epoch,
        )
    )


# -- what the shell is given of the machine ----------------------------------------------------------------------------

_APT = "/run/reprobox/apt.conf"
_SOURCES = "/run/reprobox/sources.list"


def apt_settings(folder: Path, copy: Copy) -> tuple[dict[str, str], tuple[Bind, ...]]:
    """How apt works in the copy, written to ``folder``: as user 0, from its own sources, else the machine's.

    Returns variables and binds.
    """
    lines = ['APT::Sandbox::User "root";', 'APT::Install-Recommends "false";']
    binds: list[Bind] = []
    if not _has_sources(copy):
        lines.append(f'Dir::Etc::SourceList "{_SOURCES}";')
        (folder / "sources.list").write_text("".join(_host_lines(copy, binds)))
        binds.append(Bind(source=folder / "sources.list", target=_SOURCES))
    (folder / "apt.conf").write_text("\n".join((*lines, "")))
    return {"APT_CONFIG": _APT}, (Bind(source=folder / "apt.conf", target=_APT), *binds)


def _has_sources(copy: Copy) -> bool:
    files = (path for path, entry in copy.parents().entries.items() if entry.kind == "f")
    named = (path for path in files if path.startswith(b"etc/apt/sources.list"))
    return any(_content(copy, path) for path in named if path.endswith((b".list", b".sources")))


def _content(copy: Copy, path: bytes) -> bytes:
    """A file of the layers, without comments."""
    lines = content(copy, os.fsdecode(path)).splitlines()
    return b"".join(line for line in lines if not line.lstrip().startswith(b"#")).strip()


def lacks_lists(tree: Tree) -> bool:
    """Whether there is apt, and no list of packages: no layer keeps any. sources.list(5), FILES"""
    lists = (path for path in tree.entries if path.startswith(b"var/lib/apt/lists/"))
    return b"usr/bin/apt-get" in tree.entries and not any(b"_Packages" in path for path in lists)


def content(copy: Copy, path: str) -> bytes:
    """A file of the layers, the uppermost; empty where there is none."""
    for layer in reversed(copy.layers):
        file = layer.tree / path
        if file.is_file() and not file.is_symlink():
            return file.read_bytes()
    return b""


def _host_lines(copy: Copy, binds: list[Bind]) -> Iterator[str]:
    """The machine's sources as lines of sources.list(5), of the release that the environment is."""
    from reprobox.debian.sources import host_sources

    here = _codename(Path("/etc/os-release").read_bytes()) if Path("/etc/os-release").exists() else ""
    there = _codename(content(copy, "usr/lib/os-release") or content(copy, "etc/os-release"))
    keys: dict[str, str] = {}
    for source in host_sources():
        for file in source.signed_by:
            if file.startswith("/") and os.path.isfile(file) and file not in keys:
                keys[file] = f"/run/reprobox/keys/{len(keys)}{os.path.splitext(file)[1]}"
                binds.append(Bind(source=Path(file), target=keys[file]))
        signed = [keys[file] for file in source.signed_by if file in keys]
        options = f"[signed-by={','.join(signed)}] " if signed else ""
        suite = source.suite.replace(here, there, 1) if here and there else source.suite
        for place in source.places():
            yield f"deb {options}{place.uri} {suite} {' '.join(source.components)}".rstrip() + "\n"


def _codename(release: bytes) -> str:
    said = dict(line.partition("=")[::2] for line in release.decode(errors="replace").splitlines())
    return said.get("VERSION_CODENAME", "").strip("\"'")


_PIP_NAMES = {
    "UV_DEFAULT_INDEX": "PIP_INDEX_URL",
    "UV_INDEX_URL": "PIP_INDEX_URL",
    "UV_EXTRA_INDEX_URL": "PIP_EXTRA_INDEX_URL",
    "UV_FIND_LINKS": "PIP_FIND_LINKS",
    "UV_NO_INDEX": "PIP_NO_INDEX",
}


def pip_settings(index: Mapping[str, str], host: Mapping[str, str]) -> tuple[dict[str, str], tuple[Bind, ...]]:
    """Where pip and uv look for packages, as on this machine; folders of wheels are shown in the copy."""
    from reprobox.index_settings import host_settings

    said = {**{name: host[name] for name in _PIP_NAMES if host.get(name)}, **host_settings(index, host).variables}
    said = {name: value for name, value in said.items() if name in _PIP_NAMES}
    binds = []
    if links := said.get("UV_FIND_LINKS"):
        words = []
        for number, word in enumerate(links.split(",")):
            path = word.removeprefix("file://")
            if path.startswith("/"):
                binds.append(Bind(source=Path(path), target=f"/run/reprobox/links/{number}"))
                word = binds[-1].target  # noqa: PLW2901 - the place of the same folder
            words.append(word)
        said["UV_FIND_LINKS"] = ",".join(words)
    pip = {_PIP_NAMES[name]: value.replace(",", " ") for name, value in said.items()}
    return {**said, **pip}, tuple(bind for bind in binds if bind.source.exists())
