from __future__ import annotations

import os
from collections.abc import Callable

from django.http import HttpRequest, HttpResponse


def name_worker(
    get_response: Callable[[HttpRequest], HttpResponse],
) -> Callable[[HttpRequest], HttpResponse]:
    """Say which process answered, so that the demo can kill one and see another take over."""

    def middleware(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        response["X-Worker"] = str(os.getpid())
        return response

    return middleware
