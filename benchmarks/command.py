"""What the sub-commands have in common."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from benchmarks import report
from benchmarks.measure import Result
from benchmarks.report import Target


class Command:
    """One sub-command; the first line of its docstring is its line in --help."""

    targets: ClassVar[Sequence[Target]] = ()

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """What it can be told."""

    def measure(self, options: argparse.Namespace, folder: Path, results: Result) -> None:
        """Fill in the results one by one, so that a run that is stopped keeps what it has."""
        raise NotImplementedError

    def render(self, results: Result) -> Iterator[str]:
        """The tables of what there is."""
        yield from report.operations(results)


def numbers(text: str) -> list[int]:
    return sorted(int(part.replace("_", "")) for part in text.split(","))


def some_of(known: Collection[str]) -> Callable[[str], list[str]]:
    """Names separated by commas, each one that is known."""

    def names(text: str) -> list[str]:
        found = text.split(",")
        if unknown := [name for name in found if name not in known]:
            raise argparse.ArgumentTypeError(f"knows {', '.join(known)}; not {', '.join(unknown)}.")
        return found

    return names


def add_list(
    parser: argparse.ArgumentParser, name: str, known: Collection[str], default: Any = None
) -> None:
    default = list(known if default is None else default)
    parser.add_argument(name, type=some_of(known), default=default, help=", ".join(known))


def add_rounds(parser: argparse.ArgumentParser, rounds: int) -> None:
    parser.add_argument("--rounds", type=int, default=rounds, help=f"default {rounds}")


def add_batches(
    parser: argparse.ArgumentParser, *, sizes: list[int], rounds: int, batch: int
) -> None:
    shown = f"sessions stored (default {','.join(map(str, sizes))})"
    parser.add_argument("--sizes", type=numbers, default=sizes, help=shown)
    add_rounds(parser, rounds)
    text = f"operations timed in a row (default {batch})"
    parser.add_argument("--batch", type=int, default=batch, help=text)
