"""Sessions in Redis or Valkey, for many machines; the server's TTL does the clean-up."""

from __future__ import annotations

import contextlib
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from django.core import checks

from django_kvsessions.colours import Colour
from django_kvsessions.stores.base import (
    KEY_SIZE,
    Record,
    StoreCorrupted,
    StoreStats,
    StoreUnavailable,
    now,
)
from django_kvsessions.stores.options import boolean, refuse
from django_kvsessions.stores.paged import Page, PagedStore, unknown_outcome
from django_kvsessions.stores.redis import scripts as of
from django_kvsessions.stores.redis.health import check_server
from django_kvsessions.stores.redis.settings import Make, Options, name_prefix
from django_kvsessions.stores.redis.wire import AnswerLost, Wire

if TYPE_CHECKING:
    from django_kvsessions.stores.redis.node import Node

__all__ = ["RedisStore"]

# Names and records read at once while scanning: 32 of the largest records are 32 MiB.
NAMES = 1000
PAGE = 32


class Rest(NamedTuple):
    """What is still to be scanned: names found, then what follows on the first node, the others."""

    names: list[bytes]
    cursor: bytes
    nodes: list[Node]


class RedisStore(PagedStore[Rest]):
    """Keeps records in Redis or Valkey, under one TTL each.

    LOCATION is a URL: ``redis://user:password@host:6379/0``, ``rediss://`` with TLS,
    ``valkey://`` and ``valkeys://`` likewise, or ``unix:///path?db=0``. A list of URLs is a
    primary and its replicas: whichever says that it is the primary is used, for reads too,
    because a replica that lags behind would bring an ended session back. Sentinels name the
    primary themselves: ``redis+sentinel://user:password@host:26379,host:26379/name/0``
    (``rediss+sentinel://`` with TLS), where the credentials are the primary's.

    The clocks of the web servers decide what has expired, so keep them in step.
    """

    backed_up_by = "use the server's own means, such as BGSAVE and a copy of its dump.rdb"

    def __init__(
        self,
        location: str | Sequence[str] | None = None,
        *,
        prefix: str = "sessions",
        version: int | str = 1,
        cluster: bool = False,
        client: str | Make | None = None,
        async_client: str | Make | None = None,
        sentinel_kwargs: Options | None = None,
        max_record_size: int = 1024 * 1024,
        **options: object,
    ) -> None:
        """``prefix`` and ``version`` begin the name of each key, ``sessions:1:``; sites
        that share a server need different ones.

        ``cluster``: LOCATION names nodes of a Redis Cluster.

        ``client``: instead of LOCATION, an alias in CACHES whose connections are to be
        shared, or a callable (or the dotted path of one) that returns a client or pool of
        redis-py or valkey-py; of a cluster's client the nodes and the credentials are taken.
        ``async_client``: a callable that returns one of ``redis.asyncio`` or
        ``valkey.asyncio``, called once in each event loop; without it, async calls go
        through threads.

        ``sentinel_kwargs``: options of the connections to the Sentinels, such as ``password``.

        ``options``: everything else goes to redis-py's connections: ``username``,
        ``password``, ``credential_provider``, ``socket_timeout`` and
        ``socket_connect_timeout`` (3 seconds each), ``max_connections`` (100 a process and
        event loop), ``ssl_ca_certs`` ...
        """
        super().__init__(max_record_size=max_record_size)
        self._prefix = name_prefix(prefix, version)
        boolean("cluster", cluster)
        if sentinel_kwargs is not None and not isinstance(sentinel_kwargs, Mapping):
            refuse("sentinel_kwargs", "a dict of options", sentinel_kwargs)
        self._wire = Wire(location, cluster, client, async_client, sentinel_kwargs, options)

    # The contract

    async def _load(self, call: Colour, key: bytes) -> Record | None:
        [stored] = await self._wire.read(call, [(b"GET", self._name(key))])
        return self._record(stored)

    async def _create(self, call: Colour, key: bytes, record: Record) -> bool:
        token = of.new_token()
        until = of.listed_until(record.expires)
        stored = of.value(record, token, until)
        name, last = self._name(key), of.ttl(record.expires)
        put = (b"SET", name, stored, b"PX", last, b"NX")
        try:
            if await self._wire.write(call, *self._list(key, record.owner, until), put):
                return True
            # What is there may have expired by our clock, and not by the server's.
            create = of.script(of.CREATE, name, stored, last)
            return bool(await self._wire.write(call, create))
        except AnswerLost as lost:
            return await self._prove_written(call, key, token, lost)

    async def _replace(
        self, call: Colour, key: bytes, record: Record, expected: int | None
    ) -> bool:
        token = of.new_token()
        last = of.ttl(record.expires), of.condition(expected)
        name = self._name(key)
        try:
            replaced = await self._wire.write(
                call, of.script(of.REPLACE, name, of.value(record, token, 0), *last)
            )
            if replaced == of.TELL_INDEX:
                until = of.listed_until(record.expires)
                replace = of.script(of.REPLACE, name, of.value(record, token, until), *last)
                replaced = await self._wire.write(
                    call, *self._list(key, record.owner, until), replace
                )
        except AnswerLost as lost:
            return await self._prove_written(call, key, token, lost)
        return bool(replaced)

    async def _touch(self, call: Colour, key: bytes, expires: float, expected: int | None) -> bool:
        until = of.listed_until(expires)
        owner = b""
        while True:
            arguments = of.TIME.pack(expires), of.ttl(expires), of.condition(expected)
            touch = of.script(of.TOUCH, self._name(key), *arguments, owner, of.UNTIL.pack(until))
            try:
                reply = await self._wire.write(call, *self._list(key, owner, until), touch)
            except AnswerLost as lost:
                there = await self._head(call, key)
                if there is None or there.expires != expires:
                    raise unknown_outcome() from lost.__cause__
                return True
            if not isinstance(reply, bytes):
                return bool(reply)
            owner = reply

    async def _delete(self, call: Colour, key: bytes) -> bool:
        delete = of.script(of.DELETE, self._name(key), self._prefix + b"o", key)
        try:
            reply = await self._wire.write(call, delete)
        except AnswerLost as lost:
            # That nothing is there now does not say who has deleted it.
            raise unknown_outcome() from lost.__cause__
        if isinstance(reply, bytes):
            # The session has ended; what is left in the index goes when it expires.
            with contextlib.suppress(StoreUnavailable):
                await self._wire.read(call, [(b"ZREM", self._index(reply), of.listed(reply, key))])
        return bool(reply)

    async def _head(self, call: Colour, key: bytes) -> of.Head | None:
        [stored] = await self._wire.read(call, [(b"GET", self._name(key))])
        return None if stored is None else self._head_of(stored)

    async def _prove_written(
        self, call: Colour, key: bytes, token: bytes, lost: AnswerLost
    ) -> bool:
        there = await self._head(call, key)
        if there is not None and there.token == token:
            return True
        # It may have been done, and something else since then; or it is still to come.
        raise unknown_outcome() from lost.__cause__

    # All records

    async def _delete_batch(self, call: Colour, moment: float, batch_size: int) -> int | None:
        """The server has removed them; an outage is reported all the same."""
        await self._setup(call)
        return None

    async def _setup(self, call: Colour) -> None:
        """Nothing to make; ``StoreUnavailable`` where the server does not answer."""
        await self._wire.read(call, [(b"GET", self._name(bytes(KEY_SIZE)))])

    async def _page(self, call: Colour, owner: bytes | None, start: Rest | None) -> Page[Rest]:
        if owner is not None:
            return await self._page_of_owner(call, owner, start)
        if start is None:
            start = Rest([], b"0", list(await self._wire.primaries(call)))
        names, start = await self._names(call, start)
        names, rest = names[:PAGE], names[PAGE:]
        records = await self._records(call, names)
        start = start._replace(names=rest)
        return records, start if rest or start.nodes else None

    async def _page_of_owner(self, call: Colour, owner: bytes, start: Rest | None) -> Page[Rest]:
        if start is None:
            command = (b"ZRANGEBYSCORE", self._index(owner), b"(%r" % now(), b"+inf")
            [members] = await self._wire.read(call, [command])
            mark = of.listed(owner, b"")
            names = [self._name(each[len(mark) :]) for each in members if each.startswith(mark)]
            start = Rest(names, b"0", [])
        names, rest = start.names[:PAGE], start.names[PAGE:]
        found = await self._records(call, names)
        owned = [(key, record) for key, record in found if record.owner == owner]
        return owned, start._replace(names=rest) if rest else None

    async def _names(self, call: Colour, start: Rest) -> tuple[list[bytes], Rest]:
        """Some names of records, and where the next ones are."""
        names, cursor, nodes = start
        if names or not nodes:
            return names, start
        pattern = re.sub(rb"([*?\[\]\\])", rb"\\\1", self._prefix) + b"r" + b"?" * KEY_SIZE
        command = (b"SCAN", cursor, b"MATCH", pattern, b"COUNT", b"%d" % NAMES)
        cursor, names = await self._wire.ask(call, nodes[0], command)
        return names, Rest([], cursor, nodes if cursor != b"0" else nodes[1:])

    async def _records(self, call: Colour, names: list[bytes]) -> list[tuple[bytes, Record]]:
        if not names:
            return []
        stored = await self._wire.read(call, [(b"GET", name) for name in names])
        found = (
            (name[-KEY_SIZE:], self._record(each)) for name, each in zip(names, stored, strict=True)
        )
        return [(key, record) for key, record in found if record is not None]

    async def _stats(self, call: Colour) -> StoreStats:
        """Reads the head of every record; ``size`` is that of keys and values alone."""
        live = size = 0
        start = Rest([], b"0", list(await self._wire.primaries(call)))
        while start.nodes:
            names, start = await self._names(call, start)
            if not names:
                continue
            commands: list[of.Command] = [(b"GETRANGE", name, b"0", b"7") for name in names]
            commands += [(b"STRLEN", name) for name in names]
            replies = await self._wire.read(call, commands)
            heads, lengths = replies[: len(names)], replies[len(names) :]
            times = [of.TIME.unpack(head)[0] for head in heads if len(head) == of.TIME.size]
            live += sum(expires > now() for expires in times)
            size += sum(map(len, names)) + sum(lengths)
        return StoreStats(live, None, size)

    def close(self) -> None:
        self._wire.servers.close()

    async def aclose(self) -> None:
        await self._wire.servers.aclose()

    def check_server(self, *, alias: str) -> Iterable[checks.CheckMessage]:
        """Warnings about a server that is set to throw sessions away."""
        return check_server(self._wire, alias)

    # How it is kept

    def _name(self, key: bytes) -> bytes:
        return b"%br%b" % (self._prefix, key)

    def _index(self, owner: bytes) -> bytes:
        return b"%bo%b" % (self._prefix, of.bucket(owner))

    def _list(self, key: bytes, owner: bytes, until: int) -> list[of.Command]:
        """What lists a session in its owner's index. It comes before the write of the
        record, because the index may list what is not there, but not the other way round."""
        if not owner:
            return []
        return [
            of.script(
                of.LIST, self._index(owner), of.ttl(until), b"%d" % until, of.listed(owner, key)
            )
        ]

    def _record(self, stored: bytes | None) -> Record | None:
        if stored is None:
            return None
        head = self._head_of(stored)
        if head.expires <= now():
            return None
        return Record(stored[head.size :], head.expires, head.revision, head.owner)

    def _head_of(self, stored: bytes) -> of.Head:
        try:
            return of.Head.of(stored)
        except struct.error:
            raise StoreCorrupted(
                f"A key of Redis at {self._wire.servers.name} begins with "
                f"{self._prefix.decode()!r} but holds no session: is the prefix shared?"
            ) from None
