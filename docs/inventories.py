"""What other projects' documentation has under which name, for links by name.

A text file for each: the kind, the name and the address of what the pages link
to. A name that is not in it is a warning of Sphinx's, which ends the build.
"""

from __future__ import annotations

import zlib
from pathlib import Path

BASES = {
    "django": "https://docs.djangoproject.com/en/6.1/",
    "python": "https://docs.python.org/3/",
}


def write(source: Path, target: Path) -> dict[str, tuple[str, str]]:
    """The inventories, made from the text files, as ``intersphinx_mapping`` has them."""
    mapping = {}
    for project, base in BASES.items():
        lines = (source / "outside" / f"{project}.txt").read_text().splitlines()
        entries = [line.split() for line in lines if line.strip()]
        body = "".join(f"{name} {kind} 1 {place} -\n" for kind, name, place in entries)
        head = f"# Sphinx inventory version 2\n# Project: {project}\n# Version: \n"
        head += "# The remainder of this file is compressed using zlib.\n"
        path = target / f"{project}.inv"
        path.write_bytes(head.encode() + zlib.compress(body.encode()))
        mapping[project] = (base, str(path))
    return mapping
