"""Stand-ins for DynamoDB: moto's server (PyPI ``moto[server,dynamodb]``) and npm's ``dynalite``."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from testservers import Missing, Server, require
from testservers.node import node_module

__all__ = ["CREDENTIALS", "client_options", "dynalite_server", "moto_server"]

# It would end with the first client that is killed while it sends a request.
OUTLIVE_CLIENTS = """\
process.on("uncaughtException", (error) => {
    if (error.code !== "ECONNRESET") throw error
})
"""

# A write would find its condition true and be done only after another's, of which it then
# takes the place; the service has no such gap.
ONE_BY_ONE = """\
import threading
import moto.server

serve, turn = moto.server.run_simple, threading.Lock()

def serve_one_by_one(host, port, application, **options):
    def one_by_one(environ, start_response):
        with turn:
            return application(environ, start_response)

    serve(host, port, one_by_one, **options)

moto.server.run_simple = serve_one_by_one
moto.server.main()
"""


#: A stand-in takes any.
CREDENTIALS = {
    "region_name": "eu-west-1",
    "aws_access_key_id": "anybody",
    "aws_secret_access_key": "anything",
}


def client_options(server: Server) -> dict[str, Any]:
    """What boto3 is told of it; any credentials will do."""
    return {"endpoint_url": f"http://127.0.0.1:{server.port}", **CREDENTIALS}


def moto_server() -> Server:
    """All of DynamoDB's methods, but lax; killed, it has lost everything."""
    for module in ("moto", "flask", "flask_cors"):
        if find_spec(module) is None:
            raise Missing(f"{module} is not installed: pip install moto[server,dynamodb]")

    def command(folder: Path, port: int) -> list[str]:
        return [sys.executable, "-c", ONE_BY_ONE, "-H", "127.0.0.1", "-p", str(port)]

    # An interpreter in development mode would be slow, and warn of what is not ours.
    return Server(command, env={"PYTHONDEVMODE": "", "PYTHONWARNINGS": "ignore"})


def dynalite_server() -> Server:
    """Strict, but without TTL and transactions; it outlives a kill with what it acknowledged."""
    node = require("node", "apt-get install nodejs npm")
    script = node_module("dynalite", "dynalite/cli.js")

    def command(folder: Path, port: int) -> list[str]:
        preload = folder / "outlive-clients.js"
        preload.write_text(OUTLIVE_CLIENTS)
        line = [node, "--require", str(preload), str(script)]
        line += ["--host", "127.0.0.1", "--port", str(port)]
        line += ["--createTableMs", "0", "--deleteTableMs", "0", "--updateTableMs", "0"]
        return [*line, "--path", str(folder / "data")]

    return Server(command)
