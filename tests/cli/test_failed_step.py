"""A step that fails can be looked into."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.userns


def look(project, script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "reprobox.cli", "shell", "--failed", "greeting"],
        cwd=project.root,
        input=script,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_state_of_a_failed_step_is_kept_until_it_is_built(project):
    project.edit("mkdir -p /opt/deep", "mkdir -p /opt/deep; echo half > /opt/deep/made; nosuchcommand")
    assert project("lock").status == 0
    failed = project("realize")
    assert failed.status == 1
    assert "nosuchcommand" in failed.err
    assert "`reprobox shell --failed greeting`" in failed.err
    seen = look(project, "cat /opt/deep/made /greeting; exit 9")
    assert (seen.returncode, seen.stdout.splitlines()[0]) == (9, "half")
    project.edit("; nosuchcommand", "")
    assert project("lock").status == 0
    assert project("realize").status == 0
    gone = look(project, "exit 0")
    assert gone.returncode == 2
    assert "no failed step" in gone.stderr
