"""``path("account/sessions/", include("django_kvsessions.devices.urls"))``

With ``{"max_login_age": 600}`` as its third argument, who logged in more than so
many seconds ago is asked to log in once more before ending another session.
"""

from __future__ import annotations

from django.urls import path

from django_kvsessions.devices import views

app_name = "kvsessions"

urlpatterns = [
    path("", views.DevicesView.as_view(), name="devices"),
    path("end/<str:public_id>/", views.EndView.as_view(), name="end"),
    path("end-others/", views.EndOthersView.as_view(), name="end-others"),
]
