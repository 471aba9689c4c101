"""The markers by which tox leaves tests out, where forgetting one would leave out too much."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]


def test_what_lives_on_djangos_databases_runs_on_each_django() -> None:
    on_databases = {
        path.name
        for path in (TESTS / "stores").glob("test_*.py")
        if re.search(
            r"^from django_kvsessions\.stores\.database|^from django\.db",
            path.read_text(),
            re.MULTILINE,
        )
    }
    marked = {
        path.name
        for path in (TESTS / "stores").glob("test_*.py")
        if "pytestmark = pytest.mark.each_django" in path.read_text()
    }
    assert "test_database.py" in on_databases
    assert on_databases <= marked
