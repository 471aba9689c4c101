"""What the documentation of the pages recommends works as it says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.contrib.auth.views import LoginView
from django.core import mail
from django.template.loader import get_template
from django.test import Client, RequestFactory, override_settings
from django.urls import URLResolver, path
from django.urls.resolvers import RegexPattern

import django_kvsessions
from django_kvsessions.engine import SessionStore
from django_kvsessions.owners import end_sessions, sessions_of
from django_kvsessions.signals import session_started

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "devices.md").read_text()
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
IPHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 "
    "(KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1"
)

urlpatterns = [path("login/", LoginView.as_view(next_page="/"))]


@pytest.fixture
def examples() -> Iterator[dict[str, Any]]:
    """The names that the page's examples define, one after the other."""
    names: dict[str, Any] = {"every_urlpatterns": []}
    for block in re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        exec(compile(block, "devices.md", "exec", dont_inherit=True), names)
        if "urlpatterns" in names:
            names["every_urlpatterns"].append(names.pop("urlpatterns"))
    yield names
    session_started.disconnect(names["tell_of_a_new_device"])


def test_the_addresses_of_the_examples_lead_to_the_pages(examples: dict[str, Any]) -> None:
    assert len(examples["every_urlpatterns"]) == 2
    for (pattern,) in examples["every_urlpatterns"]:
        resolver = URLResolver(RegexPattern(r"^/"), [pattern])
        assert resolver.resolve("/account/sessions/").view_name == "kvsessions:devices"
        ending = resolver.resolve("/account/sessions/end-others/")
        assert ending.kwargs.get("max_login_age") in (None, 600)


def test_the_templates_and_blocks_that_may_be_replaced_exist() -> None:
    rows = re.findall(r"^\| (`\w+\.html`.*) \| (.+) \|$", PAGE, re.MULTILINE)
    listed = {name for names, _ in rows for name in re.findall(r"`(\w+\.html)`", names)}
    folder = Path(django_kvsessions.__file__).parent / "templates/django_kvsessions/devices"
    assert listed | {"base.html"} == {path.name for path in folder.iterdir()}
    for names, blocks in rows:
        for name in re.findall(r"`(\w+\.html)`", names):
            get_template(f"django_kvsessions/devices/{name}")
            defined = re.findall(r"{% block (\w+) %}", (folder / name).read_text())
            said = re.findall(r"`(\w+)`", blocks)
            assert set(defined) - {"content"} == set(said), name


@pytest.mark.django_db
@override_settings(
    ROOT_URLCONF=__name__,
    # Django 6.1 wants it, and older ones do not know it.
    MAILERS={"default": {"BACKEND": "django.core.mail.backends.locmem.EmailBackend"}},
)
def test_a_mail_tells_of_a_device_that_is_new_and_of_no_other(examples: dict[str, Any]) -> None:
    alice = User.objects.create_user("alice", "alice@example.org", "secret")

    def log_in(agent: str) -> int:
        """How many mails that makes."""
        before = len(mail.outbox)
        client = Client(headers={"user-agent": agent})
        client.post("/login/", {"username": "alice", "password": "secret"})
        assert "sessionid" in client.cookies
        return len(mail.outbox) - before

    assert [log_in(FIREFOX), log_in(FIREFOX), log_in(IPHONE), log_in(IPHONE)] == [1, 0, 1, 0]
    assert [log_in("curl/8"), log_in("")] == [1, 1]
    assert "as alice with Firefox on Linux." in mail.outbox[0].body
    assert "as alice with Mobile Safari on iOS." in mail.outbox[1].body
    assert "as alice with an unknown device." in mail.outbox[3].body
    assert {sent for message in mail.outbox for sent in message.to} == {"alice@example.org"}
    end_sessions(alice)
    assert log_in(FIREFOX) == 1


@pytest.mark.parametrize(
    ("claims", "status", "left"),
    [
        ({"sub": "alice", "sid": "one"}, 200, [2, 3, 4, 5]),
        ({"sub": "alice"}, 200, [4, 5]),
        ({"sub": "alice", "sid": "none"}, 200, [1, 2, 3, 4, 5]),
        ({"sub": "nobody"}, 200, [1, 2, 3, 4, 5]),
        ({"sid": "one"}, 400, [1, 2, 3, 4, 5]),
        ({"sub": "alice", "nonce": "n"}, 400, [1, 2, 3, 4, 5]),
        ({"sub": "alice", "events": {}}, 400, [1, 2, 3, 4, 5]),
        (None, 400, [1, 2, 3, 4, 5]),
    ],
)
def test_a_logout_token_ends_the_sessions_it_names_and_no_other(
    examples: dict[str, Any], claims: dict[str, Any] | None, status: int, left: list[int]
) -> None:
    users = {"alice": "7", "bob": "8"}
    opened = {
        number: logged_in(user_id, sid)
        for number, (user_id, sid) in enumerate(
            [("7", "one"), ("7", "two"), ("7", None), ("8", "one"), ("8", None)], 1
        )
    }

    def verify(token: str) -> dict[str, Any]:
        if claims is None or token != "signed":
            raise ValueError
        return {"events": {examples["LOGOUT"]: {}}, **claims}

    examples.update(verify=verify, user_of=users.get)
    request = RequestFactory().post("/backchannel-logout/", {"logout_token": "signed"})
    try:
        assert examples["backchannel_logout"](request).status_code == status
        there = {found.public_id for user in users.values() for found in sessions_of(user)}
        assert [number for number, each in opened.items() if each.public_id in there] == left
        assert examples["backchannel_logout"](RequestFactory().get("/")).status_code == 405
        bare = RequestFactory().post("/backchannel-logout/")
        assert examples["backchannel_logout"](bare).status_code == 400
    finally:
        for user in users.values():
            end_sessions(user)


def logged_in(user_id: str, sid: str | None) -> SessionStore:
    session = SessionStore()
    session["_auth_user_id"] = user_id
    session.label("sid", sid)
    session.save()
    return session
