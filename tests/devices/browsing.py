"""A real browser on the test site."""

from __future__ import annotations

import os
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
    from playwright.sync_api import Browser, BrowserContext, Page

__all__ = ["DEVICES", "Visitors", "chromium", "findings", "look", "site_server"]

ROOT = Path(__file__).resolve().parents[2]
DEVICES = "/account/sessions/"
#: Milliseconds, on a busy machine.
PATIENCE = 20_000


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
        subprocess.run(migrate, env={**os.environ, **environ}, check=True, timeout=60)

    def command(folder: Path, port: int) -> list[str]:
        return [*django, "runserver", "--noreload", f"127.0.0.1:{port}"]

    return Server(command, env=environ)


@contextmanager
def chromium() -> Iterator[Browser]:
    sync_api = require_driver("playwright.sync_api")
    try:
        path = require("chromium", "apt install chromium")
    except Missing as reason:
        missing(reason)
    options = {"executable_path": path, "args": ["--no-sandbox", "--disable-dev-shm-usage"]}
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(**options, timeout=60_000)
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

    def visit(self, **options: Any) -> Page:
        context = self.browser.new_context(base_url=self.address, locale="en", **options)
        self.contexts.append(context)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.on("console", lambda said: self.complaints.append(f"{said.type}: {said.text}"))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        return page

    def log_in(self, name: str, **options: Any) -> Page:
        page = self.visit(**options)
        page.goto(f"/login/?next={DEVICES}")
        fill_in_login(page, name)
        return page

    def close(self) -> None:
        for context in self.contexts:
            context.close()


def fill_in_login(page: Page, name: str) -> None:
    page.get_by_label("User name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()


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
