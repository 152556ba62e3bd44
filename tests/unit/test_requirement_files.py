"""Files that say what a pip layer asks for: which of their changes stale a lock, through the door of every command."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from reprobox import launch
from reprobox.errors import ManifestError
from reprobox.freshness import stale_keys
from reprobox.layers.requirement_files import logical_lines
from reprobox.pypi import uv_version
from tests.local import Local
from tests.python_index import Index, uv_wheel
from tests.servers import Server

#: What the base answers when it is asked which Python it has.
PYTHON = "#!/bin/sh\necho cpython - 3.11.2\n"


@pytest.fixture
def index() -> Iterator[Index]:
    with Server() as server:
        made = Index(server)
        made.add_file("uv", *uv_wheel(uv_version()))
        for name in ("app", "lib"):
            for version in ("1.0", "2.0"):
                made.add(name, version)
        yield made


@pytest.fixture
def local(tmp_path, store, index, monkeypatch) -> Local:
    """A project over a base that says it has Python."""
    monkeypatch.setenv("REPROBOX_CONFIG", str(tmp_path / "config.toml"))
    (tmp_path / "config.toml").write_text(f'[index]\nurl = "{index.url}"\n')
    local = Local(tmp_path / "project", store, offline=False)
    local.file("base/usr/bin/python3", PYTHON, 0o755).file(
        "base/lib64/libc.so.6", "GNU C Library release version 2.36."
    )
    local.file("base/usr/include/python3.11/patchlevel.h", '#define PY_VERSION "3.11.2"\n')
    return local.file("base/usr/bin/python3.11", PYTHON, 0o755)


def stale(local: Local) -> tuple[str, ...]:
    session = local.session
    return stale_keys(session, local.manifest(), local.project.lock(session.store))


def layer(keys: str) -> str:
    return f'[[layers]]\nname = "python"\nkind = "pip"\n{keys}\n'


def pins(local: Local) -> list[str]:
    (found,) = (item for item in local.lock().targets["default"].layers if item.name == "python")
    return [f"{item.facts['package']}=={item.facts['version']}" for item in found.inputs if item.type == "wheel"]


@pytest.mark.userns
def test_a_changed_file_stales_the_lock_and_is_named(local):
    local.file("requirements.txt", "app<2\n-c constraints.txt\n").file("constraints.txt", "lib<2\n")
    local.write(layer('requirements = "requirements.txt"'))
    assert pins(local) == ["app==1.0"]
    assert stale(local) == ()
    local.file("requirements.txt", "# why\napp<2   # pinned\n\n-c constraints.txt\n")
    assert stale(local) == (), "a comment asks for nothing"
    local.file("constraints.txt", "lib<3\n")
    assert stale(local) == ("layers.python (constraints.txt changed)",)
    local.file("requirements.txt", "app<2\nlib\n-c constraints.txt\n")
    assert stale(local) == ("layers.python (constraints.txt changed)", "layers.python (requirements.txt changed)")
    before = local.project.lock_path.read_text()
    assert pins(local) == ["app==1.0", "lib==2.0"]
    assert local.project.lock_path.read_text() != before
    assert stale(local) == ()
    (local.path / "constraints.txt").unlink()
    assert stale(local) == ("layers.python (there is no file constraints.txt)",)
    local.file("requirements.txt", "app =2\n")
    assert stale(local) == ("layers.python (requirements.txt is not sound)",)


@pytest.mark.userns
def test_what_a_project_depends_on_is_watched_and_its_other_tables_are_not(local):
    text = '[project]\nname = "mine"\nversion = "1"\ndependencies = ["app"]\n'
    local.file("pyproject.toml", text).write(layer('project = "."'))
    assert pins(local) == ["app==2.0"]
    local.file("pyproject.toml", text.replace('"1"', '"2"') + "[tool.ruff]\nline-length = 100\n")
    assert stale(local) == ()
    local.file("pyproject.toml", text.replace("app", "lib"))
    assert stale(local) == ("layers.python (pyproject.toml changed)",)


@pytest.mark.userns
def test_a_realization_knows_the_files(local):
    local.file("requirements.txt", "").file("base/bin/sh").write(layer('requirements = "requirements.txt"'))
    local.lock()
    record = local.realize().record
    manifest = str(local.project.manifest_path)
    assert launch.is_current(record, manifest)
    local.file("requirements.txt", "app\n")
    assert not launch.is_current(record, manifest)


@pytest.mark.userns
def test_a_missing_file_is_told_before_anything_is_resolved(local):
    local.write(layer('packages = ["app"]') + layer('requirements = "gone.txt"').replace('"python"', '"more"'))
    with pytest.raises(ManifestError, match=r"layers\[1\]\.requirements: there is no file gone\.txt"):
        local.lock()
    assert local.listener.said == []


def test_lines_as_pip_joins_them():
    text = "a \\\n  b\n# c \\\nd # e\n\nf#g\n  # h\ni\\\n"
    assert list(logical_lines(text)) == [(1, "a b"), (4, "d"), (6, "f#g"), (8, "i")]
