"""research.lock: what is written is read back, and nothing else is taken for a lock."""

from __future__ import annotations

import json
import re
import time
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from reprobox import lock_text
from reprobox.digest import sha256
from reprobox.errors import LockError
from reprobox.lock import Lock, LockedLayer, LockedTarget, changed_keys, with_ids
from tests.unit.fastest import fastest
from tests.unit.small_lock import EPOCH, LAYERS, LOCK, TEXT, deb

TESTS = Path(__file__).resolve().parents[1]


# -- writing and reading -----------------------------------------------------------------------------------------------


def test_what_is_written_is_read():
    assert lock_text.read(TEXT) == LOCK
    assert lock_text.write(lock_text.read(TEXT)) == TEXT


def test_the_text_is_frozen():
    assert (TESTS / "golden/research.lock").read_text() == TEXT


def test_the_order_of_mappings_does_not_count():
    def turned(value: object) -> object:
        if isinstance(value, dict):
            return {key: turned(item) for key, item in reversed(value.items())}
        return [turned(item) for item in value] if isinstance(value, list) else value

    layers = tuple(
        replace(layer, options=turned(layer.options), facts=turned(layer.facts), environment=turned(layer.environment))
        for layer in LAYERS
    )
    targets = {
        name: replace(target, layers=with_ids(layers[: len(target.layers)], EPOCH))
        for name, target in reversed(LOCK.targets.items())
    }
    assert lock_text.write(replace(LOCK, keys=turned(LOCK.keys), targets=targets)) == TEXT


def test_one_item_a_line():
    assert [line for line in TEXT.splitlines() if "libc6" in line][:1] == [
        (
            '    { name = "libc6_2.36-9_amd64.deb", type = "deb", size = 2757668, package = "libc6", suite = "bookworm",'
            f' version = "2.36-9", sha256 = "{sha256(b"libc6")}" }},'
        )
    ]


def two(*, request: str = "5" * 16) -> Lock:
    """A lock of two targets that share all but the last layer."""
    other = with_ids((*LAYERS[:3], replace(LAYERS[3], parents=("python",))), EPOCH)
    first = LockedTarget(name="cpu", platform="linux/amd64", layers=with_ids(LAYERS, EPOCH), request=request)
    return replace(LOCK, targets={"gpu": replace(first, name="gpu", layers=other), "cpu": first})


def test_a_layer_that_targets_share_is_written_once():
    text = lock_text.write(two())
    assert lock_text.read(text) == two()
    assert lock_text.write(lock_text.read(text)) == text
    gpu = text[text.index("[targets.gpu]") :]
    assert gpu.startswith(
        '[targets.gpu]\nplatform = "linux/amd64"\nrequest = "5555555555555555"\n'
        '\n[[targets.gpu.layers]]\nname = "base"\nshared_with = "cpu"\n'
        '\n[[targets.gpu.layers]]\nname = "conf"\nshared_with = "cpu"\n'
        '\n[[targets.gpu.layers]]\nname = "python"\nshared_with = "cpu"\n'
        '\n[[targets.gpu.layers]]\nname = "skeleton"\nkind = "skeleton"\n'
    )


def test_a_layer_that_differs_in_what_is_only_told_is_not_shared():
    one = two()
    cpu = one.targets["cpu"].layers
    told = with_ids((replace(cpu[0], facts={**cpu[0].facts, "removed": ["a"]}), *cpu[1:]), EPOCH)
    text = lock_text.write(replace(one, targets={**one.targets, "cpu": replace(one.targets["cpu"], layers=told)}))
    assert text.count("shared_with") == 2
    assert lock_text.read(text).targets["cpu"].layers == told


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda layers: layers[0].update(shared_with="cpv"), "target 'cpv' has no layer 'base' to share"),
        (lambda layers: layers[0].update(shared_with="gpu"), "target 'gpu' has no layer 'base' to share"),
        (lambda layers: layers[0].update(name="basis"), "target 'cpu' has no layer 'basis' to share"),
        (lambda layers: layers.insert(1, dict(layers[0])), "layer 'base' stands twice"),
    ],
)
def test_a_layer_that_is_shared_with_nobody(edit, message):
    document = tomllib.loads(lock_text.write(two()))
    edit(document["targets"]["gpu"]["layers"])
    with pytest.raises(LockError, match=re.escape(message)):
        lock_text.decode(document)


def test_nothing_of_the_machine_is_written(monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1.0)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    monkeypatch.setenv("LC_ALL", "C")
    assert lock_text.write(LOCK) == TEXT
    assert not re.search(r"://|/home|/tmp|\d{4}-\d\d-\d\d", TEXT)


def test_line_ends_of_a_windows_checkout_do_not_count():
    assert lock_text.read(TEXT.replace("\n", "\r\n")) == LOCK


def test_a_reformatted_lock_is_the_same_lock():
    rewritten = TEXT.replace(" = ", "=").replace("# Written", "\n#  Written")
    assert lock_text.read(rewritten) == LOCK


def test_a_lock_of_nothing_but_a_base():
    bare = Lock(
        epoch=0,
        manifest="",
        keys={},
        targets={"x": LockedTarget(name="x", platform="", layers=with_ids(LAYERS[:1], 0))},
    )
    assert lock_text.read(lock_text.write(bare)) == bare
    assert "code" not in lock_text.write(bare)


def test_the_digest_is_of_the_text():
    assert lock_text.lock_digest(LOCK) == sha256(TEXT.encode())


# -- what is not a lock ------------------------------------------------------------------------------------------------


def refused(text: str) -> LockError:
    with pytest.raises(LockError) as caught:
        lock_text.read(text, file="here/research.lock")
    assert caught.value.status == 3
    assert caught.value.where == "here/research.lock"
    assert "reprobox lock" in caught.value.hint
    return caught.value


def swapped_layers(text: str) -> str:
    head, *layers = text.split("[[targets.default.layers]]")
    layers[1], layers[2] = layers[2], layers[1]
    return "[[targets.default.layers]]".join([head, *layers])


EDITS: dict[str, Callable[[str], str]] = {
    "a sha256": lambda text: text.replace(sha256(b"libc6"), sha256(b"other")),
    "a digit of a sha256": lambda text: text.replace(sha256(b"dpkg")[:8], "00000000"),
    "half a sha256": lambda text: text.replace(sha256(b"libc6"), sha256(b"libc6")[:32]),
    "a sha256 in capitals": lambda text: text.replace(sha256(b"libc6"), sha256(b"libc6").upper()),
    "a size": lambda text: text.replace("2757668", "2757669"),
    "a negative size": lambda text: text.replace("2757668", "-1"),
    "a size as text": lambda text: text.replace("2757668", '"2757668"'),
    "a file name": lambda text: text.replace("libc6_2.36", "libc6_2.37"),
    "a path for a file name": lambda text: text.replace('"libc6_2.36-9_amd64.deb"', '"../../etc/passwd"'),
    "a hint": lambda text: text.replace('suite = "bookworm"', 'suite = "sid"', 1),
    "an option": lambda text: text.replace('options.suite = "bookworm"', 'options.suite = "sid"'),
    "an option dropped": lambda text: text.replace('options.suite = "bookworm"\n', ""),
    "a fact": lambda text: text.replace('    "a",\n', '    "c",\n'),
    "a fact dropped": lambda text: re.sub(r"facts\.removed = \[[^]]*\]\n", "", text),
    "an environment variable": lambda text: text.replace('"c d"', '"c e"'),
    "the epoch": lambda text: text.replace(f"epoch = {EPOCH}", f"epoch = {EPOCH + 1}"),
    "the epoch as text": lambda text: text.replace(f"epoch = {EPOCH}", f'epoch = "{EPOCH}"'),
    "the platform": lambda text: text.replace("linux/amd64", "linux/arm64"),
    "a kind": lambda text: text.replace('kind = "pip"', 'kind = "apt"'),
    "a recipe": lambda text: text.replace("recipe = 2", "recipe = 3"),
    "an id": lambda text: text.replace(LOCK.targets["default"].layers[2].id, "0" * 64),
    "a parent": lambda text: text.replace('parents = ["conf", "python"]', 'parents = ["python"]'),
    "an unknown parent": lambda text: text.replace('parents = ["conf", "python"]', 'parents = ["conf", "nobody"]'),
    "the order of layers": swapped_layers,
    "a layer twice": lambda text: text.replace('name = "python"', 'name = "conf"'),
    "a layer dropped": lambda text: text.partition('[[targets.default.layers]]\nname = "skeleton"')[0],
    "a target dropped": lambda text: text.partition('\n[targets."my gpu"]')[0],
    "all targets dropped": lambda text: text.partition("\n[targets.default]")[0],
    "a target without layers": lambda text: text + '\n[targets.empty]\nplatform = "linux/amd64"\nlayers = []\n',
    "a key of the manifest": lambda text: text.replace("18ac3e7343f01689", "0000000000000000"),
    "the code": lambda text: text.replace("4b825dc6", "00000000"),
    "the request": lambda text: text.replace("4b227777d4dd1fc6", "0000000000000000"),
    "the checksum": lambda text: re.sub('checksum = "[0-9a-f]{64}"', f'checksum = "{"0" * 64}"', text),
    "the checksum dropped": lambda text: re.sub("checksum = .*\n", "", text),
    "a key that nobody knows": lambda text: text.replace("epoch", 'comment = "x"\nepoch'),
    "an older version": lambda text: text.replace("version = 1\n", "version = 0\n"),
    "a version that is a truth": lambda text: text.replace("version = 1\n", "version = true\n"),
    "no version": lambda text: text.replace("version = 1\n", ""),
    "a merge left halfway": lambda text: text.replace("epoch", "<<<<<<< HEAD\nepoch"),
    "nothing left": lambda _: "",
    "deep nonsense": lambda text: text + "x = " + "[" * 5000,
    "a date": lambda text: text.replace(f"epoch = {EPOCH}", "epoch = 2025-01-01"),
    "a number that nobody hashes": lambda text: text.replace(f"epoch = {EPOCH}", "epoch = 1.5"),
    "targets that are no table": lambda text: text.partition("\n[manifest]")[0] + "\nmanifest = 1\ntargets = 2\n",
}


for _line in TEXT.splitlines():
    if re.match(r"(name|kind|recipe|id|request|parents|platform|epoch|digest|code)\b", _line):
        EDITS.setdefault(f"{_line.split()[0]} dropped", lambda text, line=_line: text.replace(line + "\n", "", 1))


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_lock_is_refused(name):
    edited = EDITS[name](TEXT)
    assert edited != TEXT
    refused(edited)


HASHED = ["a sha256", "a file name", "an option", "an option dropped", "an environment variable", "the epoch", "a kind"]


HASHED += ["a recipe", "an id", "a parent", "an unknown parent", "the order of layers", "a layer twice"]


@pytest.mark.parametrize("name", HASHED)
def test_what_layers_are_made_of_is_checked_by_their_ids_too(name):
    """The decoded form is remembered without its checksum being computed again, and a checksum can be mended."""
    with pytest.raises(LockError, match=r"does not match its id|it is not a lock"):
        lock_text.decode(tomllib.loads(EDITS[name](TEXT)))


@pytest.mark.parametrize("part", range(1, 20))
def test_a_lock_that_was_cut_short_is_refused(part):
    unsealed = lock_text.write(replace(LOCK, targets={"default": replace(LOCK.targets["default"], seal=None)}))
    refused(unsealed[: len(unsealed) * part // 20])


def test_a_newer_format_says_so():
    error = refused(TEXT.replace("version = 1\n", "version = 2\n"))
    assert error.message == "the lock has format 2, and this reprobox knows up to 1"
    assert error.hint == (
        "it was made by a newer reprobox: install that (`pip install --upgrade reprobox`, or the one in a vault that keeps"
        " this lock); `reprobox lock --upgrade` would make another lock, of other versions"
    )


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("epoch =", 'colour = "red"\nepoch =', "colour"),
        ("[manifest.keys]", 'colour = "red"\n[manifest.keys]', "manifest.colour"),
        ('platform = "linux/amd64"', 'platform = "linux/amd64"\ncolour = "red"', "targets.default.colour"),
        ('name = "conf"', 'name = "conf"\ncolour = "red"', "targets.default.layers[1].colour"),
        ("tree_digest =", 'colour = "red"\ntree_digest =', "targets.default.seal.colour"),
    ],
)
def test_a_key_that_only_a_newer_version_knows_is_not_left_out(old, new, key):
    """The same format, and one key more: what it asks for would not be done."""
    text = TEXT.replace(old, new, 1)
    text = re.sub('checksum = ".*"', f'checksum = "{lock_text._checksum(tomllib.loads(text))}"', text)
    error = refused(text)
    assert error.message == f"it has a key that this reprobox does not know: {key}"
    assert error.hint.startswith("it was made by a newer reprobox: install that ")


def test_rules_of_another_version_say_which_reprobox_is_needed():
    for version, hint in ((1, "install the version of reprobox that made it"), (99, "it was made by a newer reprobox")):
        text = TEXT.replace("normaliser = 2\n", f"normaliser = {version}\n")
        text = re.sub('checksum = ".*"', f'checksum = "{lock_text._checksum(tomllib.loads(text))}"', text)
        error = refused(text)
        assert error.message == f"its layers are built by rules of version {version}, and this reprobox has version 2"
        assert error.hint.startswith(hint)


def test_a_newer_format_need_not_be_understood():
    assert "format 7" in refused("version = 7\n").message


def test_a_seal_may_be_taken_away_or_changed():
    """It is not part of what is built: a build says whether it is right."""
    unsealed = TEXT.partition("\n[targets.default.seal]")[0] + TEXT[TEXT.index('\n[targets."my gpu"]') :]
    assert lock_text.read(unsealed).targets["default"].seal is None
    other = lock_text.read(TEXT.replace("2" * 64, "4" * 64))
    assert other.targets["default"].seal.tree_digest == "sha256:" + "4" * 64


def test_layers_beside_the_targets_are_checked_by_their_ids_too():
    """Their ids are names of folders in the store: nobody else chooses them."""
    (layer,) = with_ids([LockedLayer(name="code", kind="git", recipe=1, request="")], LOCK.epoch)
    assert lock_text.read(lock_text.write(replace(LOCK, checkout=layer, downloads={"/data": layer}))).checkout == layer
    bad = replace(layer, id="../../evil")
    for forged in (replace(LOCK, checkout=bad), replace(LOCK, downloads={"/data": bad})):
        assert refused(lock_text.write(forged)).message == "layer 'code' does not match its id"


def test_errors_name_the_layer():
    layers = LOCK.targets["default"].layers
    broken = replace(
        LOCK,
        targets={
            "default": LockedTarget(name="default", platform="", layers=(*layers[:3], replace(layers[3], id="x")))
        },
    )
    assert refused(lock_text.write(broken)).message == "layer 'skeleton' of target 'default' does not match its id"


# -- speed -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large() -> Lock:
    """10,000 inputs in 20 layers that stand on one another."""
    layers = [
        LockedLayer(
            name=f"layer{number}",
            kind="apt",
            recipe=1,
            request="0" * 16,
            parents=(f"layer{number - 1}",) if number else (),
            inputs=tuple(
                deb(
                    f"package-{number}-{item}",
                    architecture="amd64",
                    archive="debian",
                    path=f"pool/main/p/package-{number}-{item}/package-{number}-{item}_2.36-9_amd64.deb",
                    sha1="0" * 40,
                )
                for item in range(500)
            ),
        )
        for number in range(20)
    ]
    target = LockedTarget(name="default", platform="linux/amd64", layers=with_ids(layers, EPOCH))
    return Lock(epoch=EPOCH, manifest="0" * 64, keys={}, targets={"default": target})


def test_10_000_inputs_are_read_checked_and_planned_in_half_a_second(large):
    from reprobox.plan import plan

    decoded = json.dumps(lock_text.parse(lock_text.write(large)))

    def work() -> None:
        read = lock_text.decode(json.loads(decoded))
        changed_keys(read, {})
        plan(read.targets["default"], has_layer=lambda _: False, has_blob=lambda _: False)

    assert lock_text.decode(json.loads(decoded)) == large
    assert fastest(work) < 0.5


def test_a_layer_outside_the_image_says_so_and_others_say_nothing():
    inside = LockedLayer(name="base", kind="rootfs", recipe=1, request="0")
    outside = LockedLayer(name="python", kind="pip", recipe=1, request="1", parents=("base",), placement="project")
    layers = with_ids((inside, outside), 5)
    made = Lock(
        epoch=5,
        manifest="0" * 64,
        keys={},
        targets={"t": LockedTarget(name="t", platform="linux/amd64", layers=layers)},
    )
    text = lock_text.write(made)
    assert text.count("placement") == 1
    again = lock_text.read(text)
    assert again == made
    assert [layer.name for layer in again.targets["t"].image_layers] == ["base"]
    with pytest.raises(LockError, match="checksum"):
        lock_text.read(text.replace('placement = "project"\n', ""))
