"""The seccomp filter that every builder applies: ownership, identity, device and flush calls succeed and do nothing.

So real root and a lone user id that pretends to be root leave the same modes behind, and no step waits for a disk.
The filter is written out here rather than made by a library, so that it is the same program everywhere; it covers every
ABI that a machine can execute (64-bit, x32 and 32-bit calls).

Source: seccomp(2), linux/filter.h; call numbers from the kernel's syscall tables.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Abi:
    """A system call interface: its audit number, the calls that are pretended, and mknod's (number, mode argument)."""

    audit: int
    pretended: tuple[int, ...]
    mknod: tuple[tuple[int, int], ...]


#: What is pretended, by name, in the order of the numbers below: for builders that are told names.
CALLS = (
    "chown", "fchown", "lchown", "setuid", "setgid", "setreuid", "setregid", "setgroups", "setresuid", "setresgid",
    "setfsuid", "setfsgid", "capset", "fchownat", "fsync", "fdatasync", "sync", "sync_file_range", "syncfs",
)  # fmt: skip
_X86_64 = Abi(
    audit=0xC000003E,
    pretended=(92, 93, 94, 105, 106, 113, 114, 116, 117, 119, 122, 123, 126, 260, 74, 75, 162, 277, 306),
    mknod=((133, 1), (259, 2)),
)
# 16- and 32-bit id variants both; i386 and 32-bit Arm share the numbers up to 216.
_OLD_32 = (16, 23, 46, 70, 71, 81, 95, 138, 139, 164, 170, 182, 185, 198, 203, 204, 206, 207, 208, 210, 212, 213, 214)
_OLD_32_IDS = (215, 216, 36, 118, 148)
_I386 = Abi(audit=0x40000003, pretended=(*_OLD_32, *_OLD_32_IDS, 298, 314, 344), mknod=((14, 1), (297, 2)))
_ARM = Abi(audit=0x40000028, pretended=(*_OLD_32, *_OLD_32_IDS, 325, 341, 373), mknod=((14, 1), (324, 2)))
_AARCH64 = Abi(
    audit=0xC00000B7,
    pretended=(54, 55, 91, 143, 144, 145, 146, 147, 149, 151, 152, 159, 81, 82, 83, 84, 267),
    mknod=((33, 2),),
)
#: The ABIs that a machine executes, by ``uname -m``.
ABIS: Mapping[str, tuple[Abi, ...]] = {"x86_64": (_X86_64, _I386), "aarch64": (_AARCH64, _ARM)}

_X32_BIT = 0x40000000
_LOAD, _JUMP_EQUAL, _AND, _RETURN = 0x20, 0x15, 0x54, 0x06
_ALLOW, _SUCCEED = 0x7FFF0000, 0x00050000  # SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO with errno 0
_NUMBER_OFFSET, _ARCH_OFFSET, _ARGUMENTS_OFFSET = 0, 4, 16


def program(machine: str) -> bytes:
    """The filter as an array of ``struct sock_filter`` for ``machine``. Raises :class:`KeyError` for an unknown one."""
    blocks = [b"".join(_block(abi)) for abi in ABIS[machine]]
    code = _instruction(_LOAD, _ARCH_OFFSET)
    for abi, block in zip(ABIS[machine], blocks, strict=True):
        code += _instruction(_JUMP_EQUAL, abi.audit, 0, len(block) // 8) + block
    return code + _instruction(_RETURN, _ALLOW)


def _block(abi: Abi) -> Iterator[bytes]:
    yield _instruction(_LOAD, _NUMBER_OFFSET)
    if abi is _X86_64:
        yield _instruction(_AND, 0xFFFFFFFF ^ _X32_BIT)
    for number in abi.pretended:
        yield _instruction(_JUMP_EQUAL, number, 0, 1)
        yield _instruction(_RETURN, _SUCCEED)
    for number, argument in abi.mknod:
        yield _instruction(_JUMP_EQUAL, number, 0, 6)
        yield _instruction(_LOAD, _ARGUMENTS_OFFSET + 8 * argument)
        yield _instruction(_AND, 0o170000)
        yield _instruction(_JUMP_EQUAL, stat.S_IFCHR, 1, 0)
        yield _instruction(_JUMP_EQUAL, stat.S_IFBLK, 0, 1)
        yield _instruction(_RETURN, _SUCCEED)
        yield _instruction(_RETURN, _ALLOW)
    yield _instruction(_RETURN, _ALLOW)


def _instruction(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, operand)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def install(libc: ctypes.CDLL) -> None:
    """Put the filter on this process and all it will start. Raises :class:`OSError`."""
    code = program(os.uname().machine)
    argument = _Program(len(code) // 8, code)
    if libc.prctl(38, 1, 0, 0, 0) < 0 or libc.prctl(22, 2, ctypes.byref(argument), 0, 0) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "seccomp filter")
