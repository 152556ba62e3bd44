"""Projects out of what is attached: to a PDF, or to an image in a registry."""

from __future__ import annotations

from pathlib import Path

from reprobox.attach import pdf, referrer
from reprobox.attach.files import Attached
from reprobox.oci.referrers import subject_of
from reprobox.sources.obtained import Means, Obtained
from reprobox.sources.packed import Files, from_files
from reprobox.sources.source import Source
from reprobox.sources.vaults import from_vault
from reprobox.vault.documents import ARTIFACT_TYPE


def from_pdf(source: Source, _: Means, folder: Path) -> Obtained:
    """The project that is attached to a PDF. Raises :class:`ReproboxError` for none, :class:`IntegrityError`."""
    return put(pdf.read(source.path, _attached(folder)), "a PDF", {"file": str(source.path)}, folder)


def from_registry(source: Source, means: Means, folder: Path) -> Obtained:
    """What a registry has under a name: a vault, or an image that something is attached to."""
    reference = referrer.reference_of(source.place)
    _, document = subject_of(means.registries.repository(reference), reference)
    if document.get("artifactType") == ARTIFACT_TYPE:
        return from_vault(source, means, folder)
    found = referrer.read(means.registries, reference, _attached(folder))
    return put(found, "an image in a registry", {"image": str(reference)}, folder)


def _attached(folder: Path) -> Path:
    place = folder / "attached"
    place.mkdir()
    return place


def put(attached: Attached, what: str, facts: dict[str, str], folder: Path) -> Obtained:
    """Put the attached files together as a project."""
    project = folder / "project"
    project.mkdir()
    files = Files(manifest=attached.manifest, lock=attached.lock, project=attached.project)
    left_out = from_files(files, project, attached.where)
    return Obtained(folder=project, what=what, facts=facts, left_out=left_out)
