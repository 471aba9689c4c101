"""The visitors that the tests of served stores send find what they are to find."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.test import override_settings

from django_kvsessions.stores import stores
from django_kvsessions.testing import Proxy
from tests.kit.broken_servers import AsksAgain, BrokenToyStore, HopesForTheBest, LostIsAbsent
from tests.kit.toy_server import ToyStore, serving
from tests.support.visits import Visits, assert_lost_answers_log_nobody_out

Visit = Callable[[type[ToyStore]], Visits]


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def visit(request: pytest.FixtureRequest) -> Iterator[Visit]:
    with serving() as server, Proxy(("127.0.0.1", server.port)) as proxy:

        def visiting(store: type[ToyStore]) -> Visits:
            entry: dict[str, Any] = {
                "BACKEND": f"{store.__module__}.{store.__qualname__}",
                "LOCATION": proxy.port,
            }
            try:
                return assert_lost_answers_log_nobody_out(
                    proxy, entry, asynchronous=request.param, rate=0.2
                )
            finally:
                with override_settings(SESSION_STORES={"default": entry}):
                    stores.close_all()

        yield visiting


def test_lost_answers_log_nobody_out_of_a_store_that_admits_them(visit: Visit) -> None:
    visits = visit(ToyStore)
    assert visits.unavailable > 0
    assert "0 logged out, 0 counted twice, 0 lost" in str(visits)


@pytest.mark.parametrize("store", [AsksAgain, HopesForTheBest, LostIsAbsent])
def test_visitors_notice_a_store_that_does_not(visit: Visit, store: type[BrokenToyStore]) -> None:
    with pytest.raises(AssertionError, match=r"increments and"):
        visit(store)
