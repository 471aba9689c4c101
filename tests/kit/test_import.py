"""What importing the kit needs, and says where it is missing."""

from __future__ import annotations

import subprocess
import sys

import pytest


def output_of(program: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("missing", ["pytest", "freezegun"])
def test_the_kit_says_what_to_install(missing: str) -> None:
    said = output_of(f"""
import sys
sys.modules[{missing!r}] = None
try:
    import django_kvsessions.testing
except ImportError as error:
    print(error.name, error)
""")
    assert said.startswith(f"{missing} ")
    assert missing in said
    assert "pip install django-kvsessions[testing]" in said


def test_processes_that_tests_start_load_no_pytest() -> None:
    said = output_of("""
import sys
import django_kvsessions.testing.writers, django_kvsessions.testing.workers
print(sorted({"pytest", "_pytest", "freezegun"} & sys.modules.keys()))
""")
    assert said.strip() == "[]"


def test_every_name_of_the_kit_is_there() -> None:
    import django_kvsessions.testing

    for name in django_kvsessions.testing.__all__:
        assert getattr(django_kvsessions.testing, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        getattr(django_kvsessions.testing, "no_such_" + "name")
