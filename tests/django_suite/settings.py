"""Django's settings for its own tests, and one line more. It knows its stores from the caller."""

from __future__ import annotations

import json
import os

DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3"},
    "other": {"ENGINE": "django.db.backends.sqlite3"},
    # A file, because the store's async methods come from other threads.
    "sessions": {
        "ENGINE": "django.db.backends.sqlite3",
        "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 20},
        "TEST": {"NAME": os.environ["DJANGO_SUITE_DATABASE"]},
    },
}
SECRET_KEY = "django_tests_secret_key"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
USE_TZ = False

SESSION_ENGINE = "django_kvsessions.engine"
SESSION_STORES = json.loads(os.environ["DJANGO_SUITE_STORES"])

TEST_RUNNER = "tests.django_suite.runner.Runner"
