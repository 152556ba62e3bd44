"""The sandbox passes what every backend must pass, with overlay and where parents have to be copied."""

from __future__ import annotations

import pytest

from reprobox.sandbox.backend import Sandbox
from reprobox.testing import BackendConformance

pytestmark = pytest.mark.userns


class TestStacked(BackendConformance):
    @pytest.fixture
    def backend(self, tmp_path):
        if Sandbox(tmp_path).probe().details.get("overlay") != "yes":
            pytest.skip("overlay does not work in user namespaces here")
        return Sandbox(tmp_path)


class TestCopied(BackendConformance):
    @pytest.fixture
    def backend(self, tmp_path):
        return Sandbox(tmp_path, overlay=False)
