"""What Apptainer looks for in an image: ``/.singularity.d``, and the answers to ``apptainer inspect``.

It is what a SIF built from the same OCI image would say, in words of our own and without a clock or a host's name, so
that plain ``apptainer run``, ``exec``, ``shell``, ``inspect`` and ``instance start`` work as with such a SIF. Arguments
and ENTRYPOINT are passed on as they are; no shell evaluates them again.

Source: Apptainer's user guide, "Environment and Metadata"; what ``apptainer build`` 1.4.5 makes of a docker-archive.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from reprobox.backend import RealizeRequest
from reprobox.digest import prefixed
from reprobox.image import Image, Settings

ENVIRONMENT = "/.singularity.d/env/10-docker2singularity.sh"
#: Names of the objects of a SIF: the first is Apptainer's, the second our own.
INSPECTED, OWN = "inspect-metadata.json", "reprobox.json"
_LINKS = {
    ".exec": ".singularity.d/actions/exec",
    ".run": ".singularity.d/actions/run",
    ".shell": ".singularity.d/actions/shell",
    ".test": ".singularity.d/actions/test",
    "environment": ".singularity.d/env/90-environment.sh",
    "singularity": ".singularity.d/runscript",
}
_ACTION = """\
#!/bin/sh
for script in /.singularity.d/env/*.sh; do
    if [ -f "$script" ]; then . "$script"; fi
done
"""
#: Where ``--nv`` binds the driver's libraries. Right after it, Apptainer puts in what callers give by APPTAINERENV_.
_BASE = """\
#!/bin/sh
export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}/.singularity.d/libs"
"""
_ACTIONS = {
    "exec": 'exec "$@"',
    "run": 'exec /.singularity.d/runscript "$@"',
    "shell": 'exec /bin/sh "$@"',
    "start": 'exec /.singularity.d/startscript "$@"',
    "test": 'exec "$@"',
}
#: Files that an engine binds the machine's own over, and that no digest counts.
_MOUNT_POINTS = ("etc/hosts", "etc/hostname", "etc/resolv.conf")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


def labels(request: RealizeRequest) -> dict[str, str]:
    """The image's labels, what ``apptainer build`` would add about the schema, and the digests."""
    return {
        **request.image.settings.labels,
        "org.label-schema.build-arch": request.image.settings.architecture,
        "org.label-schema.schema-version": "1.0",
        "org.reprobox.image-digest": prefixed(request.image_digest),
        "org.reprobox.tree-digest": prefixed(request.tree_digest),
    }


def files(image: Image, labels: Mapping[str, str]) -> dict[str, str]:
    """The files of ``/.singularity.d`` by their paths in the image."""
    scripts = {
        "env/10-docker2singularity.sh": environment_script(image.settings),
        "env/90-environment.sh": "#!/bin/sh\n",
        "env/99-base.sh": _BASE,
        "runscript": run_script(image.settings),
        "startscript": "#!/bin/sh\n",
        "labels.json": json.dumps(labels, indent=4, sort_keys=True, ensure_ascii=False) + "\n",
        **{f"actions/{name}": f"{_ACTION}{line}\n" for name, line in _ACTIONS.items()},
    }
    return {f".singularity.d/{name}": text for name, text in scripts.items()}


def environment_script(settings: Settings) -> str:
    """Sets what the image declares, where the caller has not (with ``APPTAINERENV_``); PATH in any case."""
    lines = ["#!/bin/sh"]
    for name, value in settings.environment.items():
        if _NAME.match(name):
            setting = f"export {name}={quoted(value)}"
            lines.append(setting if name == "PATH" else f'if [ -z "${{{name}:-}}" ]; then {setting}; fi')
    return "\n".join(lines) + "\n"


def run_script(settings: Settings) -> str:
    """ENTRYPOINT with the arguments, or with CMD where there are none; a shell if the image has neither."""
    command = settings.command or (() if settings.entrypoint else ("/bin/sh",))
    default = f"if [ $# -eq 0 ]; then set -- {words(command)}; fi\n" if command else ""
    entry = f"{words(settings.entrypoint)} " if settings.entrypoint else ""
    return f'#!/bin/sh\n{default}exec {entry}"$@"\n'


def words(argv: Sequence[str]) -> str:
    """Words that a shell reads as ``argv``."""
    return " ".join(map(quoted, argv))


def quoted(text: str) -> str:
    """A word that a shell reads as ``text``, whatever is in it. Apptainer's own shell misreads quoted single quotes."""
    return '"' + re.sub(r'([\\"$`])', r"\\\1", text) + '"'


def inspected(request: RealizeRequest) -> bytes:
    """What ``apptainer inspect`` answers from, without starting anything."""
    image = request.image
    attributes = {
        "environment": {ENVIRONMENT: environment_script(image.settings).rstrip("\n")},
        "labels": labels(request),
        "runscript": run_script(image.settings).rstrip("\n"),
        "startscript": "#!/bin/sh",
    }
    return _json({"data": {"attributes": attributes}, "type": "container"})


def own(request: RealizeRequest, accounts: Mapping[str, str]) -> bytes:
    """What a run needs to know of the image before it is mounted: its accounts."""
    return _json({"accounts": dict(accounts), "labels": labels(request)})


def _json(document: object) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def write(request: RealizeRequest, folder: Path) -> None:
    """Put everything into the existing, empty ``folder``, as the topmost of the layers."""
    epoch = request.image.epoch
    for name, text in files(request.image, labels(request)).items():
        _put(folder / name, text, 0o644 if name.endswith(".json") else 0o755)
    (folder / ".singularity.d/libs").mkdir()
    (folder / ".singularity.d/libs").chmod(0o755)
    for name in _MOUNT_POINTS:
        _put(folder / name, "", 0o644)
    for name, target in _LINKS.items():
        (folder / name).symlink_to(target)
    for root, folders, names in os.walk(folder, topdown=False):
        for name in (*folders, *names):
            os.utime(os.path.join(root, name), (epoch, epoch), follow_symlinks=False)
    folder.chmod(0o755)
    os.utime(folder, (epoch, epoch))


def _put(path: Path, text: str, mode: int) -> None:
    for folder in reversed(path.parents):
        if not folder.exists():
            folder.mkdir()
            folder.chmod(0o755)
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    path.chmod(mode)
