"""The backend of a launch record, without a scan for plugins: the record says which module and class it is."""

from __future__ import annotations

from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from reprobox.backend import Backend, Realization


def held(record: Mapping[str, Any], store: str) -> bool:
    """Whether the backend still has what the record says, where its layers do not say that."""
    if "holder" not in record:
        return True
    backend = holder(record, store)
    return backend is not None and backend.has(realization_of(record))


def holder(record: Mapping[str, Any], store: str) -> Backend | None:
    """The plugin's backend; None where it is not installed any more, or another."""
    from importlib import import_module

    from reprobox.guarded import Guarded

    place = record["holder"]
    try:
        kind = getattr(import_module(place["module"]), place["class"])
        backend = Guarded(kind(), place["plugin"])
    except Exception:  # noqa: BLE001 - a stranger's code; the long way tells what is wrong with it
        return None
    return backend.at(Path(store, "tmp")) if backend.name == record["result"]["backend"] else None


def realization_of(record: Mapping[str, Any]) -> Realization:
    """What the backend answered when it made the environment exist."""
    from reprobox.backend import Realization

    return Realization(location=record["result"]["location"], trees=tuple(map(Path, record["trees"])))
