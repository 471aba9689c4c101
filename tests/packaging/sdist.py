"""The source distribution has every file, and its tests run there."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: Enough to see that each part of the tests finds what it needs.
TESTS = ["tests/test_conf.py", "tests/test_commands.py", "tests/kit/test_import.py"]
TESTS += ["tests/packaging/test_habits.py", "tests/packaging/test_registry.py"]
TESTS += ["tests/stores/test_memory.py", "tests/docs/test_names.py"]
BUILD = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"


def main() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-c", BUILD, folder], cwd=ROOT, check=True)
        (archive,) = Path(folder).glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        unpacked = archive.with_name(archive.name.removesuffix(".tar.gz"))
        missing = [name for name in listed if not (unpacked / name).exists()]
        assert not missing, f"The source distribution lacks {', '.join(missing)}."
        # The package that is tested is the unpacked one: pytest puts its folder first.
        pytest = [sys.executable, "-m", "pytest", "-q", *TESTS]
        environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        subprocess.run(pytest, cwd=unpacked, env=environ, check=True)


if __name__ == "__main__":
    main()
