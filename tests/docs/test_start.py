"""The start page, followed word by word on an empty folder, ends with a logged-in admin."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import time
import urllib.request
from http.cookiejar import CookieJar
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.docs.pages import ROOT, blocks
from testservers import free_port

pytestmark = [pytest.mark.same, pytest.mark.slow]

#: Seconds that the page promises, of the processor's time: others may be using the machine too.
FIVE_MINUTES = 300
PYTHON = Path(sys.executable)


class Reader:
    """Does what the page says, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environ = {
            **{key: value for key, value in os.environ.items() if not key.startswith("DJANGO")},
            # What pip would have installed, and the programs that came with it.
            "PATH": os.pathsep.join([str(PYTHON.parent), os.environ["PATH"]]),
            "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
        }
        self.port = free_port()
        self.server: subprocess.Popen[bytes] | None = None

    def type(self, line: str) -> None:
        if line.startswith(("python -m venv", ". venv", "pip install")):
            return  # The environment is the one that runs this.
        if found := re.fullmatch(r"cd (\w+)", line):
            self.folder /= found[1]
        elif line.startswith("python manage.py runserver"):
            self.server = subprocess.Popen(
                [PYTHON, "manage.py", "runserver", "--noreload", str(self.port)],
                cwd=self.folder,
                env=self.environ,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        else:
            self.said = self.run(line)

    def run(self, line: str) -> str:
        done = subprocess.run(
            ["sh", "-ec", line],
            cwd=self.folder,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout

    def change(self, diff: str) -> None:
        """Where the lines that stay and those that go are, put those that stay and come."""
        path = self.folder / "mysite" / "settings.py"
        # The middleware's and the apps' indentation is Django's own.
        lines = [(line[:1], line[1:]) for line in diff.splitlines()]
        before = "".join(f"{line}\n" for mark, line in lines if mark != "+")
        after = "".join(f"{line}\n" for mark, line in lines if mark != "-")
        text = path.read_text().replace('"', "'")
        if not before:
            path.write_text(text + after)
            return
        assert text.count(before) == 1, diff
        path.write_text(text.replace(before, after))


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    return Reader(tmp_path)


def taken() -> float:
    """The seconds of the programs that were run so far."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def log_in(port: int) -> str:
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
    address = f"http://127.0.0.1:{port}/admin/login/?next=/admin/"
    deadline = time.monotonic() + 300
    while True:
        try:
            form = opener.open(address, timeout=120).read().decode()
            break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', form)
    assert token
    answer = {
        "csrfmiddlewaretoken": token[1],
        "username": "admin",
        "password": "choose a good one",
        "next": "/admin/",
    }
    return str(opener.open(address, urlencode(answer).encode(), timeout=120).read().decode())


def test_who_follows_the_start_page_is_a_logged_in_admin_in_five_minutes(reader: Reader) -> None:
    before = taken()
    try:
        for block in blocks():
            if block.page != "start.md":
                continue
            if block.language == "diff":
                reader.change(block.code)
                continue
            for line in block.code.splitlines():
                if "sessionstats" in line:
                    page = log_in(reader.port)
                    assert "Log out" in page
                    assert "Site administration" in page
                reader.type(line)
                if line.endswith("startproject mysite"):
                    # A project that is kept in git from the beginning.
                    reader.run("git init -q mysite && cd mysite && git add -A")
                if line == "python manage.py check":
                    assert "no issues" in reader.said
        # The login, and nothing else, is in the store.
        assert re.search(r"default +SemidbmStore +1 ", reader.said), reader.said
        assert taken() - before < FIVE_MINUTES
        left = reader.run("git add mysite .gitignore manage.py && git status --porcelain -uall")
        assert "??" not in left, left
        reader.run("echo 'SESSION_STORE = {}' >> mysite/settings.py")
        slip = reader.run("python manage.py check 2>&1")
        assert "SESSION_STORES?" in slip
    finally:
        if reader.server is not None:
            reader.server.kill()
            reader.server.wait()
