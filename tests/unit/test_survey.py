"""How a machine is looked at: limits on memory, the NVIDIA driver in its three ways, and MPI."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from reprobox import cpu, mpi, nvidia, survey
from reprobox.host import Gpu, Memory, Mpi, Nvidia

MIB = 1 << 20
TOTAL = 65_536_000 * 1024


# -- this machine ------------------------------------------------------------------------------------------------------


def test_this_machine(tmp_path):
    found = survey.look(places=[("store", tmp_path / "not" / "there"), ("output", tmp_path)])
    assert found.architecture == {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
    assert found.name == platform.node()
    assert platform.release().startswith(found.kernel)
    assert platform.libc_ver()[1].startswith(found.glibc)
    assert found.memory.total == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert cpu.FAMILIES[found.architecture] in (found.cpu.name, *found.cpu.also)
    stores, outputs = found.disks
    assert (stores.use, stores.path, outputs.use) == ("store", str(tmp_path / "not" / "there"), "output")
    status = os.statvfs(tmp_path)
    assert abs(stores.free - status.f_bavail * status.f_frsize) < 10**9


def test_only_what_is_asked_for_is_looked_at(monkeypatch, tmp_path):
    started = tmp_path / "started"
    for name in ("mpirun", "nvidia-smi"):
        program(tmp_path / name, f"echo {name} >> {started}")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    found = survey.look({"kernel"})
    assert (found.cpu, found.memory, found.glibc, found.disks) == (None, None, None, ())
    assert not started.exists()
    survey.look({"mpi", "nvidia"})
    assert set(started.read_text().split()) == {"mpirun", "nvidia-smi"}


@pytest.mark.parametrize("name", ["x86-64", "x86-64-v1", "x86_64_v3", "haswell", "znver2", "Sapphirerapids"])
def test_names_of_cpus(name):
    assert cpu.family(name) == "x86_64"


def test_names_of_cpus_as_people_write_them():
    assert {"x86-64-v3", "x86-64", "zen3"} <= set(cpu.names("amd64"))
    assert {"neoverse_n1", "aarch64"} <= set(cpu.names("arm64"))
    assert not set(cpu.names("amd64")) & set(cpu.names("arm64"))
    assert cpu.names("z80") == ()
    assert (cpu.family("toaster"), cpu.ancestors("toaster")) == (None, ())


# -- memory ------------------------------------------------------------------------------------------------------------


def files(root: Path, **texts: str) -> Path:
    for name, text in {"proc/meminfo": "MemTotal:       65536000 kB\nMemFree: 1 kB\n", **texts}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_memory_without_limits(tmp_path):
    root = files(tmp_path, **{"proc/self/cgroup": "0::/user.slice\n", "sys/fs/cgroup/user.slice/memory.max": "max\n"})
    assert survey.memory(root, {}) == Memory(total=TOTAL)
    assert survey.memory(tmp_path / "nothing", {}) is None


@pytest.mark.parametrize(
    ("limit", "at"), [("job/memory.max", "job"), ("job/step_0/memory.max", "job/step_0"), ("memory.max", "")]
)
def test_the_limit_of_a_cgroup_or_of_one_above(tmp_path, limit, at):
    root = files(tmp_path, **{"proc/self/cgroup": "0::/job/step_0\n", f"sys/fs/cgroup/{limit}": "8589934592\n"})
    by = f"the cgroup {root / 'sys/fs/cgroup' / at}"
    assert survey.memory(root, {}) == Memory(total=TOTAL, limit=8 << 30, limited_by=by)


def test_cgroups_of_version_1_and_their_word_for_no_limit(tmp_path):
    of_group = "sys/fs/cgroup/memory/slurm/job_7/memory.limit_in_bytes"
    root = files(
        tmp_path,
        **{
            "proc/self/cgroup": "9:name=systemd:/x\n4:cpuset,memory:/slurm/job_7\n0::/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            of_group: "4294967296\n",
        },
    )
    by = f"the cgroup {(root / of_group).parent}"
    assert survey.memory(root, {}) == Memory(total=TOTAL, limit=4 << 30, limited_by=by)
    (root / of_group).unlink()
    assert survey.memory(root, {}) == Memory(total=TOTAL)


def test_a_container_sees_the_limit_at_its_own_root(tmp_path):
    """Its cgroup's path is that of the host, and only the root of it is mounted."""
    root = files(tmp_path, **{"proc/self/cgroup": "0::/../../docker/f00\n", "sys/fs/cgroup/memory.max": "1073741824\n"})
    assert survey.memory(root, {}).limit == 1 << 30


@pytest.mark.parametrize(
    ("environment", "limit", "name"),
    [
        ({"SLURM_MEM_PER_NODE": "4096"}, 4096, "SLURM_MEM_PER_NODE"),
        ({"SLURM_MEM_PER_CPU": "2048", "SLURM_CPUS_ON_NODE": "4"}, 8192, "SLURM_MEM_PER_CPU"),
        ({"SLURM_MEM_PER_GPU": "1024", "SLURM_GPUS_ON_NODE": "2"}, 2048, "SLURM_MEM_PER_GPU"),
        ({"SLURM_MEM_PER_NODE": "0"}, None, ""),  # all of the node
        ({"SLURM_MEM_PER_CPU": "2048"}, None, ""),
        ({"SLURM_MEM_PER_NODE": "lots"}, None, ""),
    ],
)
def test_the_memory_of_a_slurm_job(tmp_path, environment, limit, name):
    expected = Memory(total=TOTAL)
    if limit:
        expected = Memory(total=TOTAL, limit=limit * MIB, limited_by=f"the Slurm job ({name})")
    assert survey.memory(files(tmp_path), environment) == expected


def test_ulimit_is_a_limit_too():
    program = "import json; from reprobox import survey; m = survey.memory(); print(m.limit, m.limited_by)"
    argv = ["sh", "-c", f"ulimit -v 4000000; exec {sys.executable} -c '{program}'"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout == f"{4000000 * 1024} ulimit -v\n"


# -- the NVIDIA driver -------------------------------------------------------------------------------------------------

#: In the form of `nvidia-smi -q -x` (nvsmi_device_v12.dtd), cut down to a few of its many elements.
SMI = """\
<?xml version="1.0" ?>
<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">
<nvidia_smi_log>
\t<timestamp>Sat Nov  1 12:00:00 2025</timestamp>
\t<driver_version>535.129.03</driver_version>
\t<cuda_version>12.2</cuda_version>
\t<attached_gpus>2</attached_gpus>
\t<gpu id="00000000:07:00.0">
\t\t<product_name>NVIDIA A100-SXM4-80GB</product_name>
\t\t<mig_mode>
\t\t\t<current_mig>Disabled</current_mig>
\t\t</mig_mode>
\t\t<uuid>GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77</uuid>
\t\t<fb_memory_usage>
\t\t\t<total>81920 MiB</total>
\t\t\t<reserved>592 MiB</reserved>
\t\t\t<used>1 MiB</used>
\t\t\t<free>81326 MiB</free>
\t\t</fb_memory_usage>
\t\t<bar1_memory_usage>
\t\t\t<total>131072 MiB</total>
\t\t</bar1_memory_usage>
\t</gpu>
\t<gpu id="00000000:0B:00.0">
\t\t<product_name>NVIDIA GB10</product_name>
\t\t<uuid>GPU-a8d3b6b2-6f2a-0b0f-8d86-5a7d7f4c5e11</uuid>
\t\t<fb_memory_usage>
\t\t\t<total>[N/A]</total>
\t\t</fb_memory_usage>
\t</gpu>
</nvidia_smi_log>
"""
A100 = Gpu(name="NVIDIA A100-SXM4-80GB", memory=81920 * MIB)
GB10 = Gpu(name="NVIDIA GB10")


def program(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """Put a program of the name ``nvidia-smi`` on PATH, which does as the script says."""

    def put(script: str) -> Path:
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        return program(tmp_path / "nvidia-smi", script)

    return put


def test_nvidia_smi_tells_driver_cuda_and_gpus(smi, tmp_path):
    (tmp_path / "log.xml").write_text(SMI)
    smi(f'[ "$*" = "-q -x" ] && cat {tmp_path}/log.xml')
    assert nvidia.look(None) == Nvidia(driver="535.129.03", cuda="12.2", gpus=(A100, GB10))


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        (
            "echo 'Failed to initialize NVML: Driver/library version mismatch'; echo 'NVML library version: 550.54'; exit 18",
            "Failed to initialize NVML: Driver/library version mismatch",
        ),
        ("echo 'No devices were found' >&2; exit 6", "No devices were found"),
        ("exit 9", "nvidia-smi ended with status 9"),
        ("echo nothing", "nvidia-smi -q -x wrote no XML: syntax error: line 1, column 0"),
    ],
)
def test_what_nvidia_smi_says_when_it_fails(smi, script, problem):
    smi(script)
    assert nvidia.look(None) == Nvidia(problem=problem)


@pytest.mark.parametrize(
    ("visible", "gpus"),
    [
        (None, (A100, GB10)),
        ("0", (A100,)),
        ("1,0", (GB10, A100)),
        ("", ()),
        ("-1", ()),
        ("NoDevFiles", ()),
        ("1,7,0", (GB10,)),
        ("GPU-5d5b", (A100,)),
        ("MIG-a8d3b6b2-6f2a-0b0f-8d86-5a7d7f4c5e11", (A100, GB10)),
    ],
)
def test_cuda_visible_devices(visible, gpus):
    assert nvidia.read_smi(SMI, visible).gpus == gpus


@pytest.mark.parametrize(
    ("first", "driver"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19 18:56:32 UTC 2023", "535.129.03"),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (root@x)  Sun Jul 27",
            "580.65.06",
        ),
        ("something else", None),
    ],
)
def test_the_kernel_module_alone_tells_the_driver(tmp_path, monkeypatch, first, driver):
    monkeypatch.setenv("PATH", "/nowhere")
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").write_text(f"{first}\nGCC version:  gcc 12.2.0\n")
    assert nvidia.look(None, tmp_path) == Nvidia(driver=driver)
    assert nvidia.look(None, tmp_path / "none") is None


#: A library with the few functions of NVML that are called; INIT is what nvmlInit_v2 answers.
NVML = """\
#include <string.h>
typedef struct { unsigned long long total, free, used; } nvmlMemory_t;
static int devices[2];
int nvmlInit_v2(void) { return INIT; }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int status) { return status == 18 ? "Driver/library version mismatch" : "Not Supported"; }
int nvmlSystemGetDriverVersion(char *text, unsigned size) { strncpy(text, "550.54.15", size); return 0; }
int nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = 12040; return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = &devices[index]; return 0; }
int nvmlDeviceGetName(void *device, char *text, unsigned size) {
    strncpy(text, device == &devices[0] ? "NVIDIA H100 PCIe" : "NVIDIA GB10", size); return 0; }
int nvmlDeviceGetUUID(void *device, char *text, unsigned size) {
    strncpy(text, device == &devices[0] ? "GPU-0" : "GPU-1", size); return 0; }
int nvmlDeviceGetMemoryInfo(void *device, nvmlMemory_t *memory) {
    if (device != &devices[0]) return 3;
    memory->total = 85520809984ULL; return 0; }
"""


@pytest.mark.tool("gcc")
@pytest.mark.parametrize(
    ("init", "visible", "told"),
    [
        (0, None, "Nvidia(driver='550.54.15', cuda='12.4', gpus=(Gpu(name='NVIDIA H100 PCIe', memory=85520809984), Gpu(name='NVIDIA GB10', memory=None)), problem=None)"),
        (0, "GPU-1", "Nvidia(driver='550.54.15', cuda='12.4', gpus=(Gpu(name='NVIDIA GB10', memory=None),), problem=None)"),
        (18, None, "Nvidia(driver=None, cuda=None, gpus=None, problem='Driver/library version mismatch')"),
    ],
)  # fmt: skip
def test_nvml_is_asked_first(tmp_path, init, visible, told):
    (tmp_path / "nvml.c").write_text(NVML)
    library = tmp_path / "libnvidia-ml.so.1"
    subprocess.run(["gcc", "-shared", "-fPIC", f"-DINIT={init}", "-o", library, tmp_path / "nvml.c"], check=True)
    argv = [sys.executable, "-c", f"from reprobox import nvidia; print(nvidia.look({visible!r}))"]
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path), "PATH": "/nowhere"}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{told}\n"


# -- MPI ---------------------------------------------------------------------------------------------------------------

HYDRA = "HYDRA build details:\n    Version:                                 {}\n    Release Date:                            Thu Nov 10 2022\n"


@pytest.mark.parametrize(
    ("said", "family", "version"),
    [
        ("mpirun (Open MPI) 4.1.4\n\nReport bugs to https://www.open-mpi.org/community/help/\n", "openmpi", "4.1.4"),
        ("mpirun (Open MPI) 5.0.3\n", "openmpi", "5.0.3"),
        ("mpirun.openmpi (OpenRTE) 4.1.4\n", "openmpi", "4.1.4"),
        ("mpirun (Open MPI) 4.1.2a1\n", "openmpi", "4.1.2"),
        (HYDRA.format("4.0.2"), "mpich", "4.0.2"),
        (
            "Intel(R) MPI Library for Linux* OS, Version 2021.10 Build 20230619 (id: c2e19c2f3e)\n",
            "intel-mpi",
            "2021.10",
        ),
        (
            "Intel(R) MPI Library for Linux* OS, Version 2018 Update 2 Build 20180125 (id: 18157)\n",
            "intel-mpi",
            "2018.2",
        ),
        ("MVAPICH2 Version:     \t2.3.7\nMVAPICH2 Release date:\tWed March 02 22:00:00 EST 2022\n", "mvapich", "2.3.7"),
        ("MVAPICH Version:      \t3.0\n", "mvapich", "3.0"),
        ("MPICH Version:    \t4.0.2\nMPICH Device:    \tch4:ofi\n", "mpich", "4.0.2"),
        ("slurm-wlm 22.05.8\n", None, None),
    ],
)
def test_what_an_mpi_says_of_itself(said, family, version):
    assert mpi.read(said, "/x/mpirun") == (Mpi(family=family, version=version, program="/x/mpirun") if family else None)


def test_the_first_mpirun_on_path(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin")
    found = program(tmp_path / "mpiexec", "echo 'mpirun (Open MPI) 4.1.4'")
    assert mpi.look() == Mpi(family="openmpi", version="4.1.4", program=str(found))
    program(tmp_path / "mpirun", "echo 'unheard of'")  # says nothing that is known: the next is asked
    assert mpi.look() == Mpi(family="openmpi", version="4.1.4", program=str(found))


def test_mvapich_is_told_from_the_mpich_that_starts_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    hydra = program(tmp_path / "mpiexec.hydra", f"/bin/cat <<'END'\n{HYDRA.format('3.2.1')}END")
    (tmp_path / "mpirun").symlink_to(hydra)
    assert mpi.look() == Mpi(family="mpich", version="3.2.1", program=str(tmp_path / "mpirun"))
    program(tmp_path / "mpichversion", "echo 'MVAPICH2 Version:      2.3.7'")
    assert mpi.look() == Mpi(family="mvapich", version="2.3.7", program=str(tmp_path / "mpirun"))


def test_without_any(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert mpi.look() is None
    program(tmp_path / "mpirun", "exit 127")
    assert mpi.look() is None
