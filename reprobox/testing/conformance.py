"""What every backend must pass, as one class of tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from reprobox.backend import Backend
from reprobox.testing.bench import Bench, Editing
from reprobox.testing.hermetic_steps import HermeticSteps
from reprobox.testing.outcomes import Outcomes
from reprobox.testing.realizations import Realizations


class BackendConformance(HermeticSteps, Outcomes, Realizations):
    """Tests of one backend; subclass it and give it a ``backend`` fixture."""

    @pytest.fixture
    def bench(self, backend: Backend, tmp_path: Path) -> Bench:
        return Bench(backend, tmp_path)

    @pytest.fixture
    def editing(self, bench: Bench) -> Iterator[Editing]:
        copy = bench.editing()
        yield copy
        copy.close()

    def test_probe_is_true_to_what_it_says(self, bench: Bench) -> None:
        found = bench.backend.probe()
        assert found.ok, f"{found.reason}\n{found.hint}"
        assert bench.tool("/bin/true").status == 0
