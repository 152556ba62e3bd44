"""The docker backend passes what every backend must pass, with a real engine."""

from __future__ import annotations

import pytest

from reprobox.testing import BackendConformance

pytestmark = pytest.mark.docker


class TestDocker(BackendConformance):
    @pytest.fixture
    def backend(self, docker_backend):
        return docker_backend
