"""For authors of plugins: a small environment made of this machine's own programs, and what every backend must pass.

A backend's tests are a class of its own::

    class TestMine(reprobox.testing.BackendConformance):
        @pytest.fixture
        def backend(self):
            return Mine()

Nothing here needs a network or an image; pytest it does. Where ``pytest.register_assert_rewrite("reprobox.testing")``
is called before this is imported, failures show their values.
"""

from __future__ import annotations

from reprobox.testing.bench import Bench, Built, Editing, Ended
from reprobox.testing.conformance import BackendConformance
from reprobox.testing.machine import running, until
from reprobox.testing.small_environment import (
    EPOCH,
    PROGRAMS,
    image_of,
    make_layer,
    small_base,
    small_root,
    small_skeleton,
)

__all__ = [
    "EPOCH",
    "PROGRAMS",
    "BackendConformance",
    "Bench",
    "Built",
    "Editing",
    "Ended",
    "image_of",
    "make_layer",
    "running",
    "small_base",
    "small_root",
    "small_skeleton",
    "until",
]
