"""The promise that a lock keeps its meaning: every format that was ever released is realized, and gives what it gave.

``tests/locks/format-N`` has, for each format, locks with every kind of layer and base and every key, the vault that
keeps what they need, and the digests that they had. What is in there never changes.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reprobox import lock as locks
from reprobox import lock_text
from reprobox.cli import main
from reprobox.digest import NORMALISER, sha256
from reprobox.plugins import Plugins
from reprobox.session import this_platform

pytestmark = [
    pytest.mark.userns,
    pytest.mark.skipif(this_platform() != "linux/amd64", reason="the programs of the fixtures are for amd64"),
]

LOCKS = Path(__file__).resolve().parents[1] / "locks"
BAKED = ("everything", "code-from-git")  # the code is a layer of the same kind in all the others
FIXTURES = sorted(path.relative_to(LOCKS).with_suffix("").as_posix() for path in LOCKS.glob("format-*/*.json"))


def read(fixture: str) -> locks.Lock:
    return lock_text.read((LOCKS / f"{fixture}.lock").read_text())


@pytest.mark.parametrize("fixture", FIXTURES)
def test_it_is_realized_from_its_vault_and_gives_what_it_gave(fixture, tmp_path, capsys):
    frozen = json.loads((LOCKS / f"{fixture}.json").read_text())
    vault, project = LOCKS / Path(fixture).parent / "vault", tmp_path / "project"
    assert main(["vault", str(vault), "--extract", str(project), "--lock", Path(fixture).name]) == 0
    data = (LOCKS / f"{fixture}.lock").read_bytes()
    assert (project / "research.lock").read_bytes() == data
    assert f"sha256:{sha256(data)}" == frozen["lock"]
    (project / "key.txt").write_text("a secret that no vault has\n")
    options = ["-C", str(project), "--json", "-q", "--vault", str(vault), *([] if frozen["online"] else ["--offline"])]
    for target, wanted in frozen["targets"].items():
        for more in ([], ["--with-code"]) if Path(fixture).name in BAKED else ([],):
            capsys.readouterr()
            assert main(["realize", *options, "--target", target, *more]) == 0
            made = json.loads(capsys.readouterr().out)
            if more:
                assert made["tree_digest"] == frozen["with_code"][target]
            else:
                assert (made["tree_digest"], made["image_digest"]) == (wanted["tree_digest"], wanted["image_digest"])
                assert {layer["name"]: layer["diff_id"] for layer in made["layers"]} == wanted["layers"]
    assert main(["lock", "--check", "-C", str(project), "-q"]) == 0


def test_no_blob_of_the_fixtures_changed():
    blobs = list(LOCKS.glob("format-*/vault/blobs/sha256/*"))
    assert len(blobs) > 50
    assert [path.name for path in blobs if sha256(path.read_bytes()) != path.name] == []


def test_every_kind_of_layer_has_a_fixture_for_every_recipe_that_it_builds_by():
    """Whoever raises a recipe makes a fixture of it, and keeps the old one's."""
    found = {("code", 1)}  # which is in no lock: it is baked in with --with-code
    for fixture in FIXTURES:
        lock = read(fixture)
        layers = [layer for target in lock.targets.values() for layer in target.layers]
        found |= {(layer.kind, layer.recipe) for layer in (*layers, *lock.downloads.values())}
        found |= {(layer.kind, layer.recipe) for layer in ([lock.checkout] if lock.checkout else [])}
    kinds = Plugins(discover=False).kinds.values()
    built = {(kind.name, recipe) for kind in kinds for recipe in getattr(kind, "recipes", (kind.recipe,))}
    assert built - found == set(), "make fixtures of these: docs/explanation/old-locks.md says how"
    assert found - built == set(), "locks of these were released: they must stay buildable"


def test_every_key_that_a_lock_can_have_is_in_a_fixture():
    texts = {fixture: read(fixture) for fixture in FIXTURES}
    assert any(lock.code for lock in texts.values())
    assert any(lock.checkout for lock in texts.values())
    assert any(lock.mounts for lock in texts.values())
    assert any(lock.downloads for lock in texts.values())
    targets = [target for lock in texts.values() for target in lock.targets.values()]
    assert all(target.seal for target in targets)
    assert any(target.request for target in targets)
    layers = [layer for target in targets for layer in target.layers]
    assert any(layer.environment for layer in layers)
    assert any(layer.placement == "project" for layer in layers)
    assert any(layer.options.get("secrets") for layer in layers)
    assert any(layer.options.get("network") for layer in layers)
    assert any("shared_with" in (LOCKS / f"{fixture}.lock").read_text() for fixture in FIXTURES)


def test_every_format_and_normaliser_that_is_read_has_fixtures():
    """Whoever changes the format makes a folder of it, and keeps the old ones."""
    assert {read(fixture).version for fixture in FIXTURES} == set(range(1, locks.FORMAT + 1))
    said = {(LOCKS / f"{fixture}.lock").read_text().split("normaliser = ")[1].split()[0] for fixture in FIXTURES}
    assert str(NORMALISER) in said
