"""Failures inside the conformance suite show their values; sandboxes are probed once."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("reprobox.testing")


@pytest.fixture(scope="session")
def sandboxes(tmp_path_factory):
    """The two ways in which the sandbox puts layers together."""
    from reprobox.sandbox.backend import Sandbox

    place = tmp_path_factory.mktemp("scratch")
    return {"stacked": Sandbox(place), "copied": Sandbox(place, overlay=False)}
