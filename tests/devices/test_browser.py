"""The pages in a real browser, on the test site, under a strict Content-Security-Policy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

from shop.accounts import PASSWORD
from tests.devices.browsing import (
    DEVICES,
    Visitors,
    chromium,
    findings,
    is_logged_in,
    look,
    opened,
    site_server,
)
from testservers import Server

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.servers

#: Pixels: a desk's, and a small phone's.
WIDE, NARROW = 1100, 360
IPHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 "
    "(KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1"
)
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
ADMIN = "/admin/django_kvsessions/usersession/"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def var(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Path:
    # After the browser: without one there is no need for the rest.
    return tmp_path_factory.mktemp("site")


@pytest.fixture(scope="module")
def site(var: Path) -> Iterator[Server]:
    with site_server(var) as site:
        yield site


@pytest.fixture(scope="module")
def plain_site(site: Server, var: Path) -> Iterator[Server]:
    with site_server(var, plain=True) as site:
        yield site


@pytest.fixture
def visitors(browser: Browser, site: Server) -> Iterator[Visitors]:
    visitors = Visitors(browser, site)
    try:
        yield visitors
        # Such as that a style or a script was refused.
        assert visitors.complaints == []
    finally:
        visitors.close()


def devices(page: Page) -> list[str]:
    return page.locator(".kvs-list h2 bdi").all_inner_texts()


@pytest.mark.parametrize("scripts", [True, False])
def test_one_of_two_browsers_ends_the_other_with_scripts_and_without(
    visitors: Visitors, scripts: bool
) -> None:
    name = "alice" if scripts else "bruno"
    other = opened(visitors.log_in(name, user_agent=IPHONE, java_script_enabled=scripts))
    page = opened(visitors.log_in(name, user_agent=FIREFOX, java_script_enabled=scripts))
    assert devices(page) == ["Firefox on Linux", "Mobile Safari on iOS"]
    other.reload()
    assert devices(other) == ["Mobile Safari on iOS", "Firefox on Linux"]

    phone = page.get_by_role("listitem").filter(has_text="Mobile Safari on iOS")
    phone.get_by_role("link", name="Log out").click()
    page.locator(".kvs-devices").get_by_role("button", name="Log out").click()

    assert page.get_by_role("status").inner_text() == "Mobile Safari on iOS was logged out."
    assert devices(page) == ["Firefox on Linux"]
    other.get_by_role("link", name="Devices", exact=True).click()
    assert other.get_by_role("heading", name="Log in").is_visible()


def test_all_others_are_ended_and_this_one_goes_on(visitors: Visitors) -> None:
    others = [visitors.log_in("clara", user_agent=IPHONE) for _ in range(2)]
    page = opened(visitors.log_in("clara", user_agent=FIREFOX))
    page.get_by_role("link", name="Log out all other devices").click()
    page.get_by_role("button", name="Log out all other devices").click()
    assert page.get_by_role("status").inner_text() == "2 other devices were logged out."
    assert devices(page) == ["Firefox on Linux"]
    assert page.get_by_role("link", name="Log out all other devices").count() == 0
    assert [is_logged_in(other) for other in others] == [False, False]


def test_a_login_above_the_limit_ends_the_one_used_least_recently(visitors: Visitors) -> None:
    first, *rest = [visitors.log_in("david") for _ in range(5)]
    assert not is_logged_in(first)
    assert all(is_logged_in(context) for context in rest)
    assert len(devices(opened(rest[-1]))) == 4


def test_an_old_login_is_asked_for_a_fresh_one_before_it_ends_another(visitors: Visitors) -> None:
    other = visitors.log_in("elena", user_agent=IPHONE)
    context = visitors.come(user_agent=FIREFOX)
    context.request.get("/an-hour-ago/elena/")
    page = opened(context)
    assert len(devices(page)) == 2
    page.get_by_role("link", name="Log out all other devices").click()
    assert page.get_by_role("heading", name="Log in").is_visible()
    assert is_logged_in(other)
    page.get_by_label("User name").fill("elena")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("button", name="Log out all other devices").click()
    assert page.get_by_role("status").is_visible()
    assert not is_logged_in(other)


def test_the_keyboard_is_enough(visitors: Visitors) -> None:
    other = visitors.log_in("felix", user_agent=IPHONE)
    page = opened(visitors.log_in("felix", user_agent=FIREFOX))
    tab_to(page, "Log out all other devices")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Log out all other devices?").wait_for()
    tab_to(page, "Log out all other devices")
    look(page, "keyboard")
    page.keyboard.press("Enter")
    page.get_by_role("status").wait_for()
    assert not is_logged_in(other)


def tab_to(page: Page, text: str) -> None:
    focused = page.locator(":focus")
    for _ in range(30):
        page.keyboard.press("Tab")
        if focused.count() and focused.inner_text() == text:
            # What has the focus is seen to have it.
            outline = focused.evaluate("element => getComputedStyle(element).outlineStyle")
            assert outline != "none"
            return
    raise AssertionError(f"{text!r} is not reached by the Tab key.")


@pytest.mark.parametrize("frame", ["site", "plain"])
def test_axe_finds_nothing_and_nothing_is_cut_off_wide_or_narrow_light_or_dark(
    visitors: Visitors, plain_site: Server, frame: str
) -> None:
    visitors.log_in("grace", user_agent=IPHONE)
    visitors.log_in("grace", user_agent=20 * "with-a-long-name-")
    page = opened(visitors.log_in("grace", user_agent=FIREFOX))
    pages = {"list": DEVICES, "others": f"{DEVICES}end-others/", "outage": "/outage/"}
    pages["end"] = str(page.locator(".kvs-list a").last.get_attribute("href"))
    address = f"http://127.0.0.1:{plain_site.port}" if frame == "plain" else visitors.address
    for width in (WIDE, NARROW):
        scheme: Literal["dark", "light"] = "light" if width == WIDE else "dark"
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 740})
        for name, path in pages.items():
            page.goto(address + path)
            look(page, f"{name}-{frame}-{scheme}")
            assert page.locator(".kvs-devices h1").count() == 1, name
            assert findings(page) == [], name
            assert page.evaluate("document.documentElement.scrollWidth") == width, name


def test_axe_finds_nothing_in_the_admin_where_a_session_is_ended(visitors: Visitors) -> None:
    other = visitors.log_in("henri", user_agent=IPHONE)
    page = opened(visitors.log_in("admin", user_agent=FIREFOX), ADMIN)
    page.get_by_label("User name").fill("henr")
    page.get_by_role("button", name="Search").click()
    look(page, "admin-overview")
    assert findings(page, "#content") == []
    page.get_by_role("link", name="henri").click()
    look(page, "admin-user")
    assert findings(page, "#content") == []
    page.get_by_role("link", name="End", exact=True).click()
    look(page, "admin-end")
    assert findings(page, "#content") == []
    page.get_by_role("button", name="End").click()
    assert page.get_by_text("Ended the session “Mobile Safari on iOS”.").is_visible()
    assert not is_logged_in(other)
