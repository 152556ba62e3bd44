"""``reprobox add`` and ``reprobox remove``: what they write, what they leave alone, and what they refuse."""

from __future__ import annotations

import tomllib

import pytest

pytestmark = pytest.mark.userns

LAYERS = """\
# what the system has
[[layers]]
name = "system"
kind = "apt"
packages = [
    "git",       # to clone
    'jq=1.6*',

    # for plots
    "gnuplot-nox"  # the last one
]

[[layers]]
name = "python"
kind = "pip"
packages = ["numpy>=2", "scipy[dev]"]  # numbers
"""


@pytest.fixture
def edited(fresh):
    """The project with two layers of packages, not locked."""
    fresh.edit("[env]\n", f"{LAYERS}\n# how it runs\n[env]\n")
    return fresh


def test_packages_go_to_the_end_of_the_list_as_the_last_one_is_written(edited):
    before = edited.manifest.read_text()
    told = edited("add", "apt", "make", "cmake=3.*", "--no-lock")
    assert (told.status, told.err) == (0, "")
    assert told.out == "added make to layer system\nadded cmake=3.* to layer system\n"
    ending = '    "gnuplot-nox"  # the last one\n]'
    assert edited.manifest.read_text() == before.replace(
        ending, '    "gnuplot-nox",  # the last one\n    "make",\n    "cmake=3.*"\n]'
    )
    assert edited("remove", "apt", "cmake", "make", "--no-lock").status == 0
    assert edited.manifest.read_text() == before


def test_versions_are_changed_where_they_stand(edited):
    before = edited.manifest.read_text()
    told = edited("add", "pip", "NumPy>=2.1", "SciPy", "pandas; python_version < '3.12'", "--no-lock", "--json").json
    assert told == {
        "packages": [
            {"change": "changed", "package": "NumPy>=2.1", "layer": "python"},
            {"change": "there", "package": "scipy[dev]", "layer": "python"},
            {"change": "added", "package": "pandas; python_version < '3.12'", "layer": "python"},
        ],
        "lock": None,
    }
    assert edited.manifest.read_text() == before.replace(
        '["numpy>=2", "scipy[dev]"]', '["NumPy>=2.1", "scipy[dev]", "pandas; python_version < \'3.12\'"]'
    )
    assert edited("add", "apt", "jq=1.7*", "--no-lock").out == "jq=1.7* in layer system now\n"
    assert "    'jq=1.7*',\n" in edited.manifest.read_text()


def test_the_comment_of_what_is_removed_goes_with_it_and_no_other(edited):
    before = edited.manifest.read_text()
    assert edited("remove", "apt", "git", "--no-lock").out == "removed git from layer system\n"
    assert edited.manifest.read_text() == before.replace('    "git",       # to clone\n', "")


def test_the_last_package_takes_its_layer_with_it(edited):
    before = edited.manifest.read_text()
    assert edited("remove", "pip", "scipy", "numpy", "--no-lock").status == 0
    gone = LAYERS[LAYERS.index('[[layers]]\nname = "python"') :] + "\n"
    assert edited.manifest.read_text() == before.replace(gone, "")


def test_a_layer_is_made_where_there_is_none(fresh):
    before = fresh.manifest.read_text()
    assert fresh("add", "pip", "numpy", "--no-lock").out == "added numpy to layer python\n"
    assert fresh("add", "apt", "git", "--no-lock").out == "added git to layer system\n"
    layers = [
        f'[[layers]]\nname = "{name}"\nkind = "{kind}"\npackages = ["{package}"]\n\n'
        for name, kind, package in (("system", "apt", "git"), ("python", "pip", "numpy"))
    ]
    assert fresh.manifest.read_text() == before.replace("[env]\n", f"{''.join(layers)}[env]\n")
    for kind, package in (("apt", "git"), ("pip", "numpy")):
        assert fresh("remove", kind, package, "--no-lock").status == 0
    assert fresh.manifest.read_text() == before


@pytest.mark.parametrize("name", ["notebooks", None])
def test_one_of_several_layers(edited, name):
    edited.edit(
        "# how it runs\n", '[[layers]]\nname = "notebooks"\nkind = "pip"\npackages = ["jupyterlab"]\n\n# how it runs\n'
    )
    before = edited.manifest.read_bytes()
    told = edited("add", "pip", "pandas", "--no-lock", *(["--layer", name] if name else []))
    if name:
        assert told.out == "added pandas to layer notebooks\n"
        return
    assert told.status == 2
    assert told.err == (
        "error: research.toml: there is more than one layer of kind pip: python, notebooks\n"
        "  hint: say which with --layer, such as --layer python\n"
    )
    assert edited.manifest.read_bytes() == before
    assert edited("add", "pip", "jupyterlab>=4", "--no-lock").out == "jupyterlab>=4 in layer notebooks now\n"


def test_windows_line_ends_a_mark_at_the_start_and_the_mode_stay(edited):
    edited.manifest.write_bytes(b"\xef\xbb\xbf" + edited.manifest.read_bytes().replace(b"\n", b"\r\n"))
    edited.manifest.chmod(0o640)
    before = edited.manifest.read_bytes()
    assert edited("add", "apt", "make", "--no-lock").status == 0
    after = edited.manifest.read_bytes()
    assert after.replace(b',  # the last one\r\n    "make"', b"  # the last one") == before
    assert edited.manifest.stat().st_mode & 0o777 == 0o640
    assert edited("remove", "apt", "make", "--no-lock").status == 0
    assert edited.manifest.read_bytes() == before


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (
            ["add", "apt", "Git"],
            (
                'apt package: expected a Debian package, found "Git"\n'
                "  hint: write a name in lower case, or name=version; a version may end in *"
            ),
        ),
        (
            ["add", "pip", "numpy>>2"],
            'pip package: "numpy>>2" is no requirement: ',
        ),
        (
            ["add", "pip", "x", "--layer", "system"],
            "--layer: layer 'system' is of kind apt, not pip\n  hint: layers of kind pip: python",
        ),
        (
            ["add", "apt", "xz", "--layer", "sytem"],
            "--layer: there is no layer 'sytem'\n  hint: did you mean 'system'?",
        ),
        (
            ["remove", "apt", "gti"],
            "research.toml: no package 'gti' is in a layer of kind apt\n  hint: did you mean 'git'?",
        ),
        (
            ["remove", "pip", "git"],
            (
                "research.toml: no package 'git' is in a layer of kind pip\n"
                "  hint: layer 'system' has it: `reprobox remove apt git`"
            ),
        ),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(edited, argv, said):
    before = edited.manifest.read_bytes()
    told = edited(*argv, "--no-lock")
    assert told.status == 2
    assert told.err.startswith(f"error: {said}")
    assert edited.manifest.read_bytes() == before


def test_a_layer_that_takes_its_packages_from_a_file(edited):
    edited.edit('packages = ["numpy>=2", "scipy[dev]"]', 'requirements = "requirements.txt"')
    told = edited("add", "pip", "pandas", "--no-lock")
    assert told.err == (
        "error: research.toml: layer 'python' takes its packages from 'requirements.txt'\n"
        "  hint: edit that file, or write a layer with `packages` and give its name with --layer\n"
    )


def test_the_last_package_of_a_layer_that_others_follow(edited):
    edited.edit('kind = "pip"\n', 'kind = "pip"\nafter = ["system"]\n')
    before = edited.manifest.read_bytes()
    told = edited("remove", "apt", "git", "jq", "gnuplot-nox", "--no-lock")
    assert told.status == 2
    assert 'there is no layer "system"' in told.err
    assert edited.manifest.read_bytes() == before


def test_a_layer_that_is_made_or_removed_leaves_comments_with_their_tables(fresh):
    """Comments right above a table are that table's, wherever tomlkit keeps them."""
    python = '# numbers\n[[layers]] # by pip\nname = "python"\nkind = "pip"\npackages = ["numpy"]\n'
    fresh.edit("[env]\n", f"# a note\n\n{python}[layers.env]\nA = '1'\n\n# how it runs\n# always\n[env]\n")
    before = fresh.manifest.read_text()
    assert fresh("add", "apt", "git", "--no-lock").status == 0
    system = '[[layers]]\nname = "system"\nkind = "apt"\npackages = ["git"]\n\n'
    assert fresh.manifest.read_text() == before.replace("# numbers\n", f"{system}# numbers\n")
    assert fresh("remove", "pip", "numpy", "--no-lock").status == 0
    after = before.replace(f"{python}[layers.env]\nA = '1'\n\n", f"{system}# numbers\n")
    assert fresh.manifest.read_text() == after
    assert fresh("remove", "apt", "git", "--no-lock").status == 0
    assert fresh.manifest.read_text() == after.replace(system, "")


def test_a_list_of_inline_tables(fresh):
    tables = '[project]\nname = "x"\n\n[base]\nbootstrap = "debian:bookworm"\n'
    before = f'layers = [\n  {{ name = "a", kind = "pip", packages = ["numpy"] }}, # first\n]\n{tables}'
    fresh.manifest.write_text(before)
    assert fresh("add", "apt", "git", "--no-lock").status == 0
    added = '  {name = "system", kind = "apt", packages = ["git"]},\n]\n'
    assert fresh.manifest.read_text() == before.replace("]\n[project]", f"{added}[project]")
    assert fresh("remove", "apt", "git", "--no-lock").status == 0
    assert fresh.manifest.read_text() == before


def test_what_tomlkit_would_move_is_refused(edited):
    edited.edit("# how it runs\n", "[secrets]\n\n[[layers]]\nname = 'b'\nkind = 'pip'\npackages = ['scipy']\n\n")
    before = edited.manifest.read_bytes()
    told = edited("add", "apt", "make", "--no-lock")
    assert told.status == 2
    assert told.err == (
        "error: research.toml: it cannot be edited without moving something else of it\n"
        "  hint: put no other tables between the [[layers]], or edit it yourself and run `reprobox lock`\n"
    )
    assert edited.manifest.read_bytes() == before


def test_mixed_line_ends_are_refused(edited):
    edited.manifest.write_bytes(edited.manifest.read_bytes().replace(b"\n", b"\r\n", 3))
    told = edited("add", "apt", "make", "--no-lock")
    assert told.err == (
        "error: research.toml: some lines end as on Windows, and some do not\n  hint: save it with one kind of line end\n"
    )


def test_what_cannot_be_locked_puts_the_manifest_back(fresh):
    lock, manifest = fresh.lock.read_bytes(), fresh.manifest.read_bytes()
    for argv in (["apt", "make"], ["pip", "numpy", "--offline"]):
        told = fresh("add", *argv)
        assert told.status != 0
        assert "research.toml is left as it was\n" in told.err
        assert (fresh.lock.read_bytes(), fresh.manifest.read_bytes()) == (lock, manifest)
    assert not list(fresh.root.glob(".research.*"))


@pytest.mark.network
@pytest.mark.slow
def test_what_is_added_is_locked_and_moves_nothing_else(fresh, shared_store):
    fresh.manifest.write_text('[project]\nname = "x"\n\n[base]\nbootstrap = "debian:bookworm"\n')
    fresh.lock.unlink()
    assert fresh("add", "apt", "jq").status == 0
    before = inputs(fresh)
    told = fresh("add", "apt", "hello")
    assert told.status == 0
    assert [line for line in told.err.splitlines() if line.endswith("(system)")] == [
        line for line in told.err.splitlines() if line.startswith("Added hello ")
    ]
    after = inputs(fresh)
    assert before < after
    assert [name for name in after - before if not name.startswith("hello_")] == []
    manifest = fresh.manifest.read_bytes()
    told = fresh("add", "apt", "helo")
    assert told.status == 1
    assert "did you mean 'hello'" in told.err
    assert fresh.manifest.read_bytes() == manifest
    assert fresh("remove", "apt", "hello").status == 0
    assert inputs(fresh) == before


def inputs(project) -> set[str]:
    (target,) = tomllib.loads(project.lock.read_text())["targets"].values()
    return {item["name"] for layer in target["layers"] for item in layer.get("inputs", ())}
