"""A seal: later builds give the same bytes, or the first layer and file that differ are named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reprobox.errors import IntegrityError
from reprobox.lock import Lock, Seal
from reprobox.store import Store
from tests.local import Local, copying, programs_in, running

pytestmark = pytest.mark.userns

RANDOM = "mkdir /srv\nhead -c 8 /dev/urandom > /srv/random\nhead -c 8 /dev/urandom > /srv/second\necho same > /srv/same"


@pytest.fixture
def local(tmp_path, store) -> Local:
    programs_in(tmp_path / "project")
    return Local(tmp_path / "project", store)


def resealed(local: Local, **change: object) -> Lock:
    session = local.session
    lock = local.project.lock(session.store)
    target = lock.targets["default"]
    other = replace(lock, targets={"default": replace(target, seal=replace(target.seal, **change))})
    local.project.write_lock(other)
    return other


def test_a_seal_holds_every_digest(local):
    local.file("conf", "x").write(copying("conf", "conf", "/conf")).lock()
    made = local.realize(seal=True)
    environment = made.environment
    assert made.lock.targets["default"].seal == Seal(
        image_digest=f"sha256:{environment.image_digest}",
        tree_digest=f"sha256:{environment.tree_digest}",
        layers=environment.diff_ids(),
    )
    assert list(environment.diff_ids()) == ["base", "conf", "skeleton"]


def test_a_build_that_keeps_the_seal_is_accepted_anywhere(local, tmp_path):
    local.write(running("step", "echo same > /same")).lock()
    local.realize(seal=True)
    local.realize()
    local.elsewhere(tmp_path / "other").realize()


def test_a_build_elsewhere_that_differs_names_layer_and_file(local, tmp_path):
    local.write(running("good", "echo x > /x") + running("bad", RANDOM)).lock()
    sealed = local.realize(seal=True).environment.diff_ids()
    other = local.elsewhere(tmp_path / "other")
    with pytest.raises(IntegrityError) as caught:
        other.realize()
    error = caught.value
    assert error.status == 5
    assert error.where == "target 'default'"
    assert "layer 'bad' is not the sealed one: first in /srv/random, and 1 more" in error.message
    assert f"sealed {sealed['bad']}" in error.message
    assert "lock --seal" in error.hint
    # To find the file it was built once more, beside the one in the store.
    assert other.listener.said == ["building bad once more, to find what differs"]
    assert Store(other.store).layer(local.lock().targets["default"].layers[2].id) is not None


def test_a_build_here_that_differs_is_compared_with_what_was_sealed(local):
    local.write(running("bad", RANDOM)).lock()
    made = local.realize(seal=True)
    Store(local.store).forget_layer(made.environment.layers[1].id)
    with pytest.raises(IntegrityError, match="first in /srv/random, and 1 more"):
        local.realize()
    assert not any("once more" in text for text in local.listener.said)


def test_the_first_layer_that_differs_is_named(local, tmp_path):
    local.write(running("one", RANDOM) + running("two", RANDOM.replace("srv", "opt"))).lock()
    local.realize(seal=True)
    with pytest.raises(IntegrityError, match="layer 'one' is not the sealed one"):
        local.elsewhere(tmp_path / "other").realize()


def test_sealing_anew_accepts_what_is_built(local, tmp_path):
    local.write(running("bad", RANDOM)).lock()
    local.realize(seal=True)
    other = local.elsewhere(tmp_path / "other")
    other.realize(seal=True)
    other.realize()
    with pytest.raises(IntegrityError):
        local.realize()


@pytest.mark.parametrize("name", ["tree_digest", "image_digest"])
def test_each_digest_of_a_seal_counts(local, name):
    local.write("").lock()
    local.realize(seal=True)
    resealed(local, **{name: "sha256:" + "0" * 64})
    with pytest.raises(IntegrityError, match=f"the {name.replace('_', ' ')} is sha256:.*, and sealed was sha256:0000"):
        local.realize()


def test_a_layer_that_the_seal_does_not_know(local):
    local.write("").lock()
    made = local.realize(seal=True)
    digests = made.environment.diff_ids()
    resealed(local, layers={"base": digests["base"]})
    with pytest.raises(IntegrityError, match="layer 'skeleton' is not the sealed one: the seal does not have it"):
        local.realize()


def test_baked_in_code_is_no_part_of_the_seal(local):
    local.write('[code]\nexclude = ["base/"]\n').file("train.py", "1").lock()
    local.realize(seal=True)
    local.file("train.py", "2")
    made = local.realize(with_code=True)
    assert [layer.name for layer in made.environment.layers] == ["base", "skeleton", "code"]
