"""What the documentation says of other packages is so, on a site of its own each."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.servers import require_driver

# They are installed where the drivers of all servers are.
pytestmark = pytest.mark.servers

ROOT = Path(__file__).resolve().parents[2]


def run_site(package: str, program: str, folder: Path) -> None:
    require_driver(package)
    line = [sys.executable, "-W", "default", "-m", f"tests.beside.{program}", str(folder)]
    ran = subprocess.run(line, check=False, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr


def test_allauths_logins_are_listed_and_no_table_has_a_session_key(tmp_path: Path) -> None:
    run_site("allauth", "allauth_site", tmp_path)


def test_an_api_lists_and_ends_sessions_and_an_ended_one_is_turned_down(tmp_path: Path) -> None:
    run_site("rest_framework", "rest_site", tmp_path)


def test_sockets_of_one_session_lose_no_change_and_a_logout_closes_them(tmp_path: Path) -> None:
    run_site("channels", "channels_site", tmp_path)
