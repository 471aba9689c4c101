"""The servers that LOCATION names, and which of them is asked: one, or a primary among several."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from django_kvsessions.colours import Colour
from django_kvsessions.stores.base import StoreUnavailable
from django_kvsessions.stores.redis import errors
from django_kvsessions.stores.redis.node import Node
from django_kvsessions.stores.redis.scripts import Command, Reply

__all__ = ["One", "Primary", "Sentinels", "Servers", "Several"]

ROLE: Command = (b"ROLE",)


class Servers(ABC):
    """What the settings name; ``name`` is for messages."""

    name: str

    @abstractmethod
    async def talk(self, call: Colour, commands: Sequence[Command], *, again: bool) -> list[Reply]:
        """The replies, in one round trip where all commands belong to one server.

        Sent a second time only where they were not carried out for certain or, with
        ``again``, where the connection was lost before the answer. After a timeout
        never: a request waits for one, not for two.
        """

    @abstractmethod
    async def primaries(self, call: Colour) -> Sequence[Node]:
        """The servers that hold all records together."""

    @abstractmethod
    def nodes(self) -> Sequence[Node]:
        """The servers that are known by now."""

    def close(self) -> None:
        for node in self.nodes():
            node.close()

    async def aclose(self) -> None:
        for node in self.nodes():
            await node.aclose()


class One(Servers):
    """The one server there is."""

    def __init__(self, node: Node) -> None:
        self.name = node.name
        self.node = node

    async def talk(self, call: Colour, commands: Sequence[Command], *, again: bool) -> list[Reply]:
        try:
            return await call(self.node.talk, self.node.atalk, commands)
        except errors.CONNECTION:
            if not again:
                raise
            return await call(self.node.talk, self.node.atalk, commands)

    async def primaries(self, call: Colour) -> Sequence[Node]:
        return [self.node]

    def nodes(self) -> Sequence[Node]:
        return [self.node]


class Primary(Servers):
    """The primary among several servers, which is asked for its role along with each request:
    a process that only reads would stay on a demoted one."""

    _node: Node | None = None
    _role: Reply = None

    @abstractmethod
    async def _find(self, call: Colour) -> tuple[Node, Reply]:
        """The primary, and what it says of its role. ``StoreUnavailable`` where there is none."""

    async def talk(self, call: Colour, commands: Sequence[Command], *, again: bool) -> list[Reply]:
        node = self._node or await self._choose(call)
        try:
            role, *replies = await call(node.talk, node.atalk, [ROLE, *commands])
        except errors.OUTAGES as error:
            self._node = None
            cause = errors.cause_of(error)
            sent = cause is error
            if isinstance(cause, errors.TIMEOUT) or (sent and not again):
                raise
        else:
            if isinstance(role, Exception):
                raise role
            refused = isinstance(replies[-1], errors.READ_ONLY)
            if not refused and self._is_as_before(role):
                return replies
            self._node = None
            if await self._choose(call) is node and not refused:
                return replies
            if not (refused or again):
                raise StoreUnavailable(
                    f"{node.name} was demoted while it was written to: whether the others "
                    "will have it is unknown."
                )
        node = self._node or await self._choose(call)
        role, *replies = await call(node.talk, node.atalk, [ROLE, *commands])
        if isinstance(role, Exception):
            raise role
        if not is_primary(role):
            self._node = None
            raise StoreUnavailable(f"{node.name} (LOCATION) is no primary any more.")
        return replies

    async def _choose(self, call: Colour) -> Node:
        node, self._role = await self._find(call)
        self._node = node
        return node

    def _is_as_before(self, role: Reply) -> bool:
        return is_primary(role)

    async def primaries(self, call: Colour) -> Sequence[Node]:
        return [self._node or await self._choose(call)]


class Several(Primary):
    """A list of URLs: a primary and its replicas, in any order."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.name = ", ".join(node.name for node in nodes)
        self._nodes = nodes

    async def _find(self, call: Colour) -> tuple[Node, Reply]:
        found: list[tuple[Node, Reply]] = []
        failure: Exception | None = None
        # All of them: a second primary would bring ended sessions back.
        for node in self._nodes:
            try:
                role = await ask_role(call, node)
            except errors.FAILURES as error:
                failure = failure or error
            else:
                if is_primary(role):
                    found.append((node, role))
        if len(found) == 1:
            return found[0]
        if found:
            raise StoreUnavailable(
                f"LOCATION names {' and '.join(node.name for node, _ in found)}, which both say "
                "that they are the primary: an ended session could come back. Make all but one "
                "replicas of it (REPLICAOF), or name the servers of one system, each once."
            )
        raise StoreUnavailable(
            f"No server in LOCATION ({self.name}) is a primary that answers: "
            f"{failure or 'all are replicas'}"
        ) from failure

    def _is_as_before(self, role: Reply) -> bool:
        # A replica that is gone may have been made a primary.
        return is_primary(role) and len(role[2]) == len(self._role[2])

    def nodes(self) -> Sequence[Node]:
        return self._nodes


class Sentinels(Primary):
    """The primary that Sentinels name."""

    def __init__(
        self, sentinels: Sequence[Node], service: str, make: Callable[[str, int], Node]
    ) -> None:
        """``make`` returns the node at a host and port."""
        self.name = f"{service!r} of the Sentinels {', '.join(node.name for node in sentinels)}"
        self._sentinels = list(sentinels)
        self._service = service
        self._make = make
        self._known: dict[tuple[str, int], Node] = {}

    async def _find(self, call: Colour) -> tuple[Node, Reply]:
        question = (b"SENTINEL", b"get-master-addr-by-name", self._service.encode())
        failure: Exception | None = None
        named = unknown = False
        for sentinel in list(self._sentinels):
            try:
                [place] = await call(sentinel.talk, sentinel.atalk, [question])
                if isinstance(place, Exception):
                    raise place
                if place is None:
                    unknown = True
                    continue
                named = True
                node = self._at(place[0].decode(), int(place[1]))
                role = await ask_role(call, node)
            except errors.FAILURES as error:
                failure = failure or error
                continue
            if is_primary(role):
                # The next question is not for one that is out of reach.
                others = [each for each in self._sentinels if each is not sentinel]
                self._sentinels = [sentinel, *others]
                return node, role
        if unknown and not named:
            raise StoreUnavailable(
                f"The Sentinels in LOCATION know no primary named {self._service!r}: "
                "LOCATION is redis+sentinel://host:port,host:port/name/database, with the name "
                "that `sentinel monitor` gives in their configuration."
            )
        raise StoreUnavailable(
            f"The Sentinels in LOCATION name no primary for {self._service!r} that answers: "
            f"{failure or 'it is a replica'}"
        ) from failure

    def _at(self, host: str, port: int) -> Node:
        node = self._known.get((host, port))
        if node is None:
            node = self._known.setdefault((host, port), self._make(host, port))
        return node

    def nodes(self) -> Sequence[Node]:
        return [*self._sentinels, *self._known.values()]


async def ask_role(call: Colour, node: Node) -> Reply:
    [role] = await call(node.talk, node.atalk, [ROLE])
    if isinstance(role, Exception):
        raise role
    return role


def is_primary(role: Reply) -> bool:
    return bool(role[0] == b"master")
