from __future__ import annotations

from django.urls import path

from shop import views

app_name = "shop"

urlpatterns = [
    path("", views.home, name="home"),
    path("cart/", views.cart, name="cart"),
    path("cart/add/", views.cart_add, name="cart_add"),
    path("cart/remove/", views.cart_remove, name="cart_remove"),
    path("session/", views.session, name="session"),
    path("session/nickname/", views.session_nickname, name="session_nickname"),
    path("session/expiry/", views.session_expiry, name="session_expiry"),
    path("session/end_elsewhere/", views.session_end_elsewhere, name="session_end_elsewhere"),
    path("session/slow/", views.session_slow, name="session_slow"),
]
