"""A site with django-allauth, set up as the documentation says: ``allauth_site.py FOLDER``."""

from __future__ import annotations

import sys

import django
from django.conf import settings
from django.urls import include, path

DEVICES = "/account/sessions/"


def configure(folder: str) -> None:
    settings.configure(
        BASE_DIR=folder,
        SECRET_KEY="for this run alone",
        ALLOWED_HOSTS=["testserver"],
        SESSION_ENGINE="django_kvsessions.engine",
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        INSTALLED_APPS=[
            "django_kvsessions",
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.sessions",
            "django.contrib.messages",
            "allauth",
            "allauth.account",
        ],
        MIDDLEWARE=[
            "django_kvsessions.middleware.SessionMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            "django.contrib.messages.middleware.MessageMiddleware",
            "allauth.account.middleware.AccountMiddleware",
        ],
        AUTHENTICATION_BACKENDS=["allauth.account.auth_backends.AuthenticationBackend"],
        ACCOUNT_EMAIL_VERIFICATION="none",
        LOGIN_URL="account_login",
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "APP_DIRS": True,
                "OPTIONS": {"context_processors": ["django.template.context_processors.request"]},
            }
        ],
    )
    django.setup()
    # Not in a module: allauth's can be imported only now.
    settings.ROOT_URLCONF = (
        path("accounts/", include("allauth.urls")),
        path("account/sessions/", include("django_kvsessions.devices.urls")),
    )


def main() -> None:
    from django.contrib.auth.models import User
    from django.core.management import call_command
    from django.db import connection
    from django.test import Client

    call_command("migrate", verbosity=0)
    User.objects.create_user("alice", password="open sesame")

    def browser() -> Client:
        client = Client()
        client.post("/accounts/login/", {"login": "alice", "password": "open sesame"})
        assert "sessionid" in client.cookies
        return client

    one, other = browser(), browser()
    assert one.get(DEVICES).content.count(b"<svg") == 2
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names():
            cursor.execute(f'SELECT * FROM "{table}"')
            rows = repr(cursor.fetchall())
            for client in (one, other):
                assert client.cookies["sessionid"].value not in rows, table
    one.post(f"{DEVICES}end-others/")
    assert one.get(DEVICES).status_code == 200
    assert other.get(DEVICES)["Location"].startswith("/accounts/login/")


if __name__ == "__main__":
    configure(sys.argv[1])
    main()
