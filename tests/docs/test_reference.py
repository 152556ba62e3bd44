"""The reference pages against what is built: tables that name values must name the real ones."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from reprobox import errors
from reprobox.digest import tree_digest
from reprobox.tree import scan
from tests.docs.blocks import ROOT, blocks

REFERENCE = ROOT / "docs" / "reference"


def rows(page):
    lines = (REFERENCE / page).read_text().splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]


def test_the_build_environment_is_the_real_one():
    from reprobox.building import BUILD_ENVIRONMENT

    told = {}
    for row in rows("build-environment.md"):
        for name in re.findall(r"`([A-Z_]+)`", row[0]):
            told[name] = row[1].strip("`")
    assert told.pop("SOURCE_DATE_EPOCH") == "the epoch of the lock"
    assert told == dict(BUILD_ENVIRONMENT)


def test_the_rules_about_what_layers_leave_out_are_the_real_ones():
    from reprobox.scrub import RULES

    told = [(tuple(re.findall(r"`/([^`]+)`", paths)), what, why) for paths, what, why in rows("scrubbed-paths.md")[2:]]
    assert [(rule.paths, rule.why) for rule in RULES] == [(paths, why) for paths, _, why in told]
    for rule, (_, what, _) in zip(RULES, told, strict=True):
        assert (what == "written anew") == (rule.rewrite is not None)
        assert ("told" in what) == bool(rule.told)
        assert ("that install packages" in what) == rule.installing


def test_the_grades_of_an_outlook_are_the_real_ones():
    from reprobox.outlook.grade import GRADES

    assert {row[0]: row[1] for row in rows("outlook.md") if len(row) == 2 and len(row[0]) == 1} == GRADES


def test_the_rules_of_an_outlook_are_the_real_ones():
    from reprobox.outlook.rules import rules

    told = [row for row in rows("outlook.md") if len(row) == 6 and row[0].startswith("`")]
    assert [(row[0].strip("`"), row[1], row[4], row[5]) for row in told] == [
        (rule.id, rule.place, rule.says, f"{rule.source} ({rule.read})") for rule in rules().rules
    ]
    days = [re.findall(r"(\d+) days", row[3]) for row in told]
    assert days == [[str(rule.days)] if rule.days else [] for rule in rules().rules]
    lives = [row for row in rows("outlook.md") if len(row) == 3 and row[0] in rules().lives]
    assert {row[0]: row[1] for row in lives} == {
        name: ", ".join(f"{version} {day}" for version, day in life.ends.items())
        for name, life in rules().lives.items()
    }


def test_every_finding_of_an_outlook_is_told():
    source = (ROOT / "reprobox" / "outlook" / "findings.py").read_text()
    made = set(re.findall(r'kind="([a-z-]+)"', source)) | set(re.findall(r'"(key-[a-z]+)"', source))
    told = {name for row in rows("outlook.md") if len(row) == 2 for name in re.findall(r"`([a-z-]+)`", row[0])}
    assert told == made


def test_every_exit_status_is_told():
    told = {int(row[0]) for row in rows("exit-statuses.md") if row[0].isdigit()}
    real = {error.status for error in vars(errors).values() if isinstance(error, type) and hasattr(error, "status")}
    assert told == real | {0, 130}


@pytest.fixture
def tree(tmp_path):
    """A small tree with everything that the digest has a rule for."""
    root = tmp_path / "tree"
    for folder in ("etc", "proc/1", "tmp", "usr/a b", "usr/a", ".singularity.d/env", "srv"):
        (root / folder).mkdir(parents=True)
        (root / folder).chmod(0o755)
    (root / "tmp").chmod(0o1777)
    for name in ("proc", "usr", ".singularity.d"):
        (root / name).chmod(0o755)
    for name, content in {
        "etc/hosts": "hidden",
        "etc/passwd": "root",
        "proc/1/status": "hidden",
        "tmp/left": "hidden",
        ".singularity.d/env/x": "hidden",
        "environment": "hidden",
        "usr/environment": "seen",
        "usr/a b/back\\slash": "1",
        "usr/a b/new\nline": "2",
        "usr/a/z": "3",
        "usr/a-b": "4",
        "usr/\udcfc": "5",  # not UTF-8
        "usr/ä": "6",
    }.items():
        (root / name).write_text(content)
        (root / name).chmod(0o644)
    (root / "usr/a-b").chmod(0o4755)
    (root / "srv/link").symlink_to("../a b\\c")
    (root / "lib").symlink_to("usr")
    return root


def test_the_script_of_the_page_computes_the_tree_digest(tree, tmp_path):
    text = next(block.text for block in blocks(REFERENCE / "digests.md") if block.file == "tree_digest.py")
    program = tmp_path / "tree_digest.py"
    program.write_text(text)
    argv = [sys.executable, str(program), f"{tree}/"]
    told = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    assert told == f"sha256:{tree_digest(scan(tree))}\n"
    assert told == "sha256:49e2a8c32e095e0ff3a8ed3c5ba2536666e19f3d24d30ebd2c72518299e3019d\n"
