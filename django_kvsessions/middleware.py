"""Django's SessionMiddleware, native in sync and async."""

from __future__ import annotations

import time
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.sessions.backends.base import SessionBase, UpdateError
from django.contrib.sessions.exceptions import SessionInterrupted
from django.contrib.sessions.middleware import SessionMiddleware as DjangoSessionMiddleware
from django.http import HttpRequest, HttpResponseBase
from django.utils.cache import patch_vary_headers
from django.utils.http import http_date

from django_kvsessions import conf, reports
from django_kvsessions.colours import Colour, awaiting, blocking, run
from django_kvsessions.cookies import partition
from django_kvsessions.stores.base import StoreUnavailable
from django_kvsessions.unavailable import SessionUnavailableMiddleware, unavailable

__all__ = ["SessionMiddleware", "SessionUnavailableMiddleware"]


class SessionMiddleware(DjangoSessionMiddleware):
    """As Django's, and more:

    - In async it stays on the event loop.
    - A store that cannot answer at the end of a request gives a 503, and the
      cookie stays. In the middle of one, ``StoreUnavailable`` goes to the
      site's own error handling, or to ``SessionUnavailableMiddleware``.
    - With SESSION_TOUCH_INTERVAL set, reading a session extends its life too.
    - The cookie is sent again once in a touch interval, and not with each
      response.
    - The id from before a login neither deletes nor replaces the cookie that
      came with the login.
    - With SESSION_COOKIE_PARTITIONED the cookie is ``Partitioned``.
    """

    #: It can leave the cookie of a session alone that another request has moved.
    leaves_cookies = True

    async def __acall__(self, request: HttpRequest) -> HttpResponseBase:
        if type(self).process_request is not DjangoSessionMiddleware.process_request:
            # Of a subclass, it may do anything that a sync function may.
            await sync_to_async(self.process_request)(request)
        else:
            self.process_request(request)
        response = await self.get_response(request)  # type: ignore[misc]  # sync to the stubs
        if type(self).process_response is not SessionMiddleware.process_response:
            return await sync_to_async(self.process_response)(request, response)
        return await self._respond(awaiting, request, response)

    def process_response(  # type: ignore[override]  # any response, not only HttpResponse
        self, request: HttpRequest, response: HttpResponseBase
    ) -> HttpResponseBase:
        return run(self._respond(blocking, request, response))

    async def _respond(
        self, call: Colour, request: HttpRequest, response: HttpResponseBase
    ) -> HttpResponseBase:
        try:
            session = request.session
            accessed, modified, empty = session.accessed, session.modified, session.is_empty()
        except AttributeError:
            return response
        cookie = request.COOKIES.get(settings.SESSION_COOKIE_NAME)
        if cookie is not None and empty and not getattr(session, "leaves_cookie", False):
            response.delete_cookie(
                settings.SESSION_COOKIE_NAME,
                path=settings.SESSION_COOKIE_PATH,
                domain=settings.SESSION_COOKIE_DOMAIN,
                samesite=settings.SESSION_COOKIE_SAMESITE,
            )
            if conf.cookie_partitioned():
                partition(response, settings.SESSION_COOKIE_NAME)
            patch_vary_headers(response, ("Cookie",))
            return response
        if accessed:
            patch_vary_headers(response, ("Cookie",))
        # As Django has it: what a failed request did to its session is not kept.
        if not empty and response.status_code < 500:
            try:
                if modified or settings.SESSION_SAVE_EVERY_REQUEST:
                    await self._save(call, request, accessed or modified)
                elif accessed and conf.touch_interval() is not None:
                    await self._touch(call, session)
            except UpdateError:
                raise SessionInterrupted(
                    "The request's session was deleted before the request completed. "
                    "The user may have logged out in a concurrent request, for example."
                ) from None
            except StoreUnavailable as error:
                reports.unavailable("at the save", error)
                replaced, response = response, unavailable()
                # Files that it was to send are closed when this one has been sent.
                response._resource_closers.append(replaced.close)  # type: ignore[attr-defined]  # not in the stubs
        if self._is_cookie_due(session, cookie, response.status_code):
            await self._set_cookie(call, session, response)
        return response

    async def _save(self, call: Colour, request: HttpRequest, was_used: bool) -> None:
        session = request.session
        try:
            # As Django's does, this loads it: an id that is unknown makes way for a new one.
            await call(session.get_expire_at_browser_close, session.aget_expire_at_browser_close)
        except StoreUnavailable as error:
            if was_used:
                raise
            reports.unextended(error)
            return
        if session.modified or not getattr(session, "leaves_cookie", False):
            if hasattr(session, "record_visitor"):
                session.record_visitor(request.META)
            await call(session.save, session.asave)

    async def _touch(self, call: Colour, session: Any) -> None:
        if not hasattr(session, "touch"):
            return  # One of Django's engines.
        try:
            await call(session.touch, session.atouch)
        except StoreUnavailable as error:
            reports.unextended(error)

    def _is_cookie_due(self, session: SessionBase, cookie: str | None, status_code: int) -> bool:
        session_key = session.session_key
        if session_key is None or getattr(session, "leaves_cookie", False):
            return False
        if status_code >= 500:
            # The id that the visitor has opens nothing any more.
            return bool(session_key != cookie and getattr(session, "has_moved", False))
        return bool(getattr(session, "cookie_is_due", session.modified))

    async def _set_cookie(self, call: Colour, session: Any, response: HttpResponseBase) -> None:
        max_age = expires = None
        if not await call(
            session.get_expire_at_browser_close, session.aget_expire_at_browser_close
        ):
            max_age = await call(session.get_expiry_age, session.aget_expiry_age)
            expires = http_date(time.time() + max_age)
        response.set_cookie(
            settings.SESSION_COOKIE_NAME,
            session.session_key,
            max_age=max_age,
            expires=expires,
            domain=settings.SESSION_COOKIE_DOMAIN,
            path=settings.SESSION_COOKIE_PATH,
            secure=settings.SESSION_COOKIE_SECURE,
            httponly=settings.SESSION_COOKIE_HTTPONLY,
            samesite=settings.SESSION_COOKIE_SAMESITE,
        )
        if conf.cookie_partitioned():
            partition(response, settings.SESSION_COOKIE_NAME)
        patch_vary_headers(response, ("Cookie",))
