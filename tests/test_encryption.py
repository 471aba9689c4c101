"""SESSION_ENCRYPTION: what is in a session is the visitor's alone, whoever else has the store."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from django.conf import LazySettings
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import path

from django_kvsessions import codec, sealing
from django_kvsessions.engine import SessionStore
from django_kvsessions.owners import sessions_of
from django_kvsessions.stores import stores
from django_kvsessions.stores.base import Record
from tests.support.databases import add_database, remove_databases, sqlite_database
from tests.support.sealed_form import CARD, HEADER, Parts, split
from tests.support.servers import missing
from tests.test_engine import Calls, key_of, record_of, saved, stored
from testservers import Missing
from testservers.registry import STORES, running

#: Seconds to wait for an engine on a busy machine.
PATIENCE = 240
#: How many records and cookies are mutated, of each kind.
MUTATIONS = int(os.environ.get("KVSESSIONS_MUTATIONS", "400"))
SECRET = "a body that only its visitor reads"
ID = "abcdefghijklmnopqrstuvwxyz234567"
MEMORY = "django_kvsessions.stores.memory.MemoryStore"
LAYERED = "django_kvsessions.stores.layered.LayeredStore"


@pytest.fixture(autouse=True)
def _site(settings: LazySettings) -> None:
    settings.SESSION_ENCRYPTION = True
    settings.SESSION_STORES = {"default": {"BACKEND": MEMORY}}
    settings.MIDDLEWARE = ["django_kvsessions.middleware.SessionMiddleware"]
    settings.ROOT_URLCONF = __name__


@pytest.fixture(params=["sync", "async"])
def opened(request: pytest.FixtureRequest) -> Callable[..., Calls]:
    return lambda key=None: Calls(SessionStore(key), request.param == "async")


def labelled(**data: Any) -> str:
    """The id of a session that has a card."""
    session = SessionStore()
    session.update(data)
    session.label("sid", "a card")
    session.save()
    return str(session.session_key)


def put(session_key: str, data: bytes, owner: bytes | None = None) -> None:
    """As who writes to the store."""
    record = record_of(session_key)
    owner = record.owner if owner is None else owner
    changed = Record(data, record.expires, record.revision, owner)
    assert SessionStore().store.replace(key_of(session_key), changed)


def is_none(session_key: str) -> bool:
    """Whether the session reads as none, and its cookie stays."""
    session = SessionStore(session_key)
    return session.get("a") is None and session.is_empty() is False and not session.keys()


# What an attacker has: the whole store, SECRET_KEY, and all cookies but one

EMBEDDED = ["semidbm", "lmdb", "sqlite"]
#: The drivers of libSQL and SurrealDB are where the servers are.
SERVED = [name for name, entry in STORES.items() if name not in EMBEDDED and not entry.database]


@pytest.fixture(
    params=[
        "memory",
        "layered",
        *EMBEDDED,
        *(pytest.param(name, marks=[pytest.mark.servers, pytest.mark.same]) for name in SERVED),
    ]
)
def kind(request: pytest.FixtureRequest, settings: LazySettings, tmp_path: Path) -> Iterator[str]:
    name = request.param
    if name not in STORES:
        options = {"cache": "memory", "store": "below"} if name == "layered" else {}
        settings.SESSION_STORES = {
            "default": {"BACKEND": LAYERED if options else MEMORY, "OPTIONS": options},
            "memory": {"BACKEND": MEMORY},
            "below": {"LOCATION": tmp_path / "sessions"},
        }
        yield name
        return
    try:
        with running(name, tmp_path) as found:
            if name == "sqlite":
                add_database("sealed", sqlite_database(tmp_path / "db"))
                found.store["LOCATION"] = "sealed"
                request.getfixturevalue("django_db_blocker").unblock()
            settings.SESSION_STORES = {"default": found.store}
            if name == "surrealkv":
                found.store["OPTIONS"]["timeout"] = PATIENCE
            stores["default"].setup()
            yield name
            stores.close_all()
            if name == "sqlite":
                connections["sealed"].close()
                remove_databases()
                request.getfixturevalue("django_db_blocker").restore()
    except Missing as reason:
        missing(reason)


def test_nothing_of_a_session_is_read_or_changed_without_its_cookie(
    kind: str, settings: LazySettings, tmp_path: Path
) -> None:
    secret = settings.SECRET_KEY
    others = [labelled(a=number) for number in range(3)]
    victim = labelled(a=SECRET, _auth_user_id="7")
    key = key_of(victim)
    dump = dict(stores["default"].scan())
    if kind == "layered":
        SessionStore(victim).get("a")
        dump |= {key[::-1]: record for key, record in stores["memory"].scan()}
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    for blob in [*(record.data for record in dump.values()), *files]:
        assert SECRET.encode() not in blob
        assert victim.encode() not in blob
    # No other id opens it, nor anything that a storage key is.
    data, owner = dump[key].data, dump[key].owner
    parts = split(data)
    assert parts.joined(secret, key, owner) == data
    openers: list[str | bytes] = [*others, *dump, b"", bytes(32), codec.public_id(key)]
    for opener in openers:
        with pytest.raises(InvalidTag):
            parts.opened(opener, secret, key, owner)
    # Whatever is changed, and then bound by SECRET_KEY, reads as none.
    other, other_owner = split(record_of(others[0]).data), record_of(others[0]).owner
    changed = [
        replace(parts, header=other.header),
        replace(parts, header=flipped(parts.header, 5)),
        replace(parts, card=other.card[:-1] + b"?"),
        replace(parts, card=b"", header=flipped(parts.header, 1, CARD)),
        replace(parts, sealed=other.sealed),
        other,
        parts.holding(b"\x80", others[0], secret, key, owner),
        *(replace(parts, sealed=flipped(parts.sealed, at)) for at in (0, 12, 20, -1)),
    ]
    for forged in changed:
        put(victim, forged.joined(secret, key, owner))
        assert is_none(victim), forged
    for forged_owner in (other_owner, bytes(16)):
        put(victim, parts.joined(secret, key, forged_owner), forged_owner)
        assert is_none(victim)
    put(victim, parts.joined(secret, key, owner), owner)
    assert stored(victim)["a"] == SECRET


def flipped(data: bytes, at: int, bits: int = 1) -> bytes:
    changed = bytearray(data)
    changed[at] ^= bits
    return bytes(changed)


def test_each_byte_of_a_record_is_bound(settings: LazySettings) -> None:
    victim = labelled(a=SECRET, _auth_user_id="7")
    record = record_of(victim)
    key, parts = key_of(victim), split(record.data)
    text = record.data[:-16]
    for at in range(len(text)):
        data = flipped(text, at)
        put(victim, Parts(data, b"", b"", b"").joined(settings.SECRET_KEY, key, record.owner))
        assert is_none(victim), at
    assert parts.opened(victim, settings.SECRET_KEY, key, record.owner)


def test_a_list_of_sessions_needs_no_cookie() -> None:
    session_key = labelled(a=SECRET, _auth_user_id="7")
    (listed,) = sessions_of("7")
    assert listed.labels == {"sid": "a card"}
    assert listed.public_id == SessionStore(session_key).public_id


# The form


def test_the_form_is_the_one_that_is_documented(
    settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.SECRET_KEY = "known-answer"
    monkeypatch.setattr("os.urandom", lambda size: bytes(range(size)))
    key, owner = codec.storage_key(ID), bytes(range(16))
    plain = codec.seal(key, b"", 1.8e9, b"the session", 0.0, 1209600.0, b"", ID)
    assert plain.hex() == (
        "020841dad2748000000000000000000000004132750000000000000102030405060708090a0b66a63c36e56f"
        "27e65442ec6cd1a62c7d70e685239c1479a2c0ca6e7948ac3e5247da0052b9c79a0ca24bb4"
    )
    card = b"\x91\xa1u"
    carded = codec.seal(key, owner, 1.8e9, b"the session", 1.7e9, 1209600.0, card, ID)
    assert carded.hex() == (
        "020c41dad2748000000041d954fc400000004132750000000000000391a175000102030405060708090a0b66"
        "a63c36e56f27e65442ecf278f9e00ae1b89a66bd1e8fb312a72c09251b20f1150c99e0b6692217f10a2f"
    )
    former = codec.storage_key("former")
    notice = codec.seal_notice(former, key, "former", ID)
    assert notice.hex() == (
        "020a00000000000000000000000000000000000000000000000034342c1003a62c9eb350ccbc62cdce052f97"
        "d988697105e1bb0fd3cd4aef62fd000102030405060708090a0bec548f53ba2e46fe5909a53040874c5ee418"
        "007d788b6a91085dbcc6a1a04afa191995ee1fe10fa934486312bac3fe72e7e171bdcec17bf61a071e9927cf"
        "4102"
    )
    # By other means.
    for data, whose in ((plain, b""), (carded, owner)):
        assert split(data).joined("known-answer", key, whose) == data
        assert split(data).opened(ID, "known-answer", key, whose) == b"the session"
        opened = codec.open_record(key, whose, data, 1024, ID)
        assert opened[:2] == (b"the session", 1.8e9)
    handed = split(notice).opened("former", "known-answer", former, b"")
    assert handed == sealing.root(ID)
    assert split(plain).opened(handed, "known-answer", key, b"") == b"the session"
    assert codec.open_record(former, b"", notice, 1024, "former")[0] == key + handed


def test_the_same_session_is_never_encrypted_alike() -> None:
    key = codec.storage_key(ID)
    made = {split(codec.seal(key, b"", 0.0, b"same", opener=ID)).sealed for _ in range(1000)}
    assert len(made) == len({sealed[:12] for sealed in made}) == 1000


def test_the_size_tells_nothing_but_the_size() -> None:
    key = codec.storage_key(ID)
    sizes = {
        len(codec.seal(key, b"", 0.0, body, opener=ID))
        for body in (b"a" * 5000, random.Random(1).randbytes(5000))
    }
    assert sizes == {HEADER.size + 12 + 5000 + 16 + 16}


# Bad input


def read(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(request.session.get("a")))


def write(request: HttpRequest) -> HttpResponse:
    request.session["b"] = 1
    return HttpResponse("written")


urlpatterns = [path("read", read), path("write", write)]


def test_no_mutated_record_or_cookie_is_accepted_or_raises(
    settings: LazySettings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    logging.getLogger("django.security.SuspiciousSession").disabled = True
    dice = random.Random(14)
    victim, other = labelled(a=SECRET, _auth_user_id="7"), labelled(a=2)
    key, client = key_of(victim), Client(raise_request_exception=True)
    record, foreign = record_of(victim), record_of(other).data
    try:
        for number in range(MUTATIONS):
            data = mutated(dice, record.data, foreign)
            if number % 2:
                # As who has SECRET_KEY.
                forged = Parts(data[:-16], b"", b"", b"")
                data = forged.joined(settings.SECRET_KEY, key, record.owner)
            if data == record.data or (len(data) > 1 and not data[1] & 8):
                # What is not encrypted at all is who has SECRET_KEY's to make.
                continue
            put(victim, data)
            assert is_none(victim), (number, data)
            if number % 100 == 0:
                client.cookies["sessionid"] = victim
                assert client.get("/read").content == b"None"
                assert "sessionid" not in client.get("/read").cookies
        put(victim, record.data)
        for number in range(MUTATIONS):
            cookie = mutated(dice, victim.encode(), other.encode()).decode("latin-1")
            if cookie in (victim, other):
                continue
            assert SessionStore(cookie).get("a") is None, (number, cookie)
            if number % 100 == 0:
                client.cookies["sessionid"] = cookie
                assert client.get("/read").content == b"None"
    finally:
        logging.getLogger("django.security.SuspiciousSession").disabled = False
    assert stored(victim)["a"] == SECRET


def mutated(dice: random.Random, data: bytes, other: bytes) -> bytes:
    changed, place = bytearray(data), dice.randrange(len(data))
    way = dice.randrange(5)
    if way == 0:
        changed[place] ^= 1 << dice.randrange(8)
    elif way == 1:
        changed[place : place + dice.randrange(1, 20)] = dice.randbytes(dice.randrange(20))
    elif way == 2:
        del changed[place:]
    elif way == 3:
        changed[place:] = other[place:]
    else:
        changed[place:place] = changed[: dice.randrange(20)]
    return bytes(changed)


@pytest.mark.parametrize("said", ["extra", "key", "version", "id"])
def test_what_cannot_be_opened_is_no_session_and_the_log_says_why(
    said: str,
    settings: LazySettings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    victim, cure = saved(a=SECRET), ""
    data, secret = record_of(victim).data, settings.SECRET_KEY
    if said == "extra":
        without_the_extra(monkeypatch)
        cure = "pip install django-kvsessions[encryption]"
    elif said == "key":
        settings.SECRET_KEY, cure = "another", "put the former key into SECRET_KEY_FALLBACKS"
    elif said == "version":
        parts = split(data)
        newer = replace(parts, header=b"\x03" + parts.header[1:])
        put(victim, newer.joined(secret, key_of(victim), b""))
        cure = "install that everywhere"
    else:
        other = saved(a=1)
        put(victim, split(record_of(other).data).joined(secret, key_of(victim), b""))
        cure = "renew SECRET_KEY"
    client = Client()
    client.cookies["sessionid"] = victim
    response = client.get("/read")
    assert response.content == b"None"
    assert "sessionid" not in response.cookies
    (line,) = {entry.getMessage() for entry in caplog.records if "SESSION_STORES" in entry.message}
    assert cure in line
    assert victim not in line
    assert secret not in line


def without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    sealing._aesgcm.cache_clear()
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)


@pytest.fixture(autouse=True)
def _extra() -> Iterator[None]:
    yield
    sealing._aesgcm.cache_clear()


def test_without_the_extra_nothing_is_stored_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    without_the_extra(monkeypatch)
    with pytest.raises(ImproperlyConfigured, match=r"pip install django-kvsessions\[encryption\]"):
        saved(a=SECRET)
    assert list(stores["default"].scan()) == []


# Everything goes on


def test_a_session_is_read_changed_moved_and_ended(opened: Callable[..., Calls]) -> None:
    session = opened()
    session.session["a"] = SECRET
    session.save()
    first = session.session.session_key
    assert stored(first) == {"a": SECRET}
    session.cycle_key()
    second = session.session.session_key
    assert first != second
    assert stored(second) == {"a": SECRET}
    assert stored(first) == {}
    assert codec.open_head(key_of(second), b"", record_of(second).data).is_encrypted
    session.mutate(lambda data: data.update(b=2))
    one, two = opened(second), opened(second)
    assert one.get("a") == two.get("a") == SECRET
    one.session["one"], two.session["two"] = 1, 2
    one.save()
    two.save()
    assert stored(second) == {"a": SECRET, "b": 2, "one": 1, "two": 2}
    opened(second).flush()
    assert stored(second) == {}


def test_a_touch_rewrites_nothing(settings: LazySettings) -> None:
    settings.SESSION_TOUCH_INTERVAL = 0
    session_key = saved(a=SECRET)
    before = record_of(session_key)
    session = SessionStore(session_key)
    session.get("a")
    assert session.touch()
    assert record_of(session_key).data == before.data
    assert record_of(session_key).expires > before.expires


# On and off


@pytest.mark.parametrize("to", [True, False])
def test_what_was_stored_the_other_way_is_read_and_stored_anew_at_its_next_save(
    to: bool, opened: Callable[..., Calls], settings: LazySettings
) -> None:
    settings.SESSION_ENCRYPTION = not to
    session_key = saved(a=SECRET)
    assert is_encrypted(session_key) is not to
    settings.SESSION_ENCRYPTION = to
    session = opened(session_key)
    assert session.get("a") == SECRET
    assert is_encrypted(session_key) is not to
    session.save()
    assert is_encrypted(session_key) is to
    revision = record_of(session_key).revision
    session.save()
    opened(session_key).save()
    assert record_of(session_key).revision == revision
    assert stored(session_key) == {"a": SECRET}


def is_encrypted(session_key: str) -> bool:
    record = record_of(session_key)
    return codec.open_head(key_of(session_key), record.owner, record.data).is_encrypted


# SECRET_KEY is renewed


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0)])
def test_nobody_is_logged_out_while_secret_key_is_renewed_worker_by_worker(
    order: tuple[int, ...], settings: LazySettings
) -> None:
    former, new = settings.SECRET_KEY, "the next secret key of this site, which nobody has known"
    # Each step is rolled out to all workers before the next one begins.
    steps = [(former, []), (former, [new]), (new, [former])]
    dice = random.Random(7)
    keys = {str(n): labelled(_auth_user_id=str(n), count=0) for n in range(8)}
    counts = dict.fromkeys(keys, 0)
    for before, after in ((steps[0], steps[1]), (steps[1], steps[2])):
        workers = [before] * 4
        for restarted in (None, *order):
            if restarted is not None:
                workers[restarted] = after
            for _ in range(20):
                name = dice.choice(list(keys))
                with worker(*dice.choice(workers)):
                    session, other = SessionStore(keys[name]), SessionStore(keys[name])
                    assert session["_auth_user_id"] == other["_auth_user_id"] == name
                    if dice.random() < 0.3:
                        session.cycle_key()
                    session["count"] += 1
                    session.save()
                    keys[name] = str(session.session_key)
                # A request that was in flight meanwhile, on any worker.
                with worker(*dice.choice(workers)):
                    other["seen"] = dice.random()
                    other.save()
                    counts[name] += 1
                    found = stored(keys[name])
                    assert (found["count"], found["seen"]) == (counts[name], other["seen"])


def worker(secret: str, fallbacks: list[str]) -> override_settings:
    return override_settings(SECRET_KEY=secret, SECRET_KEY_FALLBACKS=fallbacks)


def test_async_requests_are_encrypted_too() -> None:
    async def visit() -> str:
        session = SessionStore()
        await session.aset("a", SECRET)
        await session.asave()
        return str(session.session_key)

    session_key = asyncio.run(visit())
    assert is_encrypted(session_key)
    assert stored(session_key) == {"a": SECRET}
