"""A project that somebody publishes, and a reader who has nothing but an empty folder and an empty store."""

from __future__ import annotations

import os
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from reprobox.cli import main
from reprobox.testing import small_root

MANIFEST = """\
[project]
name = "xor"
version = "1.0"
description = "A network learns\\u001b[31m XOR"
license = "MIT"
authors = [{ name = "Ada Lovelace", orcid = "0000-0002-1825-0097" }]

[base]
rootfs = "base"

[code]
path = "src"

[[layers]]
name = "settings"
kind = "copy"
files = [{ from = "conf/", to = "/etc/xor" }]

[[layers]]
name = "made"
kind = "run"
script = '''
cat /etc/xor/name > /made
echo ready >> /made
'''

[mounts]
"/data" = { mode = "ro", source = "data" }
"/out" = { mode = "rw", source = "out" }

[run]
command = ["/bin/sh", "/work/main.sh", "two words"]
"""
FILES = {
    "conf/name": "xor\n",
    "data/numbers": "1 2 3\n",
    "src/main.sh": 'cat /made /data/numbers; echo "$1" > /out/result\n',
    "src/deep/more.txt": "more\n",
}


def write(root: Path, manifest: str = MANIFEST, **more: str) -> None:
    for name, text in {**FILES, "research.toml": manifest, **more}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A locked project ``paper``, and ``vault.tar`` with it."""
    place = tmp_path_factory.mktemp("published")
    small_root(place / "paper/base", ("sh", "cat", "mkdir", "true"))
    write(place / "paper")
    (place / "paper/base/etc/tight").parent.mkdir(exist_ok=True)
    (place / "paper/base/etc/tight").write_text("tight\n")
    (place / "paper/base/etc/tight").chmod(0o640)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPROBOX_STORE", str(place / "store"))
        assert main(["lock", "-C", str(place / "paper"), "-q"]) == 0
        assert main(["vault", "-C", str(place / "paper"), "-q", "--without-reprobox", str(place / "vault.tar")]) == 0
    return place


@dataclass
class Reader:
    """Somebody with an empty folder and an empty store, and a copy of what was published."""

    call: Any  # tests.cli.conftest.Project
    paper: Path

    def __call__(self, *argv: str | Path) -> Any:
        return self.call(*argv)

    def lock(self) -> None:
        done = self.call("lock", "-C", self.paper)
        assert done.status == 0, done.err

    def edit(self, old: str, new: str, *, lock: bool = True) -> None:
        """Publish another manifest."""
        path = self.paper / "research.toml"
        text = path.read_text()
        assert text.count(old) == 1
        path.write_text(text.replace(old, new))
        if lock:
            self.lock()

    def zip(self, name: str = "paper.zip", below: str = "project/", **more: str) -> Path:
        """A crate as one file. ``more`` are files of it by name, with ``__`` for a slash."""
        with zipfile.ZipFile(name, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
            packed.writestr("ro-crate-metadata.json", "{}")
            for path in sorted(self.paper.rglob("*")):
                info = zipfile.ZipInfo(f"{below}{path.relative_to(self.paper)}")
                status = path.lstat()
                info.external_attr = status.st_mode << 16
                if path.is_symlink():
                    packed.writestr(info, os.readlink(path))
                elif path.is_file():
                    packed.writestr(info, path.read_bytes())
                else:
                    info.filename += "/"
                    packed.writestr(info, "")
            for item, text in more.items():
                packed.writestr(item.replace("__", "/").replace("_o_", "."), text)
        return Path(name)


@pytest.fixture
def reader(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Reader:
    shutil.copytree(published / "paper", tmp_path / "paper", symlinks=True, copy_function=shutil.copy2)
    shutil.copy(published / "vault.tar", tmp_path / "vault.tar")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    from tests.cli.conftest import Project

    return Reader(Project(tmp_path / "here", capsys), tmp_path / "paper")


def nothing_left() -> bool:
    """Whether the reader's folder has nothing but the file that was downloaded."""
    return {name for name in os.listdir() if not name.endswith((".zip", ".tar", ".gz", ".pdf", ".toml"))} == set()


def refused(done: Any, status: int, text: str) -> None:
    assert done.status == status, done.err
    assert done.err.endswith(text), done.err
    assert nothing_left()
