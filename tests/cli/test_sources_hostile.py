"""Publications that were made to reach out of their folder, before the reader agreed or after."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pypdf
import pytest

from reprobox import lock_text
from reprobox.digest import canonical, prefixed, sha256
from reprobox.git.repository import Remote, _environment
from tests.cli.publications import Reader, nothing_left, refused
from tests.repositories import Repository
from tests.servers import Server

_AGAIN = "  hint: it is damaged, or was made to do harm: get it again from where it was published\n"
_DAMAGED = "  hint: the vault is damaged: take another copy of it, or make it anew with `reprobox vault`\n"


# -- vaults ------------------------------------------------------------------------------------------------------------


class Vault:
    """The vault of the project as a folder, whose one lock can be made to have other parts; all checksums are right."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        subprocess.run(["tar", "-xf", "../vault.tar", "-C", folder], check=True)
        self.folder = folder
        self._index = json.loads((folder / "index.json").read_bytes())
        digest = self._index["manifests"][0]["digest"]
        self._kept = json.loads(self._blob(digest).read_bytes())

    def _blob(self, digest: str) -> Path:
        return self.folder / "blobs/sha256" / digest.removeprefix("sha256:")

    def _put(self, data: bytes) -> dict[str, Any]:
        digest = prefixed(sha256(data))
        self._blob(digest).write_bytes(data)
        return {"digest": digest, "size": len(data)}

    def add(self, role: str, title: str, data: bytes) -> None:
        said = {"org.opencontainers.image.title": title, "org.reprobox.role": role}
        self._kept["layers"].append({"annotations": said, "mediaType": "x", **self._put(data)})
        self._write()

    def add_to_project(self, name: str, target: str) -> None:
        """A link in the project."""
        part = next(item for item in self._kept["layers"] if item["annotations"]["org.reprobox.role"] == "project")
        data = io.BytesIO(self._blob(part["digest"]).read_bytes())
        with tarfile.open(fileobj=data, mode="a") as packed:
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            packed.addfile(link)
        part |= self._put(data.getvalue())
        self._write()

    def _write(self) -> None:
        self._index["manifests"][0] |= self._put(canonical(self._kept))
        self._index["annotations"].pop("org.reprobox.checksum", None)
        self._index["annotations"]["org.reprobox.checksum"] = prefixed(sha256(canonical(self._index)))
        (self.folder / "index.json").write_bytes(canonical(self._index))


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder of the reader that is none of the publication's business."""
    (tmp_path / "outside").mkdir()
    return tmp_path / "outside"


@pytest.mark.parametrize("name", ["research.attestations", "research.runs"])
def test_a_folder_that_is_written_into_is_no_link(reader: Reader, tmp_path: Path, outside: Path, name):
    vault = Vault(tmp_path / "kept")
    vault.add_to_project(name, str(outside))
    vault.add("attestation", "research.attestations/x.dsse.json", b"{}")
    done = reader("show", vault.folder)
    assert done.status == 5
    said = f"'{name}' is a folder that is written into, and leads elsewhere as a link\n{_AGAIN}"
    assert done.err == f"error: {vault.folder}: the project in it cannot be unpacked: {said}"
    assert list(outside.iterdir()) == []
    assert nothing_left()


def test_two_attestations_of_one_name(reader: Reader, tmp_path: Path):
    vault = Vault(tmp_path / "kept")
    for data in (b"{}", b"[]"):
        vault.add("attestation", "research.attestations/x.dsse.json", data)
    done = reader("show", vault.folder)
    assert (done.status, done.err) == (
        5,
        f"error: {vault.folder}: research.attestations/x.dsse.json is in it twice\n{_DAMAGED}",
    )


# -- what is shown, and what is typed after it -------------------------------------------------------------------------


def test_a_mount_point_is_no_command_to_paste(reader: Reader, monkeypatch):
    """It may be any path, and the lines that say how to go on are copied into shells."""
    reader.edit('"/data" = { mode = "ro", source = "data" }', r'"/data;touch $(id)\u001b[2J" = { mode = "ro" }')
    made = {"layers": [], "tree_digest": "", "image_digest": "", "location": ""}
    monkeypatch.setattr("reprobox.cli.realize._realize", lambda _: made)
    done = reader("realize", "--yes", reader.zip())
    assert done.status == 0, done.err
    assert done.out.endswith("go on with    reprobox run -C xor --mount '/data;touch $(id)\\x1b[2J'=PATH\n")
    assert "(ro): give it with --mount '/data;touch $(id)\\x1b[2J'=PATH\n" in done.err


def test_a_line_end_forges_no_question(reader: Reader):
    reader.edit(
        '"/data" = { mode = "ro", source = "data" }', r'"/d\nerror: all is well" = { mode = "ro", source = "/etc" }'
    )
    done = reader("realize", "--yes", reader.zip())
    assert done.status == 2
    assert '\n  mounts."/d\\nerror: all is well".source: it is "/etc", outside the project' in done.err
    assert done.err.count("\nerror: ") == 1


@pytest.mark.userns
def test_a_name_that_is_left_out_cannot_steer_a_terminal(reader: Reader):
    reader.edit("echo ready >> /made", r'mkdir "/.wh.$(printf "\033[2J\nmade")"', lock=False)
    reader.lock()
    done = reader("realize", reader.paper)
    assert done.status == 0, done.err
    assert "left out: /.wh.\\x1b[2J\\nmade: names that start with .wh." in done.out
    assert "\x1b" not in done.out


def test_a_lock_that_is_attached_cannot_steer_a_terminal(reader: Reader):
    """`inspect` shows what is attached, which may be no lock of its manifest."""
    lock = lock_text.read((reader.paper / "research.lock").read_text())
    target = replace(lock.targets["default"], platform="linux/\x1b[2J\nmanifest and lock belong together")
    written = lock_text.write(replace(lock, targets={"default": target}))
    paper = pypdf.PdfWriter()
    paper.add_blank_page(200, 200)
    paper.add_attachment("research.toml", (reader.paper / "research.toml").read_bytes())
    paper.add_attachment("research.lock", written.encode())
    paper.write("paper.pdf")
    done = reader("inspect", "paper.pdf")
    assert done.status == 0, done.err
    assert (
        "target        default, linux/\\x1b[2J\\nmanifest and lock belong together, 4 layers, not sealed\n" in done.out
    )
    assert "\x1b" not in done.out


# -- archives, registries and repositories -----------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["realize", "show"])
def test_a_crate_does_not_pass_for_an_own_project(reader: Reader, verb):
    """A manifest beside the crate's project would be built without a question."""
    crate = reader.paper.with_name("crate")
    shutil.copytree(reader.paper, crate, symlinks=True)
    shutil.copytree(reader.paper, crate / "project", symlinks=True)
    (crate / "ro-crate-metadata.json").write_text("{}")
    refused(
        reader(verb, crate),
        5,
        f"error: {crate}: it has two manifests: research.toml and project/research.toml\n"
        "  hint: ask whoever published it for one project with one lock\n",
    )


def test_names_that_are_no_text(reader: Reader):
    with tarfile.open("../release.tar", "w", format=tarfile.GNU_FORMAT) as packed:
        packed.add(reader.paper, os.fsdecode(b"x\xff"))
    done = reader("show", "../release.tar")
    assert (done.status, done.err) == (0, "")
    assert "as locked\n" in done.out


@pytest.mark.parametrize("document", [b"", b"[]", b"[" * 200_000])
def test_a_registry_that_answers_nonsense(reader: Reader, document):
    with Server() as server:
        server.files = {"/v2/lab/xor/manifests/1.0": document}
        done = reader("show", f"docker://{server.url('/lab/xor:1.0').partition('://')[2]}")
    assert done.status == 1
    assert ": it is not an OCI document\n" in done.err


def test_a_link_that_is_no_path(reader: Reader, tmp_path: Path):
    """Git has links of any length; all of it would be read into memory."""
    repository = Repository(tmp_path / "upstream")
    repository.write(research_o_toml="x", target="x" * 5000)
    blob = repository.git("hash-object", "-w", "target")
    repository.git("update-index", "--add", "--cacheinfo", f"120000,{blob},link")
    commit = repository.git("commit-tree", repository.git("write-tree"), "-m", "link")
    repository.git("tag", "v1", commit)
    done = reader("show", "../upstream@v1")
    assert (done.status, done.err.endswith(f"its commit {commit} is no sound one: it has a link of 5000 bytes\n")) == (
        5,
        True,
    )


@pytest.mark.parametrize("way", ["http", "git"])
def test_a_name_is_not_believed_over_an_open_way(reader: Reader, way):
    refused(
        reader("realize", "--yes", f"git+{way}://example.org/lab/xor@v1.0"),
        2,
        f"error: {way}://example.org/lab/xor: what comes over {way}:// can be changed on the way\n"
        "  hint: use https://, or name the whole commit behind an @\n",
    )


@pytest.mark.parametrize(
    ("url", "ways"),
    [
        ("https://example.org/xor", "https:ssh"),
        ("lab@example.org:xor", "https:ssh"),
        ("http://example.org/xor", "https:http:ssh"),
        ("file:///xor", "file"),
    ],
)
def test_git_is_not_sent_on_to_an_open_way(url, ways):
    assert _environment(Remote.of(url, Path("/")))["GIT_ALLOW_PROTOCOL"] == ways
