"""How a compacted log follows from the one that it replaces.

The file ``compaction`` names both; from it a process goes on with the index
that it has, and points it at the new file bit by bit.
"""

from __future__ import annotations

import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple
from zlib import crc32

from django_kvsessions.stores.process.locks import open_private
from django_kvsessions.stores.semidbm import log as logfile
from django_kvsessions.stores.semidbm.generation import Generation
from django_kvsessions.stores.semidbm.log import LogFile

__all__ = ["Succession", "batches", "move", "read_succession", "succeed", "write_succession"]

#: Records moved over at a time after a compaction.
MOVE_BATCH = 500

_NUMBERS = struct.Struct(">QQQQQ")
_CRC = struct.Struct(">I")


class Succession(NamedTuple):
    """Former inode and its final size; new inode, where the live records copied at
    first end in it, and where it continued."""

    former_inode: int
    former_end: int
    inode: int
    copied_end: int
    end: int


def write_succession(folder: str, succession: Succession) -> None:
    data = _NUMBERS.pack(*succession)
    descriptor = open_private(os.path.join(folder, "compaction"), os.O_WRONLY)
    try:
        os.pwrite(descriptor, data + _CRC.pack(crc32(data)), 0)
    finally:
        os.close(descriptor)


def read_succession(folder: str) -> Succession | None:
    """``None`` where no compaction has been, or one died while it wrote this."""
    try:
        with open(os.path.join(folder, "compaction"), "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return None
    numbers = data[: _NUMBERS.size]
    if data[_NUMBERS.size :] != _CRC.pack(crc32(numbers)):
        return None
    return Succession._make(_NUMBERS.unpack(numbers))


def succeed(former: Generation | None, log: LogFile, folder: str) -> Generation:
    """The generation of a file that has taken the place of the former one."""
    succession = read_succession(folder)
    if former is not None and not former.is_moving and succession is not None:
        former_inode, former_end, inode, copied_end, end = succession
        if (former_inode, inode) == (former.log.inode, log.inode):
            former.parse(former_end)
            if former.end == former_end:
                return former.successor(log, copied_end, end)
    return Generation(log)


def move(generation: Generation, state: threading.Lock, is_wanted: Callable[[], bool]) -> None:
    """Point the index at the compacted file, a little at a time, or until it is not wanted."""
    copied_end, end = generation.moved
    # A key may repeat in what was copied from the tail: the last one counts.
    tail: dict[bytes, int] = {}
    for key, start, _, size, expires in logfile.read_log(generation.log, copied_end, end):
        if size > 0:
            tail[key] = generation.entry(expires, start, size)
        else:
            tail.pop(key, None)
    _place(generation, state, tail)
    batch: dict[bytes, int] = {}
    first = len(logfile.FILE_HEADER)
    for key, start, _, size, expires in logfile.read_log(generation.log, first, copied_end):
        batch[key] = generation.entry(expires, start, size)
        if len(batch) == MOVE_BATCH:
            _place(generation, state, batch)
            batch.clear()
            time.sleep(0.001)  # the other threads' turn
            if not is_wanted():
                return
    _place(generation, state, batch)
    _finish(generation, state)


def _place(generation: Generation, state: threading.Lock, entries: dict[bytes, int]) -> None:
    with state:
        index, flag = generation.index, generation.flag
        for key, entry in entries.items():
            # Gone, or written again since: then the index knows better.
            if index.get(key, flag) & 1 != flag:
                index[key] = entry


def _finish(generation: Generation, state: threading.Lock) -> None:
    index, flag = generation.index, generation.flag
    for keys in batches(iter(list(index)), MOVE_BATCH):
        with state:
            for key in keys:
                # It had expired and was left out.
                if index.get(key, flag) & 1 != flag:
                    del index[key]
    generation.logs[1 - flag] = None


def batches(keys: Iterator[bytes], size: int) -> Iterator[list[bytes]]:
    while batch := list(islice(keys, size)):
        yield batch
