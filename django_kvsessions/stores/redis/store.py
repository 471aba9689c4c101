"""Sessions in Redis or Valkey, for many machines; the server's TTL does the clean-up."""

from __future__ import annotations

import contextlib
import os
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha1
from math import ceil
from typing import TYPE_CHECKING, Any

from django.core import checks
from django.core.exceptions import ImproperlyConfigured

from django_kvsessions.steps import Steps, run
from django_kvsessions.stores.base import (
    KEY_SIZE,
    Record,
    StoreCorrupted,
    StoreError,
    StoreStats,
    StoreUnavailable,
    now,
)
from django_kvsessions.stores.paged import SteppedStore

if TYPE_CHECKING:
    from django_kvsessions.stores.redis.connections import Command
    from django_kvsessions.stores.redis.node import Node

__all__ = ["RedisStore"]

# A record is one string: when it expires, its revision, 8 random bytes of the write, until
# when its owner's index lists it, the length of the owner, the owner, the data. A touch
# rewrites the first 8 bytes alone. By the random ones a write that is sent again, its
# answer lost, knows that it was done.
HEADER = struct.Struct(">dQ8sdB")
REVISION = struct.Struct(">Q")
TIME = struct.Struct(">d")

# Every script gets one key, because a cluster runs no other, and the caller's clock,
# because a record ends by it: the server's TTL only sweeps up.
LIVE = """
local head = redis.call('GETRANGE', KEYS[1], 0, 48)
local there = head ~= ''
if #head < 33 or struct.unpack('>d', head) <= struct.unpack('>d', ARGV[1]) then head = nil end
"""
# A replica would say of what has not reached it yet that it is gone. A write, even
# one that changes nothing, makes it say that it is read-only instead.
GONE = """
if not head then
  if not there then redis.call('DEL', KEYS[1]) end
  return 0
end
"""
# ARGV: now, value, ttl.
CREATE = f"""{LIVE}
if head then return head:sub(17, 24) == ARGV[2]:sub(17, 24) and 1 or 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
"""
# ARGV: now, value, ttl, the revision it must have, or nothing. Returns 2 where the owner's
# index has to be told first: it does not list the session, or not for long enough.
REPLACE = f"""{LIVE}{GONE}
local value, listed = ARGV[2], nil
if head:sub(17, 24) == value:sub(17, 24) then return 1 end
if ARGV[4] ~= '' and head:sub(9, 16) ~= ARGV[4] then return 0 end
if value:byte(33) > 0 and struct.unpack('>d', value, 25) == 0 then
  listed = head:sub(25, 32)
  if value:sub(33, 49) ~= head:sub(33, 49) then return 2 end
  if struct.unpack('>d', value) > struct.unpack('>d', listed) then return 2 end
end
redis.call('SET', KEYS[1], value, 'PX', ARGV[3])
if listed then redis.call('SETRANGE', KEYS[1], 24, listed) end
return 1
"""
# ARGV: now, expires, ttl, the owner whose index was told, until when it lists the session.
# Returns the owner where it has to be told first.
TOUCH = f"""{LIVE}{GONE}
local owner = head:sub(34, 33 + head:byte(33))
if owner ~= '' and struct.unpack('>d', ARGV[2]) > struct.unpack('>d', head, 25) then
  if owner ~= ARGV[4] then return owner end
  redis.call('SETRANGE', KEYS[1], 24, ARGV[5])
end
redis.call('SETRANGE', KEYS[1], 0, ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
"""
# ARGV: now. Returns the owner of a live one.
DELETE = f"""{LIVE}
redis.call('DEL', KEYS[1])
return head and head:sub(34, 33 + head:byte(33))
"""
# An owner's index: sessions by until when they are listed. ARGV: now, ttl, until, key.
LIST = """
redis.call('ZADD', KEYS[1], ARGV[3], ARGV[4])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', (struct.unpack('>d', ARGV[1])))
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 1
"""
DIGESTS = {
    script: sha1(script.encode(), usedforsecurity=False).hexdigest().encode()
    for script in (CREATE, REPLACE, TOUCH, DELETE, LIST)
}
SCRIPTS = {digest: script.encode() for script, digest in DIGESTS.items()}

TELL_INDEX = 2
# Names and records read at once while scanning: 32 of the largest records are 32 MiB.
NAMES = 1000
PAGE = 32
# The longest TTL asked for, in ms: what comes later overflows in some servers.
MAX_TTL = 10**15


class RedisStore(SteppedStore):
    """Keeps records in Redis or Valkey, under one TTL each.

    LOCATION is a URL: ``redis://user:password@host:6379/0``, ``rediss://`` with
    TLS, or ``unix:///path?db=0``. A list of URLs is a primary and its replicas:
    whichever says that it is the primary is used, for reads too, because a
    replica that lags behind would bring an ended session back.

    The clocks of the web servers decide what has expired, so keep them in step.
    """

    def __init__(
        self,
        location: str | Sequence[str] | None = None,
        *,
        prefix: str = "sessions",
        version: int | str = 1,
        cluster: bool = False,
        client: str | Callable[[], Any] | None = None,
        async_client: str | Callable[[], Any] | None = None,
        max_record_size: int = 1024 * 1024,
        **options: Any,
    ) -> None:
        """``prefix`` and ``version`` begin the name of each key, ``sessions:1:``; sites
        that share a server need different ones.

        ``cluster``: LOCATION names nodes of a Redis Cluster.

        ``client``: instead of LOCATION, an alias in CACHES whose connections are to be
        shared, or a callable (or the dotted path of one) that returns a client or pool of
        redis-py. ``async_client``: a callable that returns one of ``redis.asyncio``,
        called once in each event loop; without it, async calls go through threads.

        ``options``: everything else goes to redis-py's connections: ``username``,
        ``password``, ``socket_timeout`` and ``socket_connect_timeout`` (3 seconds each),
        ``max_connections`` (100 a process and event loop), ``ssl_ca_certs`` ...
        """
        super().__init__(max_record_size=max_record_size)
        try:
            from django_kvsessions.stores import redis_client
        except ImportError as error:
            raise ImproperlyConfigured(
                "RedisStore needs redis-py: pip install django-kvsessions[redis]"
            ) from error
        if not prefix or not isinstance(prefix, str):
            raise ImproperlyConfigured("OPTIONS['prefix'] must be a text that is not empty.")
        self._prefix = f"{prefix}:{version}:".encode()
        self._nodes, self._where = redis_client.nodes(
            location, cluster, client, async_client, options
        )
        errors = redis_client.exceptions
        self._errors = (errors.RedisError, errors.RedisClusterException, OSError)
        self._lost = (
            errors.ConnectionError,
            errors.ReadOnlyError,
            errors.RedisClusterException,
        )
        self._no_script = errors.NoScriptError
        self._response = errors.ResponseError
        self._denied = (
            errors.AuthenticationError,
            errors.AuthorizationError,
            errors.NoPermissionError,
        )
        # The primary; None until one of several has said that it is.
        self._node = self._nodes[0] if len(self._nodes) == 1 else None

    # The contract

    def _load(self, key: bytes) -> Steps[Record | None]:
        [value] = yield from self._exchange([(b"GET", self._name(key))])
        return self._record(value)

    def _create(self, key: bytes, record: Record) -> Steps[bool]:
        until = _until(record)
        script = _script(CREATE, self._name(key), _value(record, until), _ttl(record.expires))
        [*_, created] = yield from self._exchange([*self._list(key, record.owner, until), script])
        return bool(created)

    def _replace(self, key: bytes, record: Record, expected: int | None) -> Steps[bool]:
        name, ttl = self._name(key), _ttl(record.expires)
        condition = b"" if expected is None else REVISION.pack(expected)
        script = _script(REPLACE, name, _value(record, 0), ttl, condition)
        [replaced] = yield from self._exchange([script])
        if replaced == TELL_INDEX:
            until = _until(record)
            script = _script(REPLACE, name, _value(record, until), ttl, condition)
            [_, replaced] = yield from self._exchange(
                [*self._list(key, record.owner, until), script]
            )
        return bool(replaced)

    def _touch(self, key: bytes, expires: float) -> Steps[bool]:
        owner = b""
        until = _later(expires)
        while True:
            arguments = TIME.pack(expires), _ttl(expires), owner, TIME.pack(until)
            script = _script(TOUCH, self._name(key), *arguments)
            [*_, reply] = yield from self._exchange([*self._list(key, owner, until), script])
            if not isinstance(reply, bytes):
                return bool(reply)
            owner = reply

    def _delete(self, key: bytes) -> Steps[bool]:
        [owner] = yield from self._exchange([_script(DELETE, self._name(key))])
        if owner:
            # The session has ended; what is left in the index goes when it expires.
            with contextlib.suppress(StoreUnavailable):
                yield from self._exchange([(b"ZREM", self._index(owner), key)])
        return owner is not None

    def delete_expired(self, *, batch_size: int = 1000) -> Iterator[int]:
        """The server has removed them; an outage is reported all the same."""
        self.setup()
        yield from ()

    def scan(self) -> Iterator[tuple[bytes, Record]]:
        """As every store, but where the server happens to resize its table of keys
        meanwhile, it may give a record twice."""
        for names in self._names():
            for at in range(0, len(names), PAGE):
                yield from self._read(names[at : at + PAGE])

    def scan_owner(self, owner: bytes) -> Iterator[tuple[bytes, Record]]:
        self.check_owner(owner)
        return self._scan_owner(owner)

    def _scan_owner(self, owner: bytes) -> Iterator[tuple[bytes, Record]]:
        since = b"(%r" % now()
        command = (b"ZRANGEBYSCORE", self._index(owner), since, b"+inf")
        [keys] = run(self._exchange([command]))
        names = [self._name(key) for key in keys]
        for at in range(0, len(names), PAGE):
            for key, record in self._read(names[at : at + PAGE]):
                if record.owner == owner:
                    yield key, record

    def setup(self) -> None:
        """Nothing to make; raises ``StoreUnavailable`` where the server does not answer."""
        run(self._exchange([(b"GET", self._name(bytes(KEY_SIZE)))]))

    def stats(self) -> StoreStats:
        """Reads the header of every record; ``size`` is that of keys and values alone."""
        live = size = 0
        for names in self._names():
            commands: list[Command] = [(b"GETRANGE", name, b"0", b"7") for name in names]
            commands += [(b"STRLEN", name) for name in names]
            replies = run(self._exchange(commands)) if names else []
            heads, lengths = replies[: len(names)], replies[len(names) :]
            live += sum(len(head) == TIME.size and TIME.unpack(head)[0] > now() for head in heads)
            size += sum(map(len, names)) + sum(lengths)
        return StoreStats(live, None, size)

    def close(self) -> None:
        for node in self._nodes:
            node.close()

    async def aclose(self) -> None:
        for node in self._nodes:
            await node.aclose()

    def check_server(self, *, alias: str) -> list[checks.CheckMessage]:
        """Warnings about a server that is set to throw sessions away."""
        found: dict[str, str] = {}
        for name in ("maxmemory-policy", "save", "appendonly"):
            try:
                [reply] = run(self._exchange([(b"CONFIG GET", name.encode())]))
            except StoreUnavailable as error:
                if isinstance(error.__cause__, self._response):
                    # Hosted servers keep it to themselves.
                    return []
                raise
            # A list, a dict with RESP3, or a dict that a cluster's client has decoded.
            [value] = reply.values() if isinstance(reply, dict) else reply[1:]
            found[name] = value if isinstance(value, str) else value.decode()
        where = f"SESSION_STORES[{alias!r}]: the server"
        messages: list[checks.CheckMessage] = []
        if found["maxmemory-policy"] != "noeviction":
            messages.append(
                checks.Warning(
                    f"{where} has maxmemory-policy {found['maxmemory-policy']}, which throws "
                    "live sessions away when its memory is full.",
                    hint="Set maxmemory-policy to noeviction on a server of the sessions' own.",
                    id="kvsessions.W140",
                )
            )
        if found["save"] == "" and found["appendonly"] == "no":
            messages.append(
                checks.Warning(
                    f"{where} keeps nothing on disk: its restart ends every session.",
                    hint="Set appendonly to yes.",
                    id="kvsessions.W141",
                )
            )
        return messages

    # Names

    def _name(self, key: bytes) -> bytes:
        return b"%br:%b" % (self._prefix, key.hex().encode())

    def _index(self, owner: bytes) -> bytes:
        return b"%bo:%b" % (self._prefix, owner.hex().encode())

    def _list(self, key: bytes, owner: bytes, until: float) -> list[Command]:
        """What lists a session in its owner's index. It comes before the write of the
        record, because the index may list what is not there, but not the other way round."""
        if not owner:
            return []
        return [_script(LIST, self._index(owner), _ttl(until), b"%r" % until, key)]

    def _names(self) -> Iterator[list[bytes]]:
        pattern = re.sub(rb"([*?\[\]\\])", rb"\\\1", self._prefix) + b"r:" + b"?" * (2 * KEY_SIZE)
        try:
            node = run(self._primary())
            yield from node.scan(pattern, NAMES, lambda command: run(self._exchange([command]))[0])
        except self._errors as error:
            raise self._failure(error) from error

    def _read(self, names: list[bytes]) -> Iterator[tuple[bytes, Record]]:
        if not names:
            return
        values = run(self._exchange([(b"GET", name) for name in names]))
        for name, value in zip(names, values, strict=True):
            record = self._record(value)
            if record is not None:
                yield bytes.fromhex(name[-2 * KEY_SIZE :].decode()), record

    def _record(self, value: bytes | None) -> Record | None:
        if value is None:
            return None
        try:
            expires, revision, _, _, length = HEADER.unpack_from(value)
        except struct.error:
            raise StoreCorrupted(
                f"A key of Redis at {self._nodes[0].name} begins with "
                f"{self._prefix.decode()!r} but holds no session: is the prefix shared?"
            ) from None
        if expires <= now():
            return None
        at = HEADER.size + length
        return Record(value[at:], expires, revision, value[HEADER.size : at])

    # The wire

    def _exchange(self, commands: Sequence[Command]) -> Steps[list[Any]]:
        """The replies to the commands, in one round trip.

        They may be carried out twice: where the connection is lost before the answer.
        """
        try:
            try:
                node = yield from self._primary()
                return (yield from self._talk(node, commands))
            except self._lost:
                # A stale connection, or a server that restarted or was demoted. A timeout
                # is not tried again: a request waits for one, not for two.
                node = yield from self._primary(anew=True)
                return (yield from self._talk(node, commands))
        except self._errors as error:
            raise self._failure(error) from error

    def _talk(self, node: Node, commands: Sequence[Command]) -> Steps[list[Any]]:
        replies: list[Any] = yield node, "talk", (commands,), {}
        unknown = [at for at, reply in enumerate(replies) if isinstance(reply, self._no_script)]
        if unknown:
            scripts = [(b"EVAL", SCRIPTS[commands[at][1]], *commands[at][2:]) for at in unknown]
            for at, reply in zip(unknown, (yield node, "talk", (scripts,), {}), strict=True):
                replies[at] = reply
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    def _primary(self, *, anew: bool = False) -> Steps[Node]:
        node = self._node
        if node is not None:
            if not anew:
                return node
            # Its other connections are likely to be as dead.
            yield node, "forget", (), {}
            if len(self._nodes) == 1:
                return node
        failure: BaseException | None = None
        for node in self._nodes:
            try:
                [role] = yield node, "talk", ([(b"ROLE",)],), {}
                if isinstance(role, Exception):
                    raise role
                if role[0] == b"master":
                    self._node = node
                    return node
            except self._errors as error:
                failure = failure or error
        raise StoreUnavailable(
            f"No server in LOCATION ({', '.join(node.name for node in self._nodes)}) is a "
            f"primary that answers: {failure or 'all are replicas'}"
        ) from failure

    def _failure(self, error: Exception) -> StoreError:
        if len(self._nodes) > 1:
            # Another may have been made the primary.
            self._node = None
        where = f"Redis at {', '.join(node.name for node in self._nodes)} ({self._where})"
        text = str(error)
        if text.startswith("WRONGTYPE"):
            return StoreCorrupted(
                f"{where} holds something else than a session under a key that begins with "
                f"{self._prefix.decode()!r}: is the prefix shared?"
            )
        if isinstance(error, self._denied):
            return StoreUnavailable(
                f"{where} refuses the username or password (in LOCATION or OPTIONS): {text}"
            )
        answered = isinstance(error, self._response)
        return StoreUnavailable(f"{where} {'fails' if answered else 'does not answer'}: {text}")


def _script(script: str, name: bytes, *arguments: bytes) -> Command:
    """The command that runs a script on one key, with the time as its first argument."""
    return (b"EVALSHA", DIGESTS[script], b"1", name, TIME.pack(now()), *arguments)


def _value(record: Record, until: float) -> bytes:
    data, expires, revision, owner = record
    return HEADER.pack(expires, revision, os.urandom(8), until, len(owner)) + owner + data


def _until(record: Record) -> float:
    return _later(record.expires) if record.owner else 0


def _later(expires: float) -> float:
    """Until when the index is to list a session: longer than it lives, so that most of
    the writes that prolong its life need not tell the index."""
    return expires + max(expires - now(), 0) / 10


def _ttl(expires: float) -> bytes:
    # Relative, so that the server's clock need not agree with ours.
    return b"%d" % min(max(ceil((expires - now()) * 1000), 1), MAX_TTL)
