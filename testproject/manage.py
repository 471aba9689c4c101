#!/usr/bin/env python
"""Django's command line for the test site."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main() -> None:
    # Runs from a clone as well, where the package is not installed.
    sys.path.append(str(Path(__file__).resolve().parent.parent))
    # Not setdefault: the tests, which call this, have settings of their own in there.
    os.environ["DJANGO_SETTINGS_MODULE"] = "website.settings"
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
