"""A bill as SPDX 2.3 in JSON. https://spdx.github.io/spdx-spec/v2.3/"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from reprobox import __version__
from reprobox.bom.component import Bill, Component, ref_of, uuid_of
from reprobox.bom.expression import Declared, declared, missing

if TYPE_CHECKING:
    from spdx_tools.spdx import model

_ROOT = "SPDXRef-Environment"
#: Those who maintain together, in the names of Debian's teams.
_TEAM = re.compile(r"team|group|maintainers|developers|project|debian|packagers|force|authors|ubuntu", re.IGNORECASE)
_PERSON = re.compile(r"\s*([^<]*?)\s*(?:<([^<>]*)>)?\s*")


def spdx(bill: Bill) -> bytes:
    """The document; the same bill gives the same bytes. Raises :class:`ReproboxError` without spdx-tools."""
    try:
        from spdx_tools.spdx import model
        from spdx_tools.spdx.jsonschema.document_converter import DocumentConverter
    except ImportError:
        raise missing("spdx-tools") from None

    licences = {item.ref: declared(item) for item in bill.components}
    name = f"{bill.project}-{bill.target}"
    document = model.Document(
        creation_info=model.CreationInfo(
            spdx_version="SPDX-2.3",
            spdx_id="SPDXRef-DOCUMENT",
            name=name,
            document_namespace=f"https://spdx.org/spdxdocs/{ref_of(name)}-{uuid_of('spdx', bill)}",
            creators=[model.Actor(model.ActorType.TOOL, f"reprobox-{__version__}")],
            created=datetime.fromtimestamp(bill.epoch, UTC).replace(tzinfo=None),
            document_comment="\n".join((f"Made of research.lock, sha256:{bill.lock}.", *bill.notes)),
        ),
        packages=[_environment(bill), *(_package(item, licences[item.ref]) for item in bill.components)],
        relationships=list(_relationships(bill)),
        extracted_licensing_info=list(_references(licences)),
    )
    said: dict[str, Any] = DocumentConverter().convert(document)  # type: ignore[no-untyped-call]
    for package in said["packages"]:  # the library writes these with underscores, the schema of SPDX 2.3 has hyphens
        for reference in package.get("externalRefs", ()):
            reference["referenceCategory"] = reference["referenceCategory"].replace("_", "-")
    return json.dumps(said, indent=2, ensure_ascii=False).encode() + b"\n"


def _environment(bill: Bill) -> model.Package:
    """What the document describes: the environment, whose image the seal knows."""
    from spdx_tools.spdx import model

    layers = "".join(f"\n{layer.name} ({layer.kind}): {layer.id}" for layer in bill.layers)
    seal = [model.Checksum(model.ChecksumAlgorithm.SHA256, bill.digest.removeprefix("sha256:"))] if bill.digest else []
    persistent = model.ExternalPackageRefCategory.PERSISTENT_ID
    code = (
        [model.ExternalPackageRef(persistent, "swh", bill.code, comment="the code that runs in it")]
        if bill.code
        else []
    )
    return model.Package(
        spdx_id=_ROOT,
        name=f"{bill.project}-{bill.target}",
        version=bill.version or None,
        download_location=model.SpdxNoAssertion(),
        files_analyzed=False,
        checksums=seal,
        license_concluded=model.SpdxNoAssertion(),
        license_declared=model.SpdxNoAssertion(),
        license_comment=f"The project's own licence is {bill.licence}." if bill.licence else None,
        copyright_text=model.SpdxNoAssertion(),
        summary=bill.description or None,
        comment=f"For {bill.platform}. The checksum, if any, is of the image's manifest. Layers and their ids:{layers}",
        external_references=code,
        primary_package_purpose=model.PackagePurpose.CONTAINER,
    )


def _package(item: Component, licence: Declared) -> model.Package:
    from license_expression import get_spdx_licensing
    from spdx_tools.spdx import model

    purposes = {
        "image": model.PackagePurpose.CONTAINER,
        "blob": model.PackagePurpose.ARCHIVE,
        "git": model.PackagePurpose.SOURCE,
    }
    purposes |= {
        "file": model.PackagePurpose.FILE,
        "deb": model.PackagePurpose.INSTALL,
        "pypi": model.PackagePurpose.LIBRARY,
    }
    said = item.metadata
    return model.Package(
        spdx_id=_id(item.ref),
        name=item.name,
        version=item.version or None,
        file_name=item.file or None,
        supplier=_supplier(said.supplier) if said.supplier else model.SpdxNoAssertion(),
        download_location=_url_of(item) or model.SpdxNoAssertion(),
        files_analyzed=False,
        checksums=[model.Checksum(model.ChecksumAlgorithm.SHA256, item.sha256)] if item.sha256 else [],
        homepage=said.homepage if re.match(r"https?://[^\s]+$", said.homepage) else None,
        source_info=f"built from {said.source}" if said.source else None,
        license_concluded=model.SpdxNoAssertion(),
        license_declared=get_spdx_licensing().parse(licence.expression)
        if licence.expression
        else model.SpdxNoAssertion(),
        license_comment=licence.comment or None,
        copyright_text=model.SpdxNoAssertion(),
        summary=said.summary or None,
        comment=" ".join(_remarks(item)) or None,
        external_references=list(_external(item)),
        primary_package_purpose=purposes[item.kind],
    )


def _remarks(item: Component) -> Iterator[str]:
    yield f"In layer {', '.join(item.layers)}."
    if not item.sha256:
        yield "It came with the base, and has no hash of its own." if item.kind != "image" else "It is the base."
    if item.build_only:
        yield "A tool of building, which leaves nothing of itself in the environment."
    if item.replaced_by:
        yield f"Replaced by {_id(item.replaced_by)} in a layer above."
    if item.removed_in:
        yield f"Taken away by layer {item.removed_in}."
    if item.private:
        yield "Of a private layer: not opened."


def _external(item: Component) -> Iterator[model.ExternalPackageRef]:
    from spdx_tools.spdx import model

    if item.purl:
        yield model.ExternalPackageRef(model.ExternalPackageRefCategory.PACKAGE_MANAGER, "purl", item.purl)
    for swhid in item.swhids:
        yield model.ExternalPackageRef(model.ExternalPackageRefCategory.PERSISTENT_ID, "swh", swhid)


def _supplier(text: str) -> model.Actor:
    from spdx_tools.spdx import model

    found = _PERSON.fullmatch(text)
    name, email = (found[1], found[2]) if found else (text, None)
    kind = model.ActorType.ORGANIZATION if _TEAM.search(name) else model.ActorType.PERSON
    return model.Actor(kind, name.replace("(", "[").replace(")", "]").strip('"') or email or text, email or None)


def _url_of(item: Component) -> str:
    """Where a download was, by its purl."""
    from urllib.parse import parse_qs

    said = parse_qs(item.purl.partition("?")[2])
    return next(iter(said.get("download_url", said.get("vcs_url", []))), "")


def _relationships(bill: Bill) -> Iterator[model.Relationship]:
    from spdx_tools.spdx import model

    yield model.Relationship("SPDXRef-DOCUMENT", model.RelationshipType.DESCRIBES, _ROOT)
    for item in bill.components:
        if item.build_only:
            yield model.Relationship(_id(item.ref), model.RelationshipType.BUILD_TOOL_OF, _ROOT)
        else:
            yield model.Relationship(
                _id(item.part_of) if item.part_of else _ROOT, model.RelationshipType.CONTAINS, _id(item.ref)
            )
        for other in item.depends:
            yield model.Relationship(_id(item.ref), model.RelationshipType.DEPENDS_ON, _id(other))


def _references(licences: Mapping[str, Declared]) -> Iterator[model.ExtractedLicensingInfo]:
    from spdx_tools.spdx import model

    found = {name: text for licence in licences.values() for name, text in licence.references}
    for name, text in sorted(found.items()):
        yield model.ExtractedLicensingInfo(license_id=name, extracted_text=text)


def _id(ref: str) -> str:
    return f"SPDXRef-{ref}"
