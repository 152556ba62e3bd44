"""``reprobox deposit`` against an archive on loopback that answers as InvenioRDM is documented to, faults included."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from reprobox.cli import main
from reprobox.deposit.invenio import Invenio as Client
from reprobox.deposit.invenio import server_url
from reprobox.deposit.written_back import write_doi
from reprobox.download.downloader import Downloader
from reprobox.download.transfer import Watch
from reprobox.errors import DepositError, UsageError
from reprobox.git.worktree import NEVER
from tests.invenio import TOKEN, Invenio
from tests.servers import Handler, Server, redirect, silent, status

MANIFEST = """\
[project]
name = "xor"  # the short one
title = "A network learns XOR"
version = "1.0.0"
description = "Weights & biases, a few of them"
license = "MIT"
authors = [
    { name = "Ada Lovelace", orcid = "0000-0002-1825-0097", affiliation = "Analytical Engines" },
    { name = "Hopper, Grace" },
]
keywords = ["neural networks"]
repository = "https://example.org/xor"

[base]
bootstrap = "debian:bookworm"
"""
CITATION = 'cff-version: 1.2.0\ntitle: A network learns XOR\ndoi: 10.1/old\nauthors:\n- name: "Ada"\n'


@dataclass
class Desk:
    """A project, the archive, and the command line."""

    root: Path
    archive: Invenio
    server: Server
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *words: str | Path) -> Any:
        self.capsys.readouterr()
        given = ["deposit", "-C", self.root, "--server", self.server.url(""), *words]
        code = main([str(word) for word in given])
        out, err = self.capsys.readouterr()
        assert TOKEN not in out + err
        return code, out, err

    def json(self, *words: str | Path) -> dict[str, Any]:
        code, out, err = self(*words, "--json")
        assert code == 0, err
        found: dict[str, Any] = json.loads(out)
        return found

    @property
    def record(self) -> Any:
        (record,) = self.archive.records.values()
        return record

    def asked(self, method: str, ending: str) -> int:
        return sum(item.method == method and item.path.endswith(ending) for item in self.server.seen)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Desk]:
    monkeypatch.setenv("REPROBOX_DEPOSIT_TOKEN", TOKEN)
    monkeypatch.setattr(Watch, "sleep", lambda *_: None)
    root = tmp_path / "project"
    root.mkdir()
    (root / "research.toml").write_text(MANIFEST)
    (root / "CITATION.cff").write_text(CITATION)
    (root / "xor.zip").write_bytes(b"a crate" * 50_000)
    archive = Invenio()
    with archive.serve() as server:
        yield Desk(root, archive, server, capsys)


# -- the way of a deposit ----------------------------------------------------------------------------------------------


def test_a_draft_its_doi_and_then_for_ever(desk: Desk):
    code, out, err = desk("--reserve")
    assert code == 0, err
    assert "the DOI 10.5072/zenodo.1001 is reserved" in err
    assert out.splitlines()[-1] == "DOI         10.5072/zenodo.1001 (reserved)"
    assert (desk.root / "research.toml").read_text() == MANIFEST.replace(
        "# the short one\n", '# the short one\ndoi = "10.5072/zenodo.1001"\n'
    )
    assert (desk.root / "CITATION.cff").read_text() == CITATION.replace("10.1/old", "10.5072/zenodo.1001")

    done = desk.json(desk.root / "xor.zip")
    assert (done["state"], done["id"], done["files"][0]["sent"]) == ("draft", "1001", True)
    assert not desk.archive.published

    done = desk.json(desk.root / "xor.zip", "--publish", "--yes")
    assert (done["state"], done["doi"], done["files"][0]["sent"]) == ("published", "10.5072/zenodo.1001", False)
    assert desk.archive.published == ["1001"]
    assert desk.record.files["xor.zip"].data == (desk.root / "xor.zip").read_bytes()
    assert desk.record.pids["doi"]["identifier"] == "10.5072/zenodo.1001"
    assert desk.asked("PUT", "/content") == 1


def test_the_archive_is_told_what_the_manifest_says(desk: Desk):
    desk.json(desk.root / "xor.zip")
    said = desk.record.metadata
    assert said.pop("publication_date")
    assert said == {
        "resource_type": {"id": "software"},
        "title": "A network learns XOR",
        "version": "1.0.0",
        "publisher": "127.0.0.1",
        "description": "<p>Weights &amp; biases, a few of them</p>",
        "creators": [
            {
                "person_or_org": {
                    "type": "personal",
                    "family_name": "Lovelace",
                    "given_name": "Ada",
                    "identifiers": [{"scheme": "orcid", "identifier": "0000-0002-1825-0097"}],
                },
                "affiliations": [{"name": "Analytical Engines"}],
            },
            {"person_or_org": {"type": "personal", "family_name": "Hopper", "given_name": "Grace"}},
        ],
        "rights": [{"id": "mit"}],
        "subjects": [{"subject": "neural networks"}],
        "related_identifiers": [
            {"identifier": "https://example.org/xor", "scheme": "url", "relation_type": {"id": "issupplementto"}}
        ],
    }


def test_nothing_is_published_twice(desk: Desk):
    desk.json(desk.root / "xor.zip", "--publish", "--yes")
    seen = len(desk.server.seen)
    code, out, _ = desk(desk.root / "xor.zip", "--publish", "--yes")
    assert code == 0
    assert out.startswith("published already https://archive.example/records/1001\n")
    assert len(desk.server.seen) == seen
    (desk.root / "xor.zip").write_bytes(b"another crate")
    code, _, err = desk(desk.root / "xor.zip", "--publish", "--yes")
    assert code == 1
    assert "it is published already as 10.5072/zenodo.1001, and what is published does not change" in err
    assert "hint: deposit these files as its next version: --new-version" in err
    assert desk.archive.published == ["1001"]


def test_a_next_version(desk: Desk):
    desk.json(desk.root / "xor.zip", "--publish", "--yes")
    (desk.root / "xor.zip").write_bytes(b"another crate")
    done = desk.json(desk.root / "xor.zip", "--new-version", "--publish", "--yes")
    assert (done["id"], done["doi"], done["state"]) == ("1002", "10.5072/zenodo.1002", "published")
    first, second = desk.archive.records.values()
    assert first.parent == second.parent
    assert second.metadata["version"] == "1.0.0"
    assert 'doi = "10.5072/zenodo.1002"' in (desk.root / "research.toml").read_text()


def test_the_same_next_version_is_published_once(desk: Desk):
    """Also where the archive published it, its answer was lost, and then it could not be asked."""
    desk.json(desk.root / "xor.zip", "--publish", "--yes")
    (desk.root / "xor.zip").write_bytes(b"another crate")

    def lost(handler: Handler) -> None:
        desk.archive.answer(desk.server.seen[-1])
        desk.server.faults["/api/records/1002"] = [status(500)] * 20
        handler.hang_up()

    desk.server.faults["/api/records/1002/draft/actions/publish"] = [lost]
    again = (desk.root / "xor.zip", "--new-version", "--publish", "--yes")
    assert desk(*again)[0] == 1
    desk.server.faults.clear()
    for _ in range(2):
        assert desk.json(*again)["already"]
    assert desk.archive.published == ["1001", "1002"]
    assert list(desk.archive.records) == ["1001", "1002"]


def test_two_at_once_make_one_record(desk: Desk):
    said: list[Any] = []

    def meanwhile(handler: Handler) -> None:
        answer = desk.archive.answer(desk.server.seen[-1])
        again = [sys.executable, "-m", "reprobox.cli", "deposit", "-C", desk.root, "--server", desk.server.url("")]
        said.append(subprocess.run([*again, desk.root / "xor.zip"], capture_output=True, text=True, check=False))
        handler.send(*answer)

    desk.server.faults["/api/records"] = [meanwhile]
    assert desk.json(desk.root / "xor.zip")["id"] == "1001"
    assert said[0].returncode == 1
    assert "another command deposits from this project now" in said[0].stderr
    assert list(desk.archive.records) == ["1001"]


def test_a_next_version_of_what_was_published_elsewhere(desk: Desk):
    desk.json(desk.root / "xor.zip", "--publish", "--yes")
    (desk.root / "research.deposit.json").unlink()
    assert desk.json(desk.root / "xor.zip", "--new-version", "1001")["id"] == "1002"


def test_the_doi_of_a_paper_stays(desk: Desk):
    (desk.root / "research.toml").write_text(MANIFEST.replace("[base]", 'doi = "10.1000/paper"\n\n[base]'))
    code, _, err = desk("--reserve")
    assert code == 0
    assert "research.toml keeps the DOI 10.1000/paper" in err
    assert 'doi = "10.1000/paper"' in (desk.root / "research.toml").read_text()
    assert {"identifier": "10.1000/paper", "scheme": "doi", "relation_type": {"id": "issupplementto"}} in (
        desk.record.metadata["related_identifiers"]
    )


def test_a_folder_is_deposited_as_one_file(desk: Desk, tmp_path: Path):
    (tmp_path / "crate/project").mkdir(parents=True)
    (tmp_path / "crate/project/main.sh").write_text("echo\n")
    (tmp_path / "crate/README.md").write_text("read me\n")
    desk.json(tmp_path / "crate")
    (tmp_path / "got.zip").write_bytes(desk.record.files["crate.zip"].data)
    with zipfile.ZipFile(tmp_path / "got.zip") as found:
        assert found.namelist() == ["crate/README.md", "crate/project/main.sh"]
    os.utime(tmp_path / "crate/README.md", (0, 0))
    assert not desk.json(tmp_path / "crate")["files"][0]["sent"]  # the same files, the same bytes


def test_a_dry_run_sends_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("REPROBOX_DEPOSIT_TOKEN")
    done = desk.json(desk.root / "xor.zip", "--dry-run")
    assert done["metadata"]["title"] == "A network learns XOR"
    assert done["files"][0]["md5"] == hashlib.md5((desk.root / "xor.zip").read_bytes()).hexdigest()
    assert not desk.server.seen
    assert not (desk.root / "research.deposit.json").exists()


def test_what_is_remembered_holds_no_secret_and_is_no_code(desk: Desk):
    desk.json(desk.root / "xor.zip")
    assert TOKEN not in (desk.root / "research.deposit.json").read_text()
    assert b"research.deposit.json" in NEVER


# -- consent -----------------------------------------------------------------------------------------------------------


def test_nobody_publishes_by_accident(desk: Desk):
    code, _, err = desk(desk.root / "xor.zip", "--publish")
    assert code == 2
    assert "publishing cannot be undone, and nobody can be asked here\n  hint: say --yes" in err
    assert not desk.server.seen


@pytest.mark.parametrize(("answer", "published"), [("yes", ["1001"]), ("y", [])])
def test_on_a_terminal_it_asks(desk: Desk, answer: str, published: list[str]):
    ours, theirs = pty.openpty()
    argv = ["deposit", "-C", desk.root, "--server", desk.server.url(""), desk.root / "xor.zip", "--publish"]
    command = [sys.executable, "-m", "reprobox.cli", *map(str, argv)]
    with subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        os.close(theirs)
        os.write(ours, f"{answer}\n".encode())
        _, said = child.communicate(timeout=60)
    os.close(ours)
    assert child.returncode == 0, said
    assert b"Publish it? [yes/no]" in said
    assert desk.archive.published == published


# -- what is missing or wrong before anything is sent --------------------------------------------------------------------


def test_missing_metadata_is_asked_for_by_name(desk: Desk):
    manifest = desk.root / "research.toml"
    manifest.write_text('[project]\nname = "xor"\n[base]\nbootstrap = "debian:bookworm"\n')
    code, _, err = desk(desk.root / "xor.zip")
    assert code == 2
    assert err == (
        f"error: {manifest}: project.authors: a deposit needs it, and it is missing\n"
        '  hint: add authors = [{ name = "…", orcid = "…", affiliation = "…" }]\n'
        f"error: {manifest}: project.description: a deposit needs it, and it is missing\n"
        '  hint: add description = "…", one sentence about it\n'
        f"error: {manifest}: project.license: a deposit needs it, and it is missing\n"
        '  hint: add license = "…", an SPDX expression such as "MIT" or "CC-BY-4.0"\n'
        "3 errors\n"
    )
    assert not desk.server.seen


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "there is nothing to deposit"),
        (["--reserve", "x.zip"], "--reserve deposits no file, and publishes nothing"),
        (["none.zip"], "none.zip: there is no such file or folder"),
        (["x", "--new-version", "../1"], "--new-version: '../1' is no id of a record"),
        (["x", "--new-version", "../1", "--publish"], "--new-version: '../1' is no id of a record"),
        (["empty"], "it is empty"),
        (["x.zip", "other/x.zip"], "two files have this name"),
    ],
    ids=["nothing", "reserve and a file", "no such file", "no id", "no id to publish", "empty", "one name twice"],
)
def test_wrong_use_sends_nothing(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    for name, text in {"x.zip": "1", "other/x.zip": "2", "empty": "", "x": "3"}.items():
        (tmp_path / name).write_text(text)
    code, _, err = desk(*words)
    assert (code, said in err) == (2, True), err
    assert not desk.server.seen


def test_without_a_token_it_says_where_one_comes_from(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("REPROBOX_DEPOSIT_TOKEN")
    monkeypatch.setenv("ZENODO_TOKEN", TOKEN)  # is for Zenodo, and shown to nobody else
    code, _, err = desk(desk.root / "xor.zip")
    assert code == 2
    assert f"{desk.server.url('')}: there is no token to deposit with" in err
    assert (
        f"put it into REPROBOX_DEPOSIT_TOKEN, or into the keyring with `keyring set reprobox {desk.server.host}`" in err
    )
    assert not desk.server.seen


def test_a_token_from_the_keyring(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The package as it is installed, here a small one of the same face."""
    monkeypatch.delenv("REPROBOX_DEPOSIT_TOKEN")
    package = tmp_path / "site/keyring"
    package.mkdir(parents=True)
    (package / "errors.py").write_text("class KeyringError(Exception): pass\n")
    known = {desk.server.host: TOKEN}
    (package / "__init__.py").write_text(
        f"def get_password(service, name):\n    return {known!r}.get(name) if service == 'reprobox' else None\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert desk.json("--reserve")["id"] == "1001"
    for name in ("keyring", "keyring.errors"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    "given", ["http://archive.example", "ftp://archive.example", "https://", "https://me:pw@archive.example"]
)
def test_a_token_is_only_sent_where_nobody_else_reads_it(given: str):
    with pytest.raises(UsageError):
        server_url(given)
    assert server_url("archive.example/api/") == "https://archive.example"


# -- faults ------------------------------------------------------------------------------------------------------------


def test_a_wrong_token_is_told_with_what_to_do(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("REPROBOX_DEPOSIT_TOKEN", "another-token")
    code, _, err = desk(desk.root / "xor.zip")
    assert code == 1
    assert "it answered 403 Forbidden: Permission denied." in err
    assert "the token may not do this, or the record is somebody else's" in err
    assert "another-token" not in err
    assert not (desk.root / "research.deposit.json").exists()


def test_an_expired_token(desk: Desk):
    desk.json("--reserve")
    desk.server.faults["/api/records/1001/draft"] = [status(401)]
    code, _, err = desk(desk.root / "xor.zip")
    assert code == 1
    assert "hint: make a token on the account page of the archive, with the scopes deposit:write" in err


@pytest.mark.parametrize("code", [429, 500, 503])
def test_a_busy_archive_is_asked_again(desk: Desk, code: int):
    place = "/api/records/1001/draft/files/xor.zip/content"
    desk.server.faults[place] = [status(code, retry_after="0"), status(code)]
    done = desk.json(desk.root / "xor.zip")
    assert done["files"][0]["sent"]
    assert desk.asked("PUT", "/content") == 3
    assert desk.record.files["xor.zip"].data == (desk.root / "xor.zip").read_bytes()


def test_a_connection_that_is_cut_during_the_upload(desk: Desk):
    desk.server.cuts["/api/records/1001/draft/files/xor.zip/content"] = 100_000
    desk.json(desk.root / "xor.zip")
    assert desk.record.files["xor.zip"].data == (desk.root / "xor.zip").read_bytes()


def test_what_was_refused_half_way_goes_on_where_it_was(desk: Desk):
    (desk.root / "b.tar").write_bytes(b"second")
    desk.server.always["/api/records/1001/draft/files/b.tar/content"] = status(503)
    code, _, err = desk(desk.root / "xor.zip", desk.root / "b.tar", "--publish", "--yes")
    assert code == 1
    assert "it answered 503" in err
    assert "run the command again: what has arrived is not sent again" in err
    assert not desk.archive.published
    del desk.server.always["/api/records/1001/draft/files/b.tar/content"]
    done = desk.json(desk.root / "xor.zip", desk.root / "b.tar", "--publish", "--yes")
    assert [(item["name"], item["sent"]) for item in done["files"]] == [("xor.zip", False), ("b.tar", True)]
    assert len(desk.archive.records) == 1
    assert desk.archive.published == ["1001"]


def test_other_bytes_that_arrive_are_not_published(desk: Desk):
    desk.archive.damages = True
    code, _, err = desk(desk.root / "xor.zip", "--publish", "--yes")
    assert code == 5
    assert "xor.zip arrived with the md5" in err
    assert not desk.record.files  # taken away again
    assert not desk.archive.published
    desk.archive.damages = False
    desk.json(desk.root / "xor.zip", "--publish", "--yes")
    assert desk.archive.published == ["1001"]


def test_an_answer_that_is_lost_publishes_once(desk: Desk):
    """The archive did it, and the connection broke before it could say so."""

    def lost(handler: Handler) -> None:
        desk.archive.answer(desk.server.seen[-1])
        handler.hang_up()

    desk.server.faults["/api/records/1001/draft/actions/publish"] = [lost]
    done = desk.json(desk.root / "xor.zip", "--publish", "--yes")
    assert done["state"] == "published"
    assert desk.archive.published == ["1001"]


def test_a_refusal_to_publish_names_the_fields(desk: Desk):
    manifest = desk.root / "research.toml"
    manifest.write_text(MANIFEST.replace('"MIT"', '"WTFPL"'))
    code, _, err = desk(desk.root / "xor.zip", "--publish", "--yes")
    assert code == 1
    assert "the archive finds its metadata wrong:\n  metadata.rights.0: Invalid value wtfpl." in err
    assert not desk.archive.published
    manifest.write_text(manifest.read_text().replace("WTFPL", "MIT"))
    assert desk.json(desk.root / "xor.zip", "--publish", "--yes")["state"] == "published"


def test_a_lost_answer_to_the_first_request_is_not_repeated(desk: Desk):
    desk.server.faults["/api/records"] = [Handler.hang_up]
    code, _, err = desk(desk.root / "xor.zip")
    assert code == 1
    assert "if your page there shows a draft that is empty, delete it" in err
    assert desk.asked("POST", "/api/records") == 1


def test_what_was_published_on_the_web_meanwhile(desk: Desk):
    desk.json(desk.root / "xor.zip")
    desk.record.published = True
    assert desk.json(desk.root / "xor.zip", "--publish", "--yes")["already"]
    assert not desk.archive.published


def test_a_draft_that_was_deleted_on_the_web(desk: Desk):
    desk.json("--reserve")
    desk.record.id = "gone"
    desk.archive.records = {"gone": desk.record}
    code, _, err = desk(desk.root / "xor.zip")
    assert code == 0, err
    assert "the draft 1001 is no longer there: a new one is made" in err
    assert 'doi = "10.5072/zenodo.1002"' in (desk.root / "research.toml").read_text()


def test_a_redirect_takes_the_token_nowhere(desk: Desk):
    with Server() as other:
        desk.json("--reserve")
        desk.server.always["/api/records/1001/draft"] = redirect(other.url("/api/records/1001/draft"))
        other.always["/api/records/1001/draft"] = status(401)
        code, _, _ = desk(desk.root / "xor.zip")
        assert code == 1
        assert [request.headers.get("Authorization") for request in other.seen] == [None]


def test_what_is_no_invenio(desk: Desk):
    desk.server.always["/api/records"] = lambda handler: handler.send(201, {}, b"<html>Welcome</html>")
    code, _, err = desk(desk.root / "xor.zip")
    assert code == 1
    assert "it does not answer as InvenioRDM does" in err


def test_the_sandbox_writes_no_doi(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("reprobox.deposit.depositing.SANDBOX", desk.server.url(""))
    code, _, err = desk("--reserve")
    assert code == 0
    assert "the DOI 10.5072/zenodo.1001 is the sandbox's, and is written nowhere" in err
    assert (desk.root / "research.toml").read_text() == MANIFEST


def test_an_archive_that_is_not_there(desk: Desk):
    with Server() as server:
        gone = server.url("")
    code, _, err = desk(desk.root / "xor.zip", "--server", gone)
    assert code == 1
    assert f"error: POST {gone}/api/records: it cannot be reached" in err
    assert "hint: check the network connection, the name of the server" in err


def test_a_silent_archive(desk: Desk):
    client = Client(server=desk.server.url(""), token=TOKEN, downloader=Downloader(timeout=0.2, attempts=1))
    desk.server.always["/api/records"] = silent(0.6)
    with pytest.raises(DepositError, match="run the command again"):
        client.create({})


def test_a_memory_that_is_damaged_is_not_guessed_at(desk: Desk):
    (desk.root / "research.deposit.json").write_text('{"format": 1, "deposits": [{"id": "../../x"}]}')
    code, _, err = desk(desk.root / "xor.zip")
    assert code == 2
    assert "research.deposit.json: it is damaged, or written by another version" in err
    assert not desk.server.seen


@pytest.mark.userns
def test_a_doi_stales_no_lock_and_no_seal(project: Any):
    assert project("lock", "--seal").status == 0
    before = project.lock.read_bytes()
    assert write_doi(project.manifest, "10.5072/zenodo.1") == (project.manifest,)
    assert project("lock", "--check").status == 0
    assert project("lock").status == 0
    assert project.lock.read_bytes() == before
    assert write_doi(project.manifest, "10.5072/zenodo.1") == ()
