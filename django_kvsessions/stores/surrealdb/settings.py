"""What LOCATION and OPTIONS of SurrealDBStore name: a server, a file, or memory."""

from __future__ import annotations

import os
import re
from typing import NamedTuple
from urllib.parse import urlsplit

from django.core.exceptions import ImproperlyConfigured

from django_kvsessions.stores import options

__all__ = ["Target", "identifier", "target"]

_SERVERS = ("ws", "wss", "http", "https")
_FILES = ("surrealkv", "file")


class Target(NamedTuple):
    url: str
    #: The engine runs in this process.
    is_embedded: bool
    #: The file that only one process at a time may hold.
    lock: str | None
    #: Of the file; ``None`` for a server or memory.
    path: str | None
    namespace: str
    database: str
    credentials: dict[str, str] | None


def identifier(name: str, value: object) -> str:
    """An option that is put into statements, or into what is signed in to."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z_]\w*", value, re.ASCII):
        options.refuse(name, "letters, digits and underscores", value)
    return value


def target(
    location: object,
    *,
    namespace: str,
    database: str,
    level: str,
    username: str | None,
    password: str | None,
) -> Target:
    """``ImproperlyConfigured`` for what is wrong; it tells no secret."""
    url = location if isinstance(location, str) else ""
    parts = urlsplit(url)
    is_file, is_server = parts.scheme in _FILES, parts.scheme in _SERVERS
    path = parts.netloc + parts.path
    lacks = (is_file and not path) or (is_server and not parts.hostname)
    if lacks or not (is_file or is_server or url == "mem://"):
        raise ImproperlyConfigured(
            "LOCATION must be wss://, https://, ws:// or http:// and a server, "
            "surrealkv:// or file:// and a path, or mem://."
        )
    if parts.username is not None or parts.query:
        raise ImproperlyConfigured(
            "LOCATION has more than a scheme, a server and a path; credentials go into "
            "OPTIONS['username'] and OPTIONS['password']."
        )
    identifier("namespace", namespace)
    identifier("database", database)
    credentials = _credentials(username, password, level, namespace, database)
    lock = file = None
    if is_file:
        path = os.path.abspath(path)
        url, lock, file = f"{parts.scheme}://{path}", f"{path}.lock", path
    return Target(url, not is_server, lock, file, namespace, database, credentials)


def _credentials(
    username: str | None, password: str | None, level: str, namespace: str, database: str
) -> dict[str, str] | None:
    levels: dict[str, dict[str, str]] = {
        "root": {},
        "namespace": {"namespace": namespace},
        "database": {"namespace": namespace, "database": database},
    }
    within = levels[options.choice("level", level, levels)]
    if username is None and password is None:
        return None
    if username is None or password is None:
        raise ImproperlyConfigured("OPTIONS['username'] and OPTIONS['password'] need each other.")
    options.text("username", username)
    if not isinstance(password, str):
        raise ImproperlyConfigured("OPTIONS['password'] must be a text.")
    return {"username": username, "password": password, **within}
