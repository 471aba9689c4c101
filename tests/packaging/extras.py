"""bare.py with each extra alone: ``python tests/packaging/extras.py`` where there is none.

Each goes into a folder of its own, which only its own run looks into.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from importlib.metadata import metadata, requires
from pathlib import Path


def main() -> None:
    extras = metadata("django-kvsessions").get_all("Provides-Extra")
    assert extras, "no extra to be tried"
    for extra in extras:
        lines = [line.split(";") for line in requires("django-kvsessions") or []]
        wanted = [line for line, *condition in lines if f'"{extra}"' in "".join(condition)]
        with tempfile.TemporaryDirectory() as folder:
            install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile"]
            subprocess.run([*install, "--target", folder, *wanted], check=True)
            subprocess.run(
                [sys.executable, "-X", "dev", Path(__file__).with_name("bare.py"), extra],
                env={**os.environ, "PYTHONPATH": folder},
                check=True,
            )


if __name__ == "__main__":
    main()
