"""Notes on commits: text whose first lines say where its files begin, and which believes nothing else."""

from __future__ import annotations

import pytest

from reprobox.attach.git_tag import Note, parse_note
from reprobox.errors import IntegrityError

NOTE = Note(folder="examples/xor", manifest=b"[project]\n", lock=b"version = 1\n\n")


@pytest.mark.parametrize("folder", ["", "examples/xor", "a b"])
def test_a_note_is_read_as_it_was_written(folder: str) -> None:
    note = Note(folder=folder, manifest=NOTE.manifest, lock=NOTE.lock)
    assert parse_note(note.data(), "x") == note


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"Reviewed-by: somebody\n", "its note is none of reprobox's"),
        (NOTE.data()[:-1], "research.lock in its note is damaged"),
        (NOTE.data() + b"x", "its note has more or less in it than it says"),
        (NOTE.data().replace(b"[project]", b"[Project]"), "research.toml in its note is damaged"),
        (NOTE.data().replace(b"examples/xor", b"../../etc"), "its note names the folder '../../etc', which is no path in it"),
        (NOTE.data().replace(b"examples/xor", b"/etc"), "its note names the folder '/etc', which is no path in it"),
        (NOTE.data().replace(b"research.lock 13 ", b"research.lock 999999999999 "), "its note does not say where research.lock is"),
        (b"reprobox 1\n\n", "its note does not say where research.toml is"),
    ],
)  # fmt: skip
def test_a_note_that_says_something_else_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        parse_note(data, "v1.0")
    assert str(caught.value) == (f"v1.0: {message}\n  hint: its authors write it anew with `reprobox attach --git`")
