"""The apt layer: what real apt decides in a real base, how that is locked and built, and what is said when it cannot be."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from reprobox.backend import ToolRequest
from reprobox.debian.release import trusted_keys
from reprobox.engine import BUILD_ENVIRONMENT
from reprobox.errors import ResolveError
from reprobox.layers.apt import Apt, AptOptions
from reprobox.layers.bootstrap import Bootstrap
from reprobox.layers.kind import INPUTS, Commands, Resolution, ResolveRequest, StepRequest
from reprobox.lock import Input, LockedLayer, read
from reprobox.manifest import Layer, parse
from reprobox.pins import Upgrade, match
from reprobox.sandbox.backend import Sandbox
from reprobox.store import Store
from tests.debs import Key, SmallWorld, Suite, make_deb, serve
from tests.engines.project import Project
from tests.servers import Server

KINDS = {"apt": Apt(), "bootstrap": Bootstrap()}


def deb(name: str, architecture: str = "amd64") -> Input:
    facts = {"package": name, "version": "1.0", "architecture": architecture}
    return Input(type="deb", name=f"{name}_1.0_{architecture}.deb", sha256=f"{len(name):064x}", size=1, facts=facts)


def manifest(base: str, *layers: dict[str, object]):
    text = f'[project]\nname = "x"\n[base]\n{base}\n'
    for layer in layers:
        text += "[[layers]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in layer.items())
    return parse(text, kinds=KINDS)


# -- without an engine -------------------------------------------------------------------------------------------------


def step(inputs: Sequence[Input], **options) -> Commands:
    options = {"architectures": [], "manual": [], "removed": []} | options
    layer = LockedLayer(name="system", kind="apt", recipe=1, request="", inputs=tuple(inputs), options=options)
    files = {item.name: Path("/store") / item.sha256 for item in inputs}
    made = Apt().step(StepRequest(layer=layer, files=files, platform="linux/amd64", epoch=1, project=Path("/")))
    assert isinstance(made, Commands)
    return made


def test_apt_layers_follow_one_another():
    layers = [Layer(name=name, kind=kind) for name, kind in (("a", "apt"), ("b", "pip"), ("c", "apt"))]
    assert Apt().needs(Layer(name="d", kind="apt"), layers) == ("c",)


def test_exactly_the_locked_files_are_installed():
    made = step([deb("jq"), deb("libjq1"), deb("data", "all")], manual=["jq"])
    assert made.commands == (
        (
            "apt-get",
            "--no-remove",
            "install",
            f"{INPUTS}/jq_1.0_amd64.deb",
            f"{INPUTS}/libjq1_1.0_amd64.deb",
            f"{INPUTS}/data_1.0_all.deb",
        ),
        ("apt-mark", "auto", "libjq1:amd64", "data"),
        ("apt-mark", "manual", "jq"),
    )
    assert [bind.target for bind in made.binds[1:]] == [
        f"{INPUTS}/jq_1.0_amd64.deb",
        f"{INPUTS}/libjq1_1.0_amd64.deb",
        f"{INPUTS}/data_1.0_all.deb",
    ]
    configuration = made.binds[0]
    assert made.environment["APT_CONFIG"] == configuration.target
    assert configuration.source.is_file()


def test_what_is_locked_as_removed_is_removed():
    made = step([deb("postfix")], manual=["postfix"], removed=["exim4-base"])
    assert made.commands[0] == ("apt-get", "install", f"{INPUTS}/postfix_1.0_amd64.deb", "exim4-base-")


def test_other_architectures_are_added_first():
    made = step([deb("zlib1g", "i386")], manual=["zlib1g:i386"], architectures=["i386"])
    assert made.commands[0] == ("dpkg", "--add-architecture", "i386")
    assert ("apt-mark", "manual", "zlib1g:i386") in made.commands
    assert not any(command[:2] == ("apt-mark", "auto") for command in made.commands)


def test_packages_that_are_there_already_are_only_marked():
    assert step([], manual=["tar"]).commands == (("apt-mark", "manual", "tar"),)


def test_a_base_without_apt(store, tmp_path):
    world = SmallWorld(Store(store), tmp_path, files={"/var/lib/dpkg/status": b"Package: a\n"})
    asked = manifest('rootfs = "root"', {"name": "system", "kind": "apt", "packages": ["jq"]})
    with pytest.raises(ResolveError, match="the base has no apt"):
        Apt().resolve(
            ResolveRequest(
                manifest=asked,
                layer=asked.layers[0],
                key="layers[0]",
                platform="linux/amd64",
                below=(LockedLayer(name="base", kind="rootfs", recipe=1, request=""),),
                previous=None,
                upgrade=False,
                world=world,  # type: ignore[arg-type]
            )
        )


def test_sources_are_understood_and_not_available_yet():
    asked = manifest(
        'bootstrap = "debian:bookworm"',
        {"name": "system", "kind": "apt", "packages": ["jq"]},
    )
    assert asked.layers[0].options == AptOptions(packages=("jq",))
    text = '[project]\nname = "x"\n[base]\nbootstrap = "debian:bookworm"\n[[layers]]\nname = "a"\nkind = "apt"\npackages = ["jq"]\n'
    text += 'sources = [{ uris = ["https://x.example"], suites = ["stable"], key = "k.asc" }]\n'
    assert [problem.key for problem in parse(text, kinds=KINDS).unavailable] == ["layers[0].sources"]


# -- in a real base ----------------------------------------------------------------------------------------------------

pytest_real = [pytest.mark.network, pytest.mark.userns]


@dataclass
class RealWorld(SmallWorld):
    """A world with a built base: its files and its programs."""

    tree: Path = Path()
    asked: list[tuple[str, ...]] = field(default_factory=list)

    def read(self, path):
        place = self.tree / path.lstrip("/")
        return place.read_bytes() if place.is_file() else None

    def tool(self, argv, *, binds=(), stdin=b""):
        self.asked.append(tuple(argv))
        scratch = self.store.root / "sandbox"
        scratch.mkdir(exist_ok=True)
        asked = ToolRequest(
            parents=(self.tree,), argv=tuple(argv), environment=BUILD_ENVIRONMENT, binds=tuple(binds), stdin=stdin
        )
        return Sandbox(scratch).tool(asked)


@dataclass
class Base:
    """A built base, and the key that signs a test's own archive besides the distribution's."""

    project: Project
    layer: LockedLayer
    key: Key

    def world(self, archives=()) -> RealWorld:
        store = Store(self.project.store)
        return RealWorld(store, self.project.path, dict(archives), tree=store.root / "layers" / self.layer.id / "tree")

    def request(self, world, *packages: str, previous=None, upgrade=False, below=(), **options) -> ResolveRequest:
        asked = manifest(BASE, {"name": "system", "kind": "apt", "packages": list(packages), **options})
        return ResolveRequest(
            manifest=asked,
            layer=asked.layers[0],
            key="layers[0]",
            platform="linux/amd64",
            below=(self.layer, *below),
            previous=previous,
            upgrade=upgrade,
            world=world,
        )


BASE = 'bootstrap = "debian:bookworm"\nkey = "keys.asc"'


@pytest.fixture(scope="session")
def base(session_folder) -> Base:
    key = Key()
    folder = session_folder / "apt-project"
    folder.mkdir()
    known = trusted_keys()
    armored = known.armored(known.certs)
    known.add(key.armored, "test")
    armored = known.armored(known.certs)
    (folder / "keys.asc").write_text(armored)
    (folder / "research.toml").write_text(f'[project]\nname = "x"\n[base]\n{BASE}\n')
    project = Project(path=folder, store=session_folder / "apt-store")
    project("lock")
    project("realize")
    lock = read((folder / "research.lock").read_text())
    return Base(project, lock.targets["default"].base, key)


def locked(found: Resolution, name: str = "system") -> LockedLayer:
    return LockedLayer(
        name=name, kind="apt", recipe=1, request="", inputs=found.inputs, options=found.options, facts=found.facts
    )


def versions(found: Resolution) -> dict[str, str]:
    return {item.facts["package"]: item.facts["version"] for item in found.inputs}


@pytest.mark.network
@pytest.mark.userns
class TestRealArchive:
    """Against the distribution's own archive."""

    def test_a_layer_is_locked_built_and_used(self, base, session_folder):
        folder = session_folder / "apt-two-layers"
        folder.mkdir()
        (folder / "keys.asc").write_bytes((base.project.path / "keys.asc").read_bytes())
        layers = [
            {"name": "one", "kind": "apt", "packages": ["jq", "exim4-daemon-light"]},
            {"name": "two", "kind": "apt", "packages": ["postfix", "libjq1"]},
        ]
        text = f'[project]\nname = "x"\n[base]\n{BASE}\n'
        for layer in layers:
            text += "[[layers]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in layer.items())
        (folder / "research.toml").write_text(text)
        project = Project(path=folder, store=base.project.store)
        project("lock")
        lock = (folder / "research.lock").read_text()
        project("lock")
        assert (folder / "research.lock").read_text() == lock
        _, one, two, *_ = read(lock).targets["default"].layers
        assert two.options["removed"] == ["exim4-base", "exim4-config", "exim4-daemon-light"]
        assert one.options["manual"] == ["exim4-daemon-light", "jq"]
        project("realize")
        script = (
            "dpkg --audit; dpkg-query -W -f '${db:Status-Abbrev} ${Package} ${Version}\\n'; echo; apt-mark showmanual"
        )
        packages, _, manual = project("run", "--", "sh", "-c", script).partition("\n\n")
        status = {name: (state, version) for state, name, version in map(str.split, packages.splitlines())}
        for item in two.inputs:
            assert status[item.facts["package"]] == ("ii", item.facts["version"])
        assert status["exim4-base"][0] == "rc"
        assert {"jq", "libjq1", "postfix"} <= set(manual.split())
        automatic = {item.facts["package"] for item in two.inputs} - {"postfix"}
        assert not automatic & set(manual.split())

    def test_versions_may_end_in_a_star(self, base):
        world = base.world()
        newest = versions(Apt().resolve(base.request(world, "jq")))["jq"]
        assert versions(Apt().resolve(base.request(world, f"jq={newest[:3]}*")))["jq"] == newest

    def test_recommends_only_where_asked(self, base):
        world = base.world()
        without = versions(Apt().resolve(base.request(world, "openssh-client")))
        asked = base.request(world, "openssh-client", recommends=True)
        assert set(without) < set(versions(Apt().resolve(asked)))

    def test_unknown_names_are_all_told_with_near_ones(self, base):
        with pytest.raises(ResolveError) as caught:
            Apt().resolve(base.request(base.world(), "pyhton3", "jq", "python3.1[0-9]"[:8] + "x12"))
        text = str(caught.value)
        assert "layers[0].packages[0]: no package is called 'pyhton3'" in text
        assert "'python3'" in text
        assert "layers[0].packages[2]: no package is called" in text

    def test_packages_that_exclude_each_other(self, base):
        with pytest.raises(ResolveError, match=r"unmet dependencies(.|\n)*Conflicts: mail-transport-agent"):
            Apt().resolve(base.request(base.world(), "exim4-daemon-light", "postfix"))

    def test_a_virtual_package_with_several_providers(self, base):
        with pytest.raises(ResolveError, match=r"virtual package provided by:(.|\n)*postfix"):
            Apt().resolve(base.request(base.world(), "mail-transport-agent"))

    def test_a_version_that_is_not_offered(self, base):
        with pytest.raises(ResolveError, match=r"versions of 'jq' that are offered: 1\.[0-9]"):
            Apt().resolve(base.request(base.world(), "jq=99*"))

    def test_a_warm_solution_reads_no_index_anew(self, base):
        world = base.world()
        Apt().resolve(base.request(world, "jq"))
        rooms = [path.name for path in world.store.memo("apt", "x").parent.iterdir()]
        Apt().resolve(base.request(world, "jq", "tree"))
        assert [path.name for path in world.store.memo("apt", "x").parent.iterdir()] == rooms
        assert len(world.asked) == 2


# -- pins, against an archive that the test changes --------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


class Mirror:
    """A small archive in the place of Debian's; :meth:`offer` is an archive's day."""

    def __init__(self, server: Server, key: Key, folder: Path) -> None:
        self.server, self.key, self.folder = server, key, folder
        self.archives = {name: (server.url(f"/{name}"),) for name in ("debian", "debian-security")}

    def deb(self, name: str, version: str = "1.0", **control: str) -> Path:
        return make_deb(
            self.folder,
            name,
            version=version,
            architecture="all",
            control=control,
            files={f"usr/share/{name}": version.encode()},
        )

    def offer(self, *packages: Path) -> None:
        self.server.files.clear()
        serve(self.server, "/debian", [Suite("bookworm", packages), Suite("bookworm-updates")], self.key)
        serve(self.server, "/debian-security", [Suite("bookworm-security", label="Debian-Security")], self.key)


@pytest.fixture
def mirror(server, base, tmp_path) -> Mirror:
    return Mirror(server, base.key, tmp_path)


@pytest.mark.network
@pytest.mark.userns
class TestPins:
    def test_pins_stay_even_when_the_archive_forgets_them(self, base, mirror):
        old, tool = mirror.deb("rb-lib", "1.0"), mirror.deb("rb-tool", Depends="rb-lib")
        mirror.offer(old, tool)
        world = base.world(mirror.archives)
        first = Apt().resolve(base.request(world, "rb-tool"))
        assert versions(first) == {"rb-lib": "1.0", "rb-tool": "1.0"}
        mirror.offer(mirror.deb("rb-lib", "1.1"), tool, mirror.deb("rb-more", Depends="rb-lib"))
        again = Apt().resolve(base.request(world, "rb-tool", "rb-more", previous=locked(first)))
        assert versions(again) == {"rb-lib": "1.0", "rb-more": "1.0", "rb-tool": "1.0"}
        assert all(item in again.inputs for item in first.inputs)

    def test_pins_that_are_still_offered_win_over_newer_ones(self, base, mirror):
        old, tool = mirror.deb("rb-lib", "1.0"), mirror.deb("rb-tool", Depends="rb-lib")
        mirror.offer(old, tool)
        world = base.world(mirror.archives)
        first = Apt().resolve(base.request(world, "rb-tool"))
        mirror.offer(old, mirror.deb("rb-lib", "1.1"), tool)
        assert Apt().resolve(base.request(world, "rb-tool", previous=locked(first))).inputs == first.inputs

    def test_upgrade_moves_them(self, base, mirror):
        tool = mirror.deb("rb-tool", Depends="rb-lib")
        mirror.offer(mirror.deb("rb-lib", "1.0"), tool)
        world = base.world(mirror.archives)
        first = Apt().resolve(base.request(world, "rb-tool"))
        mirror.offer(mirror.deb("rb-lib", "1.1"), tool)
        found = Apt().resolve(base.request(world, "rb-tool", previous=locked(first), upgrade=True))
        assert versions(found)["rb-lib"] == "1.1"

    def test_pins_that_stand_in_the_way_give_way_and_that_is_said(self, base, mirror):
        mirror.offer(mirror.deb("rb-lib", "1.0"))
        world = base.world(mirror.archives)
        first = Apt().resolve(base.request(world, "rb-lib"))
        mirror.offer(mirror.deb("rb-lib", "1.1"), mirror.deb("rb-tool", Depends="rb-lib (>= 1.1)"))
        found = Apt().resolve(base.request(world, "rb-lib", "rb-tool", previous=locked(first)))
        assert versions(found) == {"rb-lib": "1.1", "rb-tool": "1.0"}
        assert world.said == ["system: what is asked now does not allow these as locked: rb-lib"]

    def test_only_the_pins_that_stand_in_the_way_give_way(self, base, mirror):
        names = ("rb-aside", "rb-core", "rb-data", "rb-lib")
        same = {"Depends": "rb-core (= 1.0), rb-data (= 1.0)"}
        mirror.offer(*(mirror.deb(name, **(same if name == "rb-lib" else {})) for name in names))
        world = base.world(mirror.archives)
        first = Apt().resolve(base.request(world, "rb-aside", "rb-lib"))
        same = {"Depends": "rb-core (= 1.1), rb-data (= 1.1)"}
        newer = [mirror.deb(name, "1.1", **(same if name == "rb-lib" else {})) for name in names]
        mirror.offer(*newer, mirror.deb("rb-tool", Depends="rb-lib (>= 1.1)"))
        found = Apt().resolve(base.request(world, "rb-aside", "rb-lib", "rb-tool", previous=locked(first)))
        moved = {"rb-core": "1.1", "rb-data": "1.1", "rb-lib": "1.1", "rb-tool": "1.0"}
        assert versions(found) == {"rb-aside": "1.0", **moved}

    def test_one_package_is_upgraded_with_what_must_follow(self, base, mirror):
        def day(version: str) -> list[Path]:
            tool = mirror.deb("rb-tool", version, Depends=f"rb-lib (= {version}), rb-aside")
            return [tool, mirror.deb("rb-lib", version), mirror.deb("rb-aside", version)]

        mirror.offer(*day("1.0"))
        world = base.world(mirror.archives)
        first = locked(Apt().resolve(base.request(world, "rb-tool")))
        mirror.offer(*day("1.1"))
        for name in ("rb-tool", "rb-lib"):
            pins = match([first], {"system": ("apt", {})}, Upgrade(packages=frozenset({("", name)})))
            previous = pins.offered("system", "apt", ())
            found = Apt().resolve(base.request(world, "rb-tool", previous=previous))
            assert versions(found) == {"rb-aside": "1.0", "rb-lib": "1.1", "rb-tool": "1.1"}

    def test_what_nothing_needs_any_more_is_dropped_and_the_rest_stays(self, base, mirror):
        lib, more = mirror.deb("rb-lib"), mirror.deb("rb-more", Depends="rb-own, rb-lib")
        mirror.offer(lib, mirror.deb("rb-tool", Depends="rb-lib"), more, mirror.deb("rb-own"))
        world = base.world(mirror.archives)
        first = locked(Apt().resolve(base.request(world, "rb-tool", "rb-more")))
        mirror.offer(mirror.deb("rb-lib", "1.1"), mirror.deb("rb-tool", "1.1", Depends="rb-lib"))
        found = Apt().resolve(base.request(world, "rb-tool", previous=first))
        assert [item for item in first.inputs if item in found.inputs] == list(found.inputs)
        assert versions(found) == {"rb-lib": "1.0", "rb-tool": "1.0"}

    def test_lower_layers_count_as_installed(self, base, mirror):
        tool = mirror.deb("rb-tool", Depends="rb-lib")
        mirror.offer(mirror.deb("rb-lib", "1.0"), tool)
        world = base.world(mirror.archives)
        below = locked(Apt().resolve(base.request(world, "rb-lib")), "below")
        assert versions(Apt().resolve(base.request(world, "rb-tool", below=(below,)))) == {"rb-tool": "1.0"}

    def test_a_virtual_name_is_marked_as_what_was_chosen(self, base, mirror):
        mirror.offer(mirror.deb("rb-real", Provides="rb-virtual"))
        found = Apt().resolve(base.request(base.world(mirror.archives), "rb-virtual"))
        assert found.options["manual"] == ["rb-real"]

    def test_the_lock_names_no_host(self, base, mirror):
        mirror.offer(mirror.deb("rb-lib"))
        found = Apt().resolve(base.request(base.world(mirror.archives), "rb-lib"))
        assert not re.search(r"127\.0\.0\.1|\.invalid|http", repr((found.inputs, found.options, found.facts)))
        assert found.inputs[0].facts["archive"] == "debian"
