"""A child process whose system calls on the files of a folder are seen (Linux).

By ptrace, which needs nothing but permission to trace a child of one's own; so it sees what a
driver in C does as well as what Python does. A filter (seccomp) picks the calls that may change
a file, so that all others are as fast as ever.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

__all__ = ["Call", "Seen", "about", "trace"]

_NUMBERS = {
    "x86_64": {
        "write": 1, "open": 2, "pwrite64": 18, "writev": 20, "msync": 26, "sendfile": 40,
        "fcntl": 72, "flock": 73, "fsync": 74, "fdatasync": 75, "truncate": 76, "ftruncate": 77,
        "rename": 82, "mkdir": 83, "rmdir": 84, "creat": 85, "link": 86, "unlink": 87,
        "sync": 162, "openat": 257, "mkdirat": 258, "unlinkat": 263, "renameat": 264,
        "linkat": 265, "splice": 275, "fallocate": 285, "pwritev": 296, "syncfs": 306,
        "renameat2": 316, "copy_file_range": 326, "pwritev2": 328,
    },
    "aarch64": {
        "fcntl": 25, "flock": 32, "mkdirat": 34, "unlinkat": 35, "linkat": 37, "renameat": 38,
        "truncate": 45, "ftruncate": 46, "fallocate": 47, "openat": 56, "write": 64,
        "writev": 66, "pwrite64": 68, "pwritev": 70, "sendfile": 71, "splice": 76, "sync": 81,
        "fsync": 82, "fdatasync": 83, "msync": 227, "syncfs": 267, "renameat2": 276,
        "copy_file_range": 285, "pwritev2": 287,
    },
}  # fmt: skip
#: Which arguments are paths, by the calls that have some; in those that end in "at" (or "at2")
#: the descriptor of a folder is before each.
_PATHS = {
    "open": (0,), "creat": (0,), "truncate": (0,), "mkdir": (0,), "rmdir": (0,), "unlink": (0,),
    "rename": (0, 1), "link": (0, 1), "openat": (1,), "mkdirat": (1,), "unlinkat": (1,),
    "renameat": (1, 3), "renameat2": (1, 3), "linkat": (1, 3),
}  # fmt: skip
#: Which argument is the file that is written, where it is not the first.
_TARGETS = {"splice": 2, "copy_file_range": 2}
#: Of these nobody can say from their arguments alone on which file they are.
_ALWAYS = {"sync", "msync"}

_TRACEME, _CONT, _SYSCALL, _SETOPTIONS, _GET_SYSCALL_INFO = 0, 7, 24, 0x4200, 0x420E
#: Mark the stops of calls, follow threads and forks, stop where the filter says so, kill all
#: when the tracer ends.
_OPTIONS = 0x1 | 0x2 | 0x4 | 0x8 | 0x80 | 0x100000
_FILTERED = signal.SIGTRAP | 7 << 8
#: The status of a child that may not filter.
_UNFILTERED = 77
_ENDED = signal.SIGTRAP | 0x80
_ALL = 0x40000000  # threads too
_INFO = struct.Struct("<B23x7Q")
_RESULT = struct.Struct("<24xq")
_INFORMATION = ctypes.create_string_buffer(88)
_library = ctypes.CDLL(None, use_errno=True)
_library.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_library.ptrace.restype = ctypes.c_long


class Call(NamedTuple):
    """``result`` is below 0 for an error, and ``None`` before the call is carried out."""

    name: str
    arguments: tuple[int, ...]
    #: The thread that makes it; its number serves as that of a process under /proc.
    process: int
    result: int | None = None

    @property
    def descriptor(self) -> int:
        return self.arguments[_TARGETS.get(self.name, 0)]

    @property
    def link(self) -> str:
        """Of the file that it writes, as /proc has it."""
        return f"/proc/{self.process}/fd/{self.descriptor}"


#: Called before and after each call; ``True`` kills the process.
Seen = Callable[[Call], bool]


def about(call: Call, folder: str) -> bool:
    """Whether it may change a file in the folder, or the folder. Before it is carried out."""
    if call.name in _ALWAYS:
        return True
    try:
        if call.name not in _PATHS:
            return _inside(os.readlink(call.link), folder)
        return any(_inside(_path(call, place), folder) for place in _PATHS[call.name])
    except OSError:
        return False


def _inside(path: str, folder: str) -> bool:
    # One that is deleted is called so behind its path.
    return path == folder or path.startswith(folder + "/")


def _path(call: Call, place: int) -> str:
    address = call.arguments[place]
    with open(f"/proc/{call.process}/mem", "rb", buffering=0) as memory:
        # Not across the edge of a page, behind which there may be no memory.
        found = os.pread(memory.fileno(), 4096 - address % 4096, address)
        if b"\0" not in found:
            found += os.pread(memory.fileno(), 4096, address + len(found))
    path = os.fsdecode(found.partition(b"\0")[0])
    if not path.startswith("/"):
        start = call.arguments[place - 1] if "at" in call.name[-3:] else 2**32
        near = "cwd" if start >= 2**31 else f"fd/{start}"
        path = os.path.join(os.readlink(f"/proc/{call.process}/{near}"), path)
    return os.path.normpath(path)


def _ptrace(request: int, process: int, address: int = 0, data: int = 0) -> None:
    if _library.ptrace(request, process, address, data) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"ptrace: {os.strerror(number)}")


def trace(function: Callable[[], object], seen: Seen, folder: Path, *, ends: bool = True) -> int:
    """Run it in a forked child to its end; the status that ``waitpid`` gives.

    ``ends``: calls are seen when they have been carried out too. ``PermissionError`` where
    nobody may trace a process.
    """
    machine = platform.machine()
    if machine not in _NUMBERS or platform.system() != "Linux":
        raise SystemExit(f"System calls are seen on Linux on {', '.join(_NUMBERS)} only.")
    names = {number: name for name, number in _NUMBERS[machine].items()}
    child = os.fork()
    if not child:
        _be_traced(function, sorted(names))
    _, status = os.waitpid(child, _ALL)
    if not os.WIFSTOPPED(status):
        raise PermissionError("This system lets no process trace its child by ptrace.")
    _ptrace(_SETOPTIONS, child, 0, _OPTIONS)
    _ptrace(_CONT, child)
    inside: dict[int, Call] = {}
    place = os.fspath(folder)
    while True:
        process, status = os.waitpid(-child, _ALL)
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            if process == child:
                if status == _UNFILTERED << 8:
                    raise PermissionError("This system lets no process filter its calls: seccomp.")
                return status
            continue
        stop, passed, request = status >> 8, 0, _CONT
        try:
            if stop == _FILTERED:
                number, *arguments = _information(process)[1:]
                call = Call(names[number], tuple(arguments), process)
                if about(call, place):
                    if seen(call):
                        os.kill(child, signal.SIGKILL)
                        continue
                    if ends:
                        inside[process] = call
                        request = _SYSCALL
            elif stop == _ENDED:
                if process in inside:
                    _information(process)
                    result = _RESULT.unpack_from(_INFORMATION)[0]
                    seen(inside.pop(process)._replace(result=result))
            elif stop not in (signal.SIGTRAP, signal.SIGSTOP) and not status >> 16:
                passed = os.WSTOPSIG(status)
            _ptrace(request, process, 0, passed)
        except ProcessLookupError:
            continue


def _information(process: int) -> tuple[int, ...]:
    _ptrace(_GET_SYSCALL_INFO, process, len(_INFORMATION), ctypes.addressof(_INFORMATION))
    return _INFO.unpack_from(_INFORMATION)


def _be_traced(function: Callable[[], object], numbers: list[int]) -> None:
    try:
        # A group of its own: who traces waits for these, and not for other children.
        os.setpgid(0, 0)
        _ptrace(_TRACEME, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        try:
            _stop_at(numbers)
        except OSError:
            os._exit(_UNFILTERED)
        function()
        os._exit(0)
    finally:
        os._exit(1)


def _stop_at(numbers: list[int]) -> None:
    """Ask the system to stop this process, and what it starts, before each of these calls."""
    load, equals, give = 0x20, 0x15, 0x06
    allow, stop = 0x7FFF0000, 0x7FF00000
    lines = [(load, 0, 0, 0)]
    for left, number in zip(range(len(numbers), 0, -1), numbers, strict=True):
        lines.append((equals, left, 0, number))
    lines += [(give, 0, 0, allow), (give, 0, 0, stop)]
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in lines))
    argument = struct.pack("HxxxxxxQ", len(lines), ctypes.addressof(program))
    no_new_privileges, set_filter, filtered = 38, 22, 2
    _library.prctl(no_new_privileges, 1, 0, 0, 0)
    if _library.prctl(set_filter, filtered, ctypes.c_char_p(argument), 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, f"seccomp: {os.strerror(number)}")
