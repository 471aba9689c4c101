"""What RedisStore asks of its servers, and what it says of those that fail."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from django_kvsessions.colours import Colour
from django_kvsessions.stores.base import StoreCorrupted, StoreError, StoreUnavailable
from django_kvsessions.stores.options import driver
from django_kvsessions.stores.redis.scripts import SCRIPTS, Command, Reply
from django_kvsessions.stores.redis.settings import Make, Options

if TYPE_CHECKING:
    from django_kvsessions.stores.redis.node import Node

__all__ = ["AnswerLost", "Wire"]


class AnswerLost(Exception):
    """The connection was lost after a write had been sent, and before its answer."""


class Wire:
    """The servers of one store, in both colours. Whatever they fail with is a ``StoreError``."""

    def __init__(
        self,
        location: str | Sequence[str] | None,
        cluster: bool,
        client: str | Make | None,
        async_client: str | Make | None,
        sentinel_kwargs: Options | None,
        options: Options,
    ) -> None:
        with driver("redis", "RedisStore needs redis-py"):
            import redis  # noqa: F401 (whether it is there)
        from django_kvsessions.stores.redis import client as clients

        self._errors = clients.errors
        self._known: set[bytes] = set()
        self.servers, self._where = clients.servers(
            location, cluster, client, async_client, sentinel_kwargs, options
        )

    async def read(self, call: Colour, commands: Sequence[Command]) -> list[Reply]:
        """The replies to commands that may be carried out twice."""
        try:
            return await self._talk(call, commands, again=True)
        except self._errors.FAILURES as error:
            raise self._failure(error) from error

    async def write(self, call: Colour, *commands: Command) -> Reply:
        """The reply to the last command; ``AnswerLost`` where none says what became of it."""
        try:
            return (await self._talk(call, commands, again=False))[-1]
        except self._errors.FAILURES as error:
            if isinstance(error, self._errors.CONNECTION):
                raise AnswerLost from error
            raise self._failure(error) from error

    async def primaries(self, call: Colour) -> Sequence[Node]:
        try:
            return await self.servers.primaries(call)
        except self._errors.FAILURES as error:
            raise self._failure(error) from error

    async def ask(self, call: Colour, node: Node, command: Command) -> Reply:
        """The reply of one of the servers."""
        try:
            [reply] = await call(node.talk, node.atalk, [command])
            if isinstance(reply, Exception):
                raise reply
            return reply
        except self._errors.FAILURES as error:
            raise self._failure(error) from error

    def is_answer(self, error: object) -> bool:
        """Whether it is a server's own, not an outage."""
        return isinstance(error, self._errors.REPLY)

    async def _talk(self, call: Colour, commands: Sequence[Command], *, again: bool) -> list[Reply]:
        # A script goes whole the first time, and by its digest from then on: that the server
        # does not know it is an answer that may be lost like any other.
        new = [
            command[1]
            for command in commands
            if command[0] == b"EVALSHA" and command[1] not in self._known
        ]
        if new:
            commands = [whole(each) if each[1] in new else each for each in commands]
        replies = await self.servers.talk(call, commands, again=again)
        self._known.update(new)
        no_script = self._errors.NO_SCRIPT
        unknown = [at for at, reply in enumerate(replies) if isinstance(reply, no_script)]
        if unknown:
            rest = [whole(commands[at]) for at in unknown]
            try:
                second = await self.servers.talk(call, rest, again=again)
            except self._errors.CONNECTION as error:
                # The first part has been done, so that what is there proves nothing of the rest.
                raise self._failure(error) from error
            for at, reply in zip(unknown, second, strict=True):
                replies[at] = reply
        for reply in replies:
            if isinstance(reply, Exception):
                raise self._failure(reply) from reply
        return replies

    def _failure(self, error: Exception) -> StoreError:
        of = self._errors
        error = of.cause_of(error)
        where = f"Redis at {self.servers.name} ({self._where})"
        text = str(error)
        if text.startswith("WRONGTYPE"):
            return StoreCorrupted(
                f"{where} holds something else than a session under a key that begins with "
                "OPTIONS['prefix']: is the prefix shared?"
            )
        if isinstance(error, of.DENIED):
            return StoreUnavailable(
                f"{where} denies the user a command or a key; the documentation has the ACL that "
                f"the store needs: {text}"
            )
        if isinstance(error, of.PASSWORD):
            return StoreUnavailable(
                f"{where} refuses the username or password (in LOCATION or OPTIONS): {text}"
            )
        if isinstance(error, of.MOVED):
            return StoreUnavailable(
                f"{where} is a node of a cluster: set OPTIONS['cluster'] to True."
            )
        if isinstance(error, of.CLUSTER_DOWN):
            return StoreUnavailable(
                f"{where} is a cluster that does not serve all its slots: see CLUSTER INFO, and "
                f"assign those that are missing (redis-cli --cluster fix): {text}"
            )
        answered = isinstance(error, of.REPLY)
        return StoreUnavailable(f"{where} {'fails' if answered else 'does not answer'}: {text}")


def whole(command: Command) -> Command:
    """The command with the script itself in the place of its digest."""
    _, digest, *arguments = command
    return (b"EVAL", SCRIPTS[digest], *arguments)
