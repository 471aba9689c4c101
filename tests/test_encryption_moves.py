"""Encrypted sessions that get new ids while other requests go on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.conf import LazySettings
from django.contrib.sessions.backends.base import UpdateError

from django_kvsessions import codec
from django_kvsessions.engine import SessionStore
from tests.support.sealed_form import split
from tests.test_engine import Calls, key_of, record_of, saved, stored


@pytest.fixture(autouse=True)
def _site(settings: LazySettings) -> None:
    settings.SESSION_ENCRYPTION = True
    settings.SESSION_STORES = {
        "default": {"BACKEND": "django_kvsessions.stores.memory.MemoryStore"}
    }
    settings.MIDDLEWARE = ["django_kvsessions.middleware.SessionMiddleware"]


@pytest.fixture(params=["sync", "async"])
def opened(request: pytest.FixtureRequest) -> Callable[..., Calls]:
    return lambda key=None: Calls(SessionStore(key), request.param == "async")


def hands_over(former: str) -> bool:
    """Whether what stands under a former id has more than the storage key of its successor."""
    data = record_of(former).data
    return data[0] == 2 and bool(split(data).sealed)


def test_a_request_in_flight_follows_its_user_to_a_new_id(opened: Callable[..., Calls]) -> None:
    key = saved(a=1, _auth_user_id="1")
    one, other = opened(key), opened(key)
    assert one.get("a") == other.get("a") == 1
    one.cycle_key()
    assert hands_over(key)
    other.session["other"] = 1
    other.save()
    other.mutate(lambda data: data.update(third=1))
    # Twice moved, and sealed by who does not know the id.
    third = opened(one.session.session_key)
    third.cycle_key()
    other.session["fourth"] = 1
    other.save()
    found = stored(third.session.session_key)
    assert found == {"a": 1, "_auth_user_id": "1", "other": 1, "third": 1, "fourth": 1}
    record = record_of(third.session.session_key)
    head = codec.open_head(key_of(third.session.session_key), record.owner, record.data)
    assert head.is_encrypted


@pytest.mark.parametrize("cycles", [True, False])
def test_an_id_from_before_a_login_leads_to_nothing_that_opens_it(
    cycles: bool, opened: Callable[..., Calls]
) -> None:
    planted = saved(a=1)
    other, login = opened(planted), opened(planted)
    assert other.get("a") == login.get("a") == 1
    if cycles:
        login.cycle_key()
        assert not hands_over(planted)
    login.session["_auth_user_id"] = "1"
    login.save()
    assert login.session.session_key != planted
    assert not hands_over(planted)
    other.session["planted"] = 1
    with pytest.raises(UpdateError):
        other.save()
    assert "planted" not in stored(login.session.session_key)


def test_what_was_handed_over_opens_no_session_of_another_user() -> None:
    former = saved(a=1, _auth_user_id="1")
    session = SessionStore(former)
    session.cycle_key()
    between = str(session.session_key)
    assert hands_over(former)
    session["_auth_user_id"] = "2"
    session.save()
    assert session.session_key not in (former, between)
    assert not hands_over(between)
    assert stored(session.session_key)["_auth_user_id"] == "2"


def test_a_logout_holds_where_encryption_was_switched_on_meanwhile(
    opened: Callable[..., Calls], settings: LazySettings
) -> None:
    settings.SESSION_ENCRYPTION = False
    key = saved(a=1, _auth_user_id="1")
    leaving, moving = opened(key), opened(key)
    assert leaving.get("a") == moving.get("a") == 1
    moving.cycle_key()
    settings.SESSION_ENCRYPTION = True
    later = opened(moving.session.session_key)
    later.session["b"] = 1
    later.save()
    leaving.flush()
    assert stored(moving.session.session_key) == {}
