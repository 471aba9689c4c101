"""A Redis Cluster: which of its nodes holds a key.

A node that fails is nothing to the others: the sessions that those hold go on being
answered, over connections of their own, while somebody asks where the rest is.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from django.core.exceptions import ImproperlyConfigured
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from django_kvsessions.colours import Colour
from django_kvsessions.stores.base import StoreUnavailable
from django_kvsessions.stores.redis import errors
from django_kvsessions.stores.redis.node import Node
from django_kvsessions.stores.redis.scripts import Command, Reply
from django_kvsessions.stores.redis.servers import Servers

__all__ = ["Cluster"]

SLOTS: Command = (b"CLUSTER", b"SLOTS")
ASKING: Command = (b"ASKING",)
# While slots move, a node may send on to another, and that one to a third.
ATTEMPTS = 5

Place = tuple[str, int]


class Table(NamedTuple):
    """Who serves each slot, as one node tells it."""

    slots: list[Node | None]
    members: set[Node]
    ids: set[bytes]


class Cluster(Servers):
    """The cluster that the nodes at some places belong to."""

    def __init__(self, places: Sequence[Place], make: Callable[[str, int], Node]) -> None:
        """``make`` returns the node at a host and port."""
        self._make = make
        self._known: dict[Place, Node] = {}
        self._places: dict[Node, Place] = {}
        self._seeds = [self._at(*place) for place in places]
        self.name = ", ".join(node.name for node in self._seeds)
        self._table = Table([], set(), set())
        # Nodes that failed. Whether their slots are elsewhere by now is asked before the next
        # request for them, and not of those who were silent last, if that can be helped.
        self._doubted: set[Node] = set()
        self._silent: set[Node] = set()

    async def talk(self, call: Colour, commands: Sequence[Command], *, again: bool) -> list[Reply]:
        replies: list[Reply] = [None] * len(commands)
        left = list(range(len(commands)))
        slots = [slot_of(command) for command in commands]
        failed = False
        for _ in range(ATTEMPTS):
            node = await self._serving(call, slots[left[0]])
            # What belongs to one node goes together; the order in which nodes are met stays.
            chosen = [at for at in left if self._table.slots[slots[at]] is node]
            try:
                answers = await call(node.talk, node.atalk, [commands[at] for at in chosen])
            except errors.OUTAGES as error:
                self._doubted.add(node)
                self._silent.add(node)
                cause = errors.cause_of(error)
                if failed or isinstance(cause, errors.TIMEOUT) or (cause is error and not again):
                    raise
                failed = True
                continue
            self._silent.discard(node)
            for at, answer in zip(chosen, answers, strict=True):
                redirected = self._redirected(answer, node)
                if redirected is None:
                    replies[at] = answer
                    left.remove(at)
                    continue
                other, asking = redirected
                if asking:
                    [_, replies[at]] = await call(other.talk, other.atalk, [ASKING, commands[at]])
                    left.remove(at)
                else:
                    self._table.slots[slots[at]] = other
            if not left:
                return replies
        raise StoreUnavailable(f"The nodes of the cluster ({self.name}) send on to one another.")

    async def _serving(self, call: Colour, slot: int) -> Node:
        node = self._table.slots[slot] if self._table.slots else None
        if node is None or node in self._doubted:
            await self._ask_around(call)
            node = self._table.slots[slot]
        if node is None:
            raise StoreUnavailable(
                f"No node of the cluster in LOCATION ({self.name}) serves slot {slot}: assign "
                "the slots that are missing (redis-cli --cluster fix)."
            )
        return node

    async def _ask_around(self, call: Colour) -> None:
        """Learn who serves what from the first node that answers."""
        first = not self._table.slots
        members = [node for node in self._table.members if node not in self._seeds]
        random.shuffle(members)
        candidates = sorted([*members, *self._seeds], key=lambda node: node in self._silent)
        failure: Exception | None = None
        best: Table | None = None
        for node in candidates:
            try:
                [reply] = await call(node.talk, node.atalk, [SLOTS])
                if isinstance(reply, Exception):
                    raise reply
            except errors.FAILURES as error:
                if "cluster support disabled" in str(error):
                    raise ImproperlyConfigured(
                        f"OPTIONS['cluster'] is True, but {node.name} in LOCATION is a server of "
                        "its own: leave the option out."
                    ) from error
                failure = failure or error
                self._silent.add(node)
                cause = errors.cause_of(error)
                if isinstance(cause, errors.TIMEOUT):
                    # A request waits for one of them, not for each.
                    break
                continue
            self._silent.discard(node)
            table = self._read(reply, node)
            if first and best is not None and table.ids and not table.ids & best.ids:
                raise StoreUnavailable(
                    f"LOCATION names nodes of two clusters: {node.name} knows none of the nodes "
                    f"that {candidates[0].name} knows. Name those of one."
                )
            if best is None or table.slots.count(None) < best.slots.count(None):
                best = table
            if not first and None not in best.slots:
                break
        if best is None:
            raise StoreUnavailable(
                f"No node of the cluster in LOCATION ({self.name}) answers: {failure}"
            ) from failure
        self._table = best
        self._doubted.clear()

    def _read(self, reply: Reply, node: Node) -> Table:
        slots: list[Node | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        members: set[Node] = set()
        ids: set[bytes] = set()
        for start, end, *servers in reply:
            for number, (host, port, name, *_) in enumerate(servers):
                member = self._near(node, (host or b"").decode(), int(port))
                members.add(member)
                ids.add(name)
                if number == 0:
                    slots[start : end + 1] = [member] * (end + 1 - start)
        return Table(slots, members, ids)

    def _redirected(self, reply: Reply, node: Node) -> tuple[Node, bool] | None:
        """To whom a node sends on, and whether for this once; ``None`` if it does not."""
        if not isinstance(reply, errors.REDIRECTED):
            return None
        found = re.search(r"\d+ (\S*):(\d+)$", str(reply))
        if found is None:
            return None
        other = self._near(node, found[1], int(found[2]))
        return other, not isinstance(reply, errors.MOVED)

    def _near(self, node: Node, host: str, port: int) -> Node:
        """The node that another one names; without a host, where that one is reached."""
        return self._at(host if host not in ("", "?") else self._places[node][0], port)

    def _at(self, host: str, port: int) -> Node:
        node = self._known.get((host, port))
        if node is None:
            node = self._known.setdefault((host, port), self._make(host, port))
            self._places[node] = (host, port)
        return node

    async def primaries(self, call: Colour) -> Sequence[Node]:
        if not self._table.slots or self._doubted:
            await self._ask_around(call)
        return list(dict.fromkeys(self._serving_all()))

    def _serving_all(self) -> Iterator[Node]:
        return (node for node in self._table.slots if node is not None)

    def nodes(self) -> Sequence[Node]:
        return list(self._known.values())


def slot_of(command: Command) -> int:
    """The slot of the one key that each command of the store has."""
    if command[0] in (b"EVALSHA", b"EVAL"):
        return key_slot(command[3])
    return key_slot(command[1])
