"""Django's test runner, which adds our classes and leaves out what cannot apply."""

from __future__ import annotations

import unittest
from collections.abc import Sequence
from typing import Any

import django
from django.conf import settings
from django.core.signals import setting_changed
from django.test import runner
from django.test.runner import DiscoverRunner, ParallelTestSuite
from django.test.utils import iter_test_cases  # type: ignore[attr-defined]  # not in the stubs

OUR_TESTS = "tests.django_suite.engine_tests"

_COUNTS_QUERIES = "it counts the database queries of Django's db engine, and ours makes none"

#: Tests of Django's that cannot apply, by name, with the reason. One that does not exist any
#: more fails the run.
NOT_APPLICABLE = {
    "sessions_tests.tests.SessionMiddlewareTests.test_empty_session_saved": (
        "it reads the table of the db engine; engine_tests runs it on our stores"
    ),
    "sessions_tests.tests.SessionMiddlewareTests.test_session_update_error_redirect": (
        "it saves with the db engine; engine_tests runs it with ours"
    ),
    "auth_tests.test_views.LoginTest.test_session_key_flushed_on_login_after_password_change": (
        "it asserts that a repeated login keeps the id; here it starts a new one, which "
        "tests/test_new_ids.py tests, and after a change of the password too"
    ),
    "admin_views.tests.AdminCustomQuerysetTest.test_changelist_view_count_queries": _COUNTS_QUERIES,
    "admin_views.tests.AdminSearchTest.test_no_total_count": _COUNTS_QUERIES,
    "admin_views.tests.AdminSearchTest.test_reset_link": _COUNTS_QUERIES,
    "admin_views.tests.GroupAdminTest.test_group_permission_performance": _COUNTS_QUERIES,
    "admin_views.tests.UserAdminTest.test_user_permission_performance": _COUNTS_QUERIES,
}
if django.VERSION >= (6, 0):
    NOT_APPLICABLE[
        "auth_tests.test_middleware.TestLoginRequiredMiddleware."
        "test_protected_view_logged_in_performance"
    ] = _COUNTS_QUERIES
#: What is cleared is counted before and after.
_CLEARS_ITSELF = {
    "redis.RedisStore": "the server removes expired sessions by itself, before they can be counted",
    "mongodb.MongoDBStore": "the stand-in follows a TTL index at once, before they can be counted",
    "dynamodb.DynamoDBStore": "DynamoDB removes expired sessions by itself, and does not count",
}
session_stores: dict[str, dict[str, Any]] = settings.SESSION_STORES  # type: ignore[assignment]  # tests.settings to mypy
for alias, entry in session_stores.items():
    backend = entry.get("BACKEND", "").removeprefix("django_kvsessions.stores.")
    if reason := _CLEARS_ITSELF.get(backend):
        for test in ("test_clearsessions_command", "test_aclear_expired"):
            NOT_APPLICABLE[f"{OUR_TESTS}.{alias.capitalize()}StoreTests.{test}"] = reason


def init_worker(*args: Any, **kwargs: Any) -> None:
    """As Django's, with a store of its own, since each process has users of the same ids.

    When one of those changes the password, the other's sessions would end.
    """
    runner._init_worker(*args, **kwargs)  # type: ignore[attr-defined]  # not in the stubs
    session_stores["default"]["LOCATION"] += f"-{runner._worker_id}"  # type: ignore[attr-defined]  # not in the stubs
    setting_changed.send(sender=Runner, setting="SESSION_STORES", value=session_stores, enter=True)


class Processes(ParallelTestSuite):
    init_worker = init_worker


class Runner(DiscoverRunner):
    """Of the tests that the labels name, those that apply, and ours for the session tests."""

    parallel_test_suite = Processes

    def build_suite(
        self, test_labels: Sequence[str] | None = None, **kwargs: Any
    ) -> unittest.TestSuite:
        labels = list(test_labels or [])
        if "sessions_tests" in labels:
            labels.append(OUR_TESTS)
        self.left_out: set[str] = set()
        suite = super().build_suite(labels, **kwargs)
        vanished = {
            name
            for name in NOT_APPLICABLE.keys() - self.left_out
            if any(name.startswith(f"{label}.") for label in labels)
        }
        if vanished:
            raise LookupError(f"NOT_APPLICABLE lists tests that do not exist: {sorted(vanished)}")
        for name in sorted(self.left_out):
            print(f"Not run: {name}, because {NOT_APPLICABLE[name]}.")
        return suite

    def load_tests_for_label(
        self, label: str, discover_kwargs: dict[str, Any]
    ) -> unittest.TestSuite:
        tests = list(iter_test_cases(super().load_tests_for_label(label, discover_kwargs)))
        self.left_out.update(test.id() for test in tests if test.id() in NOT_APPLICABLE)
        return self.test_suite(test for test in tests if test.id() not in NOT_APPLICABLE)
