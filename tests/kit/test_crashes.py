"""The command that checks what stores promise of crashes: it passes the sound, and no others."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.same]

ROOT = Path(__file__).parents[2]


def crashes(*arguments: str, folder: Path) -> tuple[int, str]:
    command = [sys.executable, "-m", "django_kvsessions.testing.crashes", *arguments]
    done = subprocess.run(
        [*command, "--folder", str(folder)],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    # What it says begins with the seed.
    said = f"{shlex.join(command)}\n{done.stdout}{done.stderr}"
    if done.returncode == 2 and "This system lets no process" in said and "CI" not in os.environ:
        pytest.skip(said)
    return done.returncode, said


@pytest.mark.parametrize(
    "arguments",
    [
        ["semidbm"],
        ["semidbm", "--option", "durability=full"],
        ["lmdb", "--option", "durability=full"],
        ["lmdb"],
        ["libsql", "--option", "durability=full"],
    ],
    ids=" ".join,
)
def test_the_stores_keep_what_they_promise_of_crashes(arguments: list[str], tmp_path: Path) -> None:
    if find_spec(arguments[0]) is None:
        pytest.skip(f"{arguments[0]} is not installed")
    status, said = crashes("--store", *arguments, "--seconds", "2", folder=tmp_path)
    assert status == 0, said
    assert all(f"{run}: " in said for run in ("Power cuts", "Kills", "Damage"))


@pytest.mark.parametrize(
    ("kind", "run", "found"),
    [
        ("Unsynced", "power --seconds 2", "lost|stale"),
        ("Unsynced", "power --may-lose 1 --seconds 6", "lost|stale"),
        ("Late", "kills --seconds 2", "lost|stale"),
        ("Fragile", "kills --seconds 1", "does not open"),
    ],
)
def test_a_store_that_breaks_its_promise_is_found_out(
    kind: str, run: str, found: str, tmp_path: Path
) -> None:
    store = ["--store", f"tests.kit.leaky_stores.{kind}"]
    status, said = crashes(*store, "--runs", *run.split(), folder=tmp_path)
    assert status == 1, said
    assert re.search(found, said)


def test_what_is_found_is_kept_as_it_was(tmp_path: Path) -> None:
    store = ["--store", "tests.kit.leaky_stores.Fragile", "--runs", "power", "--seconds", "1"]
    kept = tmp_path / "kept"
    status, said = crashes(*store, "--keep", str(kept), folder=tmp_path)
    assert status == 1, said
    assert "does not open" in said
    assert (kept / "power cuts 1" / "data").exists()


def test_what_cannot_be_done_is_said(tmp_path: Path) -> None:
    status, said = crashes("--store", "semidbm", "--runs", "all", folder=tmp_path)
    assert status == 2
    assert "--runs knows power, kills, damage; not all." in said
