"""Every example in the pages and the README runs, but for those listed here with reasons."""

from __future__ import annotations

import argparse
import asyncio
import configparser
import doctest
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from django.core.checks import run_checks
from django.core.management import call_command, load_command_class
from django.http import HttpResponse
from django.test import RequestFactory
from django.utils.module_loading import import_string
from pytest_django.fixtures import Settings as DjangoSettings

from django_kvsessions.engine import SessionStore
from django_kvsessions.middleware import SessionMiddleware
from django_kvsessions.stores.base import StoreUnavailable
from tests.docs.pages import ROOT, Block, blocks, commands, pages
from tests.packaging.test_habits import ini
from tests.support.servers import require_driver

pytestmark = pytest.mark.same

#: Shell lines that no test runs as they stand, and why; what is looked at instead is in this file.
NOT_RUN = {
    r"pip install django-kvsessions(\[\w+\])?": "the release is not there before it is released",
    r"python -m pip install tox.*": "CI does, by .ci/run",
    r"tox .*|/tmp/tox/bin/.*|python3 -m venv .*": "tox runs this",
    r"\. \S+": "for a shell in which somebody types",
    r"python -m benchmarks .*": "takes minutes; tests/programs/test_benchmarks.py runs each",
    r"python -m django_kvsessions\.testing\.crashes .*": (
        "takes minutes; tests/kit/test_crashes.py runs it for each store"
    ),
    r"pytest .*": "the tests themselves, which run on their own",
    r"python testproject/manage.py runserver": "serves until it is stopped",
}
KIT = ROOT / "django_kvsessions" / "testing"
#: The pages that another test follows, word by word.
FOLLOWED = {"start.md"}
#: Languages whose blocks are not run, and what is looked at instead.
OTHER_LANGUAGES = {
    "diff": "test_start.py applies them",
    "django": "tests/devices/test_recipes.py renders them",
    "ini": "test_the_unit_runs_a_command_that_exists",
    "text": "test_the_cron_job_runs_a_command_that_exists; tests/stores/test_redis.py runs the ACL",
}


class Stores(list[tuple[Block, dict[str, Any]]]):
    """What the examples set SESSION_STORES to."""


def names(page: str, folder: Path) -> dict[str, Any]:
    """What an example of this page may use without saying so."""
    session = SessionStore()
    found: dict[str, Any] = {
        "__name__": f"example_{re.sub(r'[^a-z]', '_', page)}",
        "BASE_DIR": folder,
        "request": SimpleNamespace(session=session),
    }
    if page == "parallel.md":
        session.save()
        found |= {"SessionStore": SessionStore, "key": session.session_key}
    return found


def run_page(page: str, folder: Path, stores: Stores) -> dict[str, Any]:
    found = names(page, folder)
    # Dataclasses look their module up.
    module = ModuleType(found["__name__"])
    module.__dict__.update(found)
    sys.modules[module.__name__] = module
    found = module.__dict__
    found["away"] = f"{module.__name__}.Away"
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for block in blocks():
        if block.page != page:
            continue
        if block.language == "python":
            exec(compile(block.code, str(block), "exec", dont_inherit=True), found)
            if "SESSION_STORES" in found:
                stores.append((block, found.pop("SESSION_STORES")))
        elif block.language == "pycon":
            test = doctest.DocTestParser().get_doctest(
                block.code, found, str(block), str(block), block.line
            )
            said: list[str] = []
            runner.run(test, out=said.append, clear_globs=False)
            found.update(test.globs)
            assert not said, "".join(said)
    return found


PAGES = sorted({block.page for block in blocks() if block.language in ("python", "pycon")})
#: Whose examples import packages that are installed where the drivers of all servers are.
BESIDE_OTHERS = "frameworks.md"


@pytest.mark.django_db
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.servers] if page == BESIDE_OTHERS else [])
        for page in PAGES
    ],
)
def test_the_examples_of_a_page_run(page: str, tmp_path: Path) -> None:
    if page == BESIDE_OTHERS:
        for package in ("channels", "rest_framework"):
            require_driver(package)
    found = run_page(page, tmp_path, Stores())
    if after := AFTER.get(page):
        after(found)


def after_parallel(found: dict[str, Any]) -> None:
    assert found["number"] == 1
    assert found["request"].session.mutate(found["take_ticket"]) == 2


def after_typed(found: dict[str, Any]) -> None:
    request = found["request"]
    del request.session["guest"]
    assert found["count_view"](request) == 1
    assert found["count_view"](request) == 2
    guest = found["guest"].get(request.session)
    assert guest.first_seen < guest.last_seen
    assert b"number is 1" in found["ticket"](request).content


def after_async(found: dict[str, Any]) -> None:
    asyncio.run(found["add_to_cart"](found["request"]))
    assert found["request"].session["cart"] == ["tea"]


def after_testing(found: dict[str, Any]) -> None:
    from django.test import Client

    found["check_that_a_session_ends"](Client())


def after_recipes(found: dict[str, Any]) -> None:
    first, second = map(import_string, found["MIDDLEWARE"])
    assert issubclass(first, SessionMiddleware)
    request = RequestFactory().get("/")
    answer = second(HttpResponse).process_exception(request, StoreUnavailable("away"))
    assert answer.status_code == 503
    assert second(HttpResponse).process_exception(request, ValueError()) is None
    assert found["SessionStore"]().get_expiry_age() == 60 * 60 * 24 * 30


def after_devices(found: dict[str, Any]) -> None:
    assert found["session_started"].disconnect(found["tell_of_a_new_device"])


def after_owners(found: dict[str, Any]) -> None:
    from django.contrib.auth import get_user_model

    receiver = found["end_sessions_of_disabled_users"]
    assert found["post_save"].disconnect(receiver, sender=get_user_model())


AFTER: dict[str, Callable[[dict[str, Any]], None]] = {
    "async.md": after_async,
    "devices.md": after_devices,
    "owners.md": after_owners,
    "parallel.md": after_parallel,
    "recipes.md": after_recipes,
    "testing.md": after_testing,
    "typed.md": after_typed,
}


# Settings


@pytest.fixture(scope="module")
def all_stores(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    found = Stores()
    folder = tmp_path_factory.mktemp("project")
    for block in blocks("python"):
        if "SESSION_STORES" in block.code:
            space: dict[str, Any] = {"BASE_DIR": folder}
            exec(compile(block.code, str(block), "exec", dont_inherit=True), space)
            if "SESSION_STORES" in space:
                found.append((block, space["SESSION_STORES"]))
    return found


def problems(settings: DjangoSettings, stores: dict[str, Any]) -> list[str]:
    settings.SESSION_STORES = stores
    # A driver that is not installed here says nothing of the example.
    return [
        str(message)
        for message in run_checks(tags=["sessions"])
        if message.id != "kvsessions.W130" and "pip install" not in str(message)
    ]


def test_the_settings_of_the_examples_are_sound(
    all_stores: Stores, settings: DjangoSettings
) -> None:
    settings.DEBUG = True
    assert len(all_stores) > 11
    for block, stores in all_stores:
        if "myproject" not in str(stores):
            assert problems(settings, stores) == [], str(block)
    assert "LOCATOIN" in "".join(problems(settings, {"default": {"LOCATOIN": "here"}}))


def test_no_example_puts_two_stores_in_one_place(all_stores: Stores) -> None:
    backends: dict[str, str] = {}
    for _, stores in all_stores:
        for config in stores.values():
            if isinstance(config.get("LOCATION"), Path):
                place = str(config["LOCATION"])
                assert backends.setdefault(place, config["BACKEND"]) == config["BACKEND"], place
    assert len(backends) > 2


# The tutorial


@pytest.mark.slow
def test_the_store_of_the_tutorial_passes_the_kit(tmp_path: Path) -> None:
    code = [b.code for b in blocks("python") if b.page == "writing-a-store.md"]
    # A tenth of the work shows as well whether the example is right.
    sizes = "\nTestShelfStore.scan_records, TestShelfStore.scans = 100, 2\n"
    (tmp_path / "test_shelf.py").write_text("\n".join(code[:2]) + sizes)
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:randomly",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:django",
            "--rootdir",
            str(tmp_path),
            "test_shelf.py",
        ],
        cwd=tmp_path,
        env={**environ(), "DJANGO_SETTINGS_MODULE": "tests.settings"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert run.returncode == 0, run.stdout
    passed = re.search(r"(\d+) passed", run.stdout)
    assert passed, run.stdout
    assert int(passed[1]) > 50, run.stdout


def environ() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}


# The shell


def reason(line: str) -> str | None:
    for pattern, why in NOT_RUN.items():
        if re.fullmatch(pattern, line):
            return why
    return None


@pytest.mark.django_db
def test_the_commands_of_manage_py_run(settings: DjangoSettings, tmp_path: Path) -> None:
    settings.SESSION_STORES = {"default": {"LOCATION": tmp_path / "sessions"}}
    ran = 0
    for block, line in commands():
        if block.page in FOLLOWED or reason(line):
            continue
        words = shlex.split(line)
        if words[:2] == ["python", "testproject/manage.py"]:
            assert words[2:] == ["migrate"], line
            continue
        assert words[:2] == ["python", "manage.py"], f"{block}: nothing runs {line!r}"
        (tmp_path / "sessions").mkdir(mode=0o700, exist_ok=True)
        call_command(words[2], *words[3:], stdout=StringIO())
        ran += 1
    assert ran > 5


def test_what_is_not_run_is_in_the_pages_still() -> None:
    lines = {line for _, line in commands()}
    for pattern in NOT_RUN:
        assert any(re.fullmatch(pattern, line) for line in lines), pattern


def test_every_language_is_run_or_looked_at() -> None:
    languages = {block.language for block in blocks()}
    assert languages == {"python", "pycon", "sh", *OTHER_LANGUAGES}


def test_what_pip_installs_exists() -> None:
    extras = set(ini("setup.cfg")["options.extras_require"])
    named = {
        name
        for text in pages().values()
        for name in re.findall(r"pip install django-kvsessions\[(\w+)\]", text)
    }
    assert named == extras


def test_what_tox_runs_exists() -> None:
    text = (ROOT / "tox.ini").read_text()
    for page, page_text in pages().items():
        for names_of in re.findall(r"tox (?:run|devenv) -e ([\w,-]+)", page_text):
            for name in names_of.split(","):
                known = f"[testenv:{name}]" in text or re.fullmatch(
                    r"py3\d\d-django\d\d|suite-(oldest|newest)", name
                )
                assert known, f"{page}: tox run -e {name}"


@pytest.mark.slow
def test_what_the_benchmarks_are_asked_for_exists() -> None:
    from benchmarks.__main__ import COMMANDS

    parsers = {}
    for name, kind in COMMANDS.items():
        parser = argparse.ArgumentParser(exit_on_error=False)
        for option in ("--folder", "--json"):
            parser.add_argument(option)
        parser.add_argument("--strict", action="store_true")
        kind().add_arguments(parser)
        parsers[name] = parser
    found = 0
    for page, text in pages().items():
        flat = " ".join(text.split())
        for line in re.findall(r"`python -m benchmarks ([^`]+)`", flat):
            words = shlex.split(line)
            if words == ["--help"]:
                continue
            assert words[0] in parsers, f"{page}: {line}"
            parsers[words[0]].parse_args(words[1:])
            found += 1
    assert found > 8


def test_what_the_crashes_are_asked_for_exists() -> None:
    from django_kvsessions.testing.crashes.__main__ import RUNS, STORES, parser

    start = ["python", "-m", "django_kvsessions.testing.crashes"]
    lines = [shlex.split(line) for _, line in commands()]
    asked = [parser().parse_args(words[3:]) for words in lines if words[:3] == start]
    assert {given.store for given in asked} & set(STORES)
    for given in asked:
        assert given.store in STORES or "." in given.store
        assert set(given.runs.split(",")) <= set(RUNS)


def is_chosen(name: str, expression: str) -> bool:
    """As pytest's ``-k`` chooses."""
    is_in = re.sub(
        r"\b(?!(?:and|or|not)\b)\w+",
        lambda word: str(word[0].lower() in name.lower()),
        expression,
    )
    return bool(eval(is_in))


def found_in(path: Path) -> Iterator[str]:
    """The names that pytest would know them by: file, class and function."""
    of_kit = "".join(each.read_text() for each in KIT.glob("*.py"))
    for file in path.rglob("test_*.py") if path.is_dir() else [path]:
        text = file.read_text()
        functions = re.findall(r"def (test_\w+)", text)
        if "StoreConformance" in text:
            functions += re.findall(r"def (test_\w+)", of_kit)
        for holder in [*re.findall(r"^class (Test\w+)", text, re.MULTILINE), ""]:
            yield from (f"{file.name}::{holder}::{function}" for function in functions)


def test_every_pytest_line_finds_tests() -> None:
    lines = {line for _, line in commands() if line.startswith("pytest ")}
    lines |= {
        line for text in pages().values() for line in re.findall(r"`(pytest tests/[^`]+)`", text)
    }
    assert len(lines) > 15
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("paths", nargs="+")
    parser.add_argument("-k", default="test")
    for line in sorted(lines):
        asked = parser.parse_args(shlex.split(line)[1:])
        for path in asked.paths:
            names_there = list(found_in(ROOT / path))
            assert any(is_chosen(name, asked.k) for name in names_there), f"{line}: {path}"


# Cron and systemd


def accepts(command: str) -> None:
    words = shlex.split(command)
    assert words[1].endswith("/manage.py")
    parser = load_command_class("django_kvsessions", words[2]).create_parser("", words[2])
    parser.parse_args(words[3:])


def test_the_cron_job_runs_a_command_that_exists() -> None:
    [block] = [block for block in blocks("text") if block.page == "operations.md"]
    accepts(block.code.split("www-data", 1)[1])


def test_the_unit_runs_a_command_that_exists() -> None:
    [block] = blocks("ini")
    unit = configparser.ConfigParser()
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # as its manual has it
    unit.read_string(block.code)
    accepts(unit["Service"]["ExecStart"])
