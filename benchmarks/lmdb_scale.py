"""``python -m benchmarks.lmdb_scale``: LMDB at many sessions, and a cache before a slow store.

Prints each figure beside what it must reach; ``--json FILE`` writes them too.
Exits with 1 if one is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from tqdm import tqdm

from django_kvsessions.stores.base import Record
from django_kvsessions.stores.layered import LayeredStore
from django_kvsessions.stores.lmdb import LMDBStore
from django_kvsessions.stores.memory import MemoryStore

DATA_SIZE = 600
LIFE = 14 * 24 * 3600.0
ROUNDS = 7


def main() -> int:
    options = arguments()
    if options.probe:
        print(json.dumps(probe(options.probe)))
        return 0
    figures: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="lmdb-scale-") as folder:
        figures += at_scale(Path(folder), options.sessions)
    figures += layered()
    width = max(len(figure["name"]) for figure in figures)
    for figure in figures:
        kept = "ok" if figure["ok"] else "MISSED"
        print(f"{figure['name']:<{width}}  {figure['value']:>10.3g}  {figure['target']:<24} {kept}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return int(not all(figure["ok"] for figure in figures))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=1_000_000)
    parser.add_argument("--folder", help="where the files go meanwhile; the system's by default")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--probe", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def figure(name: str, value: float, limit: float, *, at_least: bool = False) -> dict[str, Any]:
    return {
        "name": name,
        "value": value,
        "target": f"at least {limit:g}" if at_least else f"at most {limit:g}",
        "ok": value >= limit if at_least else value <= limit,
    }


def at_scale(folder: Path, sessions: int) -> Iterator[dict[str, Any]]:
    # The same number that expires, among few live ones, many, and ten times as many.
    expired, fewer, small = sessions // 100, sessions // 10, min(1000, sessions)
    paths = {size: folder / str(size) for size in (small, fewer, sessions)}
    for size, path in paths.items():
        fill(path, size, 0 if size == small else expired)

    probes = [run_probe(paths[sessions]) for _ in range(ROUNDS)]
    yield figure(
        f"opening {sessions:,} sessions, first load included (ms)",
        median(each["open"] for each in probes) * 1000,
        50,
    )
    yield figure(
        f"private memory that opening and {PROBE_LOADS:,} loads add (MB)",
        max(each["private"] for each in probes) / 1e6,
        20,
    )

    loads = time_loads({size: paths[size] for size in (small, sessions)})
    for size, taken in loads.items():
        yield figure(f"load of one among {size:,} (µs)", taken * 1e6, 100)
    yield figure("ratio of the two", loads[sessions] / loads[small], 2)

    copies = folder / "copy"
    clean_ups: dict[int, list[float]] = {fewer: [], sessions: []}
    for _ in range(5):
        for size, times in clean_ups.items():
            shutil.copytree(paths[size], copies)
            # Otherwise the first commit would wait for the whole copy to reach the disk.
            sync(copies / "data.mdb")
            times.append(time_clean_up(copies, expired))
            shutil.rmtree(copies)
    # The shortest of each: whatever else the machine does only ever adds to it.
    for size, times in clean_ups.items():
        yield figure(f"clean-up of {expired:,} expired among {size:,} live (s)", min(times), 1)
    yield figure("ratio of the two", min(clean_ups[sessions]) / min(clean_ups[fewer]), 1.3)

    yield figure(
        f"growth of the file when the space of {expired:,} expired is used again (ratio)",
        growth(paths[fewer], expired),
        1.1,
    )


def key(number: int) -> bytes:
    # As spread as the digests that the engine uses, and cheaper to make.
    return random.Random(number).randbytes(32)


def record(life: float) -> Record:
    return Record(os.urandom(DATA_SIZE), time.time() + life, 1, os.urandom(16))


def fill(path: Path, live: int, expired: int) -> None:
    store = LMDBStore(path, durability="process")
    for number in tqdm(range(live + expired), desc=f"Filling {path.name}", disable=None):
        store.create(key(number), record(LIFE if number < live else -1.0))
    store.close()


PROBE_LOADS = 1000


def run_probe(path: Path) -> dict[str, float]:
    """Opening takes place in a new process each time."""
    printed = subprocess.run(
        [sys.executable, "-m", "benchmarks.lmdb_scale", "--probe", path],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return {name: float(value) for name, value in json.loads(printed).items()}


def probe(path: Path) -> dict[str, float]:
    # Importing the driver is not opening, and takes memory at any size.
    LMDBStore(path)
    before = private_memory()
    keys = [key(number) for number in range(PROBE_LOADS)]
    started = time.perf_counter()
    store = LMDBStore(path)
    found = store.load(keys[0]) is not None
    opened = time.perf_counter() - started
    found = found and all(store.load(each) is not None for each in keys)
    if not found:
        raise SystemExit(f"{path} does not hold what it was filled with.")
    return {"open": opened, "private": private_memory() - before}


def private_memory() -> int:
    """Bytes that this process alone needs; pages of the mapped file are the system's cache."""
    with open("/proc/self/smaps_rollup") as file:
        lines = [line.split() for line in file if line.startswith("Private_Dirty")]
    return sum(int(line[1]) for line in lines) * 1024


def time_loads(paths: dict[int, Path], batches: int = 200, batch: int = 100) -> dict[int, float]:
    """Seconds that a load takes at each size, once the pages it needs are in memory."""
    stores = {size: LMDBStore(path) for size, path in paths.items()}
    keys = {
        size: [[key(random.randrange(size)) for _ in range(batch)] for _ in range(batches)]
        for size in paths
    }
    times: dict[int, list[float]] = {size: [] for size in paths}
    for warm in (False, True):
        # In turns and in short batches, of which the median is one that nothing disturbed.
        for number in range(batches):
            for size, store in stores.items():
                started = time.perf_counter()
                for each in keys[size][number]:
                    store.load(each)
                if warm:
                    times[size].append((time.perf_counter() - started) / batch)
    for store in stores.values():
        store.close()
    return {size: median(taken) for size, taken in times.items()}


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def time_clean_up(path: Path, expired: int) -> float:
    store = LMDBStore(path)
    store.load(key(0))
    started = time.perf_counter()
    removed = sum(store.delete_expired())
    taken = time.perf_counter() - started
    store.close()
    if removed != expired:
        raise SystemExit(f"{removed} sessions were removed, not {expired}.")
    return taken


def growth(path: Path, expired: int) -> float:
    """How much larger the file is after five more generations of expired sessions."""
    store = LMDBStore(path, durability="process")
    file = path / "data.mdb"
    sizes = []
    for generation in range(7):
        for _ in store.delete_expired():
            pass
        sizes.append(file.stat().st_size)
        first = 10**9 + generation * expired
        for number in range(first, first + expired):
            store.create(key(number), record(-1.0))
    store.close()
    return file.stat().st_size / sizes[2]


class SlowStore(MemoryStore):
    """Answers after a millisecond, as one in another machine does."""

    def load(self, key: bytes) -> Record | None:
        time.sleep(0.001)
        return super().load(key)


def layered() -> Iterator[dict[str, Any]]:
    keys = [key(number) for number in range(200)]
    slow = SlowStore()
    for each in keys:
        slow.create(each, record(LIFE))
    hits: list[float] = []
    misses: list[float] = []
    for _ in range(ROUNDS):
        store = LayeredStore(cache=MemoryStore(), store=slow, max_age=60.0)
        for times in (misses, hits):
            started = time.perf_counter()
            for each in keys:
                store.load(each)
            times.append((time.perf_counter() - started) / len(keys))
    yield figure("layered: a miss, of a store that waits 1 ms (µs)", median(misses) * 1e6, 5000)
    yield figure("layered: a hit (µs)", median(hits) * 1e6, 100)
    yield figure("a miss takes this many hits", median(misses) / median(hits), 20, at_least=True)


if __name__ == "__main__":
    sys.exit(main())
