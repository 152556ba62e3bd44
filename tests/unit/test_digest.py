"""Canonical bytes, layer ids and the tree digest: frozen, and checked against other people's code."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import rfc8785

from reprobox.digest import (
    Entry,
    LayerInputs,
    canonical,
    escape,
    git_blob,
    hidden,
    layer_id,
    read_index,
    tree_digest,
    unescape,
    write_index,
)
from reprobox.tree import scan

TESTS = Path(__file__).resolve().parents[1]
IDS = json.loads((TESTS / "golden/layer_ids.json").read_text())

INPUTS = LayerInputs(
    kind="apt",
    recipe=1,
    files=(("deb", "a_1.deb", "aa" * 32), ("deb", "b_2.deb", "bb" * 32)),
    options={"manual": ["a", "b"], "recommends": False},
    environment={"LANG": "C"},
    epoch=1_700_000_000,
    ancestors=("11" * 32, "22" * 32),
)


def digest_by_script(folder: Path) -> str:
    argv = [sys.executable, "-I", str(TESTS / "independent/tree_digest.py"), os.fsdecode(folder)]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


# -- canonical JSON ----------------------------------------------------------------------------------------------------


def test_keys_are_sorted_as_rfc_8785_shows():
    # Section 3.2.3: by UTF-16 units, so that a surrogate pair comes before U+FB33.
    value = {"\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\U0001f600": 5, "\u0080": 6, "\u00f6": 7}
    assert list(json.loads(canonical(value))) == ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]
    assert canonical(value) == rfc8785.dumps(value)


def test_strings_are_escaped_as_rfc_8785_shows():
    text = "".join(map(chr, range(0x20))) + '"\\/\x7f\u2028€😀'
    assert canonical(text) == rfc8785.dumps(text)


@pytest.mark.parametrize("value", [1.5, [2.0], {"a": float("nan")}, {1}, b"ab", object()])
def test_what_encoders_disagree_on_is_refused(value):
    with pytest.raises(TypeError):
        canonical(value)


@pytest.mark.parametrize("value", [2**53, -(2**53), "\ud800"])
def test_what_rfc_8785_cannot_say_is_refused(value):
    with pytest.raises(ValueError, match=r"range|surrogates"):
        canonical(value)
    with pytest.raises((UnicodeEncodeError, rfc8785.CanonicalizationError)):
        rfc8785.dumps(value)


def test_the_largest_integers_are_written():
    assert canonical([2**53 - 1, -(2**53) + 1]) == b"[9007199254740991,-9007199254740991]"


# -- layer ids ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", IDS["vectors"], ids=lambda vector: vector["name"])
def test_layer_ids_are_frozen(vector):
    asked = dict(vector["inputs"])
    files = tuple(tuple(item) for item in asked.pop("files"))
    inputs = LayerInputs(files=files, ancestors=tuple(asked.pop("ancestors")), **asked)
    assert canonical(inputs.document()).decode() == vector["canonical"]
    assert layer_id(inputs) == vector["id"]
    assert rfc8785.dumps(json.loads(vector["canonical"])).decode() == vector["canonical"]
    assert hashlib.sha256(vector["canonical"].encode()).hexdigest() == vector["id"]


OTHER = {
    "kind": "pip",
    "recipe": 2,
    "files": (("deb", "a_1.deb", "ab" * 32), ("deb", "b_2.deb", "bb" * 32)),
    "options": {"manual": ["b", "a"], "recommends": False},
    "environment": {"LANG": "C.UTF-8"},
    "epoch": 1_700_000_001,
    "ancestors": ("22" * 32, "11" * 32),
}


def test_every_field_counts():
    assert OTHER.keys() == {field.name for field in dataclasses.fields(LayerInputs)}


@pytest.mark.parametrize("name", sorted(OTHER))
def test_a_field_counts(name):
    assert layer_id(dataclasses.replace(INPUTS, **{name: OTHER[name]})) != layer_id(INPUTS)


def test_the_versions_of_format_and_normaliser_count(monkeypatch):
    before = layer_id(INPUTS)
    monkeypatch.setattr("reprobox.digest.NORMALISER", 99)
    other = layer_id(INPUTS)
    monkeypatch.setattr("reprobox.digest.LAYER_FORMAT", "reprobox-layer-2")
    assert len({before, other, layer_id(INPUTS)}) == 3


def test_the_order_of_files_and_keys_does_not_count():
    options = dict(reversed(list(INPUTS.options.items())))
    assert layer_id(dataclasses.replace(INPUTS, files=INPUTS.files[::-1], options=options)) == layer_id(INPUTS)


# -- the tree digest ---------------------------------------------------------------------------------------------------


NAMES = [
    b"plain",
    b"a space",
    b"a\nnewline",
    b"a\\backslash",
    b"a\\x20",
    b"a\\x5Cx0A",
    b"\\",
    b"not utf-8 \xff\xfe",
    "ü€😀".encode(),
    b"tab\tand\rreturn\x0b\x1c\x85",
    b"-",
    b".hidden",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_escaped_and_back(name):
    text = escape(name)
    assert not set(text) & set(" \n")
    assert unescape(text) == name
    entries = [Entry("l", 0o777, text, name), Entry("w", 0, "-", name)]
    assert read_index(write_index(entries)) == entries


def test_escapes_are_as_the_definition_writes_them():
    assert escape(b"a b\nc\\d\xff") == r"a\x20b\x0Ac\x5Cd" + "\xff"


def test_a_tree_digest_is_frozen():
    entries = [
        Entry("d", 0o755, "-", b"a"),
        Entry("f", 0o4711, "00" * 32, b"a/b c"),
        Entry("l", 0o777, escape(b"/x y"), b"a.b"),
        Entry("f", 0o644, "11" * 32, b"\xff"),
    ]
    # printf '%b' of the lines in the definition, through sha256sum(1)
    text = b"d 0755 - a\nl 0777 /x\\x20y a.b\nf 4711 %s a/b\\x20c\nf 0644 %s \xff\n" % (b"00" * 32, b"11" * 32)
    found = subprocess.run(["sha256sum"], input=text, capture_output=True, check=True).stdout.split()[0].decode()
    assert tree_digest(entries) == found == "2e1184b037024ae5348ee198f7b85182e7f60a3823d3082ef5636fdb3ded2a33"


def test_order_does_not_count_and_whiteouts_are_no_paths():
    entries = [Entry("d", 0o755, "-", b"a"), Entry("d", 0o755, "-", b"a/b"), Entry("d", 0o755, "-", b"a-b")]
    whiteout = Entry("w", 0, "-", b"c")
    assert tree_digest([*reversed(entries), whiteout]) == tree_digest(entries)


HIDDEN = [
    *(f"{top}/{name}" for top in ("dev", "proc", "sys", "run", "tmp") for name in ("x", "x/y")),
    *(f"etc/{name}" for name in ("resolv.conf", "hosts", "hostname", "mtab")),
    ".dockerenv",
    ".exec",
    ".run",
    ".shell",
    ".singularity.d",
    ".singularity.d/env",
    ".singularity.d/env/10.sh",
    ".test",
    "environment",
    "singularity",
]
SHOWN = [
    *(
        "dev",
        "proc",
        "sys",
        "run",
        "tmp",
        "tmpx/a",
        "var/tmp/a",
        "var/run",
        "a/dev/x",
        "etc/hosts.allow",
        "etc/host.conf",
    ),
    *("a/.dockerenv", "environments", "environment.yml", "usr/etc/hosts", "etc", ".singularity", "etc/hosts/inside"),
]


@pytest.mark.parametrize("path", HIDDEN)
def test_what_the_digest_leaves_out(path):
    assert hidden(path.encode())
    assert tree_digest([Entry("f", 0o644, "00" * 32, path.encode())]) == tree_digest([])


@pytest.mark.parametrize("path", SHOWN)
def test_what_the_digest_keeps(path):
    assert not hidden(path.encode())


def a_tree_with_everything(root: Path) -> Path:
    for name in NAMES:
        folder = os.path.join(os.fsencode(root), b"names", name)
        os.makedirs(folder)
        Path(os.fsdecode(os.path.join(folder, name))).write_bytes(name)
        os.symlink(name + b" target\n\\", os.path.join(folder, b"link"))
    for path in sorted({*HIDDEN, *SHOWN} - {"etc/hosts/inside"}, reverse=True):  # what is deeper first
        target = root / path
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(path)
    for mode in (0o000, 0o111, 0o400, 0o644, 0o755, 0o1777, 0o2755, 0o4755, 0o6711):
        (root / f"mode-{mode:o}").write_text("x")
        (root / f"mode-{mode:o}").chmod(mode)
        (root / f"folder-{mode:o}").mkdir()
        (root / f"folder-{mode:o}").chmod(mode | 0o500)
    os.link(root / "mode-644", root / "linked")
    (root / "dangling").symlink_to("nowhere")
    (root / "empty").touch()
    os.mkfifo(root / "fifo")
    os.utime(root / "empty", (1, 1))
    return root


def test_the_independent_script_agrees(tmp_path, umask):
    tree = a_tree_with_everything(tmp_path)
    for path in ("mode-0", "mode-111"):  # the script reads as its user may
        if os.geteuid() != 0:
            (tree / path).chmod(0o400)
    assert digest_by_script(tree) == "sha256:" + tree_digest(scan(tree))


@pytest.mark.parametrize(
    "edit",
    [
        lambda root: (root / "empty").write_text("no longer"),
        lambda root: (root / "empty").chmod(0o640),
        lambda root: (root / "folder-755").chmod(0o711),
        lambda root: (root / "empty").rename(root / "emptier"),
        lambda root: ((root / "dangling").unlink(), (root / "dangling").symlink_to("elsewhere")),
        lambda root: (root / "new").mkdir(),
        lambda root: (root / "empty").unlink(),
    ],
)
def test_both_notice_a_difference(tmp_path, umask, edit):
    for name in ("empty", "folder-755/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    before = digest_by_script(tmp_path), tree_digest(scan(tmp_path))
    edit(tmp_path)
    after = digest_by_script(tmp_path), tree_digest(scan(tmp_path))
    assert before[0] != after[0]
    assert after == ("sha256:" + after[1], after[1])


def test_both_are_blind_to_times_and_run_time_folders(tmp_path):
    (tmp_path / "a").touch()
    (tmp_path / "tmp").mkdir()
    before = digest_by_script(tmp_path)
    os.utime(tmp_path / "a", (1, 1))
    (tmp_path / "tmp/x").touch()
    assert digest_by_script(tmp_path) == before == "sha256:" + tree_digest(scan(tmp_path))


def test_a_blob_is_named_as_git_names_it(tmp_path):
    data = b"some\0bytes\n"
    argv = ["git", "hash-object", "--stdin"]
    assert git_blob(data) == subprocess.run(argv, input=data, capture_output=True, check=True).stdout.decode().strip()
