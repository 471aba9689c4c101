"""What ``check --deploy`` asks of the server of a RedisStore."""

from __future__ import annotations

from django.core import checks

from django_kvsessions.colours import blocking, run
from django_kvsessions.stores.base import StoreUnavailable
from django_kvsessions.stores.redis.wire import Wire

__all__ = ["check_server"]


def check_server(wire: Wire, alias: str) -> list[checks.CheckMessage]:
    """Warnings about a server that is set to throw sessions away."""
    found: dict[str, str] = {}
    node = run(wire.primaries(blocking))[0]
    for name in ("maxmemory-policy", "save", "appendonly"):
        try:
            reply = run(wire.ask(blocking, node, (b"CONFIG", b"GET", name.encode())))
        except StoreUnavailable as error:
            if wire.is_answer(error.__cause__):
                # Hosted servers keep it to themselves.
                return []
            raise
        # A list, or a dict with RESP3.
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
