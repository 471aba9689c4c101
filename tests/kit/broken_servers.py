"""Stores over a server that each make something else of a lost answer; see broken_stores.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from django_kvsessions.stores.base import Record, StoreStats, StoreUnavailable
from django_kvsessions.stores.paged import unknown_outcome
from tests.kit.toy_server import Lost, ToyStore

__all__ = ["BrokenToyStore"]

WRONG = "test_a_lost_answer_is_no_wrong_one"
AGAIN = "test_nothing_is_done_again_over_what_somebody_else_did"


class BrokenToyStore(ToyStore):
    caught_by: ClassVar[tuple[str, ...]]

    def again(self, name: str, *arguments: Any, **named: Any) -> Any:
        """Ask a second time, as many drivers do by themselves."""
        try:
            return self.ask(name, *arguments, **named)
        except Lost:
            try:
                return self.ask(name, *arguments, **named)
            except Lost as error:
                raise StoreUnavailable("The server does not answer.") from error


class AsksAgain(BrokenToyStore):
    """Takes what the second try finds for what the first one did."""

    caught_by = (
        f"{WRONG}[sync-create]",
        f"{WRONG}[async-create]",
        f"{WRONG}[sync-replace, expected]",
        f"{WRONG}[async-replace, expected]",
        f"{WRONG}[sync-delete]",
        f"{WRONG}[async-delete]",
        f"{AGAIN}[sync-replaces-replace]",
        f"{AGAIN}[async-replaces-replace]",
        f"{AGAIN}[sync-touches-touch]",
        f"{AGAIN}[sync-deletes-create]",
        f"{AGAIN}[sync-puts theirs in its place-delete]",
        f"{AGAIN}[sync-puts theirs in its place-replace]",
    )

    def write(self, name: str, key: bytes, *arguments: Any, **named: Any) -> bool:
        return bool(self.again(name, key, *arguments, **named))


class LooksAndSaysNo(BrokenToyStore):
    """Where somebody else's record is there, its own may have been there before."""

    caught_by = (
        f"{AGAIN}[sync-replaces-create]",
        f"{AGAIN}[sync-replaces-replace, expected]",
        f"{AGAIN}[async-replaces-replace, expected]",
        f"{AGAIN}[sync-deletes-create]",
        f"{AGAIN}[sync-replaces-touch, expected]",
    )

    def write(self, name: str, key: bytes, *arguments: Any, **named: Any) -> bool:
        try:
            return bool(self.ask(name, key, *arguments, **named))
        except Lost:
            there = self.load(key)
            if name == "touch":
                return there is not None and there.expires == arguments[0]
            return there == (arguments[0] if arguments else None)


class LooksAndAsksAgain(BrokenToyStore):
    """Nothing of its own is there: but it may have been, before somebody else came."""

    caught_by = (f"{AGAIN}[sync-replaces-replace]", f"{AGAIN}[async-replaces-replace]")

    def write(self, name: str, key: bytes, *arguments: Any, **named: Any) -> bool:
        try:
            return super().write(name, key, *arguments, **named)
        except StoreUnavailable:
            if name != "replace":
                raise
            return bool(self.ask(name, key, *arguments, **named))


class HopesForTheBest(BrokenToyStore):
    caught_by = (f"{WRONG}[sync-replace]", f"{WRONG}[sync-touch]", f"{WRONG}[async-delete]")

    def write(self, name: str, key: bytes, *arguments: Any, **named: Any) -> bool:
        try:
            return bool(self.ask(name, key, *arguments, **named))
        except Lost:
            return True


class LostIsAbsent(BrokenToyStore):
    caught_by = (f"{WRONG}[sync-load]", f"{WRONG}[async-load]")

    def load(self, key: bytes) -> Record | None:
        try:
            record: Record | None = self.ask("load", key)
        except Lost:
            return None
        return record


class LostIsTheDriversError(BrokenToyStore):
    caught_by = (f"{WRONG}[sync-load]", f"{WRONG}[sync-replace]", f"{WRONG}[async-touch]")

    def read(self, name: str, *arguments: Any) -> Any:
        return self.ask(name, *arguments)

    def write(self, name: str, key: bytes, *arguments: Any, **named: Any) -> bool:
        return bool(self.ask(name, key, *arguments, **named))


class ReplacesInTwoSteps(BrokenToyStore):
    caught_by = (f"{WRONG}[sync-replace]", f"{WRONG}[async-replace, expected]")

    def replace(self, key: bytes, record: Record, *, expected: int | None = None) -> bool:
        there = self.load(key)
        if there is None or expected not in (None, there.revision):
            return False
        return self.delete(key) and self.create(key, record)


class DeletesInTwoSteps(BrokenToyStore):
    """Marks the record first, which is no harm to anybody unless it ends there."""

    caught_by = (f"{WRONG}[sync-delete]",)

    def delete(self, key: bytes) -> bool:
        there = self.load(key)
        return (
            there is not None
            and self.replace(key, there._replace(data=b""))
            and self.write("delete", key)
        )


class ScanEndsEarly(BrokenToyStore):
    caught_by = ("test_a_scan_whose_answer_is_lost_leaves_nothing_out",)

    def pages(self, owner: bytes) -> Iterator[tuple[bytes, Record]]:
        after = b""
        try:
            while page := self.ask("page", owner, after):
                yield from page
                after = page[-1][0]
        except Lost:
            return


class ScanStartsAgain(BrokenToyStore):
    caught_by = ("test_a_scan_whose_answer_is_lost_leaves_nothing_out",)

    def pages(self, owner: bytes) -> Iterator[tuple[bytes, Record]]:
        try:
            after = b""
            while page := self.ask("page", owner, after):
                yield from page
                after = page[-1][0]
        except Lost:
            yield from super().pages(owner)


class CleanUpForgetsABatch(BrokenToyStore):
    caught_by = ("test_a_clean_up_whose_answer_is_lost_counts_right_or_is_unavailable",)

    def delete_batch(self, batch_size: int) -> int:
        return int(self.again("delete_batch", batch_size))


class CleanUpCountsABatchTwice(BrokenToyStore):
    caught_by = ("test_a_clean_up_whose_answer_is_lost_counts_right_or_is_unavailable",)

    def delete_batch(self, batch_size: int) -> int:
        try:
            return int(self.ask("delete_batch", batch_size))
        except Lost:
            # Of which nobody knows whether the server got to it.
            self.ask("delete_batch", batch_size)
            return batch_size


class StatsAreEmpty(BrokenToyStore):
    caught_by = ("test_stats_whose_answer_is_lost_are_right_or_unavailable",)

    def stats(self) -> StoreStats:
        try:
            stats: StoreStats = self.ask("stats")
        except Lost:
            return StoreStats(live=0, expired=0, size=None)
        return stats


class AsyncAsksAgain(BrokenToyStore):
    """Right in one colour alone."""

    caught_by = (f"{WRONG}[async-delete]",)

    async def adelete(self, key: bytes) -> bool:
        return bool(await self.call_in_thread(self.again, "delete", key))


class NeverAnswersAgain(BrokenToyStore):
    caught_by = (f"{WRONG}[sync-load]",)
    broken = False

    def ask(self, name: str, *arguments: Any, **named: Any) -> Any:
        if self.broken:
            raise Lost
        try:
            return super().ask(name, *arguments, **named)
        except Lost:
            self.broken = True
            raise unknown_outcome() from None
