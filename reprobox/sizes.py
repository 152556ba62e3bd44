"""Sizes in words."""

from __future__ import annotations


def human(size: float) -> str:
    """``13.4 MB``: bytes in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size) < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
