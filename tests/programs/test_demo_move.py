"""The demo moves house under traffic, and notices when something is left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from subprocess import PIPE, Popen

import pytest

from tests.programs.test_demo import DEMO, ROOT, Outcome

MOVE = [*DEMO, "--move", "db", "--requests", "120", "--clients", "4"]
LINES = {
    "whole": MOVE,
    # One worker is enough to see it.
    "broken": [*MOVE, "--engine", "tests.programs.broken_engines.losing", "--workers", "1"],
}


@pytest.fixture(scope="module")
def outcome_of() -> Iterator[Callable[[str], Outcome]]:
    """What the demo says. Both run at a time, because each waits a lot."""
    processes = {
        name: Popen(line, cwd=ROOT, stdout=PIPE, stderr=PIPE, text=True)
        for name, line in LINES.items()
    }
    outcomes: dict[str, Outcome] = {}

    def outcome_of(name: str) -> Outcome:
        if name not in outcomes:
            output, complaint = processes[name].communicate(timeout=900)
            outcomes[name] = Outcome(processes[name].returncode, output, complaint)
        return outcomes[name]

    yield outcome_of
    for name in processes:
        outcome_of(name)


def test_nobody_notices_that_the_site_moves_there_and_back(
    outcome_of: Callable[[str], Outcome],
) -> None:
    outcome = outcome_of("whole")
    assert outcome.exit_code == 0, outcome.output + outcome.complaint
    labels = ("errors", "logged out", "lost changes", "crossed", "revived")
    assert [outcome.figure(label) for label in labels] == [0] * len(labels)
    assert outcome.figure("switches of the engine") == 4
    assert outcome.figure("visitors logged in before the move") == 12
    assert outcome.figure("still there at its end") > 0
    assert outcome.figure("moved by migratesessions") > 0
    assert outcome.figure("sessions ended") > 0


def test_the_demo_fails_when_something_is_left_behind(
    outcome_of: Callable[[str], Outcome],
) -> None:
    outcome = outcome_of("broken")
    assert outcome.exit_code != 0
    assert outcome.figure("lost changes") > 0, outcome.output + outcome.complaint
    assert outcome.figure("logged out") > 0
    assert outcome.figure("crossed") == 0
    assert "shows" in outcome.complaint
