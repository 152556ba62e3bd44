"""Entities of JSON-LD: flat tables that name one another."""

from __future__ import annotations

from typing import Any, TypeAlias

Entity: TypeAlias = dict[str, Any]


def ref(identifier: str) -> dict[str, str]:
    """A property's value that names another entity."""
    return {"@id": identifier}


def compact(entity: Entity) -> Entity:
    """Without what is empty; one value stands for a list of one, as compacted JSON-LD has it."""
    said = {key: value for key, value in entity.items() if value not in (None, "", [], ())}
    return {key: value[0] if isinstance(value, list) and len(value) == 1 else value for key, value in said.items()}
