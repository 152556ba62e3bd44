"""The plugin: what it offers to reprobox, found by its entry point."""

from __future__ import annotations

from collections.abc import Iterable

from reprobox.backend import Backend, Exporter
from reprobox.plugins import hookimpl


@hookimpl
def reprobox_backends() -> Iterable[Backend]:
    """The ``singularity`` backend."""
    from reprobox_singularity.backend import Singularity

    return [Singularity()]


@hookimpl
def reprobox_exporters() -> Iterable[Exporter]:
    """The formats ``sif`` and ``squashfs``, which take no Apptainer to write."""
    from reprobox_singularity.exporter import SifExporter, SquashExporter

    return [SifExporter(), SquashExporter()]
