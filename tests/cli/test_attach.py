"""`attach`, `detach` and `inspect` on PDFs and commits, as a person calls them."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reprobox.attach.files import LOCK, MANIFEST, PROJECT
from tests import pdfs
from tests.cli.conftest import Project

pytestmark = pytest.mark.userns

NOTES = "refs/notes/reprobox"


@pytest.fixture
def paper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PDF beside the project, and the tests' working folder; the project is given with -C."""
    path = tmp_path / "paper.pdf"
    path.write_bytes(pdfs.paper())
    monkeypatch.chdir(tmp_path)
    return path


def say(project: Project, *argv: str | Path) -> str:
    told = project(*argv, "-C", project.root)
    assert told.status == 0, told.err
    return told.out


def refusal(project: Project, status: int, *argv: str | Path) -> str:
    told = project(*argv, "-C", project.root)
    assert (told.status, told.out) == (status, "")
    return told.err.removeprefix("error: ").rstrip("\n")


# -- PDFs --------------------------------------------------------------------------------------------------------------


def test_the_way_of_a_paper(project: Project, paper: Path) -> None:
    out = say(project, "attach", "paper.pdf", "-o", "new.pdf")
    assert out.splitlines()[-2].startswith("attached to new.pdf: ")
    assert "not in it: the data at /data; say in the paper where it is\n" in out
    assert out.splitlines()[-1] == "readers: reprobox realize new.pdf"
    spaced = say(project, "attach", "paper.pdf", "-o", "my paper.pdf")
    assert spaced.splitlines()[-1] == "readers: reprobox realize 'my paper.pdf'"
    shown = say(project, "inspect", "new.pdf")
    assert "project       small 1.0" in shown
    assert "target        default, linux/amd64" in shown
    assert shown.endswith("manifest and lock belong together\n")
    say(project, "detach", "new.pdf")
    folder = Path("new-research")
    assert (folder / MANIFEST).read_bytes() == project.manifest.read_bytes()
    assert (folder / LOCK).read_bytes() == project.lock.read_bytes()
    with tarfile.open(folder / PROJECT) as tar:
        assert "src/main.sh" in tar.getnames()
        assert "data/numbers" not in tar.getnames()  # data that is mounted is handed on by other ways
    again = refusal(project, 2, "detach", "new.pdf", "-o", "new-research")
    assert again == f"new-research/{MANIFEST}: it exists already\n  hint: give -o another folder"
    say(project, "detach", "new.pdf", "--remove", "--in-place")
    assert Path("new.pdf").read_bytes() == paper.read_bytes()


@pytest.mark.skipif(os.geteuid() != 0, reason="others are told at once that its folder cannot be written")
def test_where_nothing_can_be_written_nothing_is(project: Project, paper: Path) -> None:
    assert refusal(project, 1, "attach", "paper.pdf", "-o", "/proc/new.pdf") == (
        "/proc/new.pdf: it cannot be written: No such file or directory\n  hint: give -o another place"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_in_place_in_a_folder_of_others(project: Project, paper: Path) -> None:
    paper.parent.chmod(0o555)
    try:
        told = refusal(project, 2, "attach", "paper.pdf", "--in-place")
    finally:
        paper.parent.chmod(0o755)
    assert told == f"{paper}: its folder cannot be written\n  hint: give -o a place in another folder"


def test_in_place_again_and_without_code(project: Project, paper: Path) -> None:
    paper.chmod(0o640)
    link = Path("link.pdf")
    link.symlink_to(paper)
    first = json.loads(say(project, "attach", "link.pdf", "--in-place", "--json"))
    assert [item["name"] for item in first["files"]] == [MANIFEST, LOCK, PROJECT]
    assert (first["replaced"], first["notes"], first["kind"]) == ([], [], "pdf")
    assert link.is_symlink()
    assert paper.stat().st_mode & 0o777 == 0o640
    second = json.loads(say(project, "attach", "paper.pdf", "--in-place", "--without-code", "--json"))
    assert second["replaced"] == [MANIFEST, LOCK, PROJECT]
    assert (first["complete"], second["complete"]) == (True, False)
    found = json.loads(say(project, "inspect", "paper.pdf", "--json"))
    assert [item["name"] for item in found["files"]] == [MANIFEST, LOCK]
    assert found["lock"] == second["lock"]
    assert (found["pages"], found["belongs"]) == (2, True)
    assert sorted(item.name for item in paper.parent.iterdir() if item.is_file()) == ["link.pdf", "paper.pdf"]


def test_a_large_project_is_told_of(project: Project, paper: Path) -> None:
    (project.root / "src/weights").write_bytes(bytes(11 << 20))
    say(project, "lock")
    told = project("attach", "paper.pdf", "-o", "new.pdf", "-C", project.root)
    assert "warning: the files have 11.6 MB, research-project.tar alone 11.6 MB" in told.err
    assert "with code.exclude, or give --without-code and publish the code elsewhere" in told.err


@pytest.mark.parametrize(
    ("argv", "status", "message"),
    [
        (
            ["attach", "paper.pdf"],
            2,
            "paper.pdf: it is not said where to write the PDF\n  hint: give -o NEW.pdf, or --in-place to change this one",
        ),
        (
            ["attach", "paper.pdf", "-o", "paper.pdf"],
            2,
            "paper.pdf: it exists already\n  hint: give -o a new name",
        ),
        (
            ["attach", "paper"],
            2,
            ("paper: it is neither a PDF nor the name of an image with its registry\n"
            "  hint: give a PDF, an image (REGISTRY/NAME:TAG), or a commit with --git TAG"),
        ),
        (["attach", "none.pdf", "-o", "x.pdf"], 2, "none.pdf: it cannot be read: No such file or directory\n  hint: give the path of a PDF"),
        (["attach", "text.pdf", "-o", "x.pdf"], 2, "text.pdf: it is no PDF\n  hint: give the path of a PDF"),
        (
            ["attach", "paper.pdf", "-o", "x.pdf", "--platform", "linux/amd64"],
            2,
            "--platform is for images\n  hint: `reprobox attach --help` has examples",
        ),
        (["attach"], 2, "it is not said to what\n  hint: give a PDF, an image (REGISTRY/NAME:TAG), or a commit with --git TAG"),
        (
            ["attach", "paper.pdf", "--git", "v1"],
            2,
            "a file or an image and --git do not go together\n  hint: run it twice: once for each",
        ),
        (
            ["detach", "paper.pdf"],
            1,
            ("paper.pdf: no research.toml is attached to it, nor anything else\n"
            "  hint: its authors attach one with `reprobox attach`"),
        ),
        (["detach", "paper.pdf", "--remove", "-o", "x.pdf"], 1, "paper.pdf: none of reprobox's files is attached to it"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_wrong_use_is_told(project: Project, paper: Path, argv: list[str], status: int, message: str) -> None:
    Path("text.pdf").write_text("\\documentclass{article}")
    assert refusal(project, status, *argv) == message
    assert sorted(item.name for item in Path.cwd().iterdir()) == ["paper.pdf", "project", "text.pdf"]


def test_a_lock_or_code_that_moved_on_is_not_attached(project: Project, paper: Path) -> None:
    (project.root / "src/main.sh").write_text("echo changed\n")
    assert refusal(project, 3, "attach", "paper.pdf", "-o", "x.pdf") == (
        f"{project.root}: the code is not what was locked\n  hint: run `reprobox lock`"
    )
    project.edit('COLOUR = "blue"', 'COLOUR = "red"')
    assert refusal(project, 3, "attach", "paper.pdf", "-o", "x.pdf") == (
        f"{project.lock}: the lock is stale; changed since it was made:\n  env.COLOUR (changed)\n"
        "  hint: run `reprobox lock`"
    )
    assert not Path("x.pdf").exists()


def packed(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name.replace("__", "/").replace("_", "."))
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def hostile(project: Project, case: str) -> tuple[list[tuple[str, bytes]], str]:
    """What a stranger attached, and what is said of it."""
    manifest, lock = project.manifest.read_bytes(), project.lock.read_bytes()
    other = manifest.replace(b'COLOUR = "blue"', b'COLOUR = "red"')
    ours = [(MANIFEST, manifest), (LOCK, lock)]
    cases: dict[str, tuple[list[tuple[str, bytes]], str]] = {
        "another manifest": (
            [(MANIFEST, other), (LOCK, lock)],
            "the lock is of another manifest than the one with it\n  env.COLOUR (changed)\n",
        ),
        "a changed lock": (
            [(MANIFEST, manifest), (LOCK, lock.replace(b"epoch = ", b"epoch = 1"))],
            "research.lock: its content does not match its checksum",
        ),
        "two locks": (
            [*ours, (LOCK, lock + b"\n")],
            "2 files named research.lock are attached to it, and only one can be meant",
        ),
        "another project": (
            [*ours, (PROJECT, packed(research_toml=other, research_lock=lock))],
            "research-project.tar in it has another research.toml than the one beside it",
        ),
        "no lock in the project": (
            [*ours, (PROJECT, packed(research_toml=manifest))],
            "research-project.tar in it has no research.lock",
        ),
        "a project that leads out": (
            [*ours, (PROJECT, packed(research_toml=manifest, research_lock=lock, **{"..__etc__passwd": b"x"}))],
            "research-project.tar in it cannot be read: ",
        ),
        "no tar": ([*ours, (PROJECT, b"nothing" * 100)], "research-project.tar in it cannot be read: "),
    }
    return cases[case]


@pytest.mark.parametrize(
    "case",
    [
        "another manifest",
        "a changed lock",
        "two locks",
        "another project",
        "no lock in the project",
        "a project that leads out",
        "no tar",
    ],
)
def test_what_does_not_belong_together_is_not_written_out(project: Project, paper: Path, case: str) -> None:
    files, message = hostile(project, case)
    Path("bad.pdf").write_bytes(pdfs.carrying(files))
    said = refusal(project, 5, "detach", "bad.pdf")
    assert said.startswith(f"bad.pdf: {message}")
    assert "ask its authors" in said.rpartition("\n  hint: ")[2]
    assert not Path("bad-research").exists()
    told = project("inspect", "bad.pdf", "-C", project.root)
    assert told.status == 5
    if case != "two locks":
        first, *rest = message.removeprefix("research.lock: ").splitlines()
        assert "\n".join([f"problem       {first}", *(f"{'':13} {line}" for line in rest)]) in told.out


# -- commits -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def git(project: Project, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The project as a repository with the tag v1.0, in which git may be called."""
    for name, value in {"AUTHOR": "A", "COMMITTER": "A"}.items():
        monkeypatch.setenv(f"GIT_{name}_NAME", value)
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "a@example.org")

    def run(*argv: str) -> str:
        done = subprocess.run(["git", *argv], cwd=project.root, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("init", "--quiet", ".")
    (project.root / ".gitignore").write_text("out/\nresearch.lock\n")  # the lock comes later, on the note alone
    run("add", "--all")
    run("commit", "--quiet", "-m", "one")
    run("tag", "v1.0")
    return run


def told(project: Project, *argv: str | Path) -> Any:
    return json.loads(say(project, *argv, "--json"))


def test_a_note_on_a_tag(project: Project, git: Callable[..., str], tmp_path: Path) -> None:
    before = git("status", "--porcelain", "--ignored"), git("rev-parse", "HEAD")
    out = say(project, "attach", "--git", "v1.0")
    assert f"attached to commit {before[1].strip()}, in {NOTES}" in out
    assert f"notes are not pushed with the rest: git push origin {NOTES}" in out
    assert (git("status", "--porcelain", "--ignored"), git("rev-parse", "HEAD")) == before
    note = git("notes", "--ref=reprobox", "show", "v1.0")
    assert note.startswith(f"reprobox 1\nresearch.toml {project.manifest.stat().st_size} sha256:")
    assert say(project, "attach", "--git", "v1.0").splitlines()[-2].startswith("was there already on commit ")
    say(project, "detach", "--git", "v1.0", "-o", tmp_path / "out")
    assert (tmp_path / "out" / LOCK).read_bytes() == project.lock.read_bytes()
    found = told(project, "inspect", "--git", "v1.0")
    assert (found["belongs"], found["commit"], found["ref"]) == (True, before[1].strip(), NOTES)
    say(project, "detach", "--git", "v1.0", "--remove")
    assert refusal(project, 1, "inspect", "--git", "v1.0").startswith(
        f"{project.root}@v1.0: there is no note of reprobox's on commit {before[1][:12]}\n"
        f"  hint: notes are not fetched with the rest: `git fetch origin {NOTES}:{NOTES}`"
    )


def test_a_release_file_has_the_code_of_the_tag(project: Project, git: Callable[..., str], tmp_path: Path) -> None:
    (project.root / "src/later.sh").write_text("later\n")  # in the working tree only
    release = told(project, "attach", "--git", "v1.0", "--release-file", tmp_path)["release_file"]
    assert release == str(tmp_path / "small-v1.0.research-project.tar")
    with tarfile.open(release) as tar:
        assert {"research.toml", "research.lock", "src/main.sh"} <= set(tar.getnames())
        assert "src/later.sh" not in tar.getnames()


def test_a_project_below_the_top_of_its_repository(
    project: Project, monkeypatch: pytest.MonkeyPatch, git: Callable[..., str], tmp_path: Path
) -> None:
    top = project.root.parent
    subprocess.run(["mv", project.root / ".git", top], check=True)
    for argv in (["add", "project"], ["commit", "-qm", "below"], ["tag", "v2.0"]):
        subprocess.run(["git", *argv], cwd=top, check=True)
    say(project, "attach", "--git", "v2.0")
    assert "\nfolder project\n" in git("notes", "--ref=reprobox", "show", "v2.0")
    assert told(project, "inspect", "--git", "v2.0")["belongs"]


def test_a_commit_with_other_code_gets_no_note(project: Project, git: Callable[..., str]) -> None:
    (project.root / "src/main.sh").write_text("echo later\n")
    say(project, "lock")
    hint = (
        "  hint: check that commit out and run `reprobox lock` there; or commit all that belongs to the project, and tag"
        " that"
    )
    assert refusal(project, 3, "attach", "--git", "v1.0") == (
        f"{project.root}: the code is not what was locked (v1.0)\n{hint}"
    )
    (project.root / "conf/name").write_text("other\n")
    say(project, "lock")
    assert refusal(project, 3, "attach", "--git", "v1.0") == (
        f"{project.root}@v1.0: the lock is stale; changed since it was made:\n  layers.settings (its files changed)\n{hint}"
    )
    assert refusal(project, 2, "attach", "--git", "v9") == (
        f"{project.root}: git knows no tag or commit 'v9' there\n"
        "  hint: `git tag` lists the tags; `git fetch --tags` brings those of a server"
    )


def test_outside_of_a_repository(project: Project, paper: Path) -> None:
    assert refusal(project, 2, "attach", "--git", "v1.0").startswith(
        f"{project.root}: git knows no tag or commit 'v1.0'"
    )
