"""The table of what every backend passes."""

from __future__ import annotations

from types import SimpleNamespace

from tests.conformance_table import Table, rows


def test_the_table_has_a_row_for_each_test_and_a_column_for_each_backend(tmp_path):
    table = Table(tmp_path / "table.md")
    first, second, third = rows()[:3]
    for name, backend, when, outcome in (
        (first, "Mine", "setup", "passed"),
        (first, "Mine", "call", "passed"),
        (first, "Other", "setup", "skipped"),
        (second, "Mine", "call", "failed"),
        (third, "Other", "setup", "passed"),
        ("test_of_something_else", "Mine", "call", "passed"),
    ):
        report = SimpleNamespace(nodeid=f"x/test_x.py::Test{backend}::{name}", when=when, outcome=outcome)
        table.pytest_runtest_logreport(report)
    table.pytest_sessionfinish()
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[2:4] == ["| test | Mine | Other |", "| --- | --- | --- |"]
    assert lines[4].endswith("| yes | skipped |")
    assert lines[5].endswith("| **no** |  |")
    assert lines[6].endswith("|  |  |")
    assert len(lines) == 4 + len(rows())
