from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render


def show_ended_sessions_as_visitors_see_them(
    get_response: Callable[[HttpRequest], HttpResponse],
) -> Callable[[HttpRequest], HttpResponse]:
    """A session that ended meanwhile is nothing to debug, so it gets the site's own page."""

    def middleware(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        # Django's debug page names the exception.
        if response.status_code == 400 and b"SessionInterrupted" in response.content:
            return render(None, "400.html", status=400)
        return response

    return middleware
