"""How long ago something was, in words."""

from __future__ import annotations

from datetime import datetime

from django.utils import timezone
from django.utils.formats import date_format
from django.utils.translation import gettext, ngettext

__all__ = ["ago"]

MINUTE, HOUR, DAY = 60, 3600, 86400
#: Days after which a date says more.
LONG_AGO = 30


def ago(moment: datetime, now: datetime) -> str:
    """In the largest unit that fits; a date where it was long ago."""
    # Not timesince: "vor 2 Tage" is no German.
    seconds = int((now - moment).total_seconds())
    if seconds < MINUTE:
        return gettext("just now")
    if seconds < HOUR:
        count = seconds // MINUTE
        return ngettext("%(count)d minute ago", "%(count)d minutes ago", count) % {"count": count}
    if seconds < DAY:
        count = seconds // HOUR
        return ngettext("%(count)d hour ago", "%(count)d hours ago", count) % {"count": count}
    if seconds < LONG_AGO * DAY:
        count = seconds // DAY
        return ngettext("%(count)d day ago", "%(count)d days ago", count) % {"count": count}
    return date_format(timezone.localtime(moment) if timezone.is_aware(moment) else moment)
