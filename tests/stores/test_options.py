"""Every option of every store, given what it cannot take, says so in one wording."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from testservers.registry import STORES, Entry, is_installed, settings_of

# An option of DatabaseStore is checked without asking the database.
pytestmark = pytest.mark.same

NO_BOOLEAN: list[Any] = ["yes", "", 0, 1, None, []]
NO_CHOICE: list[Any] = ["sometimes", "", 5, None, True, []]
NO_DICT: list[Any] = ["x", 5, True, []]
NO_SECONDS: list[Any] = ["10", "", 0, -1, -0.5, True, None, [], float("nan"), float("inf")]
NO_TEXT: list[Any] = [5, True, b"text", "", []]
NO_WHOLE_NUMBER: list[Any] = ["10", "", 0, -1, 1.5, True, None, [], float("inf")]

#: What an option cannot take, wherever there is one of that name.
BAD: dict[str, list[Any]] = {
    "async_client": [5, True, []],
    "attempts": NO_WHOLE_NUMBER,
    "auth_token": NO_TEXT,
    "ca_certs": NO_TEXT,
    "cache": [5, True, None, b"web", []],
    "clean_interval": [*NO_SECONDS, 86_401],
    "client": [5, True, []],
    "cluster": NO_BOOLEAN,
    "collection": [*NO_TEXT, None],
    "consistent": NO_BOOLEAN,
    "credentials": NO_TEXT,
    "database": NO_TEXT,
    "durability": NO_CHOICE,
    "endpoint_url": NO_TEXT,
    "level": NO_CHOICE,
    "lock_timeout": [*NO_SECONDS, 86_401],
    "map_size": [*NO_WHOLE_NUMBER, 100, 2**60],
    "max_age": NO_SECONDS,
    "max_entries": NO_WHOLE_NUMBER,
    "max_map_size": [*NO_WHOLE_NUMBER, 100, 2**60],
    "max_readers": [*NO_WHOLE_NUMBER, 2**31],
    "max_record_size": NO_WHOLE_NUMBER,
    "namespace": [*NO_TEXT, None],
    # An empty one is one.
    "password": [5, True, b"text", []],
    "prefix": [5, True, None, b"text", []],
    "project": NO_TEXT,
    "region_name": NO_TEXT,
    "schema": NO_TEXT,
    "sentinel_kwargs": NO_DICT,
    "store": [5, True, None, b"web", []],
    "table": [*NO_TEXT, None],
    "tags": [*NO_DICT, {"team": 5}, {5: "web"}],
    "timeout": NO_SECONDS,
    "username": NO_TEXT,
    "version": [None, 1.5, True, []],
}
#: What is over the limit of one engine alone.
TOO_LARGE: dict[tuple[str, str], list[int]] = {
    ("dynamodb", "max_record_size"): [400 * 1024 + 1],
    ("firestore", "max_record_size"): [1024 * 1024 + 1],
    ("mongodb", "max_record_size"): [16 * 1024 * 1024 + 1],
    ("semidbm", "max_record_size"): [2**40],
}
#: Options of the same class that say nothing about this way to use it.
ELSEWHERE = {
    ("libsql", "auth_token"),
    ("libsql", "ca_certs"),
    ("sqld", "durability"),
    ("surrealkv", "level"),
    ("surrealkv", "password"),
    ("surrealkv", "username"),
}
#: Options that take the place of LOCATION, and what has to be beside them.
INSTEAD: dict[str, dict[str, Any]] = {
    "client": {},
    "async_client": {"client": "tests.settings.remove_folder"},
}
ENTRIES = {
    "memory": Entry("memory.MemoryStore", ""),
    "layered": Entry("layered.LayeredStore", "", options={"cache": "memory", "store": "default"}),
    **STORES,
}


INSTALLED = [name for name, entry in ENTRIES.items() if is_installed(entry)]


def backend_of(name: str) -> Any:
    return import_string(f"django_kvsessions.stores.{ENTRIES[name].backend}")


def options_of(name: str) -> list[str]:
    """The keyword-only arguments of a store's constructor."""
    parameters = inspect.signature(backend_of(name)).parameters.values()
    return [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]


def refusal(name: str, options: dict[str, Any], folder: Path) -> Exception | None:
    configured = settings_of(ENTRIES[name], folder, port=1)
    location = None if options.keys() & INSTEAD.keys() else configured["LOCATION"] or None
    try:
        store = backend_of(name)(location, **{**configured["OPTIONS"], **options})
    except Exception as error:
        return error
    store.close()
    return None


@pytest.mark.parametrize("name", INSTALLED)
def test_what_an_option_cannot_take_is_refused_by_its_name(name: str, tmp_path: Path) -> None:
    options = options_of(name)
    assert options
    wrong = []
    for option in options:
        if (name, option) in ELSEWHERE:
            continue
        assert option in BAD, f"BAD does not say what OPTIONS[{option!r}] cannot take"
        for value in [*BAD[option], *TOO_LARGE.get((name, option), [])]:
            error = refusal(name, {**INSTEAD.get(option, {}), option: value}, tmp_path)
            if not isinstance(error, ImproperlyConfigured) or not str(error).startswith(
                f"OPTIONS[{option!r}] must be "
            ):
                wrong.append(f"{option} = {value!r}: {error!r}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", INSTALLED)
def test_what_the_registry_says_is_accepted(name: str, tmp_path: Path) -> None:
    # So that whatever is refused above is refused for that option.
    assert refusal(name, {}, tmp_path) is None


@pytest.mark.servers
def test_the_table_names_no_option_that_is_gone() -> None:
    assert BAD.keys() == {option for name in ENTRIES for option in options_of(name)}
