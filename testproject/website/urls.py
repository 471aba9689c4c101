from __future__ import annotations

from django.contrib import admin
from django.contrib.auth.views import LoginView, LogoutView
from django.urls import include, path

from shop.accounts import PASSWORD, SHOPPERS

urlpatterns = [
    path("", include("shop.urls")),
    path(
        "login/",
        LoginView.as_view(extra_context={"shopper": SHOPPERS[0], "password": PASSWORD}),
        name="login",
    ),
    path("logout/", LogoutView.as_view(), name="logout"),
    # Ten minutes after a login it takes another one to end sessions.
    path("account/sessions/", include("django_kvsessions.devices.urls"), {"max_login_age": 600}),
    path("admin/", admin.site.urls),
]
