"""The demo ends well on every store, and notices when an engine breaks a promise."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.servers import missing
from testservers import registry

ROOT = Path(__file__).resolve().parents[2]
# As long as it takes on a busy machine: a run ends with its last request.
DEMO = [sys.executable, str(ROOT / "testproject/manage.py"), "demo", "--seconds", "120"]

#: How many requests it takes to show what an engine is worth.
REQUESTS = {
    "django_kvsessions.engine": 300,
    "tests.programs.broken_engines.reviving": 100,
    "tests.programs.broken_engines.muddled": 200,
}
STORES = {name: entry for name, entry in registry.STORES.items() if entry.shared}
ERRORS = "errors"
CAME_BACK = "sessions that came back after logout"
CROSSED = "sessions that crossed users"
LOGGED_OUT = "visitors logged out by another request"
LOST = "lost changes"
LET_IN = "let in"
NOTHING = (ERRORS, LOGGED_OUT, LOST, CAME_BACK, LET_IN, CROSSED)


class Outcome(NamedTuple):
    exit_code: int
    output: str
    complaint: str

    def figure(self, label: str) -> float:
        """What the report says under a label."""
        found = re.search(rf"^{label}  +([\d.,]+)(  .*)?$", self.output, re.MULTILINE)
        assert found, f"no {label!r} in:\n{self.output}{self.complaint}"
        return float(found[1].replace(",", ""))


@pytest.fixture(scope="module")
def outcome_of() -> Iterator[Callable[[str], Outcome]]:
    """What the demo did with an engine. All of them run at a time, because each waits a lot."""
    processes = {
        engine: subprocess.Popen(
            [*DEMO, "--engine", engine, "--requests", str(requests), "--clients", "4"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for engine, requests in REQUESTS.items()
    }
    outcomes: dict[str, Outcome] = {}

    def outcome_of(engine: str) -> Outcome:
        if engine not in outcomes:
            output, complaint = processes[engine].communicate(timeout=240)
            outcomes[engine] = Outcome(processes[engine].returncode, output, complaint)
        return outcomes[engine]

    yield outcome_of
    for engine in processes:
        outcome_of(engine)


def test_the_demo_finds_nothing_wrong_with_the_engine(
    outcome_of: Callable[[str], Outcome],
) -> None:
    outcome = outcome_of("django_kvsessions.engine")
    assert outcome.exit_code == 0, outcome.output + outcome.complaint
    assert [outcome.figure(label) for label in NOTHING] == [0] * len(NOTHING)
    assert outcome.figure("requests in flight at a login") > 0
    ended = outcome.figure("sessions ended elsewhere")
    assert 3 * ended >= outcome.figure("requests they tried afterwards") > 0
    assert outcome.figure("SECRET_KEY rotated") == 1
    assert outcome.figure("requests") >= 300
    assert outcome.figure("requests per second") > 0
    assert 0 < outcome.figure("p50") <= outcome.figure("p99")
    assert outcome.figure("sessions created") > outcome.figure("sessions ended") > 0
    assert outcome.figure("sessions cleared") > 0
    assert outcome.figure("workers killed") == 1


def test_the_demo_fails_when_a_slow_request_brings_a_session_back_after_logout(
    outcome_of: Callable[[str], Outcome],
) -> None:
    outcome = outcome_of("tests.programs.broken_engines.reviving")
    assert outcome.exit_code != 0
    assert outcome.figure(CAME_BACK) > 0
    assert [outcome.figure(label) for label in (ERRORS, CROSSED)] == [0, 0], outcome.complaint
    assert "came back with" in outcome.complaint


def test_the_demo_fails_when_sessions_are_mixed_up_or_lost(
    outcome_of: Callable[[str], Outcome],
) -> None:
    outcome = outcome_of("tests.programs.broken_engines.muddled")
    assert outcome.exit_code != 0
    assert outcome.figure(ERRORS) > 0
    assert outcome.figure(CAME_BACK) > 0
    assert outcome.figure(CROSSED) > 0


def test_an_unknown_store_is_refused_with_the_names_of_those_that_exist() -> None:
    result = subprocess.run(
        [*DEMO, "--store", "abacus"], check=False, capture_output=True, text=True, timeout=60
    )
    assert result.returncode != 0
    assert "abacus" in result.stderr
    _, _, names = result.stderr.partition("choose from")
    # So that each of them is tested here.
    assert set(re.findall(r"\w+", names)) == STORES.keys()


@pytest.mark.servers
class TestEachStore:
    # The default one has the tests above.
    @pytest.mark.parametrize("store", [name for name in STORES if name != "semidbm"])
    def test_the_demo_finds_nothing_wrong_with_the_store(self, store: str) -> None:
        result = subprocess.run(
            [*DEMO, "--store", store, "--requests", "100", "--clients", "4"],
            check=False,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=240,
        )
        if result.returncode == os.EX_UNAVAILABLE:
            missing(result.stderr)
        outcome = Outcome(result.returncode, result.stdout, result.stderr)
        assert outcome.exit_code == 0, outcome.output + outcome.complaint
        assert f"django_kvsessions.engine on {store}:" in outcome.output
        assert [outcome.figure(label) for label in NOTHING] == [0] * len(NOTHING)
        assert outcome.figure("sessions created") > outcome.figure("sessions ended") > 0
        assert outcome.figure("workers killed") == 1
