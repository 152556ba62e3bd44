"""The drill of ``examples/years-later``: everything is gone but the vault, and the environment is the one that was sealed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("backend", ["sandbox"])
def test_made_again_from_the_vault_alone(backend, session_folder):
    folder = session_folder / "drill"
    folder.mkdir(mode=0o1777)
    folder.chmod(0o1777)  # where tests run as root, another user works here too
    session_folder.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHON": os.path.realpath(sys.executable),
    }
    argv = ["sh", ROOT / "examples/years-later/drill.sh", "--folder", folder, "--backend", backend]
    argv += ["--user", TEST_USER] if os.geteuid() == 0 else []
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert f"== 2046-07-01: user {TEST_USER if os.geteuid() == 0 else ''}" in done.stdout
    assert f"\n== {backend}: sha256:" in done.stdout
    assert done.stdout.endswith(" and the sum is 5050\n")
    assert not list(folder.iterdir())
