"""Laws of editing: what is added and removed again was never there, and nothing else of the text is touched."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from reprobox.manifest_edit import add, remove

NAMES = [f"p{number}" for number in range(6)]
COMMENT = st.sampled_from(["", "", "  # why", ' # a, "b" ] c', "\t#"])
SPACE = st.sampled_from(["", " ", "  ", "\t"])


def name_of(text: str) -> str:
    return re.split(r"[=<>]", text)[0]


@st.composite
def lists(draw: st.DrawFn, names: list[str]) -> str:
    """A TOML array of ``names`` as somebody may have written it."""
    if draw(st.booleans()):  # on one line
        items = ", ".join(f"{draw(st.sampled_from(QUOTES))(name)}" for name in names)
        comma = draw(st.sampled_from(["", ",", " ,"])) if names else ""
        return f"[{draw(SPACE)}{items}{comma}{draw(SPACE)}]"
    indent = draw(st.sampled_from(["", "  ", "    ", "\t"]))
    quote = draw(st.sampled_from(QUOTES))
    lines = ["[" + draw(COMMENT)]
    for number, name in enumerate(names):
        if draw(st.booleans()):
            lines += draw(st.sampled_from([[""], [f"{indent}# group"], ["", f"{indent}# group, [1]"]]))
        last = number == len(names) - 1
        comma = draw(st.sampled_from(["", ","])) if last else ","
        lines.append(f"{indent}{quote(name)}{comma}{draw(COMMENT)}")
    lines += draw(st.sampled_from([[], [f"{indent}# the end"], [""]]))
    return "\n".join((*lines, f"{draw(SPACE)}]"))


QUOTES = [lambda name: f'"{name}"', lambda name: f"'{name}'"]


@st.composite
def manifests(draw: st.DrawFn) -> str:
    """A manifest with some layers of two kinds, comments and blank lines, and tables below."""
    blocks = ['# a manifest\n[project]\nname = "x" # its name\n']
    for number in range(draw(st.integers(0, 3))):
        kind = draw(st.sampled_from(["apt", "pip", "run"]))
        body = f'[[layers]]\nname = "l{number}"\nkind = "{kind}"\n'
        if kind == "run":
            body += 'script = """\n[[layers]]\npackages = ["p0"]\n"""\n'
        else:
            names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True))
            body += f"packages = {draw(lists(names))}{draw(COMMENT)}\n"
        if draw(st.booleans()):
            body += '[layers.env]\nA = "1"\n'
        blocks.append(draw(st.sampled_from(["", "# about the layer\n"])) + body)
    blocks += draw(st.sampled_from([[], ["# about it\n[env]\nA = 'b'\n"], ["[run]\ncommand = ['x']\n", "[env]\n"]]))
    text = draw(st.sampled_from(["\n", "\n\n", ""])).join(blocks)
    return text if draw(st.booleans()) else text.rstrip("\n")


def layers(text: str) -> list[dict[str, Any]]:
    return tomllib.loads(text).get("layers", [])


@given(
    manifests(),
    st.sampled_from(["apt", "pip"]),
    st.lists(st.sampled_from([*NAMES, "new", "new2>=2"]), min_size=1, max_size=3),
)
def test_what_is_added_and_removed_again_was_never_there(text, kind, packages):
    of_kind = [layer["name"] for layer in layers(text) if layer["kind"] == kind]
    layer = of_kind[0] if of_kind else None
    there = {name for item in layers(text) if item["name"] == layer for name in item["packages"]}
    edited, done = add(text, kind, packages, layer, name_of)
    added = [item.package for item in done if item.what == "added"]
    assert added == [package for package in dict.fromkeys(packages) if package not in there]
    place = done[0].layer
    assert [item for item in layers(edited) if item["name"] != place] == [
        item for item in layers(text) if item["name"] != place
    ]
    (changed,) = [item for item in layers(edited) if item["name"] == place]
    before = next((item["packages"] for item in layers(text) if item["name"] == place), [])
    assert changed["packages"] == [*before, *added]
    assert {key: value for key, value in tomllib.loads(edited).items() if key != "layers"} == {
        key: value for key, value in tomllib.loads(text).items() if key != "layers"
    }
    if added:
        again, _ = remove(edited, kind, added[::-1], place, name_of)
        assert again == text


@given(manifests(), st.data())
def test_a_removed_package_takes_nothing_with_it_but_the_comment_on_its_line(text, data):
    listed = [layer for layer in layers(text) if "packages" in layer]
    if not listed:
        return
    layer = data.draw(st.sampled_from(listed))
    package = data.draw(st.sampled_from(layer["packages"]))
    edited, done = remove(text, layer["kind"], [package], layer["name"], name_of)
    assert [item.package for item in done] == [package]
    wanted = layers(text)
    wanted[layers(text).index(layer)]["packages"] = [name for name in layer["packages"] if name != package]
    assert layers(edited) == [item for item in wanted if item.get("packages") != []]
    if len(layer["packages"]) > 1:
        assert edited.count("# group") == text.count("# group")
        assert edited.count("# the end") == text.count("# the end")
        assert text.count("# why") - edited.count("# why") in (0, 1)
    assert edited.count("# about") == text.count("# about")
    assert edited.startswith('# a manifest\n[project]\nname = "x" # its name')
