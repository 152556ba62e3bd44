"""The documents of publications, by their values alone."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from reprobox.lock import Input, Lock, LockedLayer, LockedTarget, Seal, with_ids
from reprobox.manifest import Manifest
from reprobox.manifest_reader import parse
from reprobox.plugins import Plugins
from reprobox.publish.citation import citation
from reprobox.publish.codemeta import codemeta
from reprobox.publish.crate import Crate, Requirement, metadata
from reprobox.publish.description import licences
from reprobox.publish.files import File, media_type_of, media_type_of_name, uri

SHA = "ab" * 32
KINDS = Plugins(discover=False).kinds
HEAD = """\
[project]
name = "x"
description = "y"
license = "MIT"
authors = [{ name = "A B" }]
"""


def manifest(text: str = HEAD) -> Manifest:
    return parse(f'{text}[base]\nbootstrap = "debian:bookworm"\n', kinds=KINDS)


def lock(base: LockedLayer | None = None) -> Lock:
    base = base or LockedLayer(name="base", kind="bootstrap", recipe=1, request="")
    seal = Seal(image_digest=f"sha256:{SHA}", tree_digest=f"sha256:{'cd' * 32}", layers={})
    target = LockedTarget(name="default", platform="linux/amd64", layers=with_ids((base,), 86400), seal=seal)
    return Lock(epoch=86400, manifest=SHA, keys={}, targets={"default": target})


def cited(text: str = HEAD) -> dict[str, Any]:
    return dict(YAML(typ="safe").load(citation(manifest(text), SHA)))


def entities(text: str = HEAD, *, locked: Lock | None = None, **more: Any) -> dict[str, Any]:
    values = {"files": (), "requirements": {}, **more}
    crate = Crate(manifest=manifest(text), lock=locked or lock(), lock_digest=SHA, **values)
    return {item["@id"]: item for item in json.loads(metadata(crate))["@graph"]}


# -- licences ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "named", "in_citation"),
    [
        ("MIT", ["MIT"], "MIT"),
        ("mit or (apache-2.0)", ["MIT", "Apache-2.0"], ["MIT", "Apache-2.0"]),
        ("MIT AND BSD-3-Clause", ["MIT", "BSD-3-Clause"], None),
        ("GPL-2.0-only WITH Classpath-exception-2.0", ["GPL-2.0-only"], None),
        ("LicenseRef-Ours", ["LicenseRef-Ours"], None),
        ("whatever you like", [], None),
    ],
)
def test_licences_of_an_expression(expression, named, in_citation):
    assert licences(expression) == named
    assert cited(HEAD.replace("MIT", expression)).get("license") == in_citation


def test_a_licence_of_ones_own_has_no_address():
    found = entities(HEAD.replace("MIT", "LicenseRef-Ours"))
    assert found["./"]["license"] == {"@id": "#LicenseRef-Ours"}
    assert found["#LicenseRef-Ours"]["name"] == "LicenseRef-Ours"


# -- any text ----------------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(str.strip)


@given(title=TEXT)
def test_every_text_comes_back_from_yaml_and_json(title: str):
    text = HEAD + 'title = "' + "".join(f"\\U{ord(char):08X}" for char in title) + '"\n'
    assert cited(text)["title"] == title
    assert json.loads(codemeta(manifest(text), lock(), SHA, []))["name"] == title
    assert entities(text)["./"]["name"] == title


def test_paths_are_references_and_come_back():
    assert uri("project/a b/ü#1?.csv:x%20") == "project/a%20b/%C3%BC%231%3F.csv%3Ax%2520"


def test_media_types_are_ours_not_those_of_the_machine(tmp_path):
    assert media_type_of_name("image/default.oci.tar") == "application/x-tar"
    assert media_type_of_name("x.unknown") == "application/octet-stream"
    for name, data, kind in [
        ("Makefile", b"all:\n", "text/plain"),
        ("cut", "aü".encode() * 40000, "text/plain"),
        ("data", b"a\0b", "application/octet-stream"),
        ("latin", "ü".encode("latin-1") * 100, "application/octet-stream"),
        ("train.py", b"\0", "text/x-python"),
    ]:
        (tmp_path / name).write_bytes(data)
        assert media_type_of(tmp_path / name) == kind


# -- images and packages -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "registry", "name", "tag"),
    [
        ("registry.example/library/python:3.11-slim", "registry.example", "library/python", "3.11-slim"),
        (f"127.0.0.1:5000/lab/base@sha256:{SHA}", "127.0.0.1:5000", "lab/base", None),
    ],
)
def test_a_base_that_is_an_image_says_where_it_was(reference, registry, name, tag):
    blob = Input(type="blob", name="manifest.json", sha256=SHA, size=1)
    base = LockedLayer(name="base", kind="image", recipe=1, request="", inputs=(blob,), facts={"reference": reference})
    found = entities(locked=lock(base))["#base-default"]
    assert (found["registry"], found["name"], found.get("tag"), found["sha256"]) == (registry, name, tag, SHA)
    assert found["@type"] == "ContainerImage"


def test_an_image_that_is_not_enclosed_has_the_digest_of_the_seal_and_one_that_is_that_of_its_file():
    assert entities()["#image-default"]["sha256"] == SHA
    file = File(path="image/default.oci.tar", sha256="ef" * 32, size=3, media_type="application/x-tar")
    found = entities(files=(file,), images={"default": file.path})
    assert "#image-default" not in found
    assert found[file.path]["sha256"] == file.sha256
    assert found[file.path]["identifier"] == f"sha256:{SHA}"


def test_packages_are_what_the_application_requires():
    item = Requirement(name="jq", version="1.6", purl="pkg:deb/debian/jq@1.6?arch=amd64", licence="MIT")
    found = entities(requirements={"default": [item]})
    assert found["#application-default"]["softwareRequirements"] == {"@id": item.purl}
    said = {"@id": item.purl, "@type": "SoftwareApplication", "name": "jq", "softwareVersion": "1.6", "license": "MIT"}
    assert found[item.purl] == said


def test_the_day_is_the_manifests_else_the_epochs_and_never_today():
    assert entities()["./"]["datePublished"] == "1970-01-02"
    assert "date-released" not in cited()
    dated = HEAD + 'date = "2026-11-22"\n'
    assert entities(dated)["./"]["datePublished"] == str(cited(dated)["date-released"]) == "2026-11-22"


def test_nobodys_password_is_told():
    text = HEAD + '[code]\ngit = "https://me:token@example.org/x.git"\n'
    assert cited(text)["repository-code"] == "https://example.org/x.git"
    assert b"token" not in codemeta(manifest(text), lock(), SHA, [])
