"""The lock as a value: its layers' ids, their order, and which keys of the manifest have changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from reprobox.digest import layer_id
from reprobox.lock import LockedLayer, ancestors, changed_keys, with_ids
from tests.unit.fastest import growth
from tests.unit.small_lock import EPOCH, LAYERS, LOCK, deb

# -- ids ---------------------------------------------------------------------------------------------------------------


def test_ids_are_of_the_layer_and_all_below_in_stacking_order():
    base, conf, python, skeleton = LOCK.targets["default"].layers
    assert skeleton.id == layer_id(skeleton.identity(EPOCH, [base.id, conf.id, python.id]))
    assert python.id == layer_id(python.identity(EPOCH, [base.id]))


def test_the_order_of_parents_does_not_count():
    turned = (*LAYERS[:3], replace(LAYERS[3], parents=("python", "conf")))
    assert [layer.id for layer in with_ids(turned, EPOCH)] == [layer.id for layer in with_ids(LAYERS, EPOCH)]


def test_a_change_below_changes_all_above_and_nothing_beside():
    changed = (*LAYERS[:2], replace(LAYERS[2], environment={}), LAYERS[3])
    before, after = with_ids(LAYERS, EPOCH), with_ids(changed, EPOCH)
    assert [one.id == other.id for one, other in zip(before, after, strict=True)] == [True, True, False, False]


def test_facts_and_requests_change_no_id():
    changed = tuple(replace(layer, facts={"x": "y"}, request="f" * 16) for layer in LAYERS)
    assert [layer.id for layer in with_ids(changed, EPOCH)] == [layer.id for layer in with_ids(LAYERS, EPOCH)]


def test_ancestors_are_in_stacking_order():
    assert [layer.name for layer in ancestors(LAYERS, "skeleton")] == ["base", "conf", "python"]
    assert ancestors(LAYERS, "base") == ()


# -- inputs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": "0" * 63}, "not a sha256"),
        ({"sha256": "0" * 64 + "\n"}, "not a sha256"),
        ({"name": "a/b"}, "not a file name"),
        ({"name": ".."}, "not a file name"),
        ({"name": ""}, "not a file name"),
        ({"size": -1}, "not a size"),
        ({"facts": {"sha256": "x"}}, "have the name of a field: sha256"),
        ({"facts": {"name": "x"}}, "have the name of a field: name"),
    ],
)
def test_an_input_cannot_be_wrong(change, message):
    with pytest.raises(ValueError, match=message):
        replace(deb(), **change)


# -- freshness ---------------------------------------------------------------------------------------------------------


def test_changed_keys_are_named():
    keys = {"base": "3e23e8160039594a", "env.LANG": "other", "layers.gym.rev": "new"}
    assert changed_keys(LOCK, keys) == (
        "env.LANG (changed)",
        "layers.gym.rev (new)",
        "layers.python.packages (removed)",
    )
    assert changed_keys(LOCK, LOCK.keys) == ()


# -- speed -------------------------------------------------------------------------------------------------------------


def test_ids_of_many_layers_cost_what_each_costs():
    """Layers that stand on the base alone: twice as many may not cost four times as much."""

    def naming(count: int) -> Callable[[], object]:
        layers = [LAYERS[0]]
        layers += [
            LockedLayer(name=f"l{number}", kind="copy", recipe=1, request="", parents=("base",))
            for number in range(count)
        ]
        return lambda: with_ids(layers, EPOCH)

    assert growth(naming(4000), naming(8000)) < 3.5
