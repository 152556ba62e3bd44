"""``reprobox lock``: what it writes, what it keeps, and how every command treats a lock that does not fit."""

from __future__ import annotations

import re
import shutil
import tomllib
from typing import Any

import pytest

from reprobox.layers.kind import Resolution
from reprobox.layers.skeleton import NoKeys
from reprobox.lock import Input
from reprobox.plugins import hookimpl
from tests.images import Layout, folder, tar

pytestmark = pytest.mark.userns


def ids(project: Any) -> dict[str, str]:
    (target,) = tomllib.loads(project.lock.read_text())["targets"].values()
    return {layer["name"]: layer["id"] for layer in target["layers"]}


def test_lock_makes_a_lock(fresh):
    before = fresh.lock.read_bytes()
    fresh.lock.unlink()
    told = fresh("lock")
    assert told.status == 0
    assert told.out == "wrote research.lock: 4 layers, 0 inputs, 0 B\n"
    assert fresh.lock.read_bytes() == before
    assert not list(fresh.root.glob(".research.lock*"))


def test_locking_again_writes_nothing(project):
    before = project.lock.stat()
    told = project("lock", "--json")
    assert told.json["changed"] is False
    assert project("lock").out.startswith("research.lock is up to date")
    after = project.lock.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_the_order_of_env_does_not_matter(project):
    before = project.lock.read_bytes()
    project.edit('LANG = "C.UTF-8"\nCOLOUR = "blue"', 'COLOUR = "blue"\nLANG = "C.UTF-8"')
    assert project("lock", "--check").status == 0
    assert project("lock", "--json").json["changed"] is False
    assert project.lock.read_bytes() == before


def test_a_new_layer_keeps_the_ids_of_the_others(project):
    before = ids(project)
    project.add('[[layers]]\nname = "more"\nkind = "copy"\nfiles = [{ from = "data/", to = "/more" }]')
    assert project("lock", "--json").json["changed"] is True
    after = ids(project)
    assert after.keys() - before.keys() == {"more"}
    for name in ("base", "settings", "greeting"):
        assert after[name] == before[name]


def test_a_layer_in_the_middle_changes_those_that_stand_on_it_alone(project):
    before = ids(project)
    (project.root / "conf" / "name").write_text("large\n")
    assert project("lock").status == 0
    after = ids(project)
    assert after["base"] == before["base"]
    assert after["settings"] != before["settings"]
    assert after["greeting"] != before["greeting"]


def test_check_says_what_changed_and_writes_nothing(project):
    before = project.lock.read_bytes()
    assert project("lock", "--check").out.startswith("research.lock is up to date")
    project.edit('COLOUR = "blue"', 'COLOUR = "red"\nTASTE = "sweet"')
    project.edit('LANG = "C.UTF-8"\n', "")
    project.edit('script = "cat', 'script = "true; cat')
    told = project("lock", "--check")
    assert told.status == 3
    for key in ("env.COLOUR (changed)", "env.TASTE (new)", "env.LANG (removed)", "layers.greeting.script (changed)"):
        assert f"\n  {key}\n" in told.err
    assert "settings" not in told.err
    assert "run `reprobox lock`" in told.err
    assert project.lock.read_bytes() == before


@pytest.mark.parametrize(
    "argv",
    [["realize"], ["run", "--", "true"], ["shell"], ["export", "--format", "oci", "-o", "x"], ["lock", "--check"]],
)
def test_a_stale_lock_exits_3_and_names_the_keys(project, argv):
    project.edit('COLOUR = "blue"', 'COLOUR = "red"')
    told = project(*argv)
    assert told.status == 3
    assert "the lock is stale" in told.err
    assert "env.COLOUR (changed)" in told.err
    assert not (project.root / "x").exists()


@pytest.mark.parametrize("argv", [["realize"], ["run", "--", "true"], ["lock", "--check"]])
def test_no_lock_exits_3(project, argv):
    project.lock.unlink()
    told = project(*argv)
    assert told.status == 3
    assert "there is no lock" in told.err
    assert not project.lock.exists()


def test_a_copied_file_that_changed_makes_the_lock_stale(project):
    (project.root / "conf" / "name").write_text("large\n")
    for argv in (["lock", "--check"], ["realize"], ["run", "--", "true"]):
        told = project(*argv)
        assert told.status == 3
        assert "layers.settings (its files changed)" in told.err
        assert "greeting" not in told.err


def test_keys_and_files_are_told_together_in_text_and_in_json(project):
    (project.root / "conf" / "name").write_text("large\n")
    project.edit('COLOUR = "blue"', 'COLOUR = "red"')
    project.edit('"/out" = { mode = "rw"', '"/out" = { mode = "ro"')
    project.edit('version = "1.0"', 'version = "1.1"')
    project.edit('workdir = "/work"', 'workdir = "/"')
    project.edit("[env]\n", '[[layers]]\nname = "a"\nkind = "run"\nscript = "true"\n\n[env]\n')
    keys = ["env.COLOUR (changed)", "layers (changed)", "layers.a.kind (new)", "layers.a.script (new)"]
    keys += ["mounts./out (changed)", "project.version (changed)", "run.workdir (changed)"]
    keys += ["layers.settings (its files changed)"]
    told = project("lock", "--check", "--json")
    assert told.status == 3
    assert told.json["error"]["keys"] == keys
    assert told.err == (
        f"error: {project.lock}: the lock is stale; changed since it was made:"
        + "".join(f"\n  {key}" for key in keys)
        + "\n  hint: run `reprobox lock`\n"
    )


def test_files_of_a_layer_that_is_asked_for_otherwise_are_not_told_twice(project):
    (project.root / "conf" / "name").write_text("large\n")
    project.edit('to = "/etc/small"', 'to = "/etc/large"')
    assert project("lock", "--check", "--json").json["error"]["keys"] == ["layers.settings.files (changed)"]


def test_a_base_that_changed(fresh):
    (fresh.root / "root").mkdir()
    fresh.manifest.write_text(re.sub(r'rootfs = ".*"', 'rootfs = "root"', fresh.manifest.read_text()))
    assert fresh("lock", "--check", "--json").json["error"]["keys"] == ["base (changed)"]
    assert fresh("lock").status == 0
    (fresh.root / "root" / "x").touch()
    assert fresh("lock", "--check", "--json").json["error"]["keys"] == ["base (its files changed)"]


def test_a_copied_file_that_is_missing(project):
    (project.root / "conf" / "name").unlink()
    (project.root / "conf").rmdir()
    told = project("realize")
    assert told.status == 3
    assert "layers.settings (its files are missing)" in told.err
    before = project.lock.read_bytes()
    told = project("lock")
    assert told.status == 2
    assert f"{project.manifest}:" in told.err
    assert "layers[0].files[0].from" in told.err
    assert "conf" in told.err
    assert project.lock.read_bytes() == before


def test_copies_to_one_place_need_an_order(project):
    before = project.lock.read_bytes()
    project.add('[[layers]]\nname = "more"\nkind = "copy"\nfiles = [{ from = "data/", to = "/etc/small" }]')
    told = project("lock")
    assert told.status == 2
    assert "'settings' and 'more' both write at /etc/small" in told.err
    assert "add `after = [\"settings\"]` to layer 'more'" in told.err
    assert project.lock.read_bytes() == before
    project.edit('name = "more"', 'name = "more"\nafter = ["settings"]')
    assert project("lock").status == 0


# -- locks that cannot be used -----------------------------------------------------------------------------------------


def torn(text: str) -> str:
    return text[: len(text) // 2]


def newer(text: str) -> str:
    return text.replace("version = 1\n", "version = 99\n", 1)


def of_another_id(text: str) -> str:
    return re.sub(r'^id = "....', 'id = "0000', text, count=1, flags=re.MULTILINE)


def with_another_script(text: str) -> str:
    return text.replace("mkdir -p /opt/deep", "mkdir -p /opt/evil", 1)


def conflicted(text: str) -> str:
    return f"<<<<<<< ours\n{text}=======\n{text}>>>>>>> theirs\n"


@pytest.mark.parametrize("spoil", [torn, newer, of_another_id, with_another_script, conflicted, lambda _: ""])
def test_a_lock_that_cannot_be_used_is_told_and_kept(project, spoil):
    good = project.lock.read_text()
    bad = spoil(good)
    assert bad != good
    project.lock.write_text(bad)
    for argv in (["realize"], ["run", "--", "true"], ["lock", "--check"], ["lock"], ["lock", "--seal"]):
        told = project(*argv)
        assert told.status == 3
        assert str(project.lock) in told.err
        assert "hint: " in told.err
        assert project.lock.read_text() == bad
    assert "--upgrade" in project("lock").err
    told = project("lock", "--upgrade")
    assert told.status == 0
    assert "the old lock is not used" in told.err
    assert project.lock.read_text() == good


def test_a_lock_of_a_newer_format_says_so(project):
    project.lock.write_text(newer(project.lock.read_text()))
    told = project("realize")
    assert "the lock has format 99" in told.err
    assert "made by a newer reprobox" in told.err


def test_a_lock_that_is_not_text(project):
    project.lock.write_bytes(b"version = 1 \xff\n")
    assert project("realize").status == 3
    assert project("lock").status == 3
    assert project("lock", "--upgrade").status == 0


def test_a_folder_where_the_lock_should_be(project):
    project.lock.unlink()
    project.lock.mkdir()
    for argv, status in ((["realize"], 3), (["lock"], 3), (["lock", "--upgrade"], 1)):
        told = project(*argv)
        assert told.status == status
        assert f"{project.lock}: it cannot be" in told.err
    assert not list(project.root.glob(".research.lock*"))


# -- offline -----------------------------------------------------------------------------------------------------------


def test_locking_offline_what_only_a_registry_knows_exits_6(fresh):
    before = fresh.lock.read_bytes()
    text = fresh.manifest.read_text()
    fresh.manifest.write_text(re.sub(r'rootfs = ".*"', 'image = "127.0.0.1:9/none:1"', text))
    told = fresh("lock", "--offline", "--json")
    assert told.status == 6
    assert told.json["error"]["status"] == 6
    assert fresh.lock.read_bytes() == before
    assert fresh("lock", "--offline", "--check").status == 3


def test_realizing_offline_without_an_input_exits_6(fresh, store):
    layout = Layout(fresh.root / "layout")
    layout.tag(layout.image(tar(folder("etc"), folder("bin"))))
    text = re.sub(r'rootfs = ".*"', 'oci = "layout"', fresh.manifest.read_text())
    fresh.manifest.write_text(re.sub(r'\[\[layers\]\]\nname = "greeting".*?\n\n', "", text, flags=re.DOTALL))
    assert fresh("lock", "--offline").status == 0
    assert fresh("realize", "--offline").status == 0
    for place in ("layers", "blobs", "memo"):
        shutil.rmtree(store / place)
    layout.root.rename(fresh.root / "elsewhere")
    told = fresh("realize", "--offline")
    assert told.status == 3  # the layout is a local input, as copied files are
    assert "base (its files are missing)" in told.err


class Far:
    """A kind whose one input is far away."""

    name = "far"
    recipe = 1
    pinned = True
    options = NoKeys

    def needs(self, layer, above):
        return ()

    def resolve(self, request):
        return Resolution(inputs=(Input(type="star", name="alpha", sha256="0" * 63 + "1", size=4),))

    def step(self, request):
        raise AssertionError("it is never there")

    @hookimpl
    def reprobox_layer_kinds(self):
        return [self]


@pytest.mark.parametrize(("argv", "status"), [(["--offline"], 6), ([], 1)])
def test_an_input_that_is_missing(project, offered, argv, status):
    offered(far=Far())
    project.add('[[layers]]\nname = "light"\nkind = "far"')
    assert project("lock", "--offline").status == 0
    for verb in (["realize"], ["run", "--", "true"], ["export", "--format", "rootfs", "-o", "new"]):
        told = project(verb[0], *argv, *verb[1:])
        assert told.status == status
        assert "alpha" in told.err
        assert not (project.root / "new").exists()


def test_locking_and_realizing_offline_with_all_that_is_needed(fresh):
    assert fresh("lock", "--offline", "--upgrade").status == 0
    assert fresh("realize", "--offline").status == 0
