"""What the page shows, taken from manifest and lock."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from reprobox import tables
from reprobox.cite import bibtex, citation_of, reference
from reprobox.cite.citation import base_words
from reprobox.crate_files import PROJECT
from reprobox.digest import bare
from reprobox.image import rfc3339
from reprobox.lock import Lock, LockedLayer, LockedTarget, request_digest
from reprobox.manifest import Layer as AskedLayer
from reprobox.manifest import Manifest, Mount
from reprobox.preview.content import Code, Data, Grant, Layer, Package, Page, Person, Run, Target, Voucher
from reprobox.pypi import TYPES
from reprobox.recreate import Enclosed, ways
from reprobox.urls import without_password

_PACKAGES = ("deb", *TYPES)
_MADE = {"base": "what all layers stand on", "skeleton": "folders that every engine needs", "code": "the code"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """What is known beside manifest and lock: licences of packages by the sha256 hex of their file, who vouches for the
    lock, recorded runs, and the crate's JSON-LD.
    """

    licences: Mapping[str, str] = field(default_factory=dict)
    vouchers: tuple[Voucher, ...] = ()
    runs: tuple[Run, ...] = ()
    metadata: str = ""


def page_of(
    manifest: Manifest,
    lock: Lock,
    *,
    digest: str = "",
    enclosed: Enclosed | None = None,
    known: Known | None = None,
) -> Page:
    """The page's content. ``digest`` is the sha256 hex of ``research.lock``, if it is not written as now;
    ``enclosed`` is what the crate has beside the project, ``known`` what neither manifest nor lock can tell.
    """
    enclosed, known = enclosed or Enclosed(), known or Known()
    project = manifest.project
    first = next(name for name in manifest.targets if name in lock.targets)
    citation = citation_of(manifest, lock, first, digest=digest)
    return Page(
        title=project.title or project.name,
        name=project.name,
        version=project.version or "",
        description=project.description or "",
        licence=project.license or "",
        licence_url=_licence_url(project.license or ""),
        doi=project.doi or "",
        date=project.date or "",
        url=project.url or "",
        repository=project.repository or "",
        keywords=project.keywords,
        people=tuple(_people(manifest)),
        funding=tuple(
            Grant(
                funder=item.funder,
                ror=item.ror or "",
                title=item.title or "",
                award=item.award or "",
                url=item.url or "",
            )
            for item in project.funding
        ),
        lock=citation.lock,
        manifest=lock.manifest,
        epoch=rfc3339(lock.epoch),
        command=shlex.join((*(manifest.run.entrypoint or ()), *manifest.run.command)),
        targets=tuple(_target(manifest, name, lock.targets[name]) for name in manifest.targets if name in lock.targets),
        ways=ways(manifest, lock, first, enclosed),
        ways_target=first,
        packages=tuple(_packages(lock, known.licences)),
        code=_code(manifest, lock),
        data=tuple(_data(lock, path, mount, enclosed) for path, mount in manifest.mounts.items()),
        citation=reference(citation),
        bibtex=bibtex(citation),
        vouchers=known.vouchers,
        runs=known.runs,
        metadata=known.metadata,
    )


def _licence_url(expression: str) -> str:
    """Where SPDX describes it, if it is one licence that SPDX knows."""
    try:
        known = canonicalize_license_expression(expression)
    except InvalidLicenseExpression:
        return ""
    return (
        ""
        if " " in known or known.startswith("LicenseRef-")
        else f"https://spdx.org/licenses/{known.removesuffix('+')}"
    )


def _people(manifest: Manifest) -> Iterator[Person]:
    for author in manifest.project.authors:
        yield Person(
            name=author.full_name,
            orcid=author.orcid or "",
            affiliation=author.affiliation or "",
            ror=author.ror or "",
        )


# -- targets and layers ------------------------------------------------------------------------------------------------


def _target(manifest: Manifest, name: str, locked: LockedTarget) -> Target:
    selected = manifest.select(name)
    asked = {layer.name: layer for layer in selected.layers}
    unpinned = locked.unpinned()
    base = base_words(selected)
    return Target(
        name=name,
        platform=locked.platform,
        base=base,
        layers=tuple(
            _layer(layer, asked.get(layer.name), base, pinned=layer.name not in unpinned) for layer in locked.layers
        ),
        requires=tuple((key, str(value)) for key, value in tables.document(selected.targets[name].requires).items()),
        environment=tuple(selected.env.items()),
        image_digest=bare(locked.seal.image_digest) if locked.seal else "",
        tree_digest=bare(locked.seal.tree_digest) if locked.seal else "",
    )


def _layer(locked: LockedLayer, asked: AskedLayer | None, base: str, *, pinned: bool) -> Layer:
    words = _asks(asked) if asked else base if locked.name == "base" else _MADE.get(locked.name, "")
    return Layer(
        name=locked.name,
        kind=locked.kind,
        parents=locked.parents,
        id=locked.id,
        inputs=len(locked.inputs),
        size=sum(item.size for item in locked.inputs),
        asks=words,
        pinned=pinned,
    )


def _asks(layer: AskedLayer) -> str:
    """What the manifest asks for, in a line."""
    options: dict[str, Any] = tables.document(layer.options) if layer.options is not None else {}
    if layer.kind in ("apt", "pip"):
        named = [str(item) for item in options.get("packages", ())]
        return ", ".join(
            (*named, *(str(options[name]) for name in ("requirements", "pylock", "project") if name in options))
        )
    if "script" in options:
        return str(options["script"]).strip().partition("\n")[0]
    if "repository" in options:
        return f"{without_password(str(options['repository']))} {options.get('rev', '')}".strip()
    files = options.get("files", ())
    return ", ".join(_file(item) for item in files if isinstance(item, dict))


def _file(item: Mapping[str, Any]) -> str:
    origin = without_password(str(item["url"])) if "url" in item else str(item.get("from", ""))
    return f"{origin} to {item.get('to', '')}"


def _packages(lock: Lock, licences: Mapping[str, str]) -> Iterator[Package]:
    """Every package file once, in the order of the layers that install them, by name."""
    having: dict[str, list[str]] = {}
    found: dict[str, tuple[int, Any, str]] = {}
    for name, target in lock.targets.items():
        for number, layer in enumerate(target.layers):
            for item in layer.inputs:
                if item.type in _PACKAGES:
                    found.setdefault(item.sha256, (number, item, layer.name))
                    if name not in having.setdefault(item.sha256, []):
                        having[item.sha256].append(name)
    for _, item, layer_name in sorted(
        found.values(), key=lambda entry: (entry[0], entry[1].facts.get("package", ""), entry[1].name)
    ):
        targets = having[item.sha256]
        yield Package(
            name=item.facts.get("package", item.type if item.type == "uv" else item.name),
            version=item.facts.get("version", ""),
            kind=item.type,
            sha256=item.sha256,
            size=item.size,
            layer=layer_name,
            licence=licences.get(item.sha256, ""),
            targets=() if len(targets) == len(lock.targets) else tuple(targets),
        )


# -- code and data -----------------------------------------------------------------------------------------------------


def _code(manifest: Manifest, lock: Lock) -> Code:
    facts = lock.checkout.facts if lock.checkout else {}
    path = manifest.code.path.removeprefix("./").strip("/")
    return Code(
        place=f"{PROJECT}/" if path in ("", ".") else f"{PROJECT}/{path}/",
        target=manifest.code.target,
        tree=str(facts.get("tree", lock.code)),
        commit=str(facts.get("commit", "")),
        repository=without_password(manifest.code.git) if manifest.code.git else "",
    )


def _data(lock: Lock, path: str, mount: Mount, enclosed: Enclosed) -> Data:
    locked, layer = lock.mounts.get(path), lock.downloads.get(path)
    found = {item.facts.get("source", ""): item for item in layer.inputs} if layer else {}
    downloads = [(without_password(file.url), found.get(request_digest(file.url))) for file in mount.files]
    return Data(
        target=path,
        mode=mount.mode,
        source=mount.source or "",
        tree=locked.tree if locked else "",
        files=locked.files if locked else 0,
        size=locked.size if locked else 0,
        downloads=tuple((url, item.sha256, item.size) for url, item in downloads if item),
        enclosed=path in enclosed.data,
    )
