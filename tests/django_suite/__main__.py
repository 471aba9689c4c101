"""Fetch the source of the installed Django and run its tests with our engine.

``python -m tests.django_suite FOLDER [LABEL ...] [OPTION ...]``: the source is
unpacked into FOLDER and kept there; labels and options are those of Django's
``tests/runtests.py``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tempfile
from contextlib import ExitStack
from pathlib import Path

import django

from tests.django_suite.stores import session_stores

ROOT = Path(__file__).resolve().parents[2]

#: Whatever in Django's tests goes through a session.
LABELS = [
    "sessions_tests",
    "admin_views",
    "async",
    "auth_tests.test_admin_multidb",
    "auth_tests.test_auth_backends",
    "auth_tests.test_basic",
    "auth_tests.test_context_processors",
    "auth_tests.test_decorators",
    "auth_tests.test_login",
    "auth_tests.test_middleware",
    "auth_tests.test_mixins",
    "auth_tests.test_remote_user",
    "auth_tests.test_signals",
    "auth_tests.test_views",
    "csrf_tests",
    "flatpages_tests",
    "messages_tests",
    "test_client",
    "test_client_regress",
    "view_tests",
]


def fetch_tests(folder: Path) -> Path:
    """The folder of Django's tests. They are in the source distribution, not in the wheel."""
    version = django.get_version()
    name = f"django-{version}"
    if not (folder / name).is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            options = ["--no-binary", "django", "--dest", temporary, f"Django=={version}"]
            subprocess.run([*pip, *options], check=True)
            (archive,) = Path(temporary).glob("*.tar.gz")
            with tarfile.open(archive) as tar:
                tar.extractall(temporary, filter="data")
            (unpacked,) = Path(temporary).glob("*/tests")
            unpacked.parent.rename(folder / name)
    return folder / name / "tests"


def main() -> int:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    tests = fetch_tests(Path(sys.argv[1]).resolve())
    arguments = sys.argv[2:]
    if not any(not argument.startswith("-") for argument in arguments):
        arguments += LABELS
    with ExitStack() as stack:
        stores, databases = session_stores(stack)
        environment = {
            **os.environ,
            "PYTHONPATH": os.fspath(ROOT),
            "DJANGO_SUITE_DATABASES": json.dumps(databases),
            "DJANGO_SUITE_STORES": json.dumps(stores),
        }
        command = [sys.executable, "runtests.py", "--settings=tests.django_suite.settings"]
        return subprocess.run(
            [*command, *arguments], cwd=tests, env=environment, check=False
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
