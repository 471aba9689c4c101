"""What LOCATION and OPTIONS of LibSQLStore name: a local file, or a server."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from django.core.exceptions import ImproperlyConfigured

from django_kvsessions.stores import options
from django_kvsessions.stores.libsql.database import Database
from django_kvsessions.stores.libsql.file import File
from django_kvsessions.stores.libsql.server import Server

__all__ = ["database"]

_DURABILITY = {"safe": "NORMAL", "full": "FULL"}


def database(
    location: str, auth_token: str | None, ca_certs: str | None, timeout: float, durability: str
) -> Database:
    """What LOCATION names, not opened yet; ``ImproperlyConfigured`` for what is wrong."""
    synchronous = _DURABILITY[options.choice("durability", durability, _DURABILITY)]
    if auth_token is not None and (not isinstance(auth_token, str) or not auth_token):
        # The value is a secret, or was meant to be one.
        raise ImproperlyConfigured("OPTIONS['auth_token'] must be a text or None.")
    if ca_certs is not None:
        options.text("ca_certs", ca_certs)
    if "://" in location:
        url = _server_url(location)
        try:
            return Server(url, auth_token, timeout, ca_certs)
        except OSError as error:
            raise ImproperlyConfigured(f"OPTIONS['ca_certs'], {ca_certs!r}: {error}") from error
    if auth_token is not None or ca_certs is not None:
        raise ImproperlyConfigured(
            "OPTIONS['auth_token'] and OPTIONS['ca_certs'] are for a server, but LOCATION is a "
            "path; write libsql:// before the name of a server."
        )
    return File(os.path.abspath(location), synchronous)


def _server_url(text: str) -> str:
    """The HTTP address of a server; its query, which may hold a token, is never shown."""
    parts = urlsplit(text)
    plain = (parts.scheme, parts.query) in (("http", ""), ("libsql", "tls=0"))
    if parts.scheme not in ("libsql", "http", "https") or not parts.hostname:
        raise ImproperlyConfigured(
            "LOCATION must begin with libsql://, https:// or http:// and the name of a server, "
            f"not {parts.scheme}://{parts.hostname or ''}."
        )
    if parts.username is not None or (parts.query and not plain):
        raise ImproperlyConfigured(
            "LOCATION has more than scheme, host, port and path; a token goes into "
            "OPTIONS['auth_token']."
        )
    return f"{'http' if plain else 'https'}://{parts.netloc}{parts.path}"
