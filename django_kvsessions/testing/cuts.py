"""What the proxy lets pass, and where it cuts. Needs no pytest."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable

__all__ = ["Cut", "RandomCut"]


class Cut:
    """One arming of the proxy, and what has passed through it since.

    Only connections count on which a client has sent something since: servers
    also send by themselves.
    """

    def __init__(
        self,
        *,
        request: int | None = None,
        answer: int | None = None,
        reset: bool = True,
        times: int = 1,
        then: Callable[[], object] | None = None,
    ) -> None:
        #: How many bytes may pass before the cut; ``None`` for all of them.
        self.request = request
        self.answer = answer
        #: The client meets a reset, or else the end of the stream.
        self.reset = reset
        self.times = times
        #: Called when the server's side is gone, and before anything else passes.
        self.then = then
        #: Bytes of requests and of answers until now, or since the last cut.
        self.requested = 0
        self.answered = 0
        #: How often something was cut.
        self.happened = 0
        #: What ``then`` raised.
        self.error: BaseException | None = None
        self._asking: set[Hashable] = set()

    def requests(self, connection: Hashable, size: int) -> int | None:
        """How much of a request's bytes may pass before the cut; ``None``: all, and no cut."""
        self._asking.add(connection)
        before, self.requested = self.requested, self.requested + size
        return self._part(before, size, self.request)

    def answers(self, connection: Hashable, size: int) -> int | None:
        """Likewise of an answer."""
        if connection not in self._asking:
            return None
        before, self.answered = self.answered, self.answered + size
        return self._part(before, size, self.answer)

    def _part(self, before: int, size: int, limit: int | None) -> int | None:
        # Not before the byte has come after the last that passes: something was to be cut.
        if limit is None or before + size <= limit or self.happened >= self.times:
            return None
        return limit - before

    def carry_out(self, connection: Hashable) -> None:
        self.happened += 1
        self.requested = self.answered = 0
        self._asking.discard(connection)
        if self.then is not None:
            try:
                self.then()
            except BaseException as error:
                self.error = error


class RandomCut(Cut):
    """Cuts a share of what comes from the server, each time at any of its bytes."""

    def __init__(self, rate: float, chance: random.Random) -> None:
        super().__init__()
        self.rate = rate
        self.chance = chance

    def answers(self, connection: Hashable, size: int) -> int | None:
        super().answers(connection, size)
        if self.chance.random() >= self.rate:
            return None
        self.reset = self.chance.random() < 0.5
        return self.chance.randrange(size)
