"""What a target requires against what a machine has: pure, so that a machine can be judged on another one.

Every finding says the need, what was found, and what to do. Sources:

- CUDA: https://docs.nvidia.com/deploy/cuda-compatibility/ (backward, minor-version and forward compatibility) and the
  table of minimum drivers in the CUDA Toolkit's release notes.
- CPUs: the x86-64 psABI's levels and archspec's family tree; a descendant has all that its ancestors have.
- Versions: ``packaging`` compares them, as PEP 440 writes ranges; a plain version means that one or a newer one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from reprobox import cpu
from reprobox.errors import Problem
from reprobox.host import MPI_FAMILIES, Disk, Host, Nvidia
from reprobox.manifest import Manifest, Requires

#: The oldest driver that runs any toolkit of a CUDA major version, by minor-version compatibility.
OLDEST_DRIVERS = {11: "450.80.02", 12: "525.60.13", 13: "580.65.06"}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kKMGTP]?)(i?)B")
_LEVELS = {
    "x86-64-v2": "since Intel Nehalem (2009) and AMD Bulldozer",
    "x86-64-v3": "since Intel Haswell (2013) and AMD Excavator",
    "x86-64-v4": "since Intel Skylake-SP (2017) and AMD Zen 4",
}
_ANEW = "write the description of the machine anew: `reprobox doctor --json`"
_NOMINAL = 0.9  # of what is needed: what firmware and kernel keep is less than a tenth


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One requirement: the key, what is needed, what was found, whether it does, and what to do or to know.

    ``key`` is ``platform`` or a key of ``requires``; ``fix`` says what to do where it does not do, ``note`` what to
    know where it does.
    """

    key: str
    need: str
    found: str
    ok: bool
    fix: str = ""
    note: str = ""


class _Verdict(NamedTuple):
    found: str
    ok: bool
    fix: str = ""
    note: str = ""


def check(platform: str, requires: Requires, host: Host) -> tuple[Finding, ...]:
    """Whether ``host`` will do for a target: its platform first, then what it requires, in the manifest's order."""
    return tuple(_findings(platform, requires, host))


def problems(manifest: Manifest, target: str, findings: Iterable[Finding]) -> tuple[Problem, ...]:
    """The findings that do not do, each at its key in the manifest."""
    return tuple(
        manifest.problem(
            ("targets", target, *(() if item.key == "platform" else ("requires",)), item.key),
            f"needs {item.need}, found {item.found}",
            item.fix,
        )
        for item in findings
        if not item.ok
    )


def facts(requires: Requires) -> frozenset[str]:
    """What must be known of a machine to judge it: names of :data:`reprobox.survey.FACTS`."""
    wanted = {name for name in ("cpu", "memory", "kernel", "glibc", "mpi") if getattr(requires, name) is not None}
    return frozenset(wanted | ({"nvidia"} if requires.cuda or requires.gpu_memory else set()))


def _findings(platform: str, requires: Requires, host: Host) -> Iterator[Finding]:
    yield _finding("platform", platform, _platform(platform, host))
    if requires.cuda is not None:
        yield _finding("cuda", _at_least(requires.cuda), _cuda(requires.cuda, host.nvidia))
    if requires.cpu is not None:
        yield _finding("cpu", requires.cpu, _cpu(requires.cpu, host))
    if requires.memory is not None:
        yield _finding("memory", requires.memory, _memory(requires.memory, host))
    if requires.disk is not None:
        if not host.disks:
            yield _finding("disk", requires.disk, _Verdict("the free space is not known", ok=False, fix=_ANEW))
        for disk in host.disks:
            yield _finding("disk", requires.disk, _disk(requires.disk, disk))
    if requires.gpu_memory is not None:
        yield _finding("gpu_memory", requires.gpu_memory, _gpu_memory(requires.gpu_memory, host.nvidia))
    if requires.mpi is not None:
        yield _finding("mpi", requires.mpi, _mpi(requires.mpi, host))
    if requires.kernel is not None:
        yield _finding("kernel", _at_least(requires.kernel), _kernel(requires.kernel, host))
    if requires.glibc is not None:
        yield _finding("glibc", _at_least(requires.glibc), _glibc(requires.glibc, host))


def _finding(key: str, need: str, verdict: _Verdict) -> Finding:
    return Finding(key=key, need=need, **verdict._asdict())


# -- versions and sizes ------------------------------------------------------------------------------------------------


def bytes_of(size: str) -> int:
    """``16 GiB`` in bytes; ``GB`` are powers of 1000."""
    match = _SIZE.fullmatch(size)
    assert match, size
    power = "KMGTP".index(match[2].upper()) + 1 if match[2] else 0
    unit: float = (1024 if match[3] else 1000) ** power
    return round(float(match[1]) * unit)


def size(text: str) -> int | None:
    """What somebody wrote as a size, in bytes; None for what is none."""
    return bytes_of(text) if _SIZE.fullmatch(text) else None


def shown(size: int) -> str:
    """Bytes as ``15.5 GiB``."""
    number = float(size)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(number) < 1024 or unit == "TiB":
            break
        number /= 1024
    return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"


def satisfies(version: str, wanted: str) -> bool:
    """Whether ``version`` is in the range ``wanted``; one without an operator means that version or a newer one."""
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(_range(wanted)).contains(version, prereleases=True)


def _plain(wanted: str) -> bool:
    return wanted[0].isdigit()


def _range(wanted: str) -> str:
    return f">={wanted}" if _plain(wanted) else wanted


def _at_least(wanted: str) -> str:
    return f"{wanted} or newer" if _plain(wanted) else wanted


# -- the machine -------------------------------------------------------------------------------------------------------


def _platform(platform: str, host: Host) -> _Verdict:
    architecture = platform.partition("/")[2]
    if host.architecture == architecture:
        return _Verdict(f"linux/{host.architecture}", ok=True)
    fix = f"take the project with its lock to a machine of that platform, or add a target for linux/{host.architecture}"
    return _Verdict(f"linux/{host.architecture}", ok=False, fix=fix)


def _cpu(wanted: str, host: Host) -> _Verdict:
    if host.cpu is None:
        return _Verdict("the CPU is not known", ok=False, fix=_ANEW)
    has = (host.cpu.name, *host.cpu.also)
    level = cpu.level(has)
    found = f"{cpu.spelled(host.cpu.name)} ({level})" if level and level != host.cpu.name else host.cpu.name
    if cpu.canonical(wanted) in has:
        return _Verdict(found, ok=True)
    spelled = cpu.spelled(cpu.canonical(wanted))
    if spelled in _LEVELS:
        fix = f"use a machine whose CPU has {spelled}, {_LEVELS[spelled]}; a virtual machine may hide it"
    else:
        lesser = cpu.level(cpu.ancestors(wanted))
        level_too = f'; where only instructions matter, require their level: "{lesser}"' if lesser else ""
        fix = f"use a machine whose CPU is {spelled} or a descendant of it{level_too}"
    return _Verdict(found, ok=False, fix=fix)


def _memory(wanted: str, host: Host) -> _Verdict:
    if host.memory is None:
        return _Verdict("the memory is not known", ok=False, fix=_ANEW)
    need, memory = bytes_of(wanted), host.memory
    if memory.usable >= need:
        return _Verdict(_memory_found(host), ok=True)
    if memory.limited_by and memory.total >= need:
        if "Slurm" in memory.limited_by:
            fix = f"ask the scheduler for more, such as `sbatch --mem={-(-need // (1 << 20))}M`"
        else:
            fix = f"raise the limit that {memory.limited_by} sets"
    else:
        fix = "use a machine with more memory" + _nominal(need, memory.total)
    return _Verdict(_memory_found(host), ok=False, fix=fix)


def _memory_found(host: Host) -> str:
    memory = host.memory
    assert memory
    if memory.limit is None:
        return shown(memory.total)
    return f"{shown(memory.usable)}, which {memory.limited_by} allows of {shown(memory.total)}"


def _nominal(need: int, found: int) -> str:
    """A machine of 16 GiB shows less: whoever copied the number from its box should know."""
    if found < need * _NOMINAL:
        return ""
    return "; firmware and kernel keep a part of what a machine is sold with: require a little less if that was meant"


def _disk(wanted: str, disk: Disk) -> _Verdict:
    what = {"store": "the store", "output": "the output"}[disk.use]
    found = f"{shown(disk.free)} free for {what}, at {disk.path}"
    if disk.free >= bytes_of(wanted):
        return _Verdict(found, ok=True)
    elsewhere = {"store": "set REPROBOX_STORE to", "output": "give it, with --mount,"}[disk.use]
    return _Verdict(found, ok=False, fix=f"free some space, or {elsewhere} a folder on a larger disk")


def _kernel(wanted: str, host: Host) -> _Verdict:
    if host.kernel is None:
        return _Verdict("the kernel's version is not known", ok=False, fix=_ANEW)
    ok = satisfies(host.kernel, wanted)
    fix = "use a machine with such a kernel, or ask its administrator"
    return _Verdict(f"Linux {host.kernel}", ok=ok, fix="" if ok else fix)


def _glibc(wanted: str, host: Host) -> _Verdict:
    if host.glibc is None:
        return _Verdict("no glibc", ok=False, fix="use a machine whose system has glibc")
    if satisfies(host.glibc, wanted):
        return _Verdict(f"glibc {host.glibc}", ok=True)
    fix = "use a machine with an older system" if "<" in wanted else "use a machine with a newer system"
    if "<" in wanted:
        fix += ", or a newer base: libraries that a GPU driver brings along need the glibc that they were built for"
    return _Verdict(f"glibc {host.glibc}", ok=False, fix=fix)


def _mpi(wanted: str, host: Host) -> _Verdict:
    match = re.fullmatch(r"([a-z0-9-]+) ?(.*)", wanted)
    assert match, wanted
    family, versions = match.groups()
    load = f"load {MPI_FAMILIES[family]}, for example `module load {family}`, or install it"
    if host.mpi is None:
        return _Verdict("no mpirun on PATH", ok=False, fix=load)
    found = f"{host.mpi.family} {host.mpi.version} ({host.mpi.program})"
    if host.mpi.family != family:
        return _Verdict(found, ok=False, fix=load)
    ok = not versions or satisfies(host.mpi.version, versions)
    return _Verdict(
        found, ok=ok, fix="" if ok else f"load another version; `module avail {family}` lists those of a cluster"
    )


# -- NVIDIA ------------------------------------------------------------------------------------------------------------

_NO_GPU = (
    "use a node with a GPU, ask the scheduler for one, such as `sbatch --gres=gpu:1`; look at CUDA_VISIBLE_DEVICES"
)


def _no_driver(nvidia: Nvidia | None, newest: str) -> _Verdict | None:
    """What keeps any program from using a GPU here; None if nothing does."""
    if nvidia is None:
        return _Verdict("no NVIDIA driver", ok=False, fix=f"use a machine with an NVIDIA GPU, and install {newest}")
    if nvidia.problem:
        fix = "load the driver's module, or restart the machine if the driver was updated; `nvidia-smi` tells"
        return _Verdict(f"the NVIDIA driver does not answer: {nvidia.problem}", ok=False, fix=fix)
    if nvidia.gpus == ():
        return _Verdict(f"NVIDIA driver {nvidia.driver}, and no GPU", ok=False, fix=_NO_GPU)
    return None


def _cuda(wanted: str, nvidia: Nvidia | None) -> _Verdict:
    least = re.findall(r"[0-9.]+", wanted)[0]
    oldest = OLDEST_DRIVERS.get(int(least.partition(".")[0]))
    newer = f"a driver that supports CUDA {least}"
    if missing := _no_driver(nvidia, f"the driver {oldest} or newer" if oldest and _plain(wanted) else newer):
        return missing
    assert nvidia
    found = f"driver {nvidia.driver}, which supports CUDA {nvidia.cuda or 'of a version that it does not tell'}"
    if nvidia.cuda and satisfies(nvidia.cuda, wanted):
        return _Verdict(found, ok=True)
    if _plain(wanted) and oldest and _runs_major(nvidia, least, oldest):
        note = (
            "by CUDA's minor-version compatibility: code that is shipped as PTX alone, and features newer than the "
            f"driver, need {newer}"
        )
        return _Verdict(found, ok=True, note=note)
    update = f"update the driver to {oldest} or newer" if _plain(wanted) and oldest else f"install {newer}"
    package = "cuda-compat-" + "-".join([*least.split("."), "0"][:2])
    forward = f", or, on data-centre GPUs, add NVIDIA's forward-compatibility package {package} to the environment"
    return _Verdict(found, ok=False, fix=update + ("" if "<" in wanted else forward))


def _runs_major(nvidia: Nvidia, least: str, oldest: str) -> bool:
    """Minor-version compatibility: from CUDA 11 on, a driver runs every toolkit of its major version."""
    major = int(least.partition(".")[0])
    if nvidia.cuda and int(nvidia.cuda.partition(".")[0]) < major:
        return False
    return nvidia.driver is not None and satisfies(nvidia.driver, oldest)


def _gpu_memory(wanted: str, nvidia: Nvidia | None) -> _Verdict:
    if missing := _no_driver(nvidia, "its driver"):
        return missing
    assert nvidia
    sizes = sorted((gpu.memory for gpu in nvidia.gpus or () if gpu.memory is not None), reverse=True)
    if not sizes:
        return _Verdict("the memory of the GPU is not known", ok=False, fix="install nvidia-smi, which tells it")
    need = bytes_of(wanted)
    found = f"{_gpus(nvidia)} with {_sizes(sizes)}"
    if sizes[0] >= need:
        note = "not every GPU has as much: choose with CUDA_VISIBLE_DEVICES" if sizes[-1] < need else ""
        return _Verdict(found, ok=True, note=note)
    return _Verdict(found, ok=False, fix="use a GPU with more memory" + _nominal(need, sizes[0]))


def _gpus(nvidia: Nvidia) -> str:
    names = [gpu.name for gpu in nvidia.gpus or ()]
    return " and ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names))


def _sizes(sizes: Sequence[int]) -> str:
    return " and ".join(dict.fromkeys(map(shown, sizes)))
