"""The filter as a program: interpreted here, call by call, and its numbers compared with the kernel's headers."""

from __future__ import annotations

import re
import stat
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprobox.sandbox.seccomp import ABIS, program

ALLOW, SUCCEED = 0x7FFF0000, 0x00050000
X86_64, I386, AARCH64, ARM = 0xC000003E, 0x40000003, 0xC00000B7, 0x40000028
PRETENDED = (
    "chown", "fchown", "lchown", "setuid", "setgid", "setreuid", "setregid", "setgroups", "setresuid", "setresgid",
    "setfsuid", "setfsgid", "capset", "fchownat", "fsync", "fdatasync", "sync", "sync_file_range", "syncfs",
)  # fmt: skip
WITH_32_BIT_IDS = (
    "lchown32", "setreuid32", "setregid32", "setgroups32", "fchown32", "setresuid32", "setresgid32", "chown32",
    "setuid32", "setgid32", "setfsuid32", "setfsgid32",
)  # fmt: skip


def answer(machine: str, audit: int, number: int, *arguments: int) -> int:
    """What the filter says to a call: classic BPF over struct seccomp_data, as linux/filter.h has it."""
    data = struct.pack("=IIQ6Q", number, audit, 0, *(*arguments, *(0,) * (6 - len(arguments))))
    code = [struct.unpack_from("=HBBI", program(machine), at) for at in range(0, len(program(machine)), 8)]
    accumulator, position = 0, 0
    while True:
        operation, yes, no, operand = code[position]
        position += 1
        if operation == 0x20:
            accumulator = struct.unpack_from("=I", data, operand)[0]
        elif operation == 0x54:
            accumulator &= operand
        elif operation == 0x15:
            position += yes if accumulator == operand else no
        elif operation == 0x06:
            return operand
        else:
            raise AssertionError(f"an instruction that nobody knows: {operation:#x}")


@pytest.mark.parametrize(("machine", "audits"), [("x86_64", {X86_64, I386}), ("aarch64", {AARCH64, ARM})])
def test_every_interface_of_a_machine_is_covered(machine, audits):
    assert {abi.audit for abi in ABIS[machine]} == audits
    for abi in ABIS[machine]:
        assert all(answer(machine, abi.audit, number, 1, 2, 3) == SUCCEED for number in abi.pretended)


@given(number=st.integers(0, 600), first=st.integers(0, 2**64 - 1))
@pytest.mark.parametrize("machine", ABIS)
def test_every_other_call_is_the_kernels(machine, number, first):
    for abi in ABIS[machine]:
        if number not in abi.pretended and number not in dict(abi.mknod):
            assert answer(machine, abi.audit, number, first, first, first) == ALLOW


@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK, stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, 0])
@pytest.mark.parametrize("machine", ABIS)
def test_devices_are_pretended_and_other_nodes_are_made(machine, kind):
    wanted = SUCCEED if kind in (stat.S_IFCHR, stat.S_IFBLK) else ALLOW
    for abi in ABIS[machine]:
        for number, position in abi.mknod:
            arguments = [0xDEAD] * position + [kind | 0o644, 0x103]
            assert answer(machine, abi.audit, number, *arguments) == wanted


def test_x32_numbers_are_the_same_calls():
    assert answer("x86_64", X86_64, 0x40000000 | 92) == SUCCEED
    assert answer("x86_64", X86_64, 0x40000000 | 91) == ALLOW


def test_another_architecture_is_left_alone():
    assert answer("x86_64", AARCH64, 54) == ALLOW


def test_the_program_fits_the_kernels_limit():
    assert all(len(program(machine)) // 8 <= 4096 for machine in ABIS)


def numbers(header: str) -> dict[str, int]:
    path = Path("/usr/include") / header
    if not path.exists():
        pytest.skip(f"no {path}: linux-libc-dev is not installed")
    return {name: int(number) for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", path.read_text())}


@pytest.mark.parametrize(
    ("header", "machine", "audit", "names", "mknods"),
    [
        ("x86_64-linux-gnu/asm/unistd_64.h", "x86_64", X86_64, PRETENDED, ("mknod", "mknodat")),
        ("x86_64-linux-gnu/asm/unistd_32.h", "x86_64", I386, PRETENDED + WITH_32_BIT_IDS, ("mknod", "mknodat")),
        (
            "asm-generic/unistd.h",
            "aarch64",
            AARCH64,
            [n for n in PRETENDED if n not in ("chown", "lchown")],
            ("mknodat",),
        ),
    ],
)
def test_numbers_are_those_of_the_kernels_headers(header, machine, audit, names, mknods):
    known = numbers(header)
    abi = next(abi for abi in ABIS[machine] if abi.audit == audit)
    assert set(abi.pretended) == {known[name] for name in names}
    assert {number for number, _ in abi.mknod} == {known[name] for name in mknods}
