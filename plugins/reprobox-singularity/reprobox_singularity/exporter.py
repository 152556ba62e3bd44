"""``reprobox export --format sif`` and ``--format squashfs``."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from reprobox.backend import RealizeRequest
from reprobox_singularity import apptainer


class SifExporter:
    """Writes a SIF."""

    name = "sif"
    needs_image = False

    def export(self, request: RealizeRequest) -> None:
        _export(request, self.name)


class SquashExporter:
    """Writes a bare SquashFS, which Apptainer runs too."""

    name = "squashfs"
    needs_image = False

    def export(self, request: RealizeRequest) -> None:
        _export(request, self.name)


def _export(request: RealizeRequest, form: str) -> None:
    from reprobox_singularity.realize import make

    assert request.output is not None
    make(request, request.output, form, apptainer.scratch(os.environ) or Path(tempfile.gettempdir()))
