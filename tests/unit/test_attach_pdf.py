"""PDFs: what is attached to one is read under limits, and attaching changes nothing that was there."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from reprobox.attach import pdf
from reprobox.attach.files import LOCK, MANIFEST, MOST, NAMES, PROJECT, Attached
from reprobox.attach.pdf import Wish
from reprobox.attach.pdf_notice import notice
from reprobox.errors import IntegrityError, ReproboxError
from tests import pdfs

EPOCH = 1_700_000_000
FILES = {MANIFEST: b"[project]\n", LOCK: b"lock\n" * 2000, PROJECT: bytes(range(256)) * 40}


@pytest.fixture
def files(tmp_path: Path) -> Attached:
    folder = tmp_path / "files"
    folder.mkdir()
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    return Attached(folder=folder, where="project", names=NAMES)


def put(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def read(path: Path) -> dict[str, bytes]:
    folder = path.with_suffix(".out")
    folder.mkdir()
    found = pdf.read(path, folder)
    assert found.where == str(path)
    return {name: (folder / name).read_bytes() for name in found.names}


def refusal(path: Path) -> ReproboxError:
    with pytest.raises(ReproboxError) as caught:
        read(path)
    return caught.value


def attached(source: Path, files: Attached, target: Path, **wish: bool) -> pdf.Done:
    said = notice("xor", "1.0", "ab" * 32, files.names, target.name)
    return pdf.attach(source, target, files, EPOCH, said, Wish(**wish))


# -- reading what others wrote -----------------------------------------------------------------------------------------


def test_files_that_another_program_embedded_are_read(tmp_path: Path) -> None:
    path = put(tmp_path / "a.pdf", pdfs.carrying([("note.txt", b"1"), (MANIFEST, b"m"), (LOCK, b"l")]))
    assert read(path) == {MANIFEST: b"m", LOCK: b"l"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(
            pdfs.carrying([(LOCK, b"1"), (LOCK, b"2"), (MANIFEST, b"m")]),
            "2 files named research.lock are attached to it, and only one can be meant",
            id="two locks",
        ),
        pytest.param(
            pdfs.carrying([("../../research.lock", b"1"), ("/etc/passwd", b"2"), ("a\nb", b"3")]),
            "no research.toml is attached to it; there are: '../../research.lock', '/etc/passwd', 'a?b'",
            id="hostile names",
        ),
        pytest.param(pdfs.paper(), "no research.toml is attached to it, nor anything else", id="nothing"),
        pytest.param(
            pdfs.carrying([(MANIFEST, b"m")]),
            "no research.lock is attached to it; there are: 'research.toml'",
            id="no lock",
        ),
        pytest.param(
            pdfs.carrying([(MANIFEST, b"m"), (LOCK, b"l")], Size=pdfs.number(7)),
            "research.toml in it is damaged: it has 1 bytes, and 7 were attached",
            id="another size",
        ),
        pytest.param(
            pdfs.carrying([(MANIFEST, b"m"), (LOCK, b"l")], CheckSum=pdfs.string("0123456789abcdef")),
            "research.toml in it is damaged: its checksum is another one",
            id="another checksum",
        ),
        pytest.param(b"%PDF-1.7\nnothing else\n", "the PDF is broken: ", id="broken"),
        pytest.param(b"\\documentclass{article}", "it is no PDF", id="no PDF"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = put(tmp_path / "a.pdf", data)
    error = refusal(path)
    assert error.message == message or (message.endswith(": ") and error.message.startswith(message))
    assert error.where == str(path)
    assert error.hint
    assert error.status == (5 if "damaged" in message or "only one" in message else 2 if "no PDF" in message else 1)


def test_a_bomb_is_stopped_while_it_unpacks(tmp_path: Path) -> None:
    """Ten gigabytes in ten megabytes, in the file that may be largest; stopped at its limit, and cheaply where it is small."""
    path = put(tmp_path / "a.pdf", pdfs.bomb(MANIFEST, 64 << 20))
    assert path.stat().st_size < 100_000
    error = refusal(path)
    assert isinstance(error, IntegrityError)
    assert error.message == f"research.toml in it unpacks to more than {MOST[MANIFEST]} bytes, and no honest one does"
    assert (path.with_suffix(".out") / MANIFEST).stat().st_size <= MOST[MANIFEST]


@pytest.mark.parametrize(
    "tree", ["<< /Kids [8 0 R] >>", "<< /Names [(a)] >>", "<< /Names 5 >>", "<< /Kids [7 0 R 9 9] >>"]
)
def test_a_tree_without_end_or_sense(tmp_path: Path, tree: str) -> None:
    objects = {
        1: b"<< /Type /Catalog /Pages 2 0 R /Names << /EmbeddedFiles 8 0 R >> >>",
        2: b"<< /Type /Pages /Kids [] /Count 0 >>",
        7: b"<< /Kids [8 0 R] >>",
        8: tree.encode(),
    }
    error = refusal(put(tmp_path / "a.pdf", pdfs.assembled(objects)))
    endless = "8 0 R" in tree or "7 0 R" in tree
    assert error.message == (
        "the PDF is broken: its tree of attachments has no end"
        if endless
        else "no research.toml is attached to it, nor anything else"
    )


@pytest.mark.tool("qpdf")
def test_an_encrypted_pdf_is_refused(tmp_path: Path, files: Attached) -> None:
    plain, path = put(tmp_path / "plain.pdf", pdfs.paper()), tmp_path / "a.pdf"
    subprocess.run(["qpdf", "--encrypt", "", "owner", "256", "--", plain, path], check=True)
    with pytest.raises(ReproboxError) as caught:
        attached(path, files, tmp_path / "b.pdf")
    for refused in (refusal(path), caught.value):
        assert str(refused) == (
            f"{path}: the PDF is encrypted: nothing in it can be read or added to\n"
            "  hint: take the encryption off, where you may: `qpdf --decrypt paper.pdf plain.pdf`"
        )
    assert sorted(item.name for item in tmp_path.iterdir()) == ["a.out", "a.pdf", "files", "plain.pdf"]
