"""A site with django-allauth: ``allauth_site.py FOLDER``."""

from __future__ import annotations

from django.conf import settings
from django.urls import include, path

from tests.beside.site import configure, migrate

DEVICES = "/account/sessions/"


def main() -> None:
    from django.db import connection
    from django.test import Client

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
    configure(
        apps=["allauth", "allauth.account"],
        middleware=["allauth.account.middleware.AccountMiddleware"],
        AUTHENTICATION_BACKENDS=["allauth.account.auth_backends.AuthenticationBackend"],
        ACCOUNT_EMAIL_VERIFICATION="none",
        LOGIN_URL="account_login",
    )
    # Not in a module: allauth's can be imported only now.
    settings.ROOT_URLCONF = (
        path("accounts/", include("allauth.urls")),
        path("account/sessions/", include("django_kvsessions.devices.urls")),
    )
    migrate()
    main()
