"""The admin, for tests that go through Django as a whole; others set their own ROOT_URLCONF."""

from __future__ import annotations

from django.contrib import admin
from django.urls import path

urlpatterns = [path("admin/", admin.site.urls)]
