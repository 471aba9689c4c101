"""Views for those alone who have logged in lately."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial, wraps
from inspect import iscoroutinefunction
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib.auth import REDIRECT_FIELD_NAME
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponseRedirect
from django.shortcuts import resolve_url

from django_kvsessions.lifetime import moment
from django_kvsessions.stores.base import now

__all__ = ["fresh_login_required"]

V = TypeVar("V", bound=Callable[..., Any])


def fresh_login_required(
    *,
    max_age: float | timedelta,
    login_url: str | None = None,
    redirect_field_name: str | None = REDIRECT_FIELD_NAME,
) -> Callable[[V], V]:
    """Send whose login is older than ``max_age`` seconds to the login page, and back.

    For views, sync and async, and by ``method_decorator`` for classes; it implies
    ``login_required``. Whoever is sent back comes with a GET. The login page has to
    show its form to users who are logged in: leave ``redirect_authenticated_user``
    of Django's LoginView ``False``.

    ``ValueError`` for an age that is not above 0; ``ImproperlyConfigured`` where
    SESSION_ENGINE is another engine, which does not know of logins.
    """
    seconds = max_age.total_seconds() if isinstance(max_age, timedelta) else max_age
    if type(seconds) not in (int, float) or not seconds > 0:
        raise ValueError(
            f"max_age is a number of seconds above 0, or a timedelta of as much; not {max_age!r}."
        )

    def to_login(request: HttpRequest) -> HttpResponseRedirect:
        return _to_login(request, login_url, redirect_field_name)

    def decorator(view: V) -> V:
        async def checked(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
            session: Any = request.session
            await session.aget("")  # loads it
            if not _is_fresh(session, seconds) or not (await request.auser()).is_authenticated:
                return to_login(request)
            response = view(request, *args, **kwargs)
            return await response if isinstance(response, Awaitable) else response

        if iscoroutinefunction(view) or _is_of_async_class(view):
            return cast(V, _marked(wraps(view)(checked), login_url, redirect_field_name))

        @wraps(view)
        def wrapper(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
            if not _is_fresh(request.session, seconds) or not request.user.is_authenticated:
                return to_login(request)
            return view(request, *args, **kwargs)

        return cast(V, _marked(wrapper, login_url, redirect_field_name))

    return decorator


def _marked(view: Any, login_url: str | None, redirect_field_name: str | None) -> Any:
    # For LoginRequiredMiddleware, as Django's own decorators do.
    view.login_url, view.redirect_field_name = login_url, redirect_field_name
    return view


def _is_of_async_class(view: Any) -> bool:
    """Whether it is the ``dispatch`` of a class with async handlers, from ``method_decorator``.

    It is no coroutine function itself, and what it returns is awaited all the same.
    """
    while view is not None:
        if isinstance(view, partial):
            return getattr(getattr(view.func, "__self__", None), "view_is_async", False)
        view = getattr(view, "__wrapped__", None)
    return False


def _is_fresh(session: Any, seconds: float) -> bool:
    if not hasattr(type(session), "authenticated_at"):
        raise ImproperlyConfigured(
            f"fresh_login_required needs SESSION_ENGINE = 'django_kvsessions.engine', not "
            f"{settings.SESSION_ENGINE!r}: no other knows when a user has logged in."
        )
    at = session.authenticated_at
    # One from the future is that of a clock which was put back since.
    return at is not None and abs((moment(now()) - at).total_seconds()) < seconds


def _to_login(
    request: HttpRequest, login_url: str | None, redirect_field_name: str | None
) -> HttpResponseRedirect:
    path = request.build_absolute_uri()
    resolved = resolve_url(login_url or settings.LOGIN_URL)
    login, here = urlsplit(resolved), urlsplit(path)
    # As Django's own: on another host, the login page needs to be told the whole address.
    if login.scheme in ("", here.scheme) and login.netloc in ("", here.netloc):
        path = request.get_full_path()
    return redirect_to_login(path, resolved, redirect_field_name)
