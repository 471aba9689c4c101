"""What a login brings with it: a card, an end to other sessions, and word of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth import SESSION_KEY as USER_ID
from django.contrib.auth import get_user_model
from django.contrib.auth.signals import user_logged_in

from django_kvsessions import cards, conf
from django_kvsessions.cards import check_label
from django_kvsessions.colours import Colour
from django_kvsessions.lifetime import is_login, moment
from django_kvsessions.limits import enforce
from django_kvsessions.moves import Moves
from django_kvsessions.owners import end_all
from django_kvsessions.signals import session_ended, session_started, tell
from django_kvsessions.stores.base import StoreError, now

__all__ = ["Logins"]

logger = logging.getLogger("django_kvsessions")


class Logins(Moves):
    """Logins, and what is known of them."""

    if TYPE_CHECKING:  # what the stubs of SessionBase leave out

        def _get_session(self, no_load: bool = False) -> dict[str, Any]: ...

    # The hash of the password that the user has changed in this session.
    _former_hash: str | None = None

    @property
    def authenticated_at(self) -> datetime | None:
        """When the user logged in; ``None`` for nobody, and where it is not known.

        Aware where USE_TZ is set. It loads the session: in async, load it before,
        as ``await request.auser()`` does.
        """
        user_id, saved = self._get_session().get(USER_ID), self._saved
        if is_login(saved, user_id, self._has_login):
            return moment(now())
        if user_id is None or saved is None or not saved.authenticated:
            return None
        return moment(saved.authenticated)

    def label(self, name: str, value: str | None) -> None:
        """Put a short text into the card, such as an OIDC session id; ``None`` removes it.

        It is stored with the session, and lists show it. ``ValueError`` for more
        than 32 bytes of a name or 255 of a text; a card has eight at most.
        """
        check_label(name, value)
        labels = {**self._labels, name: value}
        card = b"" if self._saved is None else self._saved.card
        cards.renewed(card, None, labels)
        self._labels, self._has_news = labels, True
        self.modified = True

    def record_visitor(self, meta: Mapping[str, Any]) -> None:
        """Keep user agent and address of a request in the card, as the settings have it.

        That is done when something is written anyway, and for a user's session.
        """
        self._visitor, self._has_news = meta, True

    def _log_in(self) -> None:
        # A login, also a repeated one, starts a new life, under an id that nobody knew before.
        self._has_login = True
        is_unknown = self._is_new_id and not self._hands_over
        self._needs_new_id = self.session_key is not None and not is_unknown
        self._is_new_id = False

    def _change_hash(self, former: object, value: object) -> None:
        """Django says so when a user has changed the password, and keeps this session alone."""
        if former and former != value and not self._has_login:
            self._former_hash, self._is_unsettled = self._former_hash or str(former), True

    # After the session was stored

    async def _settle(self, call: Colour) -> None:
        """What fails here is logged: the session is stored, and the visitor is in."""
        saved, former_hash, has_login = self._saved, self._former_hash, self._is_login
        self._former_hash, self._is_login, self._is_unsettled = None, False, False
        if saved is None or saved.user is None:
            return
        store, name, limit = self.store, saved.user, conf.max_per_user()
        try:
            if former_hash:
                is_other = await call(_is_other, sync_to_async(_is_other), name, former_hash)
                if is_other:
                    await end_all(call, store, name, self, "elsewhere")
            if has_login and limit is not None:
                await enforce(call, store, name, self._key, limit)
        except StoreError:
            logger.exception("Other sessions of a user could not be ended after a login.")
        if has_login:
            if self.has_moved:
                await tell(call, session_ended, store, reason="login", user_id=self._former_user)
            if session_started.receivers:
                user_agent, ip, _ = cards.unpack(saved.card)
                await tell(call, session_started, store, user_id=name, user_agent=user_agent, ip=ip)


def _is_other(name: str, former_hash: str) -> bool:
    """Whether it was no more than SECRET_KEY that has changed."""
    if not settings.SECRET_KEY_FALLBACKS:
        return True
    try:
        user = get_user_model()._base_manager.filter(pk=name).first()
        fallbacks = () if user is None else user.get_session_auth_fallback_hash()
        return user is not None and former_hash not in fallbacks
    except Exception:
        # Of a project's own user model, it may be anything.
        logger.exception("Whether a password has changed could not be found out.")
        return False


def _record_visitor(*, request: Any = None, **kwargs: Any) -> None:
    # The one place that has the request under Django's middleware too.
    session = getattr(request, "session", None)
    if isinstance(session, Logins):
        session.record_visitor(request.META)


user_logged_in.connect(_record_visitor, dispatch_uid="django_kvsessions.logins")
