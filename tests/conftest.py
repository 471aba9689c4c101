"""What every test starts from: no stores in use, none left behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from django_kvsessions.stores import stores


@pytest.fixture(autouse=True)
def _close_stores() -> Iterator[None]:
    yield
    stores.close_all()
