"""What the pages name exists, and what exists is named."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import global_settings
from django.core.management import load_command_class
from django.utils.module_loading import import_string

from django_kvsessions.checks.settings import SETTINGS
from django_kvsessions.stores.base import Store
from tests.docs.pages import DOCS, ROOT, pages, table

pytestmark = pytest.mark.same

#: Settings of the tests and of other packages that pages speak of.
OTHERS = {"SESSION_KEY"}
#: Of DATABASES, which pages name beside those of stores.
OF_DATABASES = {"pool"}
COMMANDS = sorted(
    path.stem
    for path in (ROOT / "django_kvsessions/management/commands").glob("*.py")
    if path.stem != "__init__"
)
STORES = {
    "semidbm": "semidbm.SemidbmStore",
    "lmdb": "lmdb.LMDBStore",
    "memory": "memory.MemoryStore",
    "layered": "layered.LayeredStore",
    "database": "database.DatabaseStore",
    "redis": "redis.RedisStore",
    "mongodb": "mongodb.MongoDBStore",
    "dynamodb": "dynamodb.DynamoDBStore",
    "firestore": "firestore.FirestoreStore",
    "libsql": "libsql.LibSQLStore",
    "surrealdb": "surrealdb.SurrealDBStore",
}


def parameters(name: str) -> dict[str, Any]:
    """The options of a store, with their defaults."""
    backend = import_string(f"django_kvsessions.stores.{STORES[name]}")
    found = inspect.signature(backend).parameters.values()
    return {each.name: each.default for each in found if each.kind is each.KEYWORD_ONLY}


# Settings


def test_every_setting_has_a_row_and_no_other() -> None:
    rows = {row[0].strip("`") for row in table("settings.md", "# Settings")}
    assert rows == SETTINGS


def test_every_setting_has_a_section_that_says_when_to_change_it() -> None:
    assert set(re.findall(r"^## (SESSION_\w+)$", pages()["settings.md"], re.MULTILINE)) == SETTINGS


def test_no_page_names_a_setting_that_does_not_exist() -> None:
    known = SETTINGS | OTHERS | {name for name in dir(global_settings) if name.isupper()}
    unknown = {
        f"{page}: {name}"
        for page, text in pages().items()
        for name in re.findall(r"\bSESSIONS?_[A-Z_]+[A-Z]\b", text)
        if name not in known
    }
    assert not unknown


# Stores and their options


def test_every_store_is_in_the_tables_and_has_a_page() -> None:
    stores = ROOT / "django_kvsessions" / "stores"
    defined = {
        f"{path.relative_to(stores).with_suffix('').parts[0]}.{name}"
        for path in stores.rglob("*.py")
        if path.stem not in ("base", "paged")
        for name in re.findall(r"^class (\w+Store)\(\w*Store\b", path.read_text(), re.MULTILINE)
    }
    assert set(STORES.values()) == defined
    row = re.compile(r"^\| \[`(\w+\.\w+Store)`\]\((\w+)\.md\)", re.MULTILINE)
    listed = row.findall(pages()["stores/index.md"])
    assert {page: name for name, page in listed} == STORES
    assert {path.stem for path in (DOCS / "stores").glob("*.md")} == {*STORES, "index"}
    for name in STORES.values():
        assert issubclass(import_string(f"django_kvsessions.stores.{name}"), Store)


@pytest.mark.parametrize("name", STORES)
def test_a_stores_page_has_each_of_its_options_with_its_default_and_no_other(name: str) -> None:
    rows = table(f"stores/{name}.md", "## Options")
    said = {row[0].strip("`"): row[1].strip("`") for row in rows}
    defaults = {}
    for option, default in parameters(name).items():
        text = f'"{default}"' if isinstance(default, str) else repr(default)
        is_needed = name == "layered" and option in ("cache", "store")
        defaults[option] = "required" if is_needed else text
    assert said == defaults


@pytest.mark.parametrize("name", STORES)
def test_a_stores_page_says_what_a_choice_of_a_store_needs(name: str) -> None:
    text = pages()[f"stores/{name}.md"].lower()
    for wanted in ("guarantees", "permissions, tls, timeouts", "costs", "its limits", "\ntested"):
        assert wanted in text or (wanted == "\ntested" and "tested on" in text), wanted


def options_named() -> Iterator[tuple[str, str]]:
    for page, text in pages().items():
        for name in re.findall(r"""OPTIONS["']?\]?\[["'](\w+)["']\]""", text):
            yield page, name


def test_no_page_names_an_option_that_does_not_exist() -> None:
    known = OF_DATABASES.union(*map(parameters, STORES))
    unknown = {f"{page}: {name}" for page, name in options_named() if name not in known}
    assert not unknown
    assert len(list(options_named())) > 2


# Commands, checks and paths


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_a_command_is_named(command: str) -> None:
    parser = load_command_class("django_kvsessions", command).create_parser("manage.py", command)
    plain = load_command_class("django.core", "shell").create_parser("manage.py", "shell")
    own = set(parser._option_string_actions) - set(plain._option_string_actions)
    own.discard("--skip-checks")  # Django's, where a command runs some checks alone
    text = pages()["moving.md" if command == "migratesessions" else "operations.md"]
    assert own
    for option in own:
        assert f"`{option}" in text, option


def test_every_check_has_a_row_and_no_other() -> None:
    source = "".join(path.read_text() for path in (ROOT / "django_kvsessions").rglob("*.py"))
    raised = set(re.findall(r"kvsessions\.[EIW]\d{3}", source))
    # Those whose numbers are put together.
    raised |= {f"kvsessions.{number}" for number in re.findall(r'\("(E0\d\d)", conf\.', source)}
    rows = [row[0].strip("`") for row in table("checks.md", "# System checks")]
    assert sorted(rows) == sorted(raised)


def test_every_test_that_a_page_names_exists() -> None:
    named = 0
    kit = "".join(p.read_text() for p in (ROOT / "django_kvsessions/testing").glob("*.py"))
    for page, text in pages().items():
        for path, test in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text):
            assert f"def {test}(" in (ROOT / path).read_text(), f"{page}: {path}::{test}"
            named += 1
        if page.startswith("promises/"):
            for test in re.findall(r"`(test_\w+)`", text):
                assert f"def {test}(" in kit, f"{page}: {test}"
    assert named > 30


def test_every_promise_has_a_page_with_all_its_parts() -> None:
    item = re.compile(r"^\d+\. \[\*\*(.+?)\.\*\*\]\((\w+)\.md\)", re.MULTILINE)
    listed = item.findall(pages()["promises/index.md"])
    assert {f"{name}.md" for _, name in listed} | {"index.md"} == {
        path.name for path in (DOCS / "promises").glob("*.md")
    }
    for number, (claim, name) in enumerate(listed, 1):
        text = pages()[f"promises/{name}.md"]
        assert text.startswith(f"# {number}. {claim}\n")
        parts = ["**The claim.**", "## How it is kept", "## The test that would fail"]
        parts += ["## What peers do", "## See for yourself\n\n```sh\n"]
        places = [text.index(part) for part in parts]
        assert places == sorted(places), name


def test_every_path_and_name_of_the_package_exists() -> None:
    for page, text in pages().items():
        for path in re.findall(r"`((?:docs|benchmarks|test\w+)/[\w./]+)`", text):
            assert (ROOT / path).exists(), f"{page}: {path}"
        for name in re.findall(r"`(django_kvsessions(?:\.\w+)+)`", text):
            assert is_there(name), f"{page}: {name}"


def is_there(name: str) -> bool:
    parts = name.split(".")
    path = ROOT.joinpath(*parts)
    if path.is_dir() or path.with_suffix(".py").exists():
        return True
    return bool(import_string(name))


def test_every_picture_and_link_to_a_file_is_there() -> None:
    for page, text in pages().items():
        base = (DOCS / page).parent if page != "README.md" else ROOT
        for target in re.findall(r"\]\(((?!http|#|inv:)[^)\s]+)\)", text):
            assert Path(base / target.split("#")[0]).exists(), f"{page}: {target}"
