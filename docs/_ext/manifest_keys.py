"""The directive ``manifest-keys``: the keys that a manifest table knows, from the same declarations that read it.

The argument is the name of a class of ``reprobox.manifest`` (``Project``), ``kind:NAME`` for a layer kind, or
``kind:NAME.KEY`` for the tables that one of its keys lists.
"""

from __future__ import annotations

from typing import Any, ClassVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from reprobox import manifest
from reprobox.plugins import Plugins
from reprobox.tables import REQUIRED, Declared, declared

_WIDTHS = (16, 24, 16, 44)


class ManifestKeys(SphinxDirective):
    """Key, what it takes, its default, what it says."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        cls = _of_kind(name.removeprefix("kind:")) if name.startswith("kind:") else getattr(manifest, name)
        rows = [_row(item) for item in declared(cls).values()]
        return [_table(("key", "takes", "default", "meaning"), rows)]


def _kinds() -> dict[str, Any]:
    return dict(Plugins(discover=False).kinds)


def _of_kind(name: str) -> Any:
    kind, _, key = name.partition(".")
    cls = _kinds()[kind].options
    shape: Any = declared(cls)[key].shape if key else None
    return shape.item.cls if shape else cls


def _row(item: Declared) -> tuple[nodes.Node, ...]:
    default = item.key.default
    if default is REQUIRED:
        shown: nodes.Node = nodes.strong(text="required")
    elif isinstance(default, bool):
        shown = nodes.literal(text=str(default).lower())
    elif isinstance(default, str | int) and default != "":
        shown = nodes.literal(text=f'"{default}"' if isinstance(default, str) else str(default))
    else:
        shown = nodes.Text("none")
    later = "" if item.key.available else f" (Not available yet: it comes in {item.key.since}.)"
    return nodes.literal(text=item.name), nodes.Text(item.shape.noun), shown, nodes.Text(item.key.doc + later)


def _table(head: tuple[str, ...], rows: list[tuple[nodes.Node, ...]]) -> nodes.table:
    group = nodes.tgroup(cols=len(head))
    group += [nodes.colspec(colwidth=width) for width in _WIDTHS]
    group += nodes.thead("", _cells([nodes.Text(word) for word in head]))
    group += nodes.tbody("", *(_cells(row) for row in rows))
    return nodes.table("", group)


def _cells(row: Any) -> nodes.row:
    return nodes.row("", *(nodes.entry("", nodes.paragraph("", "", cell)) for cell in row))


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("manifest-keys", ManifestKeys)
    return {"parallel_read_safe": True}
