"""The pip kind against an index on loopback: what is locked, what is kept, and what every refusal says."""

from __future__ import annotations

import hashlib
import re
import tomllib
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from packaging.pylock import Pylock

from reprobox.ahead import Ahead
from reprobox.download.downloader import Downloader
from reprobox.errors import FetchError, ManifestError, OfflineError, ReproboxError, ResolveError, UsageError
from reprobox.layers import install_wheels
from reprobox.layers.apt import Apt
from reprobox.layers.bootstrap import Bootstrap
from reprobox.layers.kind import INPUTS, Commands, Resolution, ResolveRequest, StepRequest
from reprobox.layers.pip import Pip, packages_of
from reprobox.layers.pylock import write
from reprobox.layers.static_uv import write_program
from reprobox.lock import Input, LockedLayer, LockedTarget
from reprobox.manifest import Manifest
from reprobox.manifest_reader import parse
from reprobox.pins import Upgrade, match
from reprobox.providers import Documents, HintProvider, fetch
from reprobox.pypi import IndexProvider, uv_version
from reprobox.store import Store
from tests.python_index import BACKEND, Index, sdist, uv_wheel, wheel
from tests.servers import Server

KINDS: dict[str, Any] = {kind.name: kind for kind in (Bootstrap(), Apt(), Pip())}


@dataclass
class World:
    """What resolving may touch: a store and an index; the base must never be looked into."""

    store: Store
    index: dict[str, str]
    offline: bool = False
    project: Path = Path("/nowhere")
    here: str = "linux/amd64"
    ahead: Ahead = field(default_factory=Ahead)
    said: list[str] = field(default_factory=list)

    def get(self, url: str, *, fresh: bool = True, limit: int = 1 << 20) -> bytes:
        return Documents(self.store, Downloader(offline=self.offline)).get(url, fresh=fresh, limit=limit)

    def fetch(self, inputs: Sequence[Input]) -> None:
        fetch(inputs, [HintProvider(self.store)], self.store)

    def remember(self, item: Input, urls: Sequence[str]) -> None:
        HintProvider(self.store).remember(item, urls)

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with Server() as running:
        yield running


@pytest.fixture
def index(server: Server) -> Index:
    made = Index(server)
    made.add_file("uv", *uv_wheel(uv_version()))
    return made


@pytest.fixture
def world(store: Path, index: Index) -> World:
    return World(store=Store(store), index={"url": index.url})


def manifest(*packages: str, more: str = "", keys: str = "") -> Manifest:
    keys = keys or f"packages = [{', '.join(repr(item) for item in packages)}]"
    text = f"""
[project]
name = "x"
[base]
bootstrap = "debian:bookworm"
[[layers]]
name = "system"
kind = "apt"
packages = ["python3"]
[[layers]]
name = "python"
kind = "pip"
{keys}
{more}
"""
    return parse(text, kinds=KINDS)


def deb(package: str, version: str) -> Input:
    digest = hashlib.sha256(package.encode()).hexdigest()
    return Input(
        type="deb", name=f"{package}.deb", sha256=digest, size=1, facts={"package": package, "version": version}
    )


BASE = LockedLayer(name="base", kind="bootstrap", recipe=1, request="", inputs=(deb("libc6", "2.36-9"),))
SYSTEM = LockedLayer(
    name="system", kind="apt", recipe=1, request="", inputs=(deb("python3", "3.11.2-1"),), parents=("base",)
)


def request(
    world: World,
    *packages: str,
    below: Sequence[LockedLayer] = (BASE, SYSTEM),
    previous: LockedLayer | None = None,
    upgrade: bool = False,
    keys: str = "",
) -> ResolveRequest:
    asked = manifest(*packages, keys=keys)
    return ResolveRequest(
        manifest=asked,
        layer=asked.layers[1],
        key="layers[1]",
        platform="linux/amd64",
        below=tuple(below),
        previous=previous,
        upgrade=upgrade,
        world=world,  # type: ignore[arg-type]  # what this kind needs of it
    )


def resolve(world: World, *packages: str, **about: Any) -> LockedLayer:
    found: Resolution = Pip().resolve(request(world, *packages, **about))
    return LockedLayer(
        name="python", kind="pip", recipe=1, request="", inputs=found.inputs, options=found.options, facts=found.facts
    )


def pins(layer: LockedLayer) -> list[str]:
    return [f"{item.facts['package']}=={item.facts['version']}" for item in layer.inputs if item.type == "wheel"]


# -- what is locked ----------------------------------------------------------------------------------------------------


def test_one_wheel_a_package_and_the_uv_that_installs(world, index):
    index.add("app", "1.0", requires=["lib>=1"])
    data = index.add("lib", "1.5", tag="cp311-cp311-manylinux_2_28_x86_64")
    index.add("lib", "1.5", tag="cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64")
    index.add("lib", "1.5", tag="py3-none-any")
    index.add("lib", "1.5", tag="cp312-cp312-manylinux_2_28_x86_64")
    layer = resolve(world, "app")
    assert [(item.type, item.name) for item in layer.inputs] == [
        ("wheel", "app-1.0-py3-none-any.whl"),
        ("wheel", "lib-1.5-cp311-cp311-manylinux_2_28_x86_64.whl"),
        ("uv", f"uv-{uv_version()}-py3-none-musllinux_1_1_x86_64.whl"),
    ]
    assert layer.inputs[1] == Input(
        type="wheel",
        name="lib-1.5-cp311-cp311-manylinux_2_28_x86_64.whl",
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
        facts={"package": "lib", "python": "3.11", "version": "1.5"},
    )
    assert layer.options == {"python": "/usr/bin/python3"}
    assert layer.facts == {"platform": "x86_64-manylinux_2_36", "python": "3.11.2"}


def test_no_host_gets_into_the_lock(world, index, server):
    index.add("app", "1.0")
    layer = resolve(world, "app")
    assert server.host not in repr(layer)


def test_the_higher_build_number_of_equal_tags(world, index):
    file, data = "lib-1.0-2-py3-none-any.whl", index.add("lib", "1.0")
    index.add_file("lib", file, data)
    index.add_file("lib", "lib-1.0-1-py3-none-any.whl", data)
    assert resolve(world, "lib").inputs[0].name == file


def test_an_index_that_says_no_sizes_or_hashes(world, server):
    for hashes in (True, False):
        index = Index(server, plain=True, hashes=hashes)
        index.add_file("uv", *uv_wheel(uv_version()))
        data = index.add("app", f"1.{int(hashes)}")
        found = resolve(world, "app").inputs[0]
        assert (found.sha256, found.size) == (hashlib.sha256(data).hexdigest(), len(data))
        assert world.store.has_blob(found.sha256)


def test_a_previous_lock_keeps_versions_files_and_uv(world, index):
    index.add("lib", "1.0", tag="cp311-cp311-manylinux_2_17_x86_64")
    first = resolve(world, "lib")
    index.add("lib", "1.0", tag="cp311-cp311-manylinux_2_28_x86_64")
    index.add("lib", "2.0")
    index.add("other", "1.0")
    older = replace(first.inputs[-1], name="uv-0.0.1-py3-none-musllinux_1_1_x86_64.whl", facts={"version": "0.0.1"})
    previous = replace(first, inputs=(*first.inputs[:-1], older))
    kept = resolve(world, "lib", "other", previous=previous)
    assert (kept.inputs[0], kept.inputs[-1]) == (first.inputs[0], older)
    assert pins(kept) == ["lib==1.0", "other==1.0"]
    moved = resolve(world, "lib", "other", previous=previous, upgrade=True)
    assert pins(moved) == ["lib==2.0", "other==1.0"]
    assert moved.inputs[-1].facts == {"version": uv_version()}
    assert pins(resolve(world, "lib>1", previous=previous)) == ["lib==2.0"]


def test_what_was_foreseen_is_asked_once(world, index, server):
    index.add("lib", "1.0")
    index.add("app", "1.0")
    first = resolve(world, "lib")
    for upgrade in (False, True):
        server.seen.clear()
        about: dict[str, Any] = {"previous": first, "upgrade": upgrade}
        Pip().foresee(request(world, "lib", "app", **about))
        assert pins(resolve(world, "lib", "app", **about)) == ["app==1.0", "lib==1.0"]
        assert server.paths().count("/simple/app/") == 1
    world.ahead.stop()
    assert pins(resolve(world, "lib", "app", previous=first)) == ["app==1.0", "lib==1.0"]
    assert server.paths().count("/simple/app/") == 2, "nothing is remembered longer"


def test_what_turns_out_otherwise_is_asked_anew(world, index):
    index.add("app", "1.0", tag="cp311-cp311-manylinux_2_17_x86_64")
    index.add("app", "1.0", tag="cp312-cp312-manylinux_2_17_x86_64")
    first = resolve(world, "app")
    newer = replace(SYSTEM, inputs=(deb("python3", "3.12.3-1"),))
    Pip().foresee(request(world, "app", previous=first))
    moved = resolve(world, "app", below=(BASE, newer), previous=first)
    assert moved.inputs[0].name == "app-1.0-cp312-cp312-manylinux_2_17_x86_64.whl"
    assert moved.facts["python"] == "3.12.3"


def test_what_cannot_be_foreseen_is_told_when_the_layer_is_resolved(world, index, server):
    index.add("app", "1.0")
    Pip().foresee(request(world, "app"))
    assert not server.seen, "no earlier lock says for which Python"
    first = resolve(world, "app")
    for about in ({"keys": 'requirements = "none.txt"'}, {"keys": 'pylock = "pylock.toml"'}):
        Pip().foresee(request(world, previous=first, **about))
    Pip().foresee(request(world, "nothing", previous=first))
    with pytest.raises(ResolveError, match="there is no package nothing"):
        resolve(world, "nothing", previous=first)


def test_one_package_is_upgraded_with_what_must_follow(world, index):
    for version in ("1.0", "2.0"):
        index.add("app", version, requires=[f"core=={version}", "lib"])
        index.add("core", version)
        index.add("lib", version)
    first = resolve(world, "app==1.0", "lib==1.0")
    assert pins(first) == ["app==1.0", "core==1.0", "lib==1.0"]
    assert pins(resolve(world, "app", previous=first)) == pins(first)
    freed = match([first], {"python": ("pip", {})}, Upgrade(packages=frozenset({("", "app")})))
    previous = freed.offered("python", "pip", (BASE, SYSTEM))
    assert pins(resolve(world, "app", previous=previous)) == ["app==2.0", "core==2.0", "lib==1.0"]


def test_what_a_layer_below_has_holds_and_is_not_installed_again(world, index):
    index.add("app", "1.0", requires=["lib"])
    for version in ("1.0", "2.0"):
        index.add("lib", version)
    lower = replace(resolve(world, "lib<2"), name="lower")
    upper = resolve(world, "app", below=(BASE, SYSTEM, lower))
    assert pins(upper) == ["app==1.0"]
    assert upper.inputs[-1] == lower.inputs[-1], "the same uv"
    nothing = resolve(world, "lib", below=(BASE, SYSTEM, lower))
    assert nothing.inputs == ()
    assert step(nothing) == Commands(commands=())


def test_settings_of_pip_that_have_no_effect_are_told(world, index, monkeypatch):
    index.add("app", "1.0")
    monkeypatch.setenv("PIP_INDEX_URL", index.url)
    monkeypatch.setenv("PIP_CONSTRAINT", "/etc/constraints.txt")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    resolve(replace(world, index={}), "app")
    said = "pip's setting constraint is not used to lock: name the file with `constraints` in the layer"
    assert world.said == [said]


def test_folders_of_wheels_and_further_indices_of_the_host(world, index, tmp_path, monkeypatch):
    index.add("app", "1.0", requires=["lib", "more"])
    folder = tmp_path / "wheels"
    folder.mkdir()
    file, data = wheel("lib", "1.0")
    (folder / file).write_bytes(data)
    with Server() as second:
        other = Index(second)
        other.add("more", "2.0")
        index.add("more", "1.0")
        for name, value in {"INDEX_URL": index.url, "EXTRA_INDEX_URL": other.url, "FIND_LINKS": folder}.items():
            monkeypatch.setenv(f"PIP_{name}", str(value))
        monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
        layer = resolve(replace(world, index={}), "app")
        assert pins(layer) == ["app==1.0", "lib==1.0", "more==2.0"]
        assert (layer.inputs[1].sha256, layer.inputs[1].size) == (sha256(data), len(data))
        assert str(tmp_path) not in repr(layer)
        elsewhere = Store(tmp_path / "elsewhere")
        fetch(layer.inputs, [IndexProvider(elsewhere, {})], elsewhere)


def test_what_is_locked_is_fetched_from_where_it_was_seen_or_from_the_index(world, index, tmp_path):
    index.add("app", "1.0")
    layer = resolve(world, "app")
    fetch(layer.inputs, [HintProvider(world.store)], world.store)
    elsewhere = Store(tmp_path / "elsewhere")
    fetch(layer.inputs, [HintProvider(elsewhere), IndexProvider(elsewhere, world.index)], elsewhere)
    assert all(elsewhere.has_blob(item.sha256) for item in layer.inputs)


# -- the graph and the step --------------------------------------------------------------------------------------------


def test_it_follows_the_apt_and_pip_layers_above():
    asked = manifest("a", more='[[layers]]\nname = "more"\nkind = "pip"\npackages = ["b"]\n')
    assert Pip().needs(asked.layers[2], asked.layers[:2]) == ("system", "python")


def step(layer: LockedLayer) -> Commands:
    files = {item.name: Path("/store") / item.sha256 for item in layer.inputs}
    asked = StepRequest(layer=layer, files=files, platform="linux/amd64", epoch=0, project=Path("/project"))
    made = Pip().step(asked)
    assert isinstance(made, Commands)
    return made


def test_the_step_is_one_command_over_read_only_files(world, index):
    index.add("app", "1.0")
    layer = resolve(world, "app")
    made = step(layer)
    uv = layer.inputs[-1].name
    assert made.commands == (
        ("/usr/bin/python3", "-s", "-B", "/run/reprobox/install_wheels.py", INPUTS, uv, "app-1.0-py3-none-any.whl"),
    )
    assert [bind.target for bind in made.binds] == [
        "/run/reprobox/install_wheels.py",
        "/run/reprobox/compile_wheels.py",
        f"{INPUTS}/app-1.0-py3-none-any.whl",
        f"{INPUTS}/{uv}",
    ]
    assert not any(bind.writable for bind in made.binds)


def wheel_of(place: Path, how: int, *, name: str = "uv-1.0.data/scripts/uv") -> Path:
    with zipfile.ZipFile(place, "w", how) as archive:
        archive.writestr("uv-1.0.dist-info/METADATA", "Name: uv\n")
        archive.writestr(name, b"\x7fELF" + bytes(range(256)) * 1000)
    return place


@pytest.mark.parametrize("how", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED, zipfile.ZIP_BZIP2], ids=str)
def test_the_installer_is_unpacked_as_zipfile_would(tmp_path, how):
    wheel = wheel_of(tmp_path / "uv.whl", how)
    write_program(wheel, tmp_path / "uv")
    install_wheels.write_uv(str(wheel), tmp_path / "other")
    assert (tmp_path / "uv").read_bytes() == (tmp_path / "other").read_bytes()


def test_a_damaged_installer_is_refused(tmp_path):
    wheel = wheel_of(tmp_path / "uv.whl", zipfile.ZIP_DEFLATED)
    data = wheel.read_bytes()
    at = data.index(b"scripts/uv") + 12
    for byte in (0, 40):
        wheel.write_bytes(data[: at + byte] + bytes([data[at + byte] ^ 0xFF]) + data[at + byte + 1 :])
        with pytest.raises(zipfile.BadZipFile, match="its uv"):
            write_program(wheel, tmp_path / "uv")
    with pytest.raises(zipfile.BadZipFile, match="it has no uv"):
        write_program(wheel_of(tmp_path / "other.whl", zipfile.ZIP_DEFLATED, name="uv"), tmp_path / "uv")


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("requirement", "said", "hint"),
    [
        ("numpy=2", '"numpy=2" is no requirement', 'for example "numpy", "numpy>=2"'),
        ("-r other.txt", '"-r other.txt" is no requirement', "for example"),
        ("./local.whl", '"./local.whl" is no requirement', "for example"),
        ("x @ https://example.org/x.zip", "names something else than a wheel", "a file that ends in .whl"),
        ("x @ git+https://example.org/x", "names a place that not everyone has", "a layer of the kind git"),
        ("x @ https://me:word@example.org/x.whl", "has a password in it", "logins belong in ~/.netrc"),
    ],
)
def test_requirements_that_cannot_be_read(requirement, said, hint):
    with pytest.raises(ManifestError) as caught:
        manifest("numpy", requirement)
    (problem,) = caught.value.problems
    assert (problem.key, problem.line) == ("layers[1].packages[1]", 13)
    assert said in problem.message
    assert hint in problem.hint


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("packages = ['a']\nproject = '.'", "packages and project cannot go together"),
        ("pylock = 'pylock.toml'\nconstraints = 'c.txt'", "constraints and pylock cannot go together"),
        ("packages = ['a']\nextras = ['x']", "`extras` needs `project` or `pylock`"),
        ("requirements = 'r.txt'\ngroups = ['x']", "`groups` needs `project` or `pylock`"),
        ("requirements = '../r.txt'", '"../r.txt" leads out of the project folder'),
        ("project = ''", "the path is empty"),
    ],
)
def test_keys_that_do_not_go_together(keys, said):
    with pytest.raises(ManifestError) as caught:
        manifest(keys=keys)
    (problem,) = caught.value.problems
    assert problem.message == said
    assert problem.hint


def refused(world: World, *packages: str, **more: Any) -> ResolveError:
    with pytest.raises(ResolveError) as caught:
        resolve(world, *packages, **more)
    return caught.value


def test_no_python(world):
    error = refused(world, "app", below=(BASE,))
    assert str(error) == (
        "research.toml:13: layers[1].packages: the environment has no Python to install packages for\n"
        "  hint: add python3 to an apt layer above this one, or choose a base that has Python"
    )


def test_a_package_that_is_not_there_with_a_near_name(world, index):
    index.add("app", "1.0")
    error = refused(world, "app", "nunpy")
    assert error.where == "research.toml:13: layers[1].packages[1]"
    assert error.message.startswith("there is no package nunpy; uv says:\n  No solution found")
    assert "Because nunpy was not found in the package registry" in error.message
    assert error.hint == 'did you mean "numpy"?'
    assert refused(world, "sklearn").hint == 'did you mean "scikit-learn"?'
    assert refused(world, "zzyzx").hint == "check its spelling, and which index is asked"


def test_a_name_near_one_that_was_locked(world, index):
    index.add("my-lab-tools", "1.0")
    previous = resolve(world, "my-lab-tools")
    assert refused(world, "my-lab-tool", previous=previous).hint == 'did you mean "my-lab-tools"?'


def test_only_a_source_distribution(world, index):
    index.add_file("old-lib", "old_lib-1.0.tar.gz", b"source")
    index.add("app", "1.0", requires=["old-lib"])
    for packages in (["old-lib"], ["old-lib==1.0"], ["app"]):
        error = refused(world, *packages)
        assert error.message.startswith("old-lib has no wheel for Python 3.11.2 on x86_64-manylinux_2_36; uv says:")
        assert error.hint == (
            'choose a version that has wheels, or let it be built from source: add build = ["old-lib"] to the layer,'
            " and what compiling it needs to an apt layer above"
        )
    assert error.where == "research.toml:13: layers[1].packages"


def test_an_empty_package_named_as_people_import_it(world, index):
    index.add_file("sklearn", "sklearn-0.0.tar.gz", b"source")
    assert refused(world, "sklearn").hint == 'did you mean "scikit-learn"?'


def test_versions_that_do_not_fit_together(world, index):
    index.add("app", "1.0", requires=["lib<2"])
    for version in ("1.0", "2.0"):
        index.add("lib", version)
    error = refused(world, "app", "lib>=2")
    assert error.message.startswith("no set of packages satisfies the layer for Python 3.11.2")
    reason = " ".join(error.message.split())
    assert re.search("depends? on lib<2", reason)
    assert "you require lib>=2" in reason
    assert error.where == "research.toml:13: layers[1].packages"
    assert refused(world, "lib>=99", "app").where == "research.toml:13: layers[1].packages[0]"


def test_what_a_layer_below_holds_is_named(world, index):
    index.add("app", "1.0", requires=["lib>=2"])
    for version in ("1.0", "2.0"):
        index.add("lib", version)
    lower = replace(resolve(world, "lib<2"), name="lower")
    error = refused(world, "app", below=(BASE, SYSTEM, lower))
    assert error.hint == "a layer below holds lib==1.0: ask for what fits it, or put both into one layer"


def test_no_network(world):
    with pytest.raises(FetchError, match=r"the Python index could not be asked; uv says:(?s:.)*127\.0\.0\.1:9"):
        resolve(replace(world, index={"url": "http://127.0.0.1:9/simple"}), "app")


def test_offline_with_what_is_remembered_and_without(world, index, server):
    index.add("app", "1.0")
    with pytest.raises(OfflineError):
        resolve(replace(world, offline=True), "app")
    before = resolve(world, "app")
    asked = len(server.seen)
    assert resolve(replace(world, offline=True), "app>=1").inputs == before.inputs
    assert len(server.seen) == asked


def test_an_index_without_the_static_uv(world, index):
    index.add("app", "1.0")
    del index.wheels["uv"]
    error = refused(world, "app")
    assert error.message.startswith(f"the index has no static uv {uv_version()} for x86_64, which installs packages")


def test_every_refusal_is_for_people(world, index):
    """Each says where it is, and what to do."""
    index.add("app", "1.0", requires=["gone"])
    for packages in (["nosuch"], ["app"], ["app>2"]):
        error = refused(world, *packages)
        assert isinstance(error, ReproboxError)
        assert error.where
        assert error.hint


# -- requirements files, projects, constraints -------------------------------------------------------------------------


@pytest.fixture
def folder(world, tmp_path) -> Path:
    """The project's folder."""
    world.project = tmp_path / "project"
    world.project.mkdir()
    return world.project


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_requirements_file_with_includes_markers_and_constraints(world, index, folder):
    for name in ("app", "more", "tool", "win", "old"):
        for version in ("1.0", "2.0"):
            index.add(name, version)
    (folder / "requirements.txt").write_text(
        "# what it needs\n-r deep/more.txt\napp  # the app\nwin; sys_platform == 'win32'\nold<2; python_version < '3.12'\n"
    )
    (folder / "deep").mkdir()
    (folder / "deep/more.txt").write_text("more \\\n  >=1\n-c ../constraints.txt\n")
    (folder / "constraints.txt").write_text("more==1.0\ntool==1.0\n")
    layer = resolve(world, keys="requirements = 'requirements.txt'")
    assert pins(layer) == ["app==2.0", "more==1.0", "old==1.0"]
    (folder / "c2.txt").write_text("app<2\n")
    layer = resolve(world, keys="requirements = 'requirements.txt'\nconstraints = 'c2.txt'")
    assert pins(layer) == ["app==1.0", "more==1.0", "old==1.0"]
    assert pins(resolve(world, keys="packages = ['app']\nconstraints = 'c2.txt'")) == ["app==1.0"]


def test_hashes_are_held_against_the_file_that_is_chosen(world, index, folder):
    good = index.add("app", "1.0")
    other = index.add("app", "1.0", tag="cp311-cp311-manylinux_2_28_x86_64")
    path = folder / "requirements.txt"
    path.write_text(f"app==1.0 --hash=sha256:{'0' * 64} \\\n    --hash=sha256:{sha256(good)}\n")
    assert resolve(world, keys="requirements = 'requirements.txt'").inputs[0].sha256 == sha256(good)
    assert resolve(world, "app").inputs[0].sha256 == sha256(other)
    path.write_text(f"app==1.0 --hash=sha256:{'0' * 64}\n")
    error = refused(world, keys="requirements = 'requirements.txt'")
    assert str(error) == (
        "requirements.txt:1: no file of app 1.0 that suits has one of the hashes that are asked for\n"
        "  hint: make the hashes anew with `uv pip compile --generate-hashes`, or find out why the file is another"
    )
    path.write_text("--require-hashes\napp==1.0\n")
    error = refused(world, keys="requirements = 'requirements.txt'")
    assert str(error).startswith("requirements.txt:2: app 1.0 has no hash, and --require-hashes is said\n  hint: ")


def test_prereleases_where_the_file_says_so(world, index, folder):
    index.add("app", "1.0")
    index.add("app", "2.0rc1")
    (folder / "requirements.txt").write_text("--pre\napp\n")
    assert pins(resolve(world, keys="requirements = 'requirements.txt'")) == ["app==2.0rc1"]
    assert pins(resolve(world, "app")) == ["app==1.0"]


def test_a_wheel_by_its_url_is_locked_with_it(world, index, server, tmp_path):
    data = index.add("app", "1.0", requires=["lib"])
    index.add("lib", "1.0")
    url = server.url("/files/app/app-1.0-py3-none-any.whl")
    layer = resolve(world, f"app @ {url}")
    assert layer.inputs[0].facts == {"package": "app", "python": "3.11", "version": "1.0", "url": url}
    assert (layer.inputs[0].sha256, layer.inputs[0].size) == (sha256(data), len(data))
    assert pins(layer) == ["app==1.0", "lib==1.0"]
    elsewhere = Store(tmp_path / "elsewhere")
    fetch(layer.inputs[:1], [IndexProvider(elsewhere, {"url": "http://127.0.0.1:9/simple"})], elsewhere)
    error = refused(world, f"app @ {url}#sha256={'0' * 64}")
    assert error.message == "no file of app 1.0 that suits has one of the hashes that are asked for"
    assert resolve(world, f"app @ {url}#sha256={sha256(data)}").inputs == layer.inputs


PYPROJECT = """
[project]
name = "mine"
version = "1"
requires-python = ">=3.10"
dependencies = ["app>=1", "win; sys_platform == 'win32'"]
[project.optional-dependencies]
plot = ["plot"]
all = ["mine[plot]", "extra"]
[dependency-groups]
dev = ["tool", { include-group = "docs" }]
docs = ["pages"]
"""


def test_a_project_folder_with_extras_and_groups(world, index, folder):
    for name in ("app", "plot", "extra", "tool", "pages", "win", "mine"):
        index.add(name, "1.0")
    (folder / "pyproject.toml").write_text(PYPROJECT)
    assert pins(resolve(world, keys="project = '.'")) == ["app==1.0"]
    assert pins(resolve(world, keys="project = '.'\nextras = ['all']")) == ["app==1.0", "extra==1.0", "plot==1.0"]
    assert pins(resolve(world, keys="project = '.'\ngroups = ['dev']")) == ["app==1.0", "pages==1.0", "tool==1.0"]


@pytest.mark.parametrize(
    ("text", "keys", "said"),
    [
        (PYPROJECT.replace(">=3.10", ">=3.12"), "", "pyproject.toml: project.requires-python: it asks for Python >=3.12, and this is 3.11.2\n  hint: choose a base or an apt layer with such a Python, or widen the range"),
        (PYPROJECT, "extras = ['plt']", "pyproject.toml: project.optional-dependencies: there is no extra 'plt'\n  hint: did you mean \"plot\"?"),
        (PYPROJECT, "groups = ['test']", "pyproject.toml: dependency-groups: there is no group 'test'\n  hint: known here: dev, docs"),
        ('[project]\nname = "x"\ndynamic = ["dependencies"]\n', "", "pyproject.toml: project.dynamic: the dependencies are known only to the build backend\n  hint: write them out"),
        ('[project]\nname = "x"\ndependencies = ["a =1"]\n', "", 'pyproject.toml: project.dependencies[0]: "a =1" is no requirement'),
        ('[project]\nname = "x"\ndependencies = ["app"]\n[tool.uv.sources]\napp = { path = "../app" }\n', "", "pyproject.toml: tool.uv.sources.app: app comes from a source of its own, which is not taken\n  hint: lock it with"),
        ("[project\n", "", "pyproject.toml: not TOML"),
    ],
)  # fmt: skip
def test_projects_that_cannot_be_locked(world, folder, text, keys, said):
    (folder / "pyproject.toml").write_text(text)
    with pytest.raises(ManifestError) as caught:
        resolve(world, keys=f"project = '.'\n{keys}")
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--index-url https://wheels.example/simple", "--index-url: a lock does not say where packages come from\n  hint: remove it, and set the index in reprobox's settings ([index] url and extra), uv's or pip's"),
        ("-i https://wheels.example/simple", "-i: a lock does not say where packages come from"),
        ("--find-links=wheels", "--find-links: a lock does not say where packages come from"),
        ("-e .", "-e .: an editable install is not taken\n  hint: remove it: code that you work on is mounted;"),
        ("./wheels/app.whl", '"./wheels/app.whl" is no requirement'),
        ("https://wheels.example/app-1.0-py3-none-any.whl", "is no requirement: "),
        ("app==${VERSION}", "${VERSION} stands for a variable of the environment\n  hint: write it out"),
        ("-r ../other.txt", "../other.txt is not a file of the project\n  hint: copy the file into the project"),
        ("-r https://example.org/r.txt", "https://example.org/r.txt is not a file of the project"),
        ("-r requirements.txt", "the files include one another in a circle: requirements.txt -> requirements.txt"),
        ("--no-binary :all:", "--no-binary :all:: what is built from source is said in the layer"),
        ("--unknown", "the option --unknown is not understood\n  hint: remove the line"),
        ("app --hash=md5:0123", "--hash of a requirement is not understood"),
        ("app @ git+https://example.org/app", "names a place that not everyone has"),
        ("app =1", '"app =1" is no requirement'),
    ],
)  # fmt: skip
def test_lines_of_requirements_files_that_cannot_be_honoured(world, folder, line, said):
    (folder / "requirements.txt").write_text(f"app\n{line}\n-r\n")
    with pytest.raises(ManifestError) as caught:
        resolve(world, keys="requirements = 'requirements.txt'")
    first, second = caught.value.problems
    assert (first.file, first.line) == ("requirements.txt", 2)
    assert said in str(first)
    assert first.hint
    assert (second.line, second.message) == (3, "nothing is not a file of the project")


def test_files_that_are_not_there_are_a_problem_of_their_key(world, folder):
    (folder / "requirements.txt").write_text("-r gone.txt\n")
    for keys, said in (
        ("requirements = 'r.txt'", "research.toml:13: layers[1].requirements: there is no file r.txt"),
        ("requirements = 'requirements.txt'", "research.toml:13: layers[1].requirements: there is no file gone.txt"),
        ("packages = ['a']\nconstraints = 'c.txt'", "research.toml:14: layers[1].constraints: there is no file c.txt"),
        ("project = 'sub'", "research.toml:13: layers[1].project: there is no file sub/pyproject.toml"),
        ("pylock = 'pylock.toml'", "research.toml:13: layers[1].pylock: there is no file pylock.toml"),
    ):
        with pytest.raises(ManifestError) as caught:
            resolve(world, keys=keys)
        assert str(caught.value) == f"{said}\n  hint: write it, or name another: paths start at the manifest"


def test_what_files_say_is_remembered_and_how_they_say_it_is_not(folder):
    asked = manifest(keys="requirements = 'requirements.txt'")
    path = folder / "requirements.txt"

    def said() -> Any:
        return Pip().reads(asked, asked.layers[1], folder)

    path.write_text("app\n-c c.txt\n")
    (folder / "c.txt").write_text("lib<2\n")
    before = said()
    assert list(before) == ["requirements.txt", "c.txt"]
    path.write_text("# a comment\napp   # another\n\n-c c.txt")
    assert said() == before
    (folder / "c.txt").write_text("lib<3\n")
    assert {name for name in before if said()[name] != before[name]} == {"c.txt"}


def test_a_refusal_names_the_line_of_the_file(world, index, folder):
    index.add("app", "1.0")
    (folder / "requirements.txt").write_text("app\n\nnunpy\n")
    error = refused(world, keys="requirements = 'requirements.txt'")
    assert (error.where, error.hint) == ("requirements.txt:3", 'did you mean "numpy"?')
    (folder / "pyproject.toml").write_text('[project]\nname = "x"\ndependencies = ["app", "nunpy"]\n')
    assert refused(world, keys="project = '.'").where == "pyproject.toml: project.dependencies[1]"


def test_contradictory_pins(world, index, folder):
    for version in ("1.0", "2.0"):
        index.add("app", version)
    error = refused(world, "app==1.0", "app==2.0")
    assert error.message.startswith("no set of packages satisfies the layer for Python 3.11.2 on x86_64-manylinux_2_36")
    assert "you require app==1.0 and app==2.0" in " ".join(error.message.split())
    assert (error.where, error.hint) == (
        "research.toml:13: layers[1].packages[0]",
        "relax one of the versions that are named",
    )
    (folder / "c.txt").write_text("app==1.0\n")
    error = refused(world, keys="packages = ['app==2.0']\nconstraints = 'c.txt'")
    assert "app==1.0" in error.message


def test_a_package_for_another_system_needs_a_marker(world, index):
    index.add("app", "1.0")
    index.add("onlywin", "1.0", tag="py3-none-win_amd64")
    error = refused(world, "app", "onlywin")
    assert error.message.startswith("onlywin has no wheel for Python 3.11.2 on x86_64-manylinux_2_36; uv says:\n")
    assert error.where == "research.toml:13: layers[1].packages[1]"
    assert (
        error.hint == "where another system needs it, mark it: \"onlywin; sys_platform == 'win32'\"; else leave it out"
    )
    assert pins(resolve(world, "app", "onlywin; sys_platform == 'win32'")) == ["app==1.0"]


# -- pylock.toml -------------------------------------------------------------------------------------------------------


def pylock(folder: Path, *packages: str, head: str = "") -> str:
    text = f'lock-version = "1.0"\ncreated-by = "test"\n{head}\n' + "\n".join(
        f"[[packages]]\n{item}" for item in packages
    )
    (folder / "pylock.toml").write_text(text)
    return "pylock = 'pylock.toml'"


def listed(server: Server, name: str, version: str, data: bytes, tag: str = "py3-none-any", more: str = "") -> str:
    file = f"{name}-{version}-{tag}.whl"
    wheel = f'{{ url = "{server.url(f"/files/{name}/{file}")}", size = {len(data)}, hashes = {{ sha256 = "{sha256(data)}" }} }}'
    return f'name = "{name}"\nversion = "{version}"\nwheels = [{wheel}]\n{more}\n'


def test_a_pylock_is_selected_for_the_python_of_the_environment(world, index, server, folder):
    app, lib, win = (index.add(name, "1.0") for name in ("app", "lib", "win"))
    dev = index.add("dev", "1.0")
    keys = pylock(
        folder,
        listed(server, "lib", "1.0", lib, more="marker = \"python_version < '3.12'\""),
        listed(server, "app", "1.0", app),
        listed(server, "win", "1.0", win, more="marker = \"sys_platform == 'win32'\""),
        listed(server, "dev", "1.0", dev, more="marker = \"'dev' in dependency_groups\""),
        'name = "mine"\ndirectory = { path = ".", editable = true }',
        head='dependency-groups = ["dev"]',
    )
    layer = resolve(world, keys=keys)
    assert pins(layer) == ["app==1.0", "lib==1.0"]
    assert layer.inputs == resolve(world, "app", "lib").inputs, "as the index itself would be locked"
    assert pins(resolve(world, keys=f"{keys}\ngroups = ['dev']")) == ["app==1.0", "dev==1.0", "lib==1.0"]
    fetch(layer.inputs, [HintProvider(world.store)], world.store)


def test_the_wheels_of_a_pylock_may_lie_in_the_project(world, index, folder, tmp_path):
    data = index.add("app", "1.0")
    (folder / "wheels").mkdir()
    (folder / "wheels/app-1.0-py3-none-any.whl").write_bytes(data)
    wheel = f'{{ path = "wheels/app-1.0-py3-none-any.whl", hashes = {{ sha256 = "{sha256(data)}" }} }}'
    keys = pylock(folder, f'name = "app"\nversion = "1.0"\nwheels = [{wheel}]')
    layer = resolve(world, keys=keys)
    assert layer.inputs[0].facts["path"] == "wheels/app-1.0-py3-none-any.whl"
    elsewhere = Store(tmp_path / "elsewhere")
    fetch(layer.inputs[:1], [IndexProvider(elsewhere, {}, offline=True, project=folder)], elsewhere, offline=True)
    (folder / "wheels/app-1.0-py3-none-any.whl").write_bytes(b"other")
    assert "is not the file that was locked" in refused(world, keys=keys).message


def test_pylocks_that_cannot_be_used(world, index, server, folder):
    app = index.add("app", "1.0")
    keys = pylock(folder, listed(server, "app", "1.0", app), head='requires-python = ">=3.12"')
    said = (
        "pylock.toml: it does not fit Python 3.11.2 on x86_64-manylinux_2_36: python_full_version '3.11.2' in provided"
    )
    assert str(wrong(world, keys)).startswith(said)
    keys = pylock(folder, listed(server, "app", "1.0", app, tag="cp313-cp313-win_amd64"))
    assert "No wheel found matching the provided tags for package 'app'" in str(wrong(world, keys))
    keys = pylock(folder, 'name = "app"\nvcs = { type = "git", url = "https://example.org/app", commit-id = "0" }')
    assert str(wrong(world, keys)).startswith(
        "pylock.toml: packages[0]: app comes from a repository, and not from a file with a hash"
    )
    keys = pylock(folder, listed(server, "app", "1.0", app).replace("sha256", "sha512"))
    assert str(wrong(world, keys)).startswith("pylock.toml: packages[0]: app has no sha256, only sha512")
    (folder / "pylock.toml").write_text('lock-version = "2.0"\ncreated-by = "x"\npackages = []\n')
    assert str(wrong(world, keys)).startswith("pylock.toml: pylock version 2.0 is not supported")
    (folder / "pylock.toml").write_text("nonsense")
    assert str(wrong(world, keys)).startswith("pylock.toml: it is no pylock.toml: ")


def wrong(world: World, keys: str) -> ManifestError:
    with pytest.raises(ManifestError) as caught:
        resolve(world, keys=keys)
    assert caught.value.problems[0].hint
    return caught.value


def test_a_lock_is_written_as_a_pylock_and_read_back_as_the_same_lock(world, index, server, folder):
    for name in ("app", "lib"):
        index.add(name, "1.0", requires=["lib"] if name == "app" else [])
    url = server.url("/files/lib/lib-1.0-py3-none-any.whl")
    for asked in (["app"], ["app", f"lib @ {url}"]):
        before = resolve(world, *asked)
        target = LockedTarget(name="t", platform="linux/amd64", layers=(BASE, SYSTEM, before))
        packages, python = packages_of(target)
        places = {item.sha256: server.url(f"/files/{item.facts['package']}/{item.name}") for item in packages}
        text = write(packages, python, places)
        (folder / "pylock.toml").write_text(text)
        Pylock.from_dict(tomllib.loads(text)).validate()
        after = resolve(world, keys="pylock = 'pylock.toml'")
        assert (after.inputs, after.options) == (before.inputs, before.options)
        assert write(packages[::-1], python, places) == text
    with pytest.raises(UsageError, match="no Python packages"):
        packages_of(replace(target, layers=(BASE, SYSTEM)))


def test_a_pylock_and_the_layers_below(world, index, server, folder):
    old, new = index.add("app", "1.0"), index.add("app", "2.0")
    lower = replace(resolve(world, "app==1.0"), name="lower")
    keys = pylock(folder, listed(server, "app", "1.0", old))
    assert resolve(world, keys=keys, below=(BASE, SYSTEM, lower)).inputs == ()
    keys = pylock(folder, listed(server, "app", "2.0", new))
    error = refused(world, keys=keys, below=(BASE, SYSTEM, lower))
    assert str(error).startswith("pylock.toml: packages[0]: app 2.0 is asked for, and a layer below has app 1.0")


# -- from source -------------------------------------------------------------------------------------------------------


@pytest.fixture
def source(index) -> bytes:
    """A package that the index has as source only, and in two versions what builds it."""
    for version in ("1.0", "2.0"):
        index.add("tinybackend", version, files={"tinybackend.py": BACKEND})
    return index.add_file("old-lib", *sdist("old-lib", "1.0", {"old_lib.py": "x = 1\n"}, versions="<2"))


def test_a_source_is_locked_with_all_that_builds_it(world, index, source):
    index.add("app", "1.0", requires=["old-lib"])
    layer = resolve(world, keys="packages = ['app']\nbuild = ['Old.Lib']")
    assert [(item.type, item.name) for item in layer.inputs] == [
        ("wheel", "app-1.0-py3-none-any.whl"),
        ("sdist", "old_lib-1.0.tar.gz"),
        ("build", "tinybackend-1.0-py3-none-any.whl"),
        ("uv", f"uv-{uv_version()}-py3-none-musllinux_1_1_x86_64.whl"),
    ]
    assert layer.inputs[1].sha256 == sha256(source)
    assert layer.inputs[2].facts == {"for": "old-lib", "package": "tinybackend", "python": "3.11", "version": "1.0"}
    build, install = step(layer).commands
    assert build[1:] == (
        *("-s", "-B", "/run/reprobox/build_wheels.py", INPUTS, layer.inputs[3].name, "/tmp/reprobox-built/"),
        *("--source", "old_lib-1.0.tar.gz", "tinybackend-1.0-py3-none-any.whl"),
    )
    assert install[-2:] == ("app-1.0-py3-none-any.whl", "/tmp/reprobox-built/")
    upper = resolve(world, keys="packages = ['old-lib']", below=(BASE, SYSTEM, layer))
    assert upper.inputs == (), "what a layer below has built is there"


def test_sources_and_their_tools_are_fetched_from_the_index(world, index, source, tmp_path):
    layer = resolve(world, keys="packages = ['old-lib']\nbuild = ['old-lib']")
    elsewhere = Store(tmp_path / "elsewhere")
    fetch(layer.inputs, [IndexProvider(elsewhere, world.index)], elsewhere)


def test_sources_that_cannot_be_locked(world, index, source):
    error = refused(world, keys="packages = ['old-lib']\nbuild = ['old-lib', 'typo']")
    assert str(error) == (
        "research.toml:14: layers[1].build[1]: no package typo is needed here\n  hint: correct the name, or leave it out"
    )
    del index.wheels["tinybackend"]
    error = refused(
        replace(world, store=Store(world.store.root.with_name("fresh"))),
        keys="packages = ['old-lib']\nbuild = ['old-lib']",
    )
    assert error.message.startswith(
        "what old_lib-1.0.tar.gz needs to be built cannot be locked: tinybackend<2; uv says:"
    )
    assert error.where == "research.toml:13: layers[1].packages"
