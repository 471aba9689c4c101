"""The test site as a person meets it who starts it by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

VISIT = """
import json, logging, sys, threading, time
import django
django.setup()
from django.conf import settings
from django.core.management import call_command
from django.test import Client
call_command("migrate", verbosity=0)
logging.getLogger("django.security.SuspiciousSession").warning("this is said")
visitor, other = Client(HTTP_HOST="localhost"), Client(HTTP_HOST="localhost")
visitor.post("/login/", {"username": "alice", "password": "open sesame"})
visitor.post("/session/expiry/", {"seconds": "3600"})
pages = {"session": visitor.get("/session/").content.decode()}
other.cookies = visitor.cookies
answers = []
def slow():
    answers.append(other.post("/session/slow/", {"seconds": "5"}))
thread = threading.Thread(target=slow)
thread.start()
time.sleep(0.5)
visitor.post("/logout/")
thread.join()
pages["slow"], pages["status"] = answers[0].content.decode(), answers[0].status_code
print(json.dumps(pages))
"""


@pytest.fixture(scope="module")
def visit(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """What the pages of a visit say, and the log."""
    run = subprocess.run(
        [sys.executable, "-c", VISIT],
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "website.settings",
            "KVSESSIONS_VAR": str(tmp_path_factory.mktemp("var")),
            "PYTHONPATH": os.pathsep.join([str(ROOT / "testproject"), str(ROOT), *sys.path]),
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout), run.stderr


Visit = tuple[dict[str, Any], str]


def test_a_session_that_ended_meanwhile_is_a_friendly_page(visit: Visit) -> None:
    pages, _ = visit
    assert pages["status"] == 400
    assert "Your session ended while the request was on its way" in pages["slow"]
    assert "Traceback" not in pages["slow"]


def test_the_expiry_form_shows_what_is_set(visit: Visit) -> None:
    pages, _ = visit
    assert '<option value="3600" selected>' in pages["session"]


def test_each_line_of_the_log_is_there_once(visit: Visit) -> None:
    _, log = visit
    assert log.count("this is said") == 1


def test_there_is_a_way_past_the_head_and_a_dark_mode(visit: Visit) -> None:
    pages, _ = visit
    head, _, content = pages["session"].partition('href="#content"')
    assert "<nav>" not in head
    assert 'id="content"' in content
    css = (ROOT / "testproject/shop/static/shop/style.css").read_text()
    assert "@media (prefers-color-scheme: dark)" in css
