"""Apptainer passes what every backend must pass."""

from __future__ import annotations

import pytest

from reprobox.testing import BackendConformance
from reprobox_singularity.backend import Singularity

pytestmark = [pytest.mark.apptainer, pytest.mark.userns]


class TestSingularity(BackendConformance):
    @pytest.fixture
    def backend(self, tmp_path_factory):
        return Singularity(tmp_path_factory.mktemp("scratch"))
