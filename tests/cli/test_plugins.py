"""Backends of plugins from the command line: found, chosen, quick, held to their word, and told when they are broken."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from tests.cli.plugin import MERGING, install, path_with

pytestmark = pytest.mark.userns


@pytest.fixture
def merging(project, tmp_path, monkeypatch):
    """The project, where the plugin ``merging`` is installed."""
    site = install(tmp_path / "site", "mergingplugin", MERGING)
    monkeypatch.setenv("PYTHONPATH", path_with(site))
    time.sleep(0.05)  # files that changed just before they were read are not trusted
    return project


def test_a_plugins_backend_realizes_and_runs_and_has_a_quick_way(merging, tmp_path):
    done = merging.process("realize", "--backend", "merging", "--json")
    assert done.status == 0, done.err
    place = Path(done.json["location"])
    assert (place / "greeting").read_text() == "small\n"
    loaded = tmp_path / "loaded"
    for way, quick in (((), True), (("--offline",), False)):
        told = merging.process(
            "run", "--backend", "merging", *way, "--", "sh", "-c", "cat /greeting; echo $COLOUR; pwd; exit 3",
            REPROBOX_TEST_LOADED=str(loaded),
        )  # fmt: skip
        assert (told.status, told.out, told.err) == (3, "small\nblue\n/work\n", "")
        modules = set(loaded.read_text().split())
        slow = {"argparse", "reprobox.lock", "reprobox.manifest", "reprobox.plugins", "tomllib"}
        assert not modules & slow - {"reprobox.plugins"} if quick else slow <= modules
        assert "networkx" not in modules
    # What the engine lost is made again, whatever the record says.
    for command in (("run", "--", "cat", "/greeting"), ("realize", "--json")):
        merging.process("run", "--", "true")
        shutil.rmtree(place)
        told = merging.process(command[0], "--backend", "merging", *command[1:])
        assert told.status == 0, told.err
        assert (place / "greeting").exists()


def test_nothing_to_do_is_quick_with_a_plugin_too(merging):
    merging.process("realize", "--backend", "merging")
    told = merging.process("realize", "--backend", "merging", "--json", PYTHONVERBOSE="1")
    assert told.json["layers"][0]["cached"]
    assert "import 'networkx'" not in told.err
    assert "import 'pluggy'" in told.err  # the plugin's module asks for hookimpl
    assert "import 'reprobox.cli.session'" not in told.err


def test_a_plugin_that_is_gone_is_told_with_what_to_do(merging, tmp_path):
    merging.process("realize", "--backend", "merging")
    told = merging.process("run", "--backend", "merging", PYTHONPATH="")
    assert told.status == 2
    assert told.err.startswith("error: there is no backend 'merging'\n  hint: installed: ")
    told = merging("realize", "--builder", "dokcer")
    assert told.status == 2
    assert "there is no backend 'dokcer'" in told.err


def test_the_backend_of_those_who_chose_one(merging, tmp_path):
    settings = tmp_path / "config.toml"
    settings.write_text('backend = "merging"\n')
    given = {"REPROBOX_CONFIG": str(settings)}
    assert merging.process("realize", "--json", **given).json["backend"] == "merging"
    loaded = tmp_path / "loaded"
    assert merging.process("run", "--", "true", REPROBOX_TEST_LOADED=str(loaded), **given).status == 0
    assert "networkx" not in loaded.read_text().split()
    assert merging.process("realize", "--json", "--backend", "sandbox", **given).json["backend"] == "sandbox"
    assert merging.process("realize", "--json", REPROBOX_BACKEND="sandbox", **given).json["backend"] == "sandbox"
    assert merging.process("realize", "--json", REPROBOX_BACKEND="merging").json["backend"] == "merging"
    settings.write_text('backend = "merging"\nbuilder = "no such"\n')
    told = merging.process("lock", "--check", **given)
    assert told.status == 2
    assert told.err == (
        f'error: {settings}:2: builder: expected the name of a backend, found "no such"\n'
        "  hint: `reprobox plugins` shows which there are\n"
    )  # fmt: skip


BROKEN = {
    "atimport": ("import nowhere_to_be_found", "ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
    "atregistration": (
        MERGING.replace("return [Merging()]", "return [Merging(), Merging()]"),
        "ValueError: it offers two of the name 'merging'",
    ),
    "inahook": (MERGING.replace("return [Merging()]", "return 1 // 0"), "ZeroDivisionError: integer division or modulo by zero"),
    "lacking": (MERGING.replace("def has(", "def had("), "TypeError: Merging has no has"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_is_told_and_takes_nothing_down(project, tmp_path, monkeypatch, name):
    module, problem = BROKEN[name]
    monkeypatch.syspath_prepend(install(tmp_path / "site", name, module))
    told = project("lock", "--check")
    assert told.status == 0
    assert f"warning: the plugin '{name}' ({name} 1.0) is left out: {problem}\n" in told.err
    shown = project("plugins", "--no-probe")
    assert (shown.status, shown.err) == (0, "")
    assert f"{name} 1.0 (from {name})\n  cannot be used: {problem}\n" in shown.out
    assert f"the plugin '{name}' ({name} 1.0) is left out: {problem}\n" in project("doctor").out


def test_a_plugin_that_takes_long_is_told_while_it_is_waited_for(project, tmp_path, monkeypatch):
    slow = MERGING.replace('"merging"', '"slow"').replace(
        "    def at(", "        import time\n        self.probe = lambda: time.sleep(0.5)\n\n    def at("
    )
    monkeypatch.syspath_prepend(install(tmp_path / "site", "slow", slow))
    monkeypatch.setattr("reprobox.cli.plugins._SOON", 0.1)
    told = project("plugins")
    waiting, _, rest = told.err.partition(", up to ")
    assert waiting.startswith("waiting for ")
    assert "slow" in waiting
    assert rest == "30 s\n"
    assert "is broken: its probe answered NoneType and not Availability" in told.out


def test_a_plugin_that_lies_or_fails_is_told_by_name(project, tmp_path, monkeypatch):
    lying = MERGING.replace("return Realization(location=str(place))", "raise KeyError('layers')")
    wrong = """
class Wrong(Sandbox):
    def build(self, request):
        result = super().build(request)
        (request.output / "tree/more").write_text("x")
        return result
"""
    lying = (
        lying.replace("return Merging(self._inner.at(scratch))", "return self")
        .replace('name = "merging"', 'name = "lying"')
        .replace("inner or Sandbox()", "Wrong()")
        .replace("\nclass Merging", f"{wrong}\nclass Merging")
    )
    monkeypatch.syspath_prepend(install(tmp_path / "site", "lying", lying))
    told = project("realize", "--backend", "lying", "-q")
    assert told.status == 4
    assert told.err.startswith("error: the plugin 'lying' failed: KeyError: 'layers' (lying.py, line ")
    monkeypatch.setenv("REPROBOX_STORE", str(tmp_path / "store"))
    told = project("realize", "--builder", "lying")
    assert told.status == 5
    assert (
        "error: the plugin 'lying' returned a wrong layer: /more is in its tree and not in its index\n"
        "  hint: tell its authors, or use another backend; `reprobox plugins` says who they are\n"
    ) in told.err


def test_two_plugins_of_one_backend_are_both_told(project, tmp_path, monkeypatch):
    site = install(tmp_path / "site", "one", MERGING)
    monkeypatch.syspath_prepend(install(site, "two", MERGING, "2.0"))
    told = project("realize", "--backend", "merging")
    assert told.status == 2
    for name, other in (("one", "'two' (two 2.0)"), ("two", "'one' (one 1.0)")):
        assert f"warning: the plugin '{name}'" in told.err
        assert f"the backend 'merging' is claimed by {other} too; uninstall one of them" in told.err


# -- limits ------------------------------------------------------------------------------------------------------------


def test_cpus_are_an_affinity_that_all_processes_of_a_run_keep(realized):
    told = realized.process("run", "--cpus", "1", "--", "sh", "-c", "cat /proc/self/status; cat /proc/self/status")
    assert told.status == 0
    allowed = [line.split()[1] for line in told.out.splitlines() if line.startswith("Cpus_allowed_list")]
    assert len(allowed) == 2
    assert all(one.isdecimal() for one in allowed)


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (["--memory", "8GiB"], 4, "error: --memory: the sandbox cannot hold a run to 8 GiB of memory: that takes a control group\n  hint: use `--backend docker`, a batch job with that limit, or `systemd-run --user --scope -p MemoryMax=… reprobox run …`\n"),
        (["--cpus", "1.5"], 4, "error: --cpus: the sandbox gives whole processors, and 1.5 is asked for\n  hint: give --cpus 1, or use `--backend docker`, which shares them by time\n"),
        (["--memory", "lots"], 2, "error: argument --memory: a size of at least 1 MiB, such as 8GiB or 512MB, not 'lots'\n"),
        (["--memory", "8"], 2, "error: argument --memory: a size of at least 1 MiB, such as 8GiB or 512MB, not '8'\n"),
        (["--cpus", "none"], 2, "error: argument --cpus: a number of processors, such as 2 or 1.5, not 'none'\n"),
        (["--gpus", "some"], 2, "error: argument --gpus: all, none, or numbers and UUIDs with commas such as 0,1, not 'some'\n"),
    ],
)  # fmt: skip
def test_limits_that_cannot_be_kept_are_refused(realized, options, status, words):
    told = realized("run", *options, "--", "echo", "ran")
    assert (told.status, told.out) == (status, "")
    assert words in told.err


def test_gpus_that_are_not_there_are_refused_and_none_is_what_there_is(realized):
    if Path("/dev/nvidiactl").exists() or Path("/dev/kfd").exists():
        pytest.skip("this machine has a GPU")
    told = realized.process("run", "--gpus", "all", "--", "true")
    assert told.err == (
        "error: --gpus: this machine shows no GPU: there is neither /dev/nvidiactl nor /dev/kfd\n"
        "  hint: `reprobox doctor` says what it has; on a cluster, ask for a GPU in the job (`--gres=gpu:1`)\n"
    )
    assert told.status == 4
    assert realized.process("run", "--gpus", "none", "--", "true").status == 0
