"""Data that a reader of a paper does not have yet: downloaded into the store, and mounted from there."""

from __future__ import annotations

import hashlib
import shutil
import subprocess

import pytest

pytestmark = pytest.mark.userns


@pytest.fixture
def published(tmp_path):
    """An archive and a single file, as a repository of data offers them."""
    folder = tmp_path / "record"
    (folder / "v1" / "train").mkdir(parents=True)
    (folder / "v1" / "train" / "a.csv").write_text("1,2\n")
    (folder / "numbers").write_text("7 8 9\n")
    subprocess.run(["tar", "-czf", folder / "train.tar.gz", "-C", folder, "v1"], check=True)
    return folder


@pytest.fixture
def asking(fresh, published):
    project = fresh
    shutil.rmtree(project.root / "data")
    digest = hashlib.sha256((published / "numbers").read_bytes()).hexdigest()
    project.edit(
        '"/data" = { mode = "ro", source = "data" }',
        f""""/data" = {{ source = "data", digest = true, files = [
    {{ url = "file://{published}/train.tar.gz", unpack = true, strip = 1 }},
    {{ url = "file://{published}/numbers", sha256 = "{digest}" }},
    {{ url = "file://{published}/numbers", to = "more/copy" }},
] }}""",
    )
    return project


def test_files_are_locked_downloaded_and_mounted(asking, published):
    told = asking("lock")
    assert told.status == 0, told.err
    assert "data /data: 3 files, 16 B" in told.out
    text = asking.lock.read_text()
    assert '[downloads."/data"]' in text
    assert str(published) not in text
    assert asking("lock").out.startswith("research.lock is up to date")
    shutil.rmtree(published)
    for _ in range(2):
        ran = asking.process("run", "--", "cat", "/data/train/a.csv", "/data/numbers", "/data/more/copy")
        assert (ran.status, ran.out) == (0, "1,2\n7 8 9\n7 8 9\n"), ran.err
    assert asking.process("run", "--locked", "--", "cat", "/data/numbers").out == "7 8 9\n"
    assert asking.process("run", "--", "touch", "/data/new").status != 0


def test_a_folder_that_is_there_is_what_is_mounted(asking):
    (asking.root / "data").mkdir()
    (asking.root / "data" / "numbers").write_text("mine\n")
    assert asking("lock").status == 0
    assert asking.process("run", "--", "cat", "/data/numbers").out == "mine\n"
    shutil.rmtree(asking.root / "data")
    told = asking("realize")
    assert told.status == 5
    assert "changed numbers\n  new     train" in told.err
    assert "hint: what `files` names is not all that was locked" in told.err


def test_the_layer_is_in_no_image(asking):
    assert asking("lock").status == 0
    made = asking("realize", "--json").json
    assert "/data" not in [layer["name"] for layer in made["layers"]]


def test_bytes_that_changed_upstream(asking, published):
    (published / "numbers").write_text("other\n")
    told = asking("lock")
    assert told.status == 5
    assert 'mounts."/data".files[1].sha256' in told.err
    assert "has other bytes than the manifest says" in told.err


def test_where_they_are_gone(asking, published, tmp_path, monkeypatch):
    assert asking("lock").status == 0
    shutil.rmtree(published)
    monkeypatch.setenv("REPROBOX_STORE", str(tmp_path / "other"))
    told = asking("realize")
    assert told.status == 1
    assert "numbers" in told.err


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('to = "more/copy"', 'to = "/more"', 'files[2].to: expected a name inside the mount, found "/more"'),
        ('to = "more/copy"', 'to = "../more"', 'files[2].to: expected a name inside the mount, found "../more"'),
        ("unpack = true, ", "", "files[0]: `strip` needs `unpack`"),
        ('source = "data", digest', 'mode = "rw", digest', "files: what may be written cannot be locked"),
    ],
)
def test_wrong_keys(asking, old, new, said):
    asking.edit(old, new)
    told = asking("lock")
    assert told.status == 2
    assert f'mounts."/data".{said}' in told.err
