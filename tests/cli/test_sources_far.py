"""Recreating from a PDF, a registry, a git repository, an address and a DOI. All servers are on loopback."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pypdf
import pytest

from reprobox.project_files import write_project
from tests.cli.publications import Reader, nothing_left, refused
from tests.repositories import Repository, daemon
from tests.servers import Server, half, status

INDEX = "application/vnd.oci.image.index.v1+json"
NAMES = ("research.toml", "research.lock", "research-project.tar")


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


def three_files(reader: Reader) -> dict[str, bytes]:
    """What is attached to things."""
    tar = io.BytesIO()
    write_project(reader.paper, tar)
    return {
        "research.toml": (reader.paper / "research.toml").read_bytes(),
        "research.lock": (reader.paper / "research.lock").read_bytes(),
        "research-project.tar": tar.getvalue(),
    }


def realized(reader: Reader, *source: str) -> Any:
    """Realize it and run it: the result must be the author's."""
    done = reader("realize", "--yes", "--json", *source)
    assert done.status == 0, done.err
    ran = reader.call.process("run", "-C", "xor")
    assert (ran.status, ran.out) == (0, "xor\nready\n1 2 3\n"), ran.err
    assert Path("xor/out/result").read_text() == "two words\n"
    return done


# -- a PDF -------------------------------------------------------------------------------------------------------------


def pdf(files: Mapping[str, bytes], *more: tuple[str, bytes]) -> Path:
    writer = pypdf.PdfWriter()
    writer.add_blank_page(200, 200)
    for name, data in (*files.items(), *more):
        writer.add_attachment(name, data)
    writer.write("paper.pdf")
    return Path("paper.pdf")


@pytest.mark.userns
def test_from_a_pdf_alone(reader: Reader):
    path = pdf(three_files(reader))
    shutil.rmtree(reader.paper)
    assert "from          a PDF, file paper.pdf\n" in reader("show", path).out
    realized(reader, str(path))


def test_a_pdf_without_a_lock(reader: Reader):
    files = three_files(reader)
    del files["research.lock"], files["research-project.tar"]
    done = reader("realize", "--yes", pdf(files))
    assert done.status == 1
    assert done.err.startswith("error: paper.pdf: no research.lock is attached to it; there are: 'research.toml'\n")
    assert nothing_left()


def test_a_pdf_with_another_manifest_than_its_project_has(reader: Reader):
    files = three_files(reader)
    files["research.toml"] = files["research.toml"].replace(b"1.0", b"2.0")
    refused(
        reader("realize", "--yes", pdf(files)),
        5,
        "error: paper.pdf: it has two of research.toml, and they differ: one of its own, and one in research-project.tar\n"
        "  hint: ask whoever published it for one project with one lock\n",
    )


# -- a registry --------------------------------------------------------------------------------------------------------


def put(host: str, path: str, data: bytes, kind: str = "application/octet-stream") -> None:
    request = urllib.request.Request(f"http://{host}{path}", data=data, method="PUT", headers={"Content-Type": kind})
    urllib.request.urlopen(request).close()


def push(host: str, name: str, tag: str, layers: list[tuple[str, bytes]], **more: Any) -> dict[str, Any]:
    """Push blobs and a manifest over them; its descriptor."""
    for _, data in [*layers, ("{}", b"{}")]:
        begun = urllib.request.Request(f"http://{host}/v2/{name}/blobs/uploads/", data=b"", method="POST")
        with urllib.request.urlopen(begun) as answer:
            place = urllib.parse.urlsplit(answer.headers["Location"])
        digest = hashlib.sha256(data).hexdigest()
        put(host, f"{place.path}?{place.query}&digest=sha256:{digest}", data)
    kind = "application/vnd.oci.image.manifest.v1+json"
    document = {
        "schemaVersion": 2,
        "mediaType": kind,
        "config": descriptor(b"{}", "application/vnd.oci.empty.v1+json"),
        "layers": [
            {**descriptor(data, "application/x-tar"), "annotations": {"org.opencontainers.image.title": title}}
            for title, data in layers
        ],
        **more,
    }
    manifest = json.dumps(document).encode()
    put(host, f"/v2/{name}/manifests/{tag or 'sha256:' + hashlib.sha256(manifest).hexdigest()}", manifest, kind)
    return descriptor(manifest, kind)


def descriptor(data: bytes, kind: str) -> dict[str, Any]:
    return {"mediaType": kind, "digest": f"sha256:{hashlib.sha256(data).hexdigest()}", "size": len(data)}


@pytest.mark.userns
@pytest.mark.registry
def test_from_an_image_that_something_is_attached_to(reader: Reader, registry):
    image = push(registry.host, "papers/xor", "1.0", [("a", b"layer")])
    kind = "application/vnd.reprobox.research.v1"
    artifact = push(
        registry.host, "papers/xor", "", list(three_files(reader).items()), artifactType=kind, subject=image
    )
    listed = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [{**artifact, "artifactType": kind}]}
    tag = image["digest"].replace(":", "-")  # how older registries are told
    put(registry.host, f"/v2/papers/xor/manifests/{tag}", json.dumps(listed).encode(), INDEX)
    shutil.rmtree(reader.paper)
    for text in (f"{registry.host}/papers/xor:1.0", f"docker://{registry.host}/papers/xor:1.0"):
        assert (
            f"from          an image in a registry, image {registry.host}/papers/xor:1.0\n" in reader("show", text).out
        )
    realized(reader, f"oci://{registry.host}/papers/xor:1.0")


@pytest.mark.userns
@pytest.mark.registry
def test_from_a_vault_in_a_registry(reader: Reader, registry):
    place = f"oci://{registry.host}/vaults/xor:1.0"
    assert reader("vault", "-C", reader.paper, "--without-reprobox", place).status == 0
    done = reader("realize", "--yes", place)
    assert done.status == 0, done.err
    assert f"from          a vault, vault {place}, kept xor-" in done.err


@pytest.mark.registry
def test_an_image_that_nothing_is_attached_to(reader: Reader, registry):
    push(registry.host, "papers/bare", "1.0", [("a", b"layer")])
    done = reader("realize", "--yes", f"{registry.host}/papers/bare:1.0")
    assert done.status == 1
    assert done.err.startswith(f"error: {registry.host}/papers/bare:1.0: no")
    assert nothing_left()


# -- git ---------------------------------------------------------------------------------------------------------------


def keepable(root: Path) -> None:
    """Of a root file system, git keeps neither empty folders nor modes."""
    for place, folders, files in os.walk(root):
        if not folders and not files:
            Path(place, ".keep").touch()
        os.chmod(place, 0o755)
        for path in (Path(place, name) for name in files):
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)


@pytest.fixture
def upstream(reader: Reader, tmp_path: Path) -> Repository:
    repository = Repository(tmp_path / "upstream")
    keepable(reader.paper / "base")
    reader.lock()
    shutil.copytree(reader.paper, repository.path / "examples/xor", symlinks=True)
    repository.commit(tag="v1.0")
    (repository.path / "examples/xor/src/main.sh").write_text("echo later\n")
    repository.commit()
    return repository


@pytest.mark.userns
def test_from_a_git_repository_and_its_tag(reader: Reader, upstream: Repository, tmp_path):
    commit = upstream.git("rev-parse", "v1.0")
    with daemon(tmp_path) as url:
        done = realized(reader, f"{url}/upstream@v1.0#examples/xor")
    said = f"from          a git repository, repository {url}/upstream, commit {commit}, revision v1.0\n"
    assert said in done.err
    assert not Path("xor/.git").exists()


def test_folders_and_addresses_of_repositories(reader: Reader, upstream: Repository):
    commit = upstream.git("rev-parse", "v1.0")
    for text in ("../upstream@v1.0#examples/xor", f"git+file://{upstream.path}@{commit[:12]}#examples/xor"):
        done = reader("show", text)
        assert (done.status, done.err.count("error")) == (0, 0), done.err
        assert f"commit {commit}" in done.out
        assert "(deep/more.txt, main.sh), as locked\n" in done.out
    done = reader("realize", "--yes", "../upstream@main#examples/xor")
    assert (done.status, "code: it is not what the lock pins" in done.err) == (5, True)


def test_what_a_repository_does_not_have(reader: Reader, tmp_path):
    Repository(tmp_path / "other").write(a="x").commit(tag="v1.0")
    refused(
        reader("show", "../other@v1.0"),
        2,
        "error: ../other@v1.0: there is no research.toml in it\n"
        "  hint: name the revision and the folder that have one: …/name.git@v1.0#examples/xor\n",
    )
    assert reader("show", "../other@v9").err.endswith(
        "it has no commit, tag or branch 'v9'\n  hint: it has main, v1.0\n"
    )
    assert reader("show", "../other@v1.0#b").err == (
        f"fetching v1.0 of {tmp_path}/other\nerror: ../other@v1.0#b: it has no folder b\n  hint: look how it is spelled\n"
    )


def test_a_lock_that_is_in_a_note_on_the_commit(reader: Reader, upstream: Repository):
    files = {name: (reader.paper / name).read_bytes() for name in NAMES[:2]}
    upstream.git("rm", "-q", "--cached", "examples/xor/research.lock")
    shutil.copy(reader.paper / "src/main.sh", upstream.path / "examples/xor/src/main.sh")
    (upstream.path / "examples/xor/research.lock").unlink()
    upstream.commit(tag="v2.0")
    lines = [f"{name} {len(data)} sha256:{hashlib.sha256(data).hexdigest()}\n" for name, data in files.items()]
    note = b"".join([b"reprobox 1\nfolder examples/xor\n", *(line.encode() for line in lines), b"\n", *files.values()])
    (upstream.path / "note").write_bytes(note)
    blob = upstream.git("hash-object", "-w", "note")
    upstream.git("notes", "--ref=refs/notes/reprobox", "add", "-C", blob, "v2.0")
    done = reader("show", "../upstream@v2.0")
    assert done.status == 0, done.err
    assert "revision v2.0, lock from a note on the commit\n" in done.out
    assert "as locked\n" in done.out


def test_a_commit_that_unpacks_to_more_than_any_project(reader: Reader, tmp_path):
    """Ten trees, each of which names the one below it ten times: ten thousand million files in a kilobyte."""
    repository = Repository(tmp_path / "bomb")
    repository.write(a="x")
    inner = repository.commit() and repository.tree()
    for _ in range(10):
        listing = "\n".join(f"040000 tree {inner}\t{number}" for number in range(10))
        (tmp_path / "listing").write_text(f"{listing}\n")
        import subprocess

        done = subprocess.run(
            ["git", "mktree"], cwd=repository.path, input=f"{listing}\n", capture_output=True, text=True, check=True
        )
        inner = done.stdout.strip()
    commit = repository.git("commit-tree", inner, "-m", "bomb")
    repository.git("tag", "bomb", commit)
    with pytest.MonkeyPatch.context() as patch:
        from reprobox.archives.fetched import Limits

        patch.setattr("reprobox.sources.repository.LIMITS", Limits(entries=1000))
        done = reader("realize", "--yes", "../bomb@bomb")
    assert done.status == 5
    assert (
        f"its commit {commit} is no sound one: it has more than 1000 files, or more than 17179869184 bytes" in done.err
    )
    assert nothing_left()


# -- an address --------------------------------------------------------------------------------------------------------


def test_from_an_address(reader: Reader, server: Server):
    data = reader.zip().read_bytes()
    os.unlink("paper.zip")
    server.files["/files/paper.zip"] = data
    server.faults["/files/paper.zip"] = [half(100_000)]
    done = reader("show", server.url("/files/paper.zip"))
    assert "as locked\n" in done.out
    digest = hashlib.sha256(data).hexdigest()
    address = server.url("/files/paper.zip")
    assert f"from          a crate, downloaded, address {address}, sha256 {digest}\n" in done.out
    assert len(server.seen) == 2


def test_manifest_lock_and_project_beside_each_other(reader: Reader, server: Server):
    server.files = {f"/xor/{name}": data for name, data in three_files(reader).items()}
    done = reader("show", server.url("/xor/research.toml"))
    assert done.status == 0, done.err
    assert "as locked\n" in done.out
    del server.files["/xor/research-project.tar"]
    assert reader("show", server.url("/xor/research.lock")).status == 5  # its files are missing


def test_what_an_address_may_not_be(reader: Reader, server: Server, monkeypatch):
    server.files = {"/page": b"<!DOCTYPE html><html>\n", "/data.csv": b"a,b\n", "/large.zip": b"PK" + bytes(5000)}
    monkeypatch.setattr("reprobox.sources.web.fetch.__kwdefaults__", {"size": 0, "most": 4096})
    hint = "give the address of the file that the page offers, its DOI, or git+https://… for a repository"
    other = "it is another file than what was published, or download it yourself and give its path"
    for path, code, said in (
        ("/page", 2, f"this is a web page\n  hint: {hint}"),
        ("/data.csv", 2, f"nothing can be recreated from what is there\n  hint: {hint}"),
        ("/gone", 1, "it answered 404 Not Found"),
        ("/large.zip", 5, f"it sends more than 4096 bytes\n  hint: {other}"),
    ):  # fmt: skip
        url = server.url(path)
        refused(reader("realize", "--yes", url), code, f"error: {url}: {said}\n")
    refused(
        reader("realize", "--yes", "http://example.org/paper.zip"),
        2,
        "error: http://example.org/paper.zip: what comes over http:// can be changed on the way\n"
        "  hint: write https://example.org/paper.zip, or download it yourself and give its path\n",
    )
    url = server.url("/page")
    refused(
        reader("realize", "--yes", "--offline", url),
        6,
        f"error: {url}: the network may not be used\n  hint: run it again without --offline\n",
    )


# -- a DOI -------------------------------------------------------------------------------------------------------------

DOI = "10.5072/xor.1"


@pytest.fixture
def resolver(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    (tmp_path / "config.toml").write_text(f'doi-resolver = "{server.url("").rstrip("/")}"\n')
    monkeypatch.setenv("REPROBOX_CONFIG", str(tmp_path / "config.toml"))
    return server


def register(server: Server, page: str, doi: str = DOI, **more: Any) -> None:
    """Answers of the resolver, as doi.org and DataCite give them: the metadata by way of a redirect."""
    said = {"type": "dataset", "DOI": doi, "title": "XOR, learned", "publisher": "The Archive", **more}

    def negotiated(request: Any) -> tuple[int, Mapping[str, str], bytes]:
        wanted = request.headers.get("Accept") == "application/vnd.citationstyles.csl+json"
        return (302, {"Location": server.url("/agency")}, b"") if wanted else (302, {"Location": page}, b"")

    server.answers[f"/{doi}"] = negotiated
    server.files["/agency"] = json.dumps(said).encode()
    value = {"index": 1, "type": "URL", "data": {"format": "string", "value": page}, "ttl": 86400}
    server.files[f"/api/handles/{doi}"] = json.dumps({"responseCode": 1, "handle": doi, "values": [value]}).encode()


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def invenio(server: Server, files: Mapping[str, bytes], doi: str = DOI) -> str:
    """A record as InvenioRDM and Zenodo answer; the DOI is that of all versions."""
    register(server, server.url("/records/41"), doi)
    server.answers["/api/records/41"] = lambda _: (301, {"Location": "/api/records/42"}, b"")
    record = {"id": "42", "metadata": {"title": "XOR, learned"}, "links": {}}
    server.files["/api/records/42"] = json.dumps(record).encode()
    entries = []
    for name, data in files.items():
        place = f"/api/records/42/files/{name}/content"
        server.files[place] = data
        entries.append(
            {"key": name, "size": len(data), "checksum": f"md5:{md5(data)}", "status": "completed",
             "links": {"self": server.url(f"/api/records/42/files/{name}"), "content": server.url(place)}}
        )  # fmt: skip
    server.files["/api/records/42/files"] = json.dumps({"enabled": True, "entries": entries}).encode()
    return "an InvenioRDM record"


def dataverse(server: Server, files: Mapping[str, bytes]) -> str:
    register(server, server.url(f"/dataset.xhtml?persistentId=doi:{DOI}"))
    listed = []
    for number, (name, data) in enumerate(files.items()):
        server.files[f"/api/access/datafile/{number}?format=original"] = data
        folder, _, label = name.rpartition("/")
        file = {"id": number, "filename": label, "filesize": len(data), "md5": md5(data),
                "checksum": {"type": "MD5", "value": md5(data)}}  # fmt: skip
        listed.append({"label": label, "directoryLabel": folder, "restricted": False, "dataFile": file})
    query = urllib.parse.urlencode({"persistentId": f"doi:{DOI}"})
    place = f"/api/datasets/:persistentId/versions/:latest-published/files?{query}"
    server.files[place] = json.dumps({"status": "OK", "data": listed}).encode()
    return "a Dataverse dataset"


def figshare(server: Server, files: Mapping[str, bytes]) -> str:
    register(server, server.url("/articles/dataset/XOR_learned/123/2"))
    listed = []
    for number, (name, data) in enumerate(files.items()):
        server.files[f"/files/{number}"] = data
        listed.append({"id": number, "name": name, "size": len(data), "is_link_only": False, "supplied_md5": "",
                       "computed_md5": md5(data), "download_url": server.url(f"/files/{number}")})  # fmt: skip
    server.files["/v2/articles/123/versions/2"] = json.dumps({"title": "XOR, learned", "files": listed}).encode()
    return "a Figshare item"


ARCHIVES = pytest.mark.parametrize("archive", [invenio, dataverse, figshare])


@ARCHIVES
def test_from_a_doi(reader: Reader, resolver: Server, archive: Callable[..., str]):
    data = reader.zip().read_bytes()
    os.unlink("paper.zip")
    named = archive(resolver, {"README.md": b"read me\n", "paper.zip": data})
    for text in (DOI, f"doi:{DOI}", f"https://doi.org/{DOI}", f"{DOI}#paper.zip"):
        done = reader("show", text)
        assert done.status == 0, done.err
        assert re.search(
            rf"from          a crate of a record, doi {DOI}, title XOR, learned, archive {named}, page \S+,"
            rf" file paper.zip, checksum md5:{md5(data)}\n",
            done.out,
        )
        assert "as locked\n" in done.out


def test_manifest_lock_and_project_of_a_record(reader: Reader, resolver: Server):
    invenio(resolver, three_files(reader))
    done = reader("show", DOI)
    assert done.status == 0, done.err
    assert "from          the files of a record, doi 10.5072/xor.1, " in done.out
    assert "as locked\n" in done.out


@ARCHIVES
def test_a_file_that_is_not_the_listed_one(reader: Reader, resolver: Server, archive: Callable[..., str]):
    data = reader.zip().read_bytes()
    os.unlink("paper.zip")
    archive(resolver, {"paper.zip": data})
    (place,) = [path for path, content in resolver.files.items() if content == data]
    resolver.files[place] = changed = data[:-1] + b"?"
    refused(
        reader("realize", "--yes", DOI),
        5,
        f"error: {DOI}: paper.zip is not the file that the record lists: it has {md5(changed)}, and {md5(data)} is"
        " listed\n  hint: try again later; if it stays so, tell the archive, and take another copy\n",
    )


def test_a_doi_that_is_not_ours(reader: Reader, resolver: Server):
    invenio(resolver, {"table.csv": b"1,2\n", "notes.txt": b"x\n"})
    refused(
        reader("realize", "--yes", DOI),
        2,
        f"error: {DOI}: nothing can be recreated from an InvenioRDM record “XOR, learned”: it holds 2 files: table.csv"
        " (4 bytes), notes.txt (2 bytes)\n"
        "  hint: a research.toml with its research.lock would be needed, in a crate, an archive, a vault or a PDF;"
        " without them, follow what its authors write, and begin a manifest with `reprobox init`\n",
    )
    page = resolver.url("/articles.html")
    related = {"is-supplemented-by": [{"id-type": "doi", "id": "10.5281/zenodo.7", "asserted-by": "subject"}]}
    register(resolver, page, relation=related)
    refused(
        reader("realize", "--yes", DOI),
        2,
        f"error: {DOI}: this DOI is “XOR, learned” (The Archive), and leads to {page}, which is no archive whose files can"
        " be listed (InvenioRDM, Zenodo, Dataverse, Figshare)\n"
        "  hint: it says that these belong to it: 10.5281/zenodo.7; try them\n",
    )


def test_what_can_be_wrong_with_a_doi(reader: Reader, resolver: Server):
    refused(
        reader("realize", "--yes", "10.5072/none"),
        1,
        "error: 10.5072/none: there is no such DOI\n  hint: look how it is spelled\n",
    )
    invenio(resolver, {"a.zip": b"PK", "b.zip": b"PK"})
    refused(
        reader("realize", "--yes", DOI),
        2,
        f"error: {DOI}: several files of the record may be meant: a.zip, b.zip\n"
        f"  hint: name one behind a #: {DOI}#a.zip\n",
    )
    page = resolver.url("/records/41")
    resolver.files["/api/records/42/files"] = b'{"enabled": true}'
    refused(
        reader("realize", "--yes", DOI),
        1,
        f"error: {page}: its listing of files is not as documented: KeyError('entries')\n"
        "  hint: download the file from its page, and give its path\n",
    )
    resolver.always["/api/records/42/files"] = status(403)
    refused(
        reader("realize", "--yes", DOI),
        1,
        f"error: {page}: its files are not open to everybody\n  hint: ask its authors, or log in there\n",
    )
    resolver.files["/api/records/42"] = b'{"id": "../../admin"}'
    assert "its listing of files is not as documented: ValueError('../../admin')" in reader("show", DOI).err


def test_a_busy_archive_is_asked_again(reader: Reader, resolver: Server):
    data = reader.zip().read_bytes()
    os.unlink("paper.zip")
    invenio(resolver, {"paper.zip": data})
    resolver.faults["/api/records/42/files"] = [status(429, retry_after="0"), status(503, retry_after="0")]
    resolver.faults["/api/records/42/files/paper.zip/content"] = [half(1000)]
    assert reader("show", DOI).status == 0
