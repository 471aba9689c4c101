"""PostgreSQL (apt ``postgresql``)."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from testservers import Missing, Server

__all__ = ["django_database", "postgres_binaries", "postgres_server"]

# Debian keeps the programs of each version apart, and PostgreSQL refuses to run as root.
INSTALLED = Path("/usr/lib/postgresql")


def postgres_server(*options: str, durable: bool = False) -> Server:
    """A PostgreSQL with the user and database ``test``, ``options`` as ``-c`` takes them.

    ``durable``: killed and started again, it has all that it acknowledged.
    """
    return PostgresServer(postgres_binaries(), options, durable=durable)


def postgres_binaries() -> Path:
    """The folder of initdb and postgres, of the newest version."""
    found = sorted(INSTALLED.glob("*/bin/postgres"), key=lambda path: float(path.parts[-3]))
    if found:
        return found[-1].parent
    path = shutil.which("postgres")
    if path is None:
        raise Missing("postgres is not installed: apt-get install postgresql")
    return Path(path).parent


def django_database(server: Server, **options: Any) -> dict[str, Any]:
    """What DATABASES says of it."""
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": "test",
        "USER": "test",
        "HOST": "127.0.0.1",
        "PORT": str(server.port),
        "CONN_MAX_AGE": None,
        "OPTIONS": {"connect_timeout": 5, **options},
    }


class PostgresServer(Server):
    def __init__(self, binaries: Path, options: tuple[str, ...], *, durable: bool) -> None:
        self.binaries = binaries
        # Written before it is acknowledged is enough to outlive a kill; only a power cut
        # asks for an fsync.
        wait = "on" if durable else "off"
        careful = (f"synchronous_commit={wait}", f"full_page_writes={wait}")
        self.options = ("fsync=off", *careful, *options)
        self.as_user: list[str] = []
        if os.geteuid() == 0:
            self.as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        super().__init__(self.line, env={"LC_ALL": "C"})

    @property
    def data(self) -> Path:
        return self.folder / "pg" / "data"

    def line(self, folder: Path, port: int) -> list[str]:
        line = [*self.as_user, str(self.binaries / "postgres"), "-D", str(self.data)]
        line += ["-h", "127.0.0.1", "-p", str(port), "-k", str(self.data.parent)]
        return line + [part for option in self.options for part in ("-c", option)]

    def answers(self) -> bool:
        # While it starts it accepts connections, and refuses what comes over them.
        check = [str(self.binaries / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(check, check=False).returncode == 0

    def start(self) -> None:
        if not self.data.exists():
            self.initialise()
        deadline = time.monotonic() + self.timeout
        while True:
            try:
                super().start()
                return
            except RuntimeError:
                # The processes of a killed one may take a moment to notice that it is gone.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def initialise(self) -> None:
        self.data.parent.mkdir()
        if self.as_user:
            shutil.chown(self.data.parent, "postgres")
        initdb = [*self.as_user, str(self.binaries / "initdb"), "-D", str(self.data), "-U", "test"]
        initdb += ["-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"]
        environment = {**os.environ, "LC_ALL": "C"}
        subprocess.run(initdb, check=True, capture_output=True, cwd=self.folder, env=environment)
        single = [*self.as_user, str(self.binaries / "postgres"), "--single"]
        single += ["-D", str(self.data), "postgres"]
        subprocess.run(
            single,
            input=b"CREATE DATABASE test",
            check=True,
            capture_output=True,
            cwd=self.folder,
            env=environment,
        )

    def pause(self) -> None:
        # First the one that starts all others.
        super().pause()
        self.signal_children(signal.SIGSTOP)

    def resume(self) -> None:
        self.signal_children(signal.SIGCONT)
        super().resume()

    def end(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.signal_children(signal.SIGCONT)
        super().end(number)

    def signal_children(self, number: signal.Signals) -> None:
        """To the processes that serve the connections, which are not in its process group."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        with suppress(FileNotFoundError, ProcessLookupError):
            for child in children.read_text().split():
                with suppress(ProcessLookupError):
                    os.kill(int(child), number)

    def stop(self) -> None:
        """End it in good order, and the connections with it (SIGINT, a fast shutdown)."""
        self.end(signal.SIGINT)
