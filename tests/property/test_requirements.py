"""Laws of requirements: a description survives its file, and a machine that has more never does less."""

from __future__ import annotations

import json
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from reprobox import host
from reprobox.host import Cpu, Disk, Gpu, Host, Memory, Mpi, Nvidia
from reprobox.manifest import Requires
from reprobox.requirements import OLDEST_DRIVERS, bytes_of, check, satisfies, shown

texts = st.text(min_size=1, max_size=9).filter(lambda text: "\0" not in text)
sizes = st.integers(0, 1 << 60)
versions = st.lists(st.integers(0, 999), min_size=1, max_size=4).map(lambda parts: ".".join(map(str, parts)))


def maybe(strategy):
    return st.none() | strategy


gpus = st.builds(Gpu, name=texts, memory=maybe(sizes))
hosts = st.builds(
    Host,
    name=texts,
    architecture=texts,
    cpu=maybe(st.builds(Cpu, name=texts, also=st.lists(texts, max_size=3).map(tuple), model=maybe(texts))),
    memory=maybe(st.builds(Memory, total=sizes, limit=maybe(sizes), limited_by=maybe(texts))),
    disks=st.lists(st.builds(Disk, use=st.sampled_from(["store", "output"]), path=texts, free=sizes), max_size=2).map(tuple),
    kernel=maybe(versions),
    glibc=maybe(versions),
    nvidia=maybe(
        st.builds(Nvidia, driver=maybe(versions), cuda=maybe(versions), gpus=maybe(st.lists(gpus, max_size=2).map(tuple)), problem=maybe(texts))
    ),
    mpi=maybe(st.builds(Mpi, family=texts, version=versions, program=texts)),
    backends=st.dictionaries(texts, texts, max_size=2),
)  # fmt: skip
EVERYTHING = Requires(
    cuda="12.4",
    cpu="x86-64-v3",
    memory="1 GiB",
    disk="1 GB",
    gpu_memory="1 GB",
    mpi="openmpi>=4,<6",
    kernel="5",
    glibc="<=2.40",
)


@settings(max_examples=40)
@given(hosts)
def test_a_description_survives_its_file(machine):
    assert host.parse(json.dumps(host.document(machine)).encode(), file="x") == machine


@settings(max_examples=40)
@given(hosts)
def test_every_machine_is_judged_and_every_lack_has_its_fix(machine):
    found = check("linux/amd64", EVERYTHING, machine)
    assert {item.key for item in found} == {"platform", *Requires.__slots__}
    assert all(item.found for item in found)
    assert all(item.ok or item.fix for item in found)
    assert not any(item.ok and item.fix for item in found)


@given(sizes, sizes)
def test_more_memory_never_does_less(one, other):
    less, more = sorted((one, other))
    does = [
        check("linux/amd64", EVERYTHING, Host(name="", architecture="amd64", memory=Memory(total=size)))[3].ok
        for size in (less, more)
    ]
    assert does == sorted(does)


@given(st.tuples(st.integers(10, 14), st.integers(0, 9)), st.tuples(st.integers(10, 14), st.integers(0, 9)))
def test_a_newer_driver_never_does_less(one, other):
    """Each driver as the first of its major version, with the CUDA version that it supports."""
    nvidia = Nvidia(gpus=(Gpu(name="A100"),))
    does = []
    for major, minor in sorted((one, other)):
        driver = OLDEST_DRIVERS.get(major, f"{200 + 30 * major}.1" if major < 11 else "900.1")
        machine = Host(name="", architecture="amd64", nvidia=replace(nvidia, driver=driver, cuda=f"{major}.{minor}"))
        does.append(check("linux/amd64", Requires(cuda="12.4"), machine)[1].ok)
    assert does == sorted(does)


@given(sizes)
def test_a_size_that_is_shown_can_be_required(size):
    text = shown(size)
    assert abs(bytes_of(text) - size) <= size * 0.06 + 1


@given(versions, versions)
def test_a_plain_version_is_met_by_itself_and_by_newer_ones(one, other):
    assert satisfies(one, one)
    assert satisfies(one, other) or satisfies(other, one)
