"""`publish`: what is in a publication, that its bytes are always the same, and what is refused before anything is written."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from reprobox import lock_text
from reprobox.attestation.keys import Keyring
from reprobox.cli import main
from tests.attesting import vouched
from tests.cli.conftest import Project

ABOUT = """\
title = "A small study"
description = "Adds nothing to nothing"
license = "MIT OR Apache-2.0"
date = "2026-11-22"
keywords = ["nothing", "little"]
repository = "https://example.org/small"
authors = [
    { name = "Josiah Carberry", orcid = "0000-0002-1825-0097", affiliation = "Brown University", ror = "https://ror.org/05gq02987" },
    { name = "van der Berg, Ada", email = "ada@example.org" },
]
funding = [{ funder = "A Foundation", award = "42", url = "https://example.org/grants/42" }]
"""


def describe(project: Project, about: str = ABOUT) -> None:
    """Say in the manifest what a publication needs, and lock that."""
    project.edit('version = "1.0"\n', f'version = "1.0"\n{about}')
    assert project("lock").status == 0


@pytest.fixture(scope="module")
def paper(_template: Path, session_folder: Path) -> Path:
    """The project, described and locked, and a publication of it beside it: made once, and copied for every test."""
    place = session_folder / "paper"
    shutil.copytree(_template / "project", place / "project")
    manifest = place / "project/research.toml"
    manifest.write_text(manifest.read_text().replace('version = "1.0"\n', f'version = "1.0"\n{ABOUT}'))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPROBOX_STORE", str(_template / "store"))
        assert main(["lock", "-C", str(place / "project"), "-q"]) == 0
        assert main(["publish", "-C", str(place / "project"), "-o", str(place / "crate"), "--with-data", "-q"]) == 0
    return place


@pytest.fixture
def described(project: Project, paper: Path) -> Project:
    for name in ("research.toml", "research.lock"):
        shutil.copy(paper / "project" / name, project.root)
    return project


@pytest.fixture
def published(described: Project, paper: Path) -> Path:
    crate = described.root.parent / "crate"
    shutil.copytree(paper / "crate", crate)
    return crate


def content(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Mode and bytes of every file."""
    return {
        str(path.relative_to(folder)): (stat.S_IMODE(path.stat().st_mode), path.read_bytes() if path.is_file() else b"")
        for path in folder.rglob("*")
    }


def graph(crate: Path) -> dict[str, Any]:
    """The entities of a crate by their id."""
    return {item["@id"]: item for item in json.loads((crate / "ro-crate-metadata.json").read_text())["@graph"]}


# -- what is in it -----------------------------------------------------------------------------------------------------


def test_the_project_is_in_it_as_it_is_handed_on(described: Project, published: Path):
    assert sorted(os.listdir(published)) == [
        "CITATION.cff",
        "README.md",
        "badge.svg",
        "codemeta.json",
        "project",
        "ro-crate-metadata.json",
        "ro-crate-preview.html",
        "sbom",
    ]
    assert (published / "project/research.lock").read_bytes() == described.lock.read_bytes()
    assert (published / "project/data/numbers").read_text() == "1 2 3\n"
    assert described("lock", "--check", "-C", published / "project").status == 0
    done = described.process("run", "--locked", "-C", published / "project")
    assert (done.status, done.out) == (0, "small\n1 2 3\n"), done.err


def test_every_file_is_described_with_its_hash_and_size_and_every_description_has_its_file(published: Path):
    entities = graph(published)
    files = {unquote(name): item for name, item in entities.items() if "File" in item["@type"]}
    there = {str(path.relative_to(published)) for path in published.rglob("*") if path.is_file()}
    assert files.keys() == there - {"ro-crate-metadata.json", "ro-crate-preview.html"}
    for name, item in files.items():
        data = (published / name).read_bytes()
        assert (item["sha256"], int(item["contentSize"])) == (hashlib.sha256(data).hexdigest(), len(data))
    folders = {str(path.relative_to(published)) + "/" for path in published.rglob("*") if path.is_dir()}
    assert {name for name, item in entities.items() if "Dataset" in item["@type"] and name != "./"} == folders


def test_another_library_reads_the_crate(published: Path):
    from rocrate.rocrate import ROCrate

    crate = ROCrate(published)
    assert crate.root_dataset["name"] == "A small study"
    assert [person["name"] for person in crate.root_dataset["author"]] == ["Josiah Carberry", "Ada van der Berg"]
    (license_a, license_b) = crate.root_dataset["license"]
    assert (license_a.id, license_b.id) == ("https://spdx.org/licenses/MIT", "https://spdx.org/licenses/Apache-2.0")
    assert (
        crate.get("project/src/main.sh")["sha256"]
        == hashlib.sha256((published / "project/src/main.sh").read_bytes()).hexdigest()
    )


def test_who_what_and_for_whose_money(published: Path):
    entities = graph(published)
    root = entities["./"]
    assert root["description"] == "Adds nothing to nothing"
    assert root["funder"] == {"@id": "#funder-1"}
    assert entities["#funder-1"]["name"] == "A Foundation"
    assert entities["https://example.org/grants/42"]["fundedItem"] == {"@id": "./"}
    person = entities["https://orcid.org/0000-0002-1825-0097"]
    assert entities[person["affiliation"]["@id"]]["name"] == "Brown University"
    assert entities["#person-2"] | {"@type": "", "@id": ""} == {
        "@id": "",
        "@type": "",
        "name": "Ada van der Berg",
        "givenName": "Ada",
        "familyName": "van der Berg",
        "email": "ada@example.org",
    }


def test_citation_file(published: Path, tmp_path: Path):
    """The schema's validator finds nothing in ours, and sees what is wrong with another."""
    text = (published / "CITATION.cff").read_text()
    other = tmp_path / "WRONG.cff"
    other.write_text(text.replace("given-names", "first-names"))
    argv = [Path(sys.executable).with_name("check-jsonschema"), "--builtin-schema", "vendor.citation-file-format"]
    told = subprocess.run(
        [*argv, published / "CITATION.cff", other], capture_output=True, text=True, check=False
    ).stdout
    assert "WRONG.cff::$.authors" in told
    assert "CITATION.cff" not in told
    from ruamel.yaml import YAML

    said = YAML(typ="safe").load(text)
    assert said["license"] == ["MIT", "Apache-2.0"]
    assert said["authors"][1] == {"family-names": "van der Berg", "given-names": "Ada", "email": "ada@example.org"}
    lock = hashlib.sha256((published / "project/research.lock").read_bytes()).hexdigest()
    assert said["identifiers"][0]["value"] == f"sha256:{lock}"


#: The properties of CodeMeta 3.0 (https://codemeta.github.io/terms) that describe software, people and organizations.
SOFTWARE = """
    codeRepository programmingLanguage runtimePlatform targetProduct applicationCategory applicationSubCategory downloadUrl
    fileSize installUrl memoryRequirements operatingSystem permissions processorRequirements releaseNotes softwareHelp
    softwareRequirements softwareVersion storageRequirements supportingData author citation contributor copyrightHolder
    copyrightYear dateCreated dateModified datePublished editor encoding fileFormat funder keywords license producer provider
    publisher sponsor version isAccessibleForFree isSourceCodeOf isPartOf hasPart position description identifier name sameAs
    url relatedLink review softwareSuggestions maintainer continuousIntegration buildInstructions developmentStatus
    embargoEndDate funding issueTracker referencePublication readme
"""
CODEMETA = {
    "SoftwareSourceCode": {*SOFTWARE.split()},
    "Person": {"givenName", "familyName", "email", "affiliation", "name", "identifier", "address"},
    "Organization": {"name", "address", "email", "identifier", "url"},
}


def test_codemeta_uses_its_words_alone(published: Path):
    def check(item: dict[str, Any]) -> None:
        assert item.keys() - {"@context", "@type", "@id"} <= CODEMETA[item["@type"]]
        for value in item.values():
            for inner in value if isinstance(value, list) else [value]:
                if isinstance(inner, dict):
                    check(inner)

    document = json.loads((published / "codemeta.json").read_text())
    assert document["@context"] == "https://w3id.org/codemeta/3.0"
    assert document["license"] == ["https://spdx.org/licenses/MIT", "https://spdx.org/licenses/Apache-2.0"]
    check(document)


def test_without_its_data_a_publication_says_where_it_goes_and_what_it_is(described: Project):
    described.edit('source = "data" }', 'source = "data", digest = true }')
    assert described("lock").status == 0
    done = described("publish", "-o", "../bare")
    assert done.status == 0, done.err
    assert "not in it: data /data: its folder is not in here\n" in done.out
    bare = described.root.parent / "bare"
    assert not (bare / "project/data").exists()
    assert "The data is not enclosed. Put it into project/data (seen at /data)." in (bare / "README.md").read_text()
    entities = graph(bare)
    tree = entities[entities["#data/data"]["identifier"]["@id"]]["value"]
    assert tree in described.lock.read_text()


def test_links_and_programs_stay_what_they_are(described: Project):
    (described.root / "src/tool").write_text("#!/bin/sh\n")
    (described.root / "src/tool").chmod(0o755)
    (described.root / "src/also").symlink_to("main.sh")
    (described.root / "src/away").symlink_to("/nowhere")
    assert described("lock").status == 0
    for name in ("crate", "crate.zip"):
        done = described("publish", "-o", f"../{name}")
        assert done.status == 0, done.err
        assert described("publish", "-o", f"../{name}").status == 0  # it is known again
    crate = described.root.parent / "crate"
    assert os.readlink(crate / "project/src/also") == "main.sh"
    assert os.access(crate / "project/src/tool", os.X_OK)
    with zipfile.ZipFile(f"{crate}.zip") as archive:
        modes = {entry.filename: entry.external_attr >> 16 for entry in archive.infolist()}
        assert archive.read("project/src/away") == b"/nowhere"
    assert modes["project/src/also"] == stat.S_IFLNK | 0o777
    assert modes["project/src/tool"] == stat.S_IFREG | 0o755
    assert modes["project/src/"] == stat.S_IFDIR | 0o755


def test_recorded_runs_are_actions(described: Project):
    assert described("realize").status == 0
    assert described.process("run", "--record").status == 0
    (record,) = (described.root / "research.runs").iterdir()
    done = described("publish", "-o", "../crate", "--with-data", "--with-image")
    assert done.status == 0, done.err
    crate = described.root.parent / "crate"
    assert (crate / "runs" / record.name).read_bytes() == record.read_bytes()
    entities = graph(crate)
    (action,) = (item for item in entities.values() if item["@type"] == "CreateAction")
    assert entities[action["instrument"]["@id"]]["@type"] == "SoftwareApplication"
    assert "ContainerImage" in entities[action["containerImage"]["@id"]]["@type"]
    assert action["object"] == {"@id": "project/data/numbers"}
    result = entities[action["result"]["@id"]]
    assert (result["name"], result["sha256"]) == ("/out/result", hashlib.sha256(b"done\n").hexdigest())
    assert action["actionStatus"] == "http://schema.org/CompletedActionStatus"
    assert {"@id": action["@id"]} in entities["./"]["mentions"]
    assert described("publish", "-o", "../crate").status == 0  # what is replaced is known again
    # A run of another lock is no evidence for this one.
    described.edit('COLOUR = "blue"', 'COLOUR = "red"')
    assert described("lock").status == 0
    done = described("publish", "-o", "../other")
    assert f"research.runs/{record.name} is not in it: it is of another lock\n" in done.err
    assert not (described.root.parent / "other/runs").exists()


# -- always the same bytes ---------------------------------------------------------------------------------------------


def elsewhere(project: Project, folder: Path, output: Path, *before: str) -> None:
    """Publish a copy of the project under another clock and umask."""
    shutil.copytree(project.root, folder, symlinks=True)
    argv = [*before, sys.executable, "-m", "reprobox.cli", "publish", "-C", folder, "-o", output, "--with-data"]
    os.utime(folder / "src/main.sh", (1, 1))
    script = 'umask 077 && exec "$@"'
    done = subprocess.run(["sh", "-c", script, "sh", *argv], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.tool("faketime")
@pytest.mark.tool("unshare")
def test_the_same_bytes_on_another_day_by_another_user_in_another_folder(described: Project, tmp_path: Path):
    assert described("publish", "-o", tmp_path / "first.zip", "--with-data").status == 0
    somebody = ("unshare", "--user", "--map-user=4242", "--map-group=4242")
    elsewhere(described, tmp_path / "copy", tmp_path / "second.zip", "faketime", "2031-05-06 07:08:09", *somebody)
    subprocess.run(["cmp", tmp_path / "first.zip", tmp_path / "second.zip"], check=True)


def test_a_zip_has_the_files_of_the_folder(described: Project, published: Path, tmp_path: Path):
    assert described("publish", "-o", tmp_path / "crate.zip", "--with-data").status == 0
    with zipfile.ZipFile(tmp_path / "crate.zip") as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        files = {entry.filename: archive.read(entry) for entry in archive.infolist() if not entry.is_dir()}
    assert files == {name: data for name, (_, data) in content(published).items() if (published / name).is_file()}


# -- what is refused, before anything is written -----------------------------------------------------------------------


def test_all_that_is_missing_is_asked_for_at_once(project: Project):
    done = project("publish", "-o", "../crate")
    assert done.status == 2
    place = f"error: {project.manifest}:1: project"
    assert done.err == (
        f"{place}.description: missing, and a publication says in a sentence what it is\n"
        '  hint: add description = "…"\n'
        f"{place}.license: missing, and a publication says what readers may do with it\n"
        '  hint: add license = "…", an SPDX expression such as "MIT"\n'
        f"{place}.authors: missing, and a publication names who made it\n"
        '  hint: add authors = [{ name = "…" }]\n'
        "3 errors\n"
    )
    assert not (project.root.parent / "crate").exists()


def test_a_licence_that_nobody_knows(project: Project):
    describe(project, ABOUT.replace("MIT OR Apache-2.0", "free for all"))
    done = project("publish", "-o", "../crate")
    assert done.status == 2
    assert 'project.license: "free for all" is no SPDX licence expression\n  hint: write one such as "MIT"' in done.err


def break_code(project: Project) -> None:
    (project.root / "src/main.sh").write_text("other\n")


def break_lock(project: Project) -> None:
    project.edit('COLOUR = "blue"', 'COLOUR = "red"')


def break_data(project: Project) -> None:
    project.edit('source = "data" }', 'source = "data", digest = true }')
    assert project("lock").status == 0
    (project.root / "data/numbers").write_text("4\n")


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        (break_code, 3, "the code is not what was locked\n  hint: run `reprobox lock`"),
        (break_lock, 3, "the lock is stale; changed since it was made:\n  env.COLOUR (changed)"),
        (break_data, 5, "its data is not what was locked"),
    ],
)
def test_what_is_not_what_was_locked(described: Project, change: Callable[[Project], None], status: int, message: str):
    change(described)
    done = described("publish", "-o", "../crate")
    assert done.status == status
    assert message in done.err
    assert not (described.root.parent / "crate").exists()


def test_a_secret_in_a_file_that_would_be_published(described: Project):
    described.edit("[mounts]\n", '[secrets]\nkey = { path = "key.txt" }\n\n[mounts]\n')
    (described.root / "key.txt").write_text("correct horse battery staple\n")
    (described.root / "data/notes").write_text("my key is correct horse battery staple\n")
    assert described("lock").status == 0
    done = described("publish", "-o", "../crate", "--with-data")
    assert done.status == 1
    assert "data/notes holds the secret 'key'" in done.err
    assert os.listdir(described.root.parent) == ["project"]


def put_note(path: Path) -> None:
    (path / "notes.txt").write_text("mine\n")


def put_edit(path: Path) -> None:
    (path / "README.md").write_text("mine\n")


def put_loss(path: Path) -> None:
    (path / "CITATION.cff").unlink()


@pytest.mark.parametrize(
    ("change", "name"), [(put_note, "notes.txt"), (put_edit, "README.md"), (put_loss, "CITATION.cff")]
)
def test_a_publication_that_somebody_changed_is_not_replaced(described: Project, published: Path, change, name):
    assert described("publish", "-o", "../crate").status == 0  # as it was written, it is
    change(published)
    before = content(published)
    done = described("publish", "-o", "../crate")
    assert done.status == 2
    assert done.err == (
        f"error: ../crate: it exists already, and was changed since it was written: {name}\n"
        "  hint: give -o a new name, or remove it; only a publication that is as it was written is replaced\n"
    )
    assert content(published) == before


def test_what_somebody_else_made_is_not_replaced(described: Project, tmp_path: Path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.zip").write_text("no zip")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("ro-crate-metadata.json", '{"@graph": [{"@id": "ro-crate-metadata.json"}]}')
    for name, reason in {
        "folder": "is no publication of reprobox",
        "file.zip": "is no publication of reprobox",
        "other.zip": "was published by another program",
    }.items():
        done = described("publish", "-o", tmp_path / name)
        assert (done.status, done.err.splitlines()[0]) == (
            2,
            f"error: {tmp_path / name}: it exists already, and {reason}",
        )


def test_places_that_are_none(described: Project):
    done = described("publish")
    assert done.err == "error: there is no place to write to\n  hint: add -o DIR, -o NAME.zip, or --dry-run\n"
    done = described("publish", "-o", "src/crate")
    assert done.status == 2
    assert "src/crate: it would be part of the code that it publishes\n" in done.err
    done = described("publish", "-o", "../none/crate")
    assert (done.status, done.err) == (
        2,
        "error: ../none/crate: its folder does not exist\n  hint: make the folder first\n",
    )


def test_a_full_disk_leaves_nothing(described: Project):
    """The limit on a file's size stands for the disk's end: both are errors of a write."""
    done = subprocess.run(
        [sys.executable, "-m", "reprobox.cli", "publish", "-o", "../crate", "--with-image"],
        cwd=described.root,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: (
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)),
        ),
    )
    assert done.returncode == 1
    assert os.listdir(described.root.parent) == ["project"]


def test_a_full_disk_is_named_as_it_was_given(described: Project, tmp_path: Path):
    (tmp_path / "disk").mkdir()
    script = (
        'mount -t tmpfs -o size=256k none disk && "$1" -m reprobox.cli publish -C "$2" -o disk/crate --with-vault;'
        ' echo "status $?"; ls -A disk'
    )
    argv = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", sys.executable, described.root]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == "status 1\n"
    assert done.stderr.endswith(
        "error: disk/crate: no space is left on its disk\n  hint: make room there, or give -o another place\n"
    )


# -- before it is published --------------------------------------------------------------------------------------------


def test_a_dry_run_lists_files_and_what_badges_ask_for(project: Project):
    told = project("publish", "--dry-run", "--json", "--with-image", "--with-vault")
    assert told.status == 0, told.err
    assert [problem["key"] for problem in told.json["missing"]] == [
        "project.description",
        "project.license",
        "project.authors",
    ]
    files = {file["path"]: file for file in told.json["files"]}
    assert files["project/src/main.sh"]["licence"] == "unknown"
    assert {"vault.tar", "image/default.oci.tar", "CITATION.cff"} <= files.keys()
    badges = {badge: {item["what"]: item["fix"] for item in items} for badge, items in told.json["badges"].items()}
    assert list(badges) == ["Available", "Functional", "Reusable"]
    assert badges["Available"]["it is described: what it is, by whom, under which licence"] == (
        "add project.description, project.license, project.authors to the manifest"
    )
    assert badges["Functional"]["complete: its data is here, or can be downloaded"].startswith("add --with-data, or")
    assert badges["Reusable"]["it outlives its sources: vault or images are in it"] == ""
    assert os.listdir(project.root.parent) == ["project"]


def test_a_dry_run_for_people(described: Project):
    told = described("publish", "--dry-run", "--with-data")
    assert told.status == 0
    assert "project/src/main.sh  MIT OR Apache-2.0\n" in told.out
    assert "  [x] exercisable: it says what to run\n" in told.out
    assert "  [ ] it has a DOI: deposit it where it stays" in told.out


def test_what_describes_the_research_changes_no_layer(project: Project):
    before = [line for line in project.lock.read_text().splitlines() if line.startswith("id = ")]
    describe(project)
    after = [line for line in project.lock.read_text().splitlines() if line.startswith("id = ")]
    assert before == after


# -- what others say of it ---------------------------------------------------------------------------------------------


def test_attestations_of_this_lock_are_in_it(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("REPROBOX_KEYS", str(tmp_path / "keys"))
    describe(project)
    assert project("lock", "--seal").status == 0
    attestation = vouched(project.root, lock_text.read(project.lock.read_text()), Keyring(tmp_path / "keys"), "ada")
    stale = attestation.with_name("of-another-lock.dsse.json")
    assert project("publish", "-o", "../crate").status == 0
    crate = project.root.parent / "crate"
    assert (crate / "attestations" / attestation.name).read_bytes() == attestation.read_bytes()
    assert f"attestations/{attestation.name}" in graph(crate)
    assert "built again by sandbox" in (crate / "ro-crate-preview.html").read_text()
    # One who does not have the key publishes the same.
    monkeypatch.setenv("REPROBOX_KEYS", str(tmp_path / "others"))
    assert project("publish", "-o", "../second").status == 0
    assert content(project.root.parent / "second") == content(crate)
    # A lock that moved leaves behind what was said of the one before.
    project.edit('COLOUR = "blue"', 'COLOUR = "red"')
    assert project("lock").status == 0
    attestation.rename(stale)
    done = project("publish", "-o", "../third")
    assert done.status == 0
    assert "of-another-lock.dsse.json is not in it: it is for the lock sha256:" in done.err
    assert not (project.root.parent / "third/attestations").exists()
    # And what is damaged is not handed on.
    stale.write_text("{}")
    done = project("publish", "-o", "../fourth")
    assert done.status == 5
    assert str(stale) in done.err
    assert not (project.root.parent / "fourth").exists()
