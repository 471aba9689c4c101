"""Your devices: each session of the user, to be ended one by one, or all others at once."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.contrib.auth import logout
from django.contrib.auth.mixins import LoginRequiredMixin
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.decorators import method_decorator
from django.utils.translation import gettext, ngettext
from django.views.decorators.cache import never_cache
from django.views.generic import TemplateView

from django_kvsessions.decorators import fresh_login_required
from django_kvsessions.devices.shown import ShownSession, found, shown
from django_kvsessions.owners import end_session, end_sessions, sessions_of
from django_kvsessions.stores.base import StoreError

__all__ = ["DevicesView", "EndOthersView", "EndView"]

logger = logging.getLogger("django_kvsessions")


@method_decorator(never_cache, name="dispatch")
class SessionsView(LoginRequiredMixin, TemplateView):
    """Of a user who is logged in; a 503 where the store cannot answer, which ends no session."""

    unavailable_template_name = "django_kvsessions/devices/unavailable.html"

    def dispatch(
        self,
        request: HttpRequest,
        *args: Any,
        max_login_age: float | timedelta | None = None,
        **kwargs: Any,
    ) -> HttpResponseBase:
        view = super().dispatch
        if max_login_age is not None and self.ends_others(**kwargs):
            view = fresh_login_required(max_age=max_login_age)(view)
        try:
            response = view(request, *args, **kwargs)
            # Here, since what a template looks up may need the store too.
            if hasattr(response, "render"):
                response.render()
        except StoreError:
            logger.exception("The sessions of a user could not be listed or ended.")
            return self.unavailable(request)
        return response

    def ends_others(self, **kwargs: Any) -> bool:
        """Whether it ends sessions beside the request's own, which may ask for a fresh login."""
        return False

    def unavailable(self, request: HttpRequest) -> HttpResponse:
        template = self.unavailable_template_name
        context = {"is_ending": request.method == "POST"}
        try:
            page = render_to_string(template, context, request)
        except StoreError:
            # The site's own pages want to know who is there.
            page = render_to_string(template, context)
        return HttpResponse(page, status=503)

    def back(self) -> HttpResponse:
        match = self.request.resolver_match
        namespace = match.namespace if match else None
        return redirect(reverse("kvsessions:devices", current_app=namespace))

    def shown(self) -> list[ShownSession]:
        return shown(self.request, sessions_of(self.request.user))


class DevicesView(SessionsView):
    """``page``, of ``ShownSession``s, and ``others``: how many sessions there are beside this."""

    template_name = "django_kvsessions/devices/list.html"
    paginate_by = 20

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        sessions = self.shown()
        page = Paginator(sessions, self.paginate_by).get_page(self.request.GET.get("page"))
        others = sum(not one.is_current for one in sessions)
        return super().get_context_data(page=page, others=others, **kwargs)


class EndView(SessionsView):
    """Asks, and by POST ends one of the user's sessions: 404 where it is none of them."""

    template_name = "django_kvsessions/devices/end.html"

    def ends_others(self, **kwargs: Any) -> bool:
        return bool(kwargs["public_id"] != getattr(self.request.session, "public_id", None))

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return super().get_context_data(shown=found(self.shown(), kwargs["public_id"]), **kwargs)

    def post(self, request: HttpRequest, *args: Any, public_id: str, **kwargs: Any) -> HttpResponse:
        one = found(self.shown(), public_id)
        if one.is_current:
            logout(request)
            return redirect(settings.LOGOUT_REDIRECT_URL or settings.LOGIN_URL)
        if not end_session(request.user, public_id):
            raise Http404
        said = gettext("%(device)s was logged out.") % {"device": one.name}
        messages.success(request, said, fail_silently=True)
        return self.back()


class EndOthersView(SessionsView):
    """Asks, and by POST ends all sessions of the user but this one."""

    template_name = "django_kvsessions/devices/end_others.html"

    def ends_others(self, **kwargs: Any) -> bool:
        return True

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        others = sum(not one.is_current for one in self.shown())
        if not others:
            return self.back()
        return self.render_to_response(self.get_context_data(others=others, **kwargs))

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        count = end_sessions(request.user, keep=request)
        said = ngettext(
            "%(count)d other device was logged out.",
            "%(count)d other devices were logged out.",
            count,
        )
        messages.success(request, said % {"count": count}, fail_silently=True)
        return self.back()
