"""What Django's db engine answers, this engine answers: some hundred sequences of requests.

Each sequence begins with a cookie of some kind and goes on with two or three
requests, some of them with another request of the same visitor in their
middle. It is played to Django's engine and to this one, under both session
middlewares, in sync and in async, under several settings; statuses, bodies,
cookies and Vary must be the same, but for what DIFFERENCES explains.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
from asgiref.sync import sync_to_async
from django.conf import LazySettings
from django.conf import settings as django_settings
from django.contrib.auth import alogin, alogout, login, logout
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client
from django.urls import path
from freezegun import freeze_time

OURS = "django_kvsessions.middleware.SessionMiddleware"
DJANGOS = "django.contrib.sessions.middleware.SessionMiddleware"
ENGINE = "django_kvsessions.engine"
REFERENCE = "django.contrib.sessions.backends.db"
AGE = 1000
START = datetime(2030, 1, 1, tzinfo=timezone.utc)


def engine() -> Any:
    return import_module(django_settings.SESSION_ENGINE).SessionStore


def user() -> User:
    return cast(User, User.objects.get(username="alice"))


# What a view does with its session: each name twice, once for each colour.


def sync_action(session: Any, request: HttpRequest, name: str) -> Any:
    match name:
        case "read":
            return session.get("n", 0)
        case "write":
            session["n"] = session.get("n", 0) + 1
        case "nested":
            session.setdefault("cart", {})["item"] = 1
        case "modified":
            session.modified = True
        case "pop":
            return session.pop("n", None)
        case "clear":
            session.clear()
        case "clear-write":
            session.clear()
            session["fresh"] = 1
        case "flush":
            session.flush()
        case "flush-write":
            session.flush()
            session["fresh"] = 1
        case "cycle":
            session.cycle_key()
        case "create":
            session.create()
        case "save":
            session["n"] = 5
            session.save()
        case "login":
            login(request, user())
        case "clear-login":
            session.clear()
            login(request, user())
        case "clear-cycle":
            session.clear()
            session.cycle_key()
        case "logout":
            logout(request)
        case "expiry-0":
            session.set_expiry(0)
        case "expiry-300":
            session.set_expiry(300)
        case "expiry-delta":
            session.set_expiry(timedelta(seconds=200))
        case "expiry-none":
            session.set_expiry(None)
        case "ages":
            return session.get_expiry_age(), session.get_expire_at_browser_close()
        case "delete-elsewhere":
            other_request(session).flush()
        case "delete-elsewhere-write":
            session["n"] = 7
            other_request(session).flush()
        case "change-elsewhere-write":
            session["n"] = 8
            other = other_request(session)
            other["other"] = 1
            other.save()
    return None


async def async_action(session: Any, request: HttpRequest, name: str) -> Any:
    match name:
        case "read":
            return await session.aget("n", 0)
        case "write":
            await session.aset("n", await session.aget("n", 0) + 1)
        case "nested":
            (await session.asetdefault("cart", {}))["item"] = 1
        case "pop":
            return await session.apop("n", None)
        case "clear-write":
            session.clear()
            await session.aset("fresh", 1)
        case "flush":
            await session.aflush()
        case "flush-write":
            await session.aflush()
            await session.aset("fresh", 1)
        case "cycle":
            await session.acycle_key()
        case "create":
            await session.acreate()
        case "save":
            await session.aset("n", 5)
            await session.asave()
        case "login":
            await alogin(request, await sync_to_async(user)())
        case "clear-login":
            session.clear()
            await alogin(request, await sync_to_async(user)())
        case "clear-cycle":
            session.clear()
            await session.acycle_key()
        case "logout":
            await alogout(request)
        case "expiry-0":
            await session.aset_expiry(0)
        case "expiry-300":
            await session.aset_expiry(300)
        case "expiry-delta":
            await session.aset_expiry(timedelta(seconds=200))
        case "expiry-none":
            await session.aset_expiry(None)
        case "ages":
            return await session.aget_expiry_age(), await session.aget_expire_at_browser_close()
        case _:
            return await sync_to_async(sync_action)(session, request, name)
    return None


def other_request(session: Any) -> Any:
    """The same visitor's session in another request, which has loaded it already."""
    other = engine()(session.session_key)
    other.get("n")
    return other


# To be seen at a glance, not a line each.
ACTIONS = [
    "plain", "read", "write", "nested", "modified", "pop", "clear", "clear-write", "flush",
    "flush-write", "cycle", "create", "save", "login", "logout", "expiry-0", "expiry-300",
    "expiry-delta", "expiry-none", "ages", "delete-elsewhere", "delete-elsewhere-write",
    "change-elsewhere-write", "error", "clear-login", "clear-cycle",
]  # fmt: skip
COOKIES = ["none", "unknown", "live", "user", "expired", "ended", "rubbish"]


def view(request: HttpRequest, name: str) -> HttpResponse:
    result = None if name == "plain" else sync_action(request.session, request, name)
    if name == "error":
        request.session["n"] = 99
    return HttpResponse(repr(result), status=500 if name == "error" else 200)


async def aview(request: HttpRequest, name: str) -> HttpResponse:
    result = None if name == "plain" else await async_action(request.session, request, name)
    if name == "error":
        await request.session.aset("n", 99)
    return HttpResponse(repr(result), status=500 if name == "error" else 200)


urlpatterns = [path("sync/<str:name>", view), path("async/<str:name>", aview)]


class Seen(NamedTuple):
    """What a browser sees of a response; ids are named by their order of appearance."""

    #: Which id the visitor came with.
    held: str
    status: int
    body: str
    cookie: str
    vary: str | None
    #: What is stored afterwards under the visitor's cookie.
    stored: str


class Visitor:
    def __init__(self, is_async: bool) -> None:
        self.is_async = is_async
        self.client: Any = AsyncClient() if is_async else Client()
        self.client.raise_request_exception = False
        self.ids: dict[str, str] = {}

    def name(self, session_key: str) -> str:
        return self.ids.setdefault(session_key, f"id {len(self.ids)}")

    def take(self, session_key: str) -> None:
        self.client.cookies["sessionid"] = session_key
        self.name(session_key)

    def ask(self, name: str) -> Seen:
        came = self.client.cookies.get("sessionid")
        held = self.name(came.value) if came is not None and came.value else "none"
        if self.is_async:
            response = asyncio.run(self.client.get(f"/async/{name}"))
        else:
            response = self.client.get(f"/sync/{name}")
        cookie = "not sent"
        if (morsel := response.cookies.get("sessionid")) is not None:
            cookie = self.name(morsel.value) if morsel.value else "deleted"
            cookie += f" for {morsel['max-age']!r}, expires {bool(morsel['expires'])}"
        here = self.client.cookies.get("sessionid")
        stored = dict(engine()(here.value if here else None).items())
        if stored.get("_auth_user_id") == str(user().pk):
            stored["_auth_user_id"] = "alice"
        for key in [key for key in stored if key.startswith("_auth_user_") and key[-2:] != "id"]:
            del stored[key]
        if response.status_code == 400:
            response.content = b""
        return Seen(
            held,
            response.status_code,
            response.content.decode(),
            cookie,
            response.get("Vary"),
            repr(sorted(stored.items())),
        )


def begin(visitor: Visitor, kind: str, clock: Any) -> None:
    match kind:
        case "unknown":
            visitor.take("a" * 32)
        case "rubbish":
            visitor.take("x")
        case "live" | "expired" | "ended" | "user":
            session = engine()()
            session["n"] = 1
            if kind == "user":
                session["_auth_user_id"] = str(user().pk)
                session["_auth_user_backend"] = "django.contrib.auth.backends.ModelBackend"
                session["_auth_user_hash"] = user().get_session_auth_hash()
            session.save()
            visitor.take(session.session_key)
            if kind == "expired":
                clock.tick(AGE + 1)
            if kind == "ended":
                session.flush()


def sequences() -> list[tuple[str, tuple[str, ...]]]:
    """Each kind of cookie with each action, and a random choice of longer ones."""
    chosen: list[tuple[str, tuple[str, ...]]]
    chosen = [(kind, (action, "read")) for kind in COOKIES for action in ACTIONS]
    dice = random.Random(1)
    pairs = list(itertools.product(COOKIES, ACTIONS, ACTIONS))
    for kind, first, second in dice.sample(pairs, 218):
        chosen.append((kind, (first, second, "read")))
    return chosen


SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "every": {"SESSION_SAVE_EVERY_REQUEST": True, "SESSION_TOUCH_INTERVAL": 0},
    "browser": {"SESSION_EXPIRE_AT_BROWSER_CLOSE": True},
    "json": {"SESSION_SERIALIZER": "django.contrib.sessions.serializers.JSONSerializer"},
}


def play(sequence: tuple[str, tuple[str, ...]], is_async: bool, clock: Any) -> list[Seen]:
    kind, actions = sequence
    visitor = Visitor(is_async)
    clock.move_to(START)
    begin(visitor, kind, clock)
    seen = []
    for action in actions:
        clock.tick(3)
        seen.append(visitor.ask(action))
    return seen


@pytest.fixture(
    params=[
        pytest.param(name, marks=() if name == "every" else pytest.mark.slow) for name in SETTINGS
    ]
)
def site(request: pytest.FixtureRequest, settings: LazySettings, tmp_path: Path) -> str:
    settings.ROOT_URLCONF = __name__
    settings.SESSION_COOKIE_AGE = AGE
    settings.SESSION_STORES = {
        "default": {"BACKEND": "django_kvsessions.stores.memory.MemoryStore"}
    }
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    for name, value in SETTINGS[request.param].items():
        setattr(settings, name, value)
    return str(request.param)


#: What Django's engine answers to each sequence, under each of the settings.
EXPECTED: dict[str, list[list[Seen]]] = {}


@pytest.fixture
def alice(db: None) -> User:
    return cast(User, User.objects.create_user("alice", password="secret"))


def use(settings: LazySettings, engine: str, middleware: str) -> None:
    settings.SESSION_ENGINE = engine
    settings.MIDDLEWARE = [
        middleware,
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ]


@pytest.fixture
def clock() -> Iterator[Any]:
    with freeze_time(START, real_asyncio=True) as frozen:
        yield frozen


@pytest.mark.parametrize("is_async", [False, True], ids=["wsgi", "asgi"])
@pytest.mark.parametrize(
    "middleware",
    [pytest.param(OURS, id="ours"), pytest.param(DJANGOS, id="djangos", marks=pytest.mark.slow)],
)
@pytest.mark.django_db(transaction=True)
def test_whatever_django_answers_this_answers(
    middleware: str, is_async: bool, site: str, alice: User, settings: LazySettings, clock: Any
) -> None:
    if site not in EXPECTED:
        use(settings, REFERENCE, DJANGOS)
        EXPECTED[site] = [play(sequence, False, clock) for sequence in sequences()]
    use(settings, ENGINE, middleware)
    differences = []
    for sequence, wanted in zip(sequences(), EXPECTED[site], strict=True):
        for step, (theirs, ours) in enumerate(
            zip(wanted, play(sequence, is_async, clock), strict=True)
        ):
            if ours != theirs:
                if explained(sequence, step, theirs, ours, middleware, site) is None:
                    differences.append(
                        f"{sequence} step {step}:\n  django {theirs}\n  ours   {ours}"
                    )
                break  # What follows follows from it.
    assert not differences, f"{len(differences)} differences\n" + "\n".join(differences[:15])


def explained(
    sequence: tuple[str, tuple[str, ...]],
    step: int,
    theirs: Seen,
    ours: Seen,
    middleware: str,
    site: str,
) -> str | None:
    """Why this engine answers otherwise here; ``None`` where it must not."""
    kind, actions = sequence
    action = actions[step]
    if action == "change-elsewhere-write" and "'other'" in ours.stored:
        return "Django loses the other request's change."
    is_old = theirs.cookie.startswith(f"{theirs.held} for")
    if middleware == OURS and is_old and ours == theirs._replace(cookie="not sent", vary=ours.vary):
        return "The package's middleware sends a cookie again only when it is due."
    if action == "login" and "_auth_user_id" in ours.stored and theirs.status == ours.status == 200:
        return "Here a repeated login starts a new id and a new life."
    if kind == "expired" and step == 0 and action in ("clear", "clear-write"):
        return "Django brings the expired row back to life, as long as nobody cleans it up."
    return None
