"""What a target requires against what a machine has: every rule, in the words that people read."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reprobox import requirements
from reprobox.host import Cpu, Disk, Gpu, Host, Memory, Mpi, Nvidia
from reprobox.manifest import Requires
from reprobox.requirements import Finding, check
from reprobox.survey import FACTS

GIB = 1 << 30
A100 = Gpu(name="NVIDIA A100-SXM4-40GB", memory=40960 << 20)
HOST = Host(
    name="node17",
    architecture="amd64",
    cpu=Cpu(name="zen3", also=("zen2", "zen", "x86_64_v3", "x86_64_v2", "x86_64")),
    memory=Memory(total=64 * GIB),
    disks=(Disk(use="store", path="/store", free=100 * GIB), Disk(use="output", path="/out", free=10 * GIB)),
    kernel="5.14.0",
    glibc="2.34",
    nvidia=Nvidia(driver="535.129.03", cuda="12.2", gpus=(A100, A100)),
    mpi=Mpi(family="openmpi", version="4.1.4", program="/usr/bin/mpirun"),
)


EVERY = {
    "cuda": "12",
    "cpu": "zen2",
    "memory": "1 GB",
    "disk": "1 GB",
    "gpu_memory": "1 GB",
    "mpi": "openmpi",
    "kernel": "5",
    "glibc": "2",
}


def one(host: Host = HOST, platform: str = "linux/amd64", **requires: str) -> Finding:
    """The finding about the one key that is required."""
    return check(platform, Requires(**requires), host)[-1]


def seen(finding: Finding) -> tuple[str, bool, str]:
    return finding.found, finding.ok, finding.fix or finding.note


def test_everything_is_judged_in_the_order_of_the_manifest():
    found = check("linux/amd64", Requires(**EVERY), HOST)
    assert [item.key for item in found] == [
        "platform", "cuda", "cpu", "memory", "disk", "disk", "gpu_memory", "mpi", "kernel", "glibc",
    ]  # fmt: skip
    assert all(item.ok for item in found)
    assert requirements.facts(Requires(**EVERY)) == set(FACTS)
    assert requirements.facts(Requires()) == set()
    assert requirements.facts(Requires(gpu_memory="1 GB", disk="1 GB")) == {"nvidia"}


def test_a_machine_of_which_nothing_is_known_does_not_do():
    found = check("linux/amd64", Requires(**EVERY), Host(name="x", architecture="riscv64"))
    assert len(found) == 9
    assert not any(item.ok for item in found)
    assert all(item.fix for item in found)


# -- platform and CPU --------------------------------------------------------------------------------------------------


def test_the_platform():
    assert seen(one()) == ("linux/amd64", True, "")
    assert seen(one(platform="linux/arm64")) == (
        "linux/amd64",
        False,
        "take the project with its lock to a machine of that platform, or add a target for linux/amd64",
    )


@pytest.mark.parametrize(
    "wanted", ["zen3", "znver3", "zen2", "x86-64-v3", "x86_64_v3", "x86-64-v1", "x86-64", "X86-64-V2"]
)
def test_a_cpu_does_for_what_it_descends_from(wanted):
    assert seen(one(cpu=wanted)) == ("zen3 (x86-64-v3)", True, "")


@pytest.mark.parametrize(
    ("wanted", "fix"),
    [
        (
            "x86-64-v4",
            "use a machine whose CPU has x86-64-v4, since Intel Skylake-SP (2017) and AMD Zen 4; a virtual machine may hide it",
        ),
        (
            "haswell",
            'use a machine whose CPU is haswell or a descendant of it; where only instructions matter, require their level: "x86-64-v3"',
        ),
        (
            "zen4",
            'use a machine whose CPU is zen4 or a descendant of it; where only instructions matter, require their level: "x86-64-v4"',
        ),
    ],
)
def test_a_cpu_that_does_not_descend_from_it_does_not_do(wanted, fix):
    assert seen(one(cpu=wanted)) == ("zen3 (x86-64-v3)", False, fix)


def test_an_arm_cpu():
    grace = replace(
        HOST, architecture="arm64", cpu=Cpu(name="neoverse_v2", also=("neoverse_n1", "armv9.0a", "armv8.2a"))
    )
    for wanted in ("neoverse-v2", "neoverse_n1", "armv8.2-a", "armv8.2a"):
        assert seen(one(grace, "linux/arm64", cpu=wanted)) == ("neoverse_v2", True, "")
    assert not one(grace, "linux/arm64", cpu="a64fx").ok


# -- memory and disk ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "count"),
    [
        ("16 GiB", 16 * GIB),
        ("16GB", 16_000_000_000),
        ("1.5 TiB", 3 << 39),
        ("512 kB", 512_000),
        ("3 KiB", 3072),
        ("7 B", 7),
        ("1PB", 10**15),
    ],
)
def test_sizes_in_bytes(size, count):
    assert requirements.bytes_of(size) == count


NOMINAL = (
    "use a machine with more memory; firmware and kernel keep a part of what a machine is sold with: require a little less "
    "if that was meant"
)


def test_memory():
    assert seen(one(memory="64 GiB")) == ("64.0 GiB", True, "")
    assert seen(one(memory="512 GiB")) == ("64.0 GiB", False, "use a machine with more memory")


def test_a_machine_that_has_a_little_less_than_its_box_says():
    laptop = replace(HOST, memory=Memory(total=round(15.4 * GIB)))
    assert seen(one(laptop, memory="16 GiB")) == (
        "15.4 GiB",
        False,
        NOMINAL,
    )


def test_limits_count_and_are_named():
    job = replace(HOST, memory=Memory(total=64 * GIB, limit=8 * GIB, limited_by="the Slurm job (SLURM_MEM_PER_NODE)"))
    found = "8.0 GiB, which the Slurm job (SLURM_MEM_PER_NODE) allows of 64.0 GiB"
    assert seen(one(job, memory="8 GiB")) == (found, True, "")
    assert seen(one(job, memory="16 GB")) == (found, False, "ask the scheduler for more, such as `sbatch --mem=15259M`")
    assert one(job, memory="65 GiB").fix == NOMINAL
    pod = replace(HOST, memory=Memory(total=64 * GIB, limit=GIB, limited_by="the cgroup /sys/fs/cgroup/pod"))
    assert one(pod, memory="2 GiB").fix == "raise the limit that the cgroup /sys/fs/cgroup/pod sets"


def test_free_space_is_needed_at_every_place():
    found = check("linux/amd64", Requires(disk="50 GiB"), HOST)[1:]
    assert [seen(item) for item in found] == [
        ("100.0 GiB free for the store, at /store", True, ""),
        (
            "10.0 GiB free for the output, at /out",
            False,
            "free some space, or give it, with --mount, a folder on a larger disk",
        ),
    ]
    assert one(replace(HOST, disks=HOST.disks[:1]), disk="1 TiB").fix == (
        "free some space, or set REPROBOX_STORE to a folder on a larger disk"
    )


# -- versions ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "need", "ok"),
    [
        ("5.11", "5.11 or newer", True),
        ("5.15", "5.15 or newer", False),
        (">=5.11, <6", ">=5.11, <6", True),
        ("<5", "<5", False),
    ],
)
def test_a_plain_version_means_that_one_or_a_newer_one(wanted, need, ok):
    found = one(kernel=wanted)
    assert (found.need, found.found, found.ok) == (need, "Linux 5.14.0", ok)


def test_versions_are_numbers_and_no_text():
    assert requirements.satisfies("2.9", "2.31") is False
    assert requirements.satisfies("535.129.03", "525.60.13")


def test_glibc_in_both_directions():
    assert seen(one(glibc="2.34")) == ("glibc 2.34", True, "")
    assert seen(one(glibc="2.35")) == ("glibc 2.34", False, "use a machine with a newer system")
    assert seen(one(glibc="<=2.31")) == (
        "glibc 2.34",
        False,
        "use a machine with an older system, or a newer base: libraries that a GPU driver brings along need the glibc that they were built for",
    )
    assert seen(one(replace(HOST, glibc=None), glibc="2.17")) == (
        "no glibc",
        False,
        "use a machine whose system has glibc",
    )


@pytest.mark.parametrize("wanted", ["openmpi", "openmpi>=4", "openmpi >=4,<5", "openmpi~=4.1"])
def test_an_mpi_that_does(wanted):
    assert seen(one(mpi=wanted)) == ("openmpi 4.1.4 (/usr/bin/mpirun)", True, "")


def test_an_mpi_that_does_not():
    assert seen(one(mpi="openmpi>=5")) == (
        "openmpi 4.1.4 (/usr/bin/mpirun)",
        False,
        "load another version; `module avail openmpi` lists those of a cluster",
    )
    load = "load Intel MPI, for example `module load intel-mpi`, or install it"
    assert seen(one(mpi="intel-mpi")) == ("openmpi 4.1.4 (/usr/bin/mpirun)", False, load)
    assert seen(one(replace(HOST, mpi=None), mpi="intel-mpi")) == ("no mpirun on PATH", False, load)


# -- CUDA --------------------------------------------------------------------------------------------------------------


def driver(version: str | None, cuda: str | None) -> Host:
    return replace(HOST, nvidia=Nvidia(driver=version, cuda=cuda, gpus=(A100,)))


@pytest.mark.parametrize("wanted", ["12.2", "12.0", "11.8", "10.2", ">=11.4,<12.3"])
def test_a_driver_runs_what_is_not_newer_than_it(wanted):
    found = one(cuda=wanted)
    assert seen(found) == ("driver 535.129.03, which supports CUDA 12.2", True, "")


@pytest.mark.parametrize(
    ("version", "cuda", "wanted"),
    [
        ("535.129.03", "12.2", "12.9"),
        ("450.80.02", "11.0", "11.8"),
        ("525.60.13", "12.0", "12.4"),
        ("580.65.06", "13.0", "13.1"),
    ],
)
def test_minor_version_compatibility(version, cuda, wanted):
    """From CUDA 11 on, the first driver of a major version runs every toolkit of it."""
    found = one(driver(version, cuda), cuda=wanted)
    assert found.ok
    assert found.note == (
        "by CUDA's minor-version compatibility: code that is shipped as PTX alone, and features newer than the driver, "
        f"need a driver that supports CUDA {wanted}"
    )


@pytest.mark.parametrize(
    ("version", "cuda", "wanted", "fix"),
    [
        ("535.129.03", "12.2", "13.0", "update the driver to 580.65.06 or newer"),
        ("520.61.05", "11.8", "12.4", "update the driver to 525.60.13 or newer"),
        ("450.36.06", "11.0", "11.4", "update the driver to 450.80.02 or newer"),  # before 450.80.02 there was none
        ("418.39", "10.1", "10.2", "install a driver that supports CUDA 10.2"),  # nor before CUDA 11
        ("535.129.03", "12.2", ">=12.4", "install a driver that supports CUDA 12.4"),  # asked for the driver's own
        ("580.65.06", "13.0", "14.1", "install a driver that supports CUDA 14.1"),  # not known yet
    ],
)
def test_a_driver_that_is_too_old(version, cuda, wanted, fix):
    package = "-".join(wanted.lstrip(">=").split("."))
    assert seen(one(driver(version, cuda), cuda=wanted)) == (
        f"driver {version}, which supports CUDA {cuda}",
        False,
        f"{fix}, or, on data-centre GPUs, add NVIDIA's forward-compatibility package cuda-compat-{package} to the environment",
    )


def test_a_driver_that_does_not_tell_its_cuda_version():
    assert one(driver("535.129.03", None), cuda="12.4").ok
    found = one(driver("535.129.03", None), cuda="13.0")
    assert (found.found, found.ok) == (
        "driver 535.129.03, which supports CUDA of a version that it does not tell",
        False,
    )


@pytest.mark.parametrize("requires", [{"cuda": "12.4"}, {"gpu_memory": "8 GB"}])
@pytest.mark.parametrize(
    ("nvidia", "found"),
    [
        (None, "no NVIDIA driver"),
        (
            Nvidia(problem="Driver/library version mismatch"),
            "the NVIDIA driver does not answer: Driver/library version mismatch",
        ),
        (Nvidia(driver="535.129.03", cuda="12.2", gpus=()), "NVIDIA driver 535.129.03, and no GPU"),
    ],
)
def test_without_a_gpu_that_works(requires, nvidia, found):
    finding = one(replace(HOST, nvidia=nvidia), **requires)
    assert (finding.found, finding.ok) == (found, False)
    assert finding.fix


def test_the_memory_of_the_largest_gpu():
    small = Gpu(name="NVIDIA T4", memory=15360 << 20)
    mixed = replace(HOST, nvidia=Nvidia(driver="535.129.03", cuda="12.2", gpus=(small, A100)))
    assert seen(one(gpu_memory="40 GiB")) == ("2 NVIDIA A100-SXM4-40GB with 40.0 GiB", True, "")
    assert seen(one(mixed, gpu_memory="16 GiB")) == (
        "1 NVIDIA T4 and 1 NVIDIA A100-SXM4-40GB with 40.0 GiB and 15.0 GiB",
        True,
        "not every GPU has as much: choose with CUDA_VISIBLE_DEVICES",
    )
    assert seen(one(gpu_memory="80 GB"))[1:] == (False, "use a GPU with more memory")
    shared = replace(HOST, nvidia=Nvidia(driver="580.65.06", cuda="13.0", gpus=(Gpu(name="NVIDIA GB10"),)))
    assert one(shared, gpu_memory="8 GB").found == "the memory of the GPU is not known"
