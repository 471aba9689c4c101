"""The Django settings of the tests: SQLite in memory, sessions in a folder of this process."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

# Each process of a parallel run imports this module, so each has a folder of its own.
BASE_DIR = Path(tempfile.mkdtemp(prefix="kvsessions-tests-"))


@atexit.register
def remove_folder(owner: int = os.getpid()) -> None:
    # A forked child must not take the folder from under its parent.
    if os.getpid() == owner:
        shutil.rmtree(BASE_DIR, ignore_errors=True)


SECRET_KEY = "a secret key for the tests, and for nothing else"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "tests.urls"
USE_TZ = True

INSTALLED_APPS = [
    "django_kvsessions",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

SESSION_ENGINE = "django_kvsessions.engine"
SESSION_STORES = {
    "default": {
        "BACKEND": "django_kvsessions.stores.semidbm.SemidbmStore",
        "LOCATION": BASE_DIR / "sessions",
    },
    "memory": {"BACKEND": "django_kvsessions.stores.memory.MemoryStore"},
}
