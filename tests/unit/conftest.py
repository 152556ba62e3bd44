"""What several tests of one module each need: a server on this machine, a store, layers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from reprobox.debian.release import Keyring
from reprobox.store import Store
from tests.debs import Key, SmallWorld
from tests.layers import LayerMaker
from tests.servers import Server


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture
def kept(store: Path) -> Store:
    return Store(store)


# -- layers made by hand -----------------------------------------------------------------------------------------------


@pytest.fixture
def umask() -> Iterator[None]:
    """The usual one, so that what a test writes has the modes that it expects."""
    old = os.umask(0o022)
    yield
    os.umask(old)


@pytest.fixture
def make(tmp_path: Path) -> LayerMaker:
    return LayerMaker(tmp_path)


# -- package archives --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def key() -> Key:
    return Key()


@pytest.fixture
def trusted(key: Key) -> Keyring:
    found = Keyring()
    found.add(key.armored, "test.asc")
    return found


@pytest.fixture
def world(store: Path, tmp_path: Path) -> SmallWorld:
    return SmallWorld(Store(store), tmp_path)
