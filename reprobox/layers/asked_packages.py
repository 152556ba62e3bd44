"""What a ``pip`` layer asks for, in whatever way it says so, and where it says it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from reprobox.errors import ManifestError, ReproboxError
from reprobox.git.worktree import within
from reprobox.layers.kind import ResolveRequest
from reprobox.manifest import Layer, Manifest

if TYPE_CHECKING:  # what reads other formats is loaded where a layer needs it
    from reprobox.layers.requirement_files import Asked, Read, Said


SOURCES = ("packages", "requirements", "pylock", "project")


def asked_of(manifest: Manifest, layer: Layer, read: Read, python: str = "") -> Asked:
    """What the layer asks for, in whatever way it says so, for a Python version; any, if left out."""
    from reprobox.layers.pyproject import read_project
    from reprobox.layers.requirement_files import Asked, read_requirements

    options = layer.options
    if options.requirements:
        asked = read_requirements(options.requirements, read)
    elif options.project:
        asked = read_project(options.project, read, extras=options.extras, groups=options.groups, python=python)
    else:
        asked = Asked(requirements=tuple(_listed(manifest, layer)))
    if not options.constraints:
        return asked
    more = read_requirements(options.constraints, read, constraints=True)
    return replace(asked, constraints=(*asked.constraints, *more.constraints), files={**asked.files, **more.files})


def _listed(manifest: Manifest, layer: Layer) -> Iterator[Said]:
    """The list ``packages``, each with its place: ``research.toml:12: layers[1].packages[0]``."""
    from packaging.requirements import Requirement

    from reprobox.layers.requirement_files import Said

    for number, text in enumerate(layer.options.packages):
        yield Said(str(Requirement(text)), place_of(manifest, layer, "packages", number))


def reader_of(manifest: Manifest, layer: Layer, project: Path) -> Read:
    """Reads files of the project; one that is not there is a problem of the key that names it."""
    name = next(name for name in (*SOURCES, "constraints") if getattr(layer.options, name))

    def read(path: str) -> bytes:
        at = "constraints" if path == layer.options.constraints else name
        try:
            return within(project, path).read_bytes()
        except (OSError, ReproboxError) as error:
            missing = not (project / path).exists()
            said = f"there is no file {path}" if missing else getattr(error, "message", f"{path} cannot be read")
            hint = "write it, or name another: paths start at the manifest"
            raise ManifestError([manifest.problem(("layers", layer.index, at), said, hint)]) from None

    return read


def place_of(manifest: Manifest, layer: Layer, *path: str | int) -> str:
    problem = manifest.problem(("layers", layer.index, *path), "")
    return f"{problem.file}:{problem.line}: {problem.key}" if problem.line else f"{problem.file}: {problem.key}"


def where_asked(request: ResolveRequest, asked: Asked | None = None, package: str = "") -> str:
    """Where ``package`` is asked for: ``requirements.txt:3``, ``research.toml:12: layers[1].packages[0]``; else the key
    of the layer that asks."""
    name = next(name for name in SOURCES if getattr(request.layer.options, name))
    layer = place_of(request.manifest, request.layer, name)
    return next((said.where for said in asked.requirements if said.name == package), layer) if asked else layer


def built_from_source(request: ResolveRequest) -> list[str]:
    """Packages that are to be built from source, normalised as PEP 503 says."""
    from packaging.utils import canonicalize_name

    return [canonicalize_name(name) for name in request.layer.options.build]
