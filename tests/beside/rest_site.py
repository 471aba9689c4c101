"""A site with Django REST framework: ``rest_site.py FOLDER``."""

from __future__ import annotations

from datetime import timedelta
from unittest import mock

from django.conf import settings
from django.urls import path

from tests.beside.site import configure, examples, migrate

SESSIONS = "/api/sessions/"


def main() -> None:
    from django.test import Client
    from freezegun import freeze_time

    from django_kvsessions.stores import stores
    from django_kvsessions.stores.base import StoreUnavailable

    def browser() -> Client:
        client = Client(enforce_csrf_checks=True)
        assert client.login(username="alice", password="open sesame")
        return client

    assert Client().get(SESSIONS).status_code == 403
    one, other = browser(), browser()
    listed = one.get(SESSIONS).json()
    assert [each["current"] for each in listed].count(True) == 1
    assert len(listed) == 2
    (others,) = (each["id"] for each in listed if not each["current"])

    assert one.delete(f"{SESSIONS}{others}/").status_code == 403, "without a CSRF token"
    token = {"x-csrftoken": "a" * 32}
    one.cookies["csrftoken"] = token["x-csrftoken"]
    with freeze_time(timedelta(minutes=11)):
        stale = one.delete(f"{SESSIONS}{others}/", headers=token)
        assert (stale.status_code, stale.json()) == (403, {"detail": "Log in again."})
    assert other.get(SESSIONS).status_code == 200
    assert one.delete(f"{SESSIONS}{others}/", headers=token).status_code == 204
    assert one.delete(f"{SESSIONS}{others}/", headers=token).status_code == 404
    assert other.get(SESSIONS).status_code == 403
    assert one.get(SESSIONS).status_code == 200

    away = mock.patch.object(stores["default"], "load", side_effect=StoreUnavailable("away"))
    with away:
        assert one.get(SESSIONS).status_code == 503
    assert one.get(SESSIONS).status_code == 200


if __name__ == "__main__":
    configure(apps=["rest_framework"], USE_TZ=True)
    view = examples("Django REST framework").Sessions.as_view()
    settings.ROOT_URLCONF = (
        path("api/sessions/", view),
        path("api/sessions/<str:public_id>/", view),
    )
    migrate()
    main()
