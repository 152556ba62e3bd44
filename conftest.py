"""What all tests share, the plugins' too: markers that say what a test needs, real engines, and a store of their own."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.conformance_table import Table
from tests.engines import availability, base
from tests.engines.ordinary import OrdinaryUser, ordinary_user
from tests.engines.registry import Registry, serve

pytest_plugins = ["pytester"]
pytest.register_assert_rewrite("reprobox.testing")  # failures inside the conformance suite show their values

# No clock decides whether a law holds: a busy machine is slow. CI tries the same examples each time, laptops look for new ones.
settings.register_profile(
    "reprobox",
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("reprobox")

# A shell starts its background jobs with these ignored, and what is ignored stays so in every program that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
for _number in (signal.SIGHUP, signal.SIGQUIT):
    signal.signal(_number, signal.SIG_DFL)

_numbers = itertools.count()


def pytest_addoption(parser: pytest.Parser) -> None:
    help_ = "write which backend passes which conformance test to this Markdown file"
    parser.addoption("--conformance-table", metavar="FILE", help=help_)


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--conformance-table")
    if path and not hasattr(config, "workerinput"):  # the process that starts the others hears of all outcomes
        config.pluginmanager.register(Table(Path(path)), "conformance-table")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: handed out last, the longest of them would be waited for with one processor busy."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_runtest_setup(item: pytest.Item) -> None:
    availability.require_marked(item)


# -- stores ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def _stores() -> Iterator[Path]:
    # Not below pytest's own folder: a build may leave read-only or mode 000 folders, and pytest warns about what it cannot remove.
    folder = Path(tempfile.mkdtemp(prefix="reprobox-tests-"))
    yield folder
    _remove(folder)


def _remove(folder: Path) -> None:
    if subprocess.run(
        ["rm", "-rf", folder], capture_output=True, check=False
    ).returncode:  # a folder without our own bits
        subprocess.run(["chmod", "-R", "u+rwX", folder], capture_output=True, check=False)
        subprocess.run(["rm", "-rf", folder], capture_output=True, check=False)


@pytest.fixture(autouse=True)
def store(_stores: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This test's own store, not made yet; ``REPROBOX_STORE`` names it."""
    path = _stores / f"store-{next(_numbers)}"
    monkeypatch.setenv("REPROBOX_STORE", str(path))
    return path


@pytest.fixture(scope="session")
def session_folder(_stores: Path) -> Path:
    """A folder for what slow tests share: projects, their stores, what they export."""
    return _stores


@pytest.fixture
def shared_store(store: Path, _stores: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The session's store: for tests that want an environment, and do not care who built it."""
    path = _stores / "shared"
    monkeypatch.setenv("REPROBOX_STORE", str(path))
    return path


# -- engines -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def registry() -> Iterator[Registry]:
    """A real OCI registry on 127.0.0.1."""
    availability.require("registry")
    with tempfile.TemporaryDirectory(prefix="reprobox-registry-") as folder, serve(Path(folder)) as running:
        yield running


@pytest.fixture(scope="session")
def base_tar(request: pytest.FixtureRequest) -> Path:
    """Debian bookworm's minbase as mmdebstrap makes it: a tar of the root file system. Kept between sessions."""
    availability.require("network")
    availability.require("tool", "mmdebstrap")
    return base.minbase(_kept(request.config) / "bookworm-minbase.tar")


def _kept(config: pytest.Config) -> Path:
    cache: Any = config.cache
    folder = Path(cache.mkdir("engines"))
    return folder if os.access(folder, os.W_OK) else Path(tempfile.mkdtemp(prefix="reprobox-engines-"))


@pytest.fixture(scope="session")
def base_layout(base_tar: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same base as an OCI image layout, tagged ``bookworm``."""
    return base.oci_layout(base_tar, tmp_path_factory.mktemp("base") / "layout", name="bookworm")


@pytest.fixture(scope="session")
def base_image(registry: Registry, base_layout: Path) -> str:
    """The same base in the registry: ``127.0.0.1:PORT/debian:bookworm``."""
    return registry.push(f"oci:{base_layout}:bookworm", "debian", "bookworm")


class Docker:
    """The ``docker`` command against the running daemon."""

    def __call__(self, *argv: str | Path, **options: Any) -> str:
        """Standard output of ``docker ARGV``; raises with the daemon's words if it fails."""
        command = ["docker", *map(str, argv)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, **options)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
        return done.stdout

    def export(self, image: str, path: Path) -> Path:
        """The root file system of a fresh container of ``image``, as ``docker export`` writes it."""
        container = self("create", image, "true").strip()
        try:
            self("export", "--output", path, container)
        finally:
            self("rm", "--force", container)
        return path


@pytest.fixture(scope="session")
def docker() -> Docker:
    availability.require("docker")
    return Docker()


@pytest.fixture(scope="session")
def user() -> Iterator[OrdinaryUser]:
    """An ordinary user with an empty home folder; when the tests run as root, the one that ``REPROBOX_TEST_USER`` names."""
    availability.require("ordinary")
    home = Path(tempfile.mkdtemp(prefix="reprobox-user-"))
    yield ordinary_user(home)
    _remove(home)
