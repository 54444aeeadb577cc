"""A filter over system calls for the box that has no network namespace: no new sockets.

Landlock alone cannot do it: its network rules know TCP only, and a socket file may be connected to whatever the file
rules say. So `socket` is refused for every family (pairs of connected sockets within a program still work), and so is
io_uring, which could open one unseen. The kernel's keys are refused as well: without a user namespace of its own a
command would share those of the user.
"""

from __future__ import annotations

import errno
import os
import struct

from kodkod_sandbox.launcher import kernel

_LOAD_WORD, _JUMP_EQUAL, _JUMP_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_OFFSET_NUMBER, _OFFSET_ARCHITECTURE = 0, 4
_IO_URING_SETUP = 425
_X32_BIT = 0x40000000

_MACHINES = {
    "x86_64": (0xC000003E, (41, 248, 249, 250)),
    "aarch64": (0xC00000B7, (198, 217, 218, 219)),
    "riscv64": (0xC00000F3, (198, 217, 218, 219)),
}
"""AUDIT_ARCH number, and the numbers of `socket`, `add_key`, `request_key` and `keyctl`, by machine name."""


def is_known_machine() -> bool:
    """Whether the filter can be built here."""
    return os.uname().machine in _MACHINES


def forbid_sockets() -> None:
    """Install the filter for this process and its descendants. New privileges must have been forbidden before."""
    architecture, numbers = _MACHINES[os.uname().machine]
    checks = [(_JUMP_AT_LEAST, _X32_BIT), *((_JUMP_EQUAL, number) for number in (*numbers, _IO_URING_SETUP))]
    program = (
        (_LOAD_WORD, 0, 0, _OFFSET_ARCHITECTURE),
        (_JUMP_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),  # another instruction set has other numbers
        (_LOAD_WORD, 0, 0, _OFFSET_NUMBER),
        *((kind, len(checks) - place, 0, value) for place, (kind, value) in enumerate(checks)),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ERRNO | errno.EACCES),
    )
    kernel.install_filter(b"".join(struct.pack("=HBBI", *instruction) for instruction in program))
