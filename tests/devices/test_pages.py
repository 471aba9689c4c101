"""The pages on which users see and end their sessions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from unittest import mock

import pytest
from django.contrib.auth.models import User
from django.contrib.auth.views import LoginView
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import include, path
from django.utils import timezone
from freezegun import freeze_time

from django_kvsessions.devices import views
from django_kvsessions.owners import sessions_of
from django_kvsessions.stores import stores
from django_kvsessions.stores.base import StoreUnavailable

pytestmark = pytest.mark.django_db

DEVICES = "/account/sessions/"
FRESH = "/fresh/sessions/"
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
IPHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 "
    "(KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1"
)
AWAY = StoreUnavailable("It is away.")


def who(request: HttpRequest) -> HttpResponse:
    return HttpResponse(request.user.get_username())


urlpatterns = [
    path("account/sessions/", include("django_kvsessions.devices.urls")),
    path(
        "fresh/sessions/",
        include("django_kvsessions.devices.urls", namespace="fresh"),
        {"max_login_age": 600},
    ),
    path("login/", LoginView.as_view(next_page="/")),
    path("who/", who),
]


@pytest.fixture(autouse=True)
def _site() -> Iterator[None]:
    with override_settings(ROOT_URLCONF=__name__, LOGIN_URL="/login/"):
        yield


@pytest.fixture
def alice() -> User:
    user: User = User.objects.create_user("alice", password="secret")
    return user


def browser(user: User, agent: str = FIREFOX) -> Client:
    """One that is logged in."""
    client = Client(headers={"user-agent": agent})
    client.post("/login/", {"username": user.username, "password": "secret"})
    return client


def public_ids(user: User) -> list[str]:
    return [session.public_id for session in sessions_of(user)]


def user_of(client: Client) -> str:
    return client.get("/who/").content.decode()


def test_each_session_is_shown_with_its_device_and_the_own_one_first(alice: User) -> None:
    with freeze_time(timezone.now() - timedelta(hours=3)):
        client = browser(alice)
    browser(alice, IPHONE)
    page = client.get(DEVICES)
    assert page.status_code == 200
    own, other = page.context["page"]
    assert (own.name, own.kind_name, own.is_current) == ("Firefox on Linux", "Computer", True)
    assert (own.first_seen, own.last_seen) == ("3 hours ago", "just now")
    assert (other.name, other.kind_name, other.is_current) == (
        "Mobile Safari on iOS",
        "Phone",
        False,
    )
    text = page.content.decode()
    assert text.index("Firefox on Linux") < text.index("This device") < text.index("Mobile Safari")
    assert "no-cache" in page["Cache-Control"]


def test_no_session_id_is_in_any_page(alice: User) -> None:
    client, other = browser(alice), browser(alice)
    ids = [each.cookies["sessionid"].value for each in (client, other)]
    for address in (DEVICES, *(f"{DEVICES}end/{found}/" for found in public_ids(alice))):
        text = client.get(address).content.decode()
        assert not any(session_id in text for session_id in ids)


def test_nobody_sees_anything_without_a_login(alice: User) -> None:
    browser(alice)
    anyone = Client()
    (public_id,) = public_ids(alice)
    for address in ("", f"end/{public_id}/", "end-others/"):
        for answer in (anyone.get(DEVICES + address), anyone.post(DEVICES + address)):
            assert answer.status_code == 302
            assert answer["Location"].startswith("/login/?next=")
    assert public_ids(alice) == [public_id]


def test_one_session_is_ended_by_post_alone_after_a_question(alice: User) -> None:
    client, other = browser(alice), browser(alice, IPHONE)
    public_id = client.get(DEVICES).context["page"][1].session.public_id
    asked = client.get(f"{DEVICES}end/{public_id}/")
    assert "Mobile Safari on iOS" in asked.content.decode()
    assert user_of(other) == "alice"
    answer = client.post(f"{DEVICES}end/{public_id}/", follow=True)
    assert answer.redirect_chain == [(DEVICES, 302)]
    assert [str(said) for said in answer.context["messages"]] == [
        "Mobile Safari on iOS was logged out."
    ]
    assert [user_of(client), user_of(other)] == ["alice", ""]


def test_a_form_of_another_site_ends_nothing(alice: User) -> None:
    client = browser(alice)
    client.handler.enforce_csrf_checks = True
    browser(alice)
    before = public_ids(alice)
    for address in (f"end/{before[0]}/", f"end/{before[1]}/", "end-others/"):
        assert client.post(DEVICES + address).status_code == 403
    assert public_ids(alice) == before


def test_all_other_sessions_are_ended(alice: User) -> None:
    client, others = browser(alice), [browser(alice), browser(alice)]
    assert "2 other devices" in client.get(f"{DEVICES}end-others/").content.decode()
    answer = client.post(f"{DEVICES}end-others/", follow=True)
    assert [str(said) for said in answer.context["messages"]] == [
        "2 other devices were logged out."
    ]
    assert [user_of(each) for each in (client, *others)] == ["alice", "", ""]
    # There is nothing left to ask.
    assert client.get(f"{DEVICES}end-others/")["Location"] == DEVICES
    assert "all other devices" not in client.get(DEVICES).content.decode()


def test_the_own_session_ends_in_a_logout(alice: User) -> None:
    client, other = browser(alice), browser(alice)
    own = client.get(DEVICES).context["page"][0].session.public_id
    assert "Log out of this device?" in client.get(f"{DEVICES}end/{own}/").content.decode()
    assert client.post(f"{DEVICES}end/{own}/")["Location"] == "/login/"
    assert [user_of(client), user_of(other)] == ["", "alice"]


def test_what_is_none_of_the_users_is_not_found_whether_it_exists_or_not(alice: User) -> None:
    bob = User.objects.create_user("bob", password="secret")
    client, bobs = browser(alice), browser(bob)
    (of_bob,) = public_ids(bob)
    answers = [
        ask(f"{DEVICES}end/{public_id}/")
        for public_id in (of_bob, "x" * len(of_bob), "ü", "%00", bobs.cookies["sessionid"].value)
        for ask in (client.get, client.post)
    ]
    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.content for answer in answers}) == 1
    assert user_of(bobs) == "bob"


def test_a_fresh_login_is_asked_for_where_the_site_wants_one(alice: User) -> None:
    with freeze_time(timezone.now() - timedelta(hours=1)):
        client = browser(alice)
    other = browser(alice)
    own, others = (one.session.public_id for one in client.get(FRESH).context["page"])
    for address in ("end-others/", f"end/{others}/"):
        for answer in (client.get(FRESH + address), client.post(FRESH + address)):
            assert answer.status_code == 302
            assert answer["Location"] == f"/login/?next={FRESH}{address}"
    assert user_of(other) == "alice"
    # Who has logged in just now is asked for nothing, nor is who logs out.
    assert other.get(f"{FRESH}end-others/").status_code == 200
    assert client.get(f"{FRESH}end/{own}/").status_code == 200
    assert client.get(f"{DEVICES}end-others/").status_code == 200
    assert other.post(f"{FRESH}end-others/")["Location"] == FRESH


def test_many_sessions_come_in_pages(alice: User) -> None:
    client = browser(alice)
    for _ in range(4):
        browser(alice)
    with mock.patch.object(views.DevicesView, "paginate_by", 2):
        pages = [client.get(DEVICES, {"page": number}) for number in (1, 2, 3)]
        assert client.get(DEVICES, {"page": "x"}).context["page"].number == 1
    shown = [one.session.public_id for page in pages for one in page.context["page"]]
    assert len(shown) == 5
    assert set(shown) == set(public_ids(alice))
    assert "Page 2 of 3" in pages[1].content.decode()
    assert [page.context["others"] for page in pages] == [4, 4, 4]


@pytest.mark.parametrize("agent", ["", "\x00\x1b[31m", "<script>alert(1)</script>", "\xff" * 9000])
def test_whatever_a_browser_says_of_itself_is_shown_escaped_and_short(
    alice: User, agent: str
) -> None:
    browser(alice, agent)
    page = browser(alice).get(DEVICES)
    assert page.status_code == 200
    text = page.content.decode()
    assert "<script" not in text
    assert "\xff" * 61 not in text
    assert "\x1b" not in text


@pytest.mark.parametrize("agent", [FIREFOX, IPHONE])
def test_without_ua_parser_the_user_agent_is_shown_shortened(alice: User, agent: str) -> None:
    with mock.patch("django_kvsessions.owned.describe", return_value=None):
        (one,) = browser(alice, agent).get(DEVICES).context["page"]
        assert one.name == agent[:59] + "…"
        assert one.kind_name == "Unknown"


def test_a_session_that_kept_no_device_is_shown(alice: User) -> None:
    with override_settings(SESSION_RECORD_DEVICE=False):
        client = browser(alice)
    assert client.get(DEVICES).context["page"][0].name == "Unknown device"


def fails(name: str) -> Any:
    return mock.patch.object(views, name, side_effect=AWAY)


@pytest.mark.parametrize(
    ("failing", "ask"),
    [
        ("sessions_of", lambda client, other: client.get(DEVICES)),
        ("sessions_of", lambda client, other: client.get(f"{DEVICES}end/{other}/")),
        ("end_session", lambda client, other: client.post(f"{DEVICES}end/{other}/")),
        ("end_sessions", lambda client, other: client.post(f"{DEVICES}end-others/")),
    ],
)
def test_a_store_that_does_not_answer_is_a_503_that_logs_nobody_out(
    alice: User,
    failing: str,
    ask: Callable[[Client, str], HttpResponse],
    caplog: pytest.LogCaptureFixture,
) -> None:
    client, other = browser(alice), browser(alice)
    public_id = client.get(DEVICES).context["page"][1].session.public_id
    with fails(failing):
        answer = ask(client, public_id)
    assert answer.status_code == 503
    text = answer.content.decode()
    assert "Not available right now" in text
    assert ("not known" in text) == failing.startswith("end")
    assert "sessionid" not in answer.cookies
    assert "could not be listed or ended" in caplog.text
    assert [user_of(client), user_of(other)] == ["alice", "alice"]


@override_settings(MESSAGE_STORAGE="django.contrib.messages.storage.session.SessionStorage")
def test_a_store_that_answers_nothing_at_all_is_the_same_page(alice: User) -> None:
    client = browser(alice)
    store = type(stores["default"])
    with mock.patch.object(store, "load", side_effect=AWAY):
        answer = client.get(DEVICES)
    assert answer.status_code == 503
    assert "Not available right now" in answer.content.decode()
    assert "sessionid" not in answer.cookies
    assert user_of(client) == "alice"


@pytest.mark.parametrize(
    ("language", "title"),
    [
        ("de", "Ihre Geräte"),
        ("fr", "Vos appareils"),
        ("es", "Sus dispositivos"),
        ("ja", "お使いのデバイス"),
    ],
)
def test_the_pages_speak_the_visitors_language(alice: User, language: str, title: str) -> None:
    client = browser(alice)
    with override_settings(LANGUAGE_CODE=language):
        text = client.get(DEVICES).content.decode()
    assert f"<h1>{title}</h1>" in text
    assert f'lang="{language}"' in text


def test_a_site_replaces_one_block_and_the_frame(alice: User, tmp_path: Any, settings: Any) -> None:
    folder = tmp_path / "django_kvsessions" / "devices"
    folder.mkdir(parents=True)
    name = "django_kvsessions/devices/list.html"
    (folder / "base.html").write_text("<title>Mine</title>{% block content %}{% endblock %}")
    (folder / "list.html").write_text(
        f'{{% extends "{name}" %}}{{% block intro %}}<p>Our words.</p>{{% endblock %}}'
    )
    settings.TEMPLATES = [{**settings.TEMPLATES[0], "DIRS": [tmp_path]}]
    text = browser(alice).get(DEVICES).content.decode()
    assert text.startswith("<title>Mine</title>")
    assert "Our words." in text
    assert "Log out what you do not know" not in text
    assert "Firefox on Linux" in text


def test_nothing_in_a_page_needs_a_content_security_policy_to_be_loosened(alice: User) -> None:
    client = browser(alice)
    browser(alice)
    for address in ("", "end-others/", f"end/{public_ids(alice)[0]}/"):
        text = client.get(DEVICES + address).content.decode()
        assert "<script" not in text
        assert "<style" not in text
        assert " style=" not in text
        assert not re.search(r"<[^>]* on\w+=", text)
