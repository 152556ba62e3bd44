"""The sandbox passes what every backend must pass, with overlay and where parents have to be copied."""

from __future__ import annotations

import pytest

from reprobox.testing import BackendConformance

pytestmark = pytest.mark.userns


class TestStacked(BackendConformance):
    @pytest.fixture
    def backend(self, sandboxes):
        if sandboxes["stacked"].probe().details.get("overlay") != "yes":
            pytest.skip("overlay does not work in user namespaces here")
        return sandboxes["stacked"]


class TestCopied(BackendConformance):
    @pytest.fixture
    def backend(self, sandboxes):
        return sandboxes["copied"]
