"""The README is short and right wherever it is shown; tests/docs runs its examples."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from django_kvsessions.stores.semidbm import SemidbmStore

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def test_the_quick_start_brings_the_checks_and_the_richer_command(tmp_path: Path) -> None:
    block = re.search(r"## Quick start.*?^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert block
    (tmp_path / "quick_settings.py").write_text(
        f"from pathlib import Path\nBASE_DIR = Path({str(tmp_path)!r})\nSECRET_KEY = 'quick'\n"
        f"{block[1]}\nSESSION_STORE = {{}}  # one slip\n"
    )
    checked = django("quick_settings", tmp_path, "check")
    assert re.findall(r"\(kvsessions\.\w+\) \w+", checked.stdout + checked.stderr) == [
        "(kvsessions.W007) SESSION_STORE"
    ]
    cleared = django("quick_settings", tmp_path, "clearsessions")
    assert cleared.stdout.startswith("Removed 0 expired sessions from 'default'")


WRITER = """
import sys, time
from django_kvsessions.stores.base import Record
from django_kvsessions.stores.semidbm import SemidbmStore
store = SemidbmStore(sys.argv[1])
for number in range(1_000_000):
    assert store.create(number.to_bytes(32, "big"), Record(bytes(500), time.time() + 1000, 1))
    print(number, flush=True)
"""


def test_a_copy_of_semidbms_folder_opens_that_was_made_while_the_site_writes(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "sessions"
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert writer.stdout is not None
        for turn in range(5):
            for _ in range(500):
                acknowledged = int(writer.stdout.readline())
            # What is under way may have another name before it is copied.
            ignored = shutil.ignore_patterns("*.copy", "*.new")
            shutil.copytree(folder, tmp_path / f"copy-{turn}", ignore=ignored)
            copied = SemidbmStore(tmp_path / f"copy-{turn}")
            for number in range(acknowledged + 1):
                assert copied.load(number.to_bytes(32, "big")) is not None, number
            copied.close()
    finally:
        writer.kill()
        writer.communicate()


def django(settings: str, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "django", *command],
        check=False,
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": settings,
            # The next example has the same file, which must not be taken for this one.
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": os.pathsep.join([str(folder), *sys.path]),
        },
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_it_is_short_and_the_same_wherever_it_is_shown() -> None:
    assert len(README.splitlines()) <= 150
    # On PyPI there is nothing beside it, so it can name files and not link to them.
    targets = re.findall(r"\]\(([^)]+)\)|(?:src|href)=[\"']([^\"']+)", README)
    assert all(target.startswith("https://") for pair in targets for target in pair if target)


def test_the_commands_at_the_top_are_those_that_ci_runs() -> None:
    assert "python -m pip install tox && tox\n" in README
    assert "python -m pip install tox && tox" in (ROOT / ".ci" / "run").read_text()
