"""A small environment made of this machine's own programs, as layers and as an image."""

from __future__ import annotations

import atexit
import functools
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from reprobox.backend import ImageLayer
from reprobox.digest import sha256, write_index
from reprobox.image import LAYER_TYPE, Descriptor, Image, Layer, Settings, layer_digest
from reprobox.session import this_platform
from reprobox.tree import remove, scan

EPOCH = 1_700_000_000
#: What the small environment has in /bin.
PROGRAMS = (
    "sh", "bash", "cat", "chgrp", "chmod", "chown", "cp", "date", "env", "head", "id", "kill", "ln", "ls", "mkdir",
    "mkfifo", "mknod", "mv", "pwd", "readlink", "rm", "rmdir", "sleep", "sort", "stat", "stty", "sync", "touch",
    "tr", "true", "tty", "uname", "wc", "yes",
)  # fmt: skip
_PATH = "/usr/bin:/bin:/usr/sbin:/sbin"


def small_root(folder: Path, programs: Sequence[str] = PROGRAMS) -> Path:
    """Fill the empty ``folder`` with a root of ``programs`` of this machine, and the libraries that they need."""
    for name, mode in {"bin": 0o755, "etc": 0o755, "usr/sbin": 0o755, "root": 0o700, "var/tmp": 0o1777}.items():
        (folder / name).mkdir(parents=True)
        (folder / name).chmod(mode)
    for name in ("dev", "proc", "sys", "run", "tmp"):
        (folder / name).mkdir()
    (folder / "tmp").chmod(0o1777)
    (folder / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/:/bin/sh\n")
    (folder / "etc/group").write_text("root:x:0:\ndaemon:x:1:\n")
    found = {name: shutil.which(name, path=_PATH) for name in programs}
    missing = sorted(name for name, path in found.items() if path is None)
    if missing:
        raise FileNotFoundError(f"this machine has no {', '.join(missing)}")
    for name, path in found.items():
        shutil.copyfile(str(path), folder / "bin" / name)
        (folder / "bin" / name).chmod(0o755)
    for library in libraries([str(path) for path in found.values()]):
        target = folder / library.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(library, target)
        target.chmod(0o755)
    return folder


def libraries(programs: Sequence[str]) -> set[str]:
    """The files of this machine that ``programs`` are linked with, by their paths."""
    listed = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False).stdout
    words = (word for line in listed.splitlines() if not line.endswith(":") for word in line.split())
    return {word for word in words if word.startswith("/")}


def make_layer(folder: Path, name: str, fill: Callable[[Path], object]) -> ImageLayer:
    """A layer on disk, as the store holds them: ``fill`` puts its paths into ``tree``, and ``index`` lists them."""
    tree = folder / "tree"
    tree.mkdir(parents=True, mode=0o755)
    fill(tree)
    index = write_index(scan(tree))
    (folder / "index").write_bytes(index)
    return ImageLayer(id=sha256(index), name=name, tree=tree, index=folder / "index")


@functools.cache
def small_base() -> ImageLayer:
    """The small environment as a layer; one for all tests of a process, gone when it ends."""
    folder = Path(tempfile.mkdtemp(prefix="reprobox-testing-"))
    folder.chmod(0o755)
    atexit.register(remove, folder)
    return make_layer(folder / "base", "base", small_root)


@functools.cache
def small_skeleton() -> ImageLayer:
    """A last layer with nothing in it: environments have at least two."""
    return make_layer(small_base().tree.parents[1] / "skeleton", "skeleton", lambda _: None)


def image_of(layers: Sequence[ImageLayer]) -> Image:
    """The OCI image that is made of ``layers``, for this machine."""
    labels = {"org.opencontainers.image.title": "a small environment"}
    settings = Settings(architecture=this_platform().partition("/")[2], labels=labels)
    return Image(settings=settings, layers=tuple(map(_image_layer, layers)), epoch=EPOCH)


@functools.cache
def _image_layer(layer: ImageLayer) -> Layer:
    digest, size = layer_digest(layer.tree, layer.index, EPOCH)
    descriptor = Descriptor(media_type=LAYER_TYPE, digest=digest, size=size)
    return Layer(descriptor=descriptor, diff_id=digest, tree=layer.tree, index=layer.index)
