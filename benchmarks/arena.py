"""Worker processes driven over pipes, on sessions that are there before."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from benchmarks.contenders import CONTENDERS, DJANGO, SERVERS, Contender, Place, django_settings
from benchmarks.site import SETTINGS
from testservers import Missing

ROOT = Path(__file__).parent.parent

T = TypeVar("T")


def progress(items: Sequence[T], title: str) -> Iterator[T]:
    # None: a bar on a terminal, silence in a log.
    return iter(tqdm(items, desc=title, disable=None, leave=False))


def environment(
    contender: Contender,
    place: Place,
    *,
    middleware: str = f"{DJANGO}.middleware",
    package: Path | None = None,
) -> dict[str, str]:
    """What a process of the contender is told; ``package`` has another django_kvsessions."""
    found = django_settings(contender, place, middleware=middleware)
    path = [str(folder) for folder in (package, ROOT) if folder is not None]
    return {SETTINGS: json.dumps(found), "PYTHONPATH": os.pathsep.join(path)}


class WorkerProcess:
    """One process under the settings of one contender."""

    def __init__(self, contender: Contender, place: Place, *, package: Path | None = None) -> None:
        place.folder.mkdir(parents=True, exist_ok=True)
        self._name = contender.name
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", contender.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Where no package lies that would come before those of PYTHONPATH.
            cwd=place.folder,
            env=os.environ | environment(contender, place, package=package),
        )

    def send(self, do: str, **arguments: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()

    def receive(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"The worker of {self._name} ended with {self._process.wait()}.")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"The worker of {self._name} failed:\n{answer['error']}")
        return answer["result"]

    def ask(self, do: str, **arguments: Any) -> Any:
        self.send(do, **arguments)
        return self.receive()

    def close(self) -> None:
        """Let it end by itself, as engines may have something to flush at exit."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


class Population:
    """So many sessions in one contender's engine, in a folder or on a server of their own."""

    def __init__(
        self, contender: Contender, size: int, folder: Path, *, package: Path | None = None
    ) -> None:
        """``Missing`` where its server is not installed."""
        self.contender = contender
        self.size = size
        self.package = package
        self.server = SERVERS[contender.server]() if contender.server else None
        self.place = Place(folder, self.server)
        self._worker: WorkerProcess | None = None

    @property
    def name(self) -> str:
        return self.contender.name

    @property
    def lasts(self) -> bool:
        """Whether a second process finds what the first one stored."""
        contender = self.contender
        alone = contender.in_process and not (contender.rows or contender.server)
        return not (alone or contender.stateless)

    def close(self) -> None:
        self.rest()
        if self.server is not None:
            self.server.remove()

    def new_worker(self, contender: Contender | None = None) -> closing[WorkerProcess]:
        """A fresh process, for ``with``."""
        return closing(self._process(contender or self.contender))

    def fill(self, expired: int = 0) -> None:
        """Store the sessions in a process of its own, unless they would end with it."""
        if self.lasts and (self.size or expired or self.contender.rows):
            filler = self.contender.filled_by
            with self.new_worker(CONTENDERS[filler] if filler else None) as worker:
                worker.ask("fill", count=self.size, expired=expired)

    @property
    def worker(self) -> WorkerProcess:
        """The process that measures, started where there is none."""
        if self._worker is None:
            self._worker = self._process(self.contender)
            self._worker.ask("use", count=self.size)
        return self._worker

    def _process(self, contender: Contender) -> WorkerProcess:
        if self.server is not None and self.server.process is None:
            self.server.start()
        return WorkerProcess(contender, self.place, package=self.package)

    def rest(self) -> None:
        """End the process that measures; what is stored stays."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()

    def disk(self) -> int:
        """What the file system keeps for it, whole blocks counted."""
        paths = self.place.folder.rglob("*")
        return sum(path.stat().st_blocks * 512 for path in paths if path.is_file())


@contextmanager
def arena(
    names: Iterable[str], sizes: Iterable[int], folder: Path, *, skip: Sequence[str] = ()
) -> Iterator[tuple[list[Population], list[str]]]:
    """Populations that are filled and ready to be measured in turns, and what is left out.

    ``skip`` has what to leave out, as "file@1000000".
    """
    populations: list[Population] = []
    left_out = [f"{name} (--skip)" for name in skip]
    with ExitStack() as stack:
        for name, size in product(names, sizes):
            if f"{name}@{size}" in skip:
                continue
            try:
                one = Population(CONTENDERS[name], size, folder / f"{name}-{size}")
            except Missing as error:
                left_out.append(f"{name}: {error}")
                continue
            stack.callback(one.close)
            populations.append(one)
        each(populations, Population.fill, "filling")
        each(populations, lambda one: one.worker, "starting")
        yield populations, left_out


def each(populations: list[Population], action: Callable[[Population], object], title: str) -> None:
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(action, one) for one in populations]
        try:
            for future in progress(futures, title):
                future.result()
        except BaseException:
            # Those that have not begun need not run only to be thrown away.
            pool.shutdown(cancel_futures=True)
            raise
