"""The engines that are compared, each with the settings it runs under."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from testservers import Server, mysql, postgres, redis

DJANGO = "django.contrib.sessions"
PACKAGE = "django_kvsessions.engine"
OURS = "kvsessions"
LMDB = "kvsessions-lmdb"

REQUESTS = ("plain", "read", "write")
ASYNC = ("aload", "asave")
#: What is measured; "added" is what "read" takes beyond "plain".
OPERATIONS = ("load", "save", "create", "delete", *REQUESTS, *ASYNC)
# More than any run stores: an engine that culls would be measured on fewer sessions.
UNLIMITED = 10**12

SERVERS: dict[str, Callable[[], Server]] = {
    "redis": redis.redis_server,
    "valkey": redis.valkey_server,
    "postgres": postgres.postgres_server,
    "mysql": mysql.mariadb_server,
}


@dataclass(frozen=True)
class Place:
    """Where one contender keeps its sessions."""

    folder: Path
    server: Server | None = None

    def url(self) -> str:
        assert self.server is not None
        return f"redis://127.0.0.1:{self.server.port}/0"

    def database(self, kind: str) -> dict[str, Any]:
        """What DATABASES says of it."""
        if self.server is not None:
            databases = {"postgres": postgres.django_database, "mysql": mysql.django_database}
            return databases[kind](self.server)
        database: dict[str, Any] = {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": str(self.folder / "sessions.sqlite3"),
        }
        if kind == "sqlite-wal":
            # Closing the last connection of a WAL database makes a checkpoint, so
            # whoever tunes it this far keeps the connection between requests.
            database["CONN_MAX_AGE"] = None
            database["OPTIONS"] = {
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
                "transaction_mode": "IMMEDIATE",
                "timeout": 20,
            }
        return database


Settings = Callable[[Place], dict[str, Any]]


@dataclass(frozen=True)
class Contender:
    """One row of the tables: a session engine and its settings."""

    name: str
    label: str
    engine: str
    #: The settings that differ from Django's defaults.
    settings: Settings
    operations: tuple[str, ...] = OPERATIONS
    #: The server it needs, a key of SERVERS.
    server: str | None = None
    #: Keeps rows in a database.
    rows: bool = False
    #: Keeps sessions in a cache that each process has for itself.
    in_process: bool = False
    #: Keeps nothing: the cookie is the session.
    stateless: bool = False
    #: Its clear_expired() does something.
    clears: bool = True
    #: The contender that fills its folder, where its own writes would take too long.
    filled_by: str | None = None

    @property
    def is_ours(self) -> bool:
        return self.engine == PACKAGE


def store(backend: str, location: str | None = None, **options: Any) -> dict[str, Any]:
    """An entry of SESSION_STORES."""
    return {
        "BACKEND": f"django_kvsessions.stores.{backend}",
        "LOCATION": location,
        "OPTIONS": options,
    }


def cache(backend: str, location: str = "", **options: Any) -> dict[str, Any]:
    """The setting CACHES."""
    default = {"BACKEND": backend, "LOCATION": location, "OPTIONS": options}
    return {"CACHES": {"default": default}}


def embedded(backend: str, durability: str) -> Settings:
    return lambda place: {
        "SESSION_STORES": {
            "default": store(backend, str(place.folder / "store"), durability=durability)
        }
    }


def locmem(place: Place) -> dict[str, Any]:
    return cache("django.core.cache.backends.locmem.LocMemCache", MAX_ENTRIES=UNLIMITED)


def diskcache(place: Place) -> dict[str, Any]:
    return cache("diskcache.DjangoCache", str(place.folder / "diskcache"), size_limit=UNLIMITED)


def files(place: Place) -> dict[str, Any]:
    folder = place.folder / "files"
    folder.mkdir(parents=True, exist_ok=True)
    return {"SESSION_FILE_PATH": str(folder)}


def database(kind: str) -> Settings:
    return lambda place: {"DATABASES": {"default": place.database(kind)}}


def table(kind: str) -> Settings:
    return lambda place: {
        "DATABASES": {"default": place.database(kind)},
        "SESSION_STORES": {"default": store("database.DatabaseStore")},
    }


def on_redis(place: Place) -> dict[str, Any]:
    return {"SESSION_STORES": {"default": store("redis.RedisStore", place.url())}}


def layered(place: Place) -> dict[str, Any]:
    return {
        "SESSION_STORES": {
            "default": store("layered.LayeredStore", cache="near", store="far", max_age=3600.0),
            "near": store("memory.MemoryStore"),
            "far": store("redis.RedisStore", place.url()),
        }
    }


def cache_on(backend: str) -> Settings:
    return lambda place: cache(f"{backend}.RedisCache", place.url())


def ours(name: str, label: str, settings: Settings, **more: Any) -> Contender:
    return Contender(f"{OURS}{name}", f"kvsessions{label}", PACKAGE, settings, **more)


def djangos(name: str, label: str, backend: str, settings: Settings, **more: Any) -> Contender:
    return Contender(name, label, f"{DJANGO}.backends.{backend}", settings, **more)


def known() -> Iterator[Contender]:
    save: dict[str, Any] = {"operations": ("save",)}
    semidbm, lmdb = partial(embedded, "semidbm.SemidbmStore"), partial(embedded, "lmdb.LMDBStore")
    yield ours("", " (the default)", semidbm("interval"))
    for durability in ("process", "full"):
        label = f", durability {durability}"
        yield ours(f"-{durability}", label, semidbm(durability), filled_by=OURS, **save)
    yield ours("-lmdb", " on LMDB", lmdb("safe"), filled_by=f"{LMDB}-process")
    yield ours("-lmdb-process", " on LMDB, durability process", lmdb("process"), **save)
    yield djangos("file", "file", "file", files)
    in_process = {"in_process": True, "clears": False}
    yield djangos("cache-locmem", "cache on locmem", "cache", locmem, **in_process)
    yield djangos("cache-diskcache", "cache on diskcache", "cache", diskcache, clears=False)
    yield djangos(
        "cached_db",
        "cached_db on locmem and SQLite",
        "cached_db",
        lambda place: database("sqlite")(place) | locmem(place),
        rows=True,
        in_process=True,
    )
    yield djangos(
        "signed_cookies",
        "signed_cookies",
        "signed_cookies",
        lambda place: {},
        operations=tuple(name for name in OPERATIONS if name != "delete"),
        stateless=True,
        clears=False,
    )
    databases = {
        "sqlite": "SQLite",
        "sqlite-wal": "SQLite, WAL",
        "postgres": "PostgreSQL",
        "mysql": "MariaDB",
    }
    for kind, title in databases.items():
        on: dict[str, Any] = {"rows": True, "server": kind if kind in SERVERS else None}
        yield ours(f"-{kind}", f" on {title}", table(kind), **on)
        yield djangos(f"db-{kind}", f"db on {title}", "db", database(kind), **on)
    own, by_package = "django.core.cache.backends.redis", "django_redis.cache"
    for kind, title in (("redis", "Redis"), ("valkey", "Valkey")):
        # The server itself removes what has expired.
        on = {"server": kind, "clears": False}
        yield ours(f"-{kind}", f" on {title}", on_redis, **on)
        near = f", layered over {title}"
        yield ours(f"-layered-{kind}", near, layered, in_process=True, **on)
        yield djangos(f"cache-{kind}", f"cache on {title}", "cache", cache_on(own), **on)
        label = f"cache on {title}, by django-redis"
        yield djangos(f"django-{kind}", label, "cache", cache_on(by_package), **on)


CONTENDERS = {contender.name: contender for contender in known()}
EMBEDDED = [name for name, contender in CONTENDERS.items() if contender.server is None]


def django_settings(contender: Contender, place: Place, *, middleware: str) -> dict[str, Any]:
    """All settings of one process, as JSON can carry them; the rest is Django's default."""
    return {
        "SECRET_KEY": "only-for-benchmarks-" + "x" * 40,
        "ALLOWED_HOSTS": ["*"],
        "INSTALLED_APPS": [DJANGO],
        "LOGGING_CONFIG": None,
        "MIDDLEWARE": [f"{middleware}.SessionMiddleware"],
        "ROOT_URLCONF": "benchmarks.views",
        "SESSION_ENGINE": contender.engine,
        "USE_TZ": True,
        **contender.settings(place),
    }
