"""Which start of the machine this is."""

from __future__ import annotations

import os
from functools import cache

__all__ = ["NO_BOOT", "boot_identity"]

#: Where the system does not tell; equal to nothing, not even to itself.
NO_BOOT = bytes(16)


@cache
def boot_identity() -> bytes:
    """16 bytes that differ after each start of the machine; ``NO_BOOT`` where nobody tells."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return bytes.fromhex(file.read().strip().replace("-", ""))
    except (OSError, ValueError):
        return _session_of_darwin()


def _session_of_darwin() -> bytes:
    import ctypes

    try:
        library = ctypes.CDLL(None)
        size, answer = ctypes.c_size_t(64), ctypes.create_string_buffer(64)
        name = b"kern.bootsessionuuid"
        if os.uname().sysname == "Darwin" and not library.sysctlbyname(
            name, answer, ctypes.byref(size), None, ctypes.c_size_t(0)
        ):
            return bytes.fromhex(answer.value.decode().replace("-", ""))
    except (OSError, AttributeError, ValueError):
        pass
    return NO_BOOT
