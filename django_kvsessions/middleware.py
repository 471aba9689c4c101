"""Django's SessionMiddleware, native in sync and async."""

from __future__ import annotations

import logging
import time
from typing import Any

from django.conf import settings
from django.contrib.sessions.backends.base import UpdateError
from django.contrib.sessions.exceptions import SessionInterrupted
from django.contrib.sessions.middleware import SessionMiddleware as DjangoSessionMiddleware
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.utils.cache import patch_vary_headers
from django.utils.http import http_date

from django_kvsessions import conf
from django_kvsessions.steps import Steps, arun, run
from django_kvsessions.stores.base import StoreUnavailable

__all__ = ["SessionMiddleware"]

logger = logging.getLogger("django_kvsessions")


class SessionMiddleware(DjangoSessionMiddleware):
    """As Django's, and more:

    - In async it stays on the event loop.
    - A store that cannot answer at the end of a request gives a 503, and the
      cookie stays. In the middle of one, ``StoreUnavailable`` goes to the
      site's own error handling.
    - With SESSION_TOUCH_INTERVAL set, reading a session extends its life too.
    - The cookie is sent again when the record was written or touched, and not
      with every response under SESSION_SAVE_EVERY_REQUEST.
    """

    async def __acall__(self, request: HttpRequest) -> HttpResponseBase:
        self.process_request(request)
        response = await self.get_response(request)  # type: ignore[misc]
        return await arun(self._respond(request, response))

    def process_response(  # type: ignore[override]
        self, request: HttpRequest, response: HttpResponseBase
    ) -> HttpResponseBase:
        return run(self._respond(request, response))

    def _respond(self, request: HttpRequest, response: HttpResponseBase) -> Steps[HttpResponseBase]:
        try:
            session = request.session
            accessed, modified, empty = session.accessed, session.modified, session.is_empty()
        except AttributeError:
            return response
        name = settings.SESSION_COOKIE_NAME
        if name in request.COOKIES and empty:
            response.delete_cookie(
                name,
                path=settings.SESSION_COOKIE_PATH,
                domain=settings.SESSION_COOKIE_DOMAIN,
                samesite=settings.SESSION_COOKIE_SAMESITE,
            )
            patch_vary_headers(response, ("Cookie",))
            return response
        if accessed:
            patch_vary_headers(response, ("Cookie",))
        # As Django has it: what a failed request did to its session is not kept.
        if empty or response.status_code >= 500:
            return response
        try:
            if modified or settings.SESSION_SAVE_EVERY_REQUEST:
                yield session, "save", (), {}
            elif accessed and conf.touch_interval() is not None and hasattr(session, "touch"):
                yield session, "touch", (), {}
        except UpdateError:
            raise SessionInterrupted(
                "The request's session was deleted before the request completed. "
                "The user may have logged out in a concurrent request, for example."
            ) from None
        except StoreUnavailable:
            logger.exception("The session could not be saved.")
            response = HttpResponse("The session store is unavailable.", status=503)
            patch_vary_headers(response, ("Cookie",))
            # A login may have moved the session to another id before this, and the former one
            # opens nothing any more.
            is_new = session.session_key not in (None, request.COOKIES.get(name))
            is_due = is_new and getattr(session, "refreshed", False)
        else:
            is_new = modified and request.COOKIES.get(name) != session.session_key
            is_due = is_new or getattr(session, "refreshed", modified)
        if is_due:
            yield from self._set_cookie(session, response)
        return response

    def _set_cookie(self, session: Any, response: HttpResponseBase) -> Steps[None]:
        max_age = expires = None
        if not (yield session, "get_expire_at_browser_close", (), {}):
            max_age = yield session, "get_expiry_age", (), {}
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
        patch_vary_headers(response, ("Cookie",))
