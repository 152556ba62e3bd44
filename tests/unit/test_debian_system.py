"""What apt in a base is set up to use, read by a tool that may be killed."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from reprobox.backend import ToolResult
from reprobox.debian.system import base_system
from reprobox.errors import ResolveError
from reprobox.store import Store
from tests.debs import SmallWorld
from tests.images import entry, tar

WHOLE = tar(entry("etc/apt/sources.list", b"deb http://mirror.example/debian bookworm main\n"))


@dataclass
class World(SmallWorld):
    """Its tools answer as the test says, in order."""

    answers: list[ToolResult] = field(default_factory=list)

    def tool(self, *_: object, **__: object) -> ToolResult:
        return self.answers.pop(0)


@pytest.fixture
def world(store, tmp_path) -> World:
    return World(Store(store), tmp_path)


def answer(status: int, stdout: bytes) -> ToolResult:
    return ToolResult(status=status, stdout=stdout, stderr=b"")


def uris(world: World) -> list[str]:
    return [source.uri for source in base_system(world, "a" * 64).sources]


@pytest.mark.parametrize("output", [b"", WHOLE[:512], WHOLE[:1024]], ids=["nothing", "a header", "no end"])
def test_a_run_that_was_killed_is_told_and_not_remembered(world, output):
    world.answers += [answer(137, output), answer(0, WHOLE)]
    with pytest.raises(ResolveError, match="could not be read: tar ended with status 137"):
        uris(world)
    assert uris(world) == ["http://mirror.example/debian"]
    assert uris(world) == ["http://mirror.example/debian"]  # from memory: there is no third answer


def test_what_an_older_version_remembered_of_a_killed_run_is_forgotten(world):
    world.store.remember("systems", "a" * 64, b"")
    world.answers.append(answer(0, WHOLE))
    assert uris(world) == ["http://mirror.example/debian"]


def test_a_file_that_cannot_be_read_is_missing_and_nothing_is_remembered(world):
    world.answers += [answer(2, WHOLE), answer(0, tar())]
    assert uris(world) == ["http://mirror.example/debian"]
    assert uris(world) == []
