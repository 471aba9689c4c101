"""A start of the machine, as a process sees it."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from importlib import import_module

__all__ = ["start_again"]

#: What tells stores of this package which start of the machine this is.
_MODULE, _NAME = "django_kvsessions.stores.process.boot", "boot_identity"


def start_again() -> None:
    """Let this process see another start of the machine than the one before.

    What is believed only until the machine starts again is not believed after a power cut.
    """
    with suppress(ModuleNotFoundError):
        import_module(_MODULE)
    identity = os.urandom(16)
    for module in list(sys.modules.values()):
        if _NAME in getattr(module, "__dict__", ()):
            setattr(module, _NAME, lambda: identity)
