"""What is left out of code, held against git itself."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reprobox.git.worktree import collect
from reprobox.layers.gitignore import ignore_rules

pytestmark = pytest.mark.tool("git")

NOBODY = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@b",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@b",
    "PATH": os.environ["PATH"],
    "HOME": "/nonexistent",
}


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, env=NOBODY, capture_output=True, check=True)
    return done.stdout.decode("utf-8", "surrogateescape")


def kept_by_git(folder: Path) -> list[str]:
    if not (folder / ".git").exists():
        git(folder, "init", "-q")
    return sorted(item for item in git(folder, "ls-files", "-o", "-z", "--exclude-standard").split("\0") if item)


def kept(folder: Path, *patterns: str, top: Path | None = None) -> list[str]:
    return [os.fsdecode(item.path) for item in collect(folder, ignored=ignore_rules(folder, patterns, top))]


PIECES = ["a", "b", "ab", "a.b", "c"]
PATTERNS = [
    *(
        "a",
        "b/",
        "/a",
        "*.b",
        "!a.b",
        "a/b",
        "**/b",
        "a/**",
        "!a",
        "*",
        "!*/",
        "/ab/c",
        "a?b",
        "#a",
        "",
        r"\!a",
        "!/a/b",
    ),
    *("[ab]", "[!a]", "[^b]b", "[[:alpha:]]", "[[:nonsense:]]", "[a-b]*", "[b-a]", "[]a]", "a[/]b", "[", r"[\a]"),
    *(
        "**",
        "a**b",
        "**a",
        "a/**/b",
        "/**/c",
        "**/a/",
        "***",
        r"\a",
        "b\\",
        "/",
        "//",
        "!",
        "c ",
        r"c\ ",
        " a",
        "a\r",
        "a.b/*",
    ),
]


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rules=st.dictionaries(
        st.sampled_from(["", "a", "ab", "a/b"]), st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=4), max_size=3
    ),
    seed=st.integers(0, 20),
)
def test_ignore_files_are_read_as_git_reads_them(tmp_path_factory, rules, seed):
    folder = tmp_path_factory.mktemp("ignored")
    pick = random.Random(seed)
    for _ in range(25):
        path = folder.joinpath(*(pick.choice(PIECES) for _ in range(pick.randint(1, 4))))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        except OSError:
            continue
    for place, lines in rules.items():
        if (folder / place).is_dir():
            (folder / place / ".gitignore").write_text("\n".join(lines) + "\n")
    assert kept(folder) == kept_by_git(folder)


def test_only_files_that_travel_with_the_project_count(tmp_path):
    """Not .git/info/exclude, not whether a file is tracked: a copy without .git must have the same hash."""
    (tmp_path / "a.tmp").touch()
    (tmp_path / "b").touch()
    (tmp_path / "c").touch()
    (tmp_path / ".gitignore").write_text("*.tmp\n")
    before = kept(tmp_path)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-f", "a.tmp")
    (tmp_path / ".git" / "info" / "exclude").write_text("c\n")
    assert kept(tmp_path) == before == [".gitignore", "b", "c"]


def test_patterns_of_the_manifest_count_most(tmp_path):
    for name in ("data/x", "keep.ckpt", "other.ckpt", "log"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / ".gitignore").write_text("log\n!data/\n")
    assert kept(tmp_path, "data/", "*.ckpt", "!keep.ckpt", "!log") == [".gitignore", "keep.ckpt", "log"]


def test_ignore_files_above_the_code_count_up_to_the_project(tmp_path):
    code = tmp_path / "project" / "src"
    code.mkdir(parents=True)
    for name in ("a.log", "b.log", "c"):
        (code / name).touch()
    (tmp_path / ".gitignore").write_text("c\n")
    (tmp_path / "project" / ".gitignore").write_text("*.log\n/c\n")
    (code / ".gitignore").write_text("!b.log\n")
    assert kept(code, top=tmp_path / "project") == [".gitignore", "b.log", "c"]


def test_an_ignore_file_that_is_none(tmp_path):
    (tmp_path / "rules").write_text("x\n")
    (tmp_path / "x").touch()
    (tmp_path / ".gitignore").symlink_to("rules")
    assert kept(tmp_path) == kept_by_git(tmp_path) == [".gitignore", "rules", "x"]
    (tmp_path / "sub" / ".gitignore").mkdir(parents=True)
    assert kept(tmp_path) == [".gitignore", "rules", "x"]
