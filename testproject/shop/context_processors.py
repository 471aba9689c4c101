from __future__ import annotations

from typing import Any

from django.http import HttpRequest

from shop.cart import Cart


def visitor(request: HttpRequest) -> dict[str, Any]:
    """What the head of every page shows from the session."""
    return {
        "cart": Cart(request.session),
        "visits": request.session.get("visits", 0),
        "nickname": request.session.get("nickname", ""),
    }
