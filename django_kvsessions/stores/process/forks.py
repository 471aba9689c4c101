"""What a fork does to what this process holds.

A fork copies only the thread that forks. A lock that another thread has at that
moment stays locked in the child for ever, what it guards may be half changed, and a
connection then has two users who both believe that it is theirs.

Everything here is a note about things that live elsewhere, and keeps none of them
alive, but for ``keep_inherited``, which does nothing else.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from types import MethodType
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

__all__ = ["Lock", "hold", "keep_inherited", "renew"]


#: One of ``threading``, or what is entered and left as one.
Lock: TypeAlias = AbstractContextManager[object]

# In the order in which they came, which is the one in which they are taken.
_locks: WeakKeyDictionary[Lock, None] = WeakKeyDictionary()
_renewals: WeakKeyDictionary[object, Callable[[Any], None]] = WeakKeyDictionary()

# Held over a fork too, as the last one: noting a lock may happen under any other.
_noting = threading.RLock()
_forking = ExitStack()


def hold(lock: Lock) -> None:
    """Fork only while no other thread has the lock, so that it is free in the child.

    The thread that forks takes all such locks, in the order of these calls: a lock under
    which another one is taken comes before that one.
    """
    with _noting:
        _locks[lock] = None


def renew(method: Callable[[], None]) -> None:
    """Call the bound method in each forked child, when the locks are free again.

    One of each object.
    """
    assert isinstance(method, MethodType)
    with _noting:
        _renewals[method.__self__] = method.__func__


def keep_inherited(thing: object) -> None:
    """Never collect what a child has from its parent, not even when the child ends.

    To be collected is to say goodbye in the parent's name, on the parent's connection.
    """
    # A list would not do: the end of the interpreter empties every module.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def _before() -> None:
    held: set[int] = set()
    with ExitStack() as stack:
        while True:
            _noting.acquire()
            new = [lock for lock in _locks if id(lock) not in held]
            if not new:
                # Whoever gets here is alone: the others wait for a lock that it has.
                stack.callback(_noting.release)
                _forking.push(stack.pop_all())
                return
            _noting.release()
            for lock in new:
                held.add(id(lock))
                stack.enter_context(lock)


def _after() -> None:
    # By way of pop_all, for with the locks goes the right to use _forking.
    _forking.pop_all().close()


def _after_in_child() -> None:
    # A stack calls the rest of them too where one fails.
    with ExitStack() as stack:
        for thing, renewal in reversed(list(_renewals.items())):
            stack.callback(renewal, thing)
        _after()


if hasattr(os, "register_at_fork"):
    # Before a fork the last who registered is called first: so these locks are taken
    # before those of logging, which is written to under them.
    os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_after_in_child)
