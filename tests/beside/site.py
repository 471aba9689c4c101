"""The site that each of these packages is tried on, set up as the documentation says."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import django
from django.conf import settings

from tests.docs.pages import blocks


def configure(*, apps: Sequence[str], middleware: Sequence[str] = (), **more: Any) -> None:
    """For a program whose first argument is the folder of the site."""
    folder = Path(sys.argv[1])
    values = {
        "BASE_DIR": folder,
        "SECRET_KEY": "for this run alone",
        "ALLOWED_HOSTS": ["testserver"],
        "SESSION_ENGINE": "django_kvsessions.engine",
        "DATABASES": {
            "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": folder / "db.sqlite3"}
        },
        "INSTALLED_APPS": [
            "django_kvsessions",
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.sessions",
            "django.contrib.messages",
            *apps,
        ],
        "MIDDLEWARE": [
            "django_kvsessions.middleware.SessionMiddleware",
            "django_kvsessions.middleware.SessionUnavailableMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            "django.contrib.messages.middleware.MessageMiddleware",
            *middleware,
        ],
        "TEMPLATES": [
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "APP_DIRS": True,
                "OPTIONS": {"context_processors": ["django.template.context_processors.request"]},
            }
        ],
    }
    settings.configure(**{**values, **more})
    django.setup()


def migrate() -> None:
    from django.contrib.auth.models import User
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    User.objects.create_user("alice", password="open sesame")


def examples(heading: str) -> ModuleType:
    """The names that the example below this heading of the page defines."""
    page = "frameworks.md"
    (block,) = (each for each in blocks("python") if each.page == page and each.under == heading)
    module = ModuleType("examples")
    sys.modules[module.__name__] = module
    exec(compile(block.code, str(block), "exec", dont_inherit=True), module.__dict__)
    return module
