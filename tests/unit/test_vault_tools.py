"""reprobox as wheels, made of what is installed."""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from reprobox.errors import ReproboxError
from reprobox.store import Store
from reprobox.vault import tools


@pytest.fixture
def wheels(session_folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Store, list[tools.ToolWheel]]:
    """Those of a few small distributions; uv alone takes seconds."""
    small = {name: metadata.distribution(name) for name in ("reprobox", "packaging", "platformdirs")}
    monkeypatch.setattr(tools, "_needed", lambda: small)
    shelf = Store(session_folder / "tools-store")
    return shelf, tools.tool_wheels(shelf)


def test_a_record_names_every_file_by_its_hash(wheels):
    shelf, found = wheels
    assert [wheel.name.partition("-")[0] for wheel in found] == ["packaging", "platformdirs", "reprobox"]
    for wheel in found:
        with zipfile.ZipFile(shelf.blob(wheel.digest)) as archive:
            names = archive.namelist()
            info = next(name for name in names if name.endswith(".dist-info/RECORD"))
            listed = dict(line.split(",")[:2] for line in archive.read(info).decode().splitlines())
            assert listed.keys() == set(names)
            for name in names:
                digest = base64.urlsafe_b64encode(hashlib.sha256(archive.read(name)).digest()).rstrip(b"=").decode()
                assert name == info or listed[name] == f"sha256={digest}"
            assert not [name for name in names if name.endswith((".pyc", "INSTALLER", "direct_url.json"))]
            assert len({entry.date_time for entry in archive.infolist()}) == 1


def test_the_same_installation_gives_the_same_bytes(wheels, store):
    assert tools.tool_wheels(Store(store)) == wheels[1]


def test_what_is_packed_can_be_installed(wheels, tmp_path):
    shelf, found = wheels
    for wheel in found:
        (tmp_path / wheel.name).symlink_to(shelf.blob(wheel.digest))
    from uv import find_uv_bin

    argv = [
        find_uv_bin(),
        "pip",
        "install",
        "-q",
        "--offline",
        "--no-index",
        "--no-deps",
        "--target",
        tmp_path / "there",
    ]
    argv += ["--python", sys.executable, "--find-links", tmp_path, "reprobox", "packaging"]
    subprocess.run(argv, check=True, capture_output=True, env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)})
    assert (tmp_path / "there/reprobox/debian/step-apt.conf").is_file()
    assert (tmp_path / "there/bin/reprobox").is_file()
    assert re.search("^Name: reprobox$", next(tmp_path.glob("there/reprobox-*/METADATA")).read_text(), re.MULTILINE)


def test_everything_that_reprobox_needs_is_meant():
    needed = tools._needed()
    assert {"reprobox", "uv", "urllib3", "zstandard", "pygments"} <= needed.keys()  # pygments: rich needs it
    assert not {"pytest", "sphinx"} & needed.keys()


def test_what_is_not_installed_is_told(monkeypatch):
    monkeypatch.setattr(tools, "_DISTRIBUTION", "no-such-distribution")
    with pytest.raises(ReproboxError) as error:
        tools._needed()
    assert error.value.message == (
        "no-such-distribution is not installed here as a distribution, so no wheel can be made of it"
    )
    assert error.value.hint == "install reprobox with pip or uv, or leave it out of the vault with --without-reprobox"
