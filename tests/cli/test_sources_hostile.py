"""Publications that were made to reach out of their folder, before the reader agreed or after."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from reprobox.digest import canonical, prefixed, sha256
from tests.cli.publications import Reader, nothing_left

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
    assert done.err.endswith(f": the project in it cannot be unpacked: {said}")
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
