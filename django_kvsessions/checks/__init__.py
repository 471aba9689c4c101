"""System checks of the SESSION_* settings, with stable ids.

They look at settings and paths, and open no store; those that ask a server
run with ``manage.py check --deploy`` alone.
"""

from __future__ import annotations

from django.core.checks import Tags, register

from django_kvsessions.checks.cookies import check_cookies, check_deployed_cookies
from django_kvsessions.checks.encryption import check_deployed_encryption, check_encryption
from django_kvsessions.checks.moving import check_deployed_moving, check_moving
from django_kvsessions.checks.settings import check_settings, in_use, uses_engine
from django_kvsessions.checks.stores import (
    check_deployed_stores,
    check_server,
    check_store,
    check_stores,
)

__all__ = [
    "TAG",
    "check_cookies",
    "check_deployed_cookies",
    "check_deployed_encryption",
    "check_deployed_moving",
    "check_deployed_stores",
    "check_encryption",
    "check_moving",
    "check_server",
    "check_settings",
    "check_store",
    "check_stores",
    "in_use",
    "uses_engine",
]

TAG = "sessions"

register(check_settings, TAG)
register(check_stores, TAG, Tags.security)
register(check_moving, TAG)
register(check_deployed_moving, TAG, deploy=True)
register(check_deployed_stores, TAG, Tags.security, deploy=True)
register(check_cookies, TAG, Tags.security)
register(check_encryption, TAG, Tags.security)
register(check_deployed_cookies, TAG, Tags.security, deploy=True)
register(check_deployed_encryption, TAG, Tags.security, deploy=True)
