"""The drawings of the pages, as SVG that takes its colours from the theme."""

from __future__ import annotations

from html import escape
from pathlib import Path

#: The height of a line.
HIGH = 18


class Drawing:
    """Boxes, arrows and texts; ``title`` is what a screen reader says."""

    def __init__(self, title: str, width: int, height: int) -> None:
        self.title, self.width, self.height = title, width, height
        self.parts: list[str] = []

    def text(self, x: float, y: float, words: str, kind: str = "", anchor: str = "middle") -> None:
        place = f'x="{x:g}" y="{y:g}" text-anchor="{anchor}"'
        self.parts.append(f'<text {place} class="{kind}">{escape(words)}</text>')

    def box(
        self, x: float, y: float, width: float, height: float, *lines: str, kind: str = "box"
    ) -> None:
        shape = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6"'
        self.parts.append(f'<rect {shape} class="{kind}"/>')
        top = y + height / 2 - (len(lines) - 1) * HIGH / 2 + 5
        for number, line in enumerate(lines):
            self.text(x + width / 2, top + number * HIGH, line, "small" if number else "")

    def arrow(self, x: float, y: float, to_x: float, to_y: float, kind: str = "") -> None:
        line = f'x1="{x:g}" y1="{y:g}" x2="{to_x:g}" y2="{to_y:g}"'
        self.parts.append(f'<line {line} class="line {kind}" marker-end="url(#head)"/>')

    def line(self, x: float, y: float, to_x: float, to_y: float, kind: str = "") -> None:
        line = f'x1="{x:g}" y1="{y:g}" x2="{to_x:g}" y2="{to_y:g}"'
        self.parts.append(f'<line {line} class="line {kind}"/>')

    def svg(self) -> str:
        head = (
            '<marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" '
            'markerHeight="8" orient="auto"><path d="M0 0 8 4 0 8z" class="head"/></marker>'
        )
        return (
            f'<div class="drawing" tabindex="0" role="group" aria-label="{escape(self.title)}">'
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
            f'width="{self.width}" role="img" aria-label="{escape(self.title)}">'
            f"<defs>{head}</defs>{''.join(self.parts)}</svg></div>\n"
        )


def request() -> Drawing:
    """The way of a request through the files."""
    drawing = Drawing("A request passes middleware, engine and codec to the store", 760, 250)
    rooms = [
        ("middleware.py", "cookie in, cookie out"),
        ("engine.py", "Django's session API"),
        ("codec.py", "seal and open"),
        ("stores/<name>/", "records, 32-byte keys"),
    ]
    for number, (name, about) in enumerate(rooms):
        x = 10 + number * 190
        drawing.box(x, 30, 160, 60, name, about, kind="ours")
        if number:
            drawing.arrow(x - 30, 60, x, 60)
    parts = [
        (150, "updates.py", "save, merge, touch"),
        (150 + 160, "moves.py", "new ids, logouts"),
        (150 + 320, "lifetime.py", "how long it lives"),
    ]
    for x, name, about in parts:
        drawing.box(x - 20, 150, 150, 54, name, about)
        drawing.line(280, 90, x + 55, 150)
    drawing.text(380, 235, "imports run one way: from left to right", "small")
    return drawing


def log() -> Drawing:
    """semidbm's file and its index."""
    drawing = Drawing("The log file of semidbm, and the index that all processes share", 760, 270)
    drawing.text(10, 28, "sessions/data: records one after the other", anchor="start")
    records = ["header", "put A", "put B", "put A again", "delete B", "put C"]
    for number, name in enumerate(records):
        kind = "box gone" if name in ("put A", "put B") else "ours"
        drawing.box(10 + number * 122, 42, 116, 44, name, kind="box" if not number else kind)
    drawing.text(10, 112, "dashed: garbage, until a compaction leaves it out", "small", "start")
    drawing.text(10, 160, "sessions/index, shared by all", anchor="start")
    drawing.box(10, 174, 230, 54, "A", "start, size, expiry", kind="box")
    drawing.box(250, 174, 230, 54, "C", "start, size, expiry", kind="box")
    drawing.arrow(200, 174, 440, 88)
    drawing.arrow(420, 174, 670, 88)
    drawing.text(620, 206, "a load: one pread here, one there", "small")
    drawing.text(
        10, 256, "a write: append, then enter, under a lock; a reader takes none", "small", "start"
    )
    return drawing


def compaction() -> Drawing:
    """How a log is rewritten while others write."""
    drawing = Drawing("A compaction copies live records and renames the new files", 760, 220)
    drawing.box(10, 20, 220, 46, "data, index", "live records and garbage")
    drawing.box(
        270, 20, 220, 46, "data.new, index.copy", "live records copied, no lock", kind="ours"
    )
    drawing.box(530, 20, 220, 46, "data, index", "renamed into their places", kind="ours")
    drawing.arrow(230, 43, 270, 43)
    drawing.arrow(490, 43, 530, 43)
    drawing.box(10, 120, 480, 50, "writers go on", "the last 64 KiB are copied under the lock")
    drawing.box(530, 120, 220, 50, "other processes", "open the new log and index", kind="box")
    drawing.arrow(640, 66, 640, 120)
    drawing.arrow(250, 120, 250, 68)
    drawing.text(380, 205, "nobody stops for it", "small")
    return drawing


def merge() -> Drawing:
    """Two requests that change one session."""
    drawing = Drawing("Two requests change one session, and both changes are kept", 760, 270)
    drawing.text(90, 24, "request 1")
    drawing.text(380, 24, "store")
    drawing.text(670, 24, "request 2")
    for x in (90, 380, 670):
        drawing.line(x, 34, x, 262, "gone")
    steps = [
        (380, 90, 56, "load: revision 7"),
        (380, 670, 84, "load: revision 7"),
        (670, 380, 118, "replace cart, expected 7: done, revision 8"),
        (90, 380, 152, "replace name, expected 7: refused"),
        (380, 90, 186, "load: revision 8, merged key by key"),
        (90, 380, 220, "replace, expected 8: both changes are kept"),
    ]
    for start, end, y, words in steps:
        drawing.arrow(start, y, end, y)
        drawing.text((start + end) / 2, y - 6, words, "small")
    return drawing


def login() -> Drawing:
    """A login while an older request is on its way."""
    drawing = Drawing("The former id leaves a notice that opens nothing", 760, 230)
    drawing.box(10, 20, 200, 52, "id A, anonymous", "before the login")
    drawing.box(540, 20, 210, 52, "id B, logged in", "the cookie from now on", kind="ours")
    drawing.arrow(210, 46, 540, 46)
    drawing.text(375, 38, "login: create B, then replace A", "small")
    drawing.box(10, 120, 200, 60, "notice under A", "60 seconds, no data", kind="box gone")
    drawing.arrow(110, 72, 110, 120)
    drawing.box(330, 120, 420, 60, "a late request with A", "an empty session, the cookie stays")
    drawing.arrow(330, 150, 210, 150)
    drawing.text(
        380, 214, "what it writes is refused: nothing gets into a login from before it", "small"
    )
    return drawing


def seal() -> Drawing:
    """The bytes of a record."""
    drawing = Drawing("A sealed record: header, body and a tag over all of it", 760, 170)
    parts = [
        (10, 76, "version", "1 byte"),
        (90, 66, "flags", "1 byte"),
        (160, 150, "three times", "8 bytes each, floats"),
        (314, 130, "card", "of a user's session"),
        (448, 172, "session data", "zlib, or AES-256-GCM"),
        (624, 126, "tag", "16 bytes, BLAKE2b"),
    ]
    for x, width, name, about in parts:
        drawing.box(x, 20, width, 54, name, about, kind="ours" if name == "tag" else "box")
    drawing.text(10, 120, "the tag is keyed by SECRET_KEY, over:", "small", "start")
    drawing.text(10, 142, "storage key, owner, header, body", anchor="start")
    return drawing


DRAWINGS = [request, log, compaction, merge, login, seal]


def write(folder: Path) -> None:
    for draw in DRAWINGS:
        (folder / f"{draw.__name__}.html").write_text(draw().svg())
