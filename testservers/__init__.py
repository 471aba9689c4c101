"""Real servers for the tests and the demo: temporary folder, free loopback port, own pid."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Missing", "Server", "free_port", "require"]


class Missing(Exception):
    """What a server needs is not installed; the message says how to install it."""


def require(binary: str, install: str) -> str:
    """The path of a program, or ``Missing`` with the line that installs it."""
    path = shutil.which(binary)
    if path is None:
        raise Missing(f"{binary} is not installed: {install}")
    return path


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class Server:
    """One server process, in a temporary folder, on a port that it keeps over restarts.

    ``command`` gets the folder and the port and returns the command line. A
    context manager: started on entry; stopped, and its folder removed, on exit.
    """

    def __init__(
        self,
        command: Callable[[Path, int], Sequence[str]],
        *,
        env: Mapping[str, str] | None = None,
        timeout: float = 30,
    ) -> None:
        """``env`` is added to the environment; ``timeout`` is how many seconds a start or
        a stop may take."""
        self.command = command
        self.env = env
        self.timeout = timeout
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        # Servers that run as another user than root must be able to enter it.
        self.folder = Path(tempfile.mkdtemp(prefix="testserver-"))
        self.folder.chmod(0o755)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    def answers(self) -> bool:
        """Whether it may be used now; as far as it accepts connections."""
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def start(self) -> None:
        """Start it, or start it again on the same folder and port, and wait until it answers."""
        with self.log.open("ab") as log:
            process = self.process = subprocess.Popen(
                self.command(self.folder, self.port),
                cwd=self.folder,
                env={**os.environ, **(self.env or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # A Ctrl-C at the terminal is for the tests, which then stop it.
                start_new_session=True,
            )
        deadline = time.monotonic() + self.timeout
        while not self.answers():
            if process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                tail = self.log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{process.args!r} does not start:\n{tail}")
            time.sleep(0.02)

    def stop(self) -> None:
        """End it in good order (SIGTERM)."""
        self.end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once (SIGKILL)."""
        self.end(signal.SIGKILL)

    def end(self, number: signal.Signals) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        process.send_signal(number)
        # A paused process would never get to its SIGTERM.
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(self.timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def pause(self) -> None:
        """Stop it from running, with its connections open (SIGSTOP)."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        # Each of its threads is stopped on its own, and may answer once more before.
        for status in Path(f"/proc/{self.process.pid}/task").glob("*/stat"):
            with suppress(FileNotFoundError, ProcessLookupError):
                while status.read_text().rpartition(")")[2].split()[0] not in "tT":
                    time.sleep(0.001)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def restart(self) -> None:
        self.stop()
        self.start()

    def remove(self) -> None:
        """Stop it and remove its folder."""
        try:
            self.stop()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
