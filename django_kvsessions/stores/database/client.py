"""Statements on the connections that Django has to one of the site's DATABASES."""

from __future__ import annotations

import select
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from contextvars import ContextVar
from types import MappingProxyType
from typing import ParamSpec, TypeVar

from asgiref.sync import sync_to_async
from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS, Error, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils.connection import ConnectionDoesNotExist

from django_kvsessions.stores.base import Provisional, StoreUnavailable
from django_kvsessions.stores.database.errors import (
    is_blocked,
    is_lost,
    is_missing_table,
    is_other_table,
)
from django_kvsessions.stores.database.forks import leave_to_the_parent
from django_kvsessions.stores.paged import unknown_outcome

__all__ = ["Client", "in_transaction", "undoable"]

P = ParamSpec("P")
T = TypeVar("T")

Step = Callable[[BaseDatabaseWrapper], T]

# Of requests that stand in each other's way, the database lets one go on each time.
ATTEMPTS = 10
# More than a pool has: after a restart of the server each of them is dead.
DEAD_CONNECTIONS = 1000

# By alias, what the last write of this thread or task went into. asgiref carries it over from
# the threads that async methods run in.
_provisional: ContextVar[Mapping[str, Provisional]] = ContextVar(
    "provisional", default=MappingProxyType({})
)


class Part(Provisional):
    """A write in an atomic block; called when it is committed."""

    def __call__(self) -> None:
        self.is_committed = True


class Client:
    """Runs steps on this thread's connection to ``DATABASES[alias]``."""

    def __init__(self, alias: str, table: Callable[[], str]) -> None:
        """``table`` gives the quoted name that error messages speak of."""
        self.alias = alias
        self._table = table
        try:
            connection = self.connection
        except (ConnectionDoesNotExist, TypeError, AttributeError) as error:
            known = ", ".join(repr(alias) for alias in connections)
            raise ImproperlyConfigured(
                f"LOCATION is {alias!r}, which is no alias in DATABASES; it has {known}."
            ) from error
        if connection.vendor == "unknown":
            raise ImproperlyConfigured(
                f"LOCATION is {alias!r}, but DATABASES[{alias!r}] names no database."
            )
        leave_to_the_parent(alias)

    @property
    def connection(self) -> BaseDatabaseWrapper:
        return connections[self.alias]

    @property
    def provisional(self) -> Provisional | None:
        return _provisional.get().get(self.alias)

    async def in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        # The thread that the request's other queries have, and with it their connection.
        return await sync_to_async(function, thread_sensitive=True)(*args, **kwargs)

    def read(self, step: Step[T]) -> T:
        """Do what changes nothing, and so may be done again where the connection was lost."""
        return self._run(step, lambda error: self._run(step))

    def write(self, step: Step[T], prove: Step[T | None] = lambda connection: None) -> T:
        """Do it once; again only where the database has undone it.

        ``prove`` looks what became of a step whose answer was lost, and says
        ``None`` where it cannot tell, which is ``StoreUnavailable``.
        """

        def look(error: Error) -> T:
            result = None
            with suppress(StoreUnavailable):
                result = self._run(prove)
            if result is None:
                raise unknown_outcome() from error
            return result

        result = self._run(step, look)
        self._note(self.connection)
        return result

    def _note(self, connection: BaseDatabaseWrapper) -> None:
        """Remember whether what was written just now may be undone."""
        if in_transaction(connection):
            part = Part()
            if connection.in_atomic_block and not is_in_test_case(connection):
                connection.on_commit(part)
            _provisional.set({**_provisional.get(), self.alias: part})
        elif self.alias in _provisional.get():
            others = {**_provisional.get()}
            del others[self.alias]
            _provisional.set(others)

    def _run(self, step: Step[T], on_loss: Callable[[Error], T] | None = None) -> T:
        connection = self.connection
        # What belongs to a larger transaction is lost with it, not to be repeated alone.
        alone = not in_transaction(connection)
        for attempt in range(ATTEMPTS):
            try:
                if alone:
                    replace_dead_connections(connection)
                return step(connection)
            except Error as error:
                if is_blocked(error):
                    if not alone:
                        # For those who began the transaction, and may begin it again.
                        raise
                    if attempt < ATTEMPTS - 1:
                        continue
                elif alone and on_loss is not None and is_lost(connection, error):
                    with suppress(Error):
                        connection.close()
                    return on_loss(error)
                raise self._failure(connection, error) from error
        raise AssertionError("unreachable")

    def _failure(self, connection: BaseDatabaseWrapper, error: Error) -> StoreUnavailable:
        where = f"DATABASES[{self.alias!r}] (LOCATION)"
        table = f"The table {self._table()}"
        text = str(error).strip()
        password = connection.settings_dict["PASSWORD"]
        if password:
            text = text.replace(str(password), "********")
        if is_missing_table(error):
            return StoreUnavailable(f"{table} is missing from {where}. {self.set_up}")
        if is_other_table(error):
            return StoreUnavailable(
                f"{table} (OPTIONS['table']) in {where} is not one of sessions: {text}"
            )
        if connection.connection is None:
            return StoreUnavailable(f"{where} cannot be reached: {text}")
        return StoreUnavailable(f"{where} fails: {text}")

    @property
    def set_up(self) -> str:
        """What makes the table."""
        database = "" if self.alias == DEFAULT_DB_ALIAS else f" --database {self.alias}"
        commands = f"un manage.py migrate{database}, or manage.py setupsessions."
        if apps.is_installed("django_kvsessions"):
            return f"R{commands}"
        return f'Add "django_kvsessions" to INSTALLED_APPS, then r{commands}'


def in_transaction(connection: BaseDatabaseWrapper) -> bool:
    """Whether a statement becomes part of a transaction that somebody else ends."""
    if connection.in_atomic_block:
        return True
    if connection.connection is None:
        return not connection.settings_dict["AUTOCOMMIT"]
    return not connection.autocommit


def is_in_test_case(connection: BaseDatabaseWrapper) -> bool:
    """Whether a TestCase has begun the transaction: it never commits, and its tests count
    what is to be called on commit."""
    return any(getattr(block, "_from_testcase", False) for block in connection.atomic_blocks)


def undoable(connection: BaseDatabaseWrapper) -> AbstractContextManager[object]:
    """A savepoint inside a transaction; outside, a statement is undone alone anyway."""
    if in_transaction(connection):
        return transaction.atomic(using=connection.alias)
    return nullcontext()


def replace_dead_connections(connection: BaseDatabaseWrapper) -> None:
    """Leave a connection that the server has closed, before anything is sent over it.

    What is sent later and gets no answer may have been carried out. It asks the
    system and not the server: a microsecond.
    """
    for _ in range(DEAD_CONNECTIONS):
        connection.ensure_connection()
        if not _is_dead(connection):
            return
        with suppress(Error):
            connection.close()


def _is_dead(connection: BaseDatabaseWrapper) -> bool:
    driver = connection.connection
    try:
        if hasattr(driver, "fileno"):
            number = driver.fileno()
        elif hasattr(driver, "_sock"):  # PyMySQL
            number = driver._sock.fileno()
        else:
            return False
    except Exception:
        # It is closed on this side already.
        return True
    poll = select.poll()
    poll.register(number, select.POLLIN)
    if not poll.poll(0):
        return False
    # A MySQL server says nothing unasked but farewell; PostgreSQL may have news.
    return connection.vendor == "mysql" or not connection.is_usable()
