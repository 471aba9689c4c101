"""A kill -9 run: what each writer was about to do, and what the store may hold after it.

Each thread of each process is a *writer* with keys of its
own, and a journal that says what it was about to do and what the store
acknowledged. A killed writer's successor reads the journal and goes on. The
records' counters only ever rise, through deletions too, so every writer also
checks that the others' records never go back and never return.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

from django_kvsessions.stores.base import Record, Store
from django_kvsessions.testing.records import LONG, make_key
from django_kvsessions.testing.workers import wait_until

__all__ = ["ABSENT", "SHORT_LIVES", "KillRun"]

ABSENT = 0
#: Seconds for which some records live.
SHORT_LIVES = (0.001, 0.01, 0.1)


class KillRun:
    """The files and sizes of one run; picklable."""

    def __init__(
        self,
        folder: Path,
        processes: int,
        threads: int,
        keys: int,
        patience: float,
    ) -> None:
        self.folder = folder
        self.processes = processes
        self.threads = threads
        self.keys = keys
        self.patience = patience

    def writers(self, process: int) -> range:
        return range(process * self.threads, (process + 1) * self.threads)

    def key(self, writer: int, number: int) -> bytes:
        return make_key(f"{writer}/{number}")

    def journal(self, writer: int) -> Path:
        return self.folder / f"journal-{writer}"

    def stop(self) -> None:
        (self.folder / "stop").touch()

    def stopped(self) -> bool:
        return os.path.exists(self.folder / "stop")

    def fail(self, message: str) -> None:
        with (self.folder / "failures").open("a") as file:
            file.write(message + "\n")

    def assert_no_failure(self) -> None:
        failures = self.folder / "failures"
        assert not failures.exists(), failures.read_text()

    def wait_for_writes(self, process: int) -> None:
        """Until each writer of the process has made some dozen changes more."""
        sizes = {writer: self.written(writer) for writer in self.writers(process)}
        wait_until(
            lambda: (
                (self.folder / "failures").exists()
                or all(self.written(writer) >= sizes[writer] + 500 for writer in sizes)
            ),
            self.patience,
        )
        self.assert_no_failure()

    def written(self, writer: int) -> int:
        """Bytes in the writer's journal, which are about twenty for each change."""
        journal = self.journal(writer)
        return journal.stat().st_size if journal.exists() else 0

    def read_journal(self, writer: int) -> tuple[dict[int, set[int]], int]:
        """The counters that each key may have now, and the highest one used."""
        possible: dict[int, set[int]] = {number: {ABSENT} for number in range(self.keys)}
        highest = 0
        text = self.journal(writer).read_text() if self.journal(writer).exists() else ""
        for line in text.splitlines(keepends=True):
            if not line.endswith("\n"):
                break
            sign, number, *counters = line.split()
            values = {int(counter) for counter in counters}
            highest = max(highest, *values)
            if sign == "?":
                possible[int(number)] |= values
            else:
                possible[int(number)] = values
        return possible, highest

    def counter(self, writer: int, number: int, record: Record | None, moment: float) -> int:
        """The counter in a record that was loaded after ``moment``, once all else is right."""
        if record is None:
            return ABSENT
        name, _, rest = record.data.partition(b" ")
        assert name == b"%d/%d" % (writer, number), "a record under the wrong key"
        counter = int(rest.partition(b" ")[0])
        assert record.revision == counter, "a revision of another record"
        assert record.owner == b"%016d" % writer, "an owner of another record"
        assert record.expires > moment - 0.01, "an expired record was returned"
        return counter

    def record(self, writer: int, number: int, counter: int, short: bool) -> Record:
        padding = os.urandom(random.choice((0, 50, 500, 5000)))
        return Record(
            b"%d/%d %d %b" % (writer, number, counter, padding),
            time.time() + (random.choice(SHORT_LIVES) if short else LONG),
            counter,
            b"%016d" % writer,
        )

    def assert_nothing_lost(self, store: Store) -> None:
        self.assert_no_failure()
        present = {}
        for writer in range(self.processes * self.threads):
            assert self.written(writer) >= 500
            possible, _ = self.read_journal(writer)
            for number in range(self.keys):
                moment = time.time()
                record = store.load(self.key(writer, number))
                counter = self.counter(writer, number, record, moment)
                assert counter in possible[number], (
                    f"writer {writer}'s record {number} is at {counter}, "
                    f"but may only be at {possible[number]}"
                )
                if counter != ABSENT and len(possible[number]) == 1:
                    present[self.key(writer, number)] = counter
        scanned = [(key, record.revision) for key, record in store.scan()]
        assert len(scanned) == len(dict(scanned)), "scan returned a record twice"
        assert dict(scanned).items() >= present.items()
