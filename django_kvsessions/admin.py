"""What Django's admin discovers."""

from __future__ import annotations

from django.contrib import admin

from django_kvsessions.devices.admin import UserSessionAdmin
from django_kvsessions.models import UserSession

admin.site.register(UserSession, UserSessionAdmin)
