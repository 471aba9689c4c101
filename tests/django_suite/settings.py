"""Django's settings for its own tests, and one line more. It knows its stores from the caller."""

from __future__ import annotations

import json
import os

DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3"},
    "other": {"ENGINE": "django.db.backends.sqlite3"},
    **json.loads(os.environ["DJANGO_SUITE_DATABASES"]),
}


class TablesOfTheirOwn:
    """In a store's database there is nothing but what it makes there by itself."""

    def allow_migrate(self, db: str, app_label: str, **hints: object) -> bool | None:
        return None if db in ("default", "other") else False


DATABASE_ROUTERS = [TablesOfTheirOwn()]
SECRET_KEY = "django_tests_secret_key"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
USE_TZ = False

SESSION_ENGINE = "django_kvsessions.engine"
SESSION_STORES = json.loads(os.environ["DJANGO_SUITE_STORES"])

TEST_RUNNER = "tests.django_suite.runner.Runner"
