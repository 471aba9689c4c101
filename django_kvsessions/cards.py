"""The card of a session: a few short texts that a list shows, readable without the data.

The browser's user agent and the visitor's address, as SESSION_RECORD_DEVICE and
SESSION_RECORD_IP say, and labels of the site's own. A card of nothing has no bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import Any, NamedTuple

import msgpack

from django_kvsessions import conf

__all__ = ["Card", "check_label", "pack", "renewed", "unpack", "visitor"]

#: Bytes of a user agent, of a label's name and of its text, and how many labels there may be.
USER_AGENT_SIZE = 255
LABEL_NAME_SIZE = 32
LABEL_SIZE = 255
MOST_LABELS = 8
#: Characters that are looked at of an address, which may have the name of a network card.
ADDRESS_SIZE = 100


class Card(NamedTuple):
    """What a card says; ``None`` for what is not known, or not to be recorded."""

    user_agent: str | None
    ip: str | None
    labels: dict[str, str]


def pack(card: Card) -> bytes:
    """``ValueError`` for too many labels."""
    if len(card.labels) > MOST_LABELS:
        raise ValueError(f"A session has {MOST_LABELS} labels at most, not {len(card.labels)}.")
    fields = [*card]
    while fields and not fields[-1]:
        fields.pop()
    return msgpack.packb(fields) if fields else b""


def unpack(data: bytes) -> Card:
    fields: list[Any] = msgpack.unpackb(data) if data else []
    user_agent, ip, labels, *_ = [*fields, None, None, None]
    return Card(user_agent, ip, labels or {})


def renewed(data: bytes, meta: Mapping[str, Any] | None, labels: Mapping[str, str | None]) -> bytes:
    """A card with what META of a request says, where it is given, and with other labels.

    ``None`` takes a label away. ``ValueError`` for too many of them.
    """
    if meta is None:
        if not labels:
            return data
        user_agent, ip, former = unpack(data)
    else:
        user_agent, ip, unlabelled = _visitor(meta)
        if data == unlabelled and not labels:
            return data
        former = unpack(data).labels
    named = {**former, **labels}
    return pack(
        Card(user_agent, ip, {name: text for name, text in named.items() if text is not None})
    )


def visitor(meta: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """User agent and address of a request's META, as the settings want them, bounded."""
    return _visitor(meta)[:2]


def _visitor(meta: Mapping[str, Any]) -> tuple[str | None, str | None, bytes]:
    """And the card of both."""
    agent, kept = meta.get("HTTP_USER_AGENT"), conf.record_ip()
    return _read(
        agent[: 4 * USER_AGENT_SIZE] if isinstance(agent, str) and conf.record_device() else None,
        str(meta.get("REMOTE_ADDR"))[:ADDRESS_SIZE] if kept else None,
        kept,
    )


@lru_cache(maxsize=1024)  # A browser sends the same with each request.
def _read(
    agent: str | None, address: str | None, kept: str | None
) -> tuple[str | None, str | None, bytes]:
    user_agent = None if agent is None else _user_agent(agent)
    ip = _address(address, kept) if address and kept else None
    return user_agent, ip, pack(Card(user_agent, ip, {}))


def _user_agent(text: str) -> str | None:
    """What can be printed of it: a client may send any bytes."""
    printable = "".join(filter(str.isprintable, text)).strip()
    return printable.encode()[:USER_AGENT_SIZE].decode(errors="ignore") or None


def _address(text: str, kept: str) -> str | None:
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        # A socket of the machine's own has none, and some proxies say "unknown".
        return None
    address = getattr(address, "ipv4_mapped", None) or address
    if kept == "network":
        return str(ip_network((address, 24 if address.version == 4 else 48), strict=False))
    return str(address)


def check_label(name: object, value: object) -> None:
    """``ValueError`` for what is no short text, or too long."""
    for what, text, limit in (("name", name, LABEL_NAME_SIZE), ("value", value, LABEL_SIZE)):
        if what == "value" and text is None:
            continue
        if not isinstance(text, str) or not 0 < len(text.encode()) <= limit:
            raise ValueError(
                f"The {what} of a session's label is a text of 1 to {limit} bytes, "
                f"not {text!r:.60}."
            )
