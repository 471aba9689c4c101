"""What every test starts from, and which of them tox leaves out on most Djangos."""

from __future__ import annotations

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


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        mark = MARKS.get(item.path.relative_to(TESTS).parts[0])
        # What lives on Django's database layer is in the same folder as the other stores.
        if mark is not None and not (mark == "same" and item.get_closest_marker("each_django")):
            item.add_marker(mark)


@pytest.fixture(autouse=True)
def _empty_stores() -> Iterator[None]:
    yield
    stores.close_all()
    reports.forget()
    shutil.rmtree(BASE_DIR / "sessions", ignore_errors=True)
