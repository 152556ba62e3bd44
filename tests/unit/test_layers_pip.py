"""The pip kind against an index on loopback: what is locked, what is kept, and what every refusal says."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from reprobox.download import Downloader
from reprobox.errors import FetchError, ManifestError, OfflineError, ReproboxError, ResolveError
from reprobox.layers.apt import Apt
from reprobox.layers.bootstrap import Bootstrap
from reprobox.layers.kind import INPUTS, Commands, Resolution, ResolveRequest, StepRequest
from reprobox.layers.pip import Pip
from reprobox.lock import Input, LockedLayer
from reprobox.manifest import Manifest, parse
from reprobox.pins import Upgrade, match
from reprobox.providers import Documents, HintProvider, fetch
from reprobox.pypi import IndexProvider, uv_version
from reprobox.store import Store
from tests.python_index import Index, uv_wheel
from tests.servers import Server

KINDS: dict[str, Any] = {kind.name: kind for kind in (Bootstrap(), Apt(), Pip())}


@dataclass
class World:
    """What resolving may touch: a store and an index; the base must never be looked into."""

    store: Store
    index: dict[str, str]
    offline: bool = False
    project: Path = Path("/nowhere")
    said: list[str] = field(default_factory=list)

    def get(self, url: str, *, fresh: bool = True, limit: int = 1 << 20) -> bytes:
        return Documents(self.store, Downloader(offline=self.offline)).get(url, fresh=fresh, limit=limit)

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


def manifest(*packages: str, more: str = "") -> Manifest:
    listed = ", ".join(f"'{item}'" for item in packages)
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
packages = [{listed}]
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


def resolve(
    world: World,
    *packages: str,
    below: Sequence[LockedLayer] = (BASE, SYSTEM),
    previous: LockedLayer | None = None,
    upgrade: bool = False,
) -> LockedLayer:
    asked = manifest(*packages)
    found: Resolution = Pip().resolve(
        ResolveRequest(
            manifest=asked,
            layer=asked.layers[1],
            key="layers[1]",
            platform="linux/amd64",
            below=tuple(below),
            previous=previous,
            upgrade=upgrade,
            world=world,  # type: ignore[arg-type]  # what this kind needs of it
        )
    )
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
    monkeypatch.setenv("PIP_FIND_LINKS", "/opt/wheels")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    resolve(replace(world, index={}), "app")
    assert world.said == ["pip's settings find-links are not used to lock; uv's own settings are"]


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
    return Pip().step(StepRequest(layer=layer, files=files, platform="linux/amd64", epoch=0, project=Path("/project")))


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
        f"{INPUTS}/app-1.0-py3-none-any.whl",
        f"{INPUTS}/{uv}",
    ]
    assert not any(bind.writable for bind in made.binds)


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("requirement", "said", "hint"),
    [
        ("numpy=2", '"numpy=2" is no requirement', 'for example "numpy", "numpy>=2"'),
        ("-r other.txt", '"-r other.txt" is no requirement', "for example"),
        ("./local.whl", '"./local.whl" is no requirement', "for example"),
        (
            "x @ https://example.org/x.whl",
            "names a URL, which is not available yet",
            "write a name and versions instead",
        ),
    ],
)
def test_requirements_that_cannot_be_read(requirement, said, hint):
    with pytest.raises(ManifestError) as caught:
        manifest("numpy", requirement)
    (problem,) = caught.value.problems
    assert (problem.key, problem.line) == ("layers[1].packages[1]", 13)
    assert said in problem.message
    assert hint in problem.hint


@pytest.mark.parametrize("key", ["requirements = 'r.txt'", "pylock = 'pylock.toml'", "project = '.'"])
def test_keys_that_come_later(key):
    text = manifest("a").file  # a sound manifest first
    assert text == "research.toml"
    asked = parse(
        "[project]\nname = 'x'\n[base]\nbootstrap = 'debian:bookworm'\n"
        f"[[layers]]\nname = 'python'\nkind = 'pip'\n{key}\n",
        kinds=KINDS,
    )
    (problem,) = asked.unavailable
    assert "not available yet" in problem.message
    with pytest.raises(ManifestError, match="cannot go together"):
        manifest("a", more=key)


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
        assert error.hint == "choose a version that has wheels; building from source is not available yet"
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
