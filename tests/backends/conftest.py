"""Sandboxes are probed once."""

from __future__ import annotations

import pytest

from reprobox.sandbox.backend import Sandbox


@pytest.fixture(scope="session")
def sandboxes(tmp_path_factory):
    """The two ways in which the sandbox puts layers together."""
    place = tmp_path_factory.mktemp("scratch")
    return {"stacked": Sandbox(place), "copied": Sandbox(place, overlay=False)}
