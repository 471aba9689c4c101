"""What a power cut may leave of a folder, by what was written there, synced and named.

As local file systems of Linux have it (ext4, XFS): names come to the disk in their order, with
the sync of their folder or of the file that got the name.
"""

from __future__ import annotations

import os
import random
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from django_kvsessions.testing.crashes.kept import Kept
from django_kvsessions.testing.crashes.pages import Pages
from django_kvsessions.testing.crashes.tracing import Call

__all__ = ["Disk"]

_WRITES = {"write", "pwrite64", "writev", "pwritev", "pwritev2"}
_SYNCS = {"fsync", "fdatasync", "msync", "sync", "syncfs"}
_NAMES = {"open", "openat", "creat", "rename", "renameat", "renameat2", "unlink", "unlinkat",
          "link", "linkat", "mkdir", "mkdirat", "rmdir"}  # fmt: skip
_LOCKS = {"fcntl", "flock"}
_RWF_DSYNC, _RWF_SYNC, _MS_SYNC = 2, 4, 4
#: What is synced, where that is not one file.
ALL, FOLDER, NOTHING = 0, -1, -2


class FileSync(NamedTuple):
    """By numbers. One of the data alone brings a new file's name, but no other name."""

    ended: int
    begun: int
    inode: int
    is_whole: bool


class Disk:
    """Records what becomes of the files of a folder, as the calls of a traced process come.

    What happens is numbered, by one count for all files. What is there at first is on the disk:
    it has the number 0.
    """

    def __init__(self, folder: Path, said: int) -> None:
        """``said`` is the end of a pipe into which the process says what it does."""
        self.folder = folder
        self.kept = Kept(folder)
        #: When each thing happened.
        self.moments = [time.monotonic()]
        #: What the process said, with the number.
        self.said: list[tuple[int, bytes]] = []
        self._said = said
        self._files: dict[int, Pages] = {}
        self._names: list[tuple[int, dict[str, int]]] = [(0, self.kept.names())]
        #: Number of a sync of the folder, and of the last thing before it began.
        self._names_synced: list[tuple[int, int]] = []
        self._file_syncs: list[FileSync] = []
        self._begun: dict[int, tuple[int, int, range | None]] = {}
        self._since: dict[int, float] = {}
        #: From when to when somebody waited for the disk.
        self.waits: list[tuple[float, float]] = []
        for inode in self._names[0][1].values():
            self._files[inode] = Pages(self.kept.read(inode))

    @property
    def last(self) -> int:
        return len(self.moments) - 1

    def _note(self) -> int:
        self.moments.append(time.monotonic())
        return self.last

    def listen(self) -> None:
        with suppress(BlockingIOError):
            while said := os.read(self._said, 65536):
                self.said.append((self._note(), said))

    def seen(self, call: Call) -> bool:
        self.listen()
        if call.result is None:
            if call.name in _SYNCS:
                # A sync is of what was there when it began: also of mapped memory.
                self._look_at_all()
                self._since[call.process] = time.monotonic()
                self._begun[call.process] = self.last, *_synced_by(call)
        elif call.name in _SYNCS:
            begun, inode, blocks = self._begun.pop(call.process)
            self.waits.append((self._since.pop(call.process), time.monotonic()))
            if call.result >= 0:
                self._synced(begun, inode, blocks)
                if blocks is None:
                    is_whole = call.name != "fdatasync"
                    self._file_syncs.append(FileSync(self.last, begun, inode, is_whole))
        elif call.result >= 0 and call.name not in _LOCKS:
            if call.name in _NAMES:
                self._look_at_names()
            self._look_at_all()
            if call.name in _WRITES and call.result and _is_through(call):
                inode = os.stat(call.link).st_ino
                end = _position(call) + call.result
                self._synced(self.last, inode, range(end - call.result, end))
        return False

    def _look_at_names(self) -> None:
        names = self.kept.names()
        if names != self._names[-1][1]:
            self._names.append((self._note(), names))
            for inode in names.values():
                self._files.setdefault(inode, Pages(b""))

    def _look_at_all(self) -> None:
        """Whoever wrote: another thread, or one that has the file in its memory."""
        for inode, file in self._files.items():
            content = self.kept.read(inode)
            if content != file.content:
                file.change(self._note(), content)

    def _synced(self, begun: int, inode: int, part: range | None) -> None:
        number = self._note()
        if inode in (ALL, FOLDER):
            self._names_synced.append((number, begun))
        for one, file in self._files.items():
            if inode in (ALL, one):
                file.synced(number, begun, part)

    def cut(self, stop: int, chance: random.Random) -> None:
        """Make the folder what it may be after a power cut behind what has that number."""
        self.kept.restore(*self.left(stop, chance))

    def left(self, stop: int, chance: random.Random) -> tuple[dict[str, int], dict[int, bytes]]:
        """The files by their names, and what is in each."""
        names = self._names_left(stop, chance)
        # In some cuts all that is younger than a moment is gone, in most each file is by itself.
        moment = chance.randint(0, stop) if chance.random() < 0.1 else None
        contents: dict[int, bytes] = {}
        for _, inode in sorted(names.items()):
            if inode not in contents:
                contents[inode] = self._files[inode].left(stop, chance, moment)
        return names, contents

    def _names_left(self, stop: int, chance: random.Random) -> dict[str, int]:
        sure = max((begun for number, begun in self._names_synced if number <= stop), default=0)
        syncs = [sync for sync in self._file_syncs if sync.ended <= stop]
        before: dict[str, int] = {}
        possible = []
        for number, names in self._names:
            if number > stop:
                break
            named = {inode for name, inode in names.items() if before.get(name) != inode}
            new = named - set(before.values())
            if any(
                sync.begun >= number and sync.inode in (named if sync.is_whole else new)
                for sync in syncs
            ):
                sure = max(sure, number)
            possible.append((number, names))
            before = names
        first = max(place for place, (number, _) in enumerate(possible) if number <= sure)
        possible = possible[first:]
        place = chance.choice((0, -1, -1, chance.randrange(len(possible))))
        return possible[place][1]


def _synced_by(call: Call) -> tuple[int, range | None]:
    """The file that is synced, and which of its bytes if not all."""
    if call.name in ("sync", "syncfs"):
        return ALL, None
    if call.name != "msync":
        status = os.stat(call.link)
        return FOLDER if stat.S_ISDIR(status.st_mode) else status.st_ino, None
    start, size, flags = call.arguments[:3]
    if not flags & _MS_SYNC:
        return NOTHING, None
    for line in Path(f"/proc/{call.process}/maps").read_text().splitlines():
        addresses, _, offset, _, inode, *_ = line.split()
        low, high = (int(address, 16) for address in addresses.split("-"))
        if low <= start < high:
            begin = int(offset, 16) + start - low
            return int(inode), range(begin, begin + size)
    return NOTHING, None


def _about(call: Call) -> dict[str, str]:
    text = Path(f"/proc/{call.process}/fdinfo/{call.descriptor}").read_text()
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


def _is_through(call: Call) -> bool:
    """Whether what is written is on the disk when the call ends."""
    if call.name == "pwritev2" and call.arguments[5] & (_RWF_DSYNC | _RWF_SYNC):
        return True
    try:
        return bool(int(_about(call)["flags"], 8) & os.O_DSYNC)
    except FileNotFoundError:
        # Another thread has closed it since, and how it was opened cannot be seen any more.
        return False


def _position(call: Call) -> int:
    """Where it wrote."""
    if call.name in ("write", "writev"):
        assert call.result is not None
        return int(_about(call)["pos"]) - call.result
    return call.arguments[3]
