"""What is kept of an earlier layer, and that a layer made with it is the layer made without."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from reprobox.digest import Entry, sha256, write_index
from reprobox.layer_copies import keep as keep_entries
from reprobox.layer_copies import move_into
from reprobox.layers.kept_wheels import keep
from reprobox.layers.kind import Earlier
from reprobox.lock import Input
from reprobox.pypi import uv_version
from reprobox.tree import Tree, scan
from tests.python_index import uv_wheel, wheel
from tests.unit.test_layers_install_wheels import install

MODULE = "import os\n\n\ndef {name}(value, other=None):\n    return [value, other, 'alpha', 'beta', ('x', {number})]\n"
EPOCH = 1_700_000_000


def package(name: str, version: str = "1", **more: str) -> tuple[str, bytes]:
    """A wheel with a package, a single module, a program, data, and ``more`` files."""
    files = {f"{name}/m{number}.py": MODULE.format(name=f"f{number}", number=number) for number in range(5)}
    files |= {f"{name}/__init__.py": f"version = '{version}'\n", f"{name}_single.py": "x = 1\n"}
    files |= {f"{name}/templates/template.py": "{% not Python %}\n", f"{name}/tests/t.py": "x = 1\n"}
    stem = f"{name}-{version}"
    files[f"{stem}.dist-info/entry_points.txt"] = f"[console_scripts]\n{name} = {name}.m1:f1\n"
    files[f"{stem}.data/data/share/{name}/a.txt"] = "a\n"
    return wheel(name, version, files={**files, **more})


WHEELS = {
    "a": package("a"),
    "b": package("b"),
    "b2": package("b", "2"),
    "c": package("c"),
    "one": package("one", **{"ns/__init__.py": "x = 1\n"}),
    "two": package("two", **{"ns/__init__.py": "x = 1\n"}),
    "takes_a": package("takes_a", **{"a_single.py": "x = 2\n"}),
    "has_a": package("has_a", **{"has_a/a_single.py": "x = 2\n"}),
    "program_a": package("program_a", **{"program_a-1.dist-info/entry_points.txt": "[console_scripts]\na = a.m1:f1\n"}),
}


@pytest.fixture(scope="session")
def inputs(tmp_path_factory) -> Path:
    from uv import find_uv_bin

    folder = tmp_path_factory.mktemp("inputs")
    for name, (file, data) in {**WHEELS, "uv": uv_wheel(uv_version(), Path(find_uv_bin()))}.items():
        place = folder / name
        place.mkdir()
        (place / file).write_bytes(data)
    return folder


def item(name: str) -> Input:
    file, data = WHEELS[name]
    return Input(type="wheel", name=file, sha256=sha256(data), size=len(data))


def installed(folder: Path, inputs: Path, names: list[str]) -> Path:
    """``folder/env`` with these wheels in it."""
    here = folder / "inputs"
    shutil.rmtree(here, ignore_errors=True)
    here.mkdir()
    for name in [*names, "uv"]:
        for path in (inputs / name).iterdir():
            os.link(path, here / path.name)
    programs = [WHEELS[name][0] for name in names]
    install(folder / "env", here, names=programs)
    return folder / "env"


def layer(folder: Path, inputs: Path, names: list[str]) -> list[Entry]:
    """The entries that installing these wheels leaves; their content is below ``folder/env``."""
    outside = (b".lock", b"bin/python", b"bin/activate", b"bin/Activate", b"include", b"lib64", b"pyvenv.cfg")
    return [entry for entry in scan(installed(folder, inputs, names)) if not entry.path.startswith(outside)]


def earlier(folder: Path, inputs: Path, names: list[str]) -> Earlier:
    entries = layer(folder, inputs, names)
    tree = folder / "earlier"
    (folder / "env").rename(tree)
    return Earlier(files={WHEELS[name][0]: item(name).sha256 for name in names}, index=entries, tree=tree)


def files(names: list[str], inputs: Path) -> Mapping[str, Path]:
    return {WHEELS[name][0]: inputs / name / WHEELS[name][0] for name in names}


def kept(found: tuple[Entry, ...]) -> Iterator[str]:
    return (os.fsdecode(entry.path) for entry in found if entry.kind == "f")


@pytest.mark.parametrize(
    ("before", "now", "fresh"),
    [
        pytest.param(["a", "b"], ["a", "b", "c"], ["c"], id="one more"),
        pytest.param(["a", "b", "c"], ["a", "c"], [], id="one less"),
        pytest.param(["a", "b"], ["a", "b2"], ["b2"], id="another version"),
        pytest.param(
            ["a", "one", "two"], ["a", "one", "c"], ["one", "c"], id="one that shared a file with one that went"
        ),
        pytest.param(
            ["a", "one"], ["a", "one", "two"], ["a", "one", "two"], id="a new one has a file of one that stays"
        ),
        pytest.param(["a", "b"], ["a", "b", "takes_a"], ["a", "b", "takes_a"], id="a new one replaces a module"),
        pytest.param(["a", "b"], ["a", "b", "program_a"], ["a", "b", "program_a"], id="a new one replaces a program"),
        pytest.param(["a", "b"], ["a", "b", "has_a"], ["has_a"], id="a name alone is no clash"),
        pytest.param(["a"], ["b"], ["b"], id="nothing in common"),
    ],
)
def test_a_layer_made_with_an_earlier_one_is_the_layer_made_anew(tmp_path, inputs, before, now, fresh):
    old = earlier(tmp_path, inputs, before)
    found = keep(old, [item(name) for name in now], files(now, inputs))
    assert [wheel.name for wheel in found.fresh] == [WHEELS[name][0] for name in fresh]
    whole = layer(tmp_path, inputs, now)
    output = tmp_path / "output"
    output.mkdir()
    keep_entries(output, old.tree, found.entries, EPOCH)
    if fresh:
        own = tmp_path / "own"
        own.mkdir()
        (own / "index").write_bytes(write_index(layer(tmp_path, inputs, fresh)))
        (tmp_path / "env").rename(own / "tree")
        move_into(output, own, EPOCH)
    assert Tree.load(output / "index").sorted() == whole
    made = [entry for entry in scan(output / "tree") if entry.path in {other.path for other in whole}]
    assert made == whole


def test_a_file_that_is_not_where_its_record_says_is_installed_anew(tmp_path, inputs):
    old = earlier(tmp_path, inputs, ["a", "b"])
    index = [entry for entry in old.index if not entry.path.endswith(b"/a_single.py")]
    found = keep(
        Earlier(files=old.files, index=index, tree=old.tree), [item("a"), item("b")], files(["a", "b"], inputs)
    )
    assert [wheel.name for wheel in found.fresh] == [WHEELS["a"][0]]
    assert not any("/a/" in path for path in kept(found.entries))


def test_other_bytes_under_the_same_name_are_installed_anew(tmp_path, inputs):
    old = earlier(tmp_path, inputs, ["a", "b"])
    other = Earlier(files={**old.files, WHEELS["a"][0]: "0" * 64}, index=old.index, tree=old.tree)
    found = keep(other, [item("a"), item("b")], files(["a", "b"], inputs))
    assert [wheel.name for wheel in found.fresh] == [WHEELS["a"][0]]


def test_each_wheel_is_opened_once_or_twice_however_many_there_are(tmp_path, inputs, monkeypatch):
    names = ["a", "b", "c", "one", "has_a", "program_a"]
    old = earlier(tmp_path, inputs, ["a", "b", "c", "one"])
    opened: Counter[str] = Counter()

    class Counted(zipfile.ZipFile):
        def __init__(self, file: Path | str, *rest: object) -> None:
            opened[Path(file).name] += 1
            super().__init__(file, *rest)

    monkeypatch.setattr(zipfile, "ZipFile", Counted)
    keep(old, [item(name) for name in names], files(names, inputs))
    assert set(opened) == {WHEELS[name][0] for name in names}
    assert max(opened.values()) <= 2
