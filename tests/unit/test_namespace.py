"""Layers that hide folders from their owner: everything that reads a layer reads them, as an ordinary user too."""

from __future__ import annotations

import contextlib
import io
import json
import os
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from reprobox import image
from reprobox.cli import main
from reprobox.tree import remove
from tests.local import Local, copying, programs_in, running

pytestmark = pytest.mark.userns
ROOT = Path(__file__).resolve().parents[2]

HIDING = "mkdir -p /opt/a/b /srv/drop; echo one >/opt/a/b/file; echo two >/srv/drop/in; chmod 0300 /srv/drop; chmod 0 /opt/a /opt"


@pytest.fixture
def local(tmp_path, store):
    programs_in(tmp_path / "project")
    made = Local(tmp_path / "project", store).file("new/name", "three\n")
    yield made
    remove(tmp_path)


@pytest.fixture
def hiding(local):
    local.write(running("hide", HIDING) + copying("into", "new", "/opt/a/b/new", after="hide")).lock()
    return local


def names(stream) -> dict[str, tuple[int, bytes]]:
    with tarfile.open(fileobj=stream) as archive:
        return {
            item.name: (item.mode, archive.extractfile(item).read() if item.isfile() else b"")
            for item in archive.getmembers()
        }


def test_a_copy_goes_into_a_folder_that_nobody_may_enter(hiding):
    made = hiding.realize()
    top = next(layer for layer in made.environment.layers if layer.name == "into")
    with pytest.raises(PermissionError) if os.geteuid() else contextlib.nullcontext():
        os.lstat(top.tree / "opt/a")
    sink = io.BytesIO()
    image.write_layer(top.tree, top.index, 1, sink)
    sink.seek(0)
    found = names(sink)
    assert found["opt/a/b/new/name"] == (0o644, b"three\n")
    assert found["opt"][0] == found["opt/a"][0] == 0
    assert stat.S_IMODE(os.lstat(top.tree / "opt").st_mode) == 0  # and it was never anything else


@pytest.mark.parametrize("kind", ["oci", "docker-archive", "rootfs"])
def test_every_export_has_what_is_hidden(hiding, tmp_path, capsys, kind):
    output = tmp_path / "exported"
    assert main(["export", "-C", str(hiding.path), "--format", kind, "-o", str(output), "-q", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    if kind == "rootfs":
        assert stat.S_IMODE(os.lstat(output / "opt").st_mode) == 0
        program = [sys.executable, ROOT / "tests/independent/tree_digest.py", output]
        done = subprocess.run(["unshare", "-Ur", *program], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == told["tree_digest"]
        return
    if kind == "oci":
        layers = [path.read_bytes() for path in (output / "blobs/sha256").iterdir()]
    else:
        with tarfile.open(output) as archive:
            layers = [archive.extractfile(item).read() for item in archive if item.name.endswith(".tar")]
    found: dict[str, tuple[int, bytes]] = {}
    for data in layers:
        if data[257:262] == b"ustar":
            found |= names(io.BytesIO(data))
    assert found["opt/a/b/file"] == (0o644, b"one\n")
    assert found["srv/drop/in"] == (0o644, b"two\n")
    assert found["opt/a/b/new/name"] == (0o644, b"three\n")
    assert found["srv/drop"][0] == 0o300
