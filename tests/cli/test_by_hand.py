"""`shell --writable` and `freeze`: a copy that is kept, and layers that give the same."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from reprobox import writable
from reprobox.digest import read_index
from reprobox.sandbox.backend import Sandbox
from reprobox.store import Store
from reprobox.tree import Tree

pytestmark = pytest.mark.userns
HANDWORK = """
echo $UID
cd /opt; echo by hand > note; cp -s note link; mkdir empty; cp /bin/cat /bin/hi; cd /work
echo changed >> /greeting; (umask 077; touch /etc/mine)
mkdir -p /root/.ssh; echo key > /root/.ssh/id_rsa; echo cd > /root/.bash_history
echo result > /out/result; touch /tmp/gone; pwd
exit 3
"""


def test_changes_by_hand_become_layers_that_give_the_same(project):
    store = Store(Path(os.environ["REPROBOX_STORE"]))
    place = writable.place_of(store, project.root, "default", "sandbox")
    told = project.process("shell", "--writable", stdin=HANDWORK)
    assert (told.status, told.out) == (3, "0\n/work\n")
    assert told.err.startswith("a writable copy of default: you are root in it")
    assert "`reprobox freeze --dry-run` says what it was" in told.err
    assert (project.root / "out/result").read_text() == "result\n"
    told = project.process("shell", "--writable", stdin="cat /opt/note; ls /tmp\n")
    assert (told.status, told.out) == (0, "by hand\n")
    assert told.err.startswith("the writable copy of default, as you left it")
    assert project("realize", "--json").json["tree_digest"]  # which is not of the copy

    before = project.manifest.read_text()
    dry = project("freeze", "--dry-run", "--json")
    assert dry.status == 0, dry.err
    assert dry.json["files"] == ["bin/hi", "etc/mine", "greeting", "opt/link", "opt/note"]
    assert dry.json["apt"]["asked"] == dry.json["pip"]["asked"] == []
    assert project.manifest.read_text() == before
    assert not (project.root / "frozen").exists()

    done = project("freeze")
    assert done.status == 0, done.err
    assert "  /etc/mine: its mode 0600 becomes 0644\n" in done.out
    assert "  /opt/empty: an empty folder, which no layer has\n" in done.out
    assert "  /root/.ssh/id_rsa: credentials, never frozen\n" in done.out
    assert done.out.endswith("next: `reprobox realize`, and when it is right `reprobox shell --writable --discard`\n")
    assert "id_rsa" not in "".join(path.name for path in (project.root / "frozen").rglob("*"))
    assert 'name = "by-hand"' in project.manifest.read_text()

    layers = project("realize", "--json").json["layers"]
    built = Tree.load(*(store.layer(layer["id"][7:]).index for layer in layers))
    copy = writable.find(place)
    with store.scratch() as output:
        writable.changes(Sandbox(store.root / "tmp"), copy, output)
        edited = Tree.merged([copy.parents().sorted(), read_index((output / "index").read_bytes())])
    differ = {path for path in built.entries.keys() | edited.entries.keys() if built.get(path) != edited.get(path)}
    named = {b"opt/empty", b"root/.ssh", b"root/.ssh/id_rsa", b"root/.bash_history", b"etc/mine"}
    assert differ == named
    assert project.process("run", "--", "/bin/hi", "/greeting").out == "small\nchanged\n"
    moved = project.process("shell", "--writable", stdin="")
    assert "warning: research.lock has moved since the copy was begun" in moved.err

    assert project("shell", "--writable", "--discard").err == "the writable copy is gone\n"
    assert not place.exists()
    assert project("shell", "--writable", "--discard").err == "there was no writable copy\n"


def test_without_a_copy_or_without_changes_there_is_nothing_to_freeze(project):
    told = project("freeze")
    assert told.status == 2
    assert told.err == (
        f"error: {project.root}: there is no writable copy of default with the backend sandbox\n"
        "  hint: make one with `reprobox shell --writable`\n"
    )
    assert project.process("shell", "--writable", stdin="true\n").status == 0
    assert project("freeze").out == "nothing was changed by hand\n"
    (project.root / "here").touch()
    assert (
        project("freeze", "--to", "here").err
        == f"error: {project.root / 'here'}: it exists already\n  hint: give --to a new name\n"
    )


def test_who_has_apt_and_no_lists_is_told_what_comes_first(project):
    (project.root / "apt/usr/bin").mkdir(parents=True)
    (project.root / "apt/usr/bin/apt-get").touch()
    project.add('[[layers]]\nname = "apt"\nkind = "copy"\nfiles = [{ from = "apt/", to = "/" }]')
    assert project("lock").status == 0
    told = project.process("shell", "--writable", stdin="true\n")
    assert "apt knows no packages yet: `apt-get update` comes first\n" in told.err
    place = writable.place_of(Store(Path(os.environ["REPROBOX_STORE"])), project.root, "default", "sandbox")
    tree = writable.find(place).parents()
    for name, lacks in ((b"lock", True), (b"host_dists_x_main_binary-amd64_Packages.lz4", False)):
        tree.entries[b"var/lib/apt/lists/" + name] = tree.entries[b"usr/bin/apt-get"]
        assert writable.lacks_lists(tree) == lacks
    del tree.entries[b"usr/bin/apt-get"]
    assert not writable.lacks_lists(tree)


def test_a_copy_keeps_its_layers_from_gc_and_is_used_by_one_at_a_time(project):
    project.process("shell", "--writable", stdin="echo x > /opt/x\n")
    store = Store(Path(os.environ["REPROBOX_STORE"]))
    place = writable.place_of(store, project.root, "default", "sandbox")
    for record in (store.root / "realizations").glob(f"*{project.root.parent.name}*@sandbox.json"):
        record.unlink()
    time.sleep(0.05)
    assert project("cache", "gc", "--older-than", "0d").status == 0
    assert writable.find(place) is not None
    with writable.in_use(place):
        told = project("freeze")
        assert told.status == 2
        assert "another command uses the writable copy" in told.err
    (store.root / "realizations" / f"{place.name}@writable.json").unlink()
    for options, words in (
        (("--discard",), "--discard goes with --writable"),
        (("--writable", "--isolate"), "--isolate does not go with --writable"),
        (("--writable", "--memory", "1GiB"), "--memory does not go with --writable"),
    ):
        told = project("shell", *options)
        assert (told.status, words in told.err) == (2, True)
