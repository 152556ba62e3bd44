"""What inputs say of their own licences."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from reprobox.licences import CLASSIFIERS, EXPRESSION, LICENSE, PROSE, UNKNOWN, Licence, licence_of
from reprobox.licences import DEP5 as TOLD
from reprobox.lock import Input
from reprobox.store import Store
from reprobox.vault.inventory import inventory
from tests.debs import make_deb

DEP5 = b"""\
Format: https://example.org/copyright-format/1.0/

Files: *
Copyright: somebody
License: Expat

Files: debian/*
Copyright: somebody else
License: GPL-2+
 the text
"""


def found(store: Path, name: str, data: bytes, kind: str, **facts: str) -> Licence:
    shelf = Store(store)
    item = Input(type=kind, name=name, sha256=shelf.add_blob(data), size=len(data), facts=facts)
    told = licence_of(item, shelf)
    assert licence_of(item, shelf) == told  # what is remembered is the same
    return told


def wheel(text: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x-1.dist-info/METADATA", f"Metadata-Version: 2.1\nName: x\nVersion: 1\n{text}\n\nText\n")
    return buffer.getvalue()


def sdist(text: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        data = f"Metadata-Version: 2.1\nName: x\n{text}\n".encode()
        info = tarfile.TarInfo("x-1/PKG-INFO")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("copyright_file", "section", "expected"),
    [
        (DEP5, "main/net", Licence(name="Expat, GPL-2+", names=("Expat", "GPL-2+"), told_in=TOLD)),
        (b"Long prose about MIT.\n", "net", Licence(name=UNKNOWN, told_in=PROSE)),
        (b"See /usr/share/common-licenses/GPL-2.\n", "net", Licence(told_in=PROSE, refers=("GPL-2",))),
        (
            DEP5,
            "non-free-firmware/kernel",
            Licence(name="Expat, GPL-2+", names=("Expat", "GPL-2+"), told_in=TOLD, closed="it is in non-free"),
        ),
        (
            DEP5,
            "multiverse/games",
            Licence(name="Expat, GPL-2+", names=("Expat", "GPL-2+"), told_in=TOLD, closed="it is in multiverse"),
        ),
    ],
)
def test_packages(store, tmp_path, copyright_file, section, expected):
    files = {"usr/share/doc/tool/copyright": copyright_file}
    path = make_deb(tmp_path, "tool", control={"Section": section}, files=files)
    assert found(store, path.name, path.read_bytes(), "deb") == expected


def test_a_package_without_a_copyright_file_and_one_that_is_none(store, tmp_path):
    path = make_deb(tmp_path, "tool")
    assert found(store, path.name, path.read_bytes(), "deb", path="pool/non-free/t/tool.deb") == Licence(
        closed="it is in non-free"
    )
    assert found(store, "broken.deb", b"not a package", "deb") == Licence()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("License-Expression: BSD-3-Clause", Licence(name="BSD-3-Clause", names=("BSD-3-Clause",), told_in=EXPRESSION)),
        (
            "Classifier: License :: OSI Approved :: MIT License\nLicense: long text",
            Licence(name="MIT License", names=("MIT License",), told_in=CLASSIFIERS),
        ),
        ("License: Apache 2.0", Licence(name="Apache 2.0", names=("Apache 2.0",), told_in=LICENSE)),
        ("", Licence()),
        (
            "License: NVIDIA Proprietary Software",
            Licence(
                name="NVIDIA Proprietary Software",
                closed="its licence is NVIDIA Proprietary Software",
                names=("NVIDIA Proprietary Software",),
                told_in=LICENSE,
            ),
        ),
        (
            "Classifier: License :: Other/Proprietary License",
            Licence(
                name="Other/Proprietary License",
                closed="its licence is Other/Proprietary License",
                names=("Other/Proprietary License",),
                told_in=CLASSIFIERS,
            ),
        ),
    ],
)
def test_python_packages(store, text, expected):
    assert found(store, "x-1-py3-none-any.whl", wheel(text), "wheel") == expected
    assert found(store, "x-1.tar.gz", sdist(text), "sdist") == expected


def test_other_files_say_nothing(store):
    assert found(store, "weights.bin", b"123", "file") == Licence()


def test_the_inventory_is_for_people():
    data = b"x"
    item = Input(type="deb", name="fw.deb", sha256=hashlib.sha256(data).hexdigest(), size=1)
    text = inventory(
        [item],
        {item.sha256: Licence(name="odd", closed="it is in non-free")},
        {"data /d": "kept elsewhere"},
        {item.sha256: "inputs/fw.deb"},
    )
    assert text == (
        "What this vault keeps of the lock, as each file tells its licence itself.\n\n"
        f"{item.sha256}             1  inputs/fw.deb  odd\n\n"
        "Perhaps not to be passed on to everybody:\n  fw.deb: it is in non-free\n\n"
        "Not in this vault:\n  data /d: kept elsewhere\n"
    )
