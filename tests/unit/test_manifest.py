"""The manifest: what is read, what is refused and in which words, and the canonical form.

``REPROBOX_UPDATE_GOLDEN=1`` rewrites the golden error texts and the checked-in schema; read the diff before you keep it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import tomllib
from dataclasses import FrozenInstanceError
from pathlib import Path

import jsonschema
import pytest

from reprobox import manifest_reader
from reprobox.errors import ManifestError, UsageError
from reprobox.lock import Lock, changed_keys
from reprobox.manifest import RESERVED_LAYERS, Base, Layer, Manifest
from reprobox.manifest_reader import parse
from reprobox.tables import declared
from tests.unit.manifest_kinds import EXAMPLE, KINDS, CopyFile, SmallKind

GOLDEN = Path(__file__).parents[1] / "golden" / "manifest_errors"
SCHEMA = Path(__file__).parents[2] / "schemas" / "research.schema.json"
UPDATE = os.environ.get("REPROBOX_UPDATE_GOLDEN") == "1"

SMALL = '[project]\nname = "xor"\n[base]\nimage = "debian:12"\n'


def read(text: str) -> Manifest:
    return parse(text, kinds=KINDS)


def problems(text: str | bytes) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        parse(text, kinds=KINDS)
    return [str(problem) for problem in caught.value.problems]


def same_as_file(path: Path, text: str) -> None:
    if UPDATE:
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text


# -- error texts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", sorted(GOLDEN.glob("*.toml")), ids=lambda path: path.stem)
def test_error_texts(case: Path):
    with pytest.raises(ManifestError) as caught:
        parse(case.read_bytes(), kinds=KINDS)
    same_as_file(case.with_suffix(".txt"), f"{caught.value}\n")
    assert caught.value.status == 2
    assert all(problem.hint for problem in caught.value.problems)


def test_every_golden_text_has_its_manifest():
    assert {path.stem for path in GOLDEN.glob("*.txt")} == {path.stem for path in GOLDEN.glob("*.toml")}


def test_a_manifest_that_is_too_large_is_not_parsed():
    assert problems("#" * (manifest_reader.MAX_BYTES + 1)) == [
        "research.toml: the file is larger than 1 MiB\n  hint: a manifest lists names; data and code have files of their own"
    ]


def test_a_flood_of_problems_is_cut_off_and_says_so():
    found = problems("".join(f"key{number} = 1\n" for number in range(20_000)))
    assert len(found) == 1001
    assert found[-1] == "research.toml:1: more than 1000 problems\n  hint: mend these first"


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 100_000,
        "a = " + "{a=" * 100_000,
        ".".join("a" * 20_000) + " = 1",
        "[" + ".".join("a" * 20_000) + "]",
        "a = { " + ".".join("a" * 20_000) + " = 1 }",
    ],
    ids=["lists", "inline tables", "key", "header", "inline key"],
)
def test_hostile_nesting_is_refused_before_it_costs_anything(text: str):
    start = time.perf_counter()
    problems(text)
    assert time.perf_counter() - start < 0.5


def test_a_missing_or_unreadable_file_is_told_plainly(tmp_path: Path):
    with pytest.raises(
        ManifestError, match=r"research.toml: there is no such file\n  hint: write one: the tutorial shows how"
    ):
        manifest_reader.load(tmp_path / "research.toml", KINDS)
    with pytest.raises(ManifestError, match="cannot be read: Is a directory"):
        manifest_reader.load(tmp_path, KINDS)


def test_load_names_the_file_in_problems(tmp_path: Path):
    path = tmp_path / "research.toml"
    path.write_text("[project]\nname = 1\n")
    with pytest.raises(ManifestError) as caught:
        manifest_reader.load(path, KINDS)
    assert {problem.file for problem in caught.value.problems} == {str(path)}
    path.write_text(SMALL)
    assert manifest_reader.load(path, KINDS).base.image == "debian:12"


@pytest.mark.parametrize("kind", ["image", "bootstrap", "oci", "rootfs", "skeleton", "code"])
def test_bases_and_own_layers_are_no_layer_kinds(kind: str):
    """They are registered as kinds, and still cannot be written as a layer."""
    kinds = KINDS | {kind: SmallKind(kind, Base)}
    with pytest.raises(ManifestError, match=f'layers.0..kind: unknown kind "{kind}"'):
        parse(SMALL + f"[[layers]]\nname = 'a'\nkind = '{kind}'\nimage = 'x'\n", kinds=kinds)
    assert kind not in [
        layer["title"] for layer in manifest_reader.schema(kinds)["properties"]["layers"]["items"]["oneOf"]
    ]  # type: ignore[index, call-overload]


# -- what is read ------------------------------------------------------------------------------------------------------


def test_the_example_is_read_whole():
    found = read(EXAMPLE)
    assert (found.project.name, found.project.authors[0].orcid) == ("xor", "0000-0002-1825-0097")
    assert (found.base.kind, found.base.reference) == ("image", "python:3.11-slim")
    assert [layer.name for layer in found.layers] == ["system", "python", "model", "gym", "compile", "settings"]
    assert found.layers[0].options.packages == ("python3", "git", "libhdf5-dev=1.10.8*")
    assert found.layers[1].after == ("system",)
    assert found.layers[5].options.files == (CopyFile(source="conf/", to="/etc/xor"),)
    assert (found.mounts["/dataset"].mode, found.mounts["/tmp_log"].source) == ("ro", None)
    assert found.run.command == ("python3", "/work/train.py")
    assert found.targets["gpu"].requires.memory == "16 GiB"


def test_the_smallest_manifest_has_the_defaults():
    found = read(SMALL)
    assert (found.code.path, found.code.target, found.workdir) == (".", "/work", "/work")
    assert (found.layers, dict(found.env), dict(found.mounts), found.unavailable) == ((), {}, {}, ())
    assert {name: target.platform for name, target in found.targets.items()} == {"default": "linux/amd64"}


def test_a_manifest_cannot_be_changed():
    found = read(EXAMPLE)
    with pytest.raises(FrozenInstanceError):
        found.base = None  # type: ignore[misc, assignment]
    with pytest.raises(TypeError):
        found.env["LANG"] = "C"  # type: ignore[index]
    with pytest.raises(TypeError):
        found.targets["x"] = None  # type: ignore[index, assignment]


@pytest.mark.parametrize("text", ["\ufeff" + SMALL, SMALL.replace("\n", "\r\n")], ids=["BOM", "CRLF"])
def test_what_editors_do_to_a_file_changes_nothing(text: str):
    assert read(text).digest() == read(SMALL).digest()


def test_a_problem_found_later_still_has_its_line():
    found = read(EXAMPLE)
    problem = found.problem(("layers", 1, "after"), "a cycle", "break it")
    assert str(problem) == "research.toml:28: layers[1].after: a cycle\n  hint: break it"


# -- not available yet -------------------------------------------------------------------------------------------------


def test_what_has_no_behaviour_yet_is_told_and_never_ignored():
    assert [(problem.line, problem.key, problem.message) for problem in read(EXAMPLE).unavailable] == [
        (line, key, f"{what} is not available yet in this version; it comes in a later release")
        for line, key, what in [
            (46, "layers[4].secrets", "`secrets`"),
        ]
    ]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (SMALL + '[[layers]]\nname = "p"\nkind = "pip"\nrequirements = "r.txt"', "layers[0].requirements"),
        (SMALL + '[[layers]]\nname = "r"\nkind = "run"\nscript = "x"\nnetwork = true', "layers[0].network"),
    ],
)
def test_each_key_without_behaviour(text: str, key: str):
    assert [problem.key for problem in read(text).unavailable] == [key]


def test_a_key_without_behaviour_at_its_default_says_nothing():
    layer = '[[layers]]\nname = "r"\nkind = "run"\nscript = "x"\nnetwork = false\nsecrets = []\n'
    assert read(SMALL + layer + '[mounts]\n"/x" = { digest = false }').unavailable == ()


# -- targets -----------------------------------------------------------------------------------------------------------

TARGETS = (
    SMALL
    + """
[env]
A = "all"
B = "all"
[[layers]]
name = "one"
kind = "apt"
packages = ["git"]
targets = ["gpu"]
[[layers]]
name = "two"
kind = "apt"
packages = ["jq"]
after = ["one"]
[targets.cpu]
[targets.gpu]
base = { image = "nvidia/cuda:12" }
env = { B = "gpu" }
"""
)


def test_a_target_has_its_own_layers_base_and_environment():
    cpu, gpu = read(TARGETS).select("cpu"), read(TARGETS).select("gpu")
    assert [(layer.name, layer.after, layer.index) for layer in cpu.layers] == [("two", (), 1)]
    assert [(layer.name, layer.after) for layer in gpu.layers] == [("one", ()), ("two", ("one",))]
    assert (cpu.base.image, gpu.base.image) == ("debian:12", "nvidia/cuda:12")
    assert (dict(cpu.env), dict(gpu.env)) == ({"A": "all", "B": "all"}, {"A": "all", "B": "gpu"})
    assert list(gpu.targets) == ["gpu"]


def test_the_only_target_need_not_be_named():
    assert list(read(SMALL).select().targets) == ["default"]
    with pytest.raises(UsageError, match="more than one target\n  hint: choose one of cpu, gpu with --target"):
        read(TARGETS).select()
    with pytest.raises(UsageError, match=r'no target "gpo"\n  hint: did you mean "gpu"\?'):
        read(TARGETS).select("gpo")


# -- canonical form ----------------------------------------------------------------------------------------------------


def test_the_digest_is_frozen():
    """A golden vector: if this changes, every lock in the world goes stale."""
    assert read(SMALL).digest() == "a35c5e6a117b1c91b36f0de8eb113b5399b073f7d217054fc4bd99083c281878"
    assert read(SMALL).digests() == (read(SMALL).digest(),)
    assert read(EXAMPLE).digests() == (
        "b2ba98124209a3ba11e76d0ba277bf4709a11cc0bae981f1b2e8406c01dec9c2",
        "07e010a2bba49b7cfd65d3b55a19077cbf77e74bed4def870f6119889c453215",  # of locks that knew of its DOI
    )


def test_what_only_publications_tell_stales_no_lock():
    """A DOI comes last: when all is locked, sealed and vouched for."""
    more = 'title = "A network"\ndoi = "10.5281/zenodo.1"\ndate = "2026-11-22"\nkeywords = ["a"]\nurl = "https://example.org"\n'
    more += 'repository = "https://example.org/xor"\nfunding = [{ funder = "A funder" }]\n'
    told = read(SMALL.replace("[project]\n", f"[project]\n{more}"))
    assert told.project.doi == "10.5281/zenodo.1"
    assert told.digest() == read(SMALL).digest()
    assert changed_keys(Lock(epoch=0, manifest="", keys=read(SMALL).keys(), targets={}), told.keys()) == ()
    older = {**read(SMALL).keys(), "project.doi": "0" * 16, "project.keywords": "0" * 16}
    assert changed_keys(Lock(epoch=0, manifest="", keys=older, targets={}), told.keys()) == ()
    licensed = read(SMALL.replace("[project]\n", '[project]\nlicense = "MIT"\n'))  # is a label of the image
    assert licensed.digest() != read(SMALL).digest()


def test_what_is_kept_out_of_vaults_stales_no_lock():
    """Neither for layers nor for data: it changes no byte of what is locked."""
    files = 'files = [{ url = "https://example.org/x" }]'
    told = [
        read(f'{SMALL}[mounts]\n"/data" = {{ source = "data", {files}{more} }}') for more in ("", ", private = true")
    ]
    assert told[0].digest() == told[1].digest()
    assert told[0].keys() == told[1].keys()
    assert told[1].mounts["/data"].private
    assert told[1].digests() == (
        told[1].digest(),
        "7ec9242c8d3649d02f83c3a63563687d359b8f82ef64a599033207a19c87712c",  # of locks that knew of it
    )


def test_the_document_leaves_out_defaults():
    spelled = '[code]\npath = "."\ntarget = "/work"\nexclude = []\n[env]\n[run]\n[mounts]\n[targets.default]\nplatform = "linux/amd64"\n'
    assert read(SMALL).document() == {
        "format": "reprobox-manifest-1",
        "project": {"name": "xor"},
        "base": {"image": "debian:12"},
    }
    assert read(SMALL + spelled).digest() == read(SMALL).digest()


def test_a_kind_that_learns_a_key_changes_no_digest():
    from dataclasses import dataclass

    from reprobox.tables import key
    from reprobox.value_checks import apt_package

    @dataclass(frozen=True, kw_only=True, slots=True)
    class LaterOptions:
        packages: tuple[str, ...] = key("Debian packages.", check=apt_package)
        held: bool = key("A key of a later version.", default=False)

    text = SMALL + '[[layers]]\nname = "system"\nkind = "apt"\npackages = ["git"]\n'
    assert parse(text, kinds={"apt": SmallKind("apt", LaterOptions)}).digest() == read(text).digest()


def changed(old: str, new: str) -> set[str]:
    before, after = read(old).keys(), read(new).keys()
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ("python:3.11-slim", "python:3.12-slim", {"base"}),
        ("C.UTF-8", "C", {"env.LANG"}),
        ('"git", ', "", {"layers.system.packages"}),
        ("recommends = false", "recommends = true", {"layers.system.recommends"}),
        ('source = "out"', 'source = "o"', {"mounts./final_log"}),
        ('workdir = "/work"', 'workdir = "/"', {"run.workdir"}),
        ("[targets.cpu]", "[targets.gcc]", {"targets.cpu", "targets.gcc"}),
        (
            'name = "gym"',
            'name = "gim"',
            {"layers"} | {f"layers.{n}.{k}" for n in ("gym", "gim") for k in ("kind", "repository", "rev", "to")},
        ),
        ("# no change", "", set()),
    ],
)
def test_keys_name_what_changed(old: str, new: str, names: set[str]):
    assert changed(EXAMPLE, EXAMPLE.replace(old, new)) == names


def test_every_change_of_the_digest_is_named():
    swapped = (
        SMALL
        + '[[layers]]\nname = "a"\nkind = "apt"\npackages = ["x1"]\n[[layers]]\nname = "b"\nkind = "apt"\npackages = ["x2"]\n'
    )
    other = (
        SMALL
        + '[[layers]]\nname = "b"\nkind = "apt"\npackages = ["x2"]\n[[layers]]\nname = "a"\nkind = "apt"\npackages = ["x1"]\n'
    )
    assert changed(swapped, other) == {"layers"}


# -- schema ------------------------------------------------------------------------------------------------------------


def validator() -> jsonschema.Draft202012Validator:
    schema = json.loads(json.dumps(manifest_reader.schema(KINDS)))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_example_fits_the_schema():
    validator().validate(tomllib.loads(EXAMPLE))


@pytest.mark.parametrize(
    "text",
    [
        "",
        '[project]\nname = "x"',
        SMALL + 'bootstrap = "debian:bookworm"',
        SMALL + "[code]\nrev = 'x'",
        SMALL + "[[layers]]\nname = 'a'\nkind = 'apt'",
        SMALL + "[[layers]]\nname = 'a'\nkind = 'apt'\npackages = ['x1']\nrecomends = true",
        SMALL + "[[layers]]\nname = 'a'\nkind = 'what'",
        SMALL + "[[layers]]\nname = 'a'\nkind = 'pip'",
        SMALL + "[mounts]\n'/dev/x' = {}",
        SMALL + "[env]\n'a b' = 'x'",
        SMALL + "[run]\ncommand = []",
        SMALL + "unknown = 1",
    ],
)
def test_the_schema_refuses_what_the_parser_refuses(text: str):
    problems(text)
    assert not validator().is_valid(tomllib.loads(text))


def test_the_schema_tells_editors_what_keys_mean():
    schema = manifest_reader.schema(KINDS)
    assert schema["$id"] == manifest_reader.SCHEMA_ID
    described = json.dumps(schema)
    assert "Install what they recommend too." in described
    assert "Give it the network. Not available yet; it comes in a later release." in described


def built_in() -> dict[str, manifest_reader.Kind]:
    from reprobox.plugins import Plugins

    return dict(Plugins(discover=False).kinds)


def test_the_checked_in_schema_is_current():
    same_as_file(SCHEMA, json.dumps(manifest_reader.schema(built_in()), indent=2, ensure_ascii=False) + "\n")


def test_the_example_and_the_examples_fit_the_checked_in_schema_and_the_built_in_kinds():
    checked_in = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))
    examples = [path.read_text(encoding="utf-8") for path in SCHEMA.parents[1].glob("examples/*/research.toml")]
    assert examples
    for text in [EXAMPLE, *examples]:
        checked_in.validate(tomllib.loads(text))
        parse(text, kinds=built_in())


def test_no_kind_takes_a_key_that_all_layers_have():
    common = declared(Layer)
    for name, kind in built_in().items():
        if name not in (*Base.BUILT_AS, *RESERVED_LAYERS):
            assert common.keys().isdisjoint(declared(kind.options)), name


# -- speed -------------------------------------------------------------------------------------------------------------


def test_parsing_is_quick():
    read(EXAMPLE)
    times = []
    for _ in range(10):
        start = time.process_time()
        read(EXAMPLE)
        times.append(time.process_time() - start)
    assert min(times) < 0.02


def test_importing_is_light():
    heavy = "tomlkit, networkx, rich, pluggy, jsonschema, urllib3, asyncio"
    code = f"import sys, reprobox.manifest_reader; print([n for n in '{heavy}'.split(', ') if n in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=SCHEMA.parents[1]
    )
    assert done.stdout.strip() == "[]"
