"""The apt layer: what real apt decides in a real base, how that is locked and built, and what is said when it cannot be."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest

from reprobox.backend import ToolRequest
from reprobox.building import BUILD_ENVIRONMENT
from reprobox.debian.release import Keyring, trusted_keys
from reprobox.debian.sources import Source
from reprobox.errors import FetchError, IntegrityError, ManifestError, ResolveError
from reprobox.layers.apt import Apt, declared
from reprobox.layers.bootstrap import Bootstrap
from reprobox.layers.kind import INPUTS, TOOLS, Commands, Resolution, ResolveRequest, StepRequest
from reprobox.lock import Input, LockedLayer
from reprobox.lock_text import read
from reprobox.manifest import Layer
from reprobox.manifest_reader import parse
from reprobox.pins import Upgrade, match
from reprobox.sandbox.backend import Sandbox
from reprobox.store import Store
from tests.debs import NOW, Key, SmallWorld, Suite, make_deb, serve
from tests.engines.project import Project
from tests.servers import Server

KINDS = {"apt": Apt(), "bootstrap": Bootstrap()}


def deb(name: str, architecture: str = "amd64") -> Input:
    facts = {"package": name, "version": "1.0", "architecture": architecture}
    return Input(type="deb", name=f"{name}_1.0_{architecture}.deb", sha256=f"{len(name):064x}", size=1, facts=facts)


def manifest(base: str, *layers: dict[str, object], end: str = ""):
    text = f'[project]\nname = "x"\n[base]\n{base}\n'
    for layer in layers:
        text += "[[layers]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in layer.items())
    return parse(text + end, kinds=KINDS)


# -- without an engine -------------------------------------------------------------------------------------------------


def step(inputs: Sequence[Input], *, plain: bool = False, **options) -> Commands:
    options = {"architectures": [], "manual": [], "removed": []} | options
    layer = LockedLayer(name="system", kind="apt", recipe=1, request="", inputs=tuple(inputs), options=options)
    files = {item.name: Path("/store") / item.sha256 for item in inputs}
    asked = StepRequest(layer=layer, files=files, platform="linux/amd64", epoch=1, project=Path("/"), plain=plain)
    made = Apt().step(asked)
    assert isinstance(made, Commands)
    return made


def test_apt_layers_follow_one_another():
    layers = [Layer(name=name, kind=kind) for name, kind in (("a", "apt"), ("b", "pip"), ("c", "apt"))]
    assert Apt().needs(Layer(name="d", kind="apt"), layers) == ("c",)


def test_exactly_the_locked_files_are_installed():
    made = step([deb("jq"), deb("libjq1"), deb("data", "all")], plain=True, manual=["jq"])
    assert not made.quick
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


def test_bytecode_is_made_in_the_background_by_the_same_commands():
    inputs = [deb("jq"), deb("libjq1")]
    quick, plain = step(inputs, manual=["jq"]), step(inputs, plain=True, manual=["jq"])
    assert quick.quick
    assert quick.commands[0] == ("/bin/sh", f"{TOOLS}/install.sh", *plain.commands[0])
    assert quick.commands[1:] == plain.commands[1:]
    more = {bind.target: bind.source for bind in quick.binds if bind not in plain.binds}
    names = ("install.sh", "compile_later.py", "update_ca_certificates.pl")
    assert set(more) == {f"{TOOLS}/{name}" for name in names}
    assert all(source.is_file() for source in more.values())


def test_what_is_locked_as_removed_is_removed():
    made = step([deb("postfix")], manual=["postfix"], removed=["exim4-base"])
    assert not made.quick
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


HEAD = '[project]\nname = "x"\n[base]\nbootstrap = "debian:bookworm"\n[[layers]]\nname = "a"\nkind = "apt"\npackages = ["jq"]\n'


def test_sources_are_understood():
    text = f'{HEAD}sources = [{{ uris = ["https://x.example/a/", "file:/srv/a"], suites = ["stable", "./"], key = "k.asc" }}]\n'
    asked = parse(text, kinds=KINDS)
    assert asked.unavailable == ()
    stable, flat = declared(asked)
    assert stable == Source(uri="https://x.example/a", suite="stable", others=("file:/srv/a",), exact=False)
    assert flat.dists == "https://x.example/a"
    assert declared(None) == ()


def test_sources_that_are_wrong_are_refused_with_what_to_do():
    text = f'{HEAD}sources = [{{ uris = ["ftp://x.example", "/srv"], suites = [] }}]\n'
    with pytest.raises(ManifestError) as caught:
        parse(text, kinds=KINDS)
    assert str(caught.value).splitlines() == [
        'research.toml:9: layers[0].sources[0].uris[0]: expected the address of an archive, found "ftp://x.example"',
        "  hint: begin it with https://, http:// or file:/",
        'research.toml:9: layers[0].sources[0].uris[1]: expected the address of an archive, found "/srv"',
        "  hint: begin it with https://, http:// or file:/",
        "research.toml:9: layers[0].sources[0].suites: the list is empty",
        '  hint: add suites = ["…"], as the archive\'s instructions have it',
        "research.toml:9: layers[0].sources[0].key: required, and missing",
        '  hint: add key = "keys/….asc", the archive\'s public key in the project folder',
    ]


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

    def find(self, folder):
        below = (self.tree / folder.lstrip("/")).rglob("*")
        return tuple(sorted(f"/{path.relative_to(self.tree)}" for path in below if not path.is_dir()))

    def tool(self, argv, *, binds=(), stdin=b"", root=None):
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

    def request(
        self, world, *packages: str, previous=None, upgrade=False, below=(), above=(), sources="", **options
    ) -> ResolveRequest:
        """``above`` are the manifest's tables of other layers that come before it; ``sources`` is TOML."""
        asked = manifest(
            BASE, *above, {"name": "system", "kind": "apt", "packages": list(packages), **options}, end=sources
        )
        return ResolveRequest(
            manifest=asked,
            layer=asked.layers[-1],
            key=f"layers[{len(above)}]",
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


def caches(store: Store) -> dict[Path, tuple[int, int]]:
    """What apt has worked out over indices: inode and time of each file, which stay while apt reads it as it is."""
    found = {path: path.stat() for path in (store.root / "memo" / "apt").glob("*/cache/srcpkgcache.bin")}
    return {path: (status.st_ino, status.st_mtime_ns) for path, status in found.items()}


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
        rooms = caches(world.store)
        os.utime(next(iter(rooms)).parents[1])  # a room that was used is kept for longer
        Apt().resolve(base.request(base.world(), "jq", "tree"))
        assert caches(world.store) == rooms


# -- pins, against an archive that the test changes --------------------------------------------------------------------


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

    def offer(self, *packages: Path, date: int = NOW - 3600) -> None:
        self.server.files.clear()
        suites = [Suite("bookworm", packages, date=date), Suite("bookworm-updates", date=date)]
        serve(self.server, "/debian", suites, self.key)
        serve(self.server, "/debian-security", [Suite("bookworm-security", label="Debian-Security")], self.key)


@pytest.fixture
def mirror(server, base, tmp_path) -> Mirror:
    return Mirror(server, base.key, tmp_path)


@pytest.mark.network
@pytest.mark.userns
class TestRooms:
    def test_another_day_with_the_same_packages_reads_no_index_anew(self, base, mirror):
        tool = mirror.deb("rb-day")
        mirror.offer(tool)
        world = base.world(mirror.archives)
        first = Apt().resolve(base.request(world, "rb-day"))
        rooms = caches(world.store)
        mirror.offer(tool, date=NOW - 60)
        again = Apt().resolve(base.request(world, "rb-day"))
        assert again.facts["indices"] != first.facts["indices"]
        assert caches(world.store) == rooms
        mirror.offer(tool, mirror.deb("rb-new"), date=NOW - 30)
        Apt().resolve(base.request(world, "rb-day"))
        assert len(caches(world.store)) == len(rooms) + 1

    def test_a_damaged_cache_is_made_anew(self, base, mirror):
        mirror.offer(mirror.deb("rb-damaged"))
        world = base.world(mirror.archives)
        before = caches(world.store)
        first = Apt().resolve(base.request(world, "rb-damaged"))
        (cache,) = caches(world.store).keys() - before.keys()
        for damaged in (b"", cache.read_bytes()[:1000], bytes(cache.stat().st_size)):
            cache.write_bytes(damaged)
            assert Apt().resolve(base.request(world, "rb-damaged")).inputs == first.inputs

    def test_two_at_once_make_one_room(self, base, mirror):
        mirror.offer(mirror.deb("rb-twice"))
        worlds = [base.world(mirror.archives) for _ in range(2)]
        before = caches(worlds[0].store)
        with ThreadPoolExecutor(2) as pool:
            one, two = pool.map(lambda world: Apt().resolve(base.request(world, "rb-twice")), worlds)
        assert one == two
        assert len(caches(worlds[0].store)) == len(before) + 1


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


# -- sources besides the base's own ------------------------------------------------------------------------------------


class Vendor:
    """A vendor's archive at ``/vendor`` of the same server, signed by a key of its own that lies in the project."""

    def __init__(self, mirror: Mirror, base: Base) -> None:
        self.server, self.base, self.deb, self.key = mirror.server, base, mirror.deb, Key("A Vendor <v@example.org>")
        (base.project.path / "vendor.asc").write_bytes(self.key.armored)
        self.uri = mirror.server.url("/vendor")

    def offer(self, *packages: Path, **more) -> None:
        suite = Suite("stable", packages, label="A Vendor", origin="A Vendor", **more)
        serve(self.server, "/vendor", [suite], self.key)

    def put(self, files: dict[str, bytes]) -> None:
        self.server.files.update({f"/vendor/{path}": data for path, data in files.items()})

    def source(self, *suites: str, key: str = "vendor.asc", more: str = "") -> str:
        suites = suites or ("stable",)
        return f'sources = [{{ uris = ["{self.uri}"], suites = {json.dumps(suites)}, key = "{key}"{more} }}]\n'


@pytest.fixture
def vendor(mirror, base) -> Vendor:
    return Vendor(mirror, base)


@pytest.mark.network
@pytest.mark.userns
class TestSources:
    def resolve(self, base, mirror, vendor, *packages, source="", **more) -> Resolution:
        return Apt().resolve(
            base.request(base.world(mirror.archives), *packages, sources=source or vendor.source(), **more)
        )

    def test_a_package_that_only_a_vendor_has(self, base, mirror, vendor):
        mirror.offer(mirror.deb("rb-lib"))
        vendor.offer(vendor.deb("rb-tool", "2.0", Depends="rb-lib"))
        found = self.resolve(base, mirror, vendor, "rb-tool=2.*")
        assert [(item.facts["package"], item.facts["archive"]) for item in found.inputs] == [
            ("rb-lib", "debian"),
            ("rb-tool", "a-vendor"),
        ]
        told = next(index for index in found.facts["indices"] if index["archive"] == "a-vendor")
        assert told["signer"] == vendor.key.fingerprint
        kept = Keyring()
        kept.add(found.facts["keys"].encode(), "the lock")
        assert vendor.key.fingerprint.lower() in kept.certs
        assert not re.search(r"127\.0\.0\.1|\.invalid|http", repr((found.inputs, found.options, found.facts)))

    def test_a_release_file_that_is_signed_apart(self, base, mirror, vendor):
        mirror.offer()
        vendor.put(Suite("stable", [vendor.deb("rb-tool")], label="A Vendor").files(vendor.key, in_release=False))
        assert versions(self.resolve(base, mirror, vendor, "rb-tool")) == {"rb-tool": "1.0"}

    @pytest.mark.parametrize(("suite", "folder"), [("./", ""), ("/", ""), ("cran40/", "cran40")])
    def test_a_flat_repository(self, base, mirror, vendor, suite, folder):
        mirror.offer(mirror.deb("rb-lib"))
        tool = vendor.deb("rb-tool", Depends="rb-lib")
        vendor.put(Suite("", [tool], label="Flat").flat(vendor.key, folder))
        found = self.resolve(base, mirror, vendor, "rb-tool", source=vendor.source(suite))
        _, item = found.inputs
        path = "/".join(filter(None, (folder, tool.name)))
        assert (item.facts["archive"], item.facts["suite"], item.facts["path"]) == ("flat", suite, path)

    def test_of_two_sources_the_newer_version_wins_unless_it_is_marked_as_not_automatic(self, base, mirror, vendor):
        mirror.offer(mirror.deb("rb-lib", "1.0"))
        newer = vendor.deb("rb-lib", "2.0")
        vendor.offer(newer)
        assert versions(self.resolve(base, mirror, vendor, "rb-lib")) == {"rb-lib": "2.0"}
        vendor.offer(newer, extra={"NotAutomatic": "yes"})
        assert versions(self.resolve(base, mirror, vendor, "rb-lib")) == {"rb-lib": "1.0"}
        assert versions(self.resolve(base, mirror, vendor, "rb-lib=2*")) == {"rb-lib": "2.0"}

    def test_of_equal_versions_the_bases_own_is_taken(self, base, mirror, vendor):
        one = mirror.deb("rb-lib", "1.0")
        mirror.offer(one)
        vendor.offer(one)
        assert self.resolve(base, mirror, vendor, "rb-lib").inputs[0].facts["archive"] == "debian"

    def test_the_next_address_is_used_where_one_does_not_answer(self, base, mirror, vendor):
        mirror.offer()
        vendor.offer(vendor.deb("rb-tool"))
        source = vendor.source().replace('uris = ["', f'uris = ["{mirror.server.url("/gone")}", "')
        assert versions(self.resolve(base, mirror, vendor, "rb-tool", source=source)) == {"rb-tool": "1.0"}

    def test_a_suite_that_calls_itself_otherwise_is_taken_and_that_is_said(self, base, mirror, vendor):
        mirror.offer()
        files = Suite("v3", [vendor.deb("rb-tool")], label="A Vendor").files(vendor.key)
        vendor.put({path.replace("dists/v3", "dists/stable"): data for path, data in files.items()})
        world = base.world(mirror.archives)
        found = Apt().resolve(base.request(world, "rb-tool", sources=vendor.source()))
        assert versions(found) == {"rb-tool": "1.0"}
        assert any("asked for suite 'stable', it calls itself v3" in line for line in world.said)

    def refused(self, base, mirror, vendor, kind, source="") -> tuple[str, str]:
        """Where and what, without addresses, and the hint."""
        with pytest.raises(kind) as caught:
            self.resolve(base, mirror, vendor, "rb-tool", source=source)
        text = f"{caught.value.where}: {caught.value.message}"
        known = {str(base.project.path): "PROJECT", vendor.uri: "VENDOR"}
        for name, short in known.items():
            text = text.replace(name, short)
        return text, caught.value.hint or ""

    def test_a_key_file_that_is_missing(self, base, mirror, vendor):
        mirror.offer()
        text, hint = self.refused(base, mirror, vendor, ResolveError, vendor.source(key="no.asc"))
        assert text == (
            "research.toml:10: layers[0].sources[0].key:"
            " PROJECT/no.asc: the key file cannot be read: No such file or directory"
        )
        assert hint == "save the archive's public key there; its own pages say where to get it"

    def test_a_key_file_that_is_none(self, base, mirror, vendor):
        mirror.offer()
        text, _ = self.refused(base, mirror, vendor, ResolveError, vendor.source(key="research.toml"))
        assert text.startswith("research.toml:10: layers[0].sources[0].key: PROJECT/research.toml: not a keyring: ")

    def test_the_wrong_key(self, base, mirror, vendor):
        mirror.offer()
        vendor.offer(vendor.deb("rb-tool"))
        (base.project.path / "vendor.asc").write_bytes(Key("Another <a@example.org>").armored)
        text, hint = self.refused(base, mirror, vendor, IntegrityError)
        assert text.startswith(
            "research.toml:10: layers[0].sources[0].key: VENDOR/dists/stable/InRelease:"
            " it is signed by keys that are not known here: "
        )
        assert text.endswith("; looked in PROJECT/vendor.asc")
        assert hint == "put the public key that the archive's own pages offer into vendor.asc"

    def test_keys_of_the_base_do_not_count_for_a_vendor(self, base, mirror, vendor):
        mirror.offer()
        vendor.key = base.key
        vendor.offer(vendor.deb("rb-tool"))
        text, _ = self.refused(base, mirror, vendor, IntegrityError)
        assert "signed by keys that are not known here" in text

    def test_a_vendor_that_does_not_answer(self, base, mirror, vendor):
        mirror.offer()
        text, _ = self.refused(base, mirror, vendor, FetchError)
        assert text.startswith(
            "research.toml:10: layers[0].sources[0]: suite 'stable' of these package sources could not be had"
        )

    def test_a_component_that_is_not_there(self, base, mirror, vendor):
        mirror.offer()
        vendor.offer(vendor.deb("rb-tool"))
        text, hint = self.refused(base, mirror, vendor, ResolveError, vendor.source(more=', components = ["extra"]'))
        assert text == "VENDOR/dists/stable: suite 'stable' has no 'extra' packages for amd64"
        assert hint == "it has architectures amd64 and components main"

    def test_an_old_release_file(self, base, mirror, vendor):
        mirror.offer()
        vendor.offer(vendor.deb("rb-tool"), valid=1_700_000_000)
        text, _ = self.refused(base, mirror, vendor, IntegrityError)
        assert "layers[0].sources[0]: VENDOR/dists/stable/InRelease: it was only good until 2023-11-14" in text


@pytest.mark.network
@pytest.mark.userns
class TestSeveralLayers:
    ONE: ClassVar = {"name": "one", "kind": "apt", "packages": ["rb-lib=1.0"]}

    def below(self, base, mirror) -> LockedLayer:
        return locked(Apt().resolve(base.request(base.world(mirror.archives), "rb-lib=1.0")), "one")

    def test_versions_that_contradict_a_lower_layers(self, base, mirror):
        mirror.offer(mirror.deb("rb-lib", "1.0"), mirror.deb("rb-lib", "2.0"))
        request = base.request(
            base.world(mirror.archives), "rb-lib=2.*", above=[self.ONE], below=[self.below(base, mirror)]
        )
        with pytest.raises(ResolveError) as caught:
            Apt().resolve(request)
        assert str(caught.value) == (
            "research.toml:13: layers[1].packages: they would replace 'rb-lib=1.0',"
            " which layers[0].packages[0] asks for, by 2.0\n"
            "  hint: ask for one version in both layers, or put the packages of 'one' and 'system' into one"
        )

    def test_packages_that_need_another_version_than_a_lower_layer_asks_for(self, base, mirror):
        tool = mirror.deb("rb-tool", Depends="rb-lib (>= 2)")
        mirror.offer(mirror.deb("rb-lib", "1.0"), mirror.deb("rb-lib", "2.0"), tool)
        request = base.request(
            base.world(mirror.archives), "rb-tool", above=[self.ONE], below=[self.below(base, mirror)]
        )
        with pytest.raises(ResolveError, match=r"they would replace 'rb-lib=1.0'.* by 2\.0"):
            Apt().resolve(request)

    def test_a_lower_layers_version_may_be_asked_for_again(self, base, mirror):
        mirror.offer(mirror.deb("rb-lib", "1.0"), mirror.deb("rb-lib", "2.0"))
        request = base.request(
            base.world(mirror.archives), "rb-lib=1*", above=[self.ONE], below=[self.below(base, mirror)]
        )
        assert Apt().resolve(request).inputs == ()

    def test_two_versions_in_one_layer(self, base, mirror):
        mirror.offer(mirror.deb("rb-lib", "1.0"))
        with pytest.raises(ResolveError) as caught:
            Apt().resolve(base.request(base.world(mirror.archives), "rb-lib=1.0", "rb-lib=2.0"))
        assert str(caught.value) == (
            "research.toml:9: layers[0].packages[1]: 'rb-lib' is asked for twice, and not in the same version\n"
            "  hint: keep one of the two"
        )
