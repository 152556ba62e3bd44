"""The filter of steps as engines take it: the sandbox's own table, in the words of libseccomp.

Source: Docker's seccomp profile format (``docker run --security-opt seccomp=``); seccomp_rule_add(3).
"""

from __future__ import annotations

import json
import stat

from reprobox.digest import Json
from reprobox.sandbox.seccomp import CALLS

_ARCHITECTURES = (
    "SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM",
)  # fmt: skip
#: Second calls of 32-bit machines, for wide ids or with another order. Engines skip what a machine has not.
_ALSO = tuple(f"{name}32" for name in CALLS if "id" in name or "chown" in name or name == "setgroups")
_ALSO_FLUSHES = ("sync_file_range2", "arm_sync_file_range")
#: mknod, and which of its arguments is the mode.
_MKNOD = {"mknod": 1, "mknodat": 2}


def profile() -> str:
    """The profile as JSON: the pretended calls answer success and do nothing, all others are allowed."""
    success: dict[str, Json] = {"action": "SCMP_ACT_ERRNO", "errnoRet": 0}
    rules: list[Json] = [{"names": [*CALLS, *_ALSO, *_ALSO_FLUSHES], **success}]
    for name, argument in _MKNOD.items():
        for kind in (stat.S_IFCHR, stat.S_IFBLK):
            mode = {"index": argument, "value": 0o170000, "valueTwo": kind, "op": "SCMP_CMP_MASKED_EQ"}
            rules.append({"names": [name], "args": [mode], **success})
    document = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": list(_ARCHITECTURES), "syscalls": rules}
    return json.dumps(document)
