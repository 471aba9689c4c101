"""Servers that come from npm, which lives in a folder outside the repository."""

from __future__ import annotations

import os
from pathlib import Path

from testservers import Missing

__all__ = ["node_module"]


def node_module(package: str, pattern: str) -> Path:
    """The file of an npm package that matches, or ``Missing`` with the line that installs it.

    KVSESSIONS_NODE_MODULES names the folder ``node_modules`` where it is not the default.
    """
    default = Path.home() / ".cache" / "django-kvsessions" / "node_modules"
    folder = Path(os.environ.get("KVSESSIONS_NODE_MODULES") or default)
    for path in folder.glob(pattern):
        return path
    raise Missing(
        f"{package} is not in {folder}: npm install --ignore-scripts --no-save "
        f"--prefix {folder.parent} {package}"
    )
