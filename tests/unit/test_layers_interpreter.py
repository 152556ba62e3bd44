"""Which Python an environment will have: from locked packages alone, or from a base that is looked into."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from reprobox.backend import ToolResult
from reprobox.errors import ResolveError
from reprobox.layers.interpreter import Python, find_python
from reprobox.lock import Input, LockedLayer
from reprobox.store import Store


@dataclass
class World:
    """A base as a mapping of its files; ``answers`` is what its interpreter would print."""

    store: Store
    files: Mapping[str, bytes] = field(default_factory=dict)
    answers: Mapping[str, bytes] = field(default_factory=dict)
    here: str = "linux/amd64"
    asked: list[str] = field(default_factory=list)
    looked: list[str] = field(default_factory=list)

    def read(self, path: str) -> bytes | None:
        self.looked.append(path)
        return self.files.get(path)

    def tool(self, argv: Sequence[str], **_: object) -> ToolResult:
        self.asked.append(argv[0])
        answer = self.answers.get(argv[0])
        return ToolResult(status=127 if answer is None else 0, stdout=answer or b"", stderr=b"")

    def fetch(self, inputs: Sequence[Input]) -> None:
        assert all(self.store.has_blob(item.sha256) for item in inputs)


@pytest.fixture
def world(store) -> World:
    return World(store=Store(store))


def debs(kind: str = "apt", name: str = "", **versions: str) -> LockedLayer:
    items = (
        Input(
            type="deb",
            name=f"{package}.deb",
            sha256=hashlib.sha256(package.encode()).hexdigest(),
            size=1,
            facts={"package": package, "version": version},
        )
        for package, version in versions.items()
    )
    return LockedLayer(name=name or kind, kind=kind, recipe=1, request="", inputs=tuple(items))


BOOTSTRAP = debs("bootstrap", "base", libc6="2.36-9+deb12u10")
ROOTFS = LockedLayer(name="base", kind="rootfs", recipe=1, request="")
GLIBC = b"\0GNU C Library (Debian GLIBC 2.31-13) stable release version 2.31.\n"


def image(world: World, **environment: str) -> LockedLayer:
    config = json.dumps({"config": {"Env": [f"{name}={value}" for name, value in environment.items()]}}).encode()
    media_type = "application/vnd.oci.image.config.v1+json"
    item = Input(
        type="blob",
        name="config",
        sha256=world.store.add_blob(config),
        size=len(config),
        facts={"media_type": media_type},
    )
    return LockedLayer(name="base", kind="image", recipe=1, request="", inputs=(item,))


def status(**versions: str) -> bytes:
    return "\n".join(
        f"Package: {name}\nStatus: install ok installed\nVersion: {version}\n" for name, version in versions.items()
    ).encode()


def test_locked_packages_say_it_and_nothing_is_built(world):
    system = debs(python3="3.11.2-1+b1", **{"python3.11-minimal": "3.11.2-6+deb12u6"})
    found = find_python(world, [BOOTSTRAP, system], "linux/amd64")
    assert found == Python(path="/usr/bin/python3", version="3.11.2", libc=("glibc", 2, 36), machine="x86_64")
    assert (world.looked, world.asked) == ([], [])


def test_the_exact_version_is_that_of_the_interpreter_package(world):
    system = debs(python3="3.12.3-0ubuntu2", **{"python3.12-minimal": "3.12.9-1"})
    assert find_python(world, [BOOTSTRAP, system], "linux/amd64").version == "3.12.9"
    assert find_python(world, [BOOTSTRAP, debs(python3="3:3.13.1-2")], "linux/arm64").version == "3.13.1"


def test_an_upper_layer_counts(world):
    newer = debs(name="newer", libc6="2.41-1", python3="3.13.5-1")
    found = find_python(world, [BOOTSTRAP, debs(python3="3.11.2-1"), newer], "linux/amd64")
    assert (found.version, found.libc) == ("3.13.5", ("glibc", 2, 41))


def test_no_python_at_all(world):
    with pytest.raises(ResolveError, match="the environment has no Python") as caught:
        find_python(world, [BOOTSTRAP, debs(git="1:2.39")], "linux/amd64")
    assert caught.value.hint == "add python3 to an apt layer above this one, or choose a base that has Python"


def test_the_dpkg_database_of_the_base(world):
    world.files = {"var/lib/dpkg/status": status(libc6="2.31-13", python3="3.9.2-3")}
    found = find_python(world, [ROOTFS], "linux/amd64")
    assert found == Python(path="/usr/bin/python3", version="3.9.2", libc=("glibc", 2, 31), machine="x86_64")


def test_a_removed_package_is_not_there(world):
    world.files = {
        "var/lib/dpkg/status": status(libc6="2.31-13")
        + b"\nPackage: python3\nStatus: deinstall ok config-files\nVersion: 3.9\n"
    }
    with pytest.raises(ResolveError, match="no Python"):
        find_python(world, [ROOTFS], "linux/amd64")


def test_the_first_python_on_path_wins_as_it_will_when_it_runs(world):
    world.files = {
        "var/lib/dpkg/status": status(libc6="2.36-9", python3="3.11.2-1"),
        "usr/local/bin/python3": b"ELF a",
        "usr/local/bin/python3.9": b"ELF b",
        "usr/local/bin/python3.12": b"ELF a",
        "usr/local/include/python3.12/patchlevel.h": b'#define PY_MAJOR 3\n#define PY_VERSION      "3.12.7"\n',
    }
    found = find_python(world, [ROOTFS, debs(python3="3.11.2-1")], "linux/amd64")
    assert (found.path, found.version) == ("/usr/local/bin/python3", "3.12.7")
    assert world.asked == []


def test_the_path_of_the_image(world):
    world.files = {"var/lib/dpkg/status": status(libc6="2.36-9", python3="3.11.2-1"), "opt/conda/bin/python3": b"ELF"}
    world.answers = {"/opt/conda/bin/python3": b"cpython - 3.13.1\n"}
    base = image(world, PATH="/opt/conda/bin:/usr/bin", HOME="/root")
    found = find_python(world, [base], "linux/amd64")
    assert (found.path, found.version) == ("/opt/conda/bin/python3", "3.13.1")
    assert find_python(world, [image(world, PATH="/usr/bin:/opt/conda/bin")], "linux/amd64").path == "/usr/bin/python3"
    assert find_python(world, [image(world)], "linux/amd64").path == "/usr/bin/python3"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"pypy - 3.10.14\n", "is pypy"),
        (b"cpython t 3.13.1\n", "a free-threaded build"),
        (b"cpython - 3.6.8\n", "Python 3.6.8 of the environment is too old"),
        (None, "it does not run here"),
    ],
)
def test_interpreters_that_are_refused(world, answer, said):
    world.files = {"usr/local/bin/python3": b"ELF", "lib64/libc.so.6": GLIBC}
    world.answers = {"/usr/local/bin/python3": answer} if answer else {}
    with pytest.raises(ResolveError, match=said):
        find_python(world, [ROOTFS], "linux/amd64")


def test_the_c_library_says_its_version(world):
    world.files = {"usr/bin/python3": b"ELF", "lib64/libc.so.6": GLIBC}
    world.answers = {"/usr/bin/python3": b"cpython - 3.9.18"}
    assert find_python(world, [ROOTFS], "linux/amd64").libc == ("glibc", 2, 31)
    world.files = {"usr/bin/python3": b"ELF", "lib/ld-musl-aarch64.so.1": b"ELF"}
    world.here = "linux/arm64"
    found = find_python(world, [ROOTFS], "linux/arm64")
    assert (found.libc, found.uv_platform) == (("musl", 1, 2), "aarch64-unknown-linux-musl")
    world.here = "linux/amd64"
    world.files = {"usr/bin/python3": b"ELF"}
    with pytest.raises(ResolveError, match="which C library"):
        find_python(world, [ROOTFS], "linux/amd64")


def test_other_machines_are_refused(world):
    with pytest.raises(ResolveError, match="not available for linux/riscv64"):
        find_python(world, [BOOTSTRAP], "linux/riscv64")


@pytest.mark.parametrize(
    ("minor", "name"),
    [(17, "2_17"), (27, "2_17"), (28, "2_28"), (30, "2_28"), (31, "2_31"), (36, "2_36"), (40, "2_40"), (43, "2_40")],
)
def test_the_platform_for_uv_is_one_that_it_knows_and_the_machine_satisfies(minor, name):
    python = Python(path="", version="3.11", libc=("glibc", 2, minor), machine="x86_64")
    assert python.uv_platform == f"x86_64-manylinux_{name}"


def test_tags_are_those_of_a_real_interpreter():
    """On the machine itself they must be what ``packaging`` finds there."""
    import platform
    import sys

    from packaging import tags

    name, version = platform.libc_ver()
    if name != "glibc" or sys.implementation.name != "cpython":
        pytest.skip("tags are compared on CPython with glibc")
    release = ".".join(map(str, sys.version_info[:3]))
    major, minor = map(int, version.split("."))
    python = Python(path="", version=release, libc=("glibc", major, minor), machine=platform.machine())
    found, real = list(python.tags()), list(tags.sys_tags())
    assert set(found) == set(real)

    def ordered(several):  # releases of packaging differ in where the native platform stands
        return [tag for tag in several if not tag.platform.startswith("linux_")]

    assert ordered(found) == ordered(real)


def test_tags_of_musl():
    python = Python(path="", version="3.12", libc=("musl", 1, 2), machine="aarch64")
    assert python.platforms() == [
        "linux_aarch64",
        "musllinux_1_2_aarch64",
        "musllinux_1_1_aarch64",
        "musllinux_1_0_aarch64",
    ]


def test_an_interpreter_of_another_machine_is_never_run(world):
    world.files = {"usr/bin/python3": b"ELF", "lib64/libc.so.6": GLIBC}
    world.answers = {"/usr/bin/python3": b"cpython - 3.9.18"}  # as an emulator might say
    with pytest.raises(ResolveError, match="it does not run here"):
        find_python(world, [ROOTFS], "linux/arm64")
    assert world.asked == []
