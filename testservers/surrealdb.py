"""A stand-in for a SurrealDB server: the package's own engine behind HTTP or a WebSocket.

The engine, its statements, its answers and the CBOR on the wire are the real
ones. It takes one request at a time, so it says nothing of how a real server
settles transactions that stand in each other's way, and it asks nobody who
does not sign in for credentials.
"""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any

from testservers import Missing, Server

__all__ = ["PASSWORD", "surrealdb_server"]

PASSWORD = "s3cret"


def surrealdb_server(*, websocket: bool = False) -> Server:
    """A server in whose database the user ``root`` has ``PASSWORD``."""
    if find_spec("surrealdb") is None:
        raise Missing("surrealdb is not installed: pip install django-kvsessions[surrealdb]")
    protocol = "websocket" if websocket else "http"

    def command(folder: Path, port: int) -> list[str]:
        return [sys.executable, __file__, protocol, str(port), str(folder / "data")]

    root = Path(__file__).resolve().parent.parent
    return Server(command, env={"PYTHONPATH": str(root)})


class Engine:
    def __init__(self, path: str) -> None:
        import surrealdb

        # The driver's own handle: it takes and gives what is on the wire.
        connection: Any = surrealdb.Surreal(f"surrealkv://{path}")
        connection.connect()
        connection.query(f"DEFINE USER OVERWRITE root ON ROOT PASSWORD '{PASSWORD}' ROLES OWNER")
        self.connection = connection
        self.lock = Lock()

    def answer(self, question: bytes) -> bytes:
        from surrealdb.data.cbor import decode, encode

        with self.lock:
            try:
                answer: bytes = self.connection._db.execute(question)
            except Exception as error:
                # So the engine says what a server says in its answer.
                failure = {"code": -32000, "message": str(error)}
                answer = encode({"id": decode(question)["id"], "error": failure})
        return answer


def serve_http(engine: Engine, port: int) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            question = self.rfile.read(int(self.headers["Content-Length"]))
            answer = engine.answer(question)
            self.send_response(200)
            self.send_header("Content-Type", "application/cbor")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *arguments: object) -> None:
            pass

    class Listener(HTTPServer):
        request_queue_size = 128

    Listener(("127.0.0.1", port), Handler).serve_forever()


def serve_websocket(engine: Engine, port: int) -> None:
    from websockets.sync.server import ServerConnection, serve
    from websockets.typing import Subprotocol

    def talk(connection: ServerConnection) -> None:
        for question in connection:
            assert isinstance(question, bytes)
            connection.send(engine.answer(question))

    # A real server compresses nothing.
    options: dict[str, Any] = {"subprotocols": [Subprotocol("cbor")], "compression": None}
    with serve(talk, "127.0.0.1", port, max_size=None, **options) as server:
        server.serve_forever()


if __name__ == "__main__":
    # Started by its path, this folder would come before the packages of the same names.
    sys.path.pop(0)
    _, protocol, port, path = sys.argv
    serve = serve_http if protocol == "http" else serve_websocket
    serve(Engine(path), int(port))
