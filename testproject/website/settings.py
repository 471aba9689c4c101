"""Settings of the test site, for clicking around and for ``manage.py demo``.

Read from the environment, all of them optional:

- ``KVSESSIONS_VAR``: the folder for the database and the sessions, ``var`` beside manage.py
- ``KVSESSIONS_STORES``: SESSION_STORES as JSON
- ``KVSESSIONS_ENGINE``: SESSION_ENGINE, to compare with one of Django's own
- ``KVSESSIONS_ENCRYPTION``: not empty for SESSION_ENCRYPTION
- ``KVSESSIONS_DATABASE``: the default database as JSON, SQLite in that folder
- ``KVSESSIONS_DEMO``: set by ``manage.py demo``
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import django

BASE_DIR = Path(__file__).resolve().parent.parent
VAR = Path(os.environ.get("KVSESSIONS_VAR", BASE_DIR / "var"))
VAR.mkdir(parents=True, exist_ok=True)

DEMO = bool(os.environ.get("KVSESSIONS_DEMO"))
DEBUG = not DEMO
SECRET_KEY = "public, and good enough for a site that only listens on this machine"
SECRET_KEY_FALLBACKS: list[str] = []
if DEMO and (VAR / "secret_keys.json").exists():
    # The demo rotates them.
    SECRET_KEY, *SECRET_KEY_FALLBACKS = json.loads((VAR / "secret_keys.json").read_text())
ALLOWED_HOSTS = ["127.0.0.1", "localhost", "[::1]"]

INSTALLED_APPS = [
    "django_kvsessions",  # before django.contrib.sessions, for its clearsessions
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "shop",
    "demo",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django_kvsessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
if DEMO:
    MIDDLEWARE.insert(0, "demo.middleware.name_worker")
else:
    MIDDLEWARE.insert(0, "shop.middleware.show_ended_sessions_as_visitors_see_them")
if django.VERSION >= (6,):
    # Neither scripts nor styles in a page, and nothing from elsewhere.
    MIDDLEWARE.insert(1, "django.middleware.csp.ContentSecurityPolicyMiddleware")
    SECURE_CSP = {"default-src": ["'self'"], "img-src": ["'self'", "data:"]}

ROOT_URLCONF = "website.urls"
WSGI_APPLICATION = "website.wsgi.application"
ASGI_APPLICATION = "website.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        # Before those of the apps, for what replaces one of theirs.
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "shop.context_processors.visitor",
            ],
        },
    },
]

# As much as possible goes through the session: that is what this site is for.
SESSION_ENGINE = os.environ.get("KVSESSIONS_ENGINE", "django_kvsessions.engine")
SESSION_STORES: dict[str, Any] = json.loads(os.environ.get("KVSESSIONS_STORES", "{}")) or {
    "default": {"LOCATION": str(VAR / "sessions")},
}
if DEMO and (VAR / "engine.json").exists():
    # The demo moves house.
    globals().update(json.loads((VAR / "engine.json").read_text()))
SESSION_ENCRYPTION = bool(os.environ.get("KVSESSIONS_ENCRYPTION"))
CSRF_USE_SESSIONS = True
MESSAGE_STORAGE = "django.contrib.messages.storage.session.SessionStorage"

DATABASES = {
    "default": json.loads(os.environ.get("KVSESSIONS_DATABASE", "{}"))
    or {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": VAR / "db.sqlite3",
        "CONN_MAX_AGE": None,
        "OPTIONS": {
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
        },
    },
}

# For Django's own session engines, which need what all the workers share.
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.filebased.FileBasedCache",
        "LOCATION": VAR / "cache",
        "OPTIONS": {"MAX_ENTRIES": 100_000},
    },
}
SESSION_FILE_PATH = VAR / "session_files"
SESSION_FILE_PATH.mkdir(exist_ok=True)

if DEMO:
    # A good hasher takes a quarter of a second for each login, so that the demo would measure
    # nothing else. Its users are made up and thrown away.
    PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "shop:session"
LOGOUT_REDIRECT_URL = "login"

USE_TZ = True
TIME_ZONE = "UTC"
STATIC_URL = "static/"

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "WARNING"},
    "loggers": {
        # Django's own handler would say each line a second time.
        "django": {"handlers": []},
        # That a request was overtaken by a logout is a warning with a traceback each time.
        "django.request": {"level": "ERROR"},
    },
}
