"""Visitors of the site, who know at each step what their pages have to show."""

from __future__ import annotations

import asyncio
import html
import math
import re
import ssl
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from decimal import Decimal
from random import Random
from typing import Any, NamedTuple

import httpx
from django.conf import settings

from demo.tally import Tally
from shop.accounts import PASSWORD, SHOPPERS
from shop.products import PRODUCTS

SHOWN = re.compile(r'data-shown="(\w+)">([^<]*)<')
TOKEN = re.compile(r'name="csrfmiddlewaretoken" value="(\w+)"')

# There is no TLS here, and each client would read all the certificates there are.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

#: Seconds that a slow request waits for its session to be ended, and after which it is.
HOLD, OVERTAKE = 1.0, 0.1

#: Seconds before asking again what was not answered.
PATIENCE = 0.05


class CutOff(Exception):
    """The worker was killed before it answered, or the store failed; what was asked may be
    done or not."""


class EndOfVisit(Exception):
    """The visit cannot go on, and the tally says why if it is to be held against the site."""


class Shown(NamedTuple):
    """What a page shows of its visitor; empty for somebody who is new."""

    user: str = ""
    nickname: str = ""
    visits: int = 0
    articles: int = 0
    total: Decimal = Decimal("0.00")


class Page(NamedTuple):
    status: int
    shown: Shown


class Browser:
    """An HTTP client with a cookie jar, which measures and counts what it does."""

    def __init__(self, url: str, tally: Tally) -> None:
        self.tally = tally
        self.token = ""
        #: Whether an answer got lost, in which there may have been a new cookie.
        self.missed_answer = False
        #: When the request began whose answer brought the session cookie.
        self.cookie_at = -math.inf
        # A new connection for each request, so that any worker may get it.
        self.client = httpx.AsyncClient(
            base_url=url,
            headers={"Connection": "close"},
            timeout=30,
            trust_env=False,
            verify=NO_TLS,
        )

    @property
    def cookie(self) -> str:
        return self.client.cookies.get(settings.SESSION_COOKIE_NAME) or ""

    def start(self, cookie: str = "", token: str = "") -> None:
        """Empty the jar, but for a session cookie where one is given."""
        self.token = token
        self.missed_answer = False
        self.client.cookies = httpx.Cookies()
        if cookie:
            host = self.client.base_url.host
            self.client.cookies.set(settings.SESSION_COOKIE_NAME, cookie, domain=host)

    async def open(
        self, path: str, form: dict[str, Any] | None = None, *, follow: bool = True
    ) -> Page:
        """Get a page, or post the form; ``CutOff`` where a killed worker or store is to blame."""
        method, is_done = "GET", False
        if form is not None:
            method, form = "POST", {**form, "csrfmiddlewaretoken": self.token}
        while True:
            try:
                response = await self.send(method, path, form)
            except CutOff:
                if not is_done:
                    raise
                await asyncio.sleep(PATIENCE)
                continue
            if not (follow and response.is_redirect):
                break
            # From here on the change is acknowledged, and every page has to show it.
            method, path, form, is_done = "GET", response.headers["Location"], None, True
        text = response.text
        if found := TOKEN.search(text):
            self.token = found[1]
        shown = {name: html.unescape(value).strip() for name, value in SHOWN.findall(text)}
        return Page(
            response.status_code,
            Shown(
                shown.get("user", ""),
                shown.get("nickname", ""),
                int(shown.get("visits", 0)),
                int(shown.get("articles", 0)),
                Decimal(shown.get("total", 0)),
            ),
        )

    async def send(self, method: str, path: str, form: dict[str, Any] | None) -> httpx.Response:
        disturbed, began = self.tally.disturbed, time.monotonic()
        try:
            response = await self.client.request(method, path, data=form)
        except httpx.TransportError as error:
            if self.tally.kill_explains_it(began) and not isinstance(error, httpx.TimeoutException):
                self.tally.cut_off += 1
                self.missed_answer = True
                raise CutOff from error
            self.tally.errors.append(f"{method} {path}: {type(error).__name__}: {error}")
            raise EndOfVisit from error
        self.tally.requests += 1
        if form is None or "seconds" not in form:
            self.tally.latencies.append(response.elapsed.total_seconds())
        self.tally.last_worker = int(response.headers.get("X-Worker", 0))
        self.tally.workers.add(self.tally.last_worker)
        has_waited = response.elapsed.total_seconds() >= self.tally.patience
        if response.is_server_error and (disturbed or self.tally.disturbed or has_waited):
            self.tally.refused[response.status_code] += 1
            self.tally.waited[response.status_code] += has_waited
            if settings.SESSION_COOKIE_NAME in response.headers.get("Set-Cookie", ""):
                self.tally.errors.append(f"{method} {path}: an error came with a session cookie")
            raise CutOff
        if cookie := response.cookies.get(settings.SESSION_COOKIE_NAME):
            self.tally.created.add(cookie)
            self.missed_answer, self.cookie_at = False, began
        return response


class Visitor:
    """One visit by somebody who has never been there."""

    def __init__(self, number: int, browser: Browser, tab: Browser, tally: Tally) -> None:
        """``tab`` is a second browser: another tab, or somebody with a stolen cookie."""
        self.number = number
        self.browser = browser
        self.tab = tab
        self.tally = tally
        self.random = Random(number)
        self.user = SHOPPERS[number % len(SHOPPERS)]
        self.nickname = f"visitor {number}"
        self.expected = Shown()
        self.cart: Counter[str] = Counter()

    @property
    def is_due_a_new_id(self) -> bool:
        """Whether Django gives the session another one, as its user came by a former SECRET_KEY."""
        return bool(self.expected.user) and self.browser.cookie_at < self.tally.key_since

    async def visit(self) -> None:
        """The scripts take turns, so that even a short demo has all of them."""
        scripts: list[Callable[[], Awaitable[None]]] = [
            self.buy_and_log_out,
            self.log_out_elsewhere,
            self.log_in_meanwhile,
            self.end_elsewhere,
            self.expire,
            self.look_around,
        ]
        self.browser.start()
        # Where an answer got lost, nobody can tell what became of the change.
        with suppress(EndOfVisit, CutOff):
            await scripts[self.number % len(scripts)]()

    # The scripts

    async def look_around(self) -> None:
        await self.introduce()
        for _ in range(self.random.randint(2, 5)):
            await self.add_or_remove()
            await self.come_by()

    async def buy_and_log_out(self) -> None:
        await self.introduce()
        await self.add_or_remove()
        await self.log_in()
        for _ in range(self.random.randint(2, 5)):
            await self.add_or_remove()
            await self.come_by()
        cookie = self.browser.cookie
        await self.log_out()
        await self.replay(cookie)

    async def log_out_elsewhere(self) -> None:
        """Log out while a slow request of another tab still holds the session."""
        await self.introduce()
        await self.log_in()
        await self.add_or_remove()
        # The other tab would get it.
        await self.take_new_id()
        await self.log_out_while_it_is_held()

    async def log_out_while_it_is_held(self) -> None:
        cookie = self.browser.cookie
        self.tab.start(cookie, self.browser.token)
        slow = asyncio.ensure_future(
            self.tab.open("/session/slow/", {"seconds": HOLD}, follow=False)
        )
        await asyncio.sleep(OVERTAKE)
        try:
            await self.log_out()
        finally:
            [page] = await asyncio.gather(slow, return_exceptions=True)
        if isinstance(page, Page):
            # Saved before the logout; overtaken by it; or so late that the form was void.
            if page.status not in (302, 400, 403):
                self.fail(f"the slow request was answered with {page.status}")
            self.tally.overtaken += page.status == 400
        await self.replay(cookie)

    async def log_in_meanwhile(self) -> None:
        """Log in while other requests with the former id are under way, as of a busy page."""
        await self.introduce()
        await self.add_or_remove()
        former = self.browser.cookie
        await self.step("/login/")
        # Each another one: of two that raise one number, no merge can know.
        products = self.random.sample(list(PRODUCTS), 3)
        adding = [
            self.browser.open("/cart/add/", {"product": product}, follow=False)
            for product in products
        ]
        form = {"username": self.user, "password": PASSWORD}
        login, *others = await asyncio.gather(
            self.browser.open("/login/", form, follow=False),
            *adding,
            *(self.browser.open("/session/", follow=False) for _ in range(2)),
            return_exceptions=True,
        )
        pages = [page for page in (login, *others) if isinstance(page, Page)]
        if len(pages) <= len(others):
            # A killed worker: what became of the changes, nobody can tell.
            raise EndOfVisit
        self.check_meanwhile(pages[0], pages[1:], len(adding))
        added = [
            product
            for product, page in zip(products, pages[1:], strict=False)
            if page.status == 302
        ]
        page = await self.browser.open("/session/")
        if page.shown.user != self.user:
            self.tally.logged_out[self.nickname] = f"{self.nickname}: logged out at the login"
            raise EndOfVisit
        self.cart.update(added)
        total = sum((PRODUCTS[slug].price * n for slug, n in self.cart.items()), Decimal("0.00"))
        expected = self.expected._replace(user=self.user, articles=self.cart.total(), total=total)
        if page.shown.articles < expected.articles:
            self.tally.lost[self.nickname] = f"{self.nickname}: {page.shown}, not {expected}"
            raise EndOfVisit
        self.check(page, expected, "/session/")
        self.expected = expected
        self.tally.ended[former] = self.nickname
        await self.add_or_remove()
        cookie = self.browser.cookie
        await self.log_out()
        await self.replay(cookie)

    async def end_elsewhere(self) -> None:
        """End the session of another device, while a request of it is under way."""
        await self.introduce()
        await self.log_in()
        with suppress(CutOff):
            await self.end_that_of_the_tab()

    async def end_that_of_the_tab(self) -> None:
        agent, form = f"the phone of {self.nickname}", {"username": self.user, "password": PASSWORD}
        self.tab.client.headers["User-Agent"] = agent
        self.tab.start()
        await self.tab.open("/login/")
        page = await self.tab.open("/login/", form)
        if page.shown.user != self.user:
            self.fail(f"a login on another device shows {page.shown}")
        cookie = self.tab.cookie
        slow = asyncio.ensure_future(
            self.tab.open("/session/slow/", {"seconds": HOLD}, follow=False)
        )
        await asyncio.sleep(OVERTAKE)
        try:
            ended = await self.browser.open("/session/end_elsewhere/", {"agent": agent})
        finally:
            await asyncio.gather(slow, return_exceptions=True)
        if ended.status != 200:
            return  # The engine is one of Django's.
        self.tally.ended_elsewhere += 1
        self.tally.ended[cookie] = self.nickname
        for _ in range(3):
            self.tab.start(cookie)
            page = await self.tab.open("/cart/")
            self.tally.tried_afterwards += 1
            if page.shown.user:
                self.tally.let_in[cookie] = f"{self.nickname}: let in after its session was ended"
        await self.come_by()

    def check_meanwhile(self, login: Page, others: list[Page], adding: int) -> None:
        """Each request was done, or was turned down because it came too late."""
        self.tally.in_flight += len(others)
        if login.status != 302:
            self.fail(f"a login was answered with {login.status}")
        for number, page in enumerate(others):
            # Overtaken by the login, or with a form that it made void.
            if page.status in (400, 403):
                self.tally.turned_down += 1
            elif page.status != (302 if number < adding else 200):
                self.fail(f"a request at a login was answered with {page.status}")

    async def expire(self) -> None:
        """Let the session expire in a second."""
        await self.introduce()
        await self.add_or_remove()
        cookie = self.browser.cookie
        try:
            page = await self.browser.open("/session/expiry/", {"seconds": 1}, follow=False)
        except CutOff:
            return
        if page.status != 302:
            self.fail(f"setting the expiry was answered with {page.status}")
        self.tally.expiring[cookie] = self.nickname
        self.tally.all_expired = time.time() + 1

    # Their steps

    async def introduce(self) -> None:
        await self.come_by()
        await self.step("/session/nickname/", {"nickname": self.nickname}, nickname=self.nickname)

    async def come_by(self) -> None:
        await self.step("/", visits=self.expected.visits + 1)

    async def add_or_remove(self) -> None:
        product = self.random.choice(list(PRODUCTS))
        change, path = 1, "/cart/add/"
        if self.cart[product] and self.random.random() < 0.5:
            change, path = -1, "/cart/remove/"
        self.cart[product] += change
        total = sum((PRODUCTS[slug].price * n for slug, n in self.cart.items()), Decimal("0.00"))
        await self.step(path, {"product": product}, articles=self.cart.total(), total=total)

    async def log_in(self) -> None:
        former = self.browser.cookie
        await self.step("/login/")
        form = {"username": self.user, "password": PASSWORD}
        await self.step("/login/", form, new_id=True, user=self.user)
        if self.browser.cookie == former:
            self.fail("the session kept its id at the login")
        self.tally.ended[former] = self.nickname

    async def take_new_id(self) -> None:
        """Come by for the id that the session is due, if it is, once all workers give it."""
        while self.tally.key_since == math.inf:  # noqa: ASYNC110 (a look costs little)
            await asyncio.sleep(PATIENCE)
        if self.is_due_a_new_id:
            await self.come_by()

    async def log_out(self) -> None:
        cookie = self.browser.cookie
        await self.step("/logout/", {}, **Shown()._asdict())
        self.tally.ended[cookie] = self.nickname

    async def step(
        self, path: str, form: dict[str, Any] | None = None, *, new_id: bool = False, **changes: Any
    ) -> None:
        """Open a page and check what it shows: what the last one did, with these changes.

        Where a killed worker swallowed the answer, or the site refused, everything has to be
        as it was before or as it should be after; then the visit goes on from there.
        """
        after = self.expected._replace(**changes)
        while True:
            try:
                page = await self.browser.open(path, form)
            except CutOff:
                page = await self.look(after)
                if page.shown == self.expected != after:
                    continue
                if (new_id or self.is_due_a_new_id) and page.shown == Shown():
                    # The cookie with the new id was in the answer.
                    raise EndOfVisit from None
            break
        self.check(page, after, path)
        self.expected = after

    async def look(self, after: Shown) -> Page:
        while True:
            is_calm = not self.tally.disturbed
            with suppress(CutOff):
                page = await self.browser.open("/session/")
                # What was refused may still wait in a server that does not run.
                if is_calm or page.shown not in (self.expected, after):
                    return page
            await asyncio.sleep(PATIENCE)

    def check(self, page: Page, expected: Shown, path: str) -> None:
        if page.status == 400 and self.browser.missed_answer:
            # The session got its new id after all, and the cookie was in that answer.
            raise EndOfVisit
        if page.status != 200:
            self.fail(f"{path} was answered with {page.status}")
        if page.shown == expected:
            return
        what = f"{path} shows {page.shown}, not {expected}"
        if page.shown.user in ("", self.user) and page.shown.nickname in ("", self.nickname):
            self.fail(what)
        self.tally.crossed[self.nickname] = f"{self.nickname}: {what}"
        raise EndOfVisit

    def fail(self, what: str) -> None:
        self.tally.errors.append(f"{self.nickname}: {what}")
        raise EndOfVisit

    async def replay(self, cookie: str) -> None:
        """Come with the cookie of a session that has ended."""
        await replay(cookie, self.nickname, self.tab, self.tally)


async def replay(cookie: str, nickname: str, browser: Browser, tally: Tally) -> None:
    """Come with a cookie that was this visitor's, and whose session is over."""
    while True:
        # Each time anew, because the answer may have replaced the cookie.
        browser.start(cookie)
        try:
            page = await browser.open("/cart/")
        except CutOff:
            continue
        break
    if page.status != 200:
        tally.errors.append(f"{nickname}: a session that is over was answered with {page.status}")
    elif page.shown.nickname not in ("", nickname):
        tally.crossed[nickname] = f"{nickname}: a session that is over shows {page.shown}"
    elif page.shown != Shown() and cookie in tally.expiring:
        tally.errors.append(f"{nickname}: a session that has expired shows {page.shown}")
    elif page.shown != Shown():
        tally.came_back[cookie] = f"{nickname}: a session came back with {page.shown}"
