"""A child process whose system calls are seen, each before and after it is carried out (Linux).

By ptrace, which needs nothing but permission to trace a child of one's own; so it sees what a
driver in C does as well as what Python does.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import struct
from collections.abc import Callable
from typing import NamedTuple

__all__ = ["Call", "Seen", "trace"]

_NUMBERS = {
    "x86_64": {
        "write": 1, "open": 2, "pwrite64": 18, "writev": 20, "msync": 26, "fcntl": 72,
        "flock": 73, "fsync": 74, "fdatasync": 75, "truncate": 76, "ftruncate": 77,
        "rename": 82, "creat": 85, "link": 86, "unlink": 87, "openat": 257, "unlinkat": 263,
        "renameat": 264, "linkat": 265, "fallocate": 285, "pwritev": 296, "renameat2": 316,
        "pwritev2": 328,
    },
    "aarch64": {
        "fcntl": 25, "flock": 32, "unlinkat": 35, "linkat": 37, "renameat": 38, "truncate": 45,
        "ftruncate": 46, "fallocate": 47, "openat": 56, "write": 64, "writev": 66,
        "pwrite64": 68, "pwritev": 69, "fsync": 82, "fdatasync": 83, "msync": 227,
        "renameat2": 276, "pwritev2": 286,
    },
}  # fmt: skip

_TRACEME, _SYSCALL, _SETOPTIONS, _GET_SYSCALL_INFO = 0, 24, 0x4200, 0x420E
#: Mark the stops of calls, follow threads and forks, kill all when the tracer ends.
_OPTIONS = 0x1 | 0x2 | 0x4 | 0x8 | 0x100000
_ALL = 0x40000000  # threads too
_INFO = struct.Struct("<B23x7Q")
_RESULT = struct.Struct("<24xq")


class Call(NamedTuple):
    """``result`` is below 0 for an error, and ``None`` before the call is carried out."""

    name: str
    arguments: tuple[int, ...]
    process: int
    result: int | None = None


#: Called before and after each call; ``True`` kills the process.
Seen = Callable[[Call], bool]


def _ptrace(request: int, process: int, address: int = 0, data: object = None) -> int:
    library = ctypes.CDLL(None, use_errno=True)
    ptrace = library.ptrace
    ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    ptrace.restype = ctypes.c_long
    result: int = ptrace(request, process, address, data)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"ptrace: {os.strerror(number)}")
    return result


def trace(function: Callable[[], None], seen: Seen) -> int:
    """Run it in a forked child to its end; the status that ``waitpid`` gives."""
    machine = platform.machine()
    if machine not in _NUMBERS or platform.system() != "Linux":
        raise SystemExit(f"System calls are seen on Linux on {', '.join(_NUMBERS)} only.")
    names = {number: name for name, number in _NUMBERS[machine].items()}
    child = os.fork()
    if not child:
        _be_traced(function)
    os.waitpid(child, _ALL)
    _ptrace(_SETOPTIONS, child, 0, _OPTIONS)
    _ptrace(_SYSCALL, child)
    inside: dict[int, Call] = {}
    while True:
        try:
            process, status = os.waitpid(-1, _ALL)
        except ChildProcessError:
            return 0
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            if process == child:
                return status
            continue
        number = os.WSTOPSIG(status)
        passed = 0
        if number == signal.SIGTRAP | 0x80:
            if _is_to_die(process, names, inside, seen):
                os.kill(child, signal.SIGKILL)
                continue
        elif number not in (signal.SIGTRAP, signal.SIGSTOP):
            passed = number
        try:
            _ptrace(_SYSCALL, process, 0, passed)
        except ProcessLookupError:
            continue


def _be_traced(function: Callable[[], None]) -> None:
    try:
        _ptrace(_TRACEME, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        function()
        os._exit(0)
    finally:
        os._exit(1)


def _is_to_die(process: int, names: dict[int, str], inside: dict[int, Call], seen: Seen) -> bool:
    information = ctypes.create_string_buffer(88)
    try:
        _ptrace(_GET_SYSCALL_INFO, process, len(information), ctypes.addressof(information))
    except ProcessLookupError:
        return False
    kind, number, *arguments = _INFO.unpack_from(information)
    if kind == 1 and number in names:
        call = inside[process] = Call(names[number], tuple(arguments), process)
        return seen(call)
    if kind == 2 and process in inside:
        call = inside.pop(process)
        return seen(call._replace(result=_RESULT.unpack_from(information)[0]))
    return False
