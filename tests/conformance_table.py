"""``pytest --conformance-table FILE``: what every backend must pass, and which backends did, as a page of Markdown.

The tests of a class whose name is ``TestX`` are the column ``X``. With xdist, reports come to the process that started
the others, which writes the page.
"""

from __future__ import annotations

from pathlib import Path

import pytest

_WORDS = {"passed": "yes", "failed": "**no**", "skipped": "skipped"}


def rows() -> list[str]:
    """The tests in the order in which they stand."""
    from reprobox.testing import BackendConformance  # which must not be imported before its asserts are rewritten

    return [name for part in BackendConformance.__mro__ for name in vars(part) if name.startswith("test_")]


class Table:
    """Collects outcomes of conformance tests, and writes them at the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._outcomes: dict[str, dict[str, str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        parts = report.nodeid.partition("[")[0].split("::")
        if len(parts) != 3 or parts[2] not in rows():
            return
        column = self._outcomes.setdefault(parts[1].removeprefix("Test"), {})
        if report.when == "call" or report.outcome != "passed":
            column[parts[2]] = report.outcome

    def pytest_sessionfinish(self) -> None:
        if self._outcomes:
            self._path.write_text(self.text())

    def text(self) -> str:
        columns = sorted(self._outcomes)
        lines = [
            "# What every backend passes",
            "",
            f"| test | {' | '.join(columns)} |",
            "| --- " * (len(columns) + 1) + "|",
        ]
        for row in rows():
            cells = [_WORDS.get(self._outcomes[column].get(row, ""), "") for column in columns]
            name = row.removeprefix("test_").replace("_", " ")
            lines.append(f"| {name} | {' | '.join(cells)} |")
        return "\n".join((*lines, ""))
