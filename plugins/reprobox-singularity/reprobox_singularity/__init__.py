"""Apptainer and SingularityCE for reprobox: the ``singularity`` backend, and SIF files whose bytes never change."""

__version__ = "0.1.0"
