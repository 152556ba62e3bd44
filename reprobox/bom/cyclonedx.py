"""A bill as CycloneDX 1.6 in JSON. https://cyclonedx.org/docs/1.6/json/"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from reprobox import __version__
from reprobox.bom.component import Bill, Component, uuid_of
from reprobox.bom.expression import declared, missing

if TYPE_CHECKING:
    from cyclonedx.model import Property
    from cyclonedx.model import component as model
    from cyclonedx.model.license import DisjunctiveLicense, LicenseExpression

_ROOT = "environment"


def cyclonedx(bill: Bill) -> bytes:
    """The document; the same bill gives the same bytes. Raises :class:`ReproboxError` without the library."""
    try:
        from cyclonedx.model.bom import Bom, BomMetaData
        from cyclonedx.model.component import Component as Made
        from cyclonedx.model.component import ComponentType
        from cyclonedx.model.contact import OrganizationalContact
        from cyclonedx.model.tool import ToolRepository
        from cyclonedx.output.json import JsonV1Dot6
    except ImportError:
        raise missing("cyclonedx-python-lib") from None

    made = {item.ref: _component(item) for item in bill.components}
    environment = _environment(bill)
    tool = Made(name="reprobox", version=__version__, type=ComponentType.APPLICATION, bom_ref="reprobox")
    bom = Bom(
        components=made.values(),
        serial_number=uuid_of("cyclonedx", bill),
        metadata=BomMetaData(
            timestamp=datetime.fromtimestamp(bill.epoch, UTC),
            component=environment,
            authors=[OrganizationalContact(name=name) for name in bill.authors],
            tools=ToolRepository(components=[tool]),
            properties=_properties(("lock", f"sha256:{bill.lock}"), *(("note", note) for note in bill.notes)),
        ),
    )
    parts: dict[str, list[str]] = {item.ref: [*item.depends] for item in bill.components}
    for item in bill.components:
        if item.part_of:
            parts[item.part_of].append(item.ref)
    bom.register_dependency(environment, [made[item.ref] for item in bill.components if not item.part_of])
    for ref, others in parts.items():
        bom.register_dependency(made[ref], [made[other] for other in others])
    return JsonV1Dot6(bom).output_as_string(indent=2).encode() + b"\n"


def _environment(bill: Bill) -> model.Component:
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component as Made
    from cyclonedx.model.component import ComponentType, Swhid

    digest = bill.digest.removeprefix("sha256:")
    layers = [("layer", f"{layer.name} ({layer.kind}) sha256:{layer.id}") for layer in bill.layers]
    return Made(
        name=f"{bill.project}-{bill.target}",
        version=bill.version or None,
        type=ComponentType.CONTAINER,
        bom_ref=_ROOT,
        description=bill.description or None,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)] if digest else [],
        swhids=[Swhid(bill.code)] if bill.code else [],
        properties=_properties(("platform", bill.platform), *layers),
    )


def _component(item: Component) -> model.Component:
    from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, XsUri
    from cyclonedx.model.component import Component as Made
    from cyclonedx.model.component import ComponentScope, ComponentType, Swhid
    from cyclonedx.model.contact import OrganizationalEntity
    from packageurl import PackageURL

    types = {"image": ComponentType.CONTAINER, "blob": ComponentType.FILE, "file": ComponentType.FILE}
    said = item.metadata
    gone = item.build_only or item.replaced_by or item.removed_in
    home = said.homepage if re.match(r"https?://[^\s]+$", said.homepage) else ""
    supplier = said.supplier.partition("<")[0].strip(' "')
    return Made(
        name=item.name,
        version=item.version or None,
        type=types.get(item.kind, ComponentType.LIBRARY),
        bom_ref=item.ref,
        scope=ComponentScope.EXCLUDED if gone else ComponentScope.REQUIRED,
        supplier=OrganizationalEntity(name=supplier) if supplier else None,
        description=said.summary or None,
        purl=PackageURL.from_string(item.purl) if item.purl else None,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=item.sha256)] if item.sha256 else [],
        licenses=list(_licences(item)),
        swhids=[Swhid(name) for name in item.swhids],
        external_references=[ExternalReference(type=ExternalReferenceType.WEBSITE, url=XsUri(home))] if home else [],
        properties=_properties(*_facts(item)),
    )


def _licences(item: Component) -> Iterator[LicenseExpression | DisjunctiveLicense]:
    from cyclonedx.model.license import DisjunctiveLicense, LicenseAcknowledgement, LicenseExpression

    said = declared(item)
    if re.fullmatch(r"LicenseRef-[A-Za-z0-9.-]+", said.expression):  # no expression, but a name of the package's own
        yield DisjunctiveLicense(name=item.licence.name, acknowledgement=LicenseAcknowledgement.DECLARED)
    elif said.expression:
        yield LicenseExpression(said.expression, acknowledgement=LicenseAcknowledgement.DECLARED)


def _facts(item: Component) -> Iterator[tuple[str, str]]:
    yield "kind", item.kind
    yield from (("layer", name) for name in item.layers)
    if item.file:
        yield "file", item.file
    if item.size:
        yield "size", str(item.size)
    if item.metadata.source:
        yield "source-package", item.metadata.source
    if item.licence.told_in:
        yield "licence-told-in", item.licence.told_in
    yield from (("licence-text", f"/usr/share/common-licenses/{name}") for name in item.licence.refers)
    if not item.sha256 and item.part_of:
        yield "hash", "none of its own: it came with the base"
    if item.build_only:
        yield "use", "building only"
    if item.replaced_by:
        yield "replaced-by", item.replaced_by
    if item.removed_in:
        yield "removed-in", item.removed_in
    if item.private:
        yield "private", "not opened"


def _properties(*pairs: tuple[str, str]) -> list[Property]:
    from cyclonedx.model import Property

    return [Property(name=f"reprobox:{name}", value=value) for name, value in pairs]
