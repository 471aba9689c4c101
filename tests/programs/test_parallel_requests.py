"""No lost update, over HTTP: requests of one session race each other on two worker processes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.contenders import OURS
from benchmarks.http import CLIENTS, STEPS, races


def test_parallel_requests_of_one_session_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Measuring the coverage of the worker processes would make them many times slower.
    for name in [name for name in os.environ if name.startswith("COVERAGE_")]:
        monkeypatch.delenv(name)
    kept = races([OURS], tmp_path)[OURS]
    every = CLIENTS * STEPS
    assert every == 1600
    assert kept == dict.fromkeys(("sent", "acknowledged", "keys", "counters", "common"), every)
