"""``reprobox diff``, and what ``reprobox lock`` says of what it moved."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from typing import Any

import pytest
from markdown_it import MarkdownIt

from tests.cli.shelf import Shelf, layer

pytestmark = [pytest.mark.userns, pytest.mark.tool("git")]


def git(project: Any, *argv: str) -> None:
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run(["git", *identity, *argv], cwd=project.root, check=True, capture_output=True)


@pytest.fixture
def moved(project, offered) -> Shelf:
    """A project with a lock that was committed, and another one since."""
    shelf = Shelf(apple="1.9", pear="1.0", plum="1.0", fig="1.0")
    offered(shelf=shelf)
    project.add(layer("fruit", "apple", "pear", "plum"))
    assert project("lock").status == 0
    git(project, "init", "-q")
    git(project, "add", "research.lock", "research.toml")
    git(project, "commit", "-q", "-m", "one")
    git(project, "tag", "v1")
    shelf.versions |= {"apple": "1.10"}
    project.edit('["apple", "pear", "plum"]', '["apple", "fig", "plum"]')
    project.edit('script = "cat', 'script = "set -x; cat')
    told = project("lock", "--upgrade-package", "apple")
    assert told.status == 0
    assert told.err == (
        "resolving fruit\nRemoved pear 1.0 (fruit)\nChanged apple 1.9 → 1.10 (fruit)\nAdded fig 1.0 (fruit)\n"
    )
    return shelf


TEXT = """\
greeting (run)
  script:
    - cat /etc/small/name > /greeting; mkdir -p /opt/deep
    + set -x; cat /etc/small/name > /greeting; mkdir -p /opt/deep
fruit (shelf)
  ~ apple  1.9 → 1.10  +1 B
  + fig    1.0         +8 B
  - pear   1.0         -9 B
built anew only because of what is below, or of the epoch: skeleton
manifest: layers.fruit.packages (changed), layers.greeting.script (changed)
1 added, 1 removed, 1 changed
"""


def test_a_first_lock_says_nothing_of_what_moved(project, offered):
    offered(shelf=Shelf(apple="1"))
    project.add(layer("fruit", "apple"))
    project.lock.unlink()
    assert project("lock").err == "resolving fruit\n"


def test_against_the_last_commit(project, moved):
    told = project("diff")
    assert (told.status, told.err) == (0, "")
    assert told.out == TEXT


def test_inside_a_hook_of_another_repository_it_is_the_projects_own(project, moved, monkeypatch, tmp_path):
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert project("diff").out == TEXT


def test_against_a_revision_a_file_a_folder_or_standard_input(project, moved, monkeypatch):
    data = subprocess.run(["git", "show", "v1:research.lock"], cwd=project.root, capture_output=True, check=True).stdout
    (project.root / "folder").mkdir()
    for name in ("old.lock", "folder/research.lock"):
        (project.root / name).write_bytes(data)
    for old in ("HEAD", "v1", "HEAD:research.lock", "old.lock", "folder", "-"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        assert project("diff", old).out == TEXT
    assert project("diff", "research.lock", "research.lock").out == "nothing moved\n"


def test_between_two_revisions(project, moved):
    git(project, "commit", "-q", "-am", "two")
    assert project("diff").out == "nothing moved\n"
    assert project("diff", "v1", "HEAD").out == TEXT
    assert "+ pear " in project("diff", "HEAD", "v1").out


def test_the_exit_status_says_so_where_asked(project, moved):
    for argv, status in ((["--exit-code"], 1), ([], 0)):
        assert project("diff", *argv).status == status
        assert project("diff", *argv, "research.lock").status == 0


def test_json(project, moved):
    told = project("diff", "--json").json
    assert told == json.loads(project("diff", "--format", "json").out)
    assert (told["old"], told["new"], told["changed"]) == ("HEAD", "research.lock", True)
    assert told["counts"] == {"added": 1, "changed": 1, "removed": 1}
    (target,) = told["targets"]
    changes = {item["name"]: item for item in target["layers"]}
    assert {name: item["change"] for name, item in changes.items()} == {
        "greeting": "changed",
        "fruit": "changed",
        "skeleton": "below",
    }
    (apple,) = [item for item in changes["fruit"]["packages"] if item["name"] == "apple"]
    assert (apple["change"], apple["old"]["version"], apple["new"]["version"]) == ("changed", "1.9", "1.10")
    assert [setting["key"] for setting in changes["greeting"]["settings"]] == ["options.script"]


def test_markdown(project, moved):
    told = project("diff", "--format", "markdown").out
    html = MarkdownIt("commonmark").enable("table").render(told)
    assert html.count("<details>") == html.count("</details>") == 2
    assert "<summary>fruit (shelf): 3 packages</summary>" in html
    assert "<td>changed</td>\n<td>apple</td>\n<td>1.9</td>\n<td>1.10</td>" in html
    assert '<code class="language-diff">script:' in html


def test_hostile_text_stays_text_in_markdown(project, moved):
    project.edit("set -x; ", r"echo '</details>|```'\n")
    assert project("lock").status == 0
    told = project("diff", "--format", "markdown").out
    html = MarkdownIt("commonmark").enable("table").render(told)
    assert html.count("</details>") == 2
    assert "&lt;/details&gt;" in html


def test_a_revision_without_a_lock_makes_all_of_it_new(project, moved):
    git(project, "rm", "-q", "--cached", "research.lock")
    git(project, "commit", "-q", "-m", "none")
    told = project("diff", "--format", "json")
    assert told.err == "HEAD has no research.lock\n"
    assert [target["change"] for target in told.json["targets"]] == ["added"]


def test_what_is_no_lock(project, moved):
    for argv, status, said in (
        (["none"], 2, "there is no file or git revision 'none'\n  hint: give a lock file, or a commit, branch or tag"),
        (["-", "-"], 2, "OLD and NEW cannot both be standard input\n  hint: give a file for one of them"),
        (["research.toml"], 3, "research.toml: it has no format version\n  hint: "),
        (["--", "--upload-pack=x"], 2, "there is no file or git revision '--upload-pack=x'"),
    ):
        told = project("diff", *argv)
        assert told.status == status
        assert said in told.err


def test_outside_of_git_and_of_a_project(project, tmp_path):
    told = project("diff")
    assert told.status == 2
    assert "there is no file or git revision 'HEAD': not a git repository" in told.err
    for name in ("a", "b"):
        (tmp_path / f"{name}.lock").write_bytes(project.lock.read_bytes())
    (tmp_path / "empty").mkdir()
    assert project("diff", "-C", tmp_path / "empty", "../a.lock", tmp_path / "b.lock").out == "nothing moved\n"


def test_colours_are_for_terminals(project, moved, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert "\033[32m+ fig " in project("diff").out
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\033" not in project("diff").out
