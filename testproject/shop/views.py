from __future__ import annotations

import time
from typing import Any

from django.contrib import messages
from django.contrib.auth import HASH_SESSION_KEY
from django.http import Http404, HttpRequest, HttpResponse
from django.middleware.csrf import CSRF_SESSION_KEY
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from django_kvsessions.owners import end_session, sessions_of
from shop.cart import Cart
from shop.forms import ExpiryForm, NicknameForm, SlowForm
from shop.products import PRODUCTS, Product

# Worth nothing without the cookie, but secrets all the same.
SECRETS = {CSRF_SESSION_KEY, HASH_SESSION_KEY}


@require_safe
def home(request: HttpRequest) -> HttpResponse:
    request.session["visits"] = request.session.get("visits", 0) + 1
    return render(request, "shop/home.html", {"products": PRODUCTS.values()})


@require_safe
def cart(request: HttpRequest) -> HttpResponse:
    return render(request, "shop/cart.html")


@require_POST
def cart_add(request: HttpRequest) -> HttpResponse:
    product = get_product(request)
    Cart(request.session).add(product.slug)
    messages.success(request, f"{product.name} is in your cart.")
    return redirect("shop:cart")


@require_POST
def cart_remove(request: HttpRequest) -> HttpResponse:
    product = get_product(request)
    Cart(request.session).remove(product.slug)
    messages.info(request, f"{product.name} was taken out of your cart.")
    return redirect("shop:cart")


@require_safe
def session(request: HttpRequest) -> HttpResponse:
    """The state of the visitor's session, but never its key: that opens it."""
    # Taken before the expiry, for "in 2 weeks" instead of "in 1 week, 6 days".
    now = timezone.now()
    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "type": type(value).__name__,
            "value": None if name in SECRETS else value,
        }
        for name, value in sorted(request.session.items())
    ]
    context = {
        "rows": rows,
        "now": now,
        "expires": request.session.get_expiry_date(),
        "ends_with_browser": request.session.get_expire_at_browser_close(),
        "nickname_form": NicknameForm(initial={"nickname": request.session.get("nickname")}),
        "expiry_form": ExpiryForm(initial={"seconds": request.session.get("_session_expiry")}),
    }
    return render(request, "shop/session.html", context)


@require_POST
def session_nickname(request: HttpRequest) -> HttpResponse:
    form = NicknameForm(request.POST)
    if form.is_valid():
        request.session["nickname"] = form.cleaned_data["nickname"]
        messages.success(request, "Nice to meet you.")
    else:
        messages.error(request, "A nickname has 1 to 40 characters.")
    return redirect("shop:session")


@require_POST
def session_expiry(request: HttpRequest) -> HttpResponse:
    form = ExpiryForm(request.POST)
    if form.is_valid():
        request.session.set_expiry(form.cleaned_data["seconds"])
        messages.success(request, "The expiry is set.")
    else:
        messages.error(request, "Choose when the session is to expire.")
    return redirect("shop:session")


@require_POST
def session_end_elsewhere(request: HttpRequest) -> HttpResponse:
    """End the user's sessions in a browser that calls itself so."""
    if not hasattr(request.session, "public_id"):
        raise Http404("This engine does not know the sessions of a user.")
    ended = 0
    for theirs in sessions_of(request.user) if request.user.is_authenticated else ():
        if theirs.user_agent == request.POST.get("agent") and not theirs.is_current(request):
            ended += end_session(request.user, theirs.public_id)
    return HttpResponse(str(ended))


@require_POST
def session_slow(request: HttpRequest) -> HttpResponse:
    """Read the session, wait until it was ended or the time is up, and write it."""
    form = SlowForm(request.POST)
    if not form.is_valid():
        raise Http404
    before = request.session.get("slow", 0)
    session_key = request.session.session_key or ""
    deadline = time.monotonic() + form.cleaned_data["seconds"]
    while time.monotonic() < deadline and request.session.exists(session_key):
        time.sleep(0.02)
    request.session["slow"] = before + 1
    messages.info(request, "The slow request has saved its session.")
    return redirect("shop:session")


def get_product(request: HttpRequest) -> Product:
    try:
        return PRODUCTS[request.POST["product"]]
    except KeyError:
        raise Http404("There is no such product.") from None
