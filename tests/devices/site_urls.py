"""The test site's pages, and what a test cannot wait for: old logins and outages."""

from __future__ import annotations

from datetime import timedelta
from unittest import mock

from django.contrib.auth import get_user_model, login
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.urls import path
from django.utils import timezone
from freezegun import freeze_time

from django_kvsessions.devices import views
from django_kvsessions.stores.base import StoreUnavailable
from website.urls import urlpatterns as site

__all__ = ["urlpatterns"]


def log_in_an_hour_ago(request: HttpRequest, name: str) -> HttpResponse:
    with freeze_time(timezone.now() - timedelta(hours=1)):
        login(request, get_user_model().objects.get(username=name))
        request.session.save()
    return HttpResponse("Logged in.")


def outage(request: HttpRequest) -> HttpResponseBase:
    with mock.patch.object(views, "sessions_of", side_effect=StoreUnavailable("It is away.")):
        return views.DevicesView.as_view()(request)


urlpatterns = [
    path("an-hour-ago/<str:name>/", log_in_an_hour_ago),
    path("outage/", outage),
    *site,
]
