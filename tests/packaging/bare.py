"""The package with no extra, or with one alone: ``python tests/packaging/bare.py [EXTRA]``.

It must be installed from a wheel; tests/packaging/extras.py calls this with each extra.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import socket
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command

import django_kvsessions

#: Class, LOCATION and OPTIONS of each store that has an extra, by the extra's name. Those that
#: need a server are sent to a port where there is none.
STORES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "dynamodb": (
        "DynamoDBStore",
        "sessions",
        {
            "region_name": "eu-west-1",
            "endpoint_url": "http://127.0.0.1:{port}",
            "aws_access_key_id": "somebody",
            "aws_secret_access_key": "something",
            "attempts": 1,
        },
    ),
    "firestore": ("FirestoreStore", "sessions", {"project": "demo"}),
    "libsql": ("LibSQLStore", "{folder}/sessions.db", {}),
    "lmdb": ("LMDBStore", "{folder}/sessions", {}),
    "mongodb": (
        "MongoDBStore",
        "mongodb://127.0.0.1:{port}/sessions",
        {"serverSelectionTimeoutMS": 300},
    ),
    "redis": ("RedisStore", "redis://127.0.0.1:{port}/0", {}),
    "surrealdb": ("SurrealDBStore", "mem://", {}),
}
REMOTE = {"dynamodb", "firestore", "mongodb", "redis"}


def main(extra: str | None = None) -> None:
    check_installation(extra)
    with tempfile.TemporaryDirectory() as folder:
        configure(extra, folder)
        count = import_modules(extra)
        call_command("check", fail_level="WARNING")
        ask_for_others(extra)
        if extra == "typed":
            use_a_bucket()
        if extra in REMOTE:
            miss_the_server()
        else:
            call_command("setupsessions")
            use_the_store()
            call_command("clearsessions")
            close_stores()
        if extra not in STORES:
            assert (Path(folder) / "sessions").is_dir()
    alone = f"the extra {extra} alone" if extra else "no extra"
    print(f"{count} modules imported with {alone} on Python {sys.version.split()[0]}.")


def requirements(extra: str) -> set[str]:
    """The names of the packages that an extra brings."""
    lines = [line for line in requires("django-kvsessions") or [] if f'"{extra}"' in line]
    assert lines, f"there is no extra {extra}"
    return {re.split(r"[^\w.-]", line)[0] for line in lines}


def extras() -> list[str]:
    found = metadata("django-kvsessions").get_all("Provides-Extra") or []
    assert set(found) >= STORES.keys()
    return found


def check_installation(extra: str | None) -> None:
    """That this run proves something: the wheel is installed, and nothing beside the extra."""
    here = Path(__file__).resolve().parents[2]
    assert here / "django_kvsessions" != Path(django_kvsessions.__file__).parent, "not the wheel"
    assert Path(django_kvsessions.__file__).with_name("py.typed").exists()
    for name in requirements(extra) if extra else ():
        version(name)
    unwanted = {"pytest"} if extra != "testing" else set[str]()
    if extra is None:
        # One extra may bring what another names.
        unwanted = unwanted.union(*map(requirements, extras()))
    for name in sorted(unwanted):
        try:
            raise SystemExit(f"{name} {version(name)} is installed: this proves nothing.")
        except PackageNotFoundError:
            pass


def configure(extra: str | None, folder: str) -> None:
    port = free_port()
    configured = {}
    if extra in STORES:
        name, location, options = STORES[extra]
        fill = {"folder": folder, "port": port}
        configured["default"] = {
            "BACKEND": f"django_kvsessions.stores.{extra}.{name}",
            "LOCATION": location.format(**fill),
            "OPTIONS": {
                option: value.format(**fill) if isinstance(value, str) else value
                for option, value in options.items()
            },
        }
    os.environ["FIRESTORE_EMULATOR_HOST"] = f"127.0.0.1:{port}"
    settings.configure(
        BASE_DIR=folder,
        SECRET_KEY="for this run alone",
        SESSION_ENGINE="django_kvsessions.engine",
        SESSION_STORES=configured,
        INSTALLED_APPS=["django_kvsessions", "django.contrib.sessions"],
    )
    django.setup()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def import_modules(extra: str | None) -> int:
    packages = pkgutil.walk_packages(django_kvsessions.__path__, "django_kvsessions.")
    names = [package.name for package in packages]
    if extra != "testing":
        # The test kit is made of what it imports, and says so (ask_for_others).
        names = [name for name in names if not name.startswith("django_kvsessions.testing")]
    for name in names:
        importlib.import_module(name)
    return len(names)


def ask_for_others(extra: str | None) -> None:
    """Whatever needs another extra says so."""
    from django_kvsessions.typed import Bucket

    for name in STORES.keys() - {extra}:
        backend, location, _ = STORES[name]
        module = importlib.import_module(f"django_kvsessions.stores.{name}")
        complaint = refusal(ImproperlyConfigured, getattr(module, backend), location)
        assert f"pip install django-kvsessions[{name}]" in complaint, complaint
    if extra != "typed":
        complaint = refusal(ImproperlyConfigured, partial(Bucket, int, key="number"))
        assert "pip install django-kvsessions[typed]" in complaint, complaint
    if extra != "testing":
        complaint = refusal(ImportError, importlib.import_module, "django_kvsessions.testing")
        assert "pip install django-kvsessions[testing]" in complaint, complaint


def refusal(kind: type[Exception], use: Callable[..., object], *arguments: object) -> str:
    try:
        use(*arguments)
    except kind as error:
        return str(error)
    raise AssertionError(f"{use} raises no {kind.__name__}.")


def use_a_bucket() -> None:
    from django_kvsessions.engine import SessionStore
    from django_kvsessions.typed import Bucket

    session = SessionStore()
    cart = Bucket(list[int], key="cart")
    cart.set(session, [1, 2])
    session.save()
    assert cart.get(SessionStore(session.session_key)) == [1, 2]


def miss_the_server() -> None:
    from django_kvsessions.engine import SessionStore
    from django_kvsessions.stores.base import StoreUnavailable

    complaint = refusal(StoreUnavailable, SessionStore("a" * 32).get, "visits")
    assert re.search(r"LOCATION|OPTIONS\[", complaint), complaint
    close_stores()


def use_the_store() -> None:
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


def close_stores() -> None:
    from django_kvsessions.stores import stores

    stores.close_all()


if __name__ == "__main__":
    main(*sys.argv[1:])
