"""``reprobox cite``: what it prints, the badge, and who counts as vouching."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from reprobox.attestation.keys import Keyring

pytestmark = pytest.mark.userns
NOBODY = "nobody is named as author: add `authors` to [project] of the manifest\n"


@pytest.fixture(autouse=True)
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Keyring:
    monkeypatch.setenv("REPROBOX_KEYS", str(tmp_path / "keys"))
    monkeypatch.delenv("REPROBOX_KEY_PASSPHRASE", raising=False)
    return Keyring(tmp_path / "keys")


def words(path: Path) -> list[str | None]:
    return [item.text for item in ElementTree.fromstring(path.read_bytes()).iter("{http://www.w3.org/2000/svg}text")]


def short(project) -> str:
    return project("cite", "--json").json["lock"].removeprefix("sha256:")[:12]


def test_the_paragraph_and_the_reference(project):
    told = project("cite")
    assert (told.status, told.err) == (0, NOBODY)
    paragraph, empty, reference = told.out.splitlines()
    assert paragraph.startswith(
        f"The computational environment (small 1.0; lock sha256:{short(project)}) is described with"
    )
    assert "Building it gives" not in paragraph
    assert empty == ""
    assert reference.startswith("small (Version 1.0; lock sha256:")


def test_each_language_and_the_entry(project):
    project.edit('version = "1.0"', 'version = "1.0"\nauthors = [{ name = "Grace Hopper" }]\ndoi = "10.5281/zenodo.1"')
    assert project("lock", "-q").status == 0
    told = project("cite", "--json").json
    assert told["key"] == "hopper" + told["key"][6:]
    for form in ("text", "latex", "markdown"):
        said = project("cite", "--format", form)
        assert said.err == ""
        assert said.out == f"{told['paragraph'][form]}\n\n{told['reference'][form]}\n"
    assert project("cite", "--format", "bibtex").out == f"{told['bibtex']}\n"
    assert "  author  = {Hopper, Grace},\n" in told["bibtex"]
    assert "https://doi.org/10.5281/zenodo.1" in told["paragraph"]["latex"]


def test_the_badge_is_what_is_true_of_the_lock(project, keys):
    badge = project.root / "badge.svg"
    assert project("cite", "--badge", "badge.svg").out == "wrote badge.svg (locked)\n"
    assert words(badge) == ["environment", f"{short(project)} · locked"]
    first = badge.read_bytes()
    assert project("cite", "--badge", "badge.svg").status == 0
    assert badge.read_bytes() == first
    assert project("lock", "--seal", "-q").status == 0
    assert project("cite", "--badge", "badge.svg").out == "wrote badge.svg (locked, sealed)\n"
    assert words(badge) == ["environment", f"{short(project)} · sealed"]
    keys.make("ada")
    assert project("verify", "--rebuild", "--sign", "-q").status == 0
    assert project("cite", "--badge", "badge.svg").out == "wrote badge.svg (locked, sealed, 1 key vouches)\n"
    assert words(badge) == ["environment", f"{short(project)} · sealed · 1 key vouches"]
    assert ", for which 1 key vouches with signed statements." in project("cite").out


def test_nobody_counts_who_is_not_known_or_means_another_lock(project, keys, tmp_path, monkeypatch):
    assert project("lock", "--seal", "-q").status == 0
    keys.make("ada")
    assert project("verify", "--rebuild", "--sign", "-q").status == 0
    monkeypatch.setenv("REPROBOX_KEYS", str(tmp_path / "somebody-else"))
    told = project("cite", "--json")
    assert (told.json["keys"], told.json["standing"]) == (0, ["locked", "sealed"])
    assert "does not count: nobody here knows the key" in told.err
    monkeypatch.setenv("REPROBOX_KEYS", str(tmp_path / "keys"))
    project.edit("mkdir -p /opt/deep", "mkdir -p /opt/wide")
    assert project("lock", "-q").status == 0
    told = project("cite", "--json")
    assert (told.json["keys"], told.json["standing"]) == (0, ["locked"])
    assert "does not count: it is for the lock sha256:" in told.err


def test_of_several_targets_the_first_unless_one_is_named(project):
    project.edit("[env]\n", "[targets.one]\n[targets.two]\n\n[env]\n")
    assert project("cite", "--target", "two").status == 3
    assert project("lock", "-q").status == 0
    told = project("cite")
    assert "the paragraph is about the target one; --target names another" in told.err
    assert "(small 1.0, target one; lock" in told.out
    assert "(small 1.0, target two; lock" in project("cite", "--target", "two").out
    told = project("cite", "--target", "three")
    assert (told.status, "there is no target" in told.err) == (2, True)


def test_a_stale_lock_is_not_cited(project):
    project.edit("mkdir -p /opt/deep", "mkdir -p /opt/wide")
    told = project("cite")
    assert told.status == 3
    assert "layers.greeting.script (changed)" in told.err
    project.lock.unlink()
    assert project("cite").status == 3


def test_a_badge_that_cannot_be_written(project):
    told = project("cite", "--badge", "none/badge.svg")
    assert told.status == 2
    assert told.err == (
        f"{NOBODY}error: none/badge.svg: it cannot be written: No such file or directory\n"
        "  hint: give --badge a file in a folder that is there\n"
    )
    assert project("cite", "--badge", "conf").status == 2
    assert project("cite", "--badge", "").err == (
        f"{NOBODY}error: --badge .: it is no name of a file\n  hint: give --badge a file in a folder that is there\n"
    )
    assert sorted(path.name for path in project.root.iterdir() if path.name.startswith(".conf")) == []
