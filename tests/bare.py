"""The package as it is with no extra: ``python tests/bare.py`` where only it is installed."""

from __future__ import annotations

import importlib
import pkgutil
import re
import sys
import tempfile
from abc import ABCMeta
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path

import django
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command

import django_kvsessions

#: A LOCATION for each store that has an extra, by the name of both.
LOCATIONS = {
    "dynamodb": "sessions",
    "firestore": "sessions",
    "libsql": "sessions.db",
    "lmdb": "sessions",
    "mongodb": "mongodb://127.0.0.1/sessions",
    "redis": "redis://127.0.0.1/0",
    "surrealdb": "mem://",
}
#: Modules that are made of what they import: parts of a store that has an extra, the test kit.
NOT_BARE = tuple(f"django_kvsessions.stores.{extra}_" for extra in LOCATIONS)
NOT_BARE += ("django_kvsessions.testing",)


def check_installation() -> None:
    """That this run proves something: the wheel is installed, no extra is."""
    here = Path(__file__).resolve().parents[1]
    assert here / "django_kvsessions" != Path(django_kvsessions.__file__).parent, "not the wheel"
    assert Path(django_kvsessions.__file__).with_name("py.typed").exists()
    extras = [line for line in requires("django-kvsessions") or [] if "extra ==" in line]
    assert extras, "no extra to be without"
    names = {re.split(r"[^\w.-]", line)[0] for line in extras}
    for name in sorted(names | {"pytest"}):
        try:
            raise SystemExit(f"{name} {version(name)} is installed: this proves nothing.")
        except PackageNotFoundError:
            pass


def import_modules() -> int:
    packages = pkgutil.walk_packages(django_kvsessions.__path__, "django_kvsessions.")
    names = [package.name for package in packages if not package.name.startswith(NOT_BARE)]
    for name in names:
        importlib.import_module(name)
    return len(names)


def ask_for_extras() -> None:
    """Each store that has an extra says so where it is missing."""
    extras = metadata("django-kvsessions").get_all("Provides-Extra") or []
    for extra in extras:
        try:
            module = importlib.import_module(f"django_kvsessions.stores.{extra}")
        except ModuleNotFoundError:
            continue  # It is not a store's.
        own = [value for value in vars(module).values() if value.__class__ is ABCMeta]
        (backend,) = [value for value in own if value.__module__ == module.__name__]
        complaint = refusal(backend, LOCATIONS[extra])
        assert f"pip install django-kvsessions[{extra}]" in complaint, complaint


def refusal(backend: Callable[..., object], location: str) -> str:
    try:
        backend(location)
    except ImproperlyConfigured as error:
        return str(error)
    raise AssertionError(f"{backend} does without its extra.")


def use_default_store() -> None:
    from django.contrib.sessions.backends.base import UpdateError

    from django_kvsessions.engine import SessionStore

    session = SessionStore()
    session["visits"] = 1
    session.save()
    again = SessionStore(session.session_key)
    assert again["visits"] == 1
    again.delete()
    assert SessionStore(session.session_key).get("visits") is None
    session["visits"] = 2
    try:
        session.save()
    except UpdateError:
        pass
    else:
        raise AssertionError("A session that was ended has come back.")


def main() -> None:
    check_installation()
    with tempfile.TemporaryDirectory() as folder:
        settings.configure(
            BASE_DIR=folder,
            SECRET_KEY="for this run alone",
            SESSION_ENGINE="django_kvsessions.engine",
            INSTALLED_APPS=["django_kvsessions", "django.contrib.sessions"],
        )
        django.setup()
        count = import_modules()
        call_command("check", fail_level="WARNING")
        ask_for_extras()
        use_default_store()
        call_command("clearsessions")
        assert (Path(folder) / "sessions").is_dir()
    print(f"{count} modules imported without extras on Python {sys.version.split()[0]}.")


if __name__ == "__main__":
    main()
