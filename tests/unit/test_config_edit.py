"""Places that are added to the settings: all else of the text stays as it is."""

from __future__ import annotations

import json
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reprobox.config_edit import with_places
from reprobox.errors import UsageError

OLD = """\
# the lab's machine
jobs = 4   # it is busy

vaults = [
    "/archive/lab",   # the group's
]

[archives]
debian = ['https://a.example/debian']

[store]
path = "/scratch/me"
"""


def test_lists_grow_as_they_are_written():
    text = with_places(
        OLD, vaults=["/new"], archives={"debian": ["https://b.example/debian"], "x": ["https://x.example"]}
    )
    assert text == OLD.replace(
        """    "/archive/lab",   # the group's
""",
        """    "/archive/lab",   # the group's
    "/new",
""",
    ).replace(
        "debian = ['https://a.example/debian']\n",
        """debian = ['https://a.example/debian', 'https://b.example/debian']
x = ["https://x.example"]
""",
    )


def test_what_is_there_is_not_added_twice():
    assert with_places(OLD, vaults=["/archive/lab"], archives={"debian": ["https://a.example/debian"]}) == OLD


@pytest.mark.parametrize(
    "text", ["", "# only this\n", "[store]\npath = '/x'", "jobs = 3\r\n[index]\r\nurl = 'https://i.example'\r\n"]
)
def test_new_tables_and_keys(text):
    edited = with_places(text, vaults=["/v"], archives={"debian": ["https://a.example"]})
    assert tomllib.loads(edited) == {
        **tomllib.loads(text),
        "vaults": ["/v"],
        "archives": {"debian": ["https://a.example"]},
    }
    for line in text.splitlines():
        assert line in edited


def test_what_cannot_be_edited_is_left_to_its_owner():
    with pytest.raises(UsageError) as caught:
        with_places("archives.debian = 'no list'\n", archives={"debian": ["https://a.example"]})
    assert str(caught.value).startswith(
        "the settings cannot be edited without moving something else of them\n  hint: write"
    )


words = st.text(alphabet="abc/:'\"\\\\# é", min_size=1, max_size=8).map(lambda text: f"/{text}")


@settings(max_examples=25)
@given(old=st.lists(words, max_size=3), new=st.lists(words, min_size=1, max_size=3), several=st.booleans())
def test_what_is_added_is_there_and_nothing_else_moves(old, new, several):
    items = ",\n    ".join(json.dumps(item, ensure_ascii=False) for item in old)
    text = f"# mine\nvaults = [{f'{chr(10)}    {items},{chr(10)}' if several and old else items.replace(chr(10) + '    ', ' ')}]\n"
    edited = with_places(text, vaults=new, archives={})
    assert tomllib.loads(edited)["vaults"] == [*old, *(item for item in dict.fromkeys(new) if item not in old)]
    assert edited.startswith(text.rstrip("]\n,"))
