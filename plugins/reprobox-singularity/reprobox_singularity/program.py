"""A program of some hundred bytes that makes a few system calls and then becomes a command.

Apptainer starts what it is told by way of a shell that adds variables of its own to the environment, takes empty ones
away and may not find a command as `execvp` would; and an image need not have a shell, or anything else, that could put
this right. So what Apptainer is told to start is a static program, written for the one occasion: its data are the
command, the environment and the words for what can go wrong, and its code goes through a table of system calls. It is
passed in memory, as an inherited descriptor, so that no value of the environment touches a disk or a process list.

The last thing it does before the command is to put the filter of :mod:`reprobox.sandbox.seccomp` on, in steps:
Apptainer itself would not start under it.

Source: System V ABI, ELF-64 object file format; Linux's calling conventions of x86-64 and AArch64. Standard library
only.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reprobox.sandbox import seccomp

_ORIGIN = 0x10000000
_EHDR, _PHDR = 64, 56
_ENTRY = 72  # bytes of the table: number, six arguments, where to go if there is no such file, where if it fails else
_ENOENT, _ENOTDIR, _EACCES = 2, 20, 13
_NOT_EXECUTABLE, _NOT_FOUND = 126, 127


@dataclass(frozen=True, kw_only=True, slots=True)
class _Machine:
    """An architecture: its ELF number, its code, and the numbers of the system calls that are needed."""

    elf: int
    code: bytes
    calls: Mapping[str, int]


# mov rbx, TABLE; loop: mov rax,[rbx]; mov rdi,[rbx+8]; mov rsi,[rbx+16]; mov rdx,[rbx+24]; mov r10,[rbx+32];
# mov r8,[rbx+40]; mov r9,[rbx+48]; syscall; test rax,rax; js failed; add rbx,72; jmp loop;
# failed: cmp rax,-2; je missing; cmp rax,-20; je missing; mov rbx,[rbx+64]; jmp loop;
# missing: mov rbx,[rbx+56]; jmp loop
_X86_64 = bytes.fromhex(
    "48bb0000000000000000"
    "488b03488b7b08488b7310488b5318 4c8b5320 4c8b4328 4c8b4b30 0f05 4885c0 7806 4883c348 ebd9"
    "4883f8fe 740c 4883f8ec 7406 488b5b40 ebc7 488b5b38 ebc1".replace(" ", "")
)
_X86_64_TABLE = 2  # where in the code the table's address is


def _words(*words: int) -> bytes:
    return struct.pack(f"<{len(words)}I", *words)


def _ldr(register: int, offset: int) -> int:
    """``ldr xN, [x19, #offset]``"""
    return 0xF9400000 | (offset // 8) << 10 | 19 << 5 | register


def _back(here: int, there: int) -> int:
    """``b``, from instruction number ``here`` to ``there``."""
    return 0x14000000 | (there - here) & 0x3FFFFFF


_AARCH64 = _words(
    0x58000000 | 22 << 5 | 19,  # ldr x19, TABLE, which stands behind the code
    _ldr(8, 0),
    *(_ldr(number, 8 + 8 * number) for number in range(6)),
    0xD4000001,  # svc 0
    0xB6F80000 | 11 << 5,  # tbz x0, 63, 11 instructions on: it went well
    0xB100081F,  # cmn x0, 2
    0x54000000 | 5 << 5,  # b.eq missing
    0xB100501F,  # cmn x0, 20
    0x54000000 | 3 << 5,  # b.eq missing
    _ldr(19, 64),
    _back(15, 1),
    _ldr(19, 56),  # missing
    _back(17, 1),
    0xD503201F,  # nop
    0xD503201F,
    0x91000000 | 72 << 10 | 19 << 5 | 19,  # add x19, x19, 72
    _back(21, 1),
)
_AARCH64_TABLE = len(_AARCH64)

_MACHINES = {
    "x86_64": _Machine(
        elf=62,
        code=_X86_64,
        calls={
            "close": 3, "chdir": 80, "umask": 95, "setsid": 112, "prctl": 157, "prlimit": 302, "write": 1, "exit": 231,
            "execve": 59,
        },
    ),
    "aarch64": _Machine(
        elf=183,
        code=_AARCH64 + bytes(8),
        calls={
            "close": 57, "chdir": 49, "umask": 166, "setsid": 157, "prctl": 167, "prlimit": 261, "write": 64,
            "exit": 94, "execve": 221,
        },
    ),
}  # fmt: skip
#: Machines that programs can be made for, by ``uname -m``.
MACHINES = frozenset(_MACHINES)


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """What to become, and how: the descriptor by which the program itself is known is closed first.

    ``step`` is for steps: a session of its own, no core dumps, the filter. ``umask`` is left alone if it is negative.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    workdir: str
    descriptor: int
    umask: int = -1
    step: bool = False
    session: bool = False


class _Data:
    """Bytes that the program holds, each piece at an address that is known when it is added."""

    def __init__(self, origin: int) -> None:
        self._origin = origin
        self._pieces = bytearray()

    def add(self, data: bytes) -> int:
        at = self._origin + len(self._pieces)
        self._pieces += data + bytes(-len(data) % 8)
        return at

    def text(self, text: str | bytes) -> int:
        return self.add(os.fsencode(text) + b"\0")

    def vector(self, texts: Sequence[str]) -> int:
        return self.add(struct.pack(f"<{len(texts) + 1}Q", *map(self.text, texts), 0))

    def bytes(self) -> bytes:
        return bytes(self._pieces)


class _Table:
    """The system calls, one after another; labels are numbers of entries, given once they are known."""

    def __init__(self, origin: int, calls: Mapping[str, int]) -> None:
        self._origin = origin
        self._calls = calls
        self._entries: list[tuple[int, tuple[int, ...], str, str]] = []
        self._labels: dict[str, int] = {}

    def label(self, name: str) -> None:
        self._labels[name] = len(self._entries)

    def call(self, name: str, *arguments: int, missing: str = "", failed: str = "") -> None:
        """Without labels, what fails is passed over."""
        after = f"after {len(self._entries)}"
        self._labels[after] = len(self._entries) + 1
        self._entries.append((self._calls[name], arguments, missing or failed or after, failed or after))

    def bytes(self) -> bytes:
        return b"".join(
            struct.pack("<9Q", number, *(value & (1 << 64) - 1 for value in (*arguments, 0, 0, 0, 0, 0, 0)[:6]),
                        self._address(missing), self._address(failed))
            for number, arguments, missing, failed in self._entries
        )  # fmt: skip

    def _address(self, label: str) -> int:
        return self._origin + self._labels[label] * _ENTRY

    def __len__(self) -> int:
        return len(self._entries)


def program(command: Command, machine: str = "") -> bytes:
    """The program as an ELF file for ``machine`` (``uname -m``), this one if left out.

    Raises :class:`KeyError` for a machine that is not in :data:`MACHINES`.
    """
    kind = _MACHINES[machine or os.uname().machine]
    at = _ORIGIN + _EHDR + _PHDR
    code_size = len(kind.code) + -len(kind.code) % 8
    candidates = _candidates(command)
    room = (20 + 2 * len(candidates)) * _ENTRY
    table = _Table(at + code_size, kind.calls)
    data = _Data(at + code_size + room)
    _fill(table, data, command, candidates, machine or os.uname().machine)
    assert len(table) * _ENTRY <= room
    where = _X86_64_TABLE if kind.elf == 62 else _AARCH64_TABLE
    code = kind.code[:where] + struct.pack("<Q", at + code_size) + kind.code[where + 8 :]
    body = code.ljust(code_size, b"\0") + table.bytes().ljust(room, b"\0") + data.bytes()
    return _elf(kind.elf, body)


def _elf(machine: int, body: bytes) -> bytes:
    size = _EHDR + _PHDR + len(body)
    identity = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    entry = _ORIGIN + _EHDR + _PHDR
    header = identity + struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, entry, _EHDR, 0, 0, _EHDR, _PHDR, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _ORIGIN, _ORIGIN, size, size, 0x10000)  # readable, executable
    return header + segment + body


def _candidates(command: Command) -> list[str]:
    """The files that may be the command, as the PATH of its environment has them."""
    name = command.argv[0]
    if "/" in name or not name:
        return [name]
    folders = command.environment.get("PATH", "/usr/bin:/bin").split(":")
    return [f"{folder}/{name}" for folder in folders if folder]


def _fill(table: _Table, data: _Data, command: Command, candidates: Sequence[str], machine: str) -> None:
    table.call("close", command.descriptor)
    if command.session:
        table.call("setsid")
    if command.umask >= 0:
        table.call("umask", command.umask)
    table.call("chdir", data.text(command.workdir), failed="no folder")
    if command.step:
        table.call("prlimit", 0, 4, data.add(bytes(16)))  # RLIMIT_CORE: a crash leaves nothing in the layer
        filtered = seccomp.program(machine)
        table.call("prctl", 38, 1)  # PR_SET_NO_NEW_PRIVS
        rule = data.add(struct.pack("<HxxxxxxQ", len(filtered) // 8, data.add(filtered)))
        table.call("prctl", 22, 2, rule, failed="no filter")  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
    argv = data.vector(command.argv)
    environment = data.vector([f"{name}={value}" for name, value in command.environment.items()])
    _execute(table, data, candidates, argv, environment)
    name = command.argv[0]
    _end(table, data, "absent", f"cannot run {name}: it is not in the environment", _NOT_FOUND)
    _end(table, data, "denied", f"cannot run {name}: it is no program that may be executed here", _NOT_EXECUTABLE)
    _end(table, data, "no folder", f"cannot enter the working directory {command.workdir}", _NOT_EXECUTABLE)
    _end(table, data, "no filter", "cannot put the filter of system calls on", _NOT_EXECUTABLE)


def _execute(table: _Table, data: _Data, candidates: Sequence[str], argv: int, environment: int) -> None:
    """Try each file; as execvp(3), go on where there is none, and say at the end that one was denied if one was."""
    texts = [data.text(name) for name in candidates]
    for chain, end in (("plain", "absent"), ("had one", "denied")):
        for number, text in enumerate(texts):
            table.label(f"{chain} {number}")
            last = number == len(texts) - 1
            going_on = end if last else f"{chain} {number + 1}"
            table.call("execve", text, argv, environment, missing=going_on,
                       failed="denied" if last else f"had one {number + 1}")  # fmt: skip
        if not texts:
            table.label(f"{chain} 0")


def _end(table: _Table, data: _Data, label: str, words: str, status: int) -> None:
    line = os.fsencode(f"reprobox: {words}\n")
    table.label(label)
    table.call("write", 2, data.add(line), len(line))
    table.call("exit", status)
