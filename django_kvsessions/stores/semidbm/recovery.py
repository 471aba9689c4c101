"""What the next writer does about bytes of a log that do not verify, as after a crash.

The file ``synced`` says how much of the log was on disk for sure. What lies behind that was
never promised to survive a power cut, and what it replaced counts again. What lies before it
has been damaged since: its sessions are gone, and no older version of them may come back.
"""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Iterable, Iterator
from zlib import crc32

from django_kvsessions.stores.base import KEY_SIZE
from django_kvsessions.stores.process.locks import open_private
from django_kvsessions.stores.semidbm import log as logfile
from django_kvsessions.stores.semidbm import survey
from django_kvsessions.stores.semidbm.files import IndexFile
from django_kvsessions.stores.semidbm.generation import Generation, worth_from
from django_kvsessions.stores.semidbm.index import Index, depth_for
from django_kvsessions.stores.semidbm.layout import PRINT, slot_of, unpack_slot
from django_kvsessions.stores.semidbm.log import LogFile

__all__ = ["note_synced", "quarantined", "remade"]

logger = logging.getLogger("django_kvsessions")

# The device and the inode of the log, where it ended, and a CRC-32 of these.
_NOTE = struct.Struct(">QQQ")
_CRC = struct.Struct(">I")
#: In how many bits a key may differ from that of a session, and be taken for it.
FLIPPED_BITS = 8
#: An index that is made anew has this name until it is whole.
NEW = "index.new"


def note_synced(log: LogFile, end: int, folder: str) -> None:
    """That the log is on disk up to there. The note is never synced: an older one is right too."""
    data = _NOTE.pack(*log.identity, end)
    descriptor = open_private(os.path.join(folder, "synced"), os.O_WRONLY)
    try:
        os.pwrite(descriptor, data + _CRC.pack(crc32(data)), 0)
    finally:
        os.close(descriptor)


def _synced(log: LogFile, folder: str) -> int:
    """Up to where the log was on disk for sure."""
    try:
        with open(os.path.join(folder, "synced"), "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return 0
    if data[_NOTE.size :] != _CRC.pack(crc32(data[: _NOTE.size])):
        return 0
    *identity, end = _NOTE.unpack_from(data)
    # A copy of the folder is another file, and so is what a compaction has made.
    return int(end) if tuple(identity) == log.identity else 0


def remade(log: LogFile, index_file: IndexFile, folder: str, *, sure: int = 0) -> Generation:
    """A log with an index that is made from it. ``sure``: as of ``Contents.recover``."""
    contents = Contents(log)
    contents.recover(folder, sure=sure)
    depth = depth_for(len(contents.index))
    index = index_file.write(
        NEW, lambda file: Index.write(file, log.identity, depth, contents.by_home(depth))
    )
    generation = Generation(log, index)
    generation.end = contents.end
    generation.note()
    generation.compact_from = index.compact_from = worth_from(survey.live(index)[1])
    generation.damaged = contents.damaged
    generation.mark()
    index_file.retire(log)
    index_file.publish(NEW)
    return generation


class Contents:
    """What a log has, in memory: to recover it, and to make an index of it."""

    def __init__(self, log: LogFile) -> None:
        self.log = log
        #: For each key what its slot in an index has.
        self.index: dict[bytes, bytes] = {}
        self.end = len(logfile.FILE_HEADER)
        self.damaged = False

    def parse(self, stop: int) -> None:
        """Take in what the log has up to ``stop`` or the first bytes that do not verify."""
        index, end = self.index, self.end
        for key, start, following, size, expires in logfile.read_log(self.log, end, stop):
            if size > 0:
                index[key] = slot_of(key[PRINT:], start << 24 | size, expires)
            else:
                index.pop(key, None)
            end = following
        self.end = end

    def by_home(self, depth: int) -> Iterable[list[bytes]]:
        """For an index: the slots of each home."""
        homes: list[list[bytes]] = [[] for _ in range(1 << depth)]
        shift = 32 - depth
        for one in self.index.values():
            homes[crc32(one[:8]) >> shift].append(one)
        return homes

    def recover(self, folder: str, *, sure: int = 0) -> None:
        """Take in the whole log, also what verifies behind damage; cut off a torn end.

        With the writer's lock. ``sure``: up to where no power cut can have torn it, since it
        was whole when this boot had begun.
        """
        log, size = self.log, self.log.size()
        self.parse(size)
        if self.end == size:
            return
        synced = max(sure, _synced(log, folder))
        lost, gone = set[bytes](), set[bytes]()
        while self.end < size:
            found = logfile.find_record(log, self.end + 1, size)
            if found is None:
                break
            logger.error(
                "The log in %s is damaged from byte %d to %d; the records behind are kept. Likely "
                "causes, in order: a power cut, a failing disk, another program that wrote to the "
                "file. Nothing is to be done, unless it happens again: then check the disk.",
                folder,
                self.end,
                found,
            )
            _set_aside(log, self.end, found, folder)
            gone.update(self._forget(list(_damaged_keys(log, self.end, min(found, synced)))))
            lost.update(_damaged_keys(log, max(self.end, synced), found))
            self.damaged = True
            self.end = found
            self.parse(size)
        if self.end < size:
            _set_aside(log, self.end, size, folder)
            gone.update(self._forget(list(_damaged_keys(log, self.end, min(size, synced)))))
            log.truncate(self.end)
        # Whoever opens the log later, and knows more or less of what was synced, is to find
        # the same.
        for key in lost & self.index.keys():
            ending, place, expires = unpack_slot(self.index[key])
            start = self._append(log.read(logfile.record_bytes(place), place >> 24))
            place = logfile.place_of(start, place & logfile.MAX_VALUE_SIZE)
            self.index[key] = slot_of(ending, place, expires)
        for key in gone - self.index.keys():
            self._append(logfile.deletion(key))

    def _forget(self, keys: list[bytes]) -> Iterator[bytes]:
        """Take out what these keys had before, and say which had something."""
        index = self.index
        for key in keys:
            if index.pop(key, None) is not None:
                yield key
                continue
            # The key itself may be what is damaged. Nobody else's is so much like it.
            number = int.from_bytes(key, "big")
            for other in list(index):
                if (int.from_bytes(other, "big") ^ number).bit_count() <= FLIPPED_BITS:
                    del index[other]
                    yield other

    def _append(self, data: bytes) -> int:
        start = self.end
        self.log.append(data)
        self.end += len(data)
        return start


def _damaged_keys(log: LogFile, start: int, stop: int) -> Iterator[bytes]:
    """What bytes that do not verify may still say of the keys of their records."""
    data = log.read(max(0, stop - start), start)
    position = 0
    while 0 <= position <= len(data) - 8 - KEY_SIZE:
        yield data[position + 8 : position + 8 + KEY_SIZE]
        position = data.find(logfile.KEY_SIZE_BYTES, position + 1)


def quarantined(folder: str) -> Iterator[str]:
    """A sentence where bytes were set aside."""
    path = os.path.join(folder, "quarantine")
    try:
        size = os.stat(path).st_size
    except FileNotFoundError:
        return
    if size:
        yield (
            f"{path} has {size} bytes that did not verify, as after a power cut or on a failing "
            "disk: look at the log of that time and at the disk, then remove the file."
        )


def _set_aside(log: LogFile, start: int, stop: int, folder: str) -> None:
    """Copy bytes that do not verify to the quarantine file."""
    path = os.path.join(folder, "quarantine")
    with os.fdopen(open_private(path, os.O_WRONLY | os.O_APPEND), "wb") as file:
        for position in range(start, stop, 1024 * 1024):
            file.write(log.read(min(1024 * 1024, stop - position), position))
    logger.warning(
        "%d bytes at %d of the log do not verify, as after a crash; set aside in %s, which may be "
        "removed when it was looked at.",
        stop - start,
        start,
        path,
    )
