"""System checks: what is wrong, in which setting, and the cure, without touching a store."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from django.conf import global_settings
from django.core import checks, mail
from django.core.checks import CheckMessage, run_checks
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from pytest_django.fixtures import Settings as DjangoSettings

from django_kvsessions import engine
from django_kvsessions.stores import stores
from django_kvsessions.stores.base import StoreUnavailable
from django_kvsessions.stores.memory import MemoryStore
from testservers import free_port
from testservers.registry import STORES, is_installed, settings_of

SEMIDBM = "django_kvsessions.stores.semidbm.SemidbmStore"
MEMORY = "django_kvsessions.stores.memory.MemoryStore"
LMDB = "django_kvsessions.stores.lmdb.LMDBStore"
LAYERED = "django_kvsessions.stores.layered.LayeredStore"
DRIVER = "tests.support.odd_stores.DriverStore"
ENGINE = "django_kvsessions.engine"


def check(*, deploy: bool = False) -> list[CheckMessage]:
    return run_checks(tags=["sessions"], include_deployment_checks=deploy)


def numbers() -> list[str]:
    return sorted(str(message.id).removeprefix("kvsessions.") for message in check())


def only_message() -> CheckMessage:
    messages = check()
    assert len(messages) == 1, messages
    return messages[0]


def use_folder(settings: DjangoSettings, folder: object, **options: Any) -> None:
    settings.SESSION_STORES = {
        "default": {"BACKEND": SEMIDBM, "LOCATION": folder, "OPTIONS": options}
    }


class PickleSerializer:
    def dumps(self, value: object) -> bytes:
        raise NotImplementedError

    def loads(self, data: bytes) -> object:
        raise NotImplementedError


class ExtendedPickleSerializer(PickleSerializer):
    pass


class SafeSerializer:
    dumps = staticmethod(json.dumps)
    loads = staticmethod(json.loads)


class TalkingStore(MemoryStore):
    """Has something to say of its settings and of its server."""

    def check(self, *, alias: str, **kwargs: Any) -> list[CheckMessage]:
        return [checks.Warning(f"{alias} has unwise settings.", id="kvsessions.W998")]

    def check_server(self, *, alias: str, **kwargs: Any) -> list[CheckMessage]:
        return [checks.Warning(f"{alias} has an unwise server.", id="kvsessions.W999")]


class BrokenStore(MemoryStore):
    """Fails whatever it is asked."""

    def check(self, **kwargs: Any) -> list[CheckMessage]:
        raise ZeroDivisionError("division by zero")

    def check_server(self, **kwargs: Any) -> list[CheckMessage]:
        raise StoreUnavailable("the server is away")


class AwayStore(MemoryStore):
    """Its server does not answer."""

    def check_server(self, **kwargs: Any) -> list[CheckMessage]:
        raise StoreUnavailable("connection refused")


class TypeErrorStore(MemoryStore):
    """Its constructor trips over an option instead of refusing it."""

    def __init__(self, location: None = None, *, limit: Any = 1) -> None:
        super().__init__()
        self.limit = limit + 1


class DemandingStore(MemoryStore):
    """Cannot do without one of its options."""

    def __init__(self, location: None = None, *, table: str) -> None:
        super().__init__()


# What a newcomer gets wrong in the first hour


@pytest.mark.parametrize(
    ("wrong", "number", "named", "cure"),
    [
        ({"SESSION_COOKIE_AGE": "3600"}, "E013", "SESSION_COOKIE_AGE", "above 0"),
        ({"SESSION_COOKIE_AGE": "3600"}, "E013", "not '3600'", "without quotes"),
        ({"SESSION_COOKIE_AGE": 0}, "E013", "SESSION_COOKIE_AGE", "EXPIRE_AT_BROWSER_CLOSE"),
        ({"SESSION_COOKIE_AGE": -1}, "E013", "SESSION_COOKIE_AGE", "above 0"),
        ({"SESSION_COOKIE_AGE": True}, "E013", "SESSION_COOKIE_AGE", "above 0"),
        ({"SESSION_COOKIE_AGE": None}, "E013", "SESSION_COOKIE_AGE", "above 0"),
        ({"SESSION_COOKIE_AGE": 1e12}, "E013", "SESSION_COOKIE_AGE", "up to 240000000000"),
        ({"SESSION_COOKIE_AGE": timedelta(days=1)}, "E013", "SESSION_COOKIE_AGE", "60 * 60"),
        ({"SESSION_ABSOLUTE_AGE": 1e12}, "E011", "SESSION_ABSOLUTE_AGE", "to 240000000000"),
        ({"SESSION_ENGINE": "django-kvsessions"}, "E010", "cannot be imported", ENGINE),
        ({"SESSION_ENGINE": "django-kvsessions.engine"}, "E010", "SESSION_ENGINE", ENGINE),
        ({"SESSION_ENGINE": "kvsessions.engine"}, "E010", "'kvsessions.engine'", ENGINE),
        ({"SESSION_ENGINE": "json"}, "E010", "without a SessionStore", ENGINE),
        ({"SESSION_ENGINE": "tests.broken_engine"}, "E010", "'tests.broken_engine'", ENGINE),
        ({"SESSION_ENGINE": 7}, "E010", "SESSION_ENGINE is 7", ENGINE),
        ({"SESSION_STORE": {"default": {}}}, "W007", "SESSION_STORE ", "SESSION_STORES?"),
        ({"SESSION_STORES_ALIAS": "x"}, "W007", "SESSION_STORES_ALIAS", "SESSION_STORE_ALIAS?"),
        ({"SESSIONS_STORES": {"default": {}}}, "W007", "SESSIONS_STORES", "SESSION_STORES?"),
        ({"SESSION_ABSOLUT_AGE": 60}, "W007", "SESSION_ABSOLUT_AGE", "SESSION_ABSOLUTE_AGE?"),
        ({"SESSION_TOUCH_INTERVALL": 6}, "W007", "TOUCH_INTERVALL", "SESSION_TOUCH_INTERVAL?"),
        ({"SESSION_ENCRYPTON": True}, "W007", "SESSION_ENCRYPTON", "SESSION_ENCRYPTION?"),
        ({"SESSION_ENCRYPTION": True}, "W012", "SECRET_KEY", "get_random_secret_key"),
        ({"SESSION_MAX_PER_USERS": 3}, "W007", "MAX_PER_USERS", "SESSION_MAX_PER_USER?"),
        ({"SESSION_RECORD_DEVICE": "yes"}, "E014", "SESSION_RECORD_DEVICE", "True or False"),
        ({"SESSION_RECORD_DEVICE": None}, "E014", "SESSION_RECORD_DEVICE", "True or False"),
        ({"SESSION_RECORD_IP": True}, "E015", "SESSION_RECORD_IP", '"network"'),
        ({"SESSION_RECORD_IP": "networks"}, "E015", "'networks'", "24 bits"),
        ({"SESSION_RECORD_IP": ["full"]}, "E015", "['full']", '"full"'),
        ({"SESSION_MAX_PER_USER": 0}, "E016", "SESSION_MAX_PER_USER", "from 1"),
        ({"SESSION_MAX_PER_USER": "3"}, "E016", "not '3'", "whole number"),
        ({"SESSION_MAX_PER_USER": True}, "E016", "SESSION_MAX_PER_USER", "whole number"),
        ({"SESSION_AUTO_CLEAN": "yes"}, "E021", "SESSION_AUTO_CLEAN", "leave it out"),
        ({"BACKEND": "semidbm"}, "E002", "['BACKEND'] names 'semidbm'", "doesn't look like"),
        ({"BACKEND": "django_kvsessions.stores.semidbm"}, "E002", "is not a Store", "semidbm"),
        ({"TABLE": "sessions"}, "E001", "has 'TABLE'", "it takes BACKEND, LOCATION, OPTIONS"),
        ({"OPTIONS": {"lock_timeout": "10"}}, "E003", "['default']", "lock_timeout"),
        ({"OPTIONS": {"lock_timout": 10}}, "E003", "'lock_timout'", "Did you mean 'lock_timeout'?"),
        ({"OPTIONS": {7: 10}}, "E003", "has 7", "it knows durability, "),
        (
            {"BACKEND": DRIVER, "OPTIONS": {"prefx": "mysite"}},
            "E003",
            "DriverStore itself knows prefix; anything else in OPTIONS goes to its driver.",
            "Did you mean 'prefix'?",
        ),
        ({"BACKEND": DRIVER, "OPTIONS": {"raw": 1, "colour": 1}}, "E003", "'colour'", "prefix;"),
        ({"BACKEND": DRIVER, "OPTIONS": {7: 10}}, "E003", "has 7", "it knows prefix"),
    ],
)
def test_each_of_the_likeliest_mistakes_is_told_with_the_setting_and_the_cure(
    settings: DjangoSettings,
    tmp_path: Path,
    wrong: dict[str, Any],
    number: str,
    named: str,
    cure: str,
) -> None:
    settings.DEBUG = True
    store = {name: wrong[name] for name in wrong if not name.startswith("SESSION")}
    settings.SESSION_STORES = {"default": {"LOCATION": tmp_path / "sessions", **store}}
    if "BACKEND" in store:
        settings.SESSION_STORES = {"default": store}
    for name in wrong.keys() - store.keys():
        setattr(settings, name, wrong[name])
    message = only_message()
    assert message.id == f"kvsessions.{number}"
    assert named in message.msg
    assert cure in f"{message.msg} {message.hint}"


def test_an_option_of_the_driver_that_is_wrong_is_not_taken_for_a_slip(
    settings: DjangoSettings,
) -> None:
    settings.DEBUG = True
    settings.SESSION_STORES = {"default": {"BACKEND": DRIVER, "OPTIONS": {"timeout": 5}}}
    assert check() == []
    settings.SESSION_STORES = {
        "default": {"BACKEND": DRIVER, "OPTIONS": {"raw": True, "timeout": "long"}}
    }
    assert only_message().msg.startswith("SESSION_STORES['default']: TypeError: '<=' not supported")
    settings.SESSION_STORES = {"default": {"BACKEND": DRIVER, "OPTIONS": {"timeout": 0}}}
    assert only_message().msg == (
        "SESSION_STORES['default']: OPTIONS['timeout'] must be a number of seconds above 0."
    )


def test_a_misspelt_engine_is_told_where_the_site_would_not_use_this_package_at_all(
    settings: DjangoSettings,
) -> None:
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.db"
    settings.SESSION_STORES = None
    settings.SESSION_STORE = {"default": {}}
    assert check() == []
    settings.SESSION_ENGIN = ENGINE
    assert only_message().hint == "Did you mean SESSION_ENGINE?"


def test_settings_of_django_and_of_other_packages_are_no_slips(settings: DjangoSettings) -> None:
    for name in dir(global_settings):
        if name.startswith("SESSION_"):
            setattr(settings, name, getattr(global_settings, name))
    settings.SESSION_ENGINE = ENGINE
    for name in (
        "SESSION_REDIS",
        "SESSION_REDIS_HOST",
        "SESSION_CACHE_ALIAS",
        "SESSION_COOKIE_PRIORITY",
        "SESSION_ENCRYPTION_KEY",
        "SESSION_EXPIRE_SECONDS",
        "SESSION_EXPIRE_AFTER_LAST_ACTIVITY",
        "SESSION_IDLE_TIMEOUT",
        "SESSION_LIMIT_PER_USER",
        "SESSION_SECURITY_EXPIRE_AFTER",
        "SESSION_SECURITY_WARN_AFTER",
        "SESSION_TIMEOUT",
        "SESSION_TIMEOUT_REDIRECT",
        "SESSION_TOUCH",
    ):
        setattr(settings, name, "something")
    assert check() == []


@pytest.mark.parametrize(
    ("backend", "other", "file"),
    [(SEMIDBM, "LMDBStore", "data.mdb"), (LMDB, "SemidbmStore", "data")],
)
def test_a_folder_of_another_store_is_refused_and_the_other_named(
    settings: DjangoSettings, tmp_path: Path, backend: str, other: str, file: str
) -> None:
    theirs = LMDB if backend == SEMIDBM else SEMIDBM
    settings.SESSION_STORES = {"default": {"BACKEND": theirs, "LOCATION": tmp_path}}
    engine.SessionStore().create()
    tmp_path.chmod(0o700)
    assert check() == []
    settings.SESSION_STORES = {"default": {"BACKEND": backend, "LOCATION": tmp_path}}
    message = only_message()
    assert message.id == "kvsessions.E003"
    assert f"looks like the folder of a {other}: {file!r} is in it." in message.msg
    assert f"Give {backend.rpartition('.')[2]} a folder of its own." in message.msg
    with pytest.raises(ImproperlyConfigured, match="a folder of its own"):
        engine.SessionStore().create()


# When they run


def test_right_settings_pass() -> None:
    assert check() == []
    assert check(deploy=True) == []


def test_a_check_makes_no_file_and_no_folder(settings: DjangoSettings, tmp_path: Path) -> None:
    use_folder(settings, tmp_path / "var" / "sessions")
    assert check(deploy=True) == []
    assert list(tmp_path.iterdir()) == []


def test_a_site_on_another_engine_is_left_alone(settings: DjangoSettings) -> None:
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.db"
    settings.SESSION_STORE_ALIAS = "nope"
    settings.SESSION_SERIALIZER = "no.such.Serializer"
    settings.SESSION_STORES = None
    assert check(deploy=True) == []
    settings.SESSION_STORES = {"default": {"BACKEND": MEMORY}}
    assert numbers() == ["E004", "E009"]


def test_an_engine_of_the_projects_own_that_extends_ours_is_checked(
    settings: DjangoSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OwnStore(engine.SessionStore):
        pass

    module = ModuleType("own_engine")
    monkeypatch.setattr(module, "SessionStore", OwnStore, raising=False)
    monkeypatch.setitem(sys.modules, "own_engine", module)
    settings.SESSION_ENGINE = "own_engine"
    settings.SESSION_STORE_ALIAS = "nope"
    settings.SESSION_STORES = None
    assert numbers() == ["E004"]


def test_they_run_with_manage_py_check() -> None:
    call_command("check", "--tag=sessions", "--deploy")
    call_command("check", "--list-tags")


# SESSION_ENGINE, SESSION_SERIALIZER and the ages


def test_a_wrong_alias_hides_nothing_that_is_wrong_with_another(settings: DjangoSettings) -> None:
    settings.SESSION_STORES = {
        "default": {"BACKED": MEMORY},
        "other": {"BACKEND": "no.such.Store"},
        "third": "fast",
    }
    assert numbers() == ["E001", "E001", "E002"]


@pytest.mark.parametrize(
    "slip",
    [
        "django_kvsessions",
        "django_kvsessions.engine.SessionStore",
        "django_kvsessions.engines",
        "django_kvsessions.stores.semidbm",
        SEMIDBM,
        "django.contrib.sessions.backends.db.SessionStore",
    ],
)
def test_a_slip_in_the_engine_is_shown_the_right_line(settings: DjangoSettings, slip: str) -> None:
    settings.SESSION_ENGINE = slip
    settings.SESSION_STORES = None
    message = only_message()
    assert message.id == "kvsessions.E010"
    assert message.level == checks.ERROR
    assert slip in message.msg
    assert "SESSION_ENGINE = 'django_kvsessions.engine'" in str(message.hint)


def test_a_serializer_that_cannot_be_imported_is_an_error(settings: DjangoSettings) -> None:
    settings.SESSION_SERIALIZER = "django.contrib.sessions.serializers.PickleSerializer"
    message = only_message()
    assert message.id == "kvsessions.E009"
    assert "SESSION_SERIALIZER names 'django.contrib" in message.msg


@pytest.mark.parametrize("wrong", [SafeSerializer, 7, "json.JSONDecoder"])
def test_a_serializer_that_is_none_is_an_error(settings: DjangoSettings, wrong: object) -> None:
    settings.SESSION_SERIALIZER = wrong
    assert numbers() == ["E009"]


@pytest.mark.parametrize("serializer", [PickleSerializer, ExtendedPickleSerializer])
def test_pickle_is_warned_of(settings: DjangoSettings, serializer: type) -> None:
    settings.SESSION_SERIALIZER = f"{__name__}.{serializer.__name__}"
    message = only_message()
    assert (message.id, message.level) == ("kvsessions.W003", checks.WARNING)


@pytest.mark.parametrize(
    "serializer",
    ["django.contrib.sessions.serializers.JSONSerializer", f"{__name__}.SafeSerializer"],
)
def test_other_serializers_are_fine(settings: DjangoSettings, serializer: str) -> None:
    settings.SESSION_SERIALIZER = serializer
    assert check() == []


@pytest.mark.parametrize("wrong", [-1, True, "3600", float("nan"), float("inf"), [1]])
@pytest.mark.parametrize(
    ("setting", "number"), [("SESSION_ABSOLUTE_AGE", "E011"), ("SESSION_TOUCH_INTERVAL", "E012")]
)
def test_a_nonsense_age_or_interval_is_an_error(
    settings: DjangoSettings, setting: str, number: str, wrong: object
) -> None:
    setattr(settings, setting, wrong)
    message = only_message()
    assert (message.id, message.level) == (f"kvsessions.{number}", checks.ERROR)
    assert message.msg.startswith(setting)


@pytest.mark.parametrize("wrong", [0, timedelta(0), timedelta(days=-1)])
def test_no_session_lives_for_no_time(settings: DjangoSettings, wrong: object) -> None:
    settings.SESSION_ABSOLUTE_AGE = wrong
    assert numbers() == ["E011"]


# SESSION_STORES and SESSION_STORE_ALIAS


@pytest.mark.parametrize(
    ("wrong", "number", "told"),
    [
        (["default"], "E001", "SESSION_STORES must be a dict"),
        ({"default": MEMORY}, "E001", "SESSION_STORES['default'] must be a dict"),
        ({"default": {"BACKED": MEMORY}}, "E001", "SESSION_STORES['default'] has 'BACKED'"),
        ({"default": {"OPTIONS": "fast"}}, "E001", "SESSION_STORES['default']['OPTIONS']"),
        ({"default": {"BACKEND": "no.such.Store"}}, "E002", "['BACKEND'] names 'no.such.Store'"),
        ({"default": {"BACKEND": "Store"}}, "E002", "['BACKEND'] names 'Store'"),
        ({"default": {"BACKEND": f"{MEMORY}x"}}, "E002", f"['BACKEND'] names '{MEMORY}x'"),
        ({"default": {"BACKEND": "json.JSONDecoder"}}, "E002", "['BACKEND'] is not a Store"),
        ({"default": {"BACKEND": MemoryStore}}, "E002", "must be the dotted path of a class"),
        (
            {"default": {"OPTIONS": {"durabilty": "full"}}},
            "E003",
            "['OPTIONS'] has 'durabilty', which SemidbmStore does not know; it knows durability,",
        ),
        ({"default": {"OPTIONS": {"durability": "max"}}}, "E003", "SESSION_STORES['default']: "),
        ({"default": {"LOCATION": 7}}, "E003", "['LOCATION'] must name a folder, not 7"),
        ({"default": {"LOCATION": ""}}, "E003", "['LOCATION'] must name a folder, not ''"),
        (
            {"default": {"BACKEND": f"{__name__}.DemandingStore"}},
            "E003",
            "SESSION_STORES['default']['OPTIONS']: missing a required",
        ),
    ],
)
def test_wrong_stores_are_told_by_name_as_at_run_time(
    settings: DjangoSettings, wrong: Any, number: str, told: str
) -> None:
    settings.DEBUG = True
    settings.SESSION_STORES = wrong
    message = only_message()
    assert message.id == f"kvsessions.{number}"
    assert message.level == checks.ERROR
    assert told in message.msg
    with pytest.raises(ImproperlyConfigured) as raised:
        engine.SessionStore().create()
    assert str(raised.value) == message.msg


def test_every_store_is_checked(settings: DjangoSettings) -> None:
    settings.SESSION_STORES = {
        "default": {"BACKEND": "no.such.Store"},
        "other": {"OPTIONS": {"colour": "red"}},
        "third": {"BACKEND": MEMORY, "LOCATION": "/srv"},
    }
    assert numbers() == ["E002", "E003", "E003"]


def test_a_constructor_that_trips_is_no_traceback(settings: DjangoSettings) -> None:
    settings.DEBUG = True
    settings.SESSION_STORES = {
        "default": {"BACKEND": f"{__name__}.TypeErrorStore", "OPTIONS": {"limit": "ten"}}
    }
    message = only_message()
    assert message.id == "kvsessions.E003"
    assert message.msg.startswith("SESSION_STORES['default']: TypeError: ")


def test_the_default_folder_needs_a_base_dir(settings: DjangoSettings) -> None:
    settings.SESSION_STORES = None
    assert check() == []
    settings.BASE_DIR = None
    message = only_message()
    assert message.id == "kvsessions.E001"
    assert "SESSION_STORES['default']['LOCATION'] is missing" in message.msg
    assert "BASE_DIR" in message.msg


def test_an_alias_that_is_not_there_is_an_error(settings: DjangoSettings) -> None:
    settings.SESSION_STORE_ALIAS = "nope"
    message = only_message()
    assert message.id == "kvsessions.E004"
    assert "SESSION_STORE_ALIAS is 'nope'" in message.msg
    assert "it has 'default', 'memory'" in message.msg


@pytest.fixture
def outside_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a site runs: Django's test environment is not set up."""
    monkeypatch.delattr(mail, "outbox")


def test_memory_is_not_warned_of_while_tests_run(settings: DjangoSettings) -> None:
    settings.SESSION_STORE_ALIAS = "memory"
    assert check() == []


@pytest.mark.usefixtures("outside_tests")
def test_memory_as_the_sites_store_is_warned_of_outside_debug(settings: DjangoSettings) -> None:
    settings.SESSION_STORE_ALIAS = "memory"
    assert (only_message().id, only_message().level) == ("kvsessions.W002", checks.WARNING)
    settings.DEBUG = True
    assert check() == []


@pytest.mark.parametrize("wrong", [{"BACKEND": "no.such.Store"}, {"BACKED": MEMORY}])
def test_a_wrong_alias_casts_no_doubt_on_a_layered_store(
    settings: DjangoSettings, wrong: dict[str, str]
) -> None:
    settings.DEBUG = True
    settings.SESSION_STORES = {
        "memory": {"BACKEND": MEMORY},
        "default": {"BACKEND": LAYERED, "OPTIONS": {"cache": "memory", "store": "folder"}},
        "folder": settings.SESSION_STORES["default"],
        "wrong": wrong,
    }
    message = only_message()
    assert message.is_serious()
    assert "SESSION_STORES['wrong']" in message.msg


@pytest.mark.usefixtures("outside_tests")
@pytest.mark.parametrize("alias", ["layered", "outer"])
def test_memory_below_a_cache_is_warned_of_too(settings: DjangoSettings, alias: str) -> None:
    settings.SESSION_STORES = {
        "cache": {"BACKEND": MEMORY},
        "memory": {"BACKEND": MEMORY},
        "third": {"BACKEND": MEMORY},
        "layered": {"BACKEND": LAYERED, "OPTIONS": {"cache": "cache", "store": "memory"}},
        "outer": {"BACKEND": LAYERED, "OPTIONS": {"cache": "third", "store": "layered"}},
    }
    settings.SESSION_STORE_ALIAS = alias
    message = only_message()
    assert message.id == "kvsessions.W002"
    assert f"SESSION_STORES[{alias!r}]" in message.msg


def test_memory_as_a_cache_is_not_warned_of(settings: DjangoSettings) -> None:
    settings.SESSION_STORES = {
        "memory": {"BACKEND": MEMORY},
        "folder": settings.SESSION_STORES["default"],
        "default": {"BACKEND": LAYERED, "OPTIONS": {"cache": "memory", "store": "folder"}},
    }
    assert check() == []


def test_a_platform_without_file_locks_is_told(
    settings: DjangoSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django_kvsessions.stores.process import locks as filelock
    from django_kvsessions.stores.semidbm import store as semidbm

    for module in (filelock, semidbm):
        monkeypatch.setattr(module, "fcntl", None)
    stores.close_all()
    assert only_message().id == "kvsessions.E003"
    assert "file locks" in only_message().msg


# LOCATION


@pytest.mark.parametrize("below", ["", "deeper", "deeper/and/deeper"])
def test_a_location_that_is_a_file_is_an_error(
    settings: DjangoSettings, tmp_path: Path, below: str
) -> None:
    (tmp_path / "file").write_text("")
    use_folder(settings, tmp_path / "file" / below)
    message = only_message()
    assert message.id == "kvsessions.E005"
    assert "SESSION_STORES['default']['LOCATION']" in message.msg
    assert str(tmp_path / "file") in message.msg


def test_a_location_that_no_file_system_takes_is_an_error(settings: DjangoSettings) -> None:
    use_folder(settings, "/srv/\0")
    assert numbers() == ["E005"]


@pytest.fixture
def as_nobody(tmp_path: Path) -> Iterator[None]:
    """Tests may run as root, to whom every folder is writable."""
    if os.geteuid() != 0:
        yield
        return
    # A user of its own must get there, who cannot read the folders of the test runner.
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == 0 and folder.stat().st_mode & 0o777 == 0o700:
            folder.chmod(0o711)
    os.seteuid(65534)
    yield
    os.seteuid(0)


def test_a_location_that_cannot_be_written_is_an_error(
    settings: DjangoSettings, tmp_path: Path, as_nobody: None
) -> None:
    use_folder(settings, "/usr")
    assert "E006" in numbers()
    use_folder(settings, "/usr/sessions/of/mine")
    message = only_message()
    assert message.id == "kvsessions.E006"
    assert "SESSION_STORES['default']['LOCATION'] (/usr/sessions/of/mine)" in message.msg
    assert "/usr is not writable for " in message.msg
    assert "belongs to root" in message.msg


def test_a_folder_of_the_sites_own_user_is_only_a_warning_to_others(
    settings: DjangoSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    folder = tmp_path / "sessions"
    folder.mkdir(mode=0o500)
    owner = os.geteuid()
    if owner == 0:
        owner = 65533
        os.chown(folder, owner, owner)
        request.getfixturevalue("as_nobody")
    else:
        monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    use_folder(settings, folder)
    message = only_message()
    assert (message.id, message.level) == ("kvsessions.W006", checks.WARNING)
    assert f"({folder}) is not writable for " in message.msg


@pytest.mark.parametrize("where", ["", "private", "private/sessions"])
@pytest.mark.parametrize(
    "setting", ["MEDIA_ROOT", "STATIC_ROOT", "STATICFILES_DIRS", "STATICFILES_DIRS with prefix"]
)
def test_a_location_that_is_served_is_an_error(
    settings: DjangoSettings, tmp_path: Path, setting: str, where: str
) -> None:
    name = setting.partition(" ")[0]
    value: Any = str(tmp_path / "served")
    if "DIRS" in setting:
        value = [("downloads", value)] if "prefix" in setting else [value]
    setattr(settings, name, value)
    (tmp_path / "served").mkdir(mode=0o700)
    # Neither a detour nor a link hides it.
    (tmp_path / "link").symlink_to(tmp_path / "served")
    for path in ("served", "other/../served", "link"):
        use_folder(settings, tmp_path / path / where)
        message = only_message()
        assert (message.id, message.level) == ("kvsessions.E007", checks.ERROR)
        assert f"is inside {name} ({tmp_path / 'served'})" in message.msg
    use_folder(settings, tmp_path / "served-not")
    assert check() == []


@pytest.mark.parametrize("mode", [0o750, 0o701, 0o777])
def test_a_folder_that_others_may_enter_is_warned_of(
    settings: DjangoSettings, tmp_path: Path, mode: int
) -> None:
    folder = tmp_path / "sessions"
    folder.mkdir()
    folder.chmod(mode)
    use_folder(settings, folder)
    message = only_message()
    assert (message.id, message.level) == ("kvsessions.W001", checks.WARNING)
    assert f"has mode {mode:04o}" in message.msg
    assert message.hint == f"chmod 700 {folder}"
    folder.chmod(0o700)
    assert check() == []


def test_a_relative_location_is_warned_of(
    settings: DjangoSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    use_folder(settings, "sessions")
    assert numbers() == ["W005"]


# What stores say themselves


def test_a_store_is_asked_about_its_settings_and_on_deployment_about_its_server(
    settings: DjangoSettings,
) -> None:
    settings.DEBUG = True
    settings.SESSION_STORES = {"default": {"BACKEND": f"{__name__}.TalkingStore"}}
    assert [message.msg for message in check()] == ["default has unwise settings."]
    assert {message.msg for message in check(deploy=True)} == {
        "default has unwise settings.",
        "default has an unwise server.",
    }


def test_a_store_whose_checks_fail_is_told_and_no_traceback(settings: DjangoSettings) -> None:
    settings.DEBUG = True
    settings.SESSION_STORES = {"default": {"BACKEND": f"{__name__}.BrokenStore"}}
    messages = check(deploy=True)
    assert {(message.id, message.level, message.msg) for message in messages} == {
        (
            "kvsessions.W004",
            checks.WARNING,
            "SESSION_STORES['default']: its check failed: ZeroDivisionError: division by zero",
        ),
        (
            "kvsessions.E025",
            checks.ERROR,
            "SESSION_STORES['default'] does not answer: the server is away",
        ),
    }


def test_a_deployment_check_fails_where_a_store_does_not_answer(settings: DjangoSettings) -> None:
    settings.DEBUG = True
    settings.SESSION_STORES = {"default": {"BACKEND": f"{__name__}.AwayStore"}}
    call_command("check", "--tag=sessions")
    with pytest.raises(SystemCheckError, match=r"SESSION_STORES\['default'\] does not answer"):
        call_command("check", "--tag=sessions", "--deploy")


WITH_SERVERS = [
    name
    for name, entry in STORES.items()
    if entry.server is not None and entry.database is None and is_installed(entry)
]


@pytest.mark.parametrize("name", WITH_SERVERS)
def test_a_server_that_is_away_is_an_error_of_the_deployment_checks(
    settings: DjangoSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    entry, port = STORES[name], free_port()
    for variable, value in entry.environ.items():
        monkeypatch.setenv(variable, value.format(port=port))
    configured = settings_of(entry, tmp_path, port)
    if "timeout" in configured["OPTIONS"]:
        configured["OPTIONS"]["timeout"] = 1
    configured["OPTIONS"] |= entry.impatient
    settings.SESSION_STORES = {"default": configured}
    assert check() == []
    messages = check(deploy=True)
    assert [message.id for message in messages] == ["kvsessions.E025"], messages
    assert "SESSION_STORES['default'] does not answer" in messages[0].msg


def test_a_store_that_cannot_be_made_does_not_stop_the_deployment_checks(
    settings: DjangoSettings,
) -> None:
    settings.DEBUG = True
    settings.SESSION_STORES = {
        "wrong": {"BACKEND": "no.such.Store"},
        "default": {"BACKEND": f"{__name__}.TalkingStore"},
    }
    ids = [message.id for message in check(deploy=True)]
    assert sorted(map(str, ids)) == ["kvsessions.E002", "kvsessions.W998", "kvsessions.W999"]


def test_a_location_left_to_its_default_is_told_on_deployment(
    settings: DjangoSettings, tmp_path: Path
) -> None:
    settings.BASE_DIR = tmp_path
    settings.SESSION_STORES = {"default": {}, "memory": {"BACKEND": MEMORY}}
    (warning,) = check(deploy=True)
    assert warning.id == "kvsessions.W009"
    assert f"{tmp_path}/sessions" in warning.msg
    settings.SESSION_STORES = {"default": {"LOCATION": tmp_path / "sessions"}}
    assert check(deploy=True) == []


@pytest.mark.parametrize("name", ["__init__.py", "models.py", "__pycache__"])
@pytest.mark.parametrize("backend", ["semidbm.SemidbmStore", "lmdb.LMDBStore"])
def test_a_folder_that_holds_an_app_is_refused(
    settings: DjangoSettings, tmp_path: Path, name: str, backend: str
) -> None:
    (tmp_path / "sessions").mkdir()
    (tmp_path / "sessions" / name).touch()
    settings.SESSION_STORES = {
        "default": {
            "BACKEND": f"django_kvsessions.stores.{backend}",
            "LOCATION": tmp_path / "sessions",
        }
    }
    (error,) = check()
    assert error.id == "kvsessions.E003"
    assert f"holds Python files ({name!r})" in error.msg


@pytest.mark.parametrize("backend", ["semidbm.SemidbmStore", "lmdb.LMDBStore"])
def test_no_commit_takes_the_sessions_along(
    settings: DjangoSettings, tmp_path: Path, backend: str
) -> None:
    settings.SESSION_STORES = {
        "default": {
            "BACKEND": f"django_kvsessions.stores.{backend}",
            "LOCATION": tmp_path / "sessions",
        }
    }
    stores["default"].setup()
    assert (tmp_path / "sessions" / ".gitignore").read_text() == "*\n"
    assert (tmp_path / "sessions" / ".gitignore").stat().st_mode & 0o777 == 0o600
