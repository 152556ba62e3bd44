"""Vaults, from writing one to an environment that is made of nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from reprobox import lock as locks
from reprobox import lock_text
from reprobox.attestation.envelope import sign
from reprobox.attestation.keys import Keyring
from reprobox.testing import until
from reprobox.vault.check import check_vault
from reprobox.vault.documents import MEDIA_TYPE, Entry, Kept, Part, read_index
from reprobox.vault.shelf import BLOBS, open_shelf
from reprobox.vault.write import Addition, blob_of, write_vault
from tests.attesting import statement_of, vouched
from tests.cli.conftest import Project
from tests.cli.test_fetch import TOOL
from tests.local import programs_in
from tests.repositories import Repository
from tests.servers import Server

MANIFEST = """\
[project]
name = "kept"
version = "2.0"

[base]
rootfs = "base"

[code]
path = "src"

[[layers]]
name = "model"
kind = "fetch"
files = [
    {{ url = "{url}/tool.tar", to = "/opt/tool", unpack = true }},
    {{ url = "{url}/weights.bin", to = "/opt/weights.bin" }},
]

[[layers]]
name = "settings"
kind = "copy"
files = [{{ from = "conf/", to = "/etc/kept" }}, {{ from = "one.txt", to = "/etc/one" }}]

[[layers]]
name = "made"
kind = "run"
script = "cat /etc/kept/name /opt/weights.bin > /made"

[mounts]
"/data" = {{ mode = "ro", source = "data" }}

[run]
command = ["/bin/sh", "/work/main.sh"]
"""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(files={"/tool.tar": TOOL, "/weights.bin": b"weights" * 1000}) as running:
        yield running


@pytest.fixture
def kept(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Project:
    """A locked project whose base lies in it, with files from a server."""
    root = tmp_path / "project"
    programs_in(root)
    for name, text in {
        "conf/name": "kept\n",
        "one.txt": "1\n",
        "data/numbers": "1 2 3\n",
        "src/main.sh": "cat /made /data/numbers\n",
        "research.toml": MANIFEST.format(url=server.url("/").rstrip("/")),
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "src" / "link").symlink_to("main.sh")
    monkeypatch.chdir(tmp_path)
    project = Project(root, capsys)
    done = project("lock", "-C", root)
    assert done.status == 0, done.err
    return project


@pytest.fixture
def other_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it to be somebody whose store is empty."""

    def change() -> None:
        monkeypatch.setenv("REPROBOX_STORE", str(tmp_path / os.urandom(4).hex()))

    return change


def vault(project: Project, path: str | Path = "vault", *more: str) -> Path:
    """A vault of the project, without reprobox itself: that takes seconds."""
    done = project("vault", "-C", project.root, "--without-reprobox", path, *more)
    assert done.status == 0, done.err
    return Path(path)


def blob(path: Path, data: bytes) -> Path:
    return path / BLOBS / hashlib.sha256(data).hexdigest()


def content(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def digests(told: Any) -> tuple[str, str]:
    return told["tree_digest"], told["image_digest"]


# -- all upstream gone -------------------------------------------------------------------------------------------------


@pytest.mark.userns
@pytest.mark.parametrize("name", ["vault", "vault.tar"])
def test_a_project_and_its_environment_out_of_nothing_but_the_vault(kept: Project, server, other_store, name):
    first = kept("realize", "--json", kept.root).json
    told = kept("vault", "-C", kept.root, "--json", "--without-reprobox", name).json
    assert told["inputs"] == 2
    assert told["left_out"] == {"data /data": "data that is mounted is no input: keep its folder yourself"}
    assert kept("vault", name, "--check").out.startswith(f"{name} is whole: ")
    shutil.rmtree(kept.root)
    server.files.clear()
    other_store()
    done = kept("vault", name, "--extract", "again")
    assert (done.status, done.err) == (0, "")
    assert sorted(os.listdir("again")) == ["base", "conf", "one.txt", "research.lock", "research.toml", "src"]
    assert os.readlink("again/src/link") == "main.sh"
    seen = len(server.seen)
    done = kept("realize", "--json", "--offline", "--vault", name, "again")
    assert done.status == 0, done.err
    assert digests(done.json) == digests(first)
    assert len(server.seen) == seen


@pytest.mark.userns
def test_commands_that_fetch_look_into_vaults(kept: Project, server, other_store):
    vault(kept)
    server.files.clear()
    for command in (("lock", "--check"), ("run",), ("export", "--format", "rootfs", "-o", "rootfs"), ("realize",)):
        other_store()
        done = kept.process(*command, "-C", kept.root, "--offline", "--vault", Path("vault").absolute())
        assert done.status == 0, done.err


@pytest.mark.userns
def test_vaults_of_the_settings_come_before_all_other_places(kept: Project, server, other_store, tmp_path, monkeypatch):
    vault(kept)
    (tmp_path / "config.toml").write_text(f'vaults = ["{tmp_path}/gone", "{tmp_path}/vault"]\n')
    monkeypatch.setenv("REPROBOX_CONFIG", str(tmp_path / "config.toml"))
    other_store()
    seen = len(server.seen)
    done = kept("realize", kept.root)
    assert done.status == 0
    assert f"warning: the vault {tmp_path}/gone is left out: there is no vault\n" in done.err
    assert len(server.seen) == seen


@pytest.mark.userns
def test_code_of_a_repository_and_data_that_is_downloaded(kept: Project, server, other_store, tmp_path):
    repository = Repository(tmp_path / "upstream").write(**{"main.sh": "cat /made /data/*\n"})
    repository.commit()
    text = kept.manifest.read_text().replace('path = "src"', f'git = "file://{tmp_path}/upstream"\nrev = "main"')
    files = f'files = [{{ url = "{server.url("/weights.bin")}", to = "numbers" }}]'
    text = text.replace('source = "data"', f'source = "gone", {files}, digest = true')
    kept.manifest.write_text(text)
    done = kept("lock", "-C", kept.root)
    assert done.status == 0, done.err
    told = kept("vault", "-C", kept.root, "--json", "--without-reprobox", "vault").json
    assert told["inputs"] == 3  # the tool, the weights (also as data), and the commit
    assert told["left_out"] == {}
    shutil.rmtree(kept.root)
    shutil.rmtree(tmp_path / "upstream")
    server.files.clear()
    other_store()
    assert kept("vault", "vault", "--extract", "again").status == 0
    assert not Path("again/src").exists()
    kept.root = tmp_path
    done = kept.process("run", "-C", "again", "--offline", "--vault", "vault")
    assert (done.status, done.out) == (0, "kept\n" + "weights" * 2000), done.err


@pytest.mark.userns
def test_a_base_that_is_a_layout_in_the_project(kept: Project, server, other_store, tmp_path):
    root = tmp_path / "over"
    root.mkdir()
    assert kept("export", "-C", kept.root, "--format", "oci", "-o", root / "layout").status == 0
    (root / "research.toml").write_text(
        '[project]\nname = "over"\n[base]\noci = "layout"\n[run]\ncommand = ["cat", "/made"]\n'
    )
    over = Project(root, kept._capsys)
    assert over("lock", "-C", root).status == 0
    first = over("realize", "--json", root).json
    vault(over, "vault")
    blobs = {path.name for path in (root / "layout/blobs/sha256").iterdir()}
    shutil.rmtree(root)
    other_store()
    assert over("vault", "vault", "--extract", "again").status == 0
    assert {path.name for path in Path("again/layout/blobs/sha256").iterdir()} == blobs
    done = over("realize", "--json", "--offline", "--vault", "vault", "again")
    assert done.status == 0, done.err
    assert digests(done.json) == digests(first)


@pytest.mark.userns
def test_a_base_that_is_an_archive_in_the_project(kept: Project, server, other_store, tmp_path):
    root = tmp_path / "over"
    root.mkdir()
    assert kept("export", "-C", kept.root, "--format", "docker-archive", "-o", root / "base.tar").status == 0
    (root / "research.toml").write_text('[project]\nname = "over"\n[base]\narchive = "base.tar"\n')
    over = Project(root, kept._capsys)
    assert over("lock", "-C", root).status == 0
    first = over("realize", "--json", root).json
    vault(over, "vault")
    shutil.rmtree(root)
    other_store()
    assert over("vault", "vault", "--extract", "again").status == 0
    done = over("realize", "--json", "--offline", "--vault", "vault", "again")
    assert done.status == 0, done.err
    assert digests(done.json) == digests(first)


# -- one vault for many, always the same bytes -------------------------------------------------------------------------


def test_the_same_content_has_the_same_bytes(kept: Project, tmp_path):
    vault(kept, "one")
    vault(kept, "two")
    vault(kept, "two")
    assert content(Path("one")) == content(Path("two"))
    vault(kept, "one.tar")
    first = Path("one.tar").read_bytes()
    os.utime(kept.root / "src/main.sh", (1, 1))
    vault(kept, "one.tar")
    assert Path("one.tar").read_bytes() == first
    with tarfile.open("one.tar") as archive:
        assert {
            entry.name: archive.extractfile(entry).read()  # type: ignore[union-attr]
            for entry in archive
        } == content(Path("one"))


def another(kept: Project, server: Server) -> Project:
    """The same project with other weights: most of its blobs are the same."""
    root = kept.root.with_name("other")
    shutil.copytree(kept.root, root, symlinks=True)
    server.files["/more.bin"] = b"more"
    manifest = root / "research.toml"
    manifest.write_text(manifest.read_text().replace('weights.bin", to', 'more.bin", to'))
    other = Project(root, kept._capsys)
    assert other("lock", "-C", root).status == 0
    return other


def test_two_locks_in_either_order(kept: Project, server, other_store):
    other = another(kept, server)
    for name, projects in (("one", (kept, other)), ("two", (other, kept))):
        for project in projects:
            vault(project, name)
    assert content(Path("one")) == content(Path("two"))
    told = kept("vault", "one", "--check", "--json").json
    assert [lock["project"] for lock in told["locks"]] == ["kept", "kept"]
    done = kept("vault", "one", "--extract", "out")
    assert done.status == 2
    names = [lock["name"] for lock in told["locks"]]
    assert done.err == (
        f"error: one: it keeps 2 locks; there are {names[0]}, {names[1]}\n  hint: choose one with --lock NAME\n"
    )
    digest = hashlib.sha256(other.lock.read_bytes()).hexdigest()
    assert kept("vault", "one", "--extract", "out", "--lock", digest[:12]).status == 0
    assert Path("out/research.lock").read_bytes() == other.lock.read_bytes()


def test_what_a_newer_writing_does_not_need_goes(kept: Project):
    vault(kept, "v", "--with-layers")
    before = content(Path("v"))
    vault(kept, "v")
    assert content(Path("v")) == before  # what was put in by choice stays
    kept.manifest.write_text(kept.manifest.read_text().replace('name = "model"\n', 'name = "model"\nprivate = true\n'))
    vault(kept, "v")
    assert not blob(Path("v"), TOOL).exists()
    assert kept("vault", "v", "--check").status == 0


@pytest.mark.userns
@pytest.mark.tool("skopeo")
def test_images_are_read_by_other_tools(kept: Project):
    first = kept("realize", "--json", kept.root).json
    told = kept("vault", "-C", kept.root, "--json", "--without-reprobox", "--with-image", "v").json
    argv = ["skopeo", "inspect", "--format", "{{.Digest}}", f"oci:v:{told['images'][0]}"]
    assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip() == first["image_digest"]
    assert kept("vault", "v", "--check").status == 0


def test_the_program_in_the_readme_takes_everything_out(kept: Project, tmp_path):
    vault(kept)
    text = Path("vault/README").read_text()
    lines = text.partition("first lock:\n\n")[2].partition("\n\n`oras")[0].splitlines()
    program = "\n".join(line.removeprefix("    ") for line in lines)
    subprocess.run([sys.executable, "-I", "-c", program, "vault", "taken"], check=True)
    assert Path("taken/inputs/tool.tar").read_bytes() == TOOL
    assert Path("taken/research.lock").read_bytes() == kept.lock.read_bytes()
    assert (
        f"{hashlib.sha256(TOOL).hexdigest()}  {len(TOOL):>12}  inputs/tool.tar  unknown\n"
        in Path("taken/inventory.txt").read_text()
    )
    check = text.partition("can tell:\n\n    ")[2].partition("\n")[0]
    done = subprocess.run(["sh", "-c", check], cwd="vault", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# -- built layers ------------------------------------------------------------------------------------------------------


@pytest.fixture
def with_layers(kept: Project, other_store) -> Project:
    """The project, sealed, in a vault that has its layers; the store is empty again."""
    assert kept("lock", "--seal", "-C", kept.root, "-q").status == 0
    vault(kept, "v", "--with-layers")
    other_store()
    return kept


@pytest.mark.userns
def test_built_layers_of_a_vault_are_taken_where_the_seal_names_them(with_layers: Project):
    done = with_layers("realize", "--offline", "--vault", "v", with_layers.root)
    assert done.status == 0, done.err
    taken = [line.split()[0] for line in done.out.splitlines() if "taken from the vault v in" in line]
    assert taken == ["base", "model", "settings", "made", "skeleton"]
    assert "building" not in done.err
    assert with_layers("verify", "-C", with_layers.root).status == 0


@pytest.mark.userns
def test_a_rebuild_takes_no_layer_from_a_vault(with_layers: Project):
    done = with_layers("verify", "--rebuild", "--offline", "--vault", "v", "-C", with_layers.root)
    assert done.status == 0, done.err
    assert "building made" in done.err


@pytest.mark.userns
def test_without_a_seal_they_are_built(kept: Project, other_store):
    vault(kept, "v", "--with-layers")
    other_store()
    done = kept("realize", "--offline", "--vault", "v", kept.root)
    assert done.status == 0, done.err
    assert "taken" not in done.out


@pytest.mark.userns
def test_a_damaged_layer_of_a_vault_is_told_and_built_instead(with_layers: Project):
    seal = lock_text.read(with_layers.lock.read_text()).targets["default"].seal
    assert seal is not None
    path = Path("v") / BLOBS / seal.layers["settings"].removeprefix("sha256:")
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[-1500] ^= 1
    path.write_bytes(data)
    done = with_layers("realize", "--offline", "--vault", "v", with_layers.root)
    assert done.status == 0, done.err
    assert "warning: layer 'settings' is not taken from the vault v: it " in done.err
    assert "it is built instead" in done.err


@pytest.mark.userns
def test_what_a_step_loaded_from_the_network_is_had_offline(kept: Project, other_store):
    """Its inputs are nowhere: only the layer itself, under its seal, can be kept."""
    kept.edit('kind = "run"\n', 'kind = "run"\nnetwork = true\n')
    assert kept("lock", "-C", kept.root, "-q").status == 0
    assert kept("lock", "--seal", "-C", kept.root, "-q").status == 0
    vault(kept, "without")
    vault(kept, "v", "--with-layers")
    other_store()
    done = kept("realize", "--offline", "--vault", "without", kept.root)
    assert (done.status, "uses the network" in done.err) == (6, True)
    assert kept("realize", "--offline", "--vault", "v", kept.root).status == 0


# -- what is not in it -------------------------------------------------------------------------------------------------


def test_private_inputs_are_left_out_and_named(kept: Project, server, other_store):
    before = kept.lock.read_bytes()
    text = kept.manifest.read_text()
    for name in ("model", "settings"):
        text = text.replace(f'name = "{name}"\n', f'name = "{name}"\nprivate = true\n')
    kept.manifest.write_text(text)
    assert kept("lock", "--check", "-C", kept.root).status == 0
    assert kept.lock.read_bytes() == before
    told = kept("vault", "-C", kept.root, "--json", "--without-reprobox", "vault").json
    digest = hashlib.sha256(TOOL).hexdigest()
    assert told["left_out"][digest] == "tool.tar: layer 'model' is private"
    assert told["left_out"]["layer settings"] == "layer 'settings' is private"
    everything = b"".join(content(Path("vault")).values())
    assert b"tool-1.0/bin/run" not in everything
    assert b"weightsweights" not in everything
    assert kept("vault", "vault", "--check").status == 0
    assert kept("vault", "vault", "--extract", "again").status == 0
    assert not Path("again/conf").exists()
    other_store()
    done = kept("realize", "--offline", "--vault", "vault", kept.root)
    assert done.status == 6
    assert "the vault vault: it was left out: tool.tar: layer 'model' is private" in done.err
    done = kept("vault", "-C", kept.root, "--with-image", "more")
    assert done.status == 1
    assert "an image would hand on" in done.err


@pytest.mark.userns
def test_a_private_base_is_left_out_and_named(kept: Project, other_store):
    before = kept.lock.read_bytes()
    kept.edit('rootfs = "base"\n', 'rootfs = "base"\nprivate = true\n')
    assert kept("lock", "-C", kept.root, "-q").status == 0
    assert kept.lock.read_bytes() == before
    told = kept("vault", "-C", kept.root, "--json", "--without-reprobox", "--with-layers", "vault").json
    assert told["left_out"]["layer base"] == "layer 'base' is private"
    program = next((kept.root / "base/bin").iterdir()).read_bytes()
    assert not any(program in data for data in content(Path("vault")).values())
    assert kept("vault", "vault", "--extract", "again").status == 0
    assert not Path("again/base").exists()
    other_store()
    done = kept("realize", "--offline", "--vault", "vault", "again")
    assert done.status == 3
    assert "base (its files are missing)" in done.err


def test_a_private_base_does_not_come_along_as_code(kept: Project):
    kept.edit('rootfs = "base"\n', 'rootfs = "base"\nprivate = true\n')
    kept.edit('path = "src"', 'path = "."')
    assert kept("lock", "-C", kept.root, "-q").status == 0
    done = kept("vault", "-C", kept.root, "--without-reprobox", "vault")
    assert (done.status, done.err.splitlines()[-2:]) == (
        1,
        [
            "error: base.private: the base is private, and the code has it: base",
            '  hint: leave it out of the code: [code] exclude = ["base"]',
        ],
    )
    assert not Path("vault").exists()


def test_secrets_are_never_in_it(kept: Project):
    (kept.root / "src/key.txt").write_text("correct horse battery\n")
    kept.manifest.write_text(kept.manifest.read_text() + '\n[secrets]\nkey = { path = "src/key.txt" }\n')
    assert kept("lock", "-C", kept.root).status == 0
    vault(kept)
    assert b"correct horse" not in b"".join(content(Path("vault")).values())
    (kept.root / "src/notes.txt").write_text("it is correct horse battery\n")
    assert kept("lock", "-C", kept.root).status == 0
    done = kept("vault", "-C", kept.root, "--without-reprobox", "more")
    assert done.status == 1
    assert done.err == (
        f"error: {kept.root}: src/notes.txt holds the secret 'key', and what is kept or published is handed on\n"
        "  hint: take it out of that file, or leave the file out with code.exclude\n"
    )
    assert not Path("more").exists()


def test_code_that_is_not_locked_is_refused(kept: Project):
    (kept.root / "src/main.sh").write_text("echo other\n")
    done = kept("vault", "-C", kept.root, "vault")
    assert (done.status, done.err) == (
        3,
        f"error: {kept.root}: the code is not what was locked\n  hint: run `reprobox lock`\n",
    )
    assert not Path("vault").exists()


# -- damage ------------------------------------------------------------------------------------------------------------


def flip(path: Path, place: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ (1 << (place % 8))]))


def small_vault(path: Path) -> dict[str, list[str]]:
    """A vault of few bytes; the names of its files, by what they are."""
    lock, data = _a_lock(), os.urandom(100)
    parts = tuple(
        Part(
            role=role,
            title=f"{role}.bin",
            digest=hashlib.sha256(value).hexdigest(),
            size=len(value),
            media_type=MEDIA_TYPE.format(kind=role),
        )
        for role, value in (("lock", lock), ("manifest", b"[project]\n"), ("project", b"project"), ("input", data))
    )
    kept = Kept(lock=hashlib.sha256(lock).hexdigest(), project="small", version="1", epoch=1, parts=parts)
    blobs = {
        hashlib.sha256(value).hexdigest(): blob_of(value, "it") for value in (lock, b"[project]\n", b"project", data)
    }
    write_vault(path, Addition(kept=kept, images=[], blobs=blobs))
    names = {role: [BLOBS + part.digest] for role, part in zip(("lock", "toml", "project", "blob"), parts, strict=True)}
    names["manifest"] = [BLOBS + kept.entry().digest]
    return {**names, "index": ["index.json"], "layout": ["oci-layout"], "readme": ["README"]}


def _a_lock() -> bytes:
    return (Path(__file__).parents[1] / "golden/research.lock").read_bytes()


def test_every_flipped_bit_of_a_folder_is_found(tmp_path):
    files = small_vault(tmp_path / "v")
    # The inputs of this lock are not there, which is found too: what counts is that a flip adds to it.
    usual = {wrong.name for wrong in check_vault(open_shelf(tmp_path / "v")).wrongs}
    chance = random.Random(1)
    count = 0
    for kind, names in files.items():
        for name in names:
            path = tmp_path / "v" / name
            size = path.stat().st_size
            places = range(size) if size <= 40 else chance.sample(range(size), 40)
            for place in places:
                flip(path, place)
                wrongs = check_vault(open_shelf(tmp_path / "v")).wrongs
                assert {wrong.name for wrong in wrongs} - usual or "index.json" in {w.name for w in wrongs}, (
                    kind,
                    place,
                )
                flip(path, place)
                count += 1
    assert count >= 200
    assert {wrong.name for wrong in check_vault(open_shelf(tmp_path / "v")).wrongs} == usual


def test_every_flipped_bit_of_a_tar_is_found(tmp_path):
    path = tmp_path / "v.tar"
    small_vault(path)
    usual = check_vault(open_shelf(path)).wrongs
    chance = random.Random(2)
    for place in chance.sample(range(path.stat().st_size), 250):
        flip(path, place)
        try:
            wrongs = check_vault(open_shelf(path)).wrongs
        finally:
            flip(path, place)
        assert wrongs != usual, place
    assert check_vault(open_shelf(path)).wrongs == usual


def test_flips_anywhere_in_a_real_vault_are_found(kept: Project):
    vault(kept)
    chance = random.Random(3)
    files = sorted(path for path in Path("vault").rglob("*") if path.is_file())
    for path in files:
        place = chance.randrange(path.stat().st_size)
        flip(path, place)
        done = kept("vault", "vault", "--check")
        assert done.status == 5
        assert str(path.relative_to("vault")) in done.err or path.name == "oci-layout"
        flip(path, place)
    assert kept("vault", "vault", "--check").status == 0


def _missing(path: Path) -> str:
    blob(path, TOOL).unlink()
    return f"{BLOBS}{hashlib.sha256(TOOL).hexdigest()}: it is missing: inputs/tool.tar"


def _foreign(path: Path) -> str:
    blob(path, b"foreign").write_bytes(b"foreign")
    return f"{BLOBS}{hashlib.sha256(b'foreign').hexdigest()}: no manifest of the vault names it"


def _stranger(path: Path) -> str:
    (path / "blobs/notes.txt").write_text("hello")
    return "blobs/notes.txt: it does not belong in a vault"


def _link(path: Path) -> str:
    outside = path.absolute().parent / "outside"
    blob(path, TOOL).rename(outside)
    blob(path, TOOL).symlink_to(outside)
    return f"{BLOBS}{hashlib.sha256(TOOL).hexdigest()}: it is a link, or lies behind one"


def _linked_folder(path: Path) -> str:
    (path / "blobs").rename(path.absolute().parent / "blobs")
    (path / "blobs").symlink_to(path.absolute().parent / "blobs")
    return "blobs: it is a link, and a vault has none"


def _no_readme(path: Path) -> str:
    (path / "README").unlink()
    return "README: it is missing"


def _truncated(path: Path) -> str:
    data = (path / "index.json").read_bytes()
    (path / "index.json").write_bytes(data[: len(data) // 2])
    return "index.json: its index.json is damaged or cut short"


def _changed(path: Path) -> str:
    flip(blob(path, TOOL), 100)
    digest = hashlib.sha256(blob(path, TOOL).read_bytes()).hexdigest()
    name = f"{BLOBS}{hashlib.sha256(TOOL).hexdigest()}"
    return f"{name}: it has other bytes: their sha256 is {digest}: inputs/tool.tar"


@pytest.mark.userns
@pytest.mark.parametrize(
    ("damage", "status"),
    [
        (_missing, 6),
        (_foreign, 0),
        (_stranger, 0),
        (_link, 5),
        (_linked_folder, 5),
        (_no_readme, 0),
        (_truncated, 5),
        (_changed, 5),
    ],
)
def test_damage_is_named_and_never_used(kept: Project, server, other_store, damage, status):
    vault(kept)
    said = damage(Path("vault"))
    done = kept("vault", "vault", "--check")
    assert done.status == 5
    assert f"\n  {said}" in done.err, done.err
    other_store()
    done = kept("realize", "--offline", "--vault", "vault", "--output", "tree", kept.root)
    assert done.status == status, done.err
    if status:
        assert not Path("tree").exists()
        assert "tool.tar" in done.err or "index.json" in done.err or damage is _linked_folder


@pytest.mark.parametrize("damage", [_missing, _link, _changed])
def test_writing_again_mends(kept: Project, damage):
    vault(kept)
    before = content(Path("vault"))
    damage(Path("vault"))
    vault(kept)
    assert content(Path("vault")) == before
    assert kept("vault", "vault", "--check").status == 0


def test_a_vault_is_no_image(kept: Project):
    vault(kept, "vault")
    done = kept("inspect", "vault")
    assert done.status == 2
    assert done.err == (
        "error: vault: this is a vault, and no image\n  hint: `reprobox vault vault --check` says what it keeps\n"
    )


@pytest.mark.userns
def test_a_vault_for_another_lock_says_whose_it_is(kept: Project, server, other_store):
    other = another(kept, server)
    vault(kept)
    other_store()
    done = kept("realize", "--offline", "--vault", "vault", other.root)
    digest = hashlib.sha256(kept.lock.read_bytes()).hexdigest()
    assert done.status == 6
    assert done.err.endswith(
        "the network may not be used, and the store lacks 1 input\n"
        f"  more.bin (sha256 {hashlib.sha256(b'more').hexdigest()}, 4 bytes)\n"
        f"    the vault vault: it does not have it; it was made for kept 2.0 (lock sha256:{digest[:12]}…)\n"
        "  hint: run it once without --offline, or give a vault that has it with --vault\n"
    )


@pytest.mark.userns
def test_files_replaced_upstream_under_the_same_name(kept: Project, server, other_store):
    vault(kept)
    server.files["/weights.bin"] = b"others!" * 1000
    other_store()
    done = kept("realize", kept.root)
    assert done.status == 5
    assert "weights.bin" in done.err
    done = kept("realize", "--vault", "vault", kept.root)
    assert done.status == 0, done.err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("nothing", "there is no vault\n  hint: give the folder or the .tar that `reprobox vault PATH` wrote"),
        ("src", "this folder is no vault: it has no oci-layout\n  hint: give the folder or the .tar"),
    ],
)
def test_what_is_no_vault(kept: Project, given, said):
    Path("src").mkdir()
    for command in (("realize", "--vault", given, kept.root), ("vault", given, "--check")):
        done = kept(*command)
        assert done.status == 2
        assert done.err.startswith(f"error: {Path(given).absolute()}: {said}") or done.err.startswith(
            f"error: {given}: {said}"
        )


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
@pytest.mark.parametrize("name", ["vault", "vault.tar"])
def test_a_vault_that_may_not_be_read(kept: Project, name):
    vault(kept, name).chmod(0)
    done = kept("vault", name, "--check")
    Path(name).chmod(0o700)
    assert done.status == 2
    assert done.err == (
        f"error: {name}: the vault cannot be read: Permission denied\n"
        "  hint: whoever made it must let you read it: chmod -R a+rX\n"
    )


def test_a_vault_is_not_written_over_other_things(kept: Project):
    Path("notes").mkdir()
    Path("notes/a.txt").write_text("mine")
    Path("file").write_text("mine")
    for place, said in {
        "notes": "this folder holds something else than a vault\n  hint: give the folder of a vault, or a new name\n",
        "file": "it exists already, and is no folder\n  hint: give the vault a new name\n",
        "no/where": "its folder does not exist\n  hint: make the folder first\n",
        "no/where.tar": "its folder does not exist\n  hint: make the folder first\n",
    }.items():
        done = kept("vault", "-C", kept.root, "--without-reprobox", place)
        assert (done.status, done.err) == (2, f"error: {place}: {said}")
    assert content(Path("notes")) == {"a.txt": b"mine"}


# -- full disks, and kills ---------------------------------------------------------------------------------------------


@pytest.mark.userns
@pytest.mark.parametrize("name", ["v", "v.tar"])
def test_a_full_disk_leaves_what_was_there(kept: Project, server, tmp_path, name):
    server.files["/more.bin"] = os.urandom(3 << 20)
    other = another(kept, server)
    server.files["/more.bin"] = os.urandom(3 << 20)
    (tmp_path / "disk").mkdir()
    small = "import sys; from tests.cli.test_vault import small_vault; from pathlib import Path; small_vault(Path(sys.argv[1]))"
    script = (
        'mount -t tmpfs -o size=4m none disk && "$1" -c "$2" "disk/$3" && sha256sum $(find disk -type f | sort) > before'
        ' && "$1" -m reprobox.cli vault -C "$4" --without-reprobox "disk/$3"; echo "status $?"'
        " && sha256sum $(find disk -type f | sort) | cmp - before && echo same"
    )
    argv = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", sys.executable, small, name]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([*argv, other.root], env=env, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == "status 1\nsame\n", done.stderr
    assert done.stderr.endswith(
        f"error: disk/{name}: the disk is full\n"
        "  hint: make room there, or write the vault to another disk; what it held before is untouched\n"
    )


@pytest.mark.parametrize("name", ["v", "v.tar"])
def test_a_kill_leaves_the_old_vault_or_the_new_one(kept: Project, server, tmp_path, name):
    vault(kept, name)
    other = another(kept, server)
    before = {lock["lock"] for lock in kept("vault", name, "--check", "--json").json["locks"]}
    argv = [sys.executable, "-m", "reprobox.cli", "vault", "-C", str(other.root), "--without-reprobox", name]
    seen = set()
    for delay in (0.0, 0.002, 0.005, 0.01, 5.0):
        writing = subprocess.Popen(argv, cwd=tmp_path, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        until(partial(_is_writing, tmp_path, name, writing), seconds=60)
        time.sleep(delay) if delay < 1 else writing.wait()
        writing.send_signal(signal.SIGKILL)
        writing.wait()
        for left in tmp_path.glob(f".{name}.*"):
            left.unlink()
        told = kept("vault", name, "--check", "--json").json
        assert told["problems"] == []
        seen.add(len(told["locks"]))
        assert {lock["lock"] for lock in told["locks"]} >= before
    assert 2 in seen
    vault(other, name)
    assert not list(tmp_path.glob("v/.writing"))


def test_two_writers_at_a_time(kept: Project, server, tmp_path):
    other = another(kept, server)
    argv = [sys.executable, "-m", "reprobox.cli", "vault", "-q", "--without-reprobox", "v", "-C"]
    writers = [subprocess.Popen([*argv, project.root], cwd=tmp_path) for project in (kept, other)]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    told = kept("vault", "v", "--check", "--json").json
    assert (told["whole"], len(told["locks"])) == (True, 2)


def _is_writing(folder: Path, name: str, process: subprocess.Popen[bytes]) -> bool:
    begun = (folder / name / ".writing").exists() or list(folder.glob(f".{name}.*"))
    return bool(begun) or process.poll() is not None


def test_what_a_killed_writer_left_is_told_and_cleared(tmp_path, kept: Project):
    vault(kept, "v")
    writing = Path("v/.writing")
    writing.mkdir()
    blob(Path("v"), b"left").write_bytes(b"left")
    (writing / "blobs").write_text(hashlib.sha256(b"left").hexdigest() + "\n")
    done = kept("vault", "v", "--check")
    assert done.status == 0
    assert "is left of a write that was stopped; the next one clears it away" in done.err
    vault(kept, "v")
    assert not blob(Path("v"), b"left").exists()
    assert not writing.exists()


# -- in a registry -----------------------------------------------------------------------------------------------------


@pytest.mark.userns
@pytest.mark.registry
def test_a_vault_in_a_registry(kept: Project, server, other_store, registry, tmp_path, monkeypatch):
    first = kept("realize", "--json", kept.root).json
    place = f"oci://{registry.host}/vaults/kept:2.0"
    told = kept("vault", "-C", kept.root, "--json", "--without-reprobox", "--with-image", place)
    assert told.status == 0, told.err
    assert told.json["added"] > 5
    again = kept("vault", "-C", kept.root, "--json", "--without-reprobox", "--with-image", place).json
    assert (again["added"], again["blobs"]) == (0, told.json["blobs"])
    assert kept("vault", place, "--check").out.startswith(f"{place} is whole: ")
    server.files.clear()
    other_store()
    assert kept("vault", place, "--extract", "again").status == 0
    done = kept("realize", "--json", "--vault", place, "again")
    assert done.status == 0, done.err
    assert digests(done.json) == digests(first)
    other_store()
    (tmp_path / "config.toml").write_text(f'vaults = ["{place}"]\n')
    monkeypatch.setenv("REPROBOX_CONFIG", str(tmp_path / "config.toml"))
    assert digests(kept("realize", "--json", "again").json) == digests(first)
    argv = ["skopeo", "inspect", "--tls-verify=false", "--format", "{{.Digest}}"]
    done = subprocess.run(
        [*argv, f"docker://{registry.host}/vaults/kept:{told.json['images'][0]}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == first["image_digest"]


@pytest.mark.registry
def test_what_a_registry_does_not_have(kept: Project, registry):
    place = f"oci://{registry.host}/vaults/none:1"
    done = kept("vault", place, "--check")
    assert done.status == 1
    assert "has no such image" in done.err
    vault(kept, f"oci://{registry.host}/vaults/lost:1")
    (data,) = Path(registry.log).parent.rglob(f"{hashlib.sha256(TOOL).hexdigest()}/data")
    data.write_bytes(b"others" + data.read_bytes()[6:])
    done = kept("vault", f"oci://{registry.host}/vaults/lost:1", "--check")
    assert done.status == 5
    assert f"{BLOBS}{hashlib.sha256(TOOL).hexdigest()}: it has other bytes" in done.err


def test_readers_of_the_index_see_names_that_other_tools_know(kept: Project):
    vault(kept)
    shelf = open_shelf(Path("vault"))
    index = read_index(b"".join(shelf.read("index.json")), "here")
    (entry,) = index.entries
    assert isinstance(entry, Entry)
    assert entry.annotations["org.opencontainers.image.ref.name"].startswith("kept-")
    document = json.loads(b"".join(shelf.read(BLOBS + entry.digest)))
    titles = [layer["annotations"]["org.opencontainers.image.title"] for layer in document["layers"]]
    assert titles == [
        "research.lock",
        "research.toml",
        "project.tar",
        "inputs/tool.tar",
        "inputs/weights.bin",
        "inventory.txt",
    ]


# -- attestations ------------------------------------------------------------------------------------------------------


def test_attestations_of_this_lock_travel_and_add_up(kept: Project, tmp_path):
    """Sealed by hand here: what counts is which of them are taken along."""
    text = (kept.root / "research.lock").read_text()
    target = lock_text.read(text).targets["default"]
    seal = locks.Seal(image_digest="sha256:" + "1" * 64, tree_digest="sha256:" + "2" * 64, layers={})
    lock = replace(lock_text.read(text), targets={"default": replace(target, seal=seal)})
    (kept.root / "research.lock").write_text(lock_text.write(lock))
    ring = Keyring(tmp_path / "keys")
    ada = vouched(kept.root, lock, ring, "ada")
    vault(kept)
    other = ada.with_name("other.dsse.json")
    moved = replace(statement_of(kept.root, lock), lock="0" * 64)
    other.write_bytes(sign(moved.data(), ring.signer("ada")))
    ada.with_name("cut.dsse.json").write_bytes(ada.read_bytes()[:100])
    ada.rename(tmp_path / "ada")  # another member of the group, who has only his own
    grace = vouched(kept.root, lock, ring, "grace")
    done = kept("vault", "-C", kept.root, "--without-reprobox", "vault")
    assert f"not in it: {other} is for another lock" in done.err
    assert "cut.dsse.json: it is no DSSE envelope" in done.err
    assert kept("vault", "vault", "--extract", "out").status == 0
    assert content(tmp_path / "out/research.attestations") == {
        ada.name: (tmp_path / "ada").read_bytes(),
        grace.name: grace.read_bytes(),
    }
