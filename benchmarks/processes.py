"""Worker processes, driven over pipes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from benchmarks.engines import CONTENDERS, OURS, Contender

ROOT = Path(__file__).parent.parent
BEFORE = "before"


T = TypeVar("T")


def progress(items: Sequence[T], title: str) -> Iterator[T]:
    # None: a bar on a terminal, silence in a log.
    return iter(tqdm(items, desc=title, disable=None, leave=False))


class WorkerProcess:
    """One process under the settings of one contender."""

    def __init__(self, contender: Contender, folder: Path, *, package: Path | None = None) -> None:
        # "before" is this engine in another checkout, not a contender of its own.
        name = OURS if contender.name == BEFORE else contender.name
        command = [sys.executable, "-m", "benchmarks.worker", name, str(folder)]
        if package is not None:
            command += ["--package", str(package)]
        self._name = contender.name
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
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


@dataclass
class Population:
    """So many sessions in one contender's engine, and a process that measures on them."""

    contender: Contender
    size: int
    folder: Path
    package: Path | None = None
    disk: int = field(default=0, init=False)
    worker: WorkerProcess = field(init=False)

    def new_worker(self) -> closing[WorkerProcess]:
        """A fresh process, for ``with``."""
        return closing(WorkerProcess(self.contender, self.folder, package=self.package))

    def fill(self) -> None:
        """Store the sessions in a process of its own, unless they would end with it."""
        contender = self.contender
        ends = contender.in_process and not contender.rows
        if not (ends or contender.stateless or contender.copy_of):
            filler = CONTENDERS[contender.filled_by] if contender.filled_by else contender
            with replace(self, contender=filler).new_worker() as worker:
                worker.ask("fill", count=self.size)

    def start(self) -> None:
        self.worker = WorkerProcess(self.contender, self.folder, package=self.package)
        self.worker.ask("use", count=self.size)
        self.disk = disk_bytes(self.folder)


class Arena:
    """All contenders at all sizes, ready to be measured in turns."""

    def __init__(
        self,
        contenders: list[Contender],
        sizes: list[int],
        folder: Path,
        *,
        skip: Sequence[str] = (),
        before: Path | None = None,
    ) -> None:
        """``skip`` has what to leave out, as "file@1000000"."""
        self.populations = [
            Population(
                contender,
                size,
                folder / f"{contender.name}-{size}",
                before if contender.name == BEFORE else None,
            )
            for size in sizes
            for contender in contenders
            if f"{contender.name}@{size}" not in skip
        ]

    def start(self) -> None:
        originals = {(one.contender.name, one.size): one.folder for one in self.populations}
        self._each(Population.fill, "filling")
        for one in self.populations:
            if one.contender.copy_of:
                shutil.copytree(originals[one.contender.copy_of, one.size], one.folder)
        self._each(Population.start, "starting")

    def _each(self, action: Callable[[Population], None], title: str) -> None:
        with ThreadPoolExecutor(2) as pool:
            futures = [pool.submit(action, one) for one in self.populations]
            try:
                for future in progress(futures, title):
                    future.result()
            except BaseException:
                # Those that have not begun need not run only to be thrown away.
                pool.shutdown(cancel_futures=True)
                raise

    def close(self) -> None:
        for one in self.populations:
            if hasattr(one, "worker"):
                one.worker.close()


def disk_bytes(folder: Path) -> int:
    """What the file system keeps for it, whole blocks counted."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())
