"""The description of a machine: to JSON and back, its schema, and what is said of one that cannot be used."""

from __future__ import annotations

import json
import os
from pathlib import Path

import jsonschema
import pytest

from reprobox import host
from reprobox.errors import UsageError
from reprobox.host import Cpu, Disk, Gpu, Host, Memory, Mpi, Nvidia

SCHEMA = Path(__file__).parents[2] / "schemas" / "host.schema.json"
CLUSTER = Host(
    name="node17",
    architecture="amd64",
    cpu=Cpu(name="zen3", also=("zen2", "x86_64_v3"), model="AMD EPYC 7763 64-Core Processor"),
    memory=Memory(total=256 << 30, limit=64 << 30, limited_by="the Slurm job (SLURM_MEM_PER_NODE)"),
    disks=(Disk(use="store", path="/scratch/me/reprobox", free=1 << 40),),
    kernel="5.14.0",
    glibc="2.34",
    nvidia=Nvidia(driver="535.129.03", cuda="12.2", gpus=(Gpu(name="NVIDIA A100-SXM4-80GB", memory=80 << 30),)),
    mpi=Mpi(family="openmpi", version="4.1.4", program="/opt/openmpi/bin/mpirun"),
    backends={"sandbox": ""},
)
BARE = Host(name="small", architecture="riscv64")


def read(document: object) -> Host:
    return host.parse(json.dumps(document).encode(), file="cluster.json")


def said(document: object) -> str:
    with pytest.raises(UsageError) as caught:
        read(document)
    assert caught.value.status == 2
    return str(caught.value)


@pytest.mark.parametrize("machine", [CLUSTER, BARE], ids=["everything", "nothing"])
def test_what_is_written_is_read(machine: Host):
    assert read(host.document(machine)) == machine
    assert read({"reprobox": "0.1", "host": host.document(machine), "targets": {}}) == machine  # all of doctor --json


def test_the_schema_is_checked_in_and_describes_what_is_written():
    text = json.dumps(host.schema(), indent=2) + "\n"
    if os.environ.get("REPROBOX_UPDATE_GOLDEN") == "1":
        SCHEMA.write_text(text)
    assert SCHEMA.read_text() == text
    validator = jsonschema.Draft202012Validator(host.schema())
    for machine in (CLUSTER, BARE):
        validator.validate(json.loads(json.dumps(host.document(machine))))
    assert not validator.is_valid({"format": 1, "name": "x", "architecture": "amd64", "kernel": "six"})


def test_mistakes_are_told_by_key_and_all_at_once():
    wrong = host.document(CLUSTER) | {"memory": {"total": "256 GiB"}, "kernel": "generic", "colour": "blue"}
    assert said({"host": wrong}) == (
        "cluster.json: host.colour: unknown key\n"
        "  hint: known here: architecture, backends, cpu, disks, format, glibc, kernel, memory, mpi, name, nvidia\n"
        "cluster.json: host.memory.total: expected an integer, found a string\n"
        "  hint: write a whole number, without quotes\n"
        'cluster.json: host.kernel: expected a version, found "generic"\n'
        '  hint: digits and dots, such as "6.1.0"'
    )
    assert said({"format": 1, "architecture": "amd64"}).startswith("cluster.json: name: required, and missing\n")


def test_a_newer_format_is_not_guessed_at():
    assert said({"host": host.document(BARE) | {"format": 2, "quantum": True}}) == (
        "cluster.json: the description has format 2, and this reprobox knows up to 1\n"
        "  hint: upgrade reprobox here, or write it anew with this version on that machine"
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it is not JSON: Expecting value: line 1 column 1 (char 0)"),
        (b'{"host": ', "it is not JSON: Expecting value: line 1 column 10 (char 9)"),
        (b"\xff\xfe{", "it is not JSON: 'utf-16-le' codec can't decode byte 0x7b in position 2: truncated data"),
        (b"[" * 100_000, "it is not JSON: nested too deeply"),
        (b"[]", "it is no description of a machine"),
        (b'{"host": []}', "it is no description of a machine"),
        (b'{"backends": {}}', "it is no description of a machine"),
        (b'{"format": "1"}', "it is no description of a machine"),
        (b'{"format": true}', "it is no description of a machine"),
        (b" " * (host.MAX_BYTES + 1), "it is larger than 1 MiB, and so no description of a machine"),
    ],
)
def test_what_is_no_description_is_told_with_the_remedy(data: bytes, message: str):
    with pytest.raises(UsageError) as caught:
        host.parse(data, file="cluster.json")
    assert str(caught.value) == (
        f"cluster.json: {message}\n  hint: write it anew on that machine: `reprobox doctor --json > FILE`"
    )


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("6.1.0-18-amd64", "6.1.0"),
        ("5.14.0-362.el9.x86_64", "5.14.0"),
        ("2.36", "2.36"),
        ("6.18.0+", "6.18.0"),
        ("", None),
    ],
)
def test_the_version_that_a_text_begins_with(text, version):
    assert host.version(text) == version
