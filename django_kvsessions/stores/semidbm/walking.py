"""All keys of a store, while it is in use."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from django_kvsessions.stores.semidbm import log as logfile
from django_kvsessions.stores.semidbm.errors import unavailable
from django_kvsessions.stores.semidbm.index import Index, Unsure
from django_kvsessions.stores.semidbm.journal import Journal
from django_kvsessions.stores.semidbm.log import LogFile
from django_kvsessions.stores.semidbm.survey import Parts

__all__ = ["walk"]


def walk(journal: Journal, look: Callable[[LogFile, Index, int], Parts]) -> Iterator[list[bytes]]:
    """What a survey finds in each part of the index, in the order of its hashes.

    Where the index is replaced meanwhile, or is mended, that goes on in the new one.
    """
    start = 0
    while start < 2**32:
        try:
            generation = journal.current()
            try:
                for end, keys in look(generation.log, generation.index, start):
                    yield keys
                    start = end
            except (Unsure, logfile.Damaged) as error:
                journal.mend(generation, error)
        except OSError as error:
            raise unavailable(journal.path, error) from error
