"""Publications in other people's hands: a validator, readers with nothing but Docker, readers with nothing but Apptainer."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reprobox.cli import main
from reprobox.testing import small_root
from tests.docs.blocks import blocks
from tests.engines.ordinary import ROOT

pytestmark = pytest.mark.userns

MANIFEST = """\
[project]
name = "published"
version = "1.0"
description = "Reads numbers, and writes what it read"
license = "MIT"
date = "2026-11-22"
keywords = ["nothing"]
repository = "https://example.org/published"
authors = [{ name = "Josiah Carberry", orcid = "0000-0002-1825-0097", affiliation = "Brown University" }]

[base]
rootfs = "base"

[code]
path = "src"

[[layers]]
name = "greeting"
kind = "run"
script = "echo hello > /greeting"

[env]
COLOUR = "blue"

[mounts]
"/data" = { source = "my data", digest = true }
"/out" = { mode = "rw", source = "out" }

[run]
command = ["sh", "/work/main.sh"]
"""


@pytest.fixture(scope="module")
def crate(session_folder: Path) -> Iterator[Path]:
    """A publication with data, image and a recorded run. Readers put it into folders whose names have spaces; the validator does not."""
    place = session_folder / "published"
    project, crate = place / "project", place / "crate"
    small_root(project / "base", ("sh", "cat", "ls", "mkdir", "env"))
    for name, text in {
        "src/main.sh": 'cat /greeting /data/numbers > /out/result && echo "$COLOUR" >> /out/result\n',
        "my data/numbers": "1 2 3\n",
        "research.toml": MANIFEST,
    }.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPROBOX_STORE", str(place / "store"))
        assert main(["lock", "--seal", "-C", str(project), "-q"]) == 0
        run = [sys.executable, "-m", "reprobox.cli", "run", "--record", "-C", project, "-q"]
        subprocess.run(run, stdout=subprocess.DEVNULL, check=True)
        assert main(["publish", "-C", str(project), "-o", str(crate), "--with-data", "--with-image", "-q"]) == 0
    yield crate
    shutil.rmtree(place)


# -- readers -----------------------------------------------------------------------------------------------------------


def commands(crate: Path, title: str) -> str:
    """All that a reader types who follows one way of the README."""
    page = crate / "README.md"
    text = page.read_text()
    start = text.index(f"### {title}\n")
    end = re.compile(r"^##", re.MULTILINE).search(text, start + 5)
    first, last = (text[:at].count("\n") for at in (start, end.start() if end else len(text)))
    typed = [block.text for block in blocks(page) if block.language == "sh" and first <= block.line <= last]
    assert typed
    return "set -eux\n" + "\n".join(typed)


@pytest.mark.docker
def test_with_docker_only(crate: Path, tmp_path: Path, docker: Any):
    reader = shutil.copytree(crate, tmp_path / "the crate")
    script = commands(reader, "With Docker only")
    assert "reprobox" not in script
    try:
        done = subprocess.run(["sh", "-c", script], cwd=reader, capture_output=True, text=True, check=False)
    finally:
        docker("image", "rm", "--force", "published:1.0")
    assert done.returncode == 0, done.stderr
    assert (reader / "project/out/result").read_text() == "hello\n1 2 3\nblue\n"


@pytest.mark.apptainer
@pytest.mark.ordinary
def test_with_apptainer_only(crate: Path, user: Any):
    reader = user.copy(crate, "the crate")
    script = commands(reader, "With Apptainer only")
    assert "reprobox" not in script
    done = user.run(["sh", "-c", script], cwd=reader)
    assert done.returncode == 0, done.stderr
    assert (reader / "project/out/result").read_text() == "hello\n1 2 3\nblue\n"


# -- a validator -------------------------------------------------------------------------------------------------------

CONTEXTS = Path(__file__).with_name("rocrate_contexts.py")


@pytest.fixture(scope="module")
def findings(session_folder: Path) -> Callable[[Path, str], Counter[str]]:
    """rocrate-validator, in an environment of its own, and without a network: call it with a crate and a severity."""
    place = session_folder / "rocrate-validator"
    uv = [sys.executable, "-m", "uv", "--quiet"]
    subprocess.run([*uv, "venv", "--python", sys.executable, place], check=True)
    subprocess.run([*uv, "pip", "install", "--python", place / "bin/python", "roc-validator>=0.13"], check=True)
    cache = place / "cache"
    subprocess.run([place / "bin/python", CONTEXTS, cache], check=True)

    def validate(crate: Path, severity: str) -> Counter[str]:
        report = place / "report.json"
        argv = ["--no-interactive", "validate", crate, "--offline", "--cache-path", cache, "--no-paging"]
        argv += ["--profile-identifier", "process-run-crate", "--requirement-severity", severity]
        argv += ["--output-format", "json", "--output-file", report]
        done = subprocess.run(
            ["unshare", "--net", "--map-root-user", place / "bin/rocrate-validator", *argv],
            env={**os.environ, "COLUMNS": "200"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert report.exists(), done.stdout
        found = json.loads(report.read_text())
        report.unlink()
        assert found["passed"] == (not found["issues"])
        return Counter(issue["message"] for issue in found["issues"])

    return validate


@pytest.mark.network
@pytest.mark.slow
def test_the_validator_finds_nothing_that_is_required_and_what_it_recommends_is_argued(crate: Path, findings):
    found = findings(crate, "recommended")
    argued = (ROOT / "docs/reference/publication.md").read_text()
    assert found == {
        "The Application SHOULD have a url": 1,
        "The ContainerImage SHOULD have a registry": 1,
        "The SoftwareApplication SHOULD have a version or softwareVersion": 1,
        "The SoftwareApplication id SHOULD be an absolute URI": 3,
        "The `publisher` property of a `Root Data Entity` SHOULD be an `Organization`": 1,
        "The organization SHOULD have a URL.": 1,
    }
    assert all(word in argued for word in ("publisher", "absolute URI", "registry", "`url`", "version", "a URL"))


@pytest.mark.network
@pytest.mark.slow
def test_the_validator_sees_what_is_wrong(crate: Path, findings, tmp_path: Path):
    """So that its silence says something: a word that no context knows, and a file that is not there."""
    wrong = tmp_path / "wrong"
    shutil.copytree(crate, wrong)
    path = wrong / "ro-crate-metadata.json"
    path.write_text(path.read_text().replace('"keywords"', '"buzzwords"'))
    (wrong / "CITATION.cff").unlink()
    found = findings(wrong, "required")
    assert any('"buzzwords"' in message for message in found)
    assert any("CITATION.cff" in message for message in found)
