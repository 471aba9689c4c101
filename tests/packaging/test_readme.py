"""The README's examples run, and what it names exists."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.utils.module_loading import import_string

from django_kvsessions import conf
from django_kvsessions.engine import SessionStore
from django_kvsessions.stores.base import Store
from django_kvsessions.stores.semidbm import SemidbmStore

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


@pytest.fixture
def examples(tmp_path: Path) -> dict[str, Any]:
    """The names that the examples define, one after the other."""
    names: dict[str, Any] = {
        "BASE_DIR": tmp_path,
        "request": SimpleNamespace(session=SessionStore()),
        "every_stores": [],
    }
    for block in re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL):
        exec(compile(block, "README.md", "exec", dont_inherit=True), names)
        if "SESSION_STORES" in names:
            names["every_stores"].append(names.pop("SESSION_STORES"))
    return names


def test_the_examples_run(examples: dict[str, Any]) -> None:
    assert examples["number"] == 1
    assert examples["request"].session.mutate(examples["take_ticket"]) == 2
    assert examples["count_view"](examples["request"]) == 1
    assert examples["count_view"](examples["request"]) == 2
    guest = examples["guest"].get(examples["request"].session)
    assert guest.first_seen < guest.last_seen


def test_the_settings_of_the_examples_are_sound(examples: dict[str, Any], tmp_path: Path) -> None:
    engine = examples["SESSION_ENGINE"]
    assert len(examples["every_stores"]) > 4
    for stores in examples["every_stores"]:
        assert check(tmp_path, engine, stores) == []
    assert "LOCATOIN" in "".join(check(tmp_path, engine, {"default": {"LOCATOIN": "here"}}))


def test_no_example_puts_two_stores_in_one_place(examples: dict[str, Any]) -> None:
    backends: dict[str, str] = {}
    for stores in examples["every_stores"]:
        for config in stores.values():
            if isinstance(config.get("LOCATION"), Path):
                place = str(config["LOCATION"])
                assert backends.setdefault(place, config["BACKEND"]) == config["BACKEND"], place
    assert len(backends) > 2


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
            shutil.copytree(folder, tmp_path / f"copy-{turn}")
            copied = SemidbmStore(tmp_path / f"copy-{turn}")
            for number in range(acknowledged + 1):
                assert copied.load(number.to_bytes(32, "big")) is not None, number
            copied.close()
    finally:
        writer.kill()
        writer.communicate()


def check(folder: Path, engine: str, stores: dict[str, Any]) -> list[str]:
    """What ``manage.py check`` says of a new project with these settings."""
    (folder / "readme_settings.py").write_text(
        f"""
from pathlib import PosixPath
SECRET_KEY = "for this test"
INSTALLED_APPS = ["django_kvsessions"]
DATABASES = {{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": "db"}}}}
# The database is this project's own, and no part of an example.
SILENCED_SYSTEM_CHECKS = ["kvsessions.W130"]
SESSION_ENGINE = {engine!r}
SESSION_STORES = {stores!r}
"""
    )
    checked = django("readme_settings", folder, "check")
    said = (checked.stdout + checked.stderr).splitlines()
    problems = [line for line in said if "kvsessions." in line]
    assert problems or checked.returncode == 0, said
    # A driver that is not installed here says nothing of the example.
    return [line for line in problems if "pip install" not in line]


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
        timeout=60,
    )


def test_every_setting_is_in_the_table() -> None:
    named = set(re.findall(r"^\| `(SESSION_\w+)` \|", README, re.MULTILINE))
    source = Path(conf.__file__).read_text()
    assert set(re.findall(r'"(SESSION_\w+)"', source)) <= named


def test_every_store_is_in_the_table() -> None:
    stores = ROOT / "django_kvsessions" / "stores"
    defined = {
        f"{path.relative_to(stores).with_suffix('').parts[0]}.{name}"
        for path in stores.rglob("*.py")
        if path.stem not in ("base", "paged")
        for name in re.findall(r"^class (\w+Store)\(\w*Store\b", path.read_text(), re.MULTILINE)
    }
    listed = set(re.findall(r"^\| `(\w+\.\w+Store)`", README, re.MULTILINE))
    assert listed == defined
    for name in listed:
        assert issubclass(import_string(f"django_kvsessions.stores.{name}"), Store)


def test_the_pictures_are_there() -> None:
    for target in re.findall(r"\]\(((?!http|#)[^)]+)\)", README):
        assert (ROOT / target.split("#")[0]).exists(), target


def test_the_commands_at_the_top_are_those_that_ci_runs() -> None:
    assert "python -m pip install tox && tox\n" in README
    assert "python -m pip install tox && tox" in (ROOT / ".ci" / "run").read_text()
