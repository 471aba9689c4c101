"""The admin's pages: sessions counted by store, a user looked up, and their sessions ended."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import wraps
from typing import TYPE_CHECKING, Any, NamedTuple

from django.contrib import admin, messages
from django.contrib.admin.utils import quote
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.translation import gettext, ngettext

from django_kvsessions.devices.lookup import matching_users, user_by_quoted_pk
from django_kvsessions.devices.shown import found, shown
from django_kvsessions.models import UserSession
from django_kvsessions.owners import end_session, end_sessions, sessions_of
from django_kvsessions.stores import stores
from django_kvsessions.stores.base import StoreError, StoreStats

__all__ = ["UserSessionAdmin"]

logger = logging.getLogger("django_kvsessions")

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[UserSession]
else:
    ModelAdmin = admin.ModelAdmin


class UserSessionAdmin(ModelAdmin):
    """Shows neither what is in a session nor its id.

    Who has the permission ``view_usersession`` sees the sessions of a user, who
    has ``delete_usersession`` too may end them.
    """

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return False

    def get_urls(self) -> list[URLPattern]:
        def page(route: str, view: Callable[..., HttpResponse], name: str) -> URLPattern:
            name = f"{self.opts.app_label}_{self.opts.model_name}_{name}"
            return path(route, self.admin_site.admin_view(self.answering(view)), name=name)

        return [
            page("", self.changelist_view, "changelist"),
            page("<str:user_id>/", self.user_view, "change"),
            page("<str:user_id>/end/", self.end_all_view, "end_all"),
            page("<str:user_id>/end/<str:public_id>/", self.end_view, "end"),
        ]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """How many sessions there are, and a search for a user."""
        require(self.has_view_permission(request))
        query = request.GET.get("q", "").strip()
        users = matching_users(query) if query else None
        context = {"counted": list(counted()), "query": query, "users": users}
        title = str(self.opts.verbose_name_plural).capitalize()
        return self.respond(request, "overview", title, {**context, **(extra_context or {})})

    def user_view(self, request: HttpRequest, user_id: str) -> HttpResponse:
        require(self.has_view_permission(request))
        user = user_by_quoted_pk(user_id)
        sessions = shown(request, sessions_of(user))
        may_end = self.has_delete_permission(request)
        others = sum(not one.is_current for one in sessions)
        context = {"account": user, "sessions": sessions, "may_end": may_end, "others": others}
        title = gettext("Sessions of %(user)s") % {"user": user}
        return self.respond(request, "user", title, context)

    def end_view(self, request: HttpRequest, user_id: str, public_id: str) -> HttpResponse:
        """Asks, and by POST ends one session; not the one by which it is asked for."""
        require(self.has_view_permission(request) and self.has_delete_permission(request))
        user = user_by_quoted_pk(user_id)
        one = found(shown(request, sessions_of(user)), public_id)
        if one.is_current:
            raise Http404
        if request.method != "POST":
            return self.respond(
                request, "end", gettext("End this session?"), {"account": user, "shown": one}
            )
        if not end_session(user, public_id):
            raise Http404
        return self.ended(request, user, gettext("Ended the session “%s”.") % one.name)

    def end_all_view(self, request: HttpRequest, user_id: str) -> HttpResponse:
        """Asks, and by POST ends all sessions of a user; not the one by which it is asked for."""
        require(self.has_view_permission(request) and self.has_delete_permission(request))
        user = user_by_quoted_pk(user_id)
        if request.method != "POST":
            title = gettext("End all sessions of %(user)s?") % {"user": user}
            return self.respond(request, "end", title, {"account": user, "shown": None})
        count = end_sessions(user, keep=request if user == request.user else None)
        said = ngettext("Ended %(count)d session.", "Ended %(count)d sessions.", count)
        return self.ended(request, user, said % {"count": count})

    def ended(self, request: HttpRequest, user: Any, said: str) -> HttpResponse:
        """Into the log, under the user whose sessions they were."""
        self.log_change(request, user, said)
        self.message_user(request, said, messages.SUCCESS)
        opts = self.opts
        name = f"{self.admin_site.name}:{opts.app_label}_{opts.model_name}_change"
        return redirect(name, user_id=quote(user.pk))

    def answering(self, view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
        """The view with a 503 where the store does not answer, which ends no session."""

        @wraps(view)
        def answer(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            try:
                return view(request, *args, **kwargs)
            except StoreError:
                logger.exception("The sessions of a user could not be listed or ended.")
                title = gettext("Not available right now")
                response = self.respond(request, "unavailable", title, {})
                response.status_code = 503
                return response

        return answer

    def respond(
        self, request: HttpRequest, name: str, title: str, context: dict[str, Any]
    ) -> HttpResponse:
        request.current_app = self.admin_site.name
        return TemplateResponse(
            request,
            f"admin/django_kvsessions/usersession/{name}.html",
            {**self.admin_site.each_context(request), "opts": self.opts, "title": title, **context},
        )


class Counted(NamedTuple):
    alias: str
    #: ``None`` where the store does not answer.
    stats: StoreStats | None


def counted() -> Iterator[Counted]:
    for alias in stores:
        try:
            yield Counted(alias, stores[alias].stats())
        except (StoreError, ImproperlyConfigured):
            logger.exception("The sessions in %r could not be counted.", alias)
            yield Counted(alias, None)


def require(is_permitted: bool) -> None:
    if not is_permitted:
        raise PermissionDenied
