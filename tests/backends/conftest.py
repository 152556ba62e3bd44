"""Failures inside the conformance suite show their values."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("reprobox.testing")
