"""``StoreConformance``: every part of the kit in one class."""

from __future__ import annotations

from django_kvsessions.testing.asynchrony import AsyncMethods
from django_kvsessions.testing.backups import Backups
from django_kvsessions.testing.basics import Basics
from django_kvsessions.testing.cleanup import CleanUp
from django_kvsessions.testing.expiry import Expiry
from django_kvsessions.testing.lost_answers import CutAnswers
from django_kvsessions.testing.outages import Outages
from django_kvsessions.testing.processes import Processes
from django_kvsessions.testing.races import Races
from django_kvsessions.testing.scanning import Scanning
from django_kvsessions.testing.values import Values

__all__ = ["StoreConformance"]


class StoreConformance(
    Basics,
    Values,
    Expiry,
    CleanUp,
    Scanning,
    Backups,
    AsyncMethods,
    Races,
    Outages,
    CutAnswers,
    Processes,
):
    """Subclass this, name the class ``Test...`` and define the fixture ``make_store``.

    See the module for an example, and ``Kit`` for what can be set.
    """

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        for name in dir(StoreConformance):
            test = getattr(StoreConformance, name)
            flags = getattr(test, "requires", None)
            if flags is not None and getattr(cls, name) in (test, None):
                applies = all(bool(getattr(cls, flag)) is flags[flag] for flag in flags)
                # pytest collects no None, and a subclass may set the flag again.
                setattr(cls, name, test if applies else None)
