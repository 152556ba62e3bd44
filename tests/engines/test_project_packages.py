"""The example with packages beside the image: change one, and the image stays."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.engines.project import ROOT, Project, digests

pytestmark = [pytest.mark.userns, pytest.mark.network, pytest.mark.slow]


def test_one_package_changed_and_the_image_digest_stays(tmp_path, shared_store):
    source = ROOT / "examples/project-packages"
    path = Path(
        shutil.copytree(source, tmp_path / "project", ignore=shutil.ignore_patterns("research.lock", ".reprobox"))
    )
    project = Project(path=path, store=shared_store)
    project("lock")
    before = project.realize()
    assert "tabulate   0.9.0" in project("run")
    listed = path / "requirements.txt"
    listed.write_text(listed.read_text().replace("tabulate==0.9.0", "tabulate==0.8.10"))
    stale = project.call("run")
    assert (stale.returncode, "layers.python (requirements.txt changed)" in stale.stderr) == (3, True)
    project("lock")
    after = project.realize()
    assert digests(after) == digests(before)
    assert [layer["name"] for layer in after["layers"] if not layer["cached"]] == ["python"]
    printed = project("run")
    assert "tabulate   0.8.10" in printed
    assert "/work/.reprobox/venv-default" in printed
    shutil.rmtree(path / ".reprobox")
    assert project("run") == printed, "from the store, without the network"
