"""Whether this machine has what a test needs, found out by trying it, once per session.

A check answers with the reason why not, or with an empty string. A missing engine skips the test on a laptop, and fails it where
``REPROBOX_REQUIRE_ENGINES=1``: there, a skipped test would be a hole that nobody sees.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable

import pytest

from tests.engines import archives
from tests.engines.ordinary import TEST_USER

REQUIRED = os.environ.get("REPROBOX_REQUIRE_ENGINES") == "1"


def require(name: str, argument: str = "") -> None:
    """Skip or fail the running test unless this machine has the engine."""
    lacking(missing(name, argument))


def lacking(reason: str) -> None:
    """Skip or fail the running test if there is a reason why it cannot be tried here."""
    if reason and REQUIRED:
        pytest.fail(
            f"{reason} (REPROBOX_REQUIRE_ENGINES=1: tests/engines/install.sh installs every engine)", pytrace=False
        )
    if reason:
        pytest.skip(reason)


def require_marked(item: pytest.Item) -> None:
    """The same of everything that the test's markers name."""
    for marker in item.iter_markers():
        if marker.name in CHECKS:
            require(marker.name)
        elif marker.name == "tool":
            require("tool", marker.args[0])


@functools.cache
def missing(name: str, argument: str = "") -> str:
    """Why the engine cannot be used here, or an empty string."""
    return tool(argument) if name == "tool" else CHECKS[name]()


def tool(name: str) -> str:
    return "" if shutil.which(name) else f"{name} is not installed"


def _tried(argv: list[str], what: str) -> str:
    if reason := tool(argv[0]):
        return reason
    try:
        done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        return f"{what}: no answer within a minute"
    return f"{what}: {(done.stderr or done.stdout).strip()[:200]}" if done.returncode else ""


def userns() -> str:
    argv = ["unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "true"]
    return _tried(argv, "user namespaces are not allowed here")


def network() -> str:
    try:
        found = archives.configured()
    except archives.NoArchivesError as error:
        return str(error)
    try:
        urllib.request.urlopen(found[0].release, timeout=20).close()
    except (OSError, urllib.error.URLError) as error:
        return f"the package archive that apt is set up for cannot be reached: {error}"
    return ""


def registry() -> str:
    return tool("docker-registry") or tool("skopeo")


def docker() -> str:
    return _tried(["docker", "version", "--format", "{{.Server.Version}}"], "no Docker daemon")


def apptainer() -> str:
    if reason := tool("apptainer") and tool("singularity"):
        return f"{reason}, nor is apptainer"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "this user may not use /dev/fuse, by which Apptainer mounts images"
    return tool("squashfuse") or _tried(["singularity", "version"], "Apptainer does not start")


def ordinary() -> str:
    if os.geteuid() == 0 and not TEST_USER:
        return "running as root: name an ordinary user in REPROBOX_TEST_USER"
    return ""


CHECKS: dict[str, Callable[[], str]] = {
    "userns": userns,
    "network": network,
    "registry": registry,
    "docker": docker,
    "apptainer": apptainer,
    "ordinary": ordinary,
}
