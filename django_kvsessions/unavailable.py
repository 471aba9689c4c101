"""The page for an outage: a 503 that a site words in its own template."""

from __future__ import annotations

import logging

from django.http import HttpRequest, HttpResponse
from django.template import TemplateDoesNotExist, loader
from django.utils.cache import patch_vary_headers
from django.utils.deprecation import MiddlewareMixin

from django_kvsessions import reports
from django_kvsessions.stores.base import StoreUnavailable

__all__ = ["TEMPLATE", "SessionUnavailableMiddleware", "unavailable"]

logger = logging.getLogger("django_kvsessions")

TEMPLATE = "session_unavailable.html"
#: Seconds after which to try again: most outages are restarts.
RETRY_AFTER = 5


def unavailable() -> HttpResponse:
    """A 503 with the site's template, where it has one. No session is asked for on the way."""
    content = "The session store is unavailable."
    try:
        # Without the request: context processors would look for the user, in the session.
        content = loader.get_template(TEMPLATE).render()
    except TemplateDoesNotExist as error:
        if str(error) != TEMPLATE:
            logger.exception("The template %s could not be rendered.", TEMPLATE)
    except Exception:
        # No TEMPLATES, or a fault in the template: whoever waits is told all the same.
        logger.exception("The template %s could not be rendered.", TEMPLATE)
    response = HttpResponse(content, status=503, headers={"Retry-After": str(RETRY_AFTER)})
    patch_vary_headers(response, ("Cookie",))
    return response


class SessionUnavailableMiddleware(MiddlewareMixin):
    """Answers with the same page where the store fails in the middle of a view.

    To be put behind the session middleware, by who wants it: without it, a view's
    ``StoreUnavailable`` goes to the site's own error handling.
    """

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        if not isinstance(exception, StoreUnavailable):
            return None
        reports.unavailable(f"during {request.path}", exception)
        return unavailable()
