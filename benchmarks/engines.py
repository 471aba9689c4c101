"""The engines that are compared, each with the settings it runs under."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

DJANGO = "django.contrib.sessions"
OURS = "kvsessions"
LMDB = "kvsessions-lmdb"

OPERATIONS = ("load", "save", "create", "delete", "plain", "read", "write")
# More than any run stores: an engine that culls would be measured on fewer sessions.
UNLIMITED = 10**12


@dataclass(frozen=True)
class Contender:
    """One row of the tables: a session engine and its settings."""

    name: str
    label: str
    engine: str
    #: The settings that differ from Django's defaults, for a folder of its own.
    settings: Callable[[Path], dict[str, Any]]
    operations: tuple[str, ...] = OPERATIONS
    #: Keeps rows in a database.
    rows: bool = False
    #: Keeps sessions in a cache that each process has for itself.
    in_process: bool = False
    #: Keeps nothing: the cookie is the session.
    stateless: bool = False
    #: Its clear_expired() does something.
    clears: bool = True
    #: Starts from a copy of another contender's folder instead of filling its own.
    copy_of: str | None = None
    #: The contender that fills its folder, where its own writes would take too long.
    filled_by: str | None = None


def embedded(backend: str, durability: str) -> Callable[[Path], dict[str, Any]]:
    def settings(folder: Path) -> dict[str, Any]:
        store = {
            "BACKEND": f"django_kvsessions.stores.{backend}",
            "LOCATION": folder / "store",
            "OPTIONS": {"durability": durability},
        }
        return {"SESSION_STORES": {"default": store}}

    return settings


semidbm = partial(embedded, "semidbm.SemidbmStore")
lmdb = partial(embedded, "lmdb.LMDBStore")


def sqlite(folder: Path, **more: Any) -> dict[str, Any]:
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": folder / "sessions.sqlite3",
        **more,
    }


def db(folder: Path) -> dict[str, Any]:
    return {"DATABASES": {"default": sqlite(folder)}}


def db_wal(folder: Path) -> dict[str, Any]:
    options = {
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        "transaction_mode": "IMMEDIATE",
    }
    # Closing the last connection of a WAL database makes a checkpoint, so
    # whoever tunes it this far keeps the connection between requests.
    return {"DATABASES": {"default": sqlite(folder, OPTIONS=options, CONN_MAX_AGE=None)}}


def file(folder: Path) -> dict[str, Any]:
    (folder / "files").mkdir(parents=True, exist_ok=True)
    return {"SESSION_FILE_PATH": str(folder / "files")}


def locmem(folder: Path) -> dict[str, Any]:
    return {
        "CACHES": {
            "default": {
                "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
                "OPTIONS": {"MAX_ENTRIES": UNLIMITED},
            }
        }
    }


def diskcache(folder: Path) -> dict[str, Any]:
    return {
        "CACHES": {
            "default": {
                "BACKEND": "diskcache.DjangoCache",
                "LOCATION": str(folder / "diskcache"),
                "OPTIONS": {"size_limit": UNLIMITED},
            }
        }
    }


CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender(
            OURS, "kvsessions, interval (default)", "django_kvsessions.engine", semidbm("interval")
        ),
        Contender(
            "kvsessions-process",
            "kvsessions, process",
            "django_kvsessions.engine",
            semidbm("process"),
            operations=("save",),
            copy_of=OURS,
        ),
        Contender(
            "kvsessions-full",
            "kvsessions, full",
            "django_kvsessions.engine",
            semidbm("full"),
            operations=("save",),
            copy_of=OURS,
        ),
        Contender(
            LMDB,
            "kvsessions on LMDB, safe",
            "django_kvsessions.engine",
            lmdb("safe"),
            filled_by="kvsessions-lmdb-process",
        ),
        Contender(
            "kvsessions-lmdb-process",
            "kvsessions on LMDB, process",
            "django_kvsessions.engine",
            lmdb("process"),
            operations=("save",),
            copy_of=LMDB,
        ),
        Contender("db", "db, SQLite", f"{DJANGO}.backends.db", db, rows=True),
        Contender("db-wal", "db, SQLite WAL, NORMAL", f"{DJANGO}.backends.db", db_wal, rows=True),
        Contender("file", "file", f"{DJANGO}.backends.file", file),
        Contender(
            "cache-locmem",
            "cache, locmem",
            f"{DJANGO}.backends.cache",
            locmem,
            in_process=True,
            clears=False,
        ),
        Contender(
            "cache-diskcache",
            "cache, diskcache",
            f"{DJANGO}.backends.cache",
            diskcache,
            clears=False,
        ),
        Contender(
            "cached_db",
            "cached_db, locmem over SQLite",
            f"{DJANGO}.backends.cached_db",
            lambda folder: db(folder) | locmem(folder),
            rows=True,
            in_process=True,
        ),
        Contender(
            "signed_cookies",
            "signed_cookies",
            f"{DJANGO}.backends.signed_cookies",
            lambda folder: {},
            operations=tuple(name for name in OPERATIONS if name != "delete"),
            stateless=True,
            clears=False,
        ),
    )
}


def django_settings(
    contender: Contender, folder: Path, *, middleware: str = f"{DJANGO}.middleware"
) -> dict[str, Any]:
    """All settings of one process; what is not here is Django's default."""
    return {
        "SECRET_KEY": "only-for-benchmarks-" + "x" * 40,
        "ALLOWED_HOSTS": ["*"],
        "INSTALLED_APPS": [DJANGO],
        "LOGGING_CONFIG": None,
        "MIDDLEWARE": [f"{middleware}.SessionMiddleware"],
        "ROOT_URLCONF": "benchmarks.views",
        "SESSION_ENGINE": contender.engine,
        "USE_TZ": True,
        **contender.settings(folder),
    }
