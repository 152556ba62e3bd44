"""What moved between two locks."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import replace

import pytest

from reprobox.cli.changes import document, markdown, text
from reprobox.lock import Input, Lock, LockedLayer, LockedTarget, Seal, with_ids
from reprobox.lock_diff import LayerDiff, LockDiff, diff


def item(package: str, version: str = "1.0", type: str = "wheel", size: int = 100, **facts: str) -> Input:  # noqa: A002
    digest = hashlib.sha256(f"{package} {version} {type} {size} {facts}".encode()).hexdigest()
    name = f"{package}-{version}-{facts.get('architecture', '')}.{type}"
    facts = {"package": package, "version": version, **facts}
    return Input(type=type, name=name, sha256=digest, size=size, facts=facts)


def layer(name: str, *inputs: Input, kind: str = "pip", parents: tuple[str, ...] = ("base",), **more) -> LockedLayer:
    return LockedLayer(name=name, kind=kind, recipe=1, request="", parents=parents, inputs=inputs, **more)


def base(**more) -> LockedLayer:
    return layer("base", kind="image", parents=(), **more)


def lock(*layers: LockedLayer, epoch: int = 0, keys=None, name: str = "default", seal: Seal | None = None) -> Lock:
    stack = layers if layers and layers[0].name == "base" else (base(), *layers)
    target = LockedTarget(name=name, platform="linux/amd64", layers=with_ids(stack, epoch), seal=seal)
    return Lock(epoch=epoch, manifest="", keys=keys or {}, targets={name: target})


def layers(found: LockDiff) -> dict[str, LayerDiff]:
    return {layer.name: layer for target in found.targets for layer in target.layers}


def moves(found: LockDiff) -> list[tuple[str, str, str]]:
    return [(layer.name, move.package.name, move.move) for layer, move in found.moves()]


def test_nothing_moved():
    one = lock(layer("python", item("numpy")))
    assert not diff(one, one)
    assert diff(one, one).targets == ()


def test_packages_that_come_go_and_move():
    old = lock(layer("python", item("a"), item("b", "1.9"), item("c", "2"), item("d"), item("e", size=5)))
    new = lock(layer("python", item("b", "1.10", size=130), item("c", "1.5"), item("d"), item("e", size=6), item("f")))
    found = diff(old, new)
    assert moves(found) == [
        ("python", "a", "removed"),
        ("python", "b", "up"),
        ("python", "c", "down"),
        ("python", "e", "rebuilt"),
        ("python", "f", "added"),
    ]
    assert [move.growth for _, move in found.moves()] == [-100, 30, 0, 1, 100]
    assert found.counts() == {"removed": 1, "up": 1, "down": 1, "rebuilt": 1, "added": 1}
    assert found.sizes == (405, 436)
    assert layers(found)["python"].sizes == (405, 436)


@pytest.mark.parametrize(
    ("kind", "old", "new", "move"),
    [
        ("deb", "1:2.39.2-1", "1:2.39.10-1", "up"),
        ("deb", "1.0", "1.0~rc1", "down"),
        ("wheel", "2.0rc1", "2.0", "up"),
        ("wheel", "1.0.post1", "1.0", "down"),
        ("wheel", "old", "new", "changed"),
        ("archive", "1", "2", "changed"),
    ],
)
def test_the_order_is_that_of_the_packages_world(kind, old, new, move):
    found = diff(lock(layer("x", item("a", old, kind))), lock(layer("x", item("a", new, kind))))
    assert [what for *_, what in moves(found)] == [move]


def test_a_layer_that_only_stands_on_what_changed():
    above = layer("above", item("z"), parents=("python",))
    found = diff(lock(layer("python", item("a")), above), lock(layer("python", item("a", "2")), above))
    assert {name: (diff.state, diff.packages) for name, diff in layers(found).items()}["above"] == ("below", ())
    assert layers(found)["python"].state == "changed"


def test_another_epoch_is_said_once():
    found = diff(lock(layer("python", item("a"))), lock(layer("python", item("a")), epoch=7))
    assert found.epochs == (0, 7)
    assert {layer.state for layer in layers(found).values()} == {"below"}


def test_layers_that_come_and_go_and_change_their_name():
    old = lock(layer("python", item("a"), item("b")), layer("gone", kind="run", options={"script": "x"}))
    new = lock(layer("numbers", item("a", "2"), item("b")), layer("more", item("c")))
    found = layers(diff(old, new))
    assert {name: (layer.state, layer.was) for name, layer in found.items()} == {
        "numbers": ("changed", "python"),
        "more": ("added", ""),
        "gone": ("removed", ""),
    }
    assert [(move.package.name, move.move) for move in found["numbers"].packages] == [("a", "up")]


def test_a_layer_of_another_kind_is_another_layer():
    found = diff(lock(layer("x", item("a"))), lock(layer("x", item("a", type="deb"), kind="apt")))
    assert [(item.kind, item.state) for item in found.targets[0].layers] == [("apt", "added"), ("pip", "removed")]


def test_settings_and_only_what_differs_of_lists():
    options = {"script": "make\n", "manual": ["git", "jq"], "order": ["a", "b"]}
    old = layer("x", item("a"), kind="run", options=options, environment={"CC": "gcc"}, facts={"from": "v1", "n": 3})
    options = {"script": "make all\n", "manual": ["jq", "make"], "order": ["b", "a"], "network": True}
    new = layer("x", item("a"), kind="run", options=options, environment={}, facts={"from": "v2", "n": 4})
    found = layers(diff(lock(old), lock(new)))["x"]
    assert {setting.key: (setting.old, setting.new) for setting in found.settings} == {
        "environment.CC": ("gcc", None),
        "facts.from": ("v1", "v2"),
        "options.manual": (["git"], ["make"]),
        "options.network": (None, True),
        "options.order": (["a", "b"], ["b", "a"]),
        "options.script": ("make\n", "make all\n"),
    }


def test_file_names_in_options_are_told_as_packages():
    one, other = item("a", "1"), item("a", "2")
    old, new = layer("x", one, options={"unpack": [one.name]}), layer("x", other, options={"unpack": [other.name]})
    assert layers(diff(lock(old), lock(new)))["x"].settings == ()


def test_an_image_is_one_thing():
    def image(tag: str, *contents: str) -> LockedLayer:
        blobs = tuple(
            Input(type="blob", name=name, sha256=hashlib.sha256(text.encode()).hexdigest(), size=len(text))
            for name, text in zip(("manifest.json", "config.json", "layer-000.tar"), contents, strict=True)
        )
        return layer("base", *blobs, kind="image", parents=(), facts={"reference": tag})

    found = layers(diff(lock(image("x:1", "m1", "c", "l")), lock(image("x:2", "m2!", "c", "l2"))))["base"]
    (move,) = found.packages
    assert (move.package.name, move.move, move.growth) == ("image", "changed", 2)
    assert move.package.version == hashlib.sha256(b"m2!").hexdigest()[:12]
    assert [(setting.key, setting.old, setting.new) for setting in found.settings] == [
        ("facts.reference", "x:1", "x:2")
    ]


def test_one_package_for_two_architectures():
    pair = [item("zlib", "1", "deb", architecture=name) for name in ("amd64", "i386")]
    moved = [pair[0], item("zlib", "2", "deb", architecture="i386")]
    assert moves(diff(lock(layer("x", *pair)), lock(layer("x", *moved)))) == [("x", "zlib:i386", "up")]


def test_targets_and_locks_that_are_not_there():
    one = lock(layer("x", item("a")))
    assert [target.state for target in diff(None, one).targets] == ["added"]
    assert [target.state for target in diff(one, None).targets] == ["removed"]
    assert [(target.name, target.state) for target in diff(one, lock(name="gpu")).targets] == [
        ("gpu", "added"),
        ("default", "removed"),
    ]
    assert not diff(None, None)


def test_what_is_the_same_in_two_targets_counts_once():
    def twice(one: Lock) -> Lock:
        target = one.targets["default"]
        return replace(one, targets={name: replace(target, name=name) for name in ("cpu", "gpu")})

    found = diff(twice(lock(layer("x", item("a")))), twice(lock(layer("x", item("a", "2")))))
    assert found.counts() == {"up": 1}
    assert len(found.targets) == 2


def test_seals_and_keys():
    seal = Seal(image_digest="sha256:1", tree_digest="sha256:2", layers={})
    found = diff(lock(keys={"env.A": "1"}), lock(keys={"env.B": "1"}, seal=seal))
    assert found.keys == ("env.A (removed)", "env.B (new)")
    assert found.targets[0].trees == ("", "sha256:2")


def test_the_checked_out_code():
    one = lock(layer("x", item("a")))
    (checkout,) = with_ids([layer("code", item("code", "1", "git"), kind="git", parents=())], 0)
    new = replace(one, checkout=checkout)
    found = diff(one, new)
    assert found.checkout is not None
    assert found.checkout.state == "added"
    assert found.sizes == (100, 200)
    assert moves(found) == [("code", "code", "added")]
    assert text(found, colour=False).splitlines()[:2] == ["code (git): added, 100 B", "  + code  1  +100 B"]
    assert json.loads(json.dumps(document(found)))["checkout"]["change"] == "added"
    assert "<summary>code (git): added, 100 B</summary>" in markdown(found)
    assert not diff(new, new)


def test_10_000_inputs_are_compared_in_a_moment():
    def large(version: str) -> Lock:
        inputs = [
            [item(f"p{number}-{at}", version if at == 0 else "1", "deb") for at in range(500)] for number in range(20)
        ]
        return lock(*(layer(f"l{number}", *items, kind="apt") for number, items in enumerate(inputs)))

    old, new = large("1"), large("2")
    started = time.process_time()
    found = diff(old, new)
    assert time.process_time() - started < 0.4
    assert found.counts() == {"up": 20}
