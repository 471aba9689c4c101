"""What every test starts from: no stores in use, none left behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from django_kvsessions.stores import stores

pytest.register_assert_rewrite("django_kvsessions.testing")


@pytest.fixture(autouse=True)
def _close_stores() -> Iterator[None]:
    yield
    stores.close_all()
