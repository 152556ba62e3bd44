"""The values in a file that can be compared one by one: CSV, JSON and NumPy. Nothing in them is ever run or unpickled.

A file is read as an ordered stream of places and values, and two files are compared place by place.
"""

from __future__ import annotations

import ast
import csv
import io
import json
import math
import re
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

Value: TypeAlias = float | int | complex | str | bool | None

LARGEST = 1 << 30
_DEEPEST = 200
_CHUNK = 1 << 16


class UnreadableError(Exception):
    """The file is not what its name says, or holds what is not read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tolerance:
    """How far numbers may be apart: relative to the larger of the two, or absolute. Zero is not at all."""

    relative: float = 0.0
    absolute: float = 0.0

    def allows(self, old: Value, new: Value) -> bool:
        """Whether two values count as the same."""
        if isinstance(old, bool) or isinstance(new, bool) or not (_is_number(old) and _is_number(new)):
            return type(old) is type(new) and old == new
        if isinstance(old, complex) and isinstance(new, complex) and _is_nan(old) and _is_nan(new):
            return self.allows(old.real, new.real) and self.allows(old.imag, new.imag)
        if old == new or (_is_nan(old) and _is_nan(new)):
            return True
        off = distance(old, new)
        return math.isfinite(off) and off <= max(self.absolute, self.relative * _largest(old, new))


def _is_number(value: Value) -> bool:
    return isinstance(value, int | float | complex)


def _is_nan(value: Any) -> bool:
    return bool(value != value)  # noqa: PLR0124 - what NaN is


def distance(old: Value, new: Value) -> float:
    """How far apart two numbers are; not a number for anything else."""
    if isinstance(old, bool) or isinstance(new, bool):
        return math.nan
    if isinstance(old, int | float | complex) and isinstance(new, int | float | complex):
        try:
            return float(abs(_exact(old, new) - _exact(new, old)))
        except OverflowError:  # beyond any float
            return math.inf
    return math.nan


def _exact(number: complex, other: complex) -> Any:
    """The number as it is taken from ``other``: a float is not what an integer is rounded to."""
    return (
        Fraction(number) if isinstance(number, float) and isinstance(other, int) and math.isfinite(number) else number
    )


def _largest(*numbers: Any) -> float:
    """The magnitude of the larger one; of what is beyond any float, the largest float."""
    try:
        return max(float(abs(number)) for number in numbers)
    except OverflowError:
        return sys.float_info.max


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where two files differ: ``where`` in the words of their format, and both values as text."""

    where: str
    old: str
    new: str
    off: float = math.nan  # how far apart, where both are numbers
    relative: float = math.nan  # the same as a part of the larger one


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """``values`` were compared; of those that differ ``places`` are beyond the tolerance, ``within`` are not.

    ``shape`` says why values could not be compared one by one: other rows, keys, shapes or types.
    """

    values: int
    places: tuple[Place, ...]
    within: tuple[Place, ...]
    shape: str = ""


def can_compare(path: str) -> bool:
    """Whether values of such a file can be compared, by its name."""
    return Path(path).suffix.lower() in _READERS


def compare(old: Path, new: Path, tolerance: Tolerance) -> Compared:
    """Two files of one name. Raises :class:`UnreadableError`."""
    reader = _READERS[new.suffix.lower()]
    for path in (old, new):
        if path.stat().st_size > LARGEST:
            raise UnreadableError("it is larger than 1 GiB")
    return reader(old.read_bytes(), new.read_bytes(), tolerance)


def _judged(pairs: Iterator[tuple[str, Value, Value]], tolerance: Tolerance) -> Compared:
    values, places, within = 0, [], []
    for where, old, new in pairs:
        values += 1
        if type(old) is type(new) and old == new:
            continue
        if tolerance.allows(old, new):
            if not (_is_nan(old) and _is_nan(new)) and distance(old, new) > 0:
                within.append(_place(where, old, new))
        else:
            places.append(_place(where, old, new))
    return Compared(values=values, places=tuple(places), within=tuple(within))


def _place(where: str, old: Value, new: Value) -> Place:
    off = distance(old, new)
    largest = _largest(old, new) if not math.isnan(off) else 0.0
    relative = off / largest if largest and math.isfinite(off) and math.isfinite(largest) else math.nan
    return Place(where=where, old=_said(old), new=_said(new), off=off, relative=relative)


def _said(value: Value) -> str:
    if isinstance(value, _Words):
        return str(value)
    if isinstance(value, str):
        return json.dumps(value if len(value) <= 60 else f"{value[:57]}...", ensure_ascii=False)
    return json.dumps(value) if value is None or isinstance(value, bool) else repr(value)


def _differ(shape: str) -> Compared:
    return Compared(values=0, places=(), within=(), shape=shape)


# -- CSV ---------------------------------------------------------------------------------------------------------------


def _csv(old: bytes, new: bytes, tolerance: Tolerance) -> Compared:
    first, second = _rows(old), _rows(new)
    if len(first) != len(second):
        return _differ(f"{len(first)} rows were recorded, {len(second)} now")
    header = first[0] if first and first[0] == second[0] and all(map(_is_name, first[0])) else []
    for number, (one, other) in enumerate(zip(first, second, strict=True), start=1):
        if len(one) != len(other):
            return _differ(f"row {number} had {len(one)} columns, and has {len(other)} now")
    return _judged(_cells(first, second, header), tolerance)


def _cells(first: list[list[str]], second: list[list[str]], header: list[str]) -> Iterator[tuple[str, Value, Value]]:
    """Rows are counted as in an editor or a spreadsheet: the header, if there is one, is row 1."""
    for number, (one, other) in enumerate(zip(first, second, strict=True), start=1):
        for column, (old, new) in enumerate(zip(one, other, strict=True)):
            name = f'"{header[column]}"' if column < len(header) else str(column + 1)
            yield f"row {number}, column {name}", _cell(old), _cell(new)


def _rows(data: bytes) -> list[list[str]]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UnreadableError("it is not UTF-8 text") from None
    top = text[: 1 << 16]
    counts = {mark: top.count(mark) for mark in (",", "\t", ";")}
    delimiter = max(counts, key=lambda mark: counts[mark])
    csv.field_size_limit(LARGEST)
    try:
        return [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if row]
    except csv.Error as error:
        raise UnreadableError(str(error)) from None


def _is_name(text: str) -> bool:
    return isinstance(_cell(text), str)


_INTEGER = re.compile(r"[+-]?[0-9]{1,400}")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[+-]?(?:inf(?:inity)?|nan)", re.IGNORECASE)


def _cell(text: str) -> Value:
    """Integers have all their digits; what is beyond any float stays text, for it is not infinite."""
    word = text.strip()
    if _INTEGER.fullmatch(word):
        return int(word)
    number = float(word) if _NUMBER.fullmatch(word) else text
    return text if isinstance(number, float) and math.isinf(number) and "n" not in word.lower() else number


# -- JSON --------------------------------------------------------------------------------------------------------------


def _json(old: bytes, new: bytes, tolerance: Tolerance) -> Compared:
    return _judged(_pairs("", _parsed(old), _parsed(new), 0), tolerance)


def _json_lines(old: bytes, new: bytes, tolerance: Tolerance) -> Compared:
    first, second = ([_parsed(line) for line in data.splitlines() if line.strip()] for data in (old, new))
    if len(first) != len(second):
        return _differ(f"{len(first)} lines were recorded, {len(second)} now")
    pairs = (
        (f"line {number}, {where}", before, after)
        for number, (one, other) in enumerate(zip(first, second, strict=True), start=1)
        for where, before, after in _pairs("", one, other, 0)
    )
    return _judged(pairs, tolerance)


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data, parse_float=_float, object_pairs_hook=_table)
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"it is not JSON: {error}") from None


class _Words(str):
    """What stands for a value that is not one."""

    __slots__ = ()


def _float(text: str) -> float | _Words:
    """What is beyond any float stays text, for it is not infinite."""
    number = float(text)
    return _Words(text) if math.isinf(number) else number


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):  # the others would not be compared
        raise ValueError("a key is there twice in one table")
    return table


_ABSENT = _Words("nothing")


def _pairs(path: str, old: Any, new: Any, depth: int) -> Iterator[tuple[str, Value, Value]]:
    if depth > _DEEPEST:
        raise UnreadableError(f"it is nested more than {_DEEPEST} levels deep")
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*old, *(name for name in new if name not in old)]:
            inner = f"{path}.{name}" if path else name
            if name in old and name in new:
                yield from _pairs(inner, old[name], new[name], depth + 1)
            else:
                yield f"key {inner}", _outline(old, name), _outline(new, name)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from _pairs(f"{path}[{number}]", one, other, depth + 1)
    elif isinstance(old, dict | list) or isinstance(new, dict | list):
        yield f"key {path or '.'}", _kind(old), _kind(new)
    else:
        yield f"key {path or '.'}", old, new


def _outline(table: Mapping[str, Any], name: str) -> Value:
    return _kind(table[name]) if name in table else _ABSENT


def _kind(value: Any) -> _Words:
    if isinstance(value, dict):
        return _Words(f"a table of {len(value)} keys")
    if isinstance(value, list):
        return _Words(f"a list of {len(value)}")
    return _Words(_said(value))


# -- NumPy -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Array:
    """An array as its file says it. ``form`` is how :mod:`struct` reads an item; empty for bytes to compare."""

    dtype: str
    shape: tuple[int, ...]
    fortran: bool
    data: memoryview
    width: int
    form: str

    def index(self, flat: int) -> str:
        """Where the item at a position of the data is: ``[2, 0]``, as Python indexes it."""
        found = []
        for length in self.shape if self.fortran else reversed(self.shape):
            flat, place = divmod(flat, length)
            found.append(place)
        return str(found if self.fortran else found[::-1])


#: Of numpy.dtype.str, without its byte order: https://numpy.org/doc/stable/reference/arrays.interface.html
_FORMS = {
    "b1": "?", "i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I", "i8": "q", "u8": "Q",
    "f2": "e", "f4": "f", "f8": "d", "c8": "ff", "c16": "dd",
}  # fmt: skip
_MAGIC = b"\x93NUMPY"


def read_array(data: bytes) -> Array:
    """A ``.npy`` file, by its own header. Raises :class:`UnreadableError`; Python objects in it are never unpickled.

    https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
    """
    if data[:6] != _MAGIC or len(data) < 12:
        raise UnreadableError("it is no NumPy array")
    wide = data[6] > 1
    (length,) = struct.unpack_from("<I" if wide else "<H", data, 8)
    start = (12 if wide else 10) + length
    try:
        header = ast.literal_eval(data[12 if wide else 10 : start].decode("utf-8" if data[6] > 2 else "latin1"))
        dtype, fortran, shape = header["descr"], bool(header["fortran_order"]), tuple(map(int, header["shape"]))
    except (ValueError, SyntaxError, KeyError, TypeError, RecursionError, MemoryError):
        raise UnreadableError("its header is not that of a NumPy array") from None
    if not isinstance(dtype, str):
        raise UnreadableError("it is an array of records, which are compared as bytes")
    if "O" in dtype:
        raise UnreadableError("it holds Python objects, which are never unpickled")
    order, kind = dtype[:1] or "?", dtype[1:]
    form = _FORMS.get(kind, "")
    found = re.fullmatch(r"[UVSaMm]([0-9]+)(?:\[.*\])?", kind)
    width = struct.calcsize(f"<{form}") if form else int(found[1]) * (4 if kind[0] == "U" else 1) if found else 0
    width = 8 if kind[:1] in ("M", "m") else width
    body = memoryview(data)[start:]
    if order not in "<>|=" or not width or min(shape, default=1) < 0 or math.prod(shape) * width != len(body):
        raise UnreadableError(f"its type {dtype!r} and shape {shape} do not fit its size")
    return Array(
        dtype=dtype,
        shape=shape,
        fortran=fortran,
        data=body,
        width=width,
        form=f"{'>' if order == '>' else '<'}{form}" if form else "",
    )


def _npy(old: bytes, new: bytes, tolerance: Tolerance) -> Compared:
    return _arrays(read_array(old), read_array(new), tolerance)


def _arrays(old: Array, new: Array, tolerance: Tolerance) -> Compared:
    if old.shape != new.shape:
        return _differ(f"the shape was {old.shape}, and is {new.shape} now")
    if old.dtype != new.dtype or old.fortran != new.fortran:
        return _differ(f"the type was {_type(old)}, and is {_type(new)} now")
    found = _judged(_items(old, new), tolerance)
    return Compared(values=math.prod(old.shape), places=found.places, within=found.within)


def _type(array: Array) -> str:
    return f"{array.dtype} in Fortran's order" if array.fortran else array.dtype


def _items(old: Array, new: Array) -> Iterator[tuple[str, Value, Value]]:
    """Items in chunks whose bytes differ; all others are the same."""
    step = max(_CHUNK // old.width, 1) * old.width
    for start in range(0, len(old.data), step):
        one, other = old.data[start : start + step], new.data[start : start + step]
        if one == other:
            continue
        pairs = zip(_unpacked(one, old), _unpacked(other, new), strict=True)
        for number, (before, after) in enumerate(pairs, start=start // old.width):
            if before != after:
                yield f"index {old.index(number)}", before, after


def _unpacked(data: memoryview, array: Array) -> Iterator[Value]:
    if not array.form:
        yield from (bytes(data[at : at + array.width]).hex() for at in range(0, len(data), array.width))
    elif len(array.form) == 3:
        yield from (complex(*pair) for pair in struct.iter_unpack(array.form, data))
    else:
        yield from (item for (item,) in struct.iter_unpack(array.form, data))


def _npz(old: bytes, new: bytes, tolerance: Tolerance) -> Compared:
    first, second = _members(old), _members(new)
    if first.keys() != second.keys():
        return _differ(f"the arrays were {', '.join(sorted(first))}, and are {', '.join(sorted(second))} now")
    values = 0
    places: list[Place] = []
    within: list[Place] = []
    for name in sorted(first):
        found = _npy(first[name], second[name], tolerance)
        if found.shape:
            return _differ(f"array {name}: {found.shape}")
        values += found.values
        for kept, items in ((places, found.places), (within, found.within)):
            kept += [
                Place(
                    where=f"array {name}, {item.where}",
                    old=item.old,
                    new=item.new,
                    off=item.off,
                    relative=item.relative,
                )
                for item in items
            ]
    return Compared(values=values, places=tuple(places), within=tuple(within))


def _members(data: bytes) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            items = archive.infolist()
            if sum(item.file_size for item in items) > LARGEST:
                raise UnreadableError("its arrays are larger than 1 GiB")
            found = {item.filename.removesuffix(".npy"): archive.read(item) for item in items}
            if len(found) < len(items):  # the others would not be compared
                raise UnreadableError("it has two arrays of one name")
            return found
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError, RuntimeError, NotImplementedError, EOFError) as error:
        raise UnreadableError(f"it is no archive of arrays: {error}") from None


_READERS = {
    ".csv": _csv,
    ".tsv": _csv,
    ".json": _json,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".npy": _npy,
    ".npz": _npz,
}
