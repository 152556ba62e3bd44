"""verify names what is damaged; with --repair it is moved away, and made again when it is needed."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from reprobox.cli import main
from reprobox.digest import sha256
from reprobox.store import Store
from reprobox.tree import remove
from tests.local import Local, programs_in, running


def verify(capsys, *argv: str, status: int = 0) -> str:
    capsys.readouterr()
    assert main(["cache", "verify", "-q", *argv]) == status
    return capsys.readouterr().out


@pytest.fixture
def local(tmp_path, store):
    programs_in(tmp_path / "project")
    made = Local(tmp_path / "project", store)
    script = "mkdir -p /opt/a; echo one >/opt/a/file; echo two >/two; ln /two /three; rm -f /bin/ls; chmod 0300 /opt/a"
    made.write(running("one", script)).lock()
    made.realize()
    yield made
    remove(tmp_path)


def layer_of(local: Local, name: str = "one") -> Path:
    return next(
        path
        for path in (local.store / "layers").iterdir()
        if json.loads((path / "layer.json").read_bytes())["name"] == name
    )


def test_a_blob_with_other_bytes(store, capsys):
    here = Store(store)
    digest = here.add_blob(b"right")
    good = here.add_blob(b"good")
    assert verify(capsys) == "checked 2 input files, 0 built layers, 0 realized environments: 0 things damaged\n"
    blob = here.blob(digest)
    blob.chmod(0o644)
    blob.write_bytes(b"wrong")
    told = verify(capsys, status=5)
    assert told.startswith(f"blobs {digest}: its bytes are not those of its name\n")
    assert "1 thing damaged" in told
    document = json.loads(verify(capsys, "--json", status=5))
    assert document["damaged"] == [
        {"kind": "blobs", "name": digest, "path": str(blob), "reason": "its bytes are not those of its name"}
    ]
    verify(capsys, "--repair")
    assert not here.has_blob(digest)
    assert here.blob(good).is_file()
    (moved,) = (store / "damaged").iterdir()
    assert sha256(moved.read_bytes()) == sha256(b"wrong")
    verify(capsys)


@pytest.mark.userns
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda tree: (tree / "two").write_text("owt\n"), "/three has changed"),
        (lambda tree: (tree / "two").unlink(), "/two is missing"),
        (lambda tree: (tree / "more").touch(), "/more is too much"),
        (lambda tree: (tree / "two").chmod(0o600), "/three has changed"),
        (lambda tree: os.utime(tree / "two", (5, 5)), "times or links of its files are not those of its diff id"),
        (lambda tree: (tree.parent / "index").write_text("x"), "its record or its index is not one"),
        (lambda tree: (tree.parent / "layer.json").write_text("{"), "its record or its index is not one"),
    ],
)
def test_a_layer_that_was_changed(local, capsys, damage, reason):
    verify(capsys)
    layer = layer_of(local)
    damage(layer / "tree")
    assert f"layers {layer.name}: {reason}\n" in verify(capsys, status=5)


@pytest.mark.userns
def test_what_is_repaired_is_built_again(local, capsys):
    layer = layer_of(local)
    assert stat.S_IMODE((layer / "tree/opt/a").stat().st_mode) == 0o300
    (layer / "tree/two").write_text("owt\n")
    told = verify(capsys, "--repair")
    assert "the next command that needs them fetches or builds them again" in told
    assert not layer.exists()
    local.listener.steps.clear()
    local.realize()
    assert local.listener.steps == ["one"]
    verify(capsys)


@pytest.mark.userns
def test_a_record_and_a_merged_tree(local, capsys, monkeypatch):
    monkeypatch.setenv("REPROBOX_SANDBOX_OVERLAY", "no")
    made = local.realize()
    merged = Path(made.realization.location)
    verify(capsys)
    (merged / "two").write_text("owt\n")
    record = next((local.store / "realizations").glob("*default*.json"))
    record.write_text(record.read_text()[:-1])
    told = verify(capsys, status=5)
    assert f"realizations {merged.name}: /two has changed\n" in told
    assert f"realizations {record.name}: it is no record\n" in told
