"""The package with no extra, or with one alone: ``python tests/packaging/bare.py [EXTRA]``.

It must be installed from a wheel; tests/packaging/extras.py calls this with each extra.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from importlib.util import find_spec
from pathlib import Path

import django
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.template.loader import render_to_string
from django.utils import translation
from django.utils.module_loading import import_string
from django.utils.translation import gettext

import django_kvsessions

ROOT = Path(__file__).resolve().parents[2]
# Last: the package is the one that is installed, and not the tree's.
sys.path.append(str(ROOT))

from testservers import free_port  # noqa: E402 (after the path)
from testservers.registry import STORES, Entry, settings_of  # noqa: E402 (after the path)


def is_embedded(entry: Entry) -> bool:
    return entry.server is None


#: A store for each extra that brings one; one that needs no server where there is a choice.
BY_EXTRA = {
    entry.extra: entry
    for entry in sorted(STORES.values(), key=is_embedded)
    if entry.extra is not None
}


def main(extra: str | None = None) -> None:
    check_installation(extra)
    with tempfile.TemporaryDirectory() as folder:
        configure(extra, folder)
        count = import_modules(extra)
        call_command("check", fail_level="WARNING")
        ask_for_others(extra)
        show_the_pages(knows_browsers=extra == "devices")
        if extra == "typed":
            use_a_bucket()
        if extra in BY_EXTRA and BY_EXTRA[extra].server is not None:
            miss_the_server()
        else:
            call_command("setupsessions")
            use_the_store()
            call_command("clearsessions")
            close_stores()
        if extra not in BY_EXTRA:
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
    assert set(found) >= BY_EXTRA.keys()
    return found


def check_installation(extra: str | None) -> None:
    """That this run proves something: the wheel is installed, and nothing beside the extra."""
    assert Path(django_kvsessions.__file__).parent != ROOT / "django_kvsessions", "not the wheel"
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
    configured = {}
    if extra in BY_EXTRA:
        # Those that need a server are sent to a port where there is none.
        entry, port = BY_EXTRA[extra], free_port()
        configured["default"] = settings_of(entry, Path(folder), port)
        configured["default"]["OPTIONS"].update(entry.impatient)
        os.environ.update({key: value.format(port=port) for key, value in entry.environ.items()})
    settings.configure(
        BASE_DIR=folder,
        SECRET_KEY="for this run alone",
        STATIC_URL="/static/",
        SESSION_ENGINE="django_kvsessions.engine",
        SESSION_STORES=configured,
        INSTALLED_APPS=[
            "django_kvsessions",
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.sessions",
        ],
        TEMPLATES=[
            {"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}
        ],
    )
    django.setup()


def import_modules(extra: str | None) -> int:
    # Those which are made of what they import: the rooms of other extras' stores, and the
    # test kit. What leads to them says so (ask_for_others).
    spared = [f"django_kvsessions.stores.{other}." for other in BY_EXTRA if other != extra]
    # And what Django's admin imports by itself, where it is installed.
    spared.append("django_kvsessions.admin")
    if extra != "testing":
        spared.append("django_kvsessions.testing")
    # Firestore's driver brings it too.
    if find_spec("opentelemetry") is None:
        spared.append("django_kvsessions.otel")
    packages = pkgutil.walk_packages(django_kvsessions.__path__, "django_kvsessions.")
    names = [package.name for package in packages if not package.name.startswith(tuple(spared))]
    for name in names:
        importlib.import_module(name)
    return len(names)


def ask_for_others(extra: str | None) -> None:
    """Whatever needs another extra says so."""
    from django_kvsessions.typed import Bucket

    for name in BY_EXTRA.keys() - {extra}:
        entry = BY_EXTRA[name]
        backend = import_string(f"django_kvsessions.stores.{entry.backend}")
        complaint = refusal(ImproperlyConfigured, backend, entry.location)
        assert f"pip install django-kvsessions[{name}]" in complaint, complaint
    if extra != "typed":
        complaint = refusal(ImproperlyConfigured, partial(Bucket, int, key="number"))
        assert "pip install django-kvsessions[typed]" in complaint, complaint
    # Firestore's driver brings it too.
    if find_spec("opentelemetry") is None:
        complaint = refusal(ImproperlyConfigured, importlib.import_module, "django_kvsessions.otel")
        assert "pip install django-kvsessions[otel]" in complaint, complaint
    if extra != "testing":
        complaint = refusal(ImportError, importlib.import_module, "django_kvsessions.testing")
        assert "pip install django-kvsessions[testing]" in complaint, complaint


def refusal(kind: type[Exception], use: Callable[..., object], *arguments: object) -> str:
    try:
        use(*arguments)
    except kind as error:
        return str(error)
    raise AssertionError(f"{use} raises no {kind.__name__}.")


def show_the_pages(*, knows_browsers: bool) -> None:
    from django_kvsessions.useragents import describe

    with translation.override("de"):
        page = render_to_string("django_kvsessions/devices/base.html")
        assert 'href="/static/django_kvsessions/devices.css"' in page, page
        assert gettext("Your devices") == "Ihre Geräte"
    static = Path(django_kvsessions.__file__).parent / "static"
    assert (static / "django_kvsessions" / "devices.css").exists()
    device = describe("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0")
    assert (device is not None and device.browser == "Firefox") == knows_browsers, device


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
