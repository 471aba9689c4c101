"""Visitors who live on the site while it moves from one session engine to another."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from demo.tally import Tally
from demo.visitors import CutOff, EndOfVisit, Page, Shown, Visitor


@dataclass
class MoveTally(Tally):
    """What is counted of a move."""

    settled: int = 0
    #: Those of them who came back after the last switch, and found what they had left.
    stayed: int = 0
    switches: int = 0
    #: ``None`` where the command did not say.
    moved_in_bulk: int | None = None

    @property
    def moved(self) -> str:
        return "-" if self.moved_in_bulk is None else f"{self.moved_in_bulk:,}"

    def report(self) -> str:
        rows = [
            ("requests", f"{self.requests:,}"),
            ("visitors logged in before the move", f"{self.settled:,}"),
            ("still there at its end", f"{self.stayed:,}"),
            ("switches of the engine", f"{self.switches:,}"),
            ("moved by migratesessions", self.moved),
            ("sessions ended", f"{len(self.ended):,}"),
            ("workers killed", f"{self.killed:,}"),
            ("errors", f"{len(self.errors):,}"),
            ("logged out", f"{len(self.logged_out):,}"),
            ("lost changes", f"{len(self.lost):,}"),
            ("crossed", f"{len(self.crossed):,}"),
            ("revived", f"{len(self.came_back):,}"),
        ]
        left = max(len(label) for label, _ in rows)
        right = max(len(figure) for _, figure in rows)
        return "\n".join(f"{label:<{left}}  {figure:>{right}}" for label, figure in rows)


class Resident(Visitor):
    """Somebody who does one thing after the other, so that even a database loses nothing."""

    #: By itself, or because an answer got lost, or because it found something wrong.
    has_left = False

    async def settle(self) -> None:
        self.browser.start()
        with suppress(EndOfVisit, CutOff):
            await self.introduce()
            await self.log_in()
            await self.add_or_remove()
            return
        self.has_left = True

    async def come_back(self) -> None:
        if self.has_left:
            return
        with suppress(EndOfVisit, CutOff):
            await self.come_by()
            await self.add_or_remove()
            return
        self.has_left = True

    async def leave(self, *, is_held: bool = False) -> None:
        """Log out; also while a slow request holds the session, which not every engine can bear."""
        if self.has_left:
            return
        self.has_left = True
        with suppress(EndOfVisit, CutOff):
            if is_held:
                await self.log_out_while_it_is_held()
                return
            cookie = self.browser.cookie
            await self.log_out()
            await self.replay(cookie)

    def check(self, page: Page, expected: Shown, path: str) -> None:
        """As of any visitor, and say which of the promises of a move is broken."""
        shown = page.shown
        if page.status == 200 and shown.nickname in ("", self.nickname):
            what = f"{self.nickname}: {path} shows {shown}, not {expected}"
            if expected.user and not shown.user:
                self.tally.logged_out[self.nickname] = what
                raise EndOfVisit
            if shown.user == expected.user != "" and shown != expected:
                self.tally.lost[self.nickname] = what
                raise EndOfVisit
        super().check(page, expected, path)
