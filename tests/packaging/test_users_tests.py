"""The tests of a user's project, with the settings that the documentation has for them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.same, pytest.mark.slow]

SETTINGS = """
from pathlib import Path
BASE_DIR = Path(__file__).parent
SECRET_KEY = "for these tests"
ROOT_URLCONF = "views"
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = ["django_kvsessions", "django.contrib.sessions", "django.contrib.staticfiles"]
STATIC_URL = "static/"
MIDDLEWARE = ["django_kvsessions.middleware.SessionMiddleware"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "db"}}
SESSION_ENGINE = "django_kvsessions.engine"
"""
VIEWS = """
from django.http import HttpResponse
from django.urls import path

def count(request):
    request.session["count"] = request.session.get("count", 0) + 1
    return HttpResponse(str(request.session["count"]))

urlpatterns = [path("", count)]
"""
TESTS = """
from urllib.request import Request, urlopen
from django.test import LiveServerTestCase, TestCase
from django_kvsessions.engine import SessionStore
from django_kvsessions.stores import stores
from django_kvsessions.stores.memory import MemoryStore

class Counting(TestCase):
    def test_counts(self):
        self.assertIsInstance(self.client.session, SessionStore)
        self.assertIsInstance(stores["default"], MemoryStore)
        self.assertEqual(self.client.get("/").content, b"1")
        self.assertEqual(self.client.get("/").content, b"2")

    def test_begins_afresh(self):
        self.assertEqual(self.client.get("/").content, b"1")

class Live(LiveServerTestCase):
    def test_client_and_browser_share_a_session(self):
        session = self.client.session
        session["count"] = 41
        session.save()
        cookie = {"Cookie": f"sessionid={session.session_key}"}
        request = Request(self.live_server_url, headers=cookie)
        self.assertEqual(urlopen(request).read(), b"42")
        self.assertEqual(self.client.session["count"], 42)
"""


def snippet() -> str:
    text = (ROOT / "docs" / "testing.md").read_text()
    found = re.search(r"^```python\n(import sys\n.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "django", "test"],
        ["-m", "django", "test", "--parallel", "2"],
        ["-m", "pytest", "-p", "no:randomly", "-p", "no:cacheprovider", "test_project.py"],
        ["-m", "pytest", "-p", "no:randomly", "-p", "no:cacheprovider", "-n2", "test_project.py"],
    ],
    ids=["django", "django-parallel", "pytest", "pytest-xdist"],
)
def test_a_projects_tests_leave_its_real_store_alone(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "settings.py").write_text(SETTINGS + snippet())
    (tmp_path / "views.py").write_text(VIEWS)
    (tmp_path / "test_project.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts =\n")
    run = subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "settings",
            "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT), *sys.path]),
        },
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    said = run.stdout + run.stderr
    assert run.returncode == 0, said
    assert re.search(r"Ran 3 tests|3 passed", said), said
    # W002 among them.
    assert "kvsessions." not in said, said
    assert not (tmp_path / "sessions").exists()
