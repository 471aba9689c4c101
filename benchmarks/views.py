"""The views that the benchmark requests, sync for WSGI and async for ASGI."""

from __future__ import annotations

import random
import time

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path

from benchmarks.sample import session_data

# Long enough that requests which arrive together are open together.
HELD_OPEN = 0.02  # seconds


def plain(request: HttpRequest) -> HttpResponse:
    return HttpResponse("without a session")


def read(request: HttpRequest) -> HttpResponse:
    return HttpResponse(f"{len(request.session['cart'])} lines in the cart")


def write(request: HttpRequest) -> HttpResponse:
    request.session["visits"] += 1
    return HttpResponse(f"visit {request.session['visits']}")


async def async_plain(request: HttpRequest) -> HttpResponse:
    return HttpResponse("without a session")


async def async_start(request: HttpRequest) -> HttpResponse:
    await request.session.aupdate(session_data(random.randrange(10**6)))
    return HttpResponse("started")


async def async_read(request: HttpRequest) -> HttpResponse:
    cart = await request.session.aget("cart", [])
    return HttpResponse(f"{len(cart)} lines in the cart")


async def async_write(request: HttpRequest) -> HttpResponse:
    visits = await request.session.aget("visits", 0) + 1
    await request.session.aset("visits", visits)
    return HttpResponse(f"visit {visits}")


def race_start(request: HttpRequest) -> HttpResponse:
    request.session.update({"counters": {}, "common": 0})
    return HttpResponse("started")


def race_step(request: HttpRequest, client: int, step: int) -> HttpResponse:
    """Add one key and raise two counters, with the session open for a while."""
    session = request.session
    session[f"key-{client}-{step}"] = step
    counters = session["counters"]
    counters[str(client)] = counters.get(str(client), 0) + 1
    session.modified = True
    time.sleep(HELD_OPEN)
    if hasattr(session, "mutate"):
        session.save()
        session.mutate(raise_common)
    else:
        raise_common(session)
    return HttpResponse("added")


def raise_common(session: dict[str, int]) -> None:
    session["common"] += 1


def race_result(request: HttpRequest) -> HttpResponse:
    session = dict(request.session.items())
    keys = sum(key.startswith("key-") for key in session)
    counters = sum(session["counters"].values())
    return JsonResponse({"keys": keys, "counters": counters, "common": session["common"]})


urlpatterns = [
    path("plain", plain),
    path("read", read),
    path("write", write),
    path("async/plain", async_plain),
    path("async/start", async_start),
    path("async/read", async_read),
    path("async/write", async_write),
    path("race/start", race_start),
    path("race/<int:client>/<int:step>", race_step),
    path("race/result", race_result),
]
