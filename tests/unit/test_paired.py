"""Locks that strangers gave: whatever is wrong with their bytes is that, and nothing for the reader to lock anew."""

from __future__ import annotations

import pytest

from reprobox import paired
from reprobox.errors import IntegrityError, LockError
from reprobox.paired import foreign_lock

FIX = "it is damaged, or was changed after it was locked: get it again from where it was published, or ask its authors"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xff", "the lock is no lock: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
        (b"a = " + b"[" * 100, "the lock is no lock: lists and tables are nested more than 64 deep"),
        (b"version = ", "not TOML: Invalid value (at end of document)"),
        (b"", "it has no format version"),
        (b'version = 1\nchecksum = "sha256:0"\n', "its content does not match its checksum"),
    ],
)
def test_bytes_that_are_wrong(data: bytes, message: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        foreign_lock(data, "paper.pdf: research.lock")
    assert caught.value.status == 5
    assert str(caught.value).startswith(f"paper.pdf: research.lock: {message}")
    assert caught.value.hint == FIX


def test_a_lock_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paired, "MOST_LOCK", 10)
    with pytest.raises(IntegrityError, match="the lock has more than 10 bytes"):
        foreign_lock(b"#" * 11, "paper.pdf: research.lock")


def test_a_lock_of_a_newer_reprobox_is_not_damaged() -> None:
    with pytest.raises(LockError, match="the lock has format 99, and this reprobox knows up to ") as caught:
        foreign_lock(b"version = 99\n", "paper.pdf: research.lock")
    assert caught.value.status == 3
