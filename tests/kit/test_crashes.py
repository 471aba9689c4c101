"""The command that checks what stores promise of crashes: it passes the sound, and no others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.same]

ROOT = Path(__file__).parents[2]


def crashes(*arguments: str, folder: Path) -> tuple[int, str]:
    command = [sys.executable, "-m", "django_kvsessions.testing.crashes", *arguments]
    done = subprocess.run(
        [*command, "--seed", "1", "--folder", str(folder)],
        cwd=ROOT,
        check=False,
        stdout=subprocess.PIPE,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["semidbm"],
        ["semidbm", "--option", "durability=full"],
        ["lmdb", "--option", "durability=full"],
        ["lmdb"],
        ["libsql"],
    ],
    ids=" ".join,
)
def test_the_stores_keep_what_they_promise_of_crashes(arguments: list[str], tmp_path: Path) -> None:
    status, said = crashes("--store", *arguments, "--seconds", "3", folder=tmp_path)
    assert status == 0, said
    assert all(f"{run}: " in said for run in ("Power cuts", "Kills", "Damage"))


@pytest.mark.parametrize(
    ("kind", "run", "found"),
    [
        ("Unsynced", "power", "lost"),
        ("Late", "kills", "stale"),
        ("Fragile", "kills", "does not open"),
        ("Fragile", "power", "does not open"),
    ],
)
def test_a_store_that_breaks_its_promise_is_found_out(
    kind: str, run: str, found: str, tmp_path: Path
) -> None:
    store = ["--store", f"tests.kit.leaky_stores.{kind}", "--may-lose", "0"]
    status, said = crashes(*store, "--runs", run, "--seconds", "3", folder=tmp_path)
    assert status == 1, said
    assert found in said
