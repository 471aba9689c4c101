"""Settings: defaults, changes, and what a wrong one says at run time."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from pytest_django.fixtures import Settings as DjangoSettings

from django_kvsessions import conf
from django_kvsessions.engine import SessionStore
from django_kvsessions.stores import stores
from django_kvsessions.stores.memory import MemoryStore
from django_kvsessions.stores.semidbm import SemidbmStore

MEMORY = "django_kvsessions.stores.memory.MemoryStore"


def test_without_stores_sessions_are_in_a_folder_of_the_project(
    settings: DjangoSettings, tmp_path: Path
) -> None:
    settings.BASE_DIR = tmp_path
    settings.SESSION_STORES = None
    store = stores[conf.store_alias()]
    assert isinstance(store, SemidbmStore)
    store.setup()
    assert (tmp_path / "sessions").is_dir()


def test_what_an_alias_leaves_out_has_a_default(settings: DjangoSettings, tmp_path: Path) -> None:
    settings.BASE_DIR = str(tmp_path)
    settings.SESSION_STORES = {"default": {}, "memory": {"BACKEND": MEMORY}}
    assert {alias: conf.store(alias) for alias in conf.aliases()} == {
        "default": {
            "BACKEND": "django_kvsessions.stores.semidbm.SemidbmStore",
            "LOCATION": f"{tmp_path}/sessions",
            "OPTIONS": {},
        },
        "memory": {"BACKEND": MEMORY, "LOCATION": None, "OPTIONS": {}},
    }


def test_the_projects_dicts_are_left_as_they_are(settings: DjangoSettings) -> None:
    settings.SESSION_STORES = {"default": {"BACKEND": MEMORY}}
    conf.store("default")["OPTIONS"]["max_entries"] = 1
    settings.SESSION_STORES = {"default": {"BACKEND": MEMORY}}
    assert conf.store("default")["OPTIONS"] == {}


def test_a_store_is_made_once_with_its_options(settings: DjangoSettings) -> None:
    settings.SESSION_STORES = {"default": {"BACKEND": MEMORY, "OPTIONS": {"max_entries": 7}}}
    store = stores["default"]
    assert isinstance(store, MemoryStore)
    assert store.max_entries == 7
    assert stores["default"] is store
    assert stores.opened() == [store]


def test_changed_settings_are_followed(settings: DjangoSettings) -> None:
    settings.SESSION_STORES = {"default": {"BACKEND": MEMORY}, "other": {"BACKEND": MEMORY}}
    former = stores["default"]
    assert list(stores) == ["default", "other"]
    settings.SESSION_STORES = {"default": {"BACKEND": MEMORY}}
    assert list(stores) == ["default"]
    assert stores["default"] is not former
    settings.SESSION_STORE_ALIAS = "other"
    assert conf.store_alias() == "other"


def test_an_unknown_alias_is_told_with_those_there_are(settings: DjangoSettings) -> None:
    settings.SESSION_STORES = {"one": {"BACKEND": MEMORY}, "two": {"BACKEND": MEMORY}}
    with pytest.raises(ImproperlyConfigured, match="no alias 'default'; it has 'one', 'two'"):
        stores["default"]


def test_only_a_serializer_that_the_project_chose_replaces_messagepack(
    settings: DjangoSettings,
) -> None:
    assert conf.serializer().__name__ == "MessagePackSerializer"
    settings.SESSION_SERIALIZER = "django.contrib.sessions.serializers.JSONSerializer"
    assert conf.serializer().__name__ == "JSONSerializer"
    settings.SESSION_SERIALIZER = "no.such.Serializer"
    with pytest.raises(
        ImproperlyConfigured, match=r"SESSION_SERIALIZER names 'no\.such\.Serializer'"
    ):
        conf.serializer()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(None, None), (1, 1.0), (0.5e4, 5000.0), (timedelta(hours=1), 3600.0)],
)
def test_an_age_is_seconds_or_a_timedelta(
    settings: DjangoSettings, value: object, seconds: float | None
) -> None:
    settings.SESSION_ABSOLUTE_AGE = settings.SESSION_TOUCH_INTERVAL = value
    assert conf.absolute_age() == conf.touch_interval() == seconds
    settings.SESSION_TOUCH_INTERVAL = 0
    assert conf.touch_interval() == 0


@pytest.mark.parametrize("setting", ["SESSION_ABSOLUTE_AGE", "SESSION_COOKIE_AGE"])
def test_the_longest_age_is_one_that_a_date_can_hold(
    settings: DjangoSettings, setting: str
) -> None:
    setattr(settings, setting, conf.LONGEST_AGE)
    settings.SESSION_COOKIE_AGE = conf.LONGEST_AGE
    assert run_checks(tags=["sessions"]) == []
    session = SessionStore()
    session["a"] = 1
    session.save()
    assert session.get_expiry_date().year > 9000
    assert SessionStore(session.session_key)["a"] == 1


@pytest.mark.parametrize("value", [1e12, 10**15, timedelta.max, 1e300])
def test_an_age_that_no_date_can_hold_is_refused_by_its_limit(
    settings: DjangoSettings, value: object
) -> None:
    settings.SESSION_ABSOLUTE_AGE = value
    with pytest.raises(ImproperlyConfigured, match=r"^SESSION_ABSOLUTE_AGE .* to 240000000000"):
        conf.absolute_age()


def test_what_is_wrong_with_one_alias_leaves_the_others_usable(settings: DjangoSettings) -> None:
    settings.SESSION_STORES = {"default": {"BACKEND": MEMORY}, "other": {"BACKED": MEMORY}}
    assert isinstance(stores["default"], MemoryStore)
    assert list(stores) == ["default", "other"]
    with pytest.raises(ImproperlyConfigured, match=r"^SESSION_STORES\['other'\] has 'BACKED'"):
        stores["other"]


def test_a_nonsense_age_names_its_setting_at_run_time(settings: DjangoSettings) -> None:
    settings.SESSION_ABSOLUTE_AGE = settings.SESSION_TOUCH_INTERVAL = "an hour"
    for function, name in [
        (conf.absolute_age, "SESSION_ABSOLUTE_AGE"),
        (conf.touch_interval, "SESSION_TOUCH_INTERVAL"),
    ]:
        with pytest.raises(ImproperlyConfigured, match=rf"^{name} .* not 'an hour'"):
            function()


WITHOUT_THE_APP = """
import django
from django.conf import settings
settings.configure(
    SECRET_KEY="quick", BASE_DIR={folder!r}, SESSION_ENGINE="django_kvsessions.engine",
    INSTALLED_APPS={apps!r},
)
django.setup()
from django_kvsessions.engine import SessionStore
for _ in range(3):
    SessionStore().create()
"""


@pytest.mark.parametrize("apps", [["django.contrib.sessions"], ["django_kvsessions"]])
def test_without_the_app_the_log_says_once_what_is_lost(tmp_path: Path, apps: list[str]) -> None:
    code = WITHOUT_THE_APP.format(folder=str(tmp_path), apps=apps)
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert run.stderr.count("is not in INSTALLED_APPS") == ("django_kvsessions" not in apps)
    if "django_kvsessions" not in apps:
        for lost in ("checks the settings", "setupsessions", "clearsessions", "Put it before"):
            assert lost in run.stderr
