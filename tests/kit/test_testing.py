"""The conformance kit passes a store that keeps the contract, and catches those that do not."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from django_kvsessions.testing import MakeStore, StoreConformance
from tests.kit import broken_stores, folder_store, toy_server
from tests.kit.folder_store import FolderStore

BROKEN = [(store, test) for store, tests in broken_stores.BROKEN.items() for test in tests]


class TestFolderStore(StoreConformance):
    makes_backups = True
    outage = folder_store.outage

    @pytest.fixture
    def make_store(self, tmp_path: Path) -> MakeStore:
        return partial(FolderStore, tmp_path / "records")


class TestToyStore(StoreConformance):
    persistent = False
    fork_safe = False
    server, make_store, cutting = toy_server.conformance(toy_server.ToyStore).values()


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> set[tuple[str, str]]:
    """Which tests of which broken store failed, out of those that must."""
    report = tmp_path_factory.mktemp("kit") / "report.xml"
    result = subprocess.run(
        # They fail because they are to.
        [sys.executable, "-m", "pytest", "-p", "no:rerunfailures", "-q", "--tb=line"]
        + [f"--junitxml={report}"]
        + [f"{broken_stores.__file__}::Test{store}::{test}" for store, test in BROKEN],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == pytest.ExitCode.TESTS_FAILED, result.stdout + result.stderr
    return {
        (case.attrib["classname"].rpartition(".Test")[2], name)
        for case in ET.parse(report).iter("testcase")
        if case.find("failure") is not None
        for name in (case.attrib["name"], case.attrib["name"].partition("[")[0])
    }


@pytest.mark.parametrize(("store", "test"), BROKEN)
def test_a_broken_store_is_caught(store: str, test: str, failed: set[tuple[str, str]]) -> None:
    assert (store, test) in failed
