"""The drill of ``examples/years-later``: everything is gone but the vault, and the environment is the one that was sealed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engines import availability
from tests.engines.ordinary import TEST_USER
from tests.engines.project import ROOT

pytestmark = [
    pytest.mark.userns,
    pytest.mark.network,
    pytest.mark.slow,
    pytest.mark.ordinary,
    pytest.mark.tool("faketime"),
    pytest.mark.tool("setpriv"),
]


def backends() -> list[str]:
    """Those that work here; all of them where every engine is required."""
    others = {"docker": "docker", "singularity": "apptainer"}
    for engine in others.values() if availability.REQUIRED else ():
        availability.require(engine)
    return ["sandbox", *(name for name, engine in others.items() if not availability.missing(engine))]


def test_made_again_from_the_vault_alone(session_folder):
    folder = session_folder / "drill"
    folder.mkdir()
    folder.chmod(0o1777)  # where tests run as root, another user works here too
    session_folder.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHON": "/usr/bin/python3",  # another user works with it too, and root's own Python may be out of reach
    }
    wanted = backends()
    argv = ["sh", ROOT / "examples/years-later/drill.sh", "--folder", folder]
    argv += [word for name in wanted for word in ("--backend", name)]
    argv += ["--user", TEST_USER] if os.geteuid() == 0 else []
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    lines = done.stdout.splitlines()
    assert f"== 2046-07-01: user {TEST_USER if os.geteuid() == 0 else ''}" in done.stdout
    assert sorted(line.split()[1] for line in lines if line.endswith("as it was sealed")) == sorted(
        f"{name}:" for name in wanted
    )
    assert sum(line.endswith(" and the sum is 5050") for line in lines) == len(wanted)
    assert not list(folder.iterdir())
