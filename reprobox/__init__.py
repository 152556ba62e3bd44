"""reprobox makes computational research recreatable: a manifest, a lock, the same bytes everywhere."""

__version__ = "0.1.0"
