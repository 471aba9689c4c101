"""What the demo counts, and how it reports it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

#: Seconds after the end of a worker in which a request may still be given to it.
KILL_WINDOW = 2.0


@dataclass
class Tally:
    requests: int = 0
    #: How many of them were made, and in how many seconds, while the visitors were there.
    busy: tuple[int, float] = (0, 1.0)
    #: Seconds for each request, but for those that are slow on purpose.
    latencies: list[float] = field(default_factory=list)
    #: The process that answered last.
    last_worker: int = 0
    #: Session ids, which the demo may know, as it holds the cookies; with their visitors.
    created: set[str] = field(default_factory=set)
    ended: dict[str, str] = field(default_factory=dict)
    expiring: dict[str, str] = field(default_factory=dict)
    #: Unix time at which the last of them has expired.
    all_expired: float = 0.0
    #: ``None`` where the engine's clearsessions does not tell.
    cleared: int | None = None
    overtaken: int = 0
    #: Sessions that were ended on another device, and requests that came with them afterwards.
    ended_elsewhere: int = 0
    tried_afterwards: int = 0
    #: Requests that were in flight when their visitor logged in, and those of them that were
    #: refused, because the session had moved on.
    in_flight: int = 0
    turned_down: int = 0
    #: Times that the site got another SECRET_KEY.
    rotated: int = 0
    #: When the last worker began to use the present one; infinite while workers differ.
    key_since: float = -math.inf
    #: Processes that have answered.
    workers: set[int] = field(default_factory=set)
    killed: int = 0
    killed_at: float = -math.inf
    cut_off: int = 0
    #: Whether the store is being made to fail, so that the site may refuse what it is asked.
    disturbed: bool = False
    #: How often it did, by status.
    refused: Counter[int] = field(default_factory=Counter)
    #: Seconds for which the site waits for its store, whatever keeps it: then it may refuse too.
    patience: float = math.inf
    #: How often it had waited for so long, by status.
    waited: Counter[int] = field(default_factory=Counter)

    errors: list[str] = field(default_factory=list)
    logged_out: dict[str, str] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    came_back: dict[str, str] = field(default_factory=dict)
    let_in: dict[str, str] = field(default_factory=dict)
    crossed: dict[str, str] = field(default_factory=dict)

    def kill_explains_it(self, began: float) -> bool:
        """Whether a connection of a request that began then may break because its worker ended."""
        return began - self.killed_at < KILL_WINDOW

    @property
    def is_clean(self) -> bool:
        return not self.findings()

    def percentile(self, percent: float) -> float:
        """In milliseconds."""
        ordered = sorted(self.latencies)
        return 1000 * ordered[math.ceil(len(ordered) * percent / 100) - 1] if ordered else 0.0

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """Label, figure and remark."""
        requests, seconds = self.busy
        remark = f"{requests:,} of them by visitors, in {seconds:.1f} s"
        yield "requests", f"{self.requests:,}", remark
        yield "requests per second", f"{requests / seconds:,.0f}", ""
        yield "p50", f"{self.percentile(50):.1f}", "ms"
        yield "p99", f"{self.percentile(99):.1f}", "ms"
        yield "sessions created", f"{len(self.created):,}", ""
        yield "sessions ended", f"{len(self.ended):,}", "by a logout, or for a new id at a login"
        cleared = "-" if self.cleared is None else f"{self.cleared:,}"
        yield "sessions cleared", cleared, f"{len(self.expiring):,} were made to expire"
        yield "requests overtaken by a logout", f"{self.overtaken:,}", ""
        remark = f"{self.cut_off} requests cut off and repeated"
        yield "workers killed", f"{self.killed:,}", remark if self.killed else ""
        remark = f"{self.turned_down:,} of them turned down"
        yield "requests in flight at a login", f"{self.in_flight:,}", remark
        yield "SECRET_KEY rotated", f"{self.rotated:,}", "worker by worker" if self.rotated else ""
        yield "errors", f"{len(self.errors):,}", ""
        yield "visitors logged out by another request", f"{len(self.logged_out):,}", ""
        yield "lost changes", f"{len(self.lost):,}", ""
        yield "sessions that came back after logout", f"{len(self.came_back):,}", ""
        yield "sessions ended elsewhere", f"{self.ended_elsewhere:,}", ""
        yield "requests they tried afterwards", f"{self.tried_afterwards:,}", ""
        yield "let in", f"{len(self.let_in):,}", ""
        yield "sessions that crossed users", f"{len(self.crossed):,}", ""

    def report(self) -> str:
        rows = list(self.rows())
        left = max(len(label) for label, _, _ in rows)
        right = max(len(figure) for _, figure, _ in rows)
        return "\n".join(
            f"{label:<{left}}  {figure:>{right}}  {remark}".rstrip()
            for label, figure, remark in rows
        )

    def findings(self) -> list[str]:
        """What went wrong, in words."""
        found = (self.logged_out, self.lost, self.came_back, self.let_in, self.crossed)
        return [*self.errors, *(what for kind in found for what in kind.values())]
