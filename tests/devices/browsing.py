"""A real browser on the test site."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shop.accounts import PASSWORD
from tests.support.servers import missing, require_driver
from testservers import Missing, Server, require
from testservers.node import node_module

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page

__all__ = [
    "DEVICES",
    "Visitors",
    "chromium",
    "findings",
    "is_logged_in",
    "look",
    "opened",
    "site_server",
]

ROOT = Path(__file__).resolve().parents[2]
DEVICES = "/account/sessions/"
#: Seconds that anything may take, on a very busy machine.
PATIENCE = 300


def site_server(var: Path, *, plain: bool = False) -> Server:
    """The site with its data in ``var``; ``plain``: the pages without the site's own frame."""
    environ = {
        "DJANGO_SETTINGS_MODULE": "tests.devices.site_settings",
        "KVSESSIONS_VAR": str(var),
        "KVSESSIONS_PLAIN": "1" if plain else "",
        "PYTHONPATH": os.pathsep.join(map(str, [ROOT, ROOT / "testproject"])),
    }
    django = [sys.executable, "-m", "django"]
    if not (var / "db.sqlite3").exists():
        migrate = [*django, "migrate", "--verbosity", "0"]
        subprocess.run(migrate, env={**os.environ, **environ}, check=True, timeout=PATIENCE)

    def command(folder: Path, port: int) -> list[str]:
        return [*django, "runserver", "--noreload", "--skip-checks", f"127.0.0.1:{port}"]

    return Server(command, env=environ, timeout=PATIENCE)


@contextmanager
def chromium() -> Iterator[Browser]:
    sync_api = require_driver("playwright.sync_api")
    try:
        path = require("chromium", "apt install chromium")
    except Missing as reason:
        missing(reason)
    # Root has no sandbox, a container little shared memory, and neither has a graphics card.
    arguments = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=arguments, timeout=1000 * PATIENCE
        )
        try:
            yield browser
        finally:
            browser.close()


class Visitors:
    """Browsers that share nothing, and what their consoles complained of."""

    def __init__(self, browser: Browser, site: Server) -> None:
        self.browser = browser
        self.address = f"http://127.0.0.1:{site.port}"
        self.complaints: list[str] = []
        self.contexts: list[BrowserContext] = []

    def come(self, **options: Any) -> BrowserContext:
        context = self.browser.new_context(base_url=self.address, locale="en", **options)
        context.set_default_timeout(1000 * PATIENCE)
        context.on("console", self.hear)
        context.on("weberror", lambda error: self.complaints.append(str(error.error)))
        self.contexts.append(context)
        return context

    def log_in(self, name: str, **options: Any) -> BrowserContext:
        """A browser that is logged in, as fast as that goes: without a page."""
        context = self.come(**options)
        form = context.request.get("/login/").text()
        token = re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', form)[-1]
        fields = {"csrfmiddlewaretoken": token, "username": name, "password": PASSWORD}
        context.request.post("/login/", form=fields, max_redirects=0)
        return context

    def hear(self, said: ConsoleMessage) -> None:
        # Browsers ask for an icon by themselves, and an outage is meant to be one.
        if not said.location["url"].endswith(("/favicon.ico", "/outage/")):
            self.complaints.append(f"{said.type}: {said.text}")

    def close(self) -> None:
        for context in self.contexts:
            context.close()


def is_logged_in(context: BrowserContext) -> bool:
    return context.request.get(DEVICES, max_redirects=0).status == 200


def opened(context: BrowserContext, path: str = DEVICES) -> Page:
    page = context.new_page()
    page.goto(path)
    return page


def findings(page: Page, part: str = "html") -> list[str]:
    """What axe-core finds wrong with a part of the page."""
    try:
        path = node_module("axe-core", "axe-core/axe.min.js")
    except Missing as reason:
        missing(reason)
    page.evaluate(path.read_text())
    found = page.evaluate("part => axe.run(part, {resultTypes: ['violations']})", part)
    return [
        f"{violation['id']}: {violation['help']}: {[node['html'] for node in violation['nodes']]}"
        for violation in found["violations"]
    ]


def look(page: Page, name: str) -> None:
    """A picture for who wants to see it: KVSESSIONS_SCREENSHOTS names the folder."""
    if folder := os.environ.get("KVSESSIONS_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)
