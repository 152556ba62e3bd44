"""Records of runs: their format, and what is said of outputs that differ."""

from __future__ import annotations

import io
import json
import math
import os
import struct
import zipfile
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from reprobox.digest import sha256
from reprobox.errors import IntegrityError, UsageError
from reprobox.host import Host
from reprobox.run_record.action import FAILED, Thing, actions
from reprobox.run_record.compare import Against, findings, told
from reprobox.run_record.folders import unknown
from reprobox.run_record.record import Agent, File, Read, RunRecord, Usage, Written, dump, parse, schema
from reprobox.run_record.values import Tolerance

SCHEMA = Path(__file__).parents[2] / "schemas" / "run-record.schema.json"
DIGEST = "sha256:" + "1" * 64
RECORD = RunRecord(
    reprobox="0.1",
    project="small",
    agent=Agent(name="Ada", orcid="0000-0002-1825-0097"),
    started="2026-01-02T03:04:05.678Z",
    ended="2026-01-02T03:05:05.000Z",
    command=("python3", "train.py", "--seed", "1 2"),
    workdir="/work",
    status=0,
    lock=DIGEST,
    pins=DIGEST,
    code="a" * 40,
    target="default",
    platform="linux/amd64",
    backend="sandbox",
    image=DIGEST,
    tree=DIGEST,
    inputs={"/data": Read(tree=DIGEST, size=6, count=1, files={"numbers": File(sha256=DIGEST, size=6)})},
    outputs={"/out": Written(files={"result": File(sha256=DIGEST, size=5)})},
    host=Host(name="", architecture="amd64"),
    usage=Usage(cpu=12),
)


def array(values: list[float], *, dtype: str = "<f8", shape: str = "", fortran: bool = False) -> bytes:
    """A .npy file, as NumPy's format version 1.0 has it."""
    said = f"{{'descr': {dtype!r}, 'fortran_order': {fortran}, 'shape': {shape or f'({len(values)},)'}, }}"
    header = said.encode().ljust(117) + b"\n"
    form = {"<f8": "<d", ">i2": ">h", "|b1": "?"}[dtype]
    return (
        b"\x93NUMPY\x01\x00"
        + struct.pack("<H", len(header))
        + header
        + b"".join(struct.pack(form, item) for item in values)
    )


def archive(path: Path, **arrays: bytes) -> bytes:
    with zipfile.ZipFile(path, "w") as file:
        for name, data in arrays.items():
            file.writestr(f"{name}.npy", data)
    return path.read_bytes()


def said(
    tmp_path, name: str, old: bytes, new: bytes, tolerance: Tolerance | None = None, *, here: bool = True
) -> list[str]:
    """What is told of one output that was ``old`` and is ``new``."""
    for folder, data in (("old", old), ("new", new)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_bytes(data if here or folder == "new" else b"something else")
    both = [
        {"/out": Written(files={name: File(sha256=f"sha256:{sha256(data)}", size=len(data))})} for data in (old, new)
    ]
    against = Against(originals={"/out": tmp_path / "old"}, fresh={"/out": tmp_path / "new"}, tolerance=tolerance)
    (found,) = findings(replace(RECORD, outputs=both[0]), 0, both[1], against)
    return list(told(found))


# -- the format --------------------------------------------------------------------------------------------------------


def test_a_record_is_what_was_written():
    assert parse(dump(RECORD), file="x.json") == RECORD
    odd = replace(RECORD, outputs={"/out": Written(files={os.fsdecode(b"\xff"): File(sha256=DIGEST, size=1)})})
    assert parse(dump(odd), file="x.json") == odd


def test_the_schema_is_checked_in_and_describes_what_is_written():
    text = json.dumps(schema(), indent=2) + "\n"
    if os.environ.get("REPROBOX_UPDATE_GOLDEN") == "1":
        SCHEMA.write_text(text)
    assert SCHEMA.read_text() == text
    validator = jsonschema.Draft202012Validator(schema())
    validator.validate(json.loads(dump(RECORD)))
    assert not validator.is_valid(json.loads(dump(RECORD)) | {"started": "yesterday"})


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"{", "r.json: it is not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        (b"[1]", "r.json: it is no record of a run"),
        (b'{"format": 2}', "r.json: the record has format 2, and this reprobox knows up to 1"),
    ],
)
def test_what_is_no_record(data, text):
    with pytest.raises(UsageError) as error:
        parse(data, file="r.json")
    assert str(error.value).splitlines()[0] == text


def test_mistakes_are_told_by_key_and_all_at_once():
    wrong = json.loads(dump(RECORD)) | {"status": "0", "lock": "1234"}
    with pytest.raises(UsageError) as error:
        parse(json.dumps(wrong).encode(), file="r.json")
    assert str(error.value) == (
        "r.json: status: expected an integer, found a string\n"
        "  hint: write a whole number, without quotes\n"
        'r.json: lock: expected sha256:<64 hexadecimal digits>, found "1234"'
    )


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "a//b", "./x", ""])
def test_paths_never_lead_out(path):
    outside = replace(RECORD, outputs={"/out": Written(files={path: File(sha256=DIGEST, size=1)})})
    with pytest.raises(UsageError) as error:
        parse(dump(outside), file="r.json")
    assert str(error.value).startswith(f'r.json: "/out": a path that leads out of it: {path!r}')


def test_what_cannot_be_read_is_told_without_the_machines_paths(tmp_path):
    home = tmp_path / "ada"
    home.mkdir()
    (tmp_path / "link").symlink_to(home)
    for source in (home, tmp_path / "link"):
        error = IntegrityError("it changed while it was read", where=str(home / "result"))
        assert unknown(error, source, "/out").problem == "/out/result: it changed while it was read"


# -- comparing ---------------------------------------------------------------------------------------------------------

TABLE = b"name,loss\nx,0.25\ny,2\n"


def test_tables(tmp_path):
    assert said(tmp_path, "t.csv", TABLE, TABLE.replace(b"0.25", b"0.5")) == [
        'differs /out/t.csv: 1 of 6 values differ, at most by 0.25 (row 2, column "loss")',
        '          row 2, column "loss": 0.25 was recorded, 0.5 now (off by 0.25, 0.5 of it)',
    ]


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        (TABLE, TABLE.replace(b"2\n", b"2\nz,3\n"), "3 rows were recorded, 4 now"),
        (TABLE, TABLE.replace(b"y,2", b"y,2,3"), "row 3 had 2 columns, and has 3 now"),
        (TABLE, TABLE.replace(b"0.25", b"2.5e-1"), "other bytes, though every value is the same"),
        (TABLE, b"\xff", "other bytes (sha256:{old} was recorded, sha256:{new} now); it is not UTF-8 text"),
    ],
)
def test_tables_of_another_form(tmp_path, old, new, text):
    text = text.format(old=sha256(old)[:12], new=sha256(new)[:12])
    assert said(tmp_path, "t.csv", old, new) == [f"differs /out/t.csv: {text}"]


def test_numbers_within_the_tolerance(tmp_path):
    new = TABLE.replace(b"0.25", b"0.2500001").replace(b"y,2", b"y,2.0")
    assert said(tmp_path, "t.csv", TABLE, new, Tolerance(relative=1e-6)) == [
        'close   /out/t.csv: 1 of 6 values differ, as far as allowed, at most by 1e-07 (row 2, column "loss")'
    ]


def test_words_have_no_tolerance(tmp_path):
    assert said(tmp_path, "t.csv", TABLE, TABLE.replace(b"x,", b"X,"), Tolerance(absolute=9)) == [
        "differs /out/t.csv: 1 of 6 values differ more than allowed",
        '          row 2, column "name": "x" was recorded, "X" now',
    ]


def test_json(tmp_path):
    old = b'{"loss": [1, 0.5], "best": {"epoch": 3}, "on": true, "gone": null}'
    new = b'{"loss": [1, 0.75], "best": {"epoch": 4}, "on": 1, "more": [1]}'
    assert said(tmp_path, "r.json", old, new) == [
        "differs /out/r.json: 5 of 6 values differ, at most by 1 (key best.epoch)",
        "          key loss[1]: 0.5 was recorded, 0.75 now (off by 0.25, 0.33 of it)",
        "          key best.epoch: 3 was recorded, 4 now (off by 1, 0.25 of it)",
        "          key on: true was recorded, 1 now",
        "          key gone: null was recorded, nothing now",
        "          key more: nothing was recorded, a list of 1 now",
    ]


def test_lines_of_json(tmp_path):
    assert said(tmp_path, "r.jsonl", b'{"a": 1}\n{"a": 2}\n', b'{"a": 1}\n{"a": 3}\n') == [
        "differs /out/r.jsonl: 1 of 2 values differ, at most by 1 (line 2, key a)",
        "          line 2, key a: 2 was recorded, 3 now (off by 1, 0.33 of it)",
    ]


def test_arrays(tmp_path):
    numbers = [float(number) for number in range(10_000)]
    old, new = (array(values, shape="(100, 100)") for values in (numbers, [*numbers[:-1], math.nan]))
    assert said(tmp_path, "a.npy", old, new) == [
        "differs /out/a.npy: 1 of 10000 values differ",
        "          index [99, 99]: 9999.0 was recorded, nan now",
    ]


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        (array([1, 2]), array([1, 2], shape="(2, 1)"), "the shape was (2,), and is (2, 1) now"),
        (
            array([1]),
            array([1, 1, 1, 1], dtype=">i2", shape="(1,)"),
            "{bytes}; its type '>i2' and shape (1,) do not fit its size",
        ),
        (array([1]), array([1], dtype=">i2"), "the type was <f8, and is >i2 now"),
        (
            array([1]),
            array([1]).replace(b"'<f8'", b"'|O' "),
            "{bytes}; it holds Python objects, which are never unpickled",
        ),
        (array([1]), b"\x93NUMPY\x01\x00\x10\x00__import__('os')", "{bytes}; its header is not that of a NumPy array"),
        (array([1]), b"no array at all", "{bytes}; it is no NumPy array"),
    ],
)
def test_arrays_of_another_form(tmp_path, old, new, text):
    text = text.format(bytes=f"other bytes (sha256:{sha256(old)[:12]} was recorded, sha256:{sha256(new)[:12]} now)")
    assert said(tmp_path, "a.npy", old, new) == [f"differs /out/a.npy: {text}"]


def test_the_index_of_an_array_in_fortrans_order(tmp_path):
    old, new = (array(values, shape="(2, 3)", fortran=True) for values in ([0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4.5, 5]))
    assert "index [0, 2]: 4.0 was recorded, 4.5 now" in said(tmp_path, "a.npy", old, new)[1]


def test_archives_of_arrays(tmp_path):
    old = archive(tmp_path / "a", w=array([1, 2]), b=array([0]))
    new = archive(tmp_path / "b", w=array([1, 2.5]), b=array([0]))
    assert said(tmp_path, "a.npz", old, new, Tolerance(relative=1e-3)) == [
        "differs /out/a.npz: 1 of 3 values differ more than allowed, at most by 0.5 (array w, index [1])",
        "          array w, index [1]: 2.0 was recorded, 2.5 now (off by 0.5, 0.2 of it)",
    ]


def test_only_the_first_places_are_told(tmp_path):
    lines = said(tmp_path, "a.npy", array([0.0] * 9), array([float(number) for number in range(9)]))
    assert lines[0] == "differs /out/a.npy: 8 of 9 values differ, at most by 8 (index [8])"
    assert (len(lines), lines[-1]) == (7, "          and 3 more")


def test_other_files_are_compared_as_bytes(tmp_path):
    assert said(tmp_path, "f.png", b"1", b"2", Tolerance(relative=1)) == [
        f"differs /out/f.png: other bytes (sha256:{sha256(b'1')[:12]} was recorded, sha256:{sha256(b'2')[:12]} now)"
    ]


def test_without_the_recorded_file_only_hashes_can_be_compared(tmp_path):
    (line,) = said(tmp_path, "t.csv", TABLE, b"other", Tolerance(relative=1), here=False)
    assert line.endswith("; the recorded file is not here, so its values cannot be compared")


@pytest.mark.parametrize(
    ("old", "new", "allowed"),
    [(1.0, 1.0, True), (math.nan, math.nan, True), (math.inf, math.inf, True), (math.inf, 1.0, False), (True, 1, False), (1, 1.05, True), (0.0, 0.05, False), ("a", "a", True), (10**400, 1, False), (10**400, 10**400 + 1, True), (1e308 + 1e308j, 1e308 + 1j, False), (complex(math.nan, 1), complex(math.nan, 2), False), (complex(math.nan, 1), complex(math.nan, 1), True)],
)  # fmt: skip
def test_what_a_tolerance_allows(old, new, allowed):
    assert Tolerance(relative=0.1).allows(old, new) is allowed


@pytest.mark.parametrize(
    ("name", "old", "new", "text"),
    [
        ("t.csv", b"n\n9007199254740992\n", b"n\n9007199254740993\n", "1 of 2 values differ more than allowed"),
        ("t.csv", b"n\n1e400\n", b"n\n1e401\n", "1 of 2 values differ more than allowed"),
        ("t.json", b"[9007199254740993]", b"[9007199254740992.0]", "1 of 1 value differ more than allowed"),
        ("t.json", b"[1e400]", b"[1e401]", "1 of 1 value differ more than allowed"),
        ("t.json", b"[1e400]", b"[Infinity]", "1 of 1 value differ more than allowed"),
        ("t.json", b'{"a": 1, "a": 2}', b'{"a": 5, "a": 2}', "it is not JSON: a key is there twice in one table"),
    ],
)
def test_values_that_only_look_the_same(tmp_path, name, old, new, text):
    assert text in said(tmp_path, name, old, new, Tolerance())[0]


def test_an_archive_that_hides_arrays(tmp_path):
    same = archive(tmp_path / "a", w=array([1]))
    with zipfile.ZipFile(tmp_path / "b", "w") as twice:
        twice.writestr("w", array([2]))
        twice.writestr("w.npy", array([1]))
    (line,) = said(tmp_path, "a.npz", same, (tmp_path / "b").read_bytes(), Tolerance(relative=9))
    assert line.endswith("; it has two arrays of one name")


@pytest.mark.parametrize("place", range(4))
def test_an_archive_that_is_damaged(tmp_path, place):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("w.npy", array([1, 2, 3]))
    damaged = bytearray(data.getvalue())
    damaged[30 + len("w.npy") + place] ^= 0xFF
    (line,) = said(tmp_path, "a.npz", data.getvalue(), bytes(damaged), Tolerance(relative=9))
    assert "; it is no archive of arrays: " in line


def test_outputs_of_one_run_only_and_another_status(tmp_path):
    old = Written(files={"a.csv": File(sha256=DIGEST, size=1)}, links={"l": "a.csv"})
    new = Written(files={"b.csv": File(sha256=DIGEST, size=1)}, links={"l": "b.csv"})
    against = Against(originals={"/out": tmp_path}, fresh={"/out": tmp_path})
    found = list(findings(replace(RECORD, outputs={"/out": old}), 3, {"/out": new}, against))
    assert [line for item in found for line in told(item)] == [
        "differs exit status: 0 was recorded, 3 now",
        "missing /out/a.csv: the recorded run wrote it, and this one did not",
        "new     /out/b.csv: this run wrote it, and the recorded one did not",
        "differs /out/l: a link to a.csv was recorded, b.csv now",
    ]
    some = replace(against, only=("a.*",))
    assert [item.output for item in findings(replace(RECORD, outputs={"/out": old}), 0, {"/out": new}, some)] == [
        "/out/a.csv"
    ]


# -- for publications --------------------------------------------------------------------------------------------------


def test_actions():
    early = replace(RECORD, started="2025-01-02T03:04:05Z", status=130, signal="SIGINT", agent=None)
    many = replace(RECORD, inputs={"/data": Read(tree=DIGEST, size=9, count=5000)})
    first, second = actions({"a": many, "b": early})
    assert (first.name, first.status, first.error, first.agent) == ("b", FAILED, "ended by SIGINT", "")
    assert (second.name, second.error, second.orcid) == ("a", "", "0000-0002-1825-0097")
    assert second.command == "python3 train.py --seed '1 2'"
    assert second.objects == (Thing(path="/data", sha256="1" * 64, size=9, folder=True),)
    assert second.results == first.results == (Thing(path="/out/result", sha256="1" * 64, size=5),)
