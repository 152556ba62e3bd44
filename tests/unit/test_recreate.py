"""The commands that a crate's README and page show."""

from __future__ import annotations

import shlex
import subprocess

import pytest

from reprobox.lock import Input, Lock, LockedLayer, request_digest
from reprobox.manifest_reader import parse
from reprobox.plugins import Plugins
from reprobox.recreate import Enclosed, image_tag, ways

XOR = """\
[project]
name = "xor"
version = "1.0.0"
[base]
bootstrap = "debian:bookworm"
[mounts]
"/dataset" = { source = "data" }
"/final_log" = { mode = "rw", source = "out" }
[run]
command = ["python3", "/work/train.py"]
"""
HEAD = '[project]\nname = "x"\n[base]\nbootstrap = "debian:bookworm"\n'
LOCK = Lock(epoch=0, manifest="", keys={}, targets={})
WHOLE = Enclosed(images=frozenset({"default"}))


def of(text, lock=LOCK, target="default", enclosed=None):
    manifest = parse(text, kinds=Plugins(discover=False).kinds)
    return {way.name: way for way in ways(manifest, lock, target, enclosed)}


def commands(way):
    return [command for step in way.steps for command in step.commands]


def words(way):
    """The words of the last command, as a shell has them."""
    return shlex.split(commands(way)[-1])


def test_with_reprobox():
    assert commands(of(XOR)["reprobox"]) == [
        "pip install reprobox",
        "reprobox realize -C project",
        "reprobox run -C project",
    ]
    kept = of(XOR, enclosed=Enclosed(vault=True))["reprobox"]
    assert commands(kept)[1] == "reprobox realize -C project --offline --vault vault.tar"
    assert "without a network" in kept.steps[1].says


def test_with_docker_and_an_image():
    assert commands(of(XOR, enclosed=WHOLE)["docker"]) == [
        "docker load --input image/default.oci.tar",
        "mkdir -p project/out",
        (
            'docker run --rm \\\n    --user "$(id -u):$(id -g)" \\\n    --env HOME=/tmp \\\n    --volume "$PWD"/project:/work \\\n'
            '    --volume "$PWD"/project/data:/dataset:ro \\\n    --volume "$PWD"/project/out:/final_log \\\n    xor:1.0.0'
        ),
    ]


def test_with_apptainer_and_an_image():
    assert commands(of(XOR, enclosed=WHOLE)["apptainer"]) == [
        "apptainer build xor.sif oci-archive:image/default.oci.tar",
        "mkdir -p project/out",
        (
            'apptainer run --containall --cleanenv \\\n    --pwd /work \\\n    --bind "$PWD"/project:/work \\\n'
            '    --bind "$PWD"/project/data:/dataset:ro \\\n    --bind "$PWD"/project/out:/final_log \\\n    xor.sif'
        ),
    ]


def test_without_an_image_reprobox_makes_it_inside_a_container():
    made = of(XOR, enclosed=Enclosed(vault=True))
    for name, takes in (
        ("docker", "docker load --input environment.tar"),
        ("apptainer", "docker-archive:environment.tar"),
    ):
        first, second = commands(made[name])[:2]
        assert takes in second
        inner = shlex.split(first.replace("\\\n", " "))[-1]
        assert "export -C project --offline --vault vault.tar --format docker-archive -o environment.tar" in inner
        subprocess.run(["sh", "-n", "-c", inner], check=True)


def test_data_that_is_not_enclosed_is_asked_for_before_it_runs():
    told = [step.says for way in of(XOR).values() for step in way.steps if not step.commands]
    assert told == 3 * ["The data is not enclosed. Put it into project/data (seen at /dataset)."]
    assert not any(
        step.commands == ()
        for way in of(XOR, enclosed=Enclosed(data=frozenset({"/dataset"}))).values()
        for step in way.steps
    )


def test_data_that_can_be_downloaded_is_downloaded_and_checked():
    text = XOR.replace('source = "data" }', 'source = "data", files = [{ url = "https://example.org/a/x.csv" }] }')
    source = {"source": request_digest("https://example.org/a/x.csv")}
    item = Input(type="file", name="x.csv", sha256="ab" * 32, size=1, facts=source)
    layer = LockedLayer(name="/dataset", kind="fetch", recipe=1, request="", inputs=(item,))
    lock = Lock(epoch=0, manifest="", keys={}, targets={}, downloads={"/dataset": layer})
    made = of(text, lock, enclosed=WHOLE)
    assert len(commands(made["reprobox"])) == 3
    assert commands(made["docker"])[1:4] == [
        "mkdir -p project/data",
        "curl --fail --location --output project/data/x.csv https://example.org/a/x.csv",
        f"printf '%s  %s\\n' {'ab' * 32} project/data/x.csv | sha256sum --check",
    ]


def test_code_of_a_repository_is_checked_out():
    text = HEAD + '[code]\ngit = "https://me:secret@example.org/x.git"\n[run]\ncommand = ["true"]\n'
    checkout = LockedLayer(name="code", kind="git", recipe=1, request="", facts={"commit": "c0ffee"})
    lock = Lock(epoch=0, manifest="", keys={}, targets={}, checkout=checkout)
    made = of(text, lock, enclosed=WHOLE)
    assert commands(made["docker"])[1:3] == ["git clone https://example.org/x.git code", "git -C code checkout c0ffee"]
    assert '"$PWD"/code:/work' in commands(made["docker"])[-1]


def test_a_mount_that_the_manifest_does_not_place_and_one_of_another_folder():
    text = (
        HEAD
        + '[run]\ncommand = ["true"]\n[mounts]\n"/tmp_log" = { mode = "rw" }\n"/big/set" = { source = "/scratch/set" }\n'
    )
    made = of(text, enclosed=WHOLE)
    assert commands(made["reprobox"])[-2:] == [
        "mkdir -p tmp_log",
        'reprobox run -C project --mount /tmp_log="$PWD"/tmp_log --mount /big/set="$PWD"/big-set',
    ]
    assert '"$PWD"/big-set:/big/set:ro' in commands(made["docker"])[-1]


def test_one_of_several_targets_with_a_gpu_and_without_a_command():
    text = HEAD + '[targets.cpu]\n[targets.gpu]\nrequires = { cuda = "12.4" }\n'
    made = of(text, target="gpu")
    assert commands(made["reprobox"])[1:] == [
        "reprobox realize -C project --target gpu",
        "reprobox shell -C project --target gpu",
    ]
    assert {"--gpus", "--interactive", "--tty"} < set(words(made["docker"]))
    assert words(made["apptainer"])[1] == "shell"
    assert "--nv" in words(made["apptainer"])


def test_no_name_leaves_its_word():
    evil = "$(touch pwned) `id` 'q' \\\"d\\\" ;&|"
    text = XOR.replace("/dataset", f"/data {evil}").replace('"data"', f'"{evil}"').replace('"1.0.0"', '"1$(id);x"')
    made = of(text, enclosed=WHOLE)
    plain = evil.replace('\\"', '"')
    assert f"$PWD/project/{plain}:/data {plain}:ro" in words(made["docker"])
    assert words(made["docker"])[-1] == "xor:1--id--x"
    assert f"$PWD/project/{plain}:/data {plain}:ro" in words(made["apptainer"])


@pytest.mark.parametrize("enclosed", [Enclosed(), WHOLE, Enclosed(vault=True)])
def test_every_command_is_sound_shell(enclosed):
    for way in of(XOR, enclosed=enclosed).values():
        for command in commands(way):
            subprocess.run(["sh", "-n", "-c", command], check=True)


@pytest.mark.parametrize(("version", "tag"), [("1.0+dev/é", "x:1.0-dev--"), (None, "x:latest"), ("..1", "x:1")])
def test_the_name_of_the_image_is_one_that_docker_takes(version, tag):
    said = f'name = "x"\nversion = "{version}"' if version else 'name = "x"'
    assert image_tag(parse(HEAD.replace('name = "x"', said), kinds={})) == tag
