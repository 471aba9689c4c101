"""How long a session lives: Django's idle limit, within SESSION_ABSOLUTE_AGE.

All ages speak of the life that the record will have after the next save, also
where that save is the first one, or a login, with which a new life starts.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.contrib.auth import SESSION_KEY as USER_ID
from django.contrib.sessions.backends.base import SessionBase

from django_kvsessions import conf
from django_kvsessions.saved import Saved
from django_kvsessions.serializers import SessionData
from django_kvsessions.stores.base import now

__all__ = [
    "Lifetime",
    "created",
    "end_of_life",
    "is_login",
    "moment",
    "renews_cookie",
    "touch_interval",
]


class Lifetime(SessionBase):
    """The ages of a session."""

    _saved: Saved | None
    #: Whether a user id was set since the last save: also that of the same user.
    _has_login: bool

    if TYPE_CHECKING:  # what the stubs of SessionBase leave out
        _session_cache: SessionData

    # Of a subclass that overrides one of them, and means the record too, as with Django's engines.
    _has_own_expiry = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        methods = cls.get_expiry_age, cls.get_expiry_date
        cls._has_own_expiry = methods != (Lifetime.get_expiry_age, Lifetime.get_expiry_date)

    def _own_expiry(self, expiry: object) -> float:
        if type(self).get_expiry_date is not Lifetime.get_expiry_date:
            return timestamp(self.get_expiry_date(expiry=expiry))
        return now() + self.get_expiry_age(expiry=expiry)

    def get_expiry_age(self, **kwargs: object) -> int:
        return self._capped_age(super().get_expiry_age(**kwargs))

    async def aget_expiry_age(self, **kwargs: object) -> int:
        return self._capped_age(await super().aget_expiry_age(**kwargs))

    def get_expiry_date(self, **kwargs: object) -> datetime:
        return self._capped_date(super().get_expiry_date(**kwargs))

    async def aget_expiry_date(self, **kwargs: object) -> datetime:
        return self._capped_date(await super().aget_expiry_date(**kwargs))

    def _capped_age(self, age: int) -> int:
        end = end_of_life(self._created())
        return age if end is None else min(age, max(0, int(end - now())))

    def _capped_date(self, date: datetime) -> datetime:
        end = end_of_life(self._created())
        return date if end is None else min(date, datetime.fromtimestamp(end, date.tzinfo))

    def _created(self) -> float:
        """When the life began that the session will have after the next save."""
        data = getattr(self, "_session_cache", {})
        return created(self._saved, data.get(USER_ID), self._has_login)

    def _expires(self, expiry: Any, created: float) -> float:
        """When a record with this ``_session_expiry`` is to expire, in Unix time."""
        if self._has_own_expiry:
            expires = self._own_expiry(expiry)
        elif isinstance(expiry, (str, datetime)):
            expires = timestamp(super().get_expiry_date(expiry=expiry))
        else:
            # Not by way of a date, which may be one of two in an hour that the clocks repeat.
            expires = now() + (expiry or self.get_session_cookie_age())
        end = end_of_life(created)
        return expires if end is None else min(expires, end)


def renews_cookie(sent: Saved | None, saved: Saved) -> bool:
    """Whether the cookie is to be sent again for a session that was written or touched.

    Once in each touch interval is enough, and safer: an answer to the id from
    before a login, if it comes late, takes the place of the new one.
    """
    if sent is saved:
        return False
    if sent is None or sent.expiry != saved.expiry or sent.created != saved.created:
        return True
    interval = touch_interval(saved.expires)
    since = saved.expires - sent.expires
    age = now() - saved.created
    return not interval or since < 0 or age // interval != (age - since) // interval


def touch_interval(expires: float) -> float:
    """Seconds by which an expiry has to move before it is told the store or the browser."""
    interval, age = conf.touch_interval(), max(0.0, expires - now())
    # Beyond half of its age, a session in use could end between two visits.
    return age / 100 if interval is None else min(interval, age / 2)


def created(saved: Saved | None, user_id: object, has_login: bool) -> float:
    """When the life began of what is saved next: a login starts a new one."""
    if saved is None or is_login(saved, user_id, has_login):
        return now()
    # A clock that was put back must not lengthen a life.
    return saved.created if conf.absolute_age() is None else min(saved.created, now())


def is_login(saved: Saved | None, user_id: object, has_login: bool) -> bool:
    """Whether what is saved next has a user who was not there, or has authenticated anew."""
    return user_id is not None and (has_login or saved is None or str(user_id) != saved.user)


def end_of_life(created: float) -> float | None:
    """When SESSION_ABSOLUTE_AGE ends a session, in Unix time; ``None`` if it does not."""
    age = conf.absolute_age()
    return None if age is None else created + age


def moment(timestamp: float) -> datetime:
    """As Django's own dates: aware where USE_TZ is set, naive otherwise."""
    if settings.USE_TZ:
        return datetime.fromtimestamp(timestamp, tz=timezone.utc)
    return datetime.fromtimestamp(timestamp)  # noqa: DTZ006 (naive is what such a site has)


def timestamp(date: datetime) -> float:
    """Unix time. Of a naive date in an hour that the clocks repeat, that which is to come."""
    moment = date.timestamp()
    return moment if moment > now() else date.replace(fold=1).timestamp()
