"""What stores need of a fork: locks that are free in the child, and nothing closed twice."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")

# Each in a process of its own: the tests' has threads, and hooks of other stores.
PRELUDE = """
    import gc, os, signal, sys, threading, time, warnings
    from contextlib import contextmanager
    from django_kvsessions.stores.process import forks
    warnings.simplefilter("ignore", DeprecationWarning)  # of a fork under threads
    # In one piece, for parent and child speak at once.
    def say(*words): os.write(1, (" ".join(map(str, words)) + "\\n").encode())
    def in_child(action):
        pid = os.fork()
        if not pid:
            # A lock that nobody will ever release must not stop the tests.
            signal.alarm(20)
            try:
                action()
                os._exit(0)
            finally:
                os._exit(1)
        return os.waitpid(pid, 0)[1]
    class Traced:
        def __init__(self, name): self.name = name
        def __enter__(self): say("take", self.name)
        def __exit__(self, *exception): say("leave", self.name)
        def renew(self): say("renew", self.name)
"""


def said(code: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PRELUDE) + textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.splitlines()


def test_a_lock_that_a_thread_has_is_free_in_the_child() -> None:
    code = """
        lock, stop = threading.Lock(), threading.Event()
        forks.hold(lock)
        whole = [0, 0]
        def work():
            while not stop.is_set():
                with lock:
                    whole[0] += 1
                    time.sleep(0.002)
                    whole[1] += 1
        def use():
            assert lock.acquire(timeout=5)
            assert whole[0] == whole[1]
        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads: thread.start()
        statuses = {in_child(use) for _ in range(20)}
        stop.set()
        for thread in threads: thread.join()
        assert lock.acquire(timeout=5)
        say(*statuses)
    """
    assert said(code) == ["0"]


def test_locks_are_taken_in_the_order_in_which_they_came() -> None:
    code = """
        locks = [Traced("outer"), Traced("inner")]
        for lock in locks: forks.hold(lock)
        in_child(lambda: say("child"))
        say("parent")
    """
    lines = said(code)
    assert lines[:2] == ["take outer", "take inner"]
    # Parent and child leave them side by side.
    assert sorted(lines[2:]) == ["child", *["leave inner"] * 2, *["leave outer"] * 2, "parent"]


def test_only_a_child_renews_and_only_when_the_locks_are_free() -> None:
    code = """
        lock, thing = threading.Lock(), Traced("thing")
        forks.hold(lock)
        class Renewed:
            def renew(self): say("renewed, lock taken:", lock.locked())
        renewed = Renewed()
        forks.renew(renewed.renew)
        status = in_child(lambda: None)
        say("parent", status)
    """
    assert said(code) == ["renewed, lock taken: False", "parent 0"]


def test_one_renewal_that_fails_leaves_none_of_the_others_out() -> None:
    code = """
        class Broken:
            def renew(self): raise RuntimeError("as some do")
        things = [Traced("first"), Broken(), Traced("last")]
        for thing in things: forks.renew(thing.renew)
        sys.unraisablehook = lambda unraisable: say(unraisable.exc_value)
        in_child(lambda: None)
    """
    assert sorted(said(code)) == ["as some do", "renew first", "renew last"]


def test_a_child_of_a_child_renews_again() -> None:
    code = """
        thing = Traced("thing")
        forks.renew(thing.renew)
        in_child(lambda: in_child(lambda: None))
    """
    assert said(code) == ["renew thing"] * 2


def test_what_nobody_uses_any_more_is_forgotten() -> None:
    code = """
        thing = Traced("thing")
        forks.hold(thing)
        forks.renew(thing.renew)
        del thing
        gc.collect()
        say(in_child(lambda: None))
    """
    assert said(code) == ["0"]


def test_the_end_of_the_interpreter_is_quiet() -> None:
    code = """
        os.dup2(1, 2)
        thing = Traced("thing")
        forks.hold(thing)
        forks.renew(thing.renew)
    """
    assert said(code) == []


def test_threads_that_fork_at_once_and_note_locks_do_not_stop_one_another() -> None:
    code = """
        outer = threading.RLock()
        forks.hold(outer)
        kept, statuses = [], []
        def note():
            for _ in range(300):
                with outer:  # as a store that is made under a lock of its own
                    lock = threading.Lock()
                    forks.hold(lock)
                    kept.append(lock)
        def use():
            for lock in [outer, *kept]:
                assert lock.acquire(timeout=5)
                lock.release()
        def fork():
            for _ in range(10): statuses.append(in_child(use))
        threads = [threading.Thread(target=t) for t in (note, fork, note, fork, fork)]
        for thread in threads: thread.start()
        for thread in threads: thread.join(30)
        say(len(statuses), set(statuses), any(lock.locked() for lock in kept))
    """
    assert said(code) == ["30 {0} False"]


def test_what_a_child_inherits_is_not_collected_even_when_it_ends() -> None:
    code = """
        class Connection:
            # The names of a module may be gone before what they named.
            def __del__(self, write=os.write): write(1, b"goodbye\\n")
        theirs = [Connection()]
        pid = os.fork()
        if not pid:
            forks.keep_inherited(theirs.pop())
            gc.collect()
            say("child ends")
            sys.exit()  # which ends the interpreter as usual, not as os._exit does
        os.waitpid(pid, 0)
        say("parent ends")
        os._exit(0)
    """
    assert said(code) == ["child ends", "parent ends"]
