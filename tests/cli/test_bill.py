"""``export --format spdx`` and ``cyclonedx``: from a project to a document."""

from __future__ import annotations

import json
import sys

import pytest

pytestmark = pytest.mark.userns


@pytest.mark.parametrize(("form", "written"), [("sbom", "spdx"), ("spdx", "spdx"), ("cyclonedx", "cyclonedx")])
def test_a_bill_of_a_project(project, form, written):
    told = project("export", "--format", form, "-o", str(project.root / "bill.json"), "--json")
    assert told.status == 0
    said = json.loads(told.out)
    assert (said["format"], said["components"]) == (written, 1)
    assert (
        said["notes"][0]
        == "The base (rootfs) has no package database that can be read: the packages in it are not listed."
    )
    document = json.loads((project.root / "bill.json").read_text())
    assert document.get("spdxVersion", document.get("specVersion")) in ("SPDX-2.3", "1.6")


def test_without_the_libraries_the_error_says_what_to_install(project, monkeypatch):
    monkeypatch.setitem(sys.modules, "spdx_tools.spdx", None)
    told = project("export", "--format", "spdx", "-o", str(project.root / "bill.json"))
    said = "error: bills of materials are written with spdx-tools, which is not installed\n"
    assert (told.status, told.err) == (1, said + "  hint: pip install 'reprobox[publish]'\n")
    assert not (project.root / "bill.json").exists()
