"""What DynamoDBStore's LOCATION and OPTIONS may be."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

import boto3.session
from botocore.config import Config
from django.core.exceptions import ImproperlyConfigured

from django_kvsessions.stores.options import boolean, refuse, text

__all__ = ["CONNECTIONS", "client_options", "table_name", "tags"]

# Connections that the threads of a process keep, at most.
CONNECTIONS = 100
SECRETS = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")


def table_name(location: object) -> str:
    if not isinstance(location, str) or not re.fullmatch(r"[\w.-]{3,255}", location, re.ASCII):
        raise ImproperlyConfigured(
            "LOCATION must be the name of a table: 3 to 255 letters, digits, '_', '-' or "
            f"'.', not {location!r}."
        )
    return location


def tags(value: object) -> Mapping[str, str]:
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(
        isinstance(each, str) for pair in value.items() for each in pair
    ):
        refuse("tags", "a dict of texts", value)
    return value


def client_options(options: Mapping[str, object], attempt: float) -> dict[str, Any]:
    """What boto3's client is made with; ``attempt``: the seconds that one attempt may take."""
    known = set(inspect.signature(boto3.session.Session.client).parameters)
    unknown = sorted(set(options) - (known - {"self", "service_name"}))
    if unknown:
        raise ImproperlyConfigured(
            f"OPTIONS has what boto3's client does not take: {', '.join(unknown)}."
        )
    given = {name: value for name, value in options.items() if value is not None}
    for name, value in given.items():
        check(name, value)
    given["region_name"] = given.get("region_name") or boto3.session.Session().region_name
    if not given["region_name"]:
        raise ImproperlyConfigured("OPTIONS['region_name'] is missing, such as eu-west-1.")
    config = Config(
        connect_timeout=attempt, read_timeout=attempt, max_pool_connections=CONNECTIONS
    ).merge(given.get("config") or Config())
    # botocore would send a write again without asking whether it was done the first time.
    once = Config(retries={"mode": "standard", "total_max_attempts": 1})
    return {**given, "config": config.merge(once)}


def check(name: str, value: object) -> None:
    if name in SECRETS:
        if not isinstance(value, str) or not value:
            # Never the value.
            refuse(name, "a text", type(value))
    elif name == "config":
        if not isinstance(value, Config) or getattr(value, "retries", None):
            refuse(name, "a botocore.config.Config without retries, which 'attempts' has", value)
    elif name == "use_ssl" or (name == "verify" and not isinstance(value, str)):
        boolean(name, value)
    elif name == "endpoint_url":
        if not re.match(r"https?://[^/]", text(name, value)):
            refuse(name, "a URL, such as https://dynamodb.eu-west-1.amazonaws.com", value)
    else:
        text(name, value)
