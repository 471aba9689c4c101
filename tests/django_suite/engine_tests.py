"""Django's session tests with our engine: on each store, middleware and command."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest import mock

from django.conf import settings
from django.core.management import get_commands
from django.test import TestCase, TransactionTestCase, modify_settings, override_settings
from django.utils.module_loading import import_string
from sessions_tests import tests as django_tests

from django_kvsessions import conf
from django_kvsessions.engine import SessionStore
from django_kvsessions.stores import stores
from django_kvsessions.stores.base import StoreStats


class Records:
    """Stands in for ``Session.objects``, where a test of Django's looks at what is stored."""

    def get(self, session_key: str) -> SimpleNamespace:
        return SimpleNamespace(get_decoded=SessionStore(session_key).load)

    def count(self) -> int:
        return total(stores[conf.store_alias()].stats())

    async def acount(self) -> int:
        return total(await stores[conf.store_alias()].astats())


def total(stats: StoreStats) -> int:
    assert stats.live is not None
    return stats.live + (stats.expired or 0)


class Model:
    objects = Records()


def empty_store() -> None:
    store = stores[conf.store_alias()]
    store.setup()
    for key, _ in store.scan():
        store.delete(key)
    for _ in store.delete_expired():
        pass


class StoreTests(django_tests.SessionTestsMixin):
    """What Django tests with each of its engines, and what it tests with one alone."""

    backend = SessionStore
    session_engine = settings.SESSION_ENGINE
    model = Model

    test_clearsessions_command = django_tests.DatabaseSessionTests.test_clearsessions_command
    test_aclear_expired = django_tests.DatabaseSessionTests.test_aclear_expired
    test_load_overlong_key = django_tests.CacheSessionTests.test_load_overlong_key

    def setUp(self) -> None:
        empty_store()
        super().setUp()


for alias in settings.SESSION_STORES:
    if alias == "default" or "." in alias:
        continue
    name = f"{alias.capitalize()}StoreTests"
    attributes: dict[str, Any] = {"__module__": __name__}
    test_case: type[TransactionTestCase] = TestCase
    if alias in settings.DATABASES:
        # Within a test's own transaction no other thread would see anything.
        attributes |= {
            "databases": {"default", alias},
            "available_apps": ["django.contrib.sessions"],
        }
        test_case = TransactionTestCase
    case = type(name, (StoreTests, test_case), attributes)
    globals()[name] = override_settings(SESSION_STORE_ALIAS=alias)(case)


class MiddlewareTests(django_tests.SessionMiddlewareTests):
    """Django's middleware, saving with our engine also where a test names Django's."""

    middleware = "django.contrib.sessions.middleware.SessionMiddleware"

    def setUp(self) -> None:
        names = {
            "SessionMiddleware": import_string(self.middleware),
            "DatabaseSession": SessionStore,
            "Session": Model,
        }
        for name, ours in names.items():
            patch = mock.patch.object(django_tests, name, ours)
            patch.start()
            self.addCleanup(patch.stop)
        super().setUp()


# The cookie is refreshed when the record is: with each response, as Django's tests ask for.
@override_settings(SESSION_TOUCH_INTERVAL=0)
class OurMiddlewareTests(MiddlewareTests):
    middleware = "django_kvsessions.middleware.SessionMiddleware"


# It clears every store there is: only one of its own, because others are being tested meanwhile.
@override_settings(SESSION_STORES={"default": settings.SESSION_STORES["memory"]})
@modify_settings(INSTALLED_APPS={"prepend": "django_kvsessions"})
class OurCommandTests(django_tests.ClearSessionsCommandTests, TestCase):
    """``clearsessions`` of this app, in the place of Django's."""

    backend = SessionStore
    session_engine = settings.SESSION_ENGINE
    model = Model

    test_clearsessions_command = django_tests.DatabaseSessionTests.test_clearsessions_command

    def setUp(self) -> None:
        # Django finds out where a command is only once.
        get_commands.cache_clear()  # type: ignore[attr-defined]  # not in the stubs
        self.addCleanup(get_commands.cache_clear)  # type: ignore[attr-defined]  # likewise
        empty_store()
        self.session = self.backend()
        super().setUp()

    def test_it_is_ours(self) -> None:
        self.assertEqual(get_commands()["clearsessions"], "django_kvsessions")
