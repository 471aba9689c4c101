"""What LibSQLStore asks of a database, be it a file or a server, and how that fails."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

__all__ = ["Database", "Failed", "Lost", "Result", "Row", "Value"]

#: The driver's files turn integers from 2**31 on into floats and cut texts at NUL.
Value = bytes | int | None
#: Values of columns: what they are is for the driver.
Row = tuple[Any, ...]


class Result(NamedTuple):
    rows: list[Row]
    #: How many rows were changed.
    changed: int


class Failed(Exception):
    """There is no result; the message says why."""


class Lost(Failed):
    """The connection ended before the answer, as a restarted server's do."""

    def __init__(self, message: str, *, was_sent: bool) -> None:
        super().__init__(message)
        #: The statement may have been carried out.
        self.was_sent = was_sent


class Database(Protocol):
    """Runs one statement at a time, each of them atomic."""

    #: For messages; it tells no secret.
    name: str
    #: Of the file; ``None`` for a server.
    path: str | None

    def execute(self, sql: str, values: Sequence[Value]) -> Result: ...

    async def aexecute(self, sql: str, values: Sequence[Value]) -> Result: ...

    def close(self) -> None: ...

    async def aclose(self) -> None: ...
