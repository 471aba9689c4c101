"""What every test starts from, and which of them tox leaves out on most Djangos."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from django_kvsessions import reports
from django_kvsessions.stores import stores
from tests.settings import BASE_DIR

pytest.register_assert_rewrite("django_kvsessions.testing")

TESTS = Path(__file__).parent
#: What holds for every test in a folder; a module may say more in its ``pytestmark``.
MARKS = {"kit": "same", "programs": "slow", "stores": "same"}
#: What waits for servers and processes, which a machine that CI shares with others may stall. There
#: it has a second try, as in CPython's CI (``regrtest --rerun``), and the last lines name it.
WAITING = {"servers", "slow", "same"}
SECOND_TRY = pytest.mark.flaky(reruns=1, reruns_delay=5)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    may_rerun = "CI" in os.environ and config.pluginmanager.hasplugin("rerunfailures")
    for item in items:
        mark = MARKS.get(item.path.relative_to(TESTS).parts[0])
        # What lives on Django's database layer is in the same folder as the other stores.
        if mark is not None and not (mark == "same" and item.get_closest_marker("each_django")):
            item.add_marker(mark)
        if may_rerun and any(mark.name in WAITING for mark in item.iter_markers()):
            item.add_marker(SECOND_TRY)


@pytest.fixture(autouse=True)
def _empty_stores() -> Iterator[None]:
    yield
    stores.close_all()
    reports.forget()
    shutil.rmtree(BASE_DIR / "sessions", ignore_errors=True)
