"""The admin's pages on the sessions of users."""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO
from unittest import mock

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.contrib.auth.views import LoginView
from django.core.management import call_command
from django.test import Client, override_settings
from django.urls import path, reverse

from django_kvsessions.devices import admin as pages
from django_kvsessions.owners import sessions_of
from django_kvsessions.stores import stores
from django_kvsessions.stores.base import StoreUnavailable

pytestmark = pytest.mark.django_db

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
OVERVIEW = "/admin/django_kvsessions/usersession/"
SEE, END = "view_usersession", "delete_usersession"

urlpatterns = [
    path("admin/", admin.site.urls),
    path("login/", LoginView.as_view(next_page="/")),
]


@pytest.fixture(autouse=True)
def _site() -> Iterator[None]:
    with override_settings(ROOT_URLCONF=__name__):
        yield


@pytest.fixture
def alice() -> User:
    user: User = User.objects.create_user("alice", "alice@example.org", "secret")
    return user


def staff(*permissions: str) -> User:
    user: User = User.objects.create_user("staff", password="secret", is_staff=True)
    found = Permission.objects.filter(codename__in=permissions)
    assert len(found) == len(permissions)
    user.user_permissions.set(found)
    return user


def browser(user: User) -> Client:
    """One that is logged in."""
    client = Client(headers={"user-agent": FIREFOX})
    client.post("/login/", {"username": user.username, "password": "secret"})
    return client


def is_logged_in(client: Client) -> bool:
    return "_auth_user_id" in client.session


def address(user: User, ending: str = "") -> str:
    return f"{OVERVIEW}{user.pk}/{ending}"


def log() -> list[tuple[str, str, str]]:
    return [
        (str(entry.user), entry.object_repr, entry.get_change_message())
        for entry in LogEntry.objects.all()
    ]


def test_the_index_leads_to_it_who_may_see_sessions() -> None:
    client = browser(staff(SEE))
    assert OVERVIEW in client.get("/admin/").content.decode()
    assert "User sessions" in client.get("/admin/").content.decode()


def test_sessions_are_counted_by_store_and_one_that_fails_spoils_no_other() -> None:
    client = browser(staff(SEE))
    text = client.get(OVERVIEW).content.decode()
    counted = client.get(OVERVIEW).context["counted"]
    assert [one.alias for one in counted] == ["default", "memory"]
    assert [one.stats.live for one in counted] == [1, 0]
    assert '<th scope="row">default</th>' in text
    down = mock.patch.object(type(stores["memory"]), "stats", side_effect=StoreUnavailable("Away"))
    with down:
        text = client.get(OVERVIEW).content.decode()
    assert "does not answer" in text
    assert "<td>1</td>" in text


def test_a_user_is_found_by_name_address_and_id(alice: User) -> None:
    client = browser(staff(SEE))
    for query in ("alice", "LIC", "alice@example.org", str(alice.pk)):
        answer = client.get(OVERVIEW, {"q": query})
        assert alice in answer.context["users"], query
        assert address(alice) in answer.content.decode()
    for query in ("nobody", "<b>", "9" * 30, "\x00", "_auth_user_id"):
        answer = client.get(OVERVIEW, {"q": query})
        assert (answer.status_code, answer.context["users"]) == (200, []), query
        assert "There is no user" in answer.content.decode()
    assert client.get(OVERVIEW, {"q": " "}).context["users"] is None


def test_a_users_sessions_are_shown_without_ids_or_content(alice: User) -> None:
    other, client = browser(alice), browser(staff(SEE))
    session = other.session
    session["cart"] = "three mugs"
    session.save()
    answer = client.get(address(alice))
    text = answer.content.decode()
    assert "Firefox on Linux" in text
    assert "Computer" in text
    for hidden in (session.session_key, "three mugs", "cart", "_auth_user"):
        assert str(hidden) not in text
    # To see is not to end.
    assert "/end/" not in text


def test_one_session_is_ended_and_logged_under_its_user(alice: User) -> None:
    other, client = browser(alice), browser(staff(SEE, END))
    (session,) = sessions_of(alice)
    end = address(alice, f"end/{session.public_id}/")
    assert end in client.get(address(alice)).content.decode()
    assert client.get(end).status_code == 200
    assert is_logged_in(other)
    answer = client.post(end, follow=True)
    assert answer.redirect_chain == [(address(alice), 302)]
    assert "Ended the session “Firefox on Linux”." in answer.content.decode()
    assert "Nobody is logged in as this user." in answer.content.decode()
    assert not is_logged_in(other)
    assert log() == [("staff", "alice", "Ended the session “Firefox on Linux”.")]
    # A second time there is nothing to be ended, or logged.
    assert client.post(end).status_code == 404
    assert len(log()) == 1


def test_all_sessions_of_a_user_are_ended_and_logged(alice: User) -> None:
    others, client = [browser(alice), browser(alice)], browser(staff(SEE, END))
    assert client.get(address(alice)).content.decode().count("End all") == 1
    assert client.get(address(alice, "end/")).status_code == 200
    client.post(address(alice, "end/"))
    assert [is_logged_in(other) for other in others] == [False, False]
    assert is_logged_in(client)
    assert log() == [("staff", "alice", "Ended 2 sessions.")]


def test_ones_own_session_goes_on_when_all_of_ones_own_are_ended() -> None:
    user = staff(SEE, END)
    client, other = browser(user), browser(user)
    own = next(one.session for one in client.get(address(user)).context["sessions"])
    assert client.get(address(user)).context["sessions"][0].is_current
    assert client.post(address(user, f"end/{own.public_id}/")).status_code == 404
    client.post(address(user, "end/"))
    assert [is_logged_in(client), is_logged_in(other)] == [True, False]


@pytest.mark.parametrize(
    ("permissions", "seen", "ended"), [((), 403, 403), ((SEE,), 200, 403), ((END,), 403, 403)]
)
def test_who_has_no_permission_sees_and_ends_nothing(
    alice: User, permissions: tuple[str, ...], seen: int, ended: int
) -> None:
    other, client = browser(alice), browser(staff(*permissions))
    (session,) = sessions_of(alice)
    assert client.get(OVERVIEW).status_code == seen
    assert client.get(address(alice)).status_code == seen
    for ending in ("end/", f"end/{session.public_id}/"):
        assert client.get(address(alice, ending)).status_code == ended
        assert client.post(address(alice, ending)).status_code == ended
    assert is_logged_in(other)
    assert log() == []
    # Nor does anybody without a login at all.
    assert Client().get(address(alice))["Location"].startswith("/admin/login/")


def test_a_form_of_another_site_ends_nothing(alice: User) -> None:
    other, client = browser(alice), browser(staff(SEE, END))
    client.handler.enforce_csrf_checks = True
    assert client.post(address(alice, "end/")).status_code == 403
    assert is_logged_in(other)


def test_what_is_none_of_the_users_is_not_found(alice: User) -> None:
    user = staff(SEE, END)
    other, client = browser(alice), browser(user)
    (of_alice,) = sessions_of(alice)
    for found in (of_alice.public_id, "x" * 40, "ü"):
        for ask in (client.get, client.post):
            assert ask(address(user, f"end/{found}/")).status_code == 404
    for user_id in ("0", "x", "9" * 30, "_00"):
        assert client.get(f"{OVERVIEW}{user_id}/").status_code == 404, user_id
    assert is_logged_in(other)


def test_a_store_that_does_not_answer_is_a_503_and_no_line_in_the_log(alice: User) -> None:
    other, client = browser(alice), browser(staff(SEE, END))
    (session,) = sessions_of(alice)
    for name, ask, ending in (
        ("sessions_of", client.get, ""),
        ("end_sessions", client.post, "end/"),
        ("end_session", client.post, f"end/{session.public_id}/"),
    ):
        with mock.patch.object(pages, name, side_effect=StoreUnavailable("It is away.")):
            answer = ask(address(alice, ending))
        assert answer.status_code == 503
        assert "does not answer" in answer.content.decode()
    assert [is_logged_in(client), is_logged_in(other)] == [True, True]
    assert log() == []


def test_the_page_of_a_user_links_to_their_sessions_for_who_may_see_them(alice: User) -> None:
    page = reverse("admin:auth_user_change", args=[alice.pk])
    user = staff("view_user", SEE)
    client = browser(user)
    assert f'href="{address(alice)}"' in client.get(page).content.decode()
    assert "historylink" in client.get(page).content.decode()
    user.user_permissions.remove(Permission.objects.get(codename=SEE))
    assert address(alice) not in client.get(page).content.decode()


def test_one_page_looks_at_the_sessions_of_one_user_once(alice: User) -> None:
    for _ in range(5):
        browser(alice)
    client = browser(staff(SEE, END))
    store = stores["default"]
    with (
        mock.patch.object(store, "scan", side_effect=AssertionError("looks at everybody's")),
        mock.patch.object(store, "scan_owner", wraps=store.scan_owner) as looked,
    ):
        assert len(client.get(address(alice)).context["sessions"]) == 5
    assert looked.call_count == 1


def test_the_migration_says_what_the_models_say() -> None:
    out = StringIO()
    call_command("makemigrations", "django_kvsessions", check=True, dry_run=True, stdout=out)
    assert "No changes" in out.getvalue()


def test_the_sessions_of_users_are_no_table_and_in_no_dump() -> None:
    out = StringIO()
    call_command("dumpdata", "django_kvsessions", stdout=out)
    assert "usersession" not in out.getvalue()
    with override_settings(LANGUAGE_CODE="de"):
        client = browser(staff(SEE))
        assert "Benutzersitzungen" in client.get("/admin/").content.decode()
