"""The bootstrap base: what is locked, how it is built, and that the result is the one that dpkg alone makes."""

from __future__ import annotations

import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from reprobox.backend import BuildRequest, ToolRequest
from reprobox.building import BUILD_ENVIRONMENT
from reprobox.debian import deb
from reprobox.debian.sources import Source
from reprobox.errors import IntegrityError, PlatformError, ResolveError
from reprobox.layers import bootstrap as module
from reprobox.layers.bootstrap import Bootstrap
from reprobox.layers.kind import INPUTS, Commands, Resolution, ResolveRequest, StepRequest
from reprobox.lock import Lock, LockedLayer, LockedTarget, with_ids
from reprobox.lock_text import read, write
from reprobox.manifest import Layer
from reprobox.manifest_reader import parse
from reprobox.sandbox.backend import Sandbox
from reprobox.store import Store
from reprobox.testing import small_base
from tests.debs import NOW, Key, SmallWorld, Suite, make_deb, serve


def request(world: SmallWorld, suite: str = "bookworm", *, key: str = "", previous=None, platform="linux/amd64"):
    extra = f"key = {json.dumps(key)}\n" if key else ""
    text = f'[project]\nname = "x"\n[base]\nbootstrap = "debian:{suite}"\n{extra}'
    return ResolveRequest(
        manifest=parse(text, kinds={}),
        layer=Layer(name="base", kind="bootstrap"),
        key="base",
        platform=platform,
        below=(),
        previous=previous,
        upgrade=False,
        world=world,
    )


def locked(found: Resolution) -> LockedLayer:
    layer = LockedLayer(
        name="base",
        kind="bootstrap",
        recipe=Bootstrap.recipe,
        request="r",
        inputs=found.inputs,
        options=found.options,
        facts=found.facts,
    )
    return with_ids([layer], max(found.dates))[0]


def step(world: SmallWorld, layer: LockedLayer, epoch: int, **options) -> Commands:
    files = {item.name: world.store.blob(item.sha256) for item in layer.inputs}
    made = Bootstrap().step(
        StepRequest(layer=layer, files=files, platform="linux/amd64", epoch=epoch, project=world.project, **options)
    )
    assert isinstance(made, Commands)
    return made


# -- a distribution of four packages -----------------------------------------------------------------------------------


@pytest.fixture
def host(monkeypatch) -> list[Source]:
    """The sources of this machine, as the test wants them."""
    sources: list[Source] = []
    monkeypatch.setattr(module, "host_sources", lambda: tuple(sources))
    return sources


@pytest.fixture
def tiny(server, host, store, tmp_path) -> SmallWorld:
    """A world with a mirror that has only what makes a base, and the project folder with its key."""
    key = Key()
    sums = {"md5sums": "0  usr/x\n"}
    debs = [
        make_deb(tmp_path, "base-files", control={"Essential": "yes"}, files={"usr/x": b""}, scripts=sums),
        make_deb(
            tmp_path,
            "dpkg",
            control={"Essential": "yes", "Pre-Depends": "libc6"},
            files={"usr/bin/dpkg": b"1"},
            scripts=sums,
        ),
        make_deb(tmp_path, "libc6", scripts={"preinst": "#!/bin/sh\n"}),
        make_deb(tmp_path, "base-passwd", control={"Priority": "required"}, scripts={"preinst": "#!/bin/sh\n"}),
        make_deb(tmp_path, "apt", files={"usr/bin/apt": b"1"}, scripts=sums),
        make_deb(tmp_path, "unneeded"),
    ]
    newer = [make_deb(tmp_path, "apt", version="1.1", files={"usr/bin/apt": b"2"}, scripts=sums)]
    serve(server, "/debian", [Suite("bookworm", debs, date=NOW - 500), Suite("bookworm-updates", date=NOW - 300)], key)
    security = Suite("bookworm-security", newer, label="Debian-Security", date=NOW - 400)
    serve(server, "/debian-security", [security], key)
    (tmp_path / "keys.asc").write_bytes(key.armored)
    archives = {name: [server.url(f"/{name}")] for name in ("debian", "debian-security")}
    return SmallWorld(Store(store), tmp_path, archives)


@pytest.mark.tool("dpkg-deb")
def test_a_base_is_locked_from_all_three_suites(tiny):
    found = Bootstrap().resolve(request(tiny, key="keys.asc"))
    assert [(item.name, item.facts["suite"]) for item in found.inputs] == [
        ("apt_1.1_amd64.deb", "bookworm-security"),
        ("base-files_1.0_amd64.deb", "bookworm"),
        ("base-passwd_1.0_amd64.deb", "bookworm"),
        ("dpkg_1.0_amd64.deb", "bookworm"),
        ("libc6_1.0_amd64.deb", "bookworm"),
    ]
    assert found.options == {
        "architecture": "amd64",
        "links": ["bin", "lib", "lib32", "lib64", "libx32", "sbin"],
        "seed": ["libc6_1.0_amd64.deb"],
        "unpack": ["base-passwd_1.0_amd64.deb", "libc6_1.0_amd64.deb"],
    }
    assert max(found.dates) == NOW - 300
    assert all(tiny.store.has_blob(item.sha256) for item in found.inputs)


@pytest.mark.tool("dpkg-deb")
def test_a_suite_that_the_architecture_is_not_in(tiny, server):
    with pytest.raises(PlatformError) as caught:
        Bootstrap().resolve(request(tiny, key="keys.asc", platform="linux/arm64"))
    assert str(caught.value) == (
        f"{server.url('/debian')}/dists/bookworm: suite 'bookworm' has no packages for arm64; it has amd64\n"
        "  hint: choose a suite that has this platform, or set `platform` in [targets] to one that is there"
    )


@pytest.mark.tool("dpkg-deb")
def test_the_lock_names_no_host_and_comes_back_as_it_was(tiny):
    layer = locked(Bootstrap().resolve(request(tiny, key="keys.asc")))
    target = LockedTarget(name="default", platform="linux/amd64", layers=(layer,))
    lock = Lock(epoch=NOW - 300, manifest="0", keys={}, targets={"default": target})
    text = write(lock)
    assert "127.0.0.1" not in text
    assert str(tiny.project) not in text
    assert write(read(text)) == text


@pytest.mark.tool("dpkg-deb")
def test_the_keys_in_a_lock_are_enough_to_lock_again(tiny, tmp_path):
    first = Bootstrap().resolve(request(tiny, key="keys.asc"))
    world = SmallWorld(tiny.store, tmp_path, tiny.archives)
    with pytest.raises(IntegrityError, match="keys that are not known here"):
        Bootstrap().resolve(request(world))
    assert Bootstrap().resolve(request(world, previous=locked(first))) == first


@pytest.mark.tool("dpkg-deb")
def test_the_step_unpacks_here_and_lets_dpkg_do_the_rest(tiny, tmp_path):
    layer = locked(Bootstrap().resolve(request(tiny, key="keys.asc")))
    made = step(tiny, layer, NOW)
    unpack, configure = made.commands
    assert unpack[0] == "dpkg"
    assert unpack[-3:] == ("--unpack", f"{INPUTS}/base-passwd_1.0_amd64.deb", f"{INPUTS}/libc6_1.0_amd64.deb")
    assert configure[-2:] == ("--configure", "--pending")
    assert [bind.target for bind in made.binds] == list(unpack[-2:])
    assert made.seed is not None
    root = tmp_path / "root"
    root.mkdir()
    made.seed(root)
    assert (root / "usr/bin/apt").read_bytes() == b"2"
    assert (root / "lib64").is_symlink()
    status = (root / "var/lib/dpkg/status").read_text()
    assert "Package: apt\n" in status
    assert "Package: libc6\n" not in status
    assert not (root / "etc/apt/sources.list").exists()


@pytest.mark.tool("dpkg-deb")
def test_dpkg_is_handed_packages_that_are_decompressed(tiny, tmp_path):
    layer = locked(Bootstrap().resolve(request(tiny, key="keys.asc")))
    scratch, root = tmp_path / "scratch", tmp_path / "root"
    scratch.mkdir()
    root.mkdir()
    as_locked, small = step(tiny, layer, NOW), step(tiny, layer, NOW, scratch=scratch)
    assert small.binds == as_locked.binds  # it would not be worth it
    layer = replace(layer, inputs=tuple(replace(item, size=1 << 20) for item in layer.inputs))
    handed = step(tiny, layer, NOW, scratch=scratch)
    assert handed.commands == as_locked.commands
    assert handed.seed is not None
    handed.seed(root)
    for packed, copy in zip(as_locked.binds, handed.binds, strict=True):
        assert copy == replace(packed, source=scratch / Path(packed.target).name)
        whole = packed.source.read_bytes()
        assert copy.source.read_bytes() == deb.with_tree(whole, deb.data_tar(whole))
        assert b"data.tar  " in copy.source.read_bytes()


@pytest.mark.tool("dpkg-deb")
@pytest.mark.userns
def test_scripts_of_the_quick_way_hear_that_nothing_was_booted(tiny, tmp_path):
    """The real libc6 waits a second for an init that is not there, otherwise."""
    layer = locked(Bootstrap().resolve(request(tiny, key="keys.asc")))
    quick, plain = step(tiny, layer, NOW), step(tiny, layer, NOW, plain=True)
    shell = quick.commands[1][: -len(plain.commands[1])]
    assert (quick.quick, plain.quick) == (True, False)
    assert quick.commands == (plain.commands[0], (*shell, *plain.commands[1]))
    told = Sandbox(tmp_path).tool(
        ToolRequest(
            parents=(small_base().tree,),
            argv=(*shell, "/bin/sh", "-c", "command -v ischroot && ischroot && command -v sh"),
            environment=BUILD_ENVIRONMENT,
        )
    )
    assert told.status == 0, told.stderr
    assert b"ischroot" in told.stdout


def test_no_known_source(host, store, tmp_path):
    with pytest.raises(ResolveError, match="no source of packages is known"):
        Bootstrap().resolve(request(SmallWorld(Store(store), tmp_path)))


def test_a_platform_that_debian_does_not_have(host, store, tmp_path):
    with pytest.raises(ResolveError, match="linux/sparc"):
        Bootstrap().resolve(request(SmallWorld(Store(store), tmp_path), platform="linux/sparc"))


def test_a_base_stands_on_nothing():
    assert Bootstrap().needs(Layer(name="base", kind="bootstrap"), ()) == ()


# -- the real one ------------------------------------------------------------------------------------------------------


def built(world: SmallWorld, layer: LockedLayer, epoch: int, folder: Path, *, plain: bool = False):
    """The layer as the sandbox builds it: diff id and index."""
    made = step(world, layer, epoch, plain=plain, scratch=None if plain else folder / "handed")
    assert made.seed is not None
    for name in ("seed", "output", "scratch", "handed"):
        (folder / name).mkdir(parents=True, mode=0o755)
    (folder / "parents").write_bytes(b"")
    made.seed(folder / "seed")
    result = Sandbox(folder / "scratch").build(
        BuildRequest(
            parents=(),
            parent_index=folder / "parents",
            output=folder / "output",
            commands=made.commands,
            environment={**BUILD_ENVIRONMENT, "SOURCE_DATE_EPOCH": str(epoch), **made.environment},
            binds=made.binds,
            epoch=epoch,
            log=folder / "log",
            seed=folder / "seed",
        )
    )
    return result.diff_id, (folder / "output/index").read_text()


@pytest.fixture(scope="module")
def bookworm(session_folder, tmp_path_factory):
    """The real base, locked from this machine's own sources."""
    world = SmallWorld(Store(session_folder / "bootstrap"), tmp_path_factory.mktemp("project"))
    found = Bootstrap().resolve(request(world))
    return world, locked(found), max(found.dates)


@pytest.mark.network
def test_the_set_is_that_of_mmdebstrap(bookworm, base_tar):
    _, layer, _ = bookworm
    with tarfile.open(base_tar) as tar:
        names = [name for name in tar.getnames() if name.endswith("var/lib/dpkg/status")]
        status = tar.extractfile(names[0]).read().decode()  # type: ignore[union-attr]
    theirs = {line.removeprefix("Package: ") for line in status.splitlines() if line.startswith("Package: ")}
    ours = {item.facts["package"] for item in layer.inputs}
    assert ours - theirs == {"usr-is-merged"}
    # What only the conversion to merged /usr needs: a base that is born merged goes without.
    assert all("perl" in name or "gdbm" in name or name == "usrmerge" for name in theirs - ours)


@pytest.mark.network
@pytest.mark.userns
@pytest.mark.slow
def test_the_base_is_the_one_that_dpkg_alone_makes(bookworm, session_folder):
    world, layer, epoch = bookworm
    ours = built(world, layer, epoch, session_folder / "planted")
    names = sorted((item.name for item in layer.inputs), key=lambda name: not name.startswith("base-passwd_"))
    by_dpkg = replace(layer, options={**layer.options, "unpack": names, "seed": names})
    assert built(world, by_dpkg, epoch, session_folder / "by-dpkg", plain=True) == ours
    assert "etc/apt/sources.list\n" not in ours[1]
