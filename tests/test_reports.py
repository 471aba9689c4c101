"""What the log says of many requests: a line a minute, with the store, the causes and the cure."""

from __future__ import annotations

import os
from datetime import timedelta
from unittest.mock import patch

import pytest
from django.conf import LazySettings
from freezegun import freeze_time

from django_kvsessions import codec, reports
from django_kvsessions.engine import SessionStore
from django_kvsessions.stores import stores
from django_kvsessions.stores.base import StoreUnavailable

SECURITY = "django.security.SuspiciousSession"


def saved() -> str:
    session = SessionStore()
    session["a"] = 1
    session.save()
    assert session.session_key is not None
    return session.session_key


def lines(caplog: pytest.LogCaptureFixture, name: str = SECURITY) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == name]


def test_many_rejected_sessions_are_one_line_a_minute_with_a_count(
    settings: LazySettings, caplog: pytest.LogCaptureFixture
) -> None:
    with freeze_time() as time:
        key = saved()
        settings.SECRET_KEY = "another"
        for _ in range(1000):
            SessionStore(key).get("a")
        time.tick(timedelta(seconds=59))
        SessionStore(key).get("a")
        (first,) = lines(caplog)
        assert "more like it" not in first
        time.tick(timedelta(seconds=2))
        SessionStore(key).get("a")
    assert lines(caplog)[1:] == [f"{first} (1,000 more like it in the 61 s before.)"]


def test_a_tag_that_does_not_match_names_the_store_the_causes_in_order_and_the_cure(
    settings: LazySettings, caplog: pytest.LogCaptureFixture
) -> None:
    key = saved()
    settings.SECRET_KEY = "another"
    SessionStore(key).get("a")
    (line,) = lines(caplog)
    assert line.startswith(
        "SESSION_STORES['default']: a session does not verify or decode: its tag"
    )
    places = [line.index(word) for word in ("SECRET_KEY was", "two sites", "tampered", "put the")]
    assert places == sorted(places)
    assert "another" not in line


@pytest.mark.parametrize(
    ("payload", "cure"), [(b"\xc1", "SESSION_SERIALIZER was changed"), (None, "from a newer")]
)
def test_what_does_not_decode_has_another_cause(
    payload: bytes | None, cure: str, caplog: pytest.LogCaptureFixture
) -> None:
    key = codec.storage_key(saved_key := saved())
    store = stores["default"]
    record = store.load(key)
    assert record is not None
    if payload is None:
        with patch.object(codec, "_VERSION", 99):
            data = codec.seal(key, b"", 0.0, b"")
    else:
        data = codec.seal(key, b"", 0.0, payload)
    assert store.replace(key, record._replace(data=data))
    SessionStore(saved_key).get("a")
    (line,) = lines(caplog)
    assert cure in line


def test_each_store_and_each_matter_has_lines_of_its_own(
    settings: LazySettings, caplog: pytest.LogCaptureFixture
) -> None:
    for alias in ("default", "memory", "default", "memory"):
        settings.SESSION_STORE_ALIAS = alias
        reports.rejected("its tag does not match")
        reports.unextended(StoreUnavailable("The server is away."))
    assert [line.partition(":")[0] for line in lines(caplog)] == [
        "SESSION_STORES['default']",
        "SESSION_STORES['memory']",
    ]
    assert len(lines(caplog, "django_kvsessions")) == 2


def test_an_outage_has_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    error = StoreUnavailable("The server is away.")
    for _ in range(3):
        reports.unavailable("at the save", error)
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[1] is error
    assert "503: The server is away. Nobody was logged out." in record.getMessage()


def test_a_forked_child_goes_on_reporting() -> None:
    reports.rejected("its tag does not match")
    child = os.fork()
    if child == 0:
        reports.rejected("its tag does not match")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
