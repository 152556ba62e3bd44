"""One connection to the engine for all tests of a process, and a folder that it sees."""

from __future__ import annotations

import pytest

from reprobox_docker.backend import Docker


@pytest.fixture(scope="session")
def docker_backend(tmp_path_factory):
    backend = Docker(tmp_path_factory.mktemp("scratch"))
    yield backend
    backend.close()
