"""Where a layer may be put into a project's folder: a lock can be anybody's, and it says where."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from reprobox.environment import Outside
from reprobox.errors import LockError
from reprobox.lock import LockedLayer
from reprobox.placed import place
from reprobox.store import StoredLayer


def outside(folder: str, venv: str, root: Path) -> Any:
    layer = LockedLayer(
        name="python", kind="pip", recipe=1, request="", facts={"folder": folder}, options={"venv": venv}
    )
    stored = StoredLayer(id="x", tree=root, index=root, record={})
    return SimpleNamespace(outside=[Outside(layer=layer, stored=stored)])


@pytest.mark.parametrize(
    ("folder", "venv"),
    [
        ("../mine", "/work/.reprobox/mine"),
        ("/home/me/.reprobox/venv", "/work/.reprobox/venv"),
        ("src", "/work/.reprobox/src"),
        (".reprobox/../src", "/work/.reprobox/src"),
        (".reprobox/venv", "/../../../home/.reprobox/venv"),
        (".reprobox/venv", "/work/other"),
        ("out/.reprobox/venv", "/work/.reprobox/venv"),
    ],
)
def test_it_goes_into_its_own_folder_and_nowhere_else(tmp_path, folder, venv):
    project = tmp_path / "project"
    for name in ("src", "elsewhere"):
        (project / name).mkdir(parents=True)
    (tmp_path / "mine").mkdir()
    (project / "out").symlink_to(tmp_path)
    with pytest.raises(LockError) as caught:
        place(SimpleNamespace(project=project), outside(folder, venv, tmp_path))  # type: ignore[arg-type]
    assert str(caught.value) == (
        f"{project}: layer 'python' would be put into {folder!r}, and such layers go into .reprobox of the code\n"
        "  hint: take the lock from somebody you trust, or make it anew with `reprobox lock`"
    )
    assert (tmp_path / "mine").is_dir()
