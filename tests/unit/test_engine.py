"""The engine: layers in the right order, built once, joined only if they do not step on one another."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from reprobox import early
from reprobox.building import image_environment
from reprobox.digest import Entry, write_index
from reprobox.engine import build
from reprobox.environment import Environment, assemble
from reprobox.errors import BuildError, LockError, ReproboxError
from reprobox.image import Settings, layer_digest
from reprobox.layer_copies import merge_into
from reprobox.layers.kind import AheadRequest, Commands, Made, Step, StepRequest
from reprobox.layers.run import RunKind
from reprobox.lock import LockedLayer, LockedTarget, with_ids
from reprobox.session import Session
from reprobox.store import Store
from tests import images
from tests.layers import EPOCH, LayerMaker, d, f, l, w
from tests.local import Local, copying, programs_in, running

ROOT = Path(__file__).resolve().parents[2]


def digest_by_script(folder: Path) -> str:
    argv = [sys.executable, "-I", str(ROOT / "tests/independent/tree_digest.py"), str(folder)]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


# -- joining layers ----------------------------------------------------------------------------------------------------


@pytest.fixture
def join(store, tmp_path):
    """Assemble layers that have these entries, as ``name: (parents, entries)``; nothing is built."""
    make = LayerMaker(tmp_path)

    def join(**layers: tuple[str, list[Entry]]) -> Environment:
        here = Store(store)
        locked = [LockedLayer(name="base", kind="rootfs", recipe=1, request="")]
        locked += [
            LockedLayer(
                name=name, kind="copy", recipe=1, request="", parents=tuple(parents.split()), options={"name": name}
            )
            for name, (parents, _) in layers.items()
        ]
        target = LockedTarget(name="default", platform="linux/amd64", layers=with_ids(locked, EPOCH))
        for item in target.layers:
            made = make(lambda _: None)
            entries = [] if item.name == "base" else layers[item.name][1]
            made.index_file.write_bytes(write_index(entries))
            here.publish_layer(item.id, made.output, {"diff_id": "0" * 64, "size": 0, "dropped": []})
        return assemble(here, target, EPOCH, lambda _: Settings(architecture="amd64"))

    return join


def test_layers_that_write_different_paths_are_joined(join):
    join(one=("base", [d("a"), f("a/x")]), two=("base", [d("a"), f("a/y")]))


@pytest.mark.parametrize(
    ("one", "two", "path"),
    [
        ([f("etc/passwd")], [f("etc/passwd")], "etc/passwd"),
        ([f("x")], [w("x")], "x"),
        ([w("x")], [w("x")], "x"),
        ([l("lib", "usr/lib")], [d("lib"), f("lib/x")], "lib"),
        ([d("data"), f("data/x")], [f("data")], "data"),
        ([w("old")], [d("old"), f("old/x")], "old"),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_unordered_layers_that_touch_one_path_are_told_with_what_to_do(join, one, two, path, turned):
    layers = {"one": ("base", two if turned else one), "two": ("base", one if turned else two)}
    with pytest.raises(BuildError) as caught:
        join(**layers)
    assert caught.value.message == f"layers 'one' and 'two' both write /{path}, and neither stands on the other"
    assert caught.value.hint == "say which comes first: add `after = [\"one\"]` to layer 'two'"
    join(one=layers["one"], two=("base one", layers["two"][1]))


def test_of_many_layers_the_two_that_meet_are_named(join):
    layers = {f"l{number}": ("base", [f(f"x{number}")]) for number in range(5)}
    layers["l5"] = ("base l0 l1", [f("x3")])
    with pytest.raises(BuildError, match="'l3' and 'l5' both write /x3"):
        join(**layers)
    layers["l5"] = ("base l0 l1 l3", [f("x3")])
    join(**layers)


def test_an_ordered_layer_between_hides_nothing(join):
    with pytest.raises(BuildError, match="'two' and 'three' both write /x"):
        join(one=("base", [f("x")]), two=("one", [f("x")]), three=("one", [f("x")]))


def test_unordered_layers_may_not_change_the_mode_of_one_folder(join):
    """The one stacked last would undo what the other did to the folder."""
    with pytest.raises(BuildError, match="both write /opt"):
        join(one=("base", [d("opt", 0o711)]), two=("base", [d("opt"), f("opt/x")]))


def test_a_layer_that_went_away_is_an_error(join, store):
    join(one=("base", [f("x")]))
    for folder in (store / "layers").iterdir():
        if '"copy"' in (folder / "layer.json").read_text() or (folder / "index").read_bytes():
            shutil.rmtree(folder)
    with pytest.raises(ReproboxError, match="went away from the store"):
        assemble(
            Store(store),
            LockedTarget(
                name="default",
                platform="linux/amd64",
                layers=with_ids([LockedLayer(name="gone", kind="copy", recipe=1, request="")], 0),
            ),
            EPOCH,
            lambda _: Settings(architecture="amd64"),
        )


def test_the_environment_of_a_base_image_is_read_from_its_config():
    record = {"config": {"Env": ["PATH=/bin", "A=b=c", "EMPTY="]}}
    assert image_environment(record) == {"PATH": "/bin", "A": "b=c", "EMPTY": ""}
    assert image_environment({}) == image_environment({"config": {"Env": None}}) == {}


# -- building ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def local(tmp_path, store) -> Local:
    programs_in(tmp_path / "project")
    return Local(tmp_path / "project", store)


STEP = """
echo hello > /greeting
chmod 4755 /greeting
mkdir -p /srv/made/deep
chmod 0711 /srv
ln /greeting /srv/linked
ln -s ../greeting /srv/link
rm /etc/group
mkfifo /srv/fifo
mkdir -p /etc/ssh /var/cache/apt
echo key > /etc/ssh/ssh_host_key
echo x > /var/cache/apt/x
echo x > /tmp/x
umask > /srv/umask
env > /srv/env
"""


@pytest.mark.userns
def test_a_step_ends_as_a_normalised_layer(local):
    local.write(running("step", STEP) + '[mounts]\n"/srv/made/deep/mount" = { mode = "ro" }\n').lock()
    made = local.realize()
    step, skeleton = made.environment.layers[1:]
    index = {(entry.kind, oct(entry.mode), entry.path.decode()) for entry in _index(step.index)}
    assert index == {
        ("f", "0o755", "greeting"),
        ("d", "0o711", "srv"),
        ("f", "0o755", "srv/linked"),
        ("l", "0o777", "srv/link"),
        ("f", "0o644", "srv/umask"),
        ("f", "0o644", "srv/env"),
        ("d", "0o755", "srv/made"),
        ("d", "0o755", "srv/made/deep"),
        ("d", "0o755", "etc"),
        ("w", "0o0", "etc/group"),
        ("d", "0o755", "etc/ssh"),
        ("d", "0o755", "var"),
        ("d", "0o755", "var/cache"),
        ("d", "0o755", "var/cache/apt"),
    }
    assert (step.tree / "srv/umask").read_text() == "0022\n"
    told = next(layer for layer in made.result["layers"] if layer["name"] == "step")
    assert {text.partition(":")[0] for text in told["dropped"]} == {
        "/greeting",
        "/srv/linked",
        "/srv/fifo",
        "/etc/ssh/ssh_host_key",
    }
    # The way to a mount point keeps its modes.
    assert ("d", 0o711, b"srv") in {(entry.kind, entry.mode, entry.path) for entry in _index(skeleton.index)}


def _index(path: Path) -> list[Entry]:
    from reprobox.digest import read_index

    return read_index(path.read_bytes())


@pytest.mark.userns
def test_the_tree_digest_is_that_of_the_independent_script(local, tmp_path):
    local.file("conf/a b", "x").file("conf/run", "#!/bin/sh\n", 0o755)
    local.write(copying("conf", "conf", "/etc/conf") + running("step", STEP)).lock()
    made = local.realize(output=tmp_path / "rootfs")
    assert digest_by_script(tmp_path / "rootfs") == f"sha256:{made.environment.tree_digest}"
    for layer, record in zip(made.environment.layers, made.environment.records, strict=True):
        assert (record["diff_id"], record["size"]) == layer_digest(layer.tree, layer.index, 315_532_800)


def digests(local: Local) -> tuple[str, str]:
    environment = local.realize().environment
    return environment.tree_digest, environment.image_digest


@pytest.mark.userns
def test_another_store_folder_umask_and_copy_instead_of_overlay_give_the_same(local, tmp_path, monkeypatch):
    local.file("conf/x", "x").write(copying("conf", "conf", "/etc/conf") + running("step", STEP + "rm -r /root")).lock()
    wanted = digests(local)
    assert digests(local.elsewhere(tmp_path / "second store")) == wanted
    old = os.umask(0o077)
    try:
        moved = tmp_path / "other"
        subprocess.run(["cp", "-a", local.path, moved], check=True)
        assert digests(Local(moved, tmp_path / "third")) == wanted
    finally:
        os.umask(old)
    monkeypatch.setenv("REPROBOX_SANDBOX_OVERLAY", "no")
    assert digests(local.elsewhere(tmp_path / "fourth")) == wanted


SHADOW = "root:*:19000:0:99999:7:::\n"


@pytest.mark.userns
def test_a_base_image_is_the_same_below_overlay_and_copies(local, tmp_path, monkeypatch):
    """Files that an image brings and that a layer may not have: shadow's days, ids, keys, set-id bits, caches."""
    layout = images.Layout(local.path / "layout")
    entries = [
        images.entry("etc/shadow", SHADOW.encode(), mode=0o640),
        images.entry("etc/machine-id", b"0123\n"),
        images.entry("etc/ssh/ssh_host_key", b"key", mode=0o600),
        images.entry("usr/bin/passwd", b"x", mode=0o4755),
        images.entry("var/lib/apt/lists/partial/x", b"x"),
        images.entry("var/cache/apt/archives/x", b"x"),
        images.entry("environment/x", b"x"),
    ]
    layout.tag(layout.image(_tar_of(local.path / "base"), images.tar(*entries), Env=["PATH=/bin"]))
    script = "rm -r /var/lib/apt/lists/partial /environment/x\necho x > /made\nchmod 0700 /usr/bin/passwd\n"
    local.write(running("step", script) + running("more", "echo y > /more"), head=HEAD_OCI).lock()
    made = local.realize()
    step = {entry.path.decode(): entry for entry in _index(made.environment.layers[1].index)}
    assert set(step) - {"usr", "usr/bin", "var", "var/lib", "var/lib/apt", "var/lib/apt/lists"} == {
        "environment",
        "environment/x",
        "made",
        "usr/bin/passwd",
        "var/lib/apt/lists/partial",
    }
    assert [entry.path for entry in _index(made.environment.layers[2].index)] == [b"more"]
    monkeypatch.setenv("REPROBOX_SANDBOX_OVERLAY", "no")
    copied = local.elsewhere(tmp_path / "copied").realize()
    assert copied.environment.diff_ids() == made.environment.diff_ids()
    assert copied.environment.tree_digest == made.environment.tree_digest


HEAD_OCI = '[project]\nname = "test"\n[base]\noci = "layout"\n'


def _tar_of(folder: Path) -> bytes:
    argv = ["tar", "--create", "--owner=0", "--group=0", "--directory", folder, "."]
    return subprocess.run(argv, capture_output=True, check=True).stdout


@pytest.mark.userns
def test_a_base_without_run_time_folders_gets_them_from_the_skeleton(local, tmp_path):
    """What the sandbox makes for itself, on a base that lacks it, is no work of the step."""
    for name in ("dev", "proc", "sys", "run", "tmp"):
        shutil.rmtree(local.path / "base" / name)
    local.write(running("step", "echo x > /made")).lock()
    made = local.realize(output=tmp_path / "rootfs")
    assert [entry.path for entry in _index(made.environment.layers[1].index)] == [b"made"]
    assert stat.S_IMODE((tmp_path / "rootfs/tmp").stat().st_mode) == 0o1777


@pytest.mark.userns
def test_a_second_time_there_is_nothing_to_do(local):
    local.file("conf", "x").write(copying("conf", "conf", "/conf") + running("step", "echo x > /x")).lock()
    local.realize()
    assert local.listener.steps == ["base", "conf", "step", "skeleton"]
    local.listener.steps.clear()
    made = local.realize()
    assert local.listener.steps == []
    assert all(layer["cached"] for layer in made.result["layers"])


@pytest.mark.userns
def test_only_what_changed_and_what_stands_on_it_is_built_again(local):
    local.file("one", "1").file("two", "2")
    text = copying("first", "one", "/one") + copying("second", "two", "/two")
    local.write(text).lock()
    local.realize()
    local.listener.steps.clear()
    local.file("two", "changed").lock()
    local.realize()
    assert local.listener.steps == ["second", "skeleton"]


@pytest.mark.userns
def test_a_layer_that_was_lost_is_built_again_to_the_same(local):
    local.write(running("one", "echo x > /x") + running("two", "echo y > /y")).lock()
    made = local.realize()
    Store(local.store).forget_layer(made.environment.layers[1].id)
    local.listener.steps.clear()
    again = local.realize()
    assert local.listener.steps == ["one"]
    assert again.environment.diff_ids() == made.environment.diff_ids()


@pytest.mark.userns
def test_a_step_that_fails_is_told_with_its_last_lines_and_leaves_no_layer(local):
    local.write(
        running("good", "echo x > /x") + running("bad", "echo about to fail\ncat /nowhere\necho not reached")
    ).lock()
    with pytest.raises(BuildError) as caught:
        local.realize()
    error = caught.value
    assert error.where == "layer 'bad'"
    assert "about to fail" in error.message
    assert "/nowhere" in error.message
    assert "not reached" not in error.message
    logs = {str(path): path.read_text() for path in (local.store / "logs").iterdir()}
    (log,) = (path for path, text in logs.items() if "about to fail" in text)
    assert log in error.hint
    kinds = [json.loads(path.read_text())["name"] for path in local.store.glob("layers/*/layer.json")]
    assert sorted(kinds) == ["base", "good"]
    assert not [
        path for path in (local.store / "tmp").iterdir() if path.is_dir() and not path.name.startswith("stage-")
    ]
    local.listener.steps.clear()
    local.write(running("good", "echo x > /x") + running("bad", "true")).lock()
    local.realize()
    assert "good" not in local.listener.steps


class Hasty(RunKind):
    """Knows a quick way, which fails."""

    def step(self, request: StepRequest) -> Commands:
        plain = super().step(request)
        hasty = ("/bin/sh", "-c", "echo in haste; touch /left; exit 3")
        return plain if request.plain else replace(plain, commands=(hasty,), quick=True)


class InHaste(Local):
    """A project whose ``run`` layers know a quick way."""

    @property
    def session(self) -> Session:
        session = super().session
        session.plugins.kinds["run"] = Hasty()
        return session


@pytest.mark.userns
def test_a_quick_way_that_fails_is_followed_by_the_plain_one(local, store):
    hasty = InHaste(local.path, local.store)
    hasty.write(running("step", "echo plain > /made")).lock()
    made = hasty.realize()
    assert hasty.listener.said == ["step: it failed the quick way, so it is built again the plain way"]
    (layer,) = (layer for layer in made.environment.layers if layer.name == "step")
    assert (layer.tree / "made").read_text() == "plain\n"
    assert not (layer.tree / "left").exists()
    assert not list((store / "failed").glob("*"))


@pytest.mark.userns
def test_plain_ways_can_be_asked_for(local, monkeypatch):
    monkeypatch.setenv("REPROBOX_PLAIN", "1")
    hasty = InHaste(local.path, local.store)
    hasty.write(running("step", "echo plain > /made")).lock()
    hasty.realize()
    assert hasty.listener.said == []


class Eager(RunKind):
    """Has steps carried out ahead, over the base and a file laid over it."""

    breaks = False
    hangs: threading.Event | None = None

    def ahead(self, request: AheadRequest) -> bool:
        if self.breaks:
            raise ValueError("not the step's concern")
        if self.hangs is not None:
            self.hangs.wait(60)
        over = request.folder / "over"
        over.mkdir()
        (over / "word").write_text("made ahead of its turn, ")
        step = super().step(request.step)
        assert isinstance(step, Commands)
        request.build(over, step)
        return True

    def step(self, request: StepRequest) -> Step:
        if request.ahead:
            assert request.root().get(b"first"), "it is told what it stands on"
            return Made(folder=request.ahead)
        return super().step(request)


class Eagerly(Local):
    """A project whose ``run`` layers have work done ahead."""

    kind = Eager()

    @property
    def session(self) -> Session:
        session = super().session
        session.plugins.kinds["run"] = self.kind
        return session

    def made(self) -> list[str]:
        """What each step saw of what it was carried out over, or nothing."""
        show = "if [ -e /word ]; then (cat /word; echo $SOURCE_DATE_EPOCH); else echo nothing; fi > /"
        self.write(running("first", f"{show}first") + running("second", f"{show}second")).lock()
        layers = self.realize().environment.layers
        assert not [path for path in (self.store / "tmp").iterdir() if path.is_dir()]
        return [(layer.tree / layer.name).read_text() for layer in layers if layer.name in ("first", "second")]


@pytest.mark.userns
def test_what_can_be_had_before_the_turn_of_a_step_is_made_ahead(local):
    eager = Eagerly(local.path, local.store)
    first, second = eager.made()
    assert first == "nothing\n", "its turn came with the base"
    assert second == f"made ahead of its turn, {eager.project.lock(eager.session.store).epoch}\n"
    assert eager.listener.said == []
    [log] = [path for path in (eager.store / "logs").iterdir() if "done ahead" in path.read_text()]
    folder = eager.store / "layers" / log.stem
    record = json.loads((folder / "layer.json").read_text())
    assert (record["name"], record["diff_id"]) == ("second", layer_digest(folder / "tree", folder / "index", 0)[0])


@pytest.mark.userns
@pytest.mark.parametrize("setting", ["REPROBOX_PLAIN=1", "REPROBOX_SANDBOX_OVERLAY=no", ""])
def test_steps_do_without_what_was_not_made_ahead(local, monkeypatch, setting):
    name, _, value = setting.partition("=")
    if name:
        monkeypatch.setenv(name, value)
    eager = Eagerly(local.path, local.store)
    monkeypatch.setattr(eager.kind, "breaks", not setting)
    assert eager.made() == ["nothing\n", "nothing\n"]
    assert eager.listener.said == []


@pytest.mark.userns
def test_a_step_does_not_wait_for_ever_for_what_was_begun(local, monkeypatch):
    monkeypatch.setattr(early, "_PATIENCE", 0.01)
    eager = Eagerly(local.path, local.store)
    monkeypatch.setattr(eager.kind, "hangs", threading.Event())
    assert eager.made() == ["nothing\n", "nothing\n"]
    eager.kind.hangs.set()


@pytest.mark.userns
def test_files_where_a_folder_must_be_are_told(local):
    local.file("conf/x", "").write(copying("conf", "conf", "/etc/passwd/inside")).lock()
    with pytest.raises(BuildError, match="/etc/passwd"):
        local.realize()


@pytest.mark.userns
def test_links_of_the_base_can_make_two_destinations_one(local):
    (local.path / "base/lib64x").symlink_to("usr/sbin")
    local.file("a", "a").file("b", "b")
    local.write(copying("one", "a", "/usr/sbin/tool") + copying("two", "b", "/lib64x/tool")).lock()
    with pytest.raises(BuildError, match="'one' and 'two' both write /usr/sbin/tool"):
        local.realize()
    local.write(copying("one", "a", "/usr/sbin/tool") + copying("two", "b", "/lib64x/tool", after="one")).lock()
    made = local.realize()
    assert (made.environment.layers[2].tree / "usr/sbin/tool").read_text() == "b"


@pytest.mark.userns
def test_two_commands_at_once_build_each_layer_once(local, tmp_path):
    local.write(running("slow", "sleep 1\necho x > /x") + running("more", "echo y > /y")).lock()
    argv = [sys.executable, "-m", "reprobox.cli", "realize", "-C", str(local.path), "--json"]
    environment = {**os.environ, "REPROBOX_STORE": str(local.store), "PYTHONPATH": str(ROOT)}
    both = [
        subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    told = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    results = [json.loads(out) for out, _ in told]
    assert results[0]["tree_digest"] == results[1]["tree_digest"]
    assert sum("slow" in err for _, err in told) <= 1


def test_a_layer_of_an_unknown_kind_or_recipe_says_so(local):
    session = local.write("").session
    for change, message in (
        ({"kind": "conda"}, "of kind 'conda', which nothing here provides"),
        ({"recipe": 99}, "recipe 99"),
    ):
        layer = LockedLayer(**{"name": "x", "kind": "copy", "recipe": 1, "request": "", **change})
        target = LockedTarget(name="", platform="linux/amd64", layers=with_ids([layer], 0))
        with pytest.raises(LockError, match=message) as caught:
            build(session, target, 0)
        assert caught.value.hint


def test_unpacked_layers_can_be_merged_as_they_were_joined(join, tmp_path, store):
    environment = join(one=("base", []))
    (tmp_path / "out").mkdir()
    merge_into(tmp_path / "out", [(layer.tree, layer.index) for layer in environment.layers])
    assert list((tmp_path / "out").iterdir()) == []
