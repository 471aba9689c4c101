"""A stand-in for MongoDB: its wire protocol (OP_MSG) in front of mongomock.

It keeps everything in memory, so a test that wants an outage cuts the network
instead of killing it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from testservers import Missing, Server

__all__ = ["MongoDBServer", "mongodb_server"]

HEADER = struct.Struct("<iiii")
OP_REPLY, OP_QUERY, OP_MSG = 1, 2004, 2013
MORE_TO_COME = 2
# What MongoDB 7.0 says of itself.
HELLO = {
    "helloOk": True,
    "ismaster": True,
    "isWritablePrimary": True,
    "maxBsonObjectSize": 16 * 1024 * 1024,
    "maxMessageSizeBytes": 48_000_000,
    "maxWriteBatchSize": 100_000,
    "minWireVersion": 0,
    "maxWireVersion": 21,
    "readOnly": False,
}
FIRST_BATCH = 101
#: In the server's folder while no connection is left.
CUT = Path("cut")


def mongodb_server() -> MongoDBServer:
    for module in ("mongomock", "bson"):
        if find_spec(module) is None:
            raise Missing(f"{module} is not installed: pip install mongomock pymongo")
    return MongoDBServer()


class MongoDBServer(Server):
    def __init__(self) -> None:
        root = str(Path(__file__).parents[1])
        super().__init__(self.line, env={"PYTHONPATH": root, "PYTHONWARNINGS": "ignore"})

    def line(self, folder: Path, port: int) -> list[str]:
        return [sys.executable, "-m", "testservers.mongodb", str(port)]

    def cut(self) -> None:
        """Close every connection and take no more, until ``mend``."""
        assert self.process is not None
        self.process.send_signal(signal.SIGUSR1)
        while not (self.folder / CUT).exists():
            time.sleep(0.01)

    def mend(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGUSR2)
        while not self.answers():
            time.sleep(0.01)


class Network:
    """A listener and its connections, which signals close and open again."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.engine = Engine()
        self.connections: set[socket.socket] = set()
        self.listen()

    def listen(self) -> None:
        CUT.unlink(missing_ok=True)
        self.listener = socket.create_server(("127.0.0.1", self.port))
        self.accepting = threading.Thread(target=self.accept, args=(self.listener,), daemon=True)
        self.accepting.start()

    def accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.connections.add(connection)
                threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def cut(self) -> None:
        # A thread that waits in accept would keep a closed listener open.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        # Until then one more connection may come.
        self.accepting.join()
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        CUT.touch()

    def serve(self, connection: socket.socket) -> None:
        try:
            with connection, connection.makefile("rb") as incoming:
                while header := incoming.read(HEADER.size):
                    length, number, _, code = HEADER.unpack(header)
                    body = incoming.read(length - HEADER.size)
                    answer = self.engine.answer(code, body)
                    if answer is not None:
                        reply, message = answer
                        size = HEADER.size + len(message)
                        connection.sendall(HEADER.pack(size, 0, number, reply) + message)
        except (OSError, struct.error):
            pass
        finally:
            self.connections.discard(connection)


class Engine:
    """Runs one command after the other on mongomock."""

    def __init__(self) -> None:
        import bson
        import mongomock
        from bson.codec_options import CodecOptions, DatetimeConversion
        from bson.int64 import Int64
        from bson.objectid import ObjectId

        self.bson = bson
        self.client: Any = mongomock.MongoClient()
        self.errors = mongomock
        self.int64 = Int64
        self.service = ObjectId()
        self.options: Any = CodecOptions(datetime_conversion=DatetimeConversion.DATETIME_CLAMP)
        self.lock = threading.Lock()
        # The last numbered write of each session, and its answer.
        self.done: dict[bytes, tuple[int | None, dict[str, Any]]] = {}
        self.cursors: dict[int, tuple[str, list[Any]]] = {}
        self.last_cursor = 0

    def answer(self, code: int, body: bytes) -> tuple[int, bytes] | None:
        if code == OP_QUERY:
            # The first hello of a connection, from clients that do not know the server yet.
            document = self.bson.encode({**HELLO, "ok": 1.0})
            return OP_REPLY, struct.pack("<iqii", 8, 0, 0, 1) + document
        assert code == OP_MSG, code
        flags, command = self.parse(body)
        with self.lock:
            reply = self.answered_once(command)
        if flags & MORE_TO_COME:
            return None
        return OP_MSG, struct.pack("<iB", 0, 0) + self.bson.encode(reply)

    def parse(self, body: bytes) -> tuple[int, dict[str, Any]]:
        """The flags, and the command with the sequences of documents that follow it."""
        [flags] = struct.unpack_from("<i", body)
        at, command = 4, {}
        while at < len(body):
            kind = body[at]
            [size] = struct.unpack_from("<i", body, at + 1)
            part = body[at + 1 : at + 1 + size]
            if kind == 0:
                command.update(self.bson.decode(part, self.options))
            else:
                name, _, documents = part[4:].partition(b"\0")
                command[name.decode()] = self.bson.decode_all(documents, self.options)
            at += 1 + size
        return flags, command

    def answered_once(self, command: dict[str, Any]) -> dict[str, Any]:
        """A write that comes again under its number is answered as it was, and not done again."""
        if "txnNumber" not in command:
            return self.run(command)
        session, number = bytes(command["lsid"]["id"]), int(command["txnNumber"])
        if self.done.get(session, (None, {}))[0] != number:
            self.done[session] = number, self.run(command)
        return self.done[session][1]

    def run(self, command: dict[str, Any]) -> dict[str, Any]:
        name = next(iter(command))
        method = getattr(self, f"run_{name.lower()}", None)
        if method is None:
            return failure(59, "CommandNotFound", f"no such command: '{name}'")
        try:
            return {"ok": 1.0, **method(self.client[command["$db"]], command)}
        except self.errors.OperationFailure as error:
            return failure(error.code or 2, "BadValue", str(error))

    def run_hello(self, database: Any, command: dict[str, Any]) -> dict[str, Any]:
        if command.get("loadBalanced"):
            # Behind a load balancer drivers send a write again, under the same number.
            return {**HELLO, "serviceId": self.service, "logicalSessionTimeoutMinutes": 30}
        return HELLO

    run_ismaster = run_hello

    def run_ping(self, database: Any, command: dict[str, Any]) -> dict[str, Any]:
        return {}

    run_endsessions = run_ping

    def run_insert(self, database: Any, command: dict[str, Any]) -> dict[str, Any]:
        collection = database[command["insert"]]
        return self.write(command["documents"], lambda each: len([collection.insert_one(each)]))

    def run_delete(self, database: Any, command: dict[str, Any]) -> dict[str, Any]:
        collection = database[command["delete"]]

        def delete(each: dict[str, Any]) -> int:
            method = collection.delete_one if each["limit"] else collection.delete_many
            return int(method(each["q"]).deleted_count)

        return self.write(command["deletes"], delete)

    def run_update(self, database: Any, command: dict[str, Any]) -> dict[str, Any]:
        collection = database[command["update"]]
        changed = {"nModified": 0}
        upserted: list[dict[str, Any]] = []

        def update(each: dict[str, Any]) -> int:
            method = collection.replace_one
            if next(iter(each["u"]), "").startswith("$"):
                method = collection.update_many if each.get("multi") else collection.update_one
            result = method(each["q"], each["u"], upsert=each.get("upsert", False))
            if result.upserted_id is not None:
                upserted.append({"index": len(upserted), "_id": result.upserted_id})
                return 1
            changed["nModified"] += result.modified_count or 0
            return int(result.matched_count)

        reply = {**self.write(command["updates"], update), **changed}
        return {**reply, "upserted": upserted} if upserted else reply

    def write(self, statements: list[dict[str, Any]], change: Any) -> dict[str, Any]:
        count, failures = 0, []
        for index, statement in enumerate(statements):
            try:
                count += change(statement)
            except self.errors.DuplicateKeyError as error:
                failures.append({"index": index, "code": 11000, "errmsg": str(error)})
                break
        return {"n": count, "writeErrors": failures} if failures else {"n": count}

    def run_find(self, database: Any, command: dict[str, Any]) -> dict[str, Any]:
        found = database[command["find"]].find(
            command.get("filter"),
            command.get("projection"),
            sort=list(command.get("sort", {}).items()) or None,
            limit=abs(command.get("limit", 0)),
            skip=command.get("skip", 0),
        )
        return self.first_batch(database, command["find"], command, list(found))

    def run_aggregate(self, database: Any, command: dict[str, Any]) -> dict[str, Any]:
        found = database[command["aggregate"]].aggregate(command["pipeline"])
        return self.first_batch(
            database, command["aggregate"], command.get("cursor", {}), list(found)
        )

    def run_listindexes(self, database: Any, command: dict[str, Any]) -> dict[str, Any]:
        name = command["listIndexes"]
        if name not in database.list_collection_names():
            return failure(26, "NamespaceNotFound", f"ns does not exist: {name}")
        found = []
        for index, information in database[name].index_information().items():
            fields = dict(information.pop("key"))
            found.append({"v": 2, "key": fields, "name": index})
        return self.first_batch(database, name, command.get("cursor", {}), found)

    def first_batch(
        self, database: Any, collection: str, command: dict[str, Any], documents: list[Any]
    ) -> dict[str, Any]:
        self.last_cursor += 1
        namespace = f"{database.name}.{collection}"
        self.cursors[self.last_cursor] = namespace, documents
        size = command.get("batchSize", FIRST_BATCH)
        end = command.get("singleBatch", False)
        return self.batch(self.last_cursor, size, "firstBatch", end=end)

    def run_getmore(self, database: Any, command: dict[str, Any]) -> dict[str, Any]:
        number = command["getMore"]
        if number not in self.cursors:
            return failure(43, "CursorNotFound", f"cursor id {number} not found")
        return self.batch(number, command.get("batchSize") or 10**6, "nextBatch", end=False)

    def batch(self, number: int, size: int, name: str, *, end: bool) -> dict[str, Any]:
        namespace, documents = self.cursors[number]
        batch, rest = documents[:size], documents[size:]
        self.cursors[number] = namespace, rest
        if end or not rest:
            del self.cursors[number]
            number = 0
        # The driver wants 64 bits, whatever the number.
        return {"cursor": {"id": self.int64(number), "ns": namespace, name: batch}}

    def run_killcursors(self, database: Any, command: dict[str, Any]) -> dict[str, Any]:
        killed = [each for each in command["cursors"] if self.cursors.pop(each, None)]
        return {"cursorsKilled": killed}

    def run_createindexes(self, database: Any, command: dict[str, Any]) -> dict[str, Any]:
        collection = database[command["createIndexes"]]
        for index in command["indexes"]:
            fields = list(index.pop("key").items())
            index.pop("v", None)
            collection.create_index(fields, **index)
        return {}

    def run_collstats(self, database: Any, command: dict[str, Any]) -> dict[str, Any]:
        documents = list(database[command["collStats"]].find())
        return {"count": len(documents), "size": sum(len(self.bson.encode(d)) for d in documents)}

    def run_drop(self, database: Any, command: dict[str, Any]) -> dict[str, Any]:
        database.drop_collection(command["drop"])
        return {}


def failure(code: int, name: str, message: str) -> dict[str, Any]:
    return {"ok": 0.0, "code": code, "codeName": name, "errmsg": message}


def main() -> None:
    signals = {signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    network = Network(int(sys.argv[1]))
    while True:
        number = signal.sigwait(signals)
        if number == signal.SIGUSR1:
            network.cut()
        elif number == signal.SIGUSR2:
            network.listen()
        else:
            # Daemon threads would hold up an orderly end.
            os._exit(0)


if __name__ == "__main__":
    main()
