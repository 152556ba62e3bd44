"""Several targets of one manifest: what they share, what each has of its own, and what is said of one alone."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

import pytest

from reprobox.errors import ResolveError
from reprobox.layers.kind import Commands, Resolution
from reprobox.layers.skeleton import NoKeys
from reprobox.plugins import hookimpl
from tests.cli.conftest import Project
from tests.images import Layout, folder, tar

pytestmark = pytest.mark.userns

MOVING = """\
[[layers]]
name = "moving"
kind = "tide"

"""
DRIVER = """\
[[layers]]
name = "driver"
kind = "run"
targets = ["gpu"]
script = "echo $(cat /greeting) gpu > /driver"
"""
TARGETS = """
[targets.cpu]

[targets.gpu]
env = { COLOUR = "green" }
"""
FAR = '\n[targets.far]\nplatform = "linux/arm64"\n'


class Tide:
    """A kind that resolves to something else each time, as the world's archives do."""

    name = "tide"
    recipe = 1
    pinned = True
    options = NoKeys

    def __init__(self) -> None:
        self.turns = 0

    def needs(self, layer, above):
        return [other.name for other in above[-1:]]

    def resolve(self, request):
        if request.platform == "linux/arm64":
            raise ResolveError("no tide there", where=f"research.toml: {request.key}", hint="wait")
        self.turns += 1
        return Resolution(options={"turn": self.turns})

    def step(self, request):
        return Commands(commands=(("sh", "-c", f"echo {request.layer.options['turn']} > /tide"),))

    @hookimpl
    def reprobox_layer_kinds(self):
        return [self]


@pytest.fixture
def tide(offered: Any) -> Tide:
    found = Tide()
    offered(tide=found)
    return found


@pytest.fixture
def pair(fresh: Project, tide: Tide) -> Project:
    """The project for two targets, locked: ``gpu`` has a layer more, and another colour."""
    fresh.add(MOVING + DRIVER)
    fresh.manifest.write_text(fresh.manifest.read_text() + TARGETS)
    fresh.lock.unlink()
    assert fresh("lock").status == 0
    return fresh


def locked(project: Project) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads(project.lock.read_text())["targets"]
    return found


def turn(project: Project, target: str) -> int:
    (layer,) = (item for item in locked(project)[target]["layers"] if item["name"] == "moving")
    if "shared_with" in layer:
        return turn(project, layer["shared_with"])
    return int(layer["options"]["turn"])


# -- what is shared ----------------------------------------------------------------------------------------------------


def test_a_layer_of_both_is_resolved_said_and_written_once(pair, tide):
    assert tide.turns == 1
    assert [(item["name"], item.get("shared_with")) for item in locked(pair)["gpu"]["layers"]] == [
        ("base", "cpu"),
        ("settings", "cpu"),
        ("greeting", "cpu"),
        ("moving", "cpu"),
        ("driver", None),
        ("skeleton", None),
    ]
    pair.lock.unlink()
    told = pair("lock")
    assert told.out == "wrote research.lock: 2 targets, 7 layers, 0 inputs, 0 B\n"
    assert [line for line in told.err.splitlines() if "moving" in line] == ["resolving cpu: moving"]


def test_shared_layers_are_built_once(pair):
    first = pair("realize", "--target", "cpu", "--json").json
    second = pair("realize", "--target", "gpu", "--json").json
    assert not any(layer["cached"] for layer in first["layers"])
    assert {layer["name"]: layer["cached"] for layer in second["layers"]} == {
        "base": True,
        "settings": True,
        "greeting": True,
        "moving": True,
        "driver": False,
        "skeleton": False,
    }
    assert len(list(Path(os.environ["REPROBOX_STORE"], "layers").iterdir())) == 7


def test_each_target_runs_with_its_own_layers_and_environment(pair):
    pair.edit(MOVING, "")  # a process of its own knows no tides
    assert pair("lock").status == 0
    pair("realize", "--target", "cpu")
    pair("realize", "--target", "gpu")
    show = ("sh", "-c", "echo $COLOUR; cat /driver")
    assert pair.process("run", "--target", "cpu", "--", *show).out == "blue\n"
    assert pair.process("run", "--target", "gpu", "--", *show).out == "green\nsmall gpu\n"
    told = pair.process("run", "--", "true")
    assert told.status == 2
    assert "there is more than one target\n  hint: choose one of cpu, gpu with --target" in told.err


def test_one_more_target_changes_no_line_of_the_others(pair):
    before = pair.lock.read_text()
    pair.manifest.write_text(pair.manifest.read_text() + "[targets.far]\n")
    assert pair("lock").status == 0
    sections = ("[targets.cpu]", "[targets.far]", "[targets.gpu]")
    cpu, far, gpu = (pair.lock.read_text().index(section) for section in sections)
    after = pair.lock.read_text()
    assert after[cpu:far] + after[gpu:] == before[before.index("[targets.cpu]") :]


def test_one_target_alone_says_nothing_of_sharing(fresh):
    text = fresh.lock.read_text()
    assert "shared_with" not in text
    assert [key for target in tomllib.loads(text)["targets"].values() for key in target] == ["platform", "layers"]


# -- one of them -------------------------------------------------------------------------------------------------------


def test_only_the_named_target_moves(pair, tide):
    before = pair.lock.read_text()
    assert pair("lock", "--target", "gpu", "--upgrade").status == 0
    assert (turn(pair, "cpu"), turn(pair, "gpu")) == (1, 2)
    text = pair.lock.read_text()
    start = text.index("[targets.cpu]")
    assert (
        text[start : text.index("[targets.gpu]")]
        == before[before.index("[targets.cpu]") : before.index("[targets.gpu]")]
    )
    assert pair("lock", "--check").status == 0
    assert pair("lock").out.startswith("research.lock is up to date")
    assert tide.turns == 2


def test_a_new_target_takes_the_pins_of_its_neighbours(pair, tide):
    pair.edit("[targets.gpu]", "[targets.big]\n[targets.gpu]")
    assert pair("lock").status == 0
    assert turn(pair, "big") == 1
    assert tide.turns == 1


def test_a_renamed_target_keeps_its_pins(pair, tide):
    pair.edit("[targets.cpu]", "[targets.login]")
    assert pair("lock").status == 0
    assert turn(pair, "login") == 1
    assert tide.turns == 1


def test_a_change_for_one_target_stales_that_one_alone(pair):
    pair.edit("small gpu".replace("small", "$(cat /greeting)"), "GPU")
    told = pair("lock", "--check")
    assert told.status == 3
    assert "\n  layers.driver.script (changed)\n" in told.err
    assert pair("lock", "--check", "--target", "cpu").status == 0
    assert pair("realize", "--target", "cpu").status == 0
    told = pair("realize", "--target", "gpu")
    assert told.status == 3
    assert "the lock is stale; changed since it was made:\n  layers.driver.script (changed)\n" in told.err


def test_a_target_that_was_left_behind_is_named(pair):
    pair.edit("[env]\n", '[env]\nMORE = "1"\n')
    assert pair("lock", "--target", "gpu").status == 0
    assert pair("lock", "--check", "--target", "gpu").status == 0
    told = pair("lock", "--check")
    assert told.status == 3
    assert "changed since it was made:\n  targets.cpu (locked before the manifest changed)\n" in told.err
    assert pair("lock").status == 0
    assert pair("lock", "--check").status == 0


def test_a_target_that_was_never_locked(pair):
    pair.lock.unlink()
    assert pair("lock", "--target", "gpu").status == 0
    assert list(locked(pair)) == ["gpu"]
    assert pair("realize", "--target", "gpu").status == 0
    told = pair("realize", "--target", "cpu")
    assert told.status == 3
    assert "\n  targets.cpu (not locked)\n  hint: run `reprobox lock`" in told.err


def test_a_seal_of_one_target_outlives_changes_of_another(pair):
    assert pair("lock", "--seal").status == 0
    assert all("seal" in target for target in locked(pair).values())
    pair.edit("$(cat /greeting) gpu", "GPU")
    assert pair("lock").status == 0
    assert {name: "seal" in target for name, target in locked(pair).items()} == {"cpu": True, "gpu": False}


def test_a_target_that_does_not_exist(pair):
    for argv in (["lock"], ["realize"], ["graph"], ["run"], ["export", "--format", "oci", "-o", "x"]):
        told = pair(*argv, "--target", "gqu")
        assert told.status == 2
        assert 'there is no target "gqu"\n  hint: did you mean "gpu"?' in told.err


def test_what_cannot_be_locked_says_for_which_target(pair):
    pair.manifest.write_text(pair.manifest.read_text() + FAR)
    told = pair("lock")
    assert told.status == 1
    assert told.err.endswith("error: research.toml: layers[2]: target 'far': no tide there\n  hint: wait\n")
    assert pair("lock", "--target", "gpu").status == 0  # it stands in nobody's way
    told = pair("lock", "--check")
    assert told.err.count("targets.far") == 1


# -- another machine's -------------------------------------------------------------------------------------------------


def test_a_target_of_another_machine_is_locked_and_shown_and_not_realized(pair):
    pair.edit(MOVING, "")
    pair.manifest.write_text(pair.manifest.read_text() + FAR)
    assert pair("lock").status == 0
    assert pair("lock", "--check", "--target", "far").status == 0
    assert pair("graph", "--target", "far").out.startswith("base (rootfs)")
    for argv in (["realize"], ["run"]):
        told = pair(*argv, "--target", "far")
        assert told.status == 4
        assert "targets.far.platform: " in told.err
    for argv in (["realize", "--ignore-requires"], ["export", "--format", "oci", "-o", "x"], ["lock", "--seal"]):
        told = pair(*argv, "--target", "far")
        assert told.status == 4
        assert (
            "target 'far' is for linux/arm64, and this machine is x86_64\n"
            "  hint: take the project with its lock to a machine with aarch64 processors and realize it there\n"
        ) in told.err


def test_why_speaks_of_the_target_alone(pair):
    told = pair("graph", "--target", "gpu", "--why", "moving")
    assert told.status == 0
    assert "stale" not in told.err
    pair.manifest.write_text(pair.manifest.read_text().replace('"green"', '"blue"'))
    assert "stale, this is of the lock: targets.gpu" in pair("graph", "--target", "gpu", "--why", "moving").err


def test_sealing_leaves_out_what_cannot_be_built_here(pair):
    pair.edit(MOVING, "")
    pair.manifest.write_text(pair.manifest.read_text() + FAR)
    told = pair("lock", "--seal")
    assert told.status == 0
    assert "far: not sealed: it is for linux/arm64, and is built there" in told.err
    assert {name: "seal" in target for name, target in locked(pair).items()} == {"cpu": True, "far": False, "gpu": True}


def test_an_image_is_locked_for_each_platform(fresh):
    layout = Layout(fresh.root / "layout")
    for platform in ("linux/amd64", "linux/arm64/v8"):
        layout.tag(layout.image(tar(folder("etc"), folder("bin")), platform=platform))
    fresh.manifest.write_text(
        '[project]\nname = "x"\n[base]\noci = "layout"\n[targets.here]\n[targets.there]\nplatform = "linux/arm64"\n'
    )
    assert fresh("lock").status == 0
    here, there = (
        {item["name"]: item["sha256"] for item in target["layers"][0]["inputs"]} for target in locked(fresh).values()
    )
    assert here["layer-000.tar.gz"] == there["layer-000.tar.gz"]
    assert here["config.json"] != there["config.json"]


def test_a_platform_that_the_base_lacks(fresh):
    layout = Layout(fresh.root / "layout")
    for platform in ("linux/amd64", "linux/riscv64"):
        layout.tag(layout.image(tar(folder("etc")), platform=platform))
    fresh.lock.unlink()
    fresh.manifest.write_text(
        '[project]\nname = "x"\n[base]\noci = "layout"\n[targets.cpu]\n[targets.far]\nplatform = "linux/arm64"\n'
    )
    told = fresh("lock")
    assert told.status == 2
    assert told.err.endswith(
        f"research.toml:6: targets.far: {layout.root}: it has no image for linux/arm64; it has linux/amd64, linux/riscv64\n"
        "  hint: choose a name or tag that has this platform, or set `platform` in [targets] to one that is there\n"
    )
    assert not fresh.lock.exists()
