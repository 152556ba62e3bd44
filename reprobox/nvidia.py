"""The NVIDIA driver of this machine: by NVML, else by ``nvidia-smi``, else by what the kernel module says.

NVML: https://docs.nvidia.com/deploy/nvml-api/. Its functions are called by their names with ctypes, which costs no
dependency and no process.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from reprobox.host import Gpu, Nvidia, version

if TYPE_CHECKING:
    from xml.etree import ElementTree

_LIBRARY = "libnvidia-ml.so.1"
_TEXT = 96  # bytes: NVML_DEVICE_NAME_V2_BUFFER_SIZE, NVML_DEVICE_UUID_V2_BUFFER_SIZE
_PATIENCE = 30  # seconds: a machine with many GPUs and no persistence daemon takes several
_MIB = 1 << 20

Seen = Sequence[tuple[str, Gpu]]
"""GPUs with their UUIDs, in the driver's order."""


def look(visible: str | None, root: Path = Path("/")) -> Nvidia | None:
    """The driver and the GPUs that a job sees; None without a driver.

    ``visible`` is the value of ``CUDA_VISIBLE_DEVICES``, None if it is not set.
    """
    return _by_library(visible) or _by_program(visible) or _by_module(root / "proc/driver/nvidia/version")


def chosen(gpus: Seen, visible: str | None) -> tuple[Gpu, ...]:
    """The GPUs that ``CUDA_VISIBLE_DEVICES`` leaves, by index or by the beginning of a UUID.

    As CUDA does, whatever follows an entry that names no GPU is not seen. What names parts of a GPU (``MIG-…``) cannot
    be told from here, and hides nothing.
    """
    if visible is None or "MIG-" in visible:
        return tuple(gpu for _, gpu in gpus)
    found = []
    for word in visible.split(","):
        match = _named(gpus, word.strip())
        if match is None:
            break
        found.append(match)
    return tuple(found)


def _named(gpus: Seen, word: str) -> Gpu | None:
    if word.isdecimal():
        return gpus[int(word)][1] if int(word) < len(gpus) else None
    return next((gpu for uuid, gpu in gpus if word.startswith("GPU-") and uuid.startswith(word)), None)


# -- NVML --------------------------------------------------------------------------------------------------------------


class _MemoryInfo(ctypes.Structure):
    """nvmlMemory_t."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class _NvmlError(Exception):
    pass


class _Nvml:
    """The few functions that are needed, each raising what NVML says when it fails."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        library.nvmlErrorString.restype = ctypes.c_char_p

    def call(self, name: str, *arguments: object) -> None:
        status = getattr(self._library, name)(*arguments)
        if status:
            raise _NvmlError((self._library.nvmlErrorString(status) or b"").decode(errors="replace"))

    def text(self, name: str, *arguments: object) -> str:
        buffer = ctypes.create_string_buffer(_TEXT)
        self.call(name, *arguments, buffer, ctypes.c_uint(_TEXT))
        return buffer.value.decode(errors="replace")

    def number(self, name: str) -> int:
        value = ctypes.c_uint()
        self.call(name, ctypes.byref(value))
        return value.value

    def gpu(self, index: int) -> tuple[str, Gpu]:
        device = ctypes.c_void_p()
        self.call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(device))
        gpu = Gpu(name=self.text("nvmlDeviceGetName", device), memory=self._memory(device))
        return self.text("nvmlDeviceGetUUID", device), gpu

    def _memory(self, device: ctypes.c_void_p) -> int | None:
        info = _MemoryInfo()
        try:
            self.call("nvmlDeviceGetMemoryInfo", device, ctypes.byref(info))
        except _NvmlError:  # a GPU that shares the machine's memory has none to tell of
            return None
        return int(info.total)


def _by_library(visible: str | None) -> Nvidia | None:
    try:
        nvml = _Nvml(ctypes.CDLL(_LIBRARY))
    except (OSError, AttributeError):
        return None
    try:
        nvml.call("nvmlInit_v2")
    except (_NvmlError, AttributeError) as error:
        return Nvidia(problem=str(error))
    try:
        cuda = nvml.number("nvmlSystemGetCudaDriverVersion_v2")
        gpus = [nvml.gpu(index) for index in range(nvml.number("nvmlDeviceGetCount_v2"))]
        return Nvidia(
            driver=version(nvml.text("nvmlSystemGetDriverVersion")),
            cuda=f"{cuda // 1000}.{cuda % 1000 // 10}",
            gpus=chosen(gpus, visible),
        )
    except (_NvmlError, AttributeError) as error:
        return Nvidia(problem=str(error))
    finally:
        nvml.call("nvmlShutdown")


# -- nvidia-smi --------------------------------------------------------------------------------------------------------


def _by_program(visible: str | None) -> Nvidia | None:
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, "-q", "-x"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Nvidia(problem=f"nvidia-smi: {error}")
    if done.returncode:
        said = (done.stdout.strip() or done.stderr.strip()).splitlines()
        return Nvidia(problem=said[0] if said else f"nvidia-smi ended with status {done.returncode}")
    return read_smi(done.stdout, visible)


def read_smi(text: str, visible: str | None) -> Nvidia:
    """What ``nvidia-smi -q -x`` says."""
    from xml.etree import ElementTree

    try:
        log = ElementTree.fromstring(text)  # noqa: S314 - the driver's own program
    except ElementTree.ParseError as error:
        return Nvidia(problem=f"nvidia-smi -q -x wrote no XML: {error}")
    gpus = [
        (_text(item, "uuid") or "", Gpu(name=_text(item, "product_name") or "unknown", memory=_memory(item)))
        for item in log.iterfind("gpu")
    ]
    driver, cuda = (version(_text(log, name) or "") for name in ("driver_version", "cuda_version"))
    return Nvidia(driver=driver, cuda=cuda, gpus=chosen(gpus, visible))


def _text(item: ElementTree.Element, name: str) -> str | None:
    text = (item.findtext(name) or "").strip()
    return None if text.strip("[]") in ("", "N/A", "Not Found", "Not Supported") else text


def _memory(item: ElementTree.Element) -> int | None:
    found = re.fullmatch(r"(\d+) MiB", _text(item, "fb_memory_usage/total") or "")
    return int(found[1]) * _MIB if found else None


# -- the kernel module -------------------------------------------------------------------------------------------------


def _by_module(path: Path) -> Nvidia | None:
    """``NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19 …``; the open one has more words."""
    try:
        first = path.read_text(errors="replace").partition("\n")[0]
    except OSError:
        return None
    found = re.search(r"\s(\d{3,}(?:\.\d+)+)\s", first + os.linesep)
    return Nvidia(driver=found[1] if found else None)
