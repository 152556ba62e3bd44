"""PDFs: what is attached to one is read under limits, and attaching changes nothing that was there."""

from __future__ import annotations

import hashlib
import io
import subprocess
from collections.abc import Callable
from pathlib import Path

import pypdf
import pytest

from reprobox.attach import pdf
from reprobox.attach.files import LOCK, MANIFEST, MOST, NAMES, PROJECT, Attached
from reprobox.attach.pdf import Wish
from reprobox.attach.pdf_notice import notice
from reprobox.errors import IntegrityError, ReproboxError, UsageError
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
        pytest.param(
            pdfs.paper()[: pdfs.paper().rindex(b"startxref")] + b"startxref\n9000000000000000000\n%%EOF\n",
            "the PDF is broken: ",
            id="start",
        ),
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
    """However much it would unpack to: it stops at the limit of the file that it claims to be."""
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


# -- attaching ---------------------------------------------------------------------------------------------------------


def links(page: pypdf.PageObject) -> list[str]:
    return [item.get_object()["/A"]["/URI"] for item in page.get("/Annots", [])]


def seen(data: bytes) -> list[object]:
    """What readers of a PDF see: text and packed content of every page, boxes, links, bookmarks, title, language, others."""
    reader = pypdf.PdfReader(io.BytesIO(data), strict=True)
    pages = [
        (page.extract_text(), page.get_contents().get_data(), page.mediabox, page.rotation, links(page))
        for page in reader.pages
    ]
    others = {name: data for name, data in reader.attachments.items() if name not in NAMES}
    return [
        pages,
        [item.title for item in reader.outline],
        dict(reader.metadata or {}),
        reader.root_object.get("/Lang"),
        others,
    ]


def facts(path: Path) -> list[str]:
    """What poppler says of the document, which believes the newest trailer alone; but for its size."""
    done = subprocess.run(["pdfinfo", path], capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if not line.startswith(("File size:", "Optimized:"))]


def variants(tmp_path: Path) -> dict[str, Path]:
    """One paper as several programs would have written it."""
    classic = put(tmp_path / "classic.pdf", pdfs.paper())
    made = {
        "classic": classic,
        "no last line end": put(tmp_path / "cut.pdf", pdfs.paper().rstrip(b"\n")),
        "others attached": put(
            tmp_path / "others.pdf", pdfs.carrying([("data.csv", b"1,2"), ("zzz", b"z"), ("research", b"r")])
        ),
        "twice changed": put(tmp_path / "twice.pdf", pdfs.paper() + b"% a comment after the end\n"),
    }
    for name, argv in {
        "object streams": ["--object-streams=generate"],
        "linearized": ["--linearize"],
        "linearized with object streams": ["--linearize", "--object-streams=generate"],
    }.items():
        made[name] = tmp_path / f"{name.replace(' ', '-')}.pdf"
        subprocess.run(["qpdf", *argv, classic, made[name]], check=True)
    script = tmp_path / "paper.ps"
    script.write_text("%!PS\n/Times-Roman findfont 20 scalefont setfont 72 700 moveto (from ghostscript) show showpage")
    made["ghostscript"] = tmp_path / "gs.pdf"
    subprocess.run(["gs", "-q", "-sDEVICE=pdfwrite", "-o", made["ghostscript"], script], check=True)
    return made


@pytest.mark.tool("qpdf")
@pytest.mark.tool("gs")
@pytest.mark.tool("pdfdetach")
def test_attaching_changes_nothing_that_was_there(tmp_path: Path, files: Attached) -> None:
    for name, source in variants(tmp_path).items():
        before = source.read_bytes()
        target = tmp_path / "new.pdf"
        done = attached(source, files, target)
        data = target.read_bytes()
        assert data.startswith(before), name
        assert seen(data) == seen(before), name
        assert facts(target) == facts(source), name
        assert (done.before, done.after, done.replaced, done.notes) == (len(before), len(data), (), ())
        checked = subprocess.run(["qpdf", "--check", target], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, f"{name}: {checked.stdout}{checked.stderr}"
        out = tmp_path / f"out {name}"
        out.mkdir()
        told = subprocess.run(["pdfdetach", "-saveall", "-o", out, target], capture_output=True, text=True, check=True)
        assert told.stderr == "", name
        assert {item: (out / item).read_bytes() for item in NAMES} == FILES, name
        assert source.read_bytes() == before
        target.unlink()


def test_the_same_bytes_each_time_and_the_old_ones_when_it_is_taken_off(tmp_path: Path, files: Attached) -> None:
    source, first, second = put(tmp_path / "a.pdf", pdfs.paper()), tmp_path / "new.pdf", tmp_path / "other" / "new.pdf"
    second.parent.mkdir()
    attached(source, files, first)
    again = attached(first, files, second)
    assert first.read_bytes() == second.read_bytes()
    assert again.replaced == NAMES
    (files.folder / LOCK).write_bytes(b"another lock")
    attached(first, files, first)
    assert read(first)[LOCK] == b"another lock"
    assert first.read_bytes().count(b"/EmbeddedFile") == second.read_bytes().count(b"/EmbeddedFile")
    pdf.remove(first, first)
    assert first.read_bytes() == source.read_bytes()
    with pytest.raises(ReproboxError) as caught:
        pdf.remove(first, first)
    assert str(caught.value) == f"{first}: none of reprobox's files is attached to it"
    assert sorted(item.name for item in tmp_path.iterdir()) == ["a.pdf", "files", "new.out", "new.pdf", "other"]


def test_files_say_what_they_are(tmp_path: Path, files: Attached) -> None:
    """As PDF/A-3 asks: a media type, a date, a description, how they belong to the document."""
    target = tmp_path / "new.pdf"
    attached(put(tmp_path / "a.pdf", pdfs.carrying([("data.csv", b"1")])), files, target)
    root = pypdf.PdfReader(target).root_object
    named = root["/Names"]["/EmbeddedFiles"]["/Names"]
    assert named[::2] == ["data.csv", PROJECT, LOCK, MANIFEST]
    assert [item.get_object()["/UF"] for item in root["/AF"]] == list(NAMES)
    for item, media, relation in zip(
        root["/AF"], ("toml", "toml", "x-tar"), ("Supplement", "Supplement", "Source"), strict=True
    ):
        specification = item.get_object()
        stream = specification["/EF"]["/F"]
        name = specification["/F"]
        assert (stream["/Subtype"], specification["/AFRelationship"]) == (f"/application/{media}", f"/{relation}")
        assert stream["/Params"]["/Size"] == len(FILES[name])
        assert stream["/Params"]["/CheckSum"].original_bytes == hashlib.md5(FILES[name]).digest()
        assert stream["/Params"]["/ModDate"] == "D:20231114221320Z"
        assert "environment" in specification["/Desc"] or "code" in specification["/Desc"]


@pytest.mark.tool("pdftotext")
def test_words_are_there_for_people_if_asked_for(tmp_path: Path, files: Attached) -> None:
    source, target = put(tmp_path / "a.pdf", pdfs.paper()), tmp_path / "new.pdf"
    attached(source, files, target, page=True, line=True)
    told = subprocess.run(["pdftotext", "-layout", target, "-"], capture_output=True, text=True, check=True).stdout
    first, second, third = told.split("\f")[:3]
    assert "Page 1 of it" in first
    assert "The environment of this work is attached to this PDF: research.toml, research.lock" in first
    assert "(lock sha256:abababababab)" in first
    assert second.split() == ["Page", "2", "of", "it"]
    assert "The environment of this work is attached" in third
    assert "reprobox realize new.pdf" in third
    assert "ab" * 32 in third
    pages = pypdf.PdfReader(target, strict=True).pages
    assert [page.rotation for page in pages] == [0, 90, 0]
    pdf.remove(target, target)
    assert target.read_bytes() == source.read_bytes()


def test_a_later_change_by_another_program_is_not_lost(tmp_path: Path, files: Attached) -> None:
    """Then our revision is not the newest: the files are replaced, and what came after them stays."""
    source, target = put(tmp_path / "a.pdf", pdfs.paper()), tmp_path / "new.pdf"
    attached(source, files, target)
    writer = pypdf.PdfWriter(target, incremental=True)
    writer.add_metadata({"/Keywords": "later"})
    writer.write(target)
    (files.folder / LOCK).write_bytes(b"another lock")
    done = attached(target, files, target)
    assert done.replaced == NAMES
    assert read(target)[LOCK] == b"another lock"
    assert pypdf.PdfReader(target).metadata["/Keywords"] == "later"
    (note,) = pdf.remove(target, target).notes
    assert note == (
        "the PDF was changed after they were attached: they are named no more, but their bytes are still in it;"
        " `qpdf in.pdf out.pdf` writes it without them"
    )
    assert pypdf.PdfReader(target).attachments == {}
    assert pypdf.PdfReader(target).metadata["/Keywords"] == "later"


# -- signatures, archives, faults --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sign(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bytes], bytes]:
    folder = tmp_path_factory.mktemp("signer")
    make = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -subj /CN=Author -days 30"
    subprocess.run(make.split(), cwd=folder, capture_output=True, check=True)

    def signature(data: bytes) -> bytes:
        argv = [
            "openssl",
            "cms",
            "-sign",
            "-binary",
            "-signer",
            "cert.pem",
            "-inkey",
            "key.pem",
            "-outform",
            "DER",
            "-md",
            "sha256",
        ]
        return subprocess.run(argv, cwd=folder, input=data, capture_output=True, check=True).stdout

    return signature


@pytest.mark.tool("pdfsig")
@pytest.mark.tool("openssl")
def test_a_signature_stays_valid_for_what_was_signed(
    tmp_path: Path, files: Attached, sign: Callable[[bytes], bytes]
) -> None:
    source, target = put(tmp_path / "a.pdf", pdfs.signed(sign)), tmp_path / "new.pdf"
    assert attached(source, files, target).notes == (
        "the PDF is signed: the signature stays valid for what was signed, and viewers tell that files came later",
    )
    told = subprocess.run(["pdfsig", target], capture_output=True, text=True, check=False).stdout
    assert "Signature is Valid" in told
    assert "Not total document signed" in told


@pytest.mark.parametrize(
    ("certified", "wish", "why"),
    [
        (True, {}, "its author certified that nothing is added to it"),
        (False, {"line": True}, "its pages are signed"),
        (False, {"page": True}, "its pages are signed"),
    ],
)
def test_a_signature_is_not_broken_without_a_word(
    tmp_path: Path, files: Attached, certified: bool, wish: dict[str, bool], why: str
) -> None:
    source, target = put(tmp_path / "a.pdf", pdfs.signed(certified=certified)), tmp_path / "new.pdf"
    with pytest.raises(UsageError) as caught:
        attached(source, files, target, **wish)
    assert str(caught.value) == (
        f"{source}: the PDF is signed, and this would break the signature: {why}\n"
        "  hint: attach before signing; or give --break-signature, and sign it again"
    )
    assert not target.exists()
    done = attached(source, files, target, **wish, break_signature=True)
    assert done.notes == ("the PDF was signed, and its signature is broken now: sign it again",)
    assert read(target) == FILES


def test_a_pdf_that_claims_to_be_an_archive_is_told_of(tmp_path: Path, files: Attached) -> None:
    xmp = b"<rdf:Description xmlns:pdfaid='http://www.aiim.org/pdfa/ns/id/' pdfaid:part='2' pdfaid:conformance='B'/>"
    objects = {
        1: b"<< /Type /Catalog /Pages 2 0 R /Metadata 4 0 R >>",
        2: b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        3: b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 300] >>",
        4: b"<< /Type /Metadata /Subtype /XML /Length %d >>\nstream\n%b\nendstream" % (len(xmp), xmp),
    }
    done = attached(put(tmp_path / "a.pdf", pdfs.assembled(objects)), files, tmp_path / "new.pdf", line=True)
    assert done.notes == (
        "the PDF says that it is PDF/A-2, which allows no such attachment; PDF/A-3 does",
        "the PDF says that it is PDF/A, which wants fonts embedded; those of the words are not",
    )


def test_a_pdf_whose_end_is_lost_is_not_added_to(tmp_path: Path, files: Attached) -> None:
    data = pdfs.paper()
    source = put(tmp_path / "a.pdf", data[: data.rindex(b"startxref")] + b"startxref\n17\n%%EOF\n")
    with pytest.raises(ReproboxError) as caught:
        attached(source, files, tmp_path / "new.pdf")
    assert str(caught.value) == (
        f"{source}: the PDF is broken: its end does not say where its table of objects is\n"
        "  hint: write it anew with `qpdf broken.pdf mended.pdf`, or print it to a new PDF"
    )
    assert sorted(item.name for item in tmp_path.iterdir()) == ["a.pdf", "files"]


def test_any_byte_of_the_files_that_is_lost_is_told(tmp_path: Path, files: Attached) -> None:
    target = tmp_path / "new.pdf"
    attached(put(tmp_path / "a.pdf", pdfs.paper()), files, target)
    data = target.read_bytes()
    start = data.index(b"/Subtype /application#2Ftoml", data.index(b"/Subtype /application#2Ftoml") + 1)
    place = data.index(b"stream\n", start) + 30
    put(target, data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
    error = refusal(target)
    assert isinstance(error, IntegrityError)
    assert error.message.startswith("research.lock in it is damaged: ")
