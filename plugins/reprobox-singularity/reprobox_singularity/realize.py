"""From layers to a SIF with the same bytes every time; or to a bare SquashFS, or a folder.

The layers are stacked by overlayfs, or copied where that cannot be, inside the user namespace, and squashed from there:
outside, `mksquashfs` loses unreadable files and still exits 0. It writes behind the room that a SIF's header takes, so
that nothing is copied again. Everything that could vary is given: owners, order, times, identity.

``apptainer build`` before 1.5 draws an identity and writes the clock, takes minutes where gzip is its compression, and
spython's ``Client.build`` returns None when it fails; so neither is used here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from reprobox.archives import sif
from reprobox.archives.entries import tree_entries
from reprobox.archives.squashfs import SquashFs
from reprobox.backend import Realization, RealizeRequest
from reprobox.digest import Entry, hidden
from reprobox.errors import BackendError, ReproboxError
from reprobox.staging import staging_folder
from reprobox.tree import remove
from reprobox_singularity import apptainer, child, metadata

#: What is asked of mksquashfs: the bytes must follow from the tree alone. zstd's level 3 takes a fortieth of gzip's
#: time, for some four per cent more bytes.
OPTIONS = (
    "-comp", "zstd", "-Xcompression-level", "3", "-b", "131072", "-all-root", "-no-xattrs", "-no-hardlinks",
    "-noappend", "-no-progress", "-quiet",
)  # fmt: skip
_FORMS = {".sif": "sif", ".sqfs": "squashfs", ".sqsh": "squashfs", ".squashfs": "squashfs"}
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_FULL = "No space left on device"
_KEPT = re.compile(r"[0-9a-f]{64}\.sif")
_SQUASHFS = b"hsqs"
_INSTALL = "install squashfs-tools 4.4 or newer (package `squashfs-tools` of Debian, Ubuntu and Fedora)"


def realize(request: RealizeRequest, scratch: Path) -> Realization:
    """Make what ``request.output`` names: ``x.sif``, ``x.sqfs`` (or ``.squashfs``), else a folder; else keep a SIF.

    ``scratch`` is a folder for what is not kept. Raises :class:`BackendError` where a tool is missing, and
    :class:`ReproboxError` where a disk is full.
    """
    output = request.output
    if output is None:
        output = request.keep / f"{request.image_digest}.sif"
        if is_whole(output):
            return Realization(location=str(output))
    make(request, output, _FORMS.get(output.suffix, "folder"), scratch)
    return Realization(location=str(output), trees=(output,) if output.is_dir() else ())


def is_kept(location: str) -> bool:
    """Whether it has a name that only :func:`realize` gives, and so can be made anew at any time."""
    return _KEPT.fullmatch(os.path.basename(location)) is not None


def is_whole(path: Path) -> bool:
    """Whether it is a SIF with all that its header speaks of, and a file system that begins as one."""
    try:
        with path.open("rb") as file:
            primary = sif.read(file).primary
            file.seek(primary.offset if primary else 0)
            return file.read(len(_SQUASHFS)) == _SQUASHFS
    except (OSError, sif.SifError):
        return False


def entries(path: Path) -> list[Entry]:
    """What is in the file system of a SIF. Raises :class:`ValueError`, which says why, where that cannot be read."""
    with path.open("rb") as file:
        root = sif.read(file).primary
        if root is None:
            raise sif.SifError("it has no root file system")
        return tree_entries(SquashFs(file, root.offset, root.size).entries(hidden))


def make(request: RealizeRequest, output: Path, form: str, scratch: Path) -> None:
    """Make ``output`` in one of the forms ``sif``, ``squashfs`` and ``folder``; all of it or nothing."""
    try:
        with staging_folder(scratch) as stage, _beside(output, scratch) as place:
            (stage / "metadata").mkdir(mode=0o755)
            metadata.write(request, stage / "metadata")
            _make(request, place / "made", form, stage)
            (place / "made").rename(output)
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        raise _full(output, scratch) from None


@contextlib.contextmanager
def _beside(output: Path, scratch: Path) -> Iterator[Path]:
    """A folder from which ``output`` can be renamed into place; in ``scratch`` if that is on the same file system,
    where what a killed process leaves is swept up."""
    if output.parent.stat().st_dev == scratch.stat().st_dev:
        with staging_folder(scratch) as place:
            yield place
        return
    place = Path(tempfile.mkdtemp(prefix=f".{output.name[:40]}.", dir=output.parent))
    try:
        yield place
    finally:
        remove(place)


def _make(request: RealizeRequest, made: Path, form: str, stage: Path) -> None:
    if form == "sif":
        _write_sif(request, made, stage)
    elif form == "squashfs":
        _squash(request, made, stage, offset=0)
    else:
        made.mkdir(mode=0o755)
        layers = [[str(layer.tree.absolute()), str(layer.index.absolute())] for layer in request.layers]
        _ask("squash:copy", {"root": str(made), "layers": layers, "top": str(stage / "metadata")}, made)


# -- SIF ---------------------------------------------------------------------------------------------------------------


def _write_sif(request: RealizeRequest, path: Path, stage: Path) -> None:
    objects = {metadata.INSPECTED: metadata.inspected(request), metadata.OWN: metadata.own(request, _accounts(request))}
    offset = _laid_out(request, objects, 0).objects[-1].offset
    _squash(request, path, stage, offset=offset)
    done = _laid_out(request, objects, path.stat().st_size - offset)
    with path.open("r+b") as file:
        file.write(sif.head(done))
        for item, content in zip(done.objects[:-1], objects.values(), strict=True):
            file.seek(item.offset)
            file.write(content)
        file.flush()
        os.fsync(file.fileno())
    path.chmod(0o755)  # a SIF may be executed, as Apptainer's own


def _laid_out(request: RealizeRequest, objects: Mapping[str, bytes], size: int) -> sif.Sif:
    partition = sif.Partition(
        filesystem=sif.SQUASHFS, role=sif.PRIMARY, architecture=request.image.settings.architecture
    )
    contents = [sif.Content(type=sif.JSON, size=len(data), name=name) for name, data in objects.items()]
    contents.append(sif.Content(type=sif.PARTITION, size=size, extra=partition.extra()))
    return sif.laid_out(contents, identity=sif.identity(request.image_digest.encode()), created=request.image.epoch)


def _accounts(request: RealizeRequest) -> dict[str, str]:
    """The image's passwd and group, as the topmost layer has them; a link is not followed: nobody's is one."""
    found = {}
    for name in ("passwd", "group"):
        paths = [layer.tree / "etc" / name for layer in reversed(request.layers)]
        path = next((path for path in paths if os.path.lexists(path)), None)
        if path is not None and path.is_file() and not path.is_symlink():
            found[name] = path.read_text("utf-8", errors="replace")
    return found


# -- SquashFS ----------------------------------------------------------------------------------------------------------


def _squash(request: RealizeRequest, path: Path, stage: Path, *, offset: int) -> None:
    program = squasher()
    (stage / "stage").mkdir(mode=0o755)
    (stage / "copy").mkdir(mode=0o755)
    argv = [program, ".", str(path.absolute()), *OPTIONS, "-offset", str(offset)]
    document = {
        "layers": [[str(layer.tree.absolute()), str(layer.index.absolute())] for layer in request.layers],
        "top": str(stage / "metadata"),
        "stage": str(stage / "stage") if os.environ.get("REPROBOX_SANDBOX_OVERLAY") != "no" else "",
        "copy": str(stage / "copy"),
        "argv": argv,
        "environment": {"PATH": os.defpath, "LC_ALL": "C", "SOURCE_DATE_EPOCH": str(request.image.epoch)},
    }
    answer = _ask("squash:squash", document, path)
    if answer["status"] or answer["said"]:
        if _FULL in answer["said"]:
            raise OSError(errno.ENOSPC, _FULL)
        raise ReproboxError(
            f"mksquashfs ended with status {answer['status']}: {answer['said'].strip()}",
            where=str(path),
            hint="the image was not kept; run it again, and report it if it stays so",
        )


def squasher() -> str:
    """The path of ``mksquashfs``. Raises :class:`BackendError`."""
    program = shutil.which("mksquashfs", path=apptainer.own_environment(os.environ)["PATH"])
    if program is None:
        raise BackendError("mksquashfs is not installed, which makes the file system of a SIF", hint=_INSTALL)
    return program


def squasher_version(program: str) -> str:
    """``4.5.1``. Raises :class:`BackendError` where it cannot do zstd."""
    done = subprocess.run([program, "-version"], capture_output=True, text=True, check=False, errors="replace")
    words = done.stdout.split()
    # From 4.7 on, -help is a table of contents; what does not know -help-all says all it knows.
    helped = subprocess.run([program, "-help-all"], capture_output=True, text=True, check=False, errors="replace")
    known = helped.stdout + helped.stderr
    for word in ("zstd", "-offset", "-no-hardlinks"):
        if word not in known:
            raise BackendError(f"{program} does not know {word}", hint=_INSTALL)
    return words[2] if len(words) > 2 else "?"


def _ask(function: str, document: Mapping[str, Any], path: Path) -> dict[str, Any]:
    answer: dict[str, Any] = child.ask(function, document)
    if "problem" in answer:
        raise BackendError(
            f"{path.name} cannot be made: {answer['problem']}",
            hint="it takes a user namespace; `reprobox doctor` says what stops it here",
        )
    return answer


def _full(output: Path, scratch: Path) -> ReproboxError:
    places: Sequence[str] = sorted({str(output.parent), str(scratch)})
    return ReproboxError(
        f"there is no space left: the disk, or the quota, of {' or of '.join(places)} is full",
        where=str(output),
        hint="`reprobox cache gc` frees the store; APPTAINER_TMPDIR names another folder for what is not kept",
    )
