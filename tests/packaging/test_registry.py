"""Every store is entered in the registry of testservers, and every entry is true."""

from __future__ import annotations

import json
from configparser import ConfigParser
from pathlib import Path

import pytest

from testservers.registry import STORES, is_installed, running

ROOT = Path(__file__).resolve().parents[2]


def test_every_package_of_a_store_has_an_entry() -> None:
    folders = (ROOT / "django_kvsessions/stores").glob("*/store.py")
    packages = {folder.parent.name for folder in folders}
    assert packages
    assert {entry.backend.partition(".")[0] for entry in STORES.values()} == packages


def test_every_extra_that_brings_a_driver_has_an_entry() -> None:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = set(setup["options.extras_require"])
    brought = {entry.extra for entry in STORES.values() if entry.extra}
    assert brought <= extras
    stores = {folder.name for folder in (ROOT / "django_kvsessions/stores").iterdir()}
    assert extras & stores == brought


@pytest.mark.parametrize(
    "name", [name for name, entry in STORES.items() if entry.server is None and is_installed(entry)]
)
def test_an_embedded_entry_opens_a_store(name: str, tmp_path: Path) -> None:
    with running(name, tmp_path) as (store, database):
        assert json.loads(json.dumps(store)) == store
        assert database is None
        assert set(store) == {"BACKEND", "LOCATION", "OPTIONS"}
        assert "{" not in json.dumps([store["LOCATION"], list(store["OPTIONS"].values())])
