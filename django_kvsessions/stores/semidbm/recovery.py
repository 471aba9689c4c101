"""What the next writer does about bytes of a log that do not verify, as after a crash.

The file ``synced`` says how much of the log was on disk for sure. What lies behind that was
never promised to survive a power cut, and what it replaced counts again. What lies before it
has been damaged since: its sessions are gone, and no older version of them may come back.
"""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Iterator
from zlib import crc32

from django_kvsessions.stores.base import KEY_SIZE
from django_kvsessions.stores.process.locks import open_private
from django_kvsessions.stores.semidbm import log as logfile
from django_kvsessions.stores.semidbm.generation import Generation
from django_kvsessions.stores.semidbm.log import LogFile

__all__ = ["is_at_the_end", "note_synced", "quarantined", "repair", "set_aside"]

logger = logging.getLogger("django_kvsessions")

# The device and the inode of the log, where it ended, and a CRC-32 of these.
_NOTE = struct.Struct(">QQQ")
_CRC = struct.Struct(">I")
#: In how many bits a key may differ from that of a session, and be taken for it.
FLIPPED_BITS = 8


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


def is_at_the_end(generation: Generation | None) -> bool:
    """Whether nothing verifies behind the bytes that do not: all that counts is parsed."""
    if generation is None:
        return False
    log, start = generation.log, generation.end + 1
    return logfile.find_record(log, start, log.size()) is None


def repair(generation: Generation, folder: str) -> None:
    """Take in what verifies behind the damage, and cut off a torn end.

    With the writer's lock and the state held.
    """
    log, size = generation.log, generation.log.size()
    synced = _synced(log, folder)
    first, lost = generation.end, set[bytes]()
    while generation.end < size:
        found = logfile.find_record(log, generation.end + 1, size)
        if found is None:
            break
        logger.error(
            "The log in %s is damaged from byte %d to %d; the records behind are kept. Likely "
            "causes, in order: a power cut, a failing disk, another program that wrote to the "
            "file. Nothing is to be done, unless it happens again: then check the disk.",
            folder,
            generation.end,
            found,
        )
        keys = _damaged_keys(log, generation.end, found)
        if generation.end < synced:
            _forget(generation, list(keys))
        else:
            lost.update(keys)
        generation.damaged = True
        generation.end = found
        generation.parse(size)
    if generation.end < size:
        set_aside(log, generation.end, size, folder)
        log.truncate(generation.end)
    try:
        for key in lost:
            _write_again(generation, key)
    except OSError:
        generation.end = first
        raise


def _damaged_keys(log: LogFile, start: int, stop: int) -> Iterator[bytes]:
    """What bytes that do not verify may still say of the keys of their records."""
    data = log.read(stop - start, start)
    position = 0
    while 0 <= position <= len(data) - 8 - KEY_SIZE:
        yield data[position + 8 : position + 8 + KEY_SIZE]
        position = data.find(logfile.KEY_SIZE_BYTES, position + 1)


def _forget(generation: Generation, keys: list[bytes]) -> None:
    index = generation.index
    for key in keys:
        if index.pop(key, None) is None:
            # The key itself may be what is damaged. Nobody else's is so much like it.
            number = int.from_bytes(key, "big")
            for other in list(index):
                if (int.from_bytes(other, "big") ^ number).bit_count() <= FLIPPED_BITS:
                    del index[other]


def _write_again(generation: Generation, key: bytes) -> None:
    """Put what was there before the damage behind it.

    Whoever opens the log later finds the damage synced, and would forget the session.
    """
    entry = generation.index.get(key)
    log = None if entry is None else generation.logs[entry & 1]
    if entry is not None and log is not None:
        start, size = generation.whereabouts(entry)
        data = log.read(size + logfile.OVERHEAD, start)
        generation.log.append(data)
        generation.index[key] = generation.moved_to(entry, generation.end)
        generation.end += len(data)


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


def set_aside(log: LogFile, start: int, stop: int, folder: str) -> None:
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
