"""The examples of deployments do what they say."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest

from tests.support.servers import missing
from testservers import free_port

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "deployment"
#: As long as a busy machine takes.
PATIENCE = 240.0


def environment(folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "KVSESSIONS_VAR": str(folder / "var"),
        "KVSESSIONS_DEMO": "1",
        "DJANGO_SETTINGS_MODULE": "website.settings",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "testproject")]),
        "PYTHONDEVMODE": "",
    }


def server(name: str, port: int, folder: Path) -> list[str]:
    """The command that serves the test site by the example."""
    python = sys.executable
    bind = f"127.0.0.1:{port}"
    wsgi, asgi = "website.wsgi", "website.asgi:application"
    config = str(EXAMPLES / "gunicorn.conf.py")
    ini = (EXAMPLES / "uwsgi.ini").read_text()
    (folder / "uwsgi.ini").write_text(
        ini.replace("/srv/mysite/venv", sys.prefix).replace("mysite.wsgi", wsgi)
    )
    uwsgi = str(Path(python).with_name("uwsgi"))
    return {
        "gunicorn": [python, "-m", "gunicorn", "--config", config, "--bind", bind, wsgi],
        "gunicorn --preload": [
            *(python, "-m", "gunicorn", "--config", config, "--preload", "--bind", bind, wsgi)
        ],
        "uwsgi": [uwsgi, "--ini", str(folder / "uwsgi.ini"), "--http", bind],
        "uvicorn": [python, "-m", "uvicorn", "--workers", "2", "--port", str(port), asgi],
        "daphne": [python, "-m", "daphne", "--bind", "127.0.0.1", "--port", str(port), asgi],
    }[name]


@contextmanager
def serving(name: str, folder: Path) -> Iterator[str]:
    port = free_port()
    command = server(name, port, folder)
    program = name.partition(" ")[0]
    if not find_spec(program) and not shutil.which(command[0]):
        missing(f"{program} is not installed: pip install {program}")
    environ = environment(folder)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environ, stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline = time.monotonic() + PATIENCE
        url = f"http://127.0.0.1:{port}"
        while True:
            try:
                httpx.get(f"{url}/login/", timeout=PATIENCE)
                break
            except httpx.TransportError:
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.1)
        yield url
        process.terminate()
        process.wait(PATIENCE)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a site that has served nobody yet, to be copied."""
    folder = tmp_path_factory.mktemp("migrated")
    subprocess.run(
        [sys.executable, str(ROOT / "testproject" / "manage.py"), "migrate", "--verbosity=0"],
        env=environment(folder),
        check=True,
        timeout=PATIENCE,
    )
    return folder


@pytest.mark.parametrize("name", ["gunicorn", "gunicorn --preload", "uwsgi", "uvicorn", "daphne"])
def test_a_visitor_logs_in_and_stays_so(name: str, migrated: Path, tmp_path: Path) -> None:
    from shop.accounts import PASSWORD, SHOPPERS

    shutil.copytree(migrated, tmp_path, dirs_exist_ok=True)
    with (
        serving(name, tmp_path) as url,
        # uWSGI closes each connection, and does not say so.
        httpx.Client(base_url=url, timeout=PATIENCE, headers={"Connection": "close"}) as client,
    ):
        page = client.get("/login/")
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)
        assert token, page.text
        form = {
            "username": SHOPPERS[0],
            "password": PASSWORD,
            "csrfmiddlewaretoken": token[1],
        }
        assert client.post("/login/", data=form).status_code == 302
        for _ in range(10):
            assert SHOPPERS[0] in client.get("/session/").text
    assert (tmp_path / "var" / "sessions" / "data").stat().st_size > 100


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        missing("systemd-analyze is not installed: apt-get install systemd")
    for path in (EXAMPLES / "systemd").iterdir():
        # What would be there on the machine.
        text = re.sub(r"/srv/mysite/venv/bin/[\w-]+", "/bin/true", path.read_text())
        (tmp_path / path.name).write_text(text.replace("/srv/mysite", "/tmp"))
    units = sorted(map(str, tmp_path.iterdir()))
    assert len(units) == 5
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    # It speaks of the machine's other units too.
    said = [line for line in checked.stderr.splitlines() if "mysite" in line]
    assert said == []


def test_the_steps_of_the_dockerfile_run(tmp_path: Path) -> None:
    """With stand-ins for what would change this machine: its users and its packages."""
    text = (EXAMPLES / "docker" / "Dockerfile").read_text()
    steps = re.findall(r"^RUN (.+)$", text, re.MULTILINE)
    assert len(steps) == 3
    for name in ("groupadd", "useradd", "pip"):
        stand_in = tmp_path / "bin" / name
        stand_in.parent.mkdir(exist_ok=True)
        stand_in.write_text(f'#!/bin/sh\necho {name} "$@" >> {tmp_path}/called\n')
        stand_in.chmod(0o755)
    script = "set -eu\n" + "\n".join(steps).replace("/var/lib", f"{tmp_path}/var/lib")
    # Only root may give a folder away.
    owner = f"--owner={os.geteuid()} --group={os.getegid()}"
    subprocess.run(
        ["/bin/sh", "-c", script.replace("--owner=10001 --group=10001", owner)],
        env={"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"},
        cwd=tmp_path,
        check=True,
        timeout=PATIENCE,
    )
    assert (tmp_path / "var/lib/mysite").stat().st_mode & 0o777 == 0o700
    called = [line.split()[0] for line in (tmp_path / "called").read_text().splitlines()]
    assert called == ["groupadd", "useradd", "pip"]


def test_what_the_page_names_is_there() -> None:
    page = (EXAMPLES / "README.md").read_text()
    named = set(re.findall(r"\]\(([^)]+)\)", page))
    assert all((EXAMPLES / name).is_file() for name in named)
    files = {str(path.relative_to(EXAMPLES)) for path in EXAMPLES.rglob("*") if path.is_file()}
    assert {name for name in files if "__pycache__" not in name} == {*named, "README.md"}
