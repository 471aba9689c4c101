"""What every test starts from, and which of them tox leaves out on most Djangos."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from django_kvsessions.stores import stores
from tests.settings import BASE_DIR

pytest.register_assert_rewrite("django_kvsessions.testing")

#: Test modules whose drivers are only installed where the servers are.
DRIVERS = {"test_dynamodb", "test_firestore", "test_libsql", "test_mongodb", "test_surrealdb"}
#: Test modules of code that meets nothing of Django but its settings and errors.
SAME_ON_EVERY_DJANGO = {"test_merging", "test_options", "test_serializers"}
TESTS = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folder = item.path.relative_to(TESTS).parts[0]
        if folder == "programs":
            item.add_marker("slow")
        if item.path.stem in DRIVERS:
            item.add_marker("servers")
        if item.path.stem in SAME_ON_EVERY_DJANGO or (
            folder in ("kit", "stores") and not item.path.stem.startswith("test_database")
        ):
            item.add_marker("same")


@pytest.fixture(autouse=True)
def _empty_stores() -> Iterator[None]:
    yield
    stores.close_all()
    shutil.rmtree(BASE_DIR / "sessions", ignore_errors=True)
