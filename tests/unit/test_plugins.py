"""Discovery and registration: everyone through one door, and nobody's mistake stops the others."""

from __future__ import annotations

import ast
import base64
import hashlib
import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from reprobox import __version__, plugins
from reprobox.backend import Backend
from reprobox.errors import UsageError
from reprobox.plugins import Installed, Plugins, hookimpl

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class NoKeys:
    pass


def a_kind(name: str, **more: Any) -> SimpleNamespace:
    def nothing(*_: object) -> tuple[()]:
        return ()

    values = {"recipe": 1, "pinned": False, "options": NoKeys, "needs": nothing, "resolve": nothing, "step": nothing}
    return SimpleNamespace(name=name, **{**values, **more})


def a_backend(name: str) -> SimpleNamespace:
    names = ("probe", "build", "tool", "realize", "run", "has", "inspect", "edit", "changes")
    methods = dict.fromkeys(names, lambda *_: None)
    return SimpleNamespace(name=name, needs_image=False, **methods)


class Offering:
    """A plugin that offers what it is given."""

    def __init__(self, *, kinds: Any = (), backends: Any = (), providers: Any = ()) -> None:
        self._kinds, self._backends, self._providers = kinds, backends, providers

    @hookimpl
    def reprobox_layer_kinds(self) -> Any:
        return self._kinds() if callable(self._kinds) else self._kinds

    @hookimpl
    def reprobox_backends(self) -> Any:
        return self._backends

    @hookimpl
    def reprobox_providers(self, session: Any) -> Any:
        return [(name, session) for name in self._providers]


class Point:
    """An entry point, as importlib.metadata gives it."""

    def __init__(self, name: str, plugin: object, dist: str = "stranger") -> None:
        self.name, self.value = name, f"{name}:plugin"
        self._plugin = plugin
        self.dist = SimpleNamespace(name=dist, version="1.2")

    def load(self) -> object:
        if isinstance(self._plugin, BaseException):
            raise self._plugin
        return self._plugin


@pytest.fixture
def with_plugins(monkeypatch):
    def discover(**offered: object) -> Plugins:
        points = [Point(name, plugin) for name, plugin in offered.items()]
        monkeypatch.setattr(metadata, "entry_points", lambda group: points if group == "reprobox" else [])
        return Plugins()

    return discover


def test_built_in_nouns_are_registered_as_a_plugin():
    found = Plugins(discover=False)
    (built_in,) = found.installed
    assert (built_in.name, built_in.version, built_in.origin, built_in.problem) == (
        "built in",
        __version__,
        "reprobox",
        "",
    )
    assert set(built_in.backends) == set(found.backends) == {"sandbox"}
    assert (
        set(built_in.kinds) == set(found.kinds) >= {"bootstrap", "image", "oci", "rootfs", "apt", "pip", "copy", "run"}
    )
    assert isinstance(found.backend("sandbox"), Backend)


def test_what_the_protocols_ask_for_is_what_is_checked():
    """A member that a protocol gains must be asked of plugins too."""
    source = ast.parse((ROOT / "reprobox/layers/kind.py").read_text())
    (kind,) = (node for node in source.body if isinstance(node, ast.ClassDef) and node.name == "Kind")
    assert {_name(node) for node in kind.body} - {None} == set(plugins._KIND)
    source = ast.parse((ROOT / "reprobox/backend.py").read_text())
    (backend,) = (node for node in source.body if isinstance(node, ast.ClassDef) and node.name == "Backend")
    assert {_name(node) for node in backend.body} - {None} == set(plugins._BACKEND)


def _name(node: ast.stmt) -> str | None:
    if isinstance(node, ast.FunctionDef):
        return node.name
    return node.target.id if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) else None


def test_strangers_are_registered_through_the_same_hooks(with_plugins):
    found = with_plugins(mine=Offering(kinds=[a_kind("conda")], backends=[a_backend("podman")]))
    assert found.kinds["conda"].name == "conda"
    assert found.backend("podman").name == "podman"
    assert found.installed[1] == Installed(
        name="mine", version="1.2", origin="stranger", backends=("podman",), kinds=("conda",), more=("providers",)
    )


@pytest.mark.parametrize(
    ("plugin", "problem"),
    [
        (ImportError("no module named x"), "ImportError: no module named x"),
        (SystemExit("goodbye"), "SystemExit: goodbye"),
        (Offering(kinds=lambda: 1 // 0), "ZeroDivisionError: integer division or modulo by zero"),
        (
            Offering(kinds=[SimpleNamespace(name="x")]),
            "TypeError: SimpleNamespace has no recipe, pinned, options, needs",
        ),
        (Offering(kinds=[object()]), "TypeError: object has no name, recipe"),
        (Offering(backends=[SimpleNamespace(name="x")]), "TypeError: SimpleNamespace has no needs_image, probe, build"),
        (Offering(kinds=[a_kind("apt")]), "the layer kind 'apt' is reprobox's own"),
        (Offering(kinds=[a_kind("new"), a_kind("new")]), "ValueError: it offers two of the name 'new'"),
        (Offering(backends=[a_backend("sandbox")]), "the backend 'sandbox' is reprobox's own"),
        (Offering(kinds=5), "TypeError: 'int' object is not iterable"),
    ],
)
def test_a_broken_plugin_is_told_by_name_and_left_out_whole(with_plugins, plugin, problem):
    found = with_plugins(broken=plugin, sound=Offering(kinds=[a_kind("conda")], providers=["here"]))
    broken, sound = found.installed[1:]
    assert (broken.name, broken.origin, broken.version) == ("broken", "stranger", "1.2")
    assert broken.problem.startswith(problem)
    assert (sound.name, sound.problem) == ("sound", "")
    assert set(found.kinds) - set(Plugins(discover=False).kinds) == {"conda"}
    assert set(found.backends) == {"sandbox"}


def test_of_two_plugins_with_one_noun_neither_is_used_and_both_are_told(with_plugins):
    found = with_plugins(
        one=Offering(kinds=[a_kind("conda")], backends=[a_backend("lxc")]),
        two=Offering(kinds=[a_kind("conda")]),
        three=Offering(kinds=[a_kind("spack")]),
    )
    assert set(found.kinds) - set(Plugins(discover=False).kinds) == {"spack"}
    assert [item.problem for item in found.installed] == [
        "",
        "the layer kind 'conda' is claimed by 'two' (stranger 1.2) too; uninstall one of them",
        "the layer kind 'conda' is claimed by 'one' (stranger 1.2) too; uninstall one of them",
        "",
    ]
    with pytest.raises(UsageError) as caught:
        found.backend("lxc")
    assert str(caught.value) == (
        "the backend 'lxc' cannot be used: the plugin 'one' (stranger 1.2) is left out: the layer kind 'conda' is claimed"
        " by 'two' (stranger 1.2) too; uninstall one of them\n"
        "  hint: mend or uninstall what is told here; `reprobox plugins` shows all of it"
    )


def test_of_two_plugins_of_one_name_neither_is_used(monkeypatch):
    points = [Point("same", Offering(kinds=[a_kind("a")]), "one"), Point("same", Offering(kinds=[a_kind("b")]), "two")]
    monkeypatch.setattr(metadata, "entry_points", lambda **_: points)
    found = Plugins()
    assert not {"a", "b"} & set(found.kinds)
    assert [(item.origin, item.problem) for item in found.installed[1:]] == [
        ("one", "the name 'same' is claimed by 'same' (two 1.2) too; uninstall one of them"),
        ("two", "the name 'same' is claimed by 'same' (one 1.2) too; uninstall one of them"),
    ]


def test_a_plugin_that_is_not_there_in_time_is_left_out(monkeypatch):
    class Slow(Point):
        def load(self):
            while True:
                try:
                    time.sleep(60)
                except Exception:  # noqa: BLE001 - as much code goes on after every error
                    continue

    monkeypatch.setattr(metadata, "entry_points", lambda **_: [Slow("slow", None), Point("sound", Offering())])
    monkeypatch.setattr(plugins, "PATIENCE", 0.1)
    assert [item.problem for item in Plugins().installed] == ["", "it was not loaded within 0.1 seconds", ""]


def _only_built_in(self: object, session: object) -> list[str]:
    return ["built in"]


def test_providers_of_plugins_come_before_the_built_in_ones_and_broken_plugins_offer_none(with_plugins, monkeypatch):
    monkeypatch.setattr(plugins.BuiltIn, "reprobox_providers", hookimpl(_only_built_in))
    found = with_plugins(
        one=Offering(providers=["one"]),
        broken=Offering(kinds=[a_kind("apt")], providers=["broken"]),
        two=Offering(providers=["two"]),
    )
    assert found.providers("session") == [("two", "session"), ("one", "session"), "built in"]


def test_a_plugin_that_fails_to_offer_providers_is_told_and_done_without(with_plugins, monkeypatch):
    class Failing(Offering):
        @hookimpl
        def reprobox_providers(self, session: Any) -> Any:
            raise LookupError("no idea")

    monkeypatch.setattr(plugins.BuiltIn, "reprobox_providers", hookimpl(_only_built_in))
    found = with_plugins(failing=Failing(), sound=Offering(providers=["sound"]))
    said: list[str] = []
    session = SimpleNamespace(reporter=SimpleNamespace(say=said.append))
    assert found.providers(session) == found.providers(session) == [("sound", session), "built in"]
    assert said == ["warning: the plugin 'failing' (stranger 1.2) is left out: LookupError: no idea"]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("docker", 'install it with `pip install "reprobox[docker]"`; installed: sandbox'),
        ("Singularity", "the backend for it is 'singularity': install it with `pip install \"reprobox[singularity]\"`; installed: sandbox"),
        ("apptainer", "the backend for it is 'singularity': install it with `pip install \"reprobox[singularity]\"`; installed: sandbox"),
        ("dokcer", "the backend for it is 'docker': install it with `pip install \"reprobox[docker]\"`; installed: sandbox"),
        ("qemu", "installed: sandbox; `reprobox plugins` shows what each plugin offers"),
    ],
)  # fmt: skip
def test_an_unknown_backend_is_an_error_with_what_to_install(name, hint):
    with pytest.raises(UsageError) as caught:
        Plugins(discover=False).backend(name)
    assert str(caught.value) == f"there is no backend {name!r}\n  hint: {hint}"


def test_another_name_of_a_backend_that_is_there_leads_to_it(with_plugins):
    with pytest.raises(UsageError) as caught:
        with_plugins(docker=Offering(backends=[a_backend("docker")])).backend("podman")
    assert caught.value.hint == "did you mean 'docker'? installed: docker, sandbox"


# -- real distributions ------------------------------------------------------------------------------------------------


def wheel(folder: Path, name: str, version: str, module: str) -> Path:
    """A wheel with one module and the entry point ``name``, made by hand from its specification (PEP 427)."""
    files = {
        f"{name}.py": module,
        f"{name}-{version}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{name}-{version}.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{name}-{version}.dist-info/entry_points.txt": f"[reprobox]\n{name} = {name}:plugin\n",
    }
    record = "".join(f"{path},sha256={_hash(text)},{len(text.encode())}\n" for path, text in files.items())
    files[f"{name}-{version}.dist-info/RECORD"] = record + f"{name}-{version}.dist-info/RECORD,,\n"
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in files.items():
            archive.writestr(member, text)
    return path


def _hash(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


SOUND = """
from reprobox.plugins import hookimpl

class Kind:
    name, recipe, pinned, options = "tiny-kind", 1, False, object
    def needs(self, layer, above): return ()
    def resolve(self, request): raise NotImplementedError
    def step(self, request): raise NotImplementedError

class Plugin:
    @hookimpl
    def reprobox_layer_kinds(self):
        return [Kind()]

plugin = Plugin()
"""


def test_installed_distributions_are_found(tmp_path, store):
    site = tmp_path / "site"
    wheels = [
        wheel(tmp_path, "tinyplugin", "3.4", SOUND),
        wheel(tmp_path, "brokenplugin", "0.1", "import nowhere_to_be_found"),
    ]
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--target", site, *wheels], check=True, capture_output=True)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{site}"}

    def told(*options: str) -> str:
        argv = [sys.executable, "-m", "reprobox.cli", "plugins", *options]
        return subprocess.run(argv, capture_output=True, text=True, check=True, env=environment, cwd=tmp_path).stdout

    found: Mapping[str, Any] = {item["name"]: item for item in json.loads(told("--json"))}
    assert found["tinyplugin"] == {
        "name": "tinyplugin",
        "version": "3.4",
        "origin": "tinyplugin",
        "backends": [],
        "kinds": ["tiny-kind"],
        "more": [],
        "problem": "",
        "works": {},
    }
    assert found["built in"]["works"].keys() == {"sandbox"}
    assert "works" not in json.loads(told("--json", "--no-probe"))[0]
    assert found["brokenplugin"]["problem"] == "ModuleNotFoundError: No module named 'nowhere_to_be_found'"
    assert "brokenplugin 0.1 (from brokenplugin)\n  cannot be used: ModuleNotFoundError" in told()
