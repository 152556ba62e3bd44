"""What every verb shares: help, JSON, quiet, where the project is, wrong use."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from reprobox import __version__
from reprobox.backend import Availability
from reprobox.cli.app import VERBS
from reprobox.cli.report import Lines
from reprobox.plugins import hookimpl

pytestmark = pytest.mark.userns
BECOMING = ("run", "shell")  # verbs that become another program: only in a process of their own


def test_options_before_the_command(fresh):
    told = fresh("-C", "paper", "realize")
    assert told.status == 2
    assert told.err == "error: -C stands before the command\n  hint: write it after: `reprobox realize -C …`\n"
    assert fresh("--json").json["error"]["message"] == "--json stands before the command"


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_every_verb_has_examples(fresh, verb):
    told = fresh(verb, "--help")
    assert (told.status, told.err) == (0, "")
    examples = told.out.partition("\nexamples:\n")[2].splitlines()
    assert examples
    assert all(f"reprobox {verb}" in line for line in examples)
    assert all(option in told.out for option in ("--project DIR", "--json", "--quiet"))


def test_the_help_names_every_verb_and_every_status(fresh):
    told = fresh("--help")
    assert told.status == 0
    for verb, summary in VERBS.items():
        assert verb in told.out
        assert summary.split(",")[0] in " ".join(told.out.split())
    assert all(f" {status} " in told.out for status in (0, 1, 2, 3, 4, 5, 6, 130))


def test_the_version(fresh):
    assert fresh("--version").out == f"reprobox {__version__}\n"


# -- JSON --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "keys"),
    [
        (["lock"], {"lock", "changed", "layers", "inputs", "size", "epoch", "sealed", "unpinned"}),
        (["lock", "--check"], {"lock", "changed", "layers", "inputs", "size", "epoch", "sealed", "unpinned"}),
        (["realize"], {"target", "backend", "builder", "tree_digest", "image_digest", "location", "layers"}),
        (["graph"], {"target", "layers"}),
        (["export", "--format", "oci", "-o", "layout"], {"format", "output", "tag", "image_digest", "tree_digest"}),
        (["cache", "info"], {"path", "blobs", "layers", "partial"}),
        (
            ["doctor"],
            {"reprobox", "python", "system", "cpus", "store", "configuration", "backends", "host", "targets"},
        ),
    ],
)
def test_json_is_one_document(project, argv, keys):
    told = project(*argv, "--json")
    assert told.status == 0
    assert told.json.keys() >= keys


def test_the_json_of_plugins_is_one_document(fresh):
    built_in, *_ = fresh("plugins", "--json").json
    assert built_in["backends"] == ["sandbox"]
    assert {"apt", "pip", "copy", "run", "rootfs"} <= set(built_in["kinds"])


@pytest.mark.parametrize("argv", [["lock"], ["realize"], ["export", "--format", "rootfs", "-o", "new"]])
def test_json_is_alone_on_standard_output_while_it_builds(fresh, argv):
    fresh.edit("mkdir -p /opt/deep", "true")
    if argv != ["lock"]:
        assert fresh("lock").status == 0
    told = fresh(*argv, "--json")
    assert told.status == 0
    assert isinstance(told.json, dict)
    if argv != ["lock"]:
        assert "building greeting" in told.err


@pytest.mark.parametrize("verb", ["lock", "realize", "run", "shell", "graph"])
def test_errors_are_json_too(fresh, verb):
    fresh.edit('kind = "run"', 'kind = "rum"')
    told = fresh(verb, "--json")
    assert told.status == 2
    assert told.json["error"]["status"] == 2
    (problem,) = told.json["error"]["problems"]
    assert (problem["file"], problem["line"], problem["key"]) == (str(fresh.manifest), 19, "layers[1].kind")
    assert "rum" in problem["message"]
    assert "run" in problem["hint"]
    assert told.err.startswith("error: ")


def test_an_error_without_problems_has_its_place_and_hint(fresh):
    fresh.lock.unlink()
    error = fresh("realize", "--json").json["error"]
    assert error == {
        "status": 3,
        "message": "there is no lock",
        "where": str(fresh.lock),
        "hint": "make one with `reprobox lock`",
    }


# -- progress ----------------------------------------------------------------------------------------------------------


def test_progress_goes_to_standard_error(fresh):
    told = fresh("realize")
    assert told.status == 0
    assert "building greeting" in told.err
    assert "built greeting in" in told.err
    assert "building" not in told.out
    assert "tree digest   sha256:" in told.out


@pytest.mark.parametrize(
    "argv", [["lock", "--upgrade"], ["realize"], ["export", "--format", "rootfs", "-o", "rootfs"], ["lock", "--seal"]]
)
def test_quiet_says_nothing_but_the_result(fresh, argv):
    told = fresh(*argv, "-q")
    assert (told.status, told.err) == (0, "")
    assert told.out


def test_quiet_still_tells_errors(fresh):
    fresh.lock.unlink()
    assert "there is no lock" in fresh("realize", "-q").err


# -- where the project is ----------------------------------------------------------------------------------------------


def test_another_project_is_named_with_c(project, monkeypatch, tmp_path):
    here = project("graph", "--json").json
    monkeypatch.chdir(tmp_path)
    assert project("graph", "--json").status == 2
    for where in (["-C", "project"], ["--project", project.root], ["-C", project.manifest], ["-C", "project/src"]):
        assert project("graph", "--json", *where).json == here
    assert (
        project("realize", "project", "--json").json["location"]
        == project("realize", "-C", "project", "--json").json["location"]
    )


@pytest.mark.parametrize("argv", [["lock", "--check"], ["realize"], ["graph"]])
def test_a_folder_below_the_project_will_do(project, monkeypatch, argv):
    monkeypatch.chdir(project.root / "src")
    assert project(*argv).status == 0


def test_run_below_the_project(project):
    for where in ("src", "."):
        assert project.process("run", "-C", where, "--", "cat", "/greeting").out == "small\n"


@pytest.mark.parametrize("verb", ["lock", "realize", "run", "graph"])
def test_no_project_is_wrong_use(fresh, tmp_path, verb):
    (tmp_path / "empty").mkdir()
    told = fresh(verb, "-C", tmp_path / "empty")
    assert told.status == 2
    assert "there is no research.toml here or in a folder above" in told.err
    assert "-C" in told.err


@pytest.mark.parametrize("verb", ["lock", "realize", "run", "shell", "graph"])
def test_a_folder_that_is_not_there(realized, verb):
    told = realized.process(verb, "-C", "nowhere") if verb in BECOMING else realized(verb, "-C", "nowhere")
    assert told.status == 2  # also where the project around it could be run at once
    assert "there is no such folder or manifest" in told.err


def test_a_manifest_of_another_name_is_not_taken_for_the_projects_own(project):
    assert project("realize").status == 0
    other = project.root / "other.toml"
    other.write_text(project.manifest.read_text().replace('COLOUR = "blue"', 'COLOUR = "red"'))
    told = project.process("run", "-C", "other.toml", "--", "env")
    assert told.status == 3
    assert "env.COLOUR (changed)" in told.err


# -- wrong use ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["lokc"],
        ["lock", "--no-such-option"],
        ["lock", "--jobs", "0"],
        ["lock", "--jobs", "many"],
        ["export", "--format", "oci"],
        ["export", "--format", "zip", "-o", "x"],
        ["cache"],
        ["graph", "--target"],
        ["graph", "--target", "nope"],
        ["realize", "--target", "nope"],
        ["run", "--mount", "data=/tmp", "--", "true"],
        ["run", "--mount", "/data", "--", "true"],
        ["run", "-C"],
        ["shell", "--target"],
    ],
)
def test_wrong_use_exits_2(realized, argv):
    told = realized.process(*argv) if argv[:1] and argv[0] in BECOMING else realized(*argv)
    assert told.status == 2
    assert told.err
    assert "Traceback" not in told.err
    assert told.out == ""


def test_all_problems_of_a_manifest_are_told_at_once(fresh):
    fresh.edit('kind = "run"', 'kind = "rum"')
    fresh.edit('version = "1.0"', "version = 1")
    fresh.edit('workdir = "/work"', 'workdri = "/work"')
    told = fresh("lock")
    assert told.status == 2
    for words in ("rum", "project.version", "workdri", "3 errors"):
        assert words in told.err
    assert told.err.count("error: ") == 3
    assert f"{fresh.manifest}:3: project.version" in told.err


def test_a_manifest_that_is_not_toml(fresh):
    fresh.manifest.write_text("[project\n")
    told = fresh("realize")
    assert told.status == 2
    assert f"{fresh.manifest}:1" in told.err


def test_a_base_of_another_kind_than_it_says_is_refused(fresh):
    fresh.edit("rootfs = ", "sif = ")
    before = fresh.lock.read_bytes()
    told = fresh("lock")
    assert told.status == 2
    assert "base.sif: " in told.err
    assert fresh.lock.read_bytes() == before


# -- backends ----------------------------------------------------------------------------------------------------------


class Lame:
    """A backend that cannot work on this machine."""

    name = "lame"
    needs_image = False

    def probe(self):
        return Availability(ok=False, reason="it lost a leg", hint="mend it")

    build = tool = realize = run = has = inspect = edit = changes = probe

    @hookimpl
    def reprobox_backends(self):
        return [self]


@pytest.mark.parametrize(
    "argv",
    [
        ["realize", "--backend", "lame"],
        ["lock", "--builder", "lame"],
        ["run", "--backend", "lame", "--", "true"],
        ["shell", "--backend", "lame"],
    ],
)
def test_a_backend_that_does_not_work_here_exits_4(project, offered, argv):
    offered(lame=Lame())
    told = project(*argv)
    assert told.status == 4
    assert "lame does not work here: it lost a leg" in told.err
    assert "hint: mend it" in told.err


@pytest.mark.parametrize(
    "argv", [["realize", "--backend", "dokcer"], ["lock", "--builder", "dokcer"], ["run", "--backend", "dokcer", "x"]]
)
def test_an_unknown_backend_is_told_with_those_that_there_are(project, argv):
    told = project(*argv)
    assert told.status == 2
    assert "there is no backend 'dokcer'" in told.err
    assert "sandbox" in told.err


def test_doctor(fresh, offered, store):
    offered(lame=Lame())
    told = fresh("doctor")
    assert told.status == 0
    assert f"store {store}" in told.out
    assert "backend sandbox: works" in told.out
    assert "backend lame: does not work: it lost a leg\n  hint: mend it\n" in told.out
    document = fresh("doctor", "--json").json
    assert document["backends"]["lame"] == {"ok": False, "reason": "it lost a leg", "hint": "mend it", "details": {}}
    assert document["store"]["free"] > 0


def test_doctor_exits_4_where_nothing_works(fresh, monkeypatch, offered):
    offered()
    monkeypatch.setattr("reprobox.sandbox.backend.Sandbox.probe", Lame.probe)
    assert fresh("doctor").status == 4
    told = fresh("doctor", "--json")
    assert told.status == 4
    assert told.json["backends"]["sandbox"]["ok"] is False


def test_a_broken_plugin_is_shown_and_the_others_work(project, offered):
    offered(broken=ImportError("no module named sheep"), lame=Lame())
    told = project("plugins")
    assert told.status == 0
    assert "cannot be used: ImportError: no module named sheep" in told.out
    assert "  backend lame: does not work here: it lost a leg\n    hint: mend it\n" in told.out
    assert "  backend sandbox: works here\n" in told.out
    shown = {item["name"]: item for item in project("plugins", "--json").json}
    assert shown["broken"]["problem"] == "ImportError: no module named sheep"
    assert shown["lame"]["backends"] == ["lame"]
    assert project("lock", "--check").status == 0


# -- the store ---------------------------------------------------------------------------------------------------------


def test_cache_info(fresh, store):
    assert fresh("cache", "info", "--json").json["layers"] == {"count": 0, "size": 0}
    assert fresh("realize").status == 0
    document = fresh("cache", "info", "--json").json
    assert document["path"] == str(store)
    assert document["layers"]["count"] == 4
    assert document["layers"]["size"] > 1_000_000
    assert document["blobs"] == document["partial"] == {"count": 0, "size": 0}
    text = fresh("cache", "info").out
    assert f"store         {store}, " in text
    assert "4 built layers" in text


def test_a_store_that_cannot_be_used(fresh, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("REPROBOX_STORE", str(tmp_path / "file" / "store"))
    told = fresh("realize")
    assert told.status == 1
    assert "the store cannot be used" in told.err
    assert "REPROBOX_STORE" in told.err


# -- interrupted, full disk, closed pipe -------------------------------------------------------------------------------


def test_an_interrupt_exits_130_and_what_was_there_stays(fresh):
    fresh.edit("mkdir -p /opt/deep", "sleep 60")
    assert fresh("lock").status == 0
    before = fresh.lock.read_bytes()
    command = [sys.executable, "-m", "reprobox.cli", "realize", "--json"]
    started = time.monotonic()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    ) as running:
        assert running.stderr is not None
        while "building greeting" not in running.stderr.readline():
            assert running.poll() is None
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=30)
    assert running.returncode == 130
    assert time.monotonic() - started < 30
    assert "interrupted" in err
    assert "Traceback" not in err
    assert json.loads(out) == {"error": {"status": 130, "message": "interrupted", "where": None, "hint": None}}
    assert fresh.lock.read_bytes() == before
    assert fresh("cache", "info", "--json").json["layers"]["count"] == 2
    fresh.edit("sleep 60", "true")
    assert fresh("lock").status == 0
    assert fresh("realize").status == 0


def test_a_full_disk_is_told(project, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/scratch/file")

    monkeypatch.setattr("reprobox.cli.lock.resolve", full)
    told = project("lock", "--json")
    assert told.status == 1
    assert "the disk is full at /scratch/file" in told.err
    assert "REPROBOX_STORE" in told.json["error"]["hint"]


def test_a_reader_that_went_away_is_no_error(project):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "reprobox.cli", "graph"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_plain_lines_say_what_is_fetched(capsys):
    progress = Lines().fetching()
    progress.start(2_000_000, 1)
    progress.advance(2_000_000)
    progress.note("mirror.example did not answer")
    progress.done("one")
    progress.stop()
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["fetching 1 file (2.0 MB)", "  mirror.example did not answer"]
    assert lines[2].startswith("fetched 2.0 MB in ")


# -- the graph ---------------------------------------------------------------------------------------------------------


def test_the_graph_as_a_tree(project):
    lines = project("graph").out.splitlines()
    assert [line.partition(" · ")[0] for line in lines[:-1]] == [
        "base (rootfs)",
        "└── settings (copy)",
        "    └── greeting (run)",
        "        └── skeleton (skeleton)",
    ]
    assert all("in the store" in line for line in lines)


def test_the_graph_as_json(project):
    shown = project("graph", "--format", "json").json
    assert shown == project("graph", "--json").json
    layers = {layer["name"]: layer for layer in shown["layers"]}
    assert list(layers) == ["base", "settings", "greeting", "skeleton"]
    assert layers["greeting"]["parents"] == ["settings"]
    assert layers["greeting"]["cached"]
    realized = {layer["name"]: layer for layer in project("realize", "--json").json["layers"]}
    assert {name: layer["id"] for name, layer in layers.items()} == {
        name: layer["id"] for name, layer in realized.items()
    }
    assert {name: layer["diff_id"] for name, layer in layers.items()} == {
        name: layer["diff_id"] for name, layer in realized.items()
    }


def test_the_graph_of_what_is_not_locked_or_not_built(fresh):
    assert "to be built" in fresh("graph").out
    fresh.lock.write_text("torn")
    told = fresh("graph")
    assert told.status == 0
    assert "not locked" in told.out
    assert "the lock is not used" in told.err
    fresh.lock.unlink()
    assert all(layer["id"] is None for layer in fresh("graph", "--json").json["layers"])


def test_layers_side_by_side_in_the_graph(fresh):
    fresh.add('[[layers]]\nname = "more"\nkind = "copy"\nfiles = [{ from = "data/", to = "/more" }]')
    assert fresh("graph").out == (
        "base (rootfs) · to be built\n"
        "├── settings (copy) · to be built\n"
        "│   └── greeting (run) · to be built\n"
        "└── more (copy) · not locked\n"
        "    └── skeleton (skeleton) · to be built · also on greeting\n"
        "0 of 5 layers in the store, 4 to be built, 1 not locked\n"
    )
