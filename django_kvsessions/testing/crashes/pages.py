"""What a power cut may leave of one file: each of its blocks as it was at some moment.

A block comes to the disk as a whole, as it is then in memory: with all that was written to it
before. Which blocks come when, nobody knows, but for those that a sync has waited for. Where the
file has grown and a block has not come, there are zeros.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable

__all__ = ["Pages"]

#: What a disk writes as a whole.
BLOCK = 512
#: What the system hands to it at once, in blocks.
PAGE = 8
_AT_ONCE = 128 * BLOCK


class Pages:
    """A file by the numbers of what happened to it."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self._blocks: dict[int, list[tuple[int, bytes]]] = {}
        self._sizes = [(0, len(content))]
        #: Number of a sync, of the last change before it began, and its bytes if not all.
        self._syncs: list[tuple[int, int, range | None]] = []
        self._changes: list[int] = []
        for start in range(0, len(content), BLOCK):
            self._blocks[start // BLOCK] = [(0, _block(content, start))]

    def change(self, number: int, content: bytes) -> None:
        former, self.content = self.content, content
        self._changes.append(number)
        if len(content) != len(former):
            self._sizes.append((number, len(content)))
        for far in range(0, max(len(content), len(former)), _AT_ONCE):
            if content[far : far + _AT_ONCE] != former[far : far + _AT_ONCE]:
                for start in range(far, far + _AT_ONCE, BLOCK):
                    block = _block(content, start)
                    if block != _block(former, start):
                        self._blocks.setdefault(start // BLOCK, [(0, bytes(BLOCK))]).append(
                            (number, block)
                        )

    def synced(self, number: int, begun: int, part: range | None) -> None:
        self._syncs.append((number, begun, part))

    def sure(self, stop: int) -> int:
        """Up to which number all is on the disk by then."""
        return max((begun for end, begun, part in self._syncs if end <= stop and part is None),
                   default=0)  # fmt: skip

    def left(self, stop: int, chance: random.Random, moment: int | None = None) -> bytes:
        """What may be there after a power cut. ``moment``: nothing that is younger, if not sure."""
        sure = self.sure(stop)
        parts = [(begun, part) for end, begun, part in self._syncs if end <= stop and part]
        # With a part the size comes that it needs.
        size_sure = max([sure, *(begun for begun, _ in parts)])
        moments = [sure, *(number for number in self._changes if sure < number <= stop)]
        size_moment, come = _choice(moments, chance, moment)
        size_moment = max(size_moment, size_sure)
        size = self._size_at(size_moment)
        shrinks = [
            (number, after)
            for (_, before), (number, after) in zip(self._sizes, self._sizes[1:], strict=False)
            if sure < number <= stop and after < before
        ]
        if not shrinks and chance.random() < 0.2:
            size = _cut_short(self._size_at(size_sure), size, chance)
        blocks = []
        for place in range(-(-size // BLOCK)):
            start, first, last = place * BLOCK, sure, stop
            for begun, part in parts:
                if part.start < start + BLOCK and start < part.stop:
                    first = max(first, begun)
            for number, after in shrinks:
                # Whether the block was given back, the file's size tells.
                if after <= start and number <= size_moment:
                    first = max(first, number)
                elif after <= start:
                    last = min(last, number - 1)
            blocks.append(self._at(place, max(first, min(come(place), last))))
        return b"".join(blocks)[:size]

    def _size_at(self, number: int) -> int:
        return self._sizes[bisect_right(self._sizes, (number, float("inf"))) - 1][1]

    def _at(self, place: int, number: int) -> bytes:
        versions = self._blocks.get(place)
        if versions is None:
            return bytes(BLOCK)
        found = bisect_right(versions, number, key=lambda version: version[0])
        return versions[found - 1][1]


def _block(content: bytes, start: int) -> bytes:
    return content[start : start + BLOCK].ljust(BLOCK, b"\0")


def _cut_short(least: int, size: int, chance: random.Random) -> int:
    """Where a file grows, its size comes with its blocks."""
    edges = range(least // BLOCK + 1, -(-size // BLOCK))
    return chance.choice(edges) * BLOCK if edges else size


def _choice(
    moments: list[int], chance: random.Random, moment: int | None
) -> tuple[int, Callable[[int], int]]:
    """Which moment the size is of, and which each block."""
    kind = chance.choice(("none", "all", "one", "mixed", "mixed", "holes", "holes"))
    if moment is not None:
        kind = "one"
    elif kind == "one":
        moment = chance.choice(moments)
    if moment is not None and kind == "one":
        one = max((number for number in moments if number <= moment), default=moments[0])
        return one, lambda place: one
    if kind == "none":
        return moments[0], lambda place: moments[0]
    if kind == "all":
        return moments[-1], lambda place: moments[-1]
    unit, few = chance.choice((1, PAGE)), chance.choice((0.05, 0.2, 0.5))
    chosen: dict[int, int] = {}

    def come(place: int) -> int:
        unit_of = place // unit
        if unit_of not in chosen:
            is_hole = kind == "mixed" or chance.random() < few
            chosen[unit_of] = chance.choice(moments) if is_hole else moments[-1]
        return chosen[unit_of]

    return chance.choice((moments[-1], chance.choice(moments))), come
