"""A user's sessions as the pages and the admin show them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from django.http import Http404, HttpRequest
from django.utils import timezone
from django.utils.crypto import constant_time_compare
from django.utils.text import Truncator
from django.utils.translation import gettext, pgettext_lazy

from django_kvsessions.devices.words import ago
from django_kvsessions.owners import OwnedSession

__all__ = ["ShownSession", "found", "shown"]

KINDS = {
    "desktop": pgettext_lazy("sessions", "Computer"),
    "phone": pgettext_lazy("sessions", "Phone"),
    "tablet": pgettext_lazy("sessions", "Tablet"),
    "robot": pgettext_lazy("sessions", "Robot"),
}
UNKNOWN = pgettext_lazy("sessions", "Unknown")
#: What its maker calls a system today.
RENAMED = {"Mac OS X": "macOS"}
#: Characters that are shown of a user agent.
SHOWN = 60


@dataclass(frozen=True)
class ShownSession:
    """One session, in words."""

    session: OwnedSession
    #: Whether it is the request's own.
    is_current: bool
    now: datetime

    @property
    def name(self) -> str:
        """Browser and system, or the user agent as it came where they are not known."""
        device = self.session.device
        browser = device.browser if device else None
        system = RENAMED.get(device.os, device.os) if device and device.os else None
        if browser and system:
            return gettext("%(browser)s on %(system)s") % {"browser": browser, "system": system}
        # Without ua-parser, or of what it does not know.
        sent = Truncator(self.session.user_agent or "").chars(SHOWN)
        return browser or system or sent or gettext("Unknown device")

    @property
    def kind(self) -> str:
        """Which icon; empty where it is not known."""
        device = self.session.device
        return (device.kind if device else None) or ""

    @property
    def kind_name(self) -> str:
        return str(KINDS.get(self.kind, UNKNOWN))

    @property
    def first_seen(self) -> str:
        return ago(self.session.created, self.now)

    @property
    def last_seen(self) -> str:
        # Extending a life is put off: the session of this very request may look hours old.
        return gettext("just now") if self.is_current else ago(self.session.last_seen, self.now)


def shown(request: HttpRequest, sessions: Iterable[OwnedSession]) -> list[ShownSession]:
    """The request's own first, the others in their order."""
    now = timezone.now()
    in_words = [ShownSession(session, session.is_current(request), now) for session in sessions]
    return sorted(in_words, key=lambda one: not one.is_current)


def found(sessions: Iterable[ShownSession], public_id: str) -> ShownSession:
    """The one of that public id; ``Http404`` where it is none of them."""
    for one in sessions:
        if constant_time_compare(one.session.public_id, public_id):
            return one
    raise Http404
