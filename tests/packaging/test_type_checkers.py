"""A small project of a user's, as mypy with django-stubs and pyright see it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.servers import missing, require_driver
from testservers import Missing, require
from testservers.node import node_module

pytestmark = [pytest.mark.same, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]

#: Lines that end in "# wrong" are errors, and no others.
VIEWS = """
from dataclasses import dataclass

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.urls import path
from django.views import View
from django_kvsessions.typed import Bucket, SessionRequest


@dataclass
class Guest:
    pageviews: int = 0


guest = Bucket(Guest, key="guest", default=Guest)


def take(session: dict[str, int]) -> int:
    session["tickets"] = session.get("tickets", 0) + 1
    return session["tickets"]


def ticket(request: SessionRequest) -> HttpResponse:
    number: int = request.session.mutate(take)
    text: str = request.session.mutate(take)  # wrong
    request.session.mutat(take)  # wrong
    request.session["seen"] = number
    return HttpResponse(f"{number} {text} {request.user} {request.session.touch()}")


async def async_ticket(request: SessionRequest) -> HttpResponse:
    number: int = await request.session.amutate(take)
    return HttpResponse(str(number))


@login_required
def count(request: SessionRequest) -> HttpResponse:
    with guest.change(request.session) as value:
        value.pageviews += 1
        value.pagevews += 1  # wrong
    pageviews: int = guest.get(request.session).pageviews
    return HttpResponse(str(pageviews))


class Ticket(View):
    def get(self, request: SessionRequest) -> HttpResponse:
        return HttpResponse(str(request.session.mutate(take)))


def plain(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(request.session.mutate(take)))  # wrong


urlpatterns = [
    path("ticket", ticket),
    path("async", async_ticket),
    path("count", count),
    path("view", Ticket.as_view()),
    path("plain", plain),
]
"""
SETTINGS = """
SECRET_KEY = "for this test"
INSTALLED_APPS = [
    "django_kvsessions",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
]
ROOT_URLCONF = "project.urls"
SESSION_ENGINE = "django_kvsessions.engine"
"""
MYPY = """
[tool.mypy]
strict = true
plugins = ["mypy_django_plugin.main"]

[[tool.mypy.overrides]]
# What stands in this tree, and not where pip puts it.
module = ["django_kvsessions.*"]
ignore_errors = true

[[tool.mypy.overrides]]
module = ["msgpack.*", "semidbm.*"]
ignore_missing_imports = true

[tool.django-stubs]
django_settings_module = "project.settings"
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    package = tmp_path / "project"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "urls.py").write_text(VIEWS)
    (package / "settings.py").write_text(SETTINGS)
    (tmp_path / "pyproject.toml").write_text(MYPY)
    return tmp_path


WRONG = {number for number, line in enumerate(VIEWS.splitlines(), 1) if line.endswith("# wrong")}


def run(project: Path, *command: str) -> str:
    run = subprocess.run(
        command,
        cwd=project,
        env={**os.environ, "MYPYPATH": str(ROOT), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert run.returncode == 1, run.stdout + run.stderr
    return run.stdout


def test_mypy_knows_the_session_of_a_request(project: Path) -> None:
    require_driver("mypy_django_plugin")
    said = run(project, sys.executable, "-m", "mypy", "project")
    lines = [line for line in said.splitlines() if ": error:" in line]
    assert {int(line.split(":")[1]) for line in lines} == WRONG, said
    assert all(line.startswith("project/urls.py:") for line in lines), said
    assert re.search(r'"SessionStore" has no attribute "mutat"', said), said


@pytest.mark.servers
def test_pyright_knows_the_session_of_a_request(project: Path) -> None:
    try:
        node = require("node", "apt-get install nodejs")
        pyright = node_module("pyright", "pyright/index.js")
    except Missing as error:
        missing(error)
    config = {
        "typeCheckingMode": "standard",
        "include": ["project"],
        "extraPaths": [str(ROOT)],
    }
    (project / "pyrightconfig.json").write_text(json.dumps(config))
    said = run(project, node, str(pyright), "--outputjson", "--pythonpath", sys.executable)
    found = json.loads(said)["generalDiagnostics"]
    errors = {each["range"]["start"]["line"] + 1 for each in found if each["severity"] == "error"}
    assert errors == WRONG, said
