"""The pages of the documentation and the README, and the examples in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
README = ROOT / "README.md"

#: What is written in a fence that is no example.
FURNITURE = {"{toctree}", "{include}", "{raw}", "{eval-rst}", ""}
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
BLOCK = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    page: str
    line: int
    #: The heading above it.
    under: str
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> dict[str, str]:
    """The text of each page, by its name below docs/."""
    files = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)
    named = {str(path.relative_to(DOCS)): path.read_text() for path in files}
    return {"README.md": README.read_text(), **named}


def blocks(language: str | None = None) -> Iterator[Block]:
    for page, text in pages().items():
        for found in BLOCK.finditer(text):
            above = text[: found.start()]
            (*_, under) = ["", *HEADING.findall(above)]
            block = Block(page, above.count("\n") + 1, under, found[1], found[2])
            if block.language not in FURNITURE and language in (None, block.language):
                yield block


def commands() -> Iterator[tuple[Block, str]]:
    """Each line of the shell examples."""
    for block in blocks("sh"):
        for line in block.code.splitlines():
            if line.strip():
                yield block, line.strip()


def table(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its head."""
    text = "\n" + pages()[page]
    assert f"\n{heading}\n" in text, f"{page} has no {heading!r}"
    below = text.split(f"\n{heading}\n", 1)[1].splitlines()
    start = next(number for number, line in enumerate(below) if line.startswith("|"))
    rows = []
    for line in below[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return rows
