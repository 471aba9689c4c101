"""What a power cut may leave of a folder, by what was written to it, synced and named.

Behind the last sync of a file each block of each write may have come to the disk or not, alone
or with others, and a file may be longer than what is in it. Names come to the disk in their
order, with the folder's sync or that of a file that they name.
"""

from __future__ import annotations

import os
import random
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from django_kvsessions.testing.crashes.tracing import Call

__all__ = ["Disk", "Event"]

_WRITES = {"write", "pwrite64", "writev", "pwritev", "pwritev2"}
_SYNCS = {"fsync", "fdatasync", "msync"}
_NAMES = {"rename", "renameat", "renameat2", "unlink", "unlinkat", "link", "linkat"}


class Event(NamedTuple):
    """``kind``: write, size, sync, names or said. A sync is of what was before ``begun``."""

    kind: str
    moment: float
    inode: int = 0
    offset: int = 0
    data: bytes = b""
    names: dict[str, int] | None = None
    begun: int = 0


class Disk:
    """Records what becomes of the files of a folder, as the calls of a traced process come."""

    def __init__(self, folder: Path, said: int) -> None:
        """``said`` is the end of a pipe into which the process says what it does."""
        self.folder = folder
        self.events: list[Event] = []
        self._kept = folder.with_name(folder.name + "-inodes")
        self._kept.mkdir()
        self._said = said
        self._begun: dict[int, tuple[int, int]] = {}
        self._names: dict[str, int] = {}

    def seen(self, call: Call) -> None:
        if call.result is None:
            if call.name in _SYNCS:
                self._begun[call.process] = len(self.events), self._inode(call)
            return
        if call.result < 0:
            return
        if call.name in _SYNCS:
            begun, inode = self._begun.pop(call.process, (0, 0))
            if inode:
                self._note("sync", inode, begun=begun)
        elif call.name in _WRITES:
            self._written(call)
        elif call.name in ("ftruncate", "fallocate"):
            self._sized(call)
        if call.name in _NAMES or call.name in ("open", "openat", "creat"):
            self._named()

    def _note(self, kind: str, inode: int = 0, **more: object) -> None:
        self.events.append(Event(kind, time.monotonic(), inode, **more))  # type: ignore[arg-type]

    def _inode(self, call: Call) -> int:
        """Of a file in the folder, or of the folder; 0 for anything else."""
        link = f"/proc/{call.process}/fd/{call.arguments[0]}"
        try:
            path = Path(os.readlink(link))
            inside = path == self.folder or path.parent == self.folder or " (deleted)" in str(path)
            inode = os.stat(link).st_ino
        except OSError:
            return 0
        return inode if inside and (inode in self._names.values() or path == self.folder) else 0

    def _written(self, call: Call) -> None:
        with suppress(BlockingIOError):
            while said := os.read(self._said, 65536):
                self._note("said", data=said)
        inode = self._inode(call)
        if not inode or not call.result:
            return
        about = Path(f"/proc/{call.process}/fdinfo/{call.arguments[0]}").read_text().split()
        flags = int(about[about.index("flags:") + 1], 8)
        offset = call.arguments[3]
        if call.name in ("write", "writev"):
            offset = int(about[about.index("pos:") + 1]) - call.result
        with (self._kept / str(inode)).open("rb") as file:
            data = os.pread(file.fileno(), call.result, offset)
        self._note("write", inode, offset=offset, data=data)
        if flags & os.O_DSYNC:
            self._note("sync", inode, begun=len(self.events))

    def _sized(self, call: Call) -> None:
        if inode := self._inode(call):
            self._note("size", inode, offset=(self._kept / str(inode)).stat().st_size)

    def _named(self) -> None:
        names = {}
        for path in self.folder.iterdir() if self.folder.exists() else ():
            with suppress(FileNotFoundError):
                inode = names[path.name] = path.stat().st_ino
                kept = self._kept / str(inode)
                if not kept.exists():
                    os.link(path, kept)
        if names != self._names:
            self._names = names
            self._note("names", names=names)

    def cut(self, stop: int, chance: random.Random) -> None:
        """Make the folder what it may be after a power cut before that event."""
        events = self.events[:stop]
        folder = self._folder_inode()
        synced: dict[int, int] = {}
        names_synced = 0
        for event in events:
            if event.kind == "sync":
                synced[event.inode] = max(synced.get(event.inode, 0), event.begun)
                if event.inode == folder:
                    names_synced = event.begun
        # A name comes to the disk with its file's sync, and with it all that were before it.
        known: set[int] = set()
        for number, event in enumerate(events):
            if event.kind == "names" and event.names is not None:
                new = set(event.names.values()) - known
                known |= new
                if any(synced.get(inode, 0) > number for inode in new):
                    names_synced = max(names_synced, number + 1)
        names: dict[str, int] = {}
        luck = chance.random()
        for number, event in enumerate(events):
            if event.kind == "names" and event.names is not None:
                if number >= names_synced and chance.random() >= luck:
                    break
                names = event.names
        for path in self.folder.iterdir():
            path.unlink()
        for name, inode in names.items():
            kept = self._kept / str(inode)
            content = contents(events, inode, synced.get(inode, 0), chance)
            with kept.open("r+b") as file:
                file.truncate(0)
                file.write(content)
            if not (self.folder / name).exists():
                os.link(kept, self.folder / name)

    def _folder_inode(self) -> int:
        return self.folder.stat().st_ino


def contents(events: list[Event], inode: int, synced: int, chance: random.Random) -> bytes:
    """What a file may have, of which all before an event was synced."""
    content = bytearray()
    luck = chance.choice((0.0, 1.0, chance.random()))
    block = chance.choice((512, 4096))
    for number, event in enumerate(events):
        if event.inode != inode or event.kind not in ("write", "size"):
            continue
        sure = number < synced
        if event.kind == "size":
            if sure or chance.random() < luck:
                del content[event.offset :]
                content += bytes(event.offset - len(content))
            continue
        position = event.offset
        end = position + len(event.data)
        while position < end:
            following = min(end, (position // block + 1) * block)
            if sure or chance.random() < luck:
                content += bytes(max(0, following - len(content)))
                part = event.data[position - event.offset : following - event.offset]
                content[position:following] = part
            elif luck and chance.random() < 0.3:
                content += bytes(max(0, following - len(content)))
            position = following
    return bytes(content)
