"""The package is built as it was drawn, and what reads its source would see if it were not."""

from __future__ import annotations

from pathlib import Path

import pytest

import django_kvsessions
from tests.support.architecture import EXCUSE, complaints

pytestmark = pytest.mark.same

#: A small package in which all is as it is to be.
SOUND = {
    "__init__.py": "",
    "conf.py": "from django.conf import settings\n",
    "colours.py": "",
    "codec.py": "from django_kvsessions.stores.base import Record\n",
    "engine.py": "from django_kvsessions import codec, conf\nfrom django.http import HttpRequest\n",
    "middleware.py": "from django_kvsessions.engine import SessionStore\n",
    "stores/__init__.py": "from django_kvsessions.stores.base import Store\n",
    "stores/base.py": "class Record: ...\nclass Store: ...\n",
    "stores/memory.py": "from django_kvsessions.stores.base import Store\n",
    "stores/layered.py": "from django_kvsessions.stores.memory import MemoryStore\n",
    "stores/abacus/__init__.py": (
        "from django_kvsessions.stores.abacus.store import AbacusStore\n\n"
        '__all__ = ["AbacusStore"]\n'
    ),
    "stores/abacus/store.py": (
        "import threading\n"
        "from typing import TYPE_CHECKING\n"
        "from django.core.exceptions import ImproperlyConfigured\n"
        "from django_kvsessions.stores.base import Store\n"
        "if TYPE_CHECKING:\n"
        "    import beads\n"
        "class AbacusStore(Store):\n"
        "    def __init__(self):\n"
        "        from django_kvsessions.stores.abacus import client\n"
    ),
    # Imported on construction, so that it may be made of its driver.
    "stores/abacus/client.py": "import beads.frames\n",
    "stores/quipu/__init__.py": (
        'from django_kvsessions.stores.quipu.store import QuipuStore\n\n__all__ = ["QuipuStore"]\n'
    ),
    "stores/quipu/store.py": "from django_kvsessions.stores.memory import MemoryStore\n",
}
ABACUS = "stores/abacus/store.py"


def wrong_with(folder: Path) -> list[str]:
    """What is said of the package in ``SOUND``."""
    for name, text in SOUND.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return complaints(folder)


def test_the_package_is_built_as_it_was_drawn() -> None:
    (folder,) = django_kvsessions.__path__
    wrong = complaints(Path(folder))
    assert not wrong, "\n".join(wrong)


def test_nothing_is_said_of_a_sound_package(tmp_path: Path) -> None:
    assert wrong_with(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "added", "said"),
    [
        # One way: what comes later in a request knows nothing of what was before.
        ("engine.py", "import django_kvsessions.middleware", "circle of imports"),
        ("codec.py", "from django_kvsessions.engine import SessionStore", "codec imports engine"),
        ("conf.py", "from django_kvsessions import engine", "circle of imports"),
        ("stores/base.py", "from django_kvsessions import codec", "circle of imports"),
        ("stores/base.py", "from django_kvsessions import engine", "base imports engine"),
        ("colours.py", "from django_kvsessions.stores import layered", None),
        ("stores/base.py", "try:\n    import django_kvsessions.colours\nexcept OSError: ...", None),
        # What a store knows nothing of, also where it is imported late.
        (ABACUS, "from django_kvsessions.engine import SessionStore", "knows nothing"),
        (ABACUS, "def f():\n    from django_kvsessions import codec", "imports django_kvsessions"),
        (ABACUS, "from django_kvsessions import middleware", "knows nothing"),
        (ABACUS, "from django.http import HttpRequest", "imports django.http.HttpRequest"),
        (ABACUS, "import django.contrib.sessions.models", "knows nothing"),
        (ABACUS, "from django_kvsessions.colours import run", None),
        # No store knows another one; what two share is a room of its own.
        (ABACUS, "from django_kvsessions.stores.quipu.store import QuipuStore", "another store"),
        (ABACUS, "from django_kvsessions.stores.quipu import QuipuStore", "another store"),
        ("stores/layered.py", "import django_kvsessions.stores.abacus", "another store"),
        (ABACUS, "from django_kvsessions.stores.memory import MemoryStore", None),
        # Drivers are imported on construction.
        (ABACUS, "import beads", "imports beads before it is used"),
        (ABACUS, "try:\n    import beads\nexcept ImportError:\n    beads = None", "imports beads"),
        (ABACUS, "from django_kvsessions.stores.abacus import client", "imports beads"),
        (ABACUS, "class Late:\n    import beads", "imports beads"),
        (ABACUS, "def f():\n    import beads", None),
        # A store's package exports its class, and nothing else.
        ("stores/abacus/__init__.py", '__all__ = ["AbacusStore", "run"]', "not one class alone"),
        # Modules are short, or say why not.
        (ABACUS, "x = 1\n" * 300, "has 310 lines"),
        (ABACUS, "x = 1\n" * 300 + EXCUSE + "it counts to three hundred.\n", None),
    ],
)
def test_what_is_built_otherwise_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, added: str, said: str | None
) -> None:
    monkeypatch.setitem(SOUND, name, SOUND[name] + added + "\n")
    wrong = wrong_with(tmp_path)
    if said is None:
        assert wrong == []
    else:
        assert any(said in line for line in wrong), wrong


@pytest.mark.parametrize(("rooms", "is_seen"), [(11, False), (12, True)])
def test_a_seventeenth_room_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rooms: int, is_seen: bool
) -> None:
    # Beside the five of the sound package.
    for number in range(rooms):
        monkeypatch.setitem(SOUND, f"stores/room{number}.py", "")
    assert any("17 rooms" in line for line in wrong_with(tmp_path)) == is_seen
