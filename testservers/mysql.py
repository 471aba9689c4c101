"""MariaDB (apt ``mariadb-server``)."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

from testservers import Server, require

__all__ = ["django_database", "mariadb_server"]

INSTALL = "apt-get install mariadb-server"


def mariadb_server(*options: str, durable: bool = False) -> Server:
    """A MariaDB with the database ``test`` and a root without a password.

    ``durable``: killed and started again, it has all that it acknowledged.
    """
    return MariaDBServer(options, durable=durable)


def django_database(server: Server, **options: Any) -> dict[str, Any]:
    """What DATABASES says of it."""
    return {
        "ENGINE": "django.db.backends.mysql",
        "NAME": "test",
        "USER": "root",
        "HOST": "127.0.0.1",
        "PORT": str(server.port),
        "CONN_MAX_AGE": None,
        "OPTIONS": {"connect_timeout": 5, **options},
    }


class MariaDBServer(Server):
    def __init__(self, options: tuple[str, ...], *, durable: bool) -> None:
        self.server_binary = require("mariadbd", INSTALL)
        self.install_binary = require("mariadb-install-db", INSTALL)
        # 2: written, but not flushed, before it is acknowledged; that outlives a kill.
        self.options = (f"--innodb-flush-log-at-trx-commit={2 if durable else 0}", *options)
        # It changes from root to its own user by itself.
        self.user = ["--user=mysql"] if os.geteuid() == 0 else []
        super().__init__(self.line)

    @property
    def data(self) -> Path:
        return self.folder / "my" / "data"

    def line(self, folder: Path, port: int) -> list[str]:
        line = [self.server_binary, "--no-defaults", *self.user, f"--datadir={self.data}"]
        line += ["--bind-address=127.0.0.1", f"--port={port}"]
        line += [
            f"--socket={self.data.parent / 's.sock'}",
            f"--pid-file={self.data.parent / 'pid'}",
        ]
        line += ["--skip-log-bin", "--skip-name-resolve", "--innodb-buffer-pool-size=64M"]
        line += ["--innodb-log-file-size=8M", "--character-set-server=utf8mb4"]
        return [*line, "--collation-server=utf8mb4_bin", *self.options]

    def answers(self) -> bool:
        # An open port is not enough while it recovers: the server speaks first.
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                return len(connection.recv(5)) == 5
        except OSError:
            return False

    def start(self) -> None:
        if not self.data.exists():
            self.initialise()
        super().start()

    def initialise(self) -> None:
        self.data.parent.mkdir()
        if self.user:
            shutil.chown(self.data.parent, "mysql")
        install = [self.install_binary, "--no-defaults", *self.user, f"--datadir={self.data}"]
        install += ["--auth-root-authentication-method=normal", "--skip-test-db"]
        install += ["--innodb-log-file-size=8M"]
        run(install, self.folder)
        create = [self.server_binary, "--no-defaults", *self.user, f"--datadir={self.data}"]
        create += ["--bootstrap", "--innodb-log-file-size=8M"]
        run(create, self.folder, script=b"CREATE DATABASE test;\n")


def run(command: list[str], folder: Path, script: bytes = b"") -> None:
    done = subprocess.run(command, input=script, capture_output=True, cwd=folder, check=False)
    if done.returncode:
        said = (done.stdout + done.stderr).decode(errors="replace")[-2000:]
        raise RuntimeError(f"{command[0]} ended with {done.returncode}:\n{said}")
