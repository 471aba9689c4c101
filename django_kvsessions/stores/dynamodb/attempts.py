"""How often, and how long, DynamoDB is asked for one thing."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from botocore import exceptions

__all__ = ["Attempts", "is_lost", "one_time_limit", "refuse_cut_answers"]

THROTTLED = re.compile("Throttl|ThroughputExceeded|RequestLimitExceeded")
# The connection could not be made, so nothing was asked.
UNREACHED = (
    exceptions.EndpointConnectionError,
    exceptions.ConnectTimeoutError,
    exceptions.ProxyConnectionError,
)
SLOW = (exceptions.ConnectTimeoutError, exceptions.ReadTimeoutError)

begun: ContextVar[float] = ContextVar("begun")


@contextmanager
def one_time_limit() -> Iterator[None]:
    """One for all that is asked in here, from now on, the waiting for a thread included."""
    token = begun.set(begun.get(time.monotonic()))
    try:
        yield
    finally:
        begun.reset(token)


class Attempts:
    """Up to ``number`` attempts, which end about ``timeout`` seconds after the beginning."""

    def __init__(self, number: int, timeout: float) -> None:
        self.left = number
        self.made = 0
        self.deadline = begun.get(time.monotonic()) + timeout
        # Where half an attempt's time is left, one more is worth it.
        self.least = timeout / number / 2
        if time.monotonic() > self.deadline:
            raise TimeoutError("there was no time left to ask (OPTIONS['timeout']).")

    def next(self, error: Exception) -> None:
        """Wait for a moment, or raise ``error`` where another attempt is of no use or too late."""
        self.made += 1
        pause = 0 if isinstance(error, SLOW) else random.uniform(0, 0.05 * 2 ** (self.made - 1))
        if (
            not (is_lost(error) or is_refused(error))
            or self.made >= self.left
            or time.monotonic() + pause + self.least > self.deadline
        ):
            raise error
        time.sleep(pause)


def is_refused(error: Exception) -> bool:
    """Nothing was done, and the next attempt may well succeed."""
    return isinstance(error, UNREACHED) or (
        isinstance(error, exceptions.ClientError)
        and bool(THROTTLED.search(error.response.get("Error", {}).get("Code", "")))
    )


def is_lost(error: Exception) -> bool:
    """It may have been done: the answer did not come, or the service does not know itself."""
    if isinstance(error, exceptions.ClientError):
        metadata = error.response.get("ResponseMetadata", {})
        return int(metadata.get("HTTPStatusCode", 500)) >= 500
    return isinstance(error, exceptions.HTTPClientError) and not isinstance(error, UNREACHED)


def refuse_cut_answers(client: Any) -> None:
    """Let the client raise where the connection was lost within an answer.

    To botocore that is an empty answer and a success.
    """
    client.meta.events.register("after-call.dynamodb", check_whole)


def check_whole(http_response: Any, **context: object) -> None:
    if not is_whole(http_response.content, http_response.headers.get("Content-Length")):
        raise exceptions.ResponseStreamingError(error="it is not a whole answer of DynamoDB's.")


def is_whole(content: bytes, length: str | None) -> bool:
    """Every answer is a JSON object, so it is never empty; a part of one is none."""
    if length is not None:
        return content != b"" and str(len(content)) == length
    try:
        return isinstance(json.loads(content), dict)
    except ValueError:
        return False
