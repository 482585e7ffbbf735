"""A system call filter: no user namespace is made inside.

In one of its own a command could mount file systems, of which no limit is known. `clone3`, whose flags a filter cannot
see, is said to be missing: the C libraries then use `clone`.
"""

from __future__ import annotations

import errno
import platform
import struct

CLONE_NEWUSER = 0x10000000
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
"""Instructions of the classic Berkeley packet filter (linux/bpf_common.h)."""
ALLOW, REFUSE = 0x7FFF0000, 0x00050000
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16
"""Offsets in `struct seccomp_data`, little endian."""

MACHINES = {"x86_64": (0xC000003E, 56, 272), "aarch64": (0xC00000B7, 220, 97)}
"""Audit architecture and the numbers of `clone` and `unshare`."""
CLONE3, X32 = 435, 0x40000000


def user_namespace_filter() -> bytes | None:
    """The filter as bubblewrap reads it; None: not known for this machine."""
    if platform.machine() not in MACHINES:
        return None
    architecture, clone, unshare = MACHINES[platform.machine()]
    # code, steps to go on if true, steps to go on if false, operand
    program = (
        (LOAD, 0, 0, ARCHITECTURE),
        (EQUAL, 0, 10, architecture),
        (LOAD, 0, 0, NUMBER),
        (AT_LEAST, 8, 0, X32),
        (EQUAL, 7, 0, CLONE3),
        (EQUAL, 2, 0, clone),
        (EQUAL, 1, 0, unshare),
        (RETURN, 0, 0, ALLOW),
        (LOAD, 0, 0, FIRST_ARGUMENT),
        (ANY_BIT, 0, 1, CLONE_NEWUSER),
        (RETURN, 0, 0, REFUSE | errno.EPERM),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, REFUSE | errno.ENOSYS),
    )
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
