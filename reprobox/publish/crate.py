"""``ro-crate-metadata.json``: the publication as an RO-Crate 1.1 of the Process Run Crate profile 0.5.

Values in, a JSON-LD document out, whose entities stand in a fixed order. Sources: RO-Crate 1.1
(doi:10.5281/zenodo.4541002), Process Run Crate 0.5 (https://w3id.org/ro/wfrun/process/0.5), and the terms of
https://w3id.org/ro/terms/workflow-run.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from reprobox.crate_files import METADATA, PREVIEW, PROJECT, VAULT
from reprobox.digest import bare, prefixed
from reprobox.lock import FILE_NAME, Lock, LockedTarget, request_digest
from reprobox.manifest import Author, Funding, Manifest, Mount
from reprobox.project import MANIFEST_NAME
from reprobox.publish.description import doi_url, licence_url, licences, orcid_url, published, title
from reprobox.publish.entity import Entity, compact, ref
from reprobox.publish.files import File, media_type_of_name, uri
from reprobox.publish.runs import Places, run_entities
from reprobox.run_record.record import RunRecord
from reprobox.urls import without_password

CONTEXT = ("https://w3id.org/ro/crate/1.1/context", "https://w3id.org/ro/terms/workflow-run/context")
SPECIFICATION = "https://w3id.org/ro/crate/1.1"
PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
_DOCKER_IMAGE = "https://w3id.org/ro/terms/workflow-run#DockerImage"
_TREE_HASH = "https://w3id.org/ro/terms/workflow-run#sha256"
#: What wrote the crate: by this a later publication knows that it may replace one.
GENERATOR = "#reprobox"


@dataclass(frozen=True, kw_only=True, slots=True)
class Requirement:
    """A package of the environment; ``purl`` identifies it, ``licence`` is what it says itself."""

    name: str
    version: str
    purl: str
    licence: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Crate:
    """Everything that the metadata tells. ``requirements`` are by target, ``images`` the files of images by target.

    ``lock_digest`` is sha256 hex of ``research.lock``; ``data`` are places in the project by mount point; ``runs`` are
    the records by name.
    """

    manifest: Manifest
    lock: Lock
    lock_digest: str
    files: tuple[File, ...]
    requirements: Mapping[str, Sequence[Requirement]]
    images: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)
    runs: Mapping[str, RunRecord] = field(default_factory=dict)


def metadata(crate: Crate) -> bytes:
    """The document's bytes."""
    entities: dict[str, Entity] = {}
    for entity in _entities(crate):
        if entity["@id"] in entities and len(entities[entity["@id"]]) >= len(entity):
            continue
        entities[entity["@id"]] = entity
    document = {"@context": list(CONTEXT), "@graph": [compact(entity) for entity in entities.values()]}
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()


def _entities(crate: Crate) -> Iterator[Entity]:
    yield {
        "@id": METADATA,
        "@type": "CreativeWork",
        "about": ref("./"),
        "conformsTo": ref(SPECIFICATION),
        "creator": ref(GENERATOR),
        "license": "https://creativecommons.org/publicdomain/zero/1.0/",
    }
    yield _root(crate)
    yield {"@id": PREVIEW, "@type": "CreativeWork", "name": "This crate as a page", "about": ref("./")}
    yield {"@id": PROFILE, "@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"}
    yield _generator()
    yield from _licences(crate)
    for number, author in enumerate(crate.manifest.project.authors, 1):
        yield from _person(author, number)
    for number, funding in enumerate(crate.manifest.project.funding, 1):
        yield from _funding(funding, number)
    for name, target in sorted(crate.lock.targets.items()):
        yield _application(crate, name, target)
        yield from _images(crate, name, target)
    yield from _mounts(crate)
    yield from (entity for run in _runs(crate) for entity in run)
    yield from _folders(crate)
    yield from _files(crate)
    for requirement in _all(crate.requirements.values()):
        yield _package(requirement)


def _root(crate: Crate) -> Entity:
    project = crate.manifest.project
    about = [ref(application_id(name)) for name in sorted(crate.lock.targets)]
    about += [ref(run[0]["@id"]) for run in _runs(crate)]
    about += [ref(_mount_id(path)) for path in _outside(crate)]
    return {
        "@id": "./",
        "@type": "Dataset",
        "conformsTo": ref(PROFILE),
        "name": title(project),
        "description": project.description,
        "datePublished": published(project, crate.lock),
        "license": [ref(_licence_id(name)) for name in licences(project.license or "")],
        "author": [ref(_person_id(author, number)) for number, author in enumerate(project.authors, 1)],
        "version": project.version,
        "keywords": list(project.keywords),
        "identifier": doi_url(project.doi) if project.doi else prefixed(crate.lock_digest),
        "url": project.url or project.repository,
        "funder": [ref(_funder_id(funding, number)) for number, funding in enumerate(project.funding, 1)],
        "hasPart": [ref(item) for item in (*_folders_of(crate), *_files_of(crate), *_urls(crate))],
        "mentions": about,
    }


def _generator() -> Entity:
    return {
        "@id": GENERATOR,
        "@type": "SoftwareApplication",
        "name": "reprobox",
        "description": "Makes research environments that can be recreated",
    }


# -- people, licences, money -------------------------------------------------------------------------------------------


def _licence_id(identifier: str) -> str:
    return licence_url(identifier) or f"#{uri(identifier)}"


def _licences(crate: Crate) -> Iterator[Entity]:
    for name in licences(crate.manifest.project.license or ""):
        yield {"@id": _licence_id(name), "@type": "CreativeWork", "name": name, "identifier": name}


def _person_id(author: Author, number: int) -> str:
    return orcid_url(author.orcid) if author.orcid else f"#person-{number}"


def _person(author: Author, number: int) -> Iterator[Entity]:
    given, family = author.given_and_family
    organization = author.ror or (f"#organization-{number}" if author.affiliation else "")
    yield {
        "@id": _person_id(author, number),
        "@type": "Person",
        "name": author.full_name,
        "givenName": given,
        "familyName": family,
        "email": author.email,
        "affiliation": ref(organization) if organization else None,
    }
    if organization:
        yield _organization(organization, author.affiliation or organization)


def _organization(identifier: str, name: str) -> Entity:
    url = identifier if identifier.startswith("https://") else None
    return {"@id": identifier, "@type": "Organization", "name": name, "url": url}


def _funder_id(funding: Funding, number: int) -> str:
    return funding.ror or f"#funder-{number}"


def _funding(funding: Funding, number: int) -> Iterator[Entity]:
    funder = _funder_id(funding, number)
    yield _organization(funder, funding.funder)
    if funding.award or funding.title or funding.url:
        yield {
            "@id": funding.url or f"#grant-{number}",
            "@type": "Grant",
            "name": funding.title or funding.award,
            "identifier": funding.award,
            "funder": ref(funder),
            "fundedItem": ref("./"),
        }


# -- the environment ---------------------------------------------------------------------------------------------------


def application_id(target: str) -> str:
    """Names what ran, or can be run, in a target's environment: the instrument of runs."""
    return f"#application-{uri(target)}"


def image_id(crate: Crate, target: str) -> str:
    """Names a target's image: its file, where the crate has that; nothing where neither file nor digest is known."""
    if target in crate.images:
        return uri(crate.images[target])
    return f"#image-{uri(target)}" if crate.lock.targets[target].seal else ""


def _application(crate: Crate, name: str, target: LockedTarget) -> Entity:
    project = crate.manifest.project
    selected = crate.manifest.select(name)
    command = json.dumps(list(selected.run.command)) if selected.run.command else ""
    runs = f", which runs {command}" if command else ""
    return {
        "@id": application_id(name),
        "@type": "SoftwareApplication",
        "name": project.name if len(crate.lock.targets) == 1 else f"{project.name} ({name})",
        "description": f"The code in the environment of research.lock{runs}",
        "softwareVersion": project.version or crate.lock.code or crate.lock_digest,
        "url": project.url or project.repository or (doi_url(project.doi) if project.doi else None),
        "operatingSystem": target.platform,
        "identifier": target.seal.tree_digest if target.seal else None,
        "softwareRequirements": [ref(item.purl) for item in _all([crate.requirements.get(name, ())])],
        "hasPart": None,
    }


def _images(crate: Crate, name: str, target: LockedTarget) -> Iterator[Entity]:
    project = crate.manifest.project
    if target.seal is not None and name not in crate.images:
        yield {
            "@id": image_id(crate, name),
            "@type": "ContainerImage",
            "additionalType": ref(_DOCKER_IMAGE),
            "name": project.name,
            "tag": project.version or "latest",
            "sha256": bare(target.seal.image_digest),
        }
    reference = str(target.base.facts.get("reference", "")) if target.base.kind == "image" else ""
    if reference:
        yield _base_image(name, target, reference)


def _base_image(name: str, target: LockedTarget, reference: str) -> Entity:
    """The image that the environment was made from; its sha256 is that of its manifest."""
    registry, _, rest = reference.partition("@")[0].partition("/")
    repository, _, tag = rest.partition(":")
    manifest = next((item.sha256 for item in target.base.inputs if item.name == "manifest.json"), None)
    return {
        "@id": f"#base-{uri(name)}",
        "@type": "ContainerImage",
        "additionalType": ref(_DOCKER_IMAGE),
        "registry": registry,
        "name": repository,
        "tag": tag or None,
        "sha256": manifest,
    }


def _package(requirement: Requirement) -> Entity:
    return {
        "@id": requirement.purl,
        "@type": "SoftwareApplication",
        "name": requirement.name,
        "softwareVersion": requirement.version,
        "license": requirement.licence or None,
    }


def _all(found: Iterable[Sequence[Requirement]]) -> list[Requirement]:
    """Each package once, by its purl."""
    named = {item.purl: item for items in found for item in items}
    return [named[purl] for purl in sorted(named)]


def _runs(crate: Crate) -> tuple[tuple[Entity, ...], ...]:
    targets = crate.lock.targets
    places = Places(
        applications={name: application_id(name) for name in targets},
        images={name: image_id(crate, name) for name in targets if image_id(crate, name)},
        data=crate.data,
    )
    return run_entities(crate.runs, places)


# -- data --------------------------------------------------------------------------------------------------------------


def _outside(crate: Crate) -> list[str]:
    """Mount points whose data somebody needs, and that are not in the crate."""
    return [path for path, mount in crate.manifest.mounts.items() if mount.mode == "ro" and path not in crate.data]


def _mount_id(path: str) -> str:
    return f"#data{uri(path)}"


def _urls(crate: Crate) -> list[str]:
    """Where data that is not in the crate can be downloaded."""
    found = [url for path in _outside(crate) for url in _web(crate.manifest.mounts[path])]
    return list(dict.fromkeys(found))


def _web(mount: Mount) -> list[str]:
    return [without_password(file.url) for file in mount.files if file.url.startswith(("https://", "http://"))]


def _mounts(crate: Crate) -> Iterator[Entity]:
    for path in _outside(crate):
        mount, locked = crate.manifest.mounts[path], crate.lock.mounts.get(path)
        downloads = _web(mount)
        yield {
            "@id": _mount_id(path),
            "@type": "Dataset",
            "name": f"Data at {path}",
            "description": "Read by the code; not in this crate",
            "identifier": ref(f"{_mount_id(path)}-hash") if locked else None,
            "contentSize": str(locked.size) if locked else None,
            "hasPart": [ref(url) for url in downloads],
        }
        yield from _downloads(crate, path, downloads)
        if locked:
            yield {
                "@id": f"{_mount_id(path)}-hash",
                "@type": "PropertyValue",
                "name": "tree hash of the files",
                "propertyID": _TREE_HASH,
                "value": prefixed(locked.tree),
            }


def _downloads(crate: Crate, path: str, urls: Sequence[str]) -> Iterator[Entity]:
    """Files of a mount that can be downloaded, as web-based data entities, with what the lock knows of them."""
    layer = crate.lock.downloads.get(path)
    pins = {item.facts.get("source"): item for item in layer.inputs} if layer else {}
    asked = {without_password(file.url): request_digest(file.url) for file in crate.manifest.mounts[path].files}
    for url in urls:
        item = pins.get(asked[url])
        yield {
            "@id": url,
            "@type": "File",
            "name": posixpath.basename(url) or url,
            "contentSize": str(item.size) if item else None,
            "sha256": item.sha256 if item else None,
            "encodingFormat": media_type_of_name(urlsplit(url).path),
            "sdDatePublished": published(crate.manifest.project, crate.lock),
        }


# -- files -------------------------------------------------------------------------------------------------------------


def _files_of(crate: Crate) -> list[str]:
    return [file.id for file in crate.files if file.sha256 and file.path != METADATA]


def _folders_of(crate: Crate) -> list[str]:
    """Ids of all folders that hold files, outer ones first."""
    names: dict[str, None] = {}
    for file in crate.files:
        parts = file.path.split("/")[:-1]
        if file.sha256:
            names |= {uri("/".join(parts[:depth])) + "/": None for depth in range(1, len(parts) + 1)}
    return sorted(names)


def _inside(crate: Crate) -> dict[str, list[str]]:
    """By the id of each folder, the ids of what lies directly in it."""
    found: dict[str, list[str]] = {}
    for name in (*_folders_of(crate), *_files_of(crate)):
        parent = name.rstrip("/").rpartition("/")[0]
        found.setdefault(f"{parent}/", []).append(name)
    return found


def _folder_id(place: str) -> str:
    return uri(posixpath.normpath(f"{PROJECT}/{place}")) + "/"


def _folders(crate: Crate) -> Iterator[Entity]:
    """Every folder, as a dataset of its own; the code is software too."""
    project = crate.manifest.project
    code = _folder_id(crate.manifest.code.path) if crate.lock.checkout is None else ""
    about = {_folder_id(place): path for path, place in crate.data.items()}
    inside = _inside(crate)
    for name in _folders_of(crate):
        parts = [ref(part) for part in inside[name]]
        entity: Entity = {"@id": name, "@type": "Dataset", "name": unquote(name), "hasPart": parts}
        if name == code:
            entity |= {
                "@type": ["Dataset", "SoftwareSourceCode"],
                "name": f"{project.name}: the code",
                "version": project.version or crate.lock.code,
                "codeRepository": project.repository,
                "url": project.repository or project.url,
                "identifier": f"swh:1:dir:{crate.lock.code}" if len(crate.lock.code) == 40 else None,
                "license": [ref(_licence_id(item)) for item in licences(project.license or "")],
            }
        elif name in about:
            path = about[name]
            locked = crate.lock.mounts.get(path)
            entity |= {"name": f"Data at {path}", "identifier": prefixed(locked.tree) if locked else None}
        yield entity


_TOLD = {
    "README.md": "How to recreate the environment, for readers",
    "CITATION.cff": "How to cite",
    "codemeta.json": "The software in CodeMeta's words",
    "badge.svg": "A badge with the lock's digest",
    VAULT: "Everything that the environment is made of: realizes it with no network",
    f"{PROJECT}/{MANIFEST_NAME}": "The manifest: what the environment must hold",
    f"{PROJECT}/{FILE_NAME}": "The lock: every byte of the environment, by hash",
}


def _files(crate: Crate) -> Iterator[Entity]:
    images = {path: name for name, path in crate.images.items()}
    for file in crate.files:
        if file.path == METADATA or not file.sha256:
            continue
        entity: Entity = {
            "@id": file.id,
            "@type": "File",
            "name": posixpath.basename(file.path),
            "description": _TOLD.get(file.path) or _told(file.path),
            "contentSize": str(file.size),
            "sha256": file.sha256,
            "encodingFormat": file.media_type,
        }
        if file.path in images:
            entity |= _image_file(crate, images[file.path])
        yield entity


def _image_file(crate: Crate, target: str) -> Entity:
    """An image that is a file: the sha256 is the file's, as for every file; the image's digest is its identifier."""
    seal, project = crate.lock.targets[target].seal, crate.manifest.project
    return {
        "@type": ["File", "ContainerImage"],
        "additionalType": ref(_DOCKER_IMAGE),
        "name": project.name,
        "tag": project.version or "latest",
        "description": f"The image of target {target}, for docker load and apptainer build",
        "identifier": seal.image_digest if seal else None,
    }


def _told(path: str) -> str | None:
    if path.startswith("sbom/"):
        return "Bill of materials"
    if path.startswith("attestations/"):
        return "Somebody's signed statement about this lock"
    return "Record of a run" if path.startswith("runs/") else None
