"""Images in the engine: names, and how they get there without sending what is there already.

Environments are ``reprobox/NAME:VERSION``, and ``reprobox/NAME:sha256-…`` with the image digest, which is what a
realization is known by. The layers that a step stands on are ``reprobox/parents:…``, named for what they are made of;
they can be removed at any time, and are loaded again when a step needs them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from docker.errors import APIError
from requests.exceptions import RequestException

from reprobox import namespace
from reprobox.digest import Entry, read_index, sha256
from reprobox.errors import BackendError
from reprobox.image import LAYER_TYPE, Descriptor, Image, Layer, Settings, layer_digest, write_docker_archive
from reprobox.pieces import written
from reprobox_docker.engine import Engine

PARENTS = "reprobox/parents"
MADE = "org.reprobox.made"
_KEPT = 30 * 86400  # seconds that images of parents are kept; loading one again takes some seconds


def repository(name: str) -> str:
    """``reprobox/<name>``, with what Docker does not allow in names replaced."""
    return f"reprobox/{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-') or 'environment'}"


def tag(version: str) -> str:
    """A version as a tag."""
    return re.sub("[^A-Za-z0-9_.-]", "-", version)[:128].lstrip(".-") or "latest"


def digest_tag(image_digest: str) -> str:
    return f"sha256-{image_digest}"


# -- loading -----------------------------------------------------------------------------------------------------------


def load(engine: Engine, image: Image, name: str) -> None:
    """Have the engine hold ``image`` as ``name``; of its layers, only those that the engine lacks are sent.

    Docker has the layers below the first one that it looks for in vain. Other engines are sent everything.
    """
    held: set[str] = set()
    if engine.known_by_chain:
        try:
            _send(engine, image, name, {layer.diff_id for layer in image.layers})
            return
        except BackendError as error:
            held = _below_the_missing(image, error)
    if held:
        try:
            _send(engine, image, name, held)
            return
        except BackendError as error:
            if not _below_the_missing(image, error):
                raise
    _send(engine, image, name, ())


def _below_the_missing(image: Image, error: BackendError) -> set[str]:
    """The diff ids below the layer that the engine says it lacks; none if that is not what it says."""
    for number, layer in enumerate(image.layers):
        if f"{layer.diff_id}.tar" in error.message:
            return {below.diff_id for below in image.layers[:number]} - {layer.diff_id}
    return set()


def _send(engine: Engine, image: Image, name: str, without: Collection[str]) -> None:
    with written(lambda sink: write_docker_archive(image, name, sink, without=without)) as archive:
        engine.load(archive)


# -- parents of steps --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Stacked:
    """A layer of a stack: its folder, and the key of the stack up to here."""

    tree: Path
    key: str


class ParentStacks:
    """The images that steps stand on. Remembers for the life of the process what layers are made of."""

    def __init__(self) -> None:
        self._keys: dict[tuple[str, int, int, int], str] = {}
        self._lock = threading.Lock()
        self._pruned = False

    def image(self, engine: Engine, trees: Sequence[Path], epoch: int) -> str:
        """The name of an image of exactly these layers, lowest first; loaded if the engine has none."""
        stack = self._stack(trees, epoch)
        name = f"{PARENTS}:{stack[-1].key}"
        with self._lock:
            if not engine.has_image(name):
                self._load(engine, stack, epoch)
                self._prune(engine)
        return name

    def _stack(self, trees: Sequence[Path], epoch: int) -> list[_Stacked]:
        found: list[_Stacked] = []
        below = f"parents 1 {epoch}"
        for tree in trees:
            below = sha256(f"{below} {self._key(tree, epoch)}".encode())
            found.append(_Stacked(tree=tree, key=below))
        return found

    def _key(self, tree: Path, epoch: int) -> str:
        index = tree.parent / "index"
        status = index.stat()
        known = (str(tree), status.st_ino, status.st_mtime_ns, epoch)
        if known not in self._keys:
            self._keys[known] = layer_key(tree, index, epoch)
        return self._keys[known]

    def _load(self, engine: Engine, stack: Sequence[_Stacked], epoch: int) -> None:
        name = f"{PARENTS}:{stack[-1].key}"
        held = [_known(diff_id) for diff_id in _held(engine, stack)] if engine.known_by_chain else []
        image = empty_image(engine, epoch)
        layers = [*held, *(_layer(item.tree, epoch) for item in stack[len(held) :])]
        try:
            load(engine, replace(image, layers=tuple(layers)), name)
        except BackendError:
            if not held:
                raise
            layers = [_layer(item.tree, epoch) for item in stack]  # somebody removed what the others stand on
            load(engine, replace(image, layers=tuple(layers)), name)

    def _prune(self, engine: Engine) -> None:
        """Once in a while, images that no step stood on for a month go; what other images share stays."""
        if self._pruned:
            return
        self._pruned = True
        with contextlib.suppress(APIError, RequestException):
            for item in engine.api.images(PARENTS):
                made = (item.get("Labels") or {}).get(MADE, "")
                if made.isdigit() and int(made) < time.time() - _KEPT:
                    engine.api.remove_image(item["Id"])


def empty_image(engine: Engine, epoch: int = 0) -> Image:
    """An image without layers for this machine, with the time at which it was made."""
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(engine.info["Architecture"], engine.info["Architecture"])
    settings = Settings(architecture=architecture, labels={MADE: str(int(time.time()))})
    return Image(settings=settings, layers=(), epoch=epoch)


def _held(engine: Engine, stack: Sequence[_Stacked]) -> list[str]:
    """Diff ids of the longest part of the stack that the engine has an image of."""
    for count in range(len(stack) - 1, 0, -1):
        found = engine.inspect_image(f"{PARENTS}:{stack[count - 1].key}")
        if found is not None:
            return [str(diff_id).removeprefix("sha256:") for diff_id in found["RootFS"]["Layers"]]
    return []


def _known(diff_id: str) -> Layer:
    return Layer(descriptor=Descriptor(media_type=LAYER_TYPE, digest=diff_id, size=0), diff_id=diff_id)


def _layer(tree: Path, epoch: int) -> Layer:
    index = tree.parent / "index"
    diff_id, size = layer_digest(tree, index, epoch)
    descriptor = Descriptor(media_type=LAYER_TYPE, digest=diff_id, size=size)
    return Layer(descriptor=descriptor, diff_id=diff_id, tree=tree, index=index)


def layer_key(tree: Path, index: Path, epoch: int) -> str:
    """sha256 hex of all that a layer's tar is made of, without reading its files: their hashes are in the index."""
    data = index.read_bytes()
    entries = read_index(data)
    if namespace.hides(entries):
        return layer_digest(tree, index, epoch)[0]
    state = hashlib.sha256(data)
    for line in _outside_the_index(os.fsencode(tree), entries):
        state.update(line)
    return state.hexdigest()


def _outside_the_index(root: bytes, entries: Sequence[Entry]) -> Iterator[bytes]:
    """Times and hard links of a layer's files."""
    first: dict[tuple[int, int], bytes] = {}
    for entry in entries:
        if entry.kind in "fl":
            status = os.lstat(root + b"/" + entry.path)
            twin = first.setdefault((status.st_dev, status.st_ino), entry.path) if status.st_nlink > 1 else entry.path
            yield b"%d %s\n" % (status.st_mtime_ns // 10**9, twin if twin != entry.path else b"")
