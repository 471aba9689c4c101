"""Work in several processes, of which each does its part and says what it did."""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait

from django.db import connections

from django_kvsessions.stores.base import StoreError

__all__ = ["in_processes"]


def in_processes(
    processes: int, work: Callable[[int], Iterator[Counter[str]]]
) -> Iterator[Counter[str]]:
    """What comes out of ``work(0)``, ``work(1)``, ..., each in a process, as it comes."""
    # A connection to a database has one user.
    connections.close_all()
    fork = multiprocessing.get_context("fork")
    open_ends: list[Connection] = []
    children = []
    for part in range(processes):
        receiving, sending = fork.Pipe(duplex=False)
        child = fork.Process(target=run, args=(work, part, sending, os.getpid()), daemon=True)
        child.start()
        sending.close()
        open_ends.append(receiving)
        children.append(child)
    try:
        while open_ends:
            for end in wait(open_ends):
                assert isinstance(end, Connection)
                try:
                    came = end.recv()
                except EOFError:
                    open_ends.remove(end)
                    continue
                if isinstance(came, str):
                    raise StoreError(came)
                yield came
    except BaseException:
        for child in children:
            child.terminate()
        raise
    finally:
        # What has said all may still have something to write before it ends.
        for child in children:
            child.join()
    if any(child.exitcode for child in children):
        raise StoreError("A process that was moving sessions has ended before its time.")


def run(
    work: Callable[[int], Iterator[Counter[str]]], part: int, sending: Connection, parent: int
) -> None:
    try:
        for batch in work(part):
            sending.send(batch)
            if os.getppid() != parent:
                return  # It was killed: nobody waits for the rest.
    except Exception as error:
        sending.send(f"{type(error).__name__}: {error}")
    finally:
        connections.close_all()
        sending.close()
