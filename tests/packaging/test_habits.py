"""What several files say of one thing is the same, and holds for every file."""

from __future__ import annotations

import re
from configparser import ConfigParser
from pathlib import Path

import pytest

from django_kvsessions import __version__

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("benchmarks", "django_kvsessions", "docs", "testproject", "tests", "testservers")
# Not setup.cfg, which setuptools writes anew for an sdist.
TEXTS = {".css", ".html", ".ini", ".json", ".md", ".py", ".toml", ".yaml"}


def ini(name: str) -> ConfigParser:
    parser = ConfigParser(interpolation=None)
    parser.read_string("[top]\n" + (ROOT / name).read_text())
    return parser


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def test_pre_commit_runs_what_tox_lint_runs_by_the_same_version() -> None:
    lint = ini("tox.ini")["testenv:lint"]
    config = (ROOT / ".pre-commit-config.yaml").read_text()
    assert re.findall(r"^ +entry: (.+)$", config, re.MULTILINE) == lines(lint["commands"])
    versions = re.findall(r"^ +additional_dependencies: \[(.+)\]$", config, re.MULTILINE)
    assert len(versions) == config.count("- id:")
    for version in versions:
        assert re.fullmatch(r"ruff==\d+\.\d+\.\d+", version)
        assert [version] == lines(lint["deps"])
    # On the whole tree, as tox does; and from no repository, whose tags may move.
    for line in ("language: python", "always_run: true", "pass_filenames: false"):
        assert config.count(line) == len(versions)
    assert re.findall(r"- repo: (\S+)", config) == ["local"]


def supported() -> tuple[set[str], set[str]]:
    """The Pythons and the Djangos of the classifiers."""
    classifiers = ini("setup.cfg")["metadata"]["classifiers"]
    pythons = set(
        re.findall(r"Programming Language :: Python :: (\d\.\d+)$", classifiers, re.MULTILINE)
    )
    return pythons, set(re.findall(r"Framework :: Django :: (\d\.\d+)$", classifiers, re.MULTILINE))


def test_what_the_classifiers_promise_is_what_tox_tests() -> None:
    pythons, djangos = set(), set()
    for line in lines(ini("tox.ini")["tox"]["env_list"]):
        if found := re.fullmatch(r"py(\d)(\d+)-django\{?([\d,]+)\}?", line):
            pythons.add(f"{found[1]}.{found[2]}")
            djangos |= {f"{version[0]}.{version[1]}" for version in found[3].split(",")}
    assert (pythons, djangos) == supported()


def test_the_readme_and_the_changelog_name_the_supported_versions() -> None:
    pythons, djangos = (
        sorted(versions, key=lambda version: tuple(map(int, version.split("."))))
        for versions in supported()
    )
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert f"needs Python {pythons[0]} and Django {djangos[0]} or newer" in readme
    tested = f"Python {pythons[0]} to {pythons[-1]} with Django "
    assert f"{tested}{', '.join(djangos[:-1])} and {djangos[-1]}" in readme
    changelog = " ".join((ROOT / "CHANGELOG.md").read_text().split())
    assert f"Django {djangos[0]} to {djangos[-1]} and Python {pythons[0]} to {pythons[-1]}" in (
        changelog
    )
    options = ini("setup.cfg")["options"]
    # No upper bound: it would only keep people from trying.
    assert options["python_requires"] == f">={pythons[0]}"
    assert f"Django>={djangos[0]}" in lines(options["install_requires"])


def test_the_changelog_begins_with_this_version_and_its_date() -> None:
    versions = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    # What comes with the next one may stand above.
    first = next(version for version in versions if version != "[Unreleased]")
    assert re.fullmatch(rf"{re.escape(__version__)} - 20\d\d-\d\d-\d\d", first)


@pytest.mark.parametrize("extra", list(ini("setup.cfg")["options.extras_require"]))
def test_every_extra_is_asked_for_by_the_part_that_needs_it(extra: str) -> None:
    package = ROOT / "django_kvsessions"
    # In so many words, or by the function that says them for every store.
    wanted = f"pip install django-kvsessions[{extra}]", f'driver("{extra}", '
    texts = [path.read_text() for path in package.rglob("*.py")]
    assert any(words in text for words in wanted for text in texts), extra


def test_every_file_is_as_the_editor_configuration_says() -> None:
    config = ini(".editorconfig")
    assert config["*"]["end_of_line"] == "lf"
    assert config["*"]["charset"] == "utf-8"
    width = re.search(r"^line-length = (\d+)$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert width
    assert config["*.{py,pyi}"]["max_line_length"] == width[1]
    files = [path for path in ROOT.iterdir() if path.is_file()]
    files += [path for part in PARTS for path in (ROOT / part).rglob("*")]
    files = [path for path in files if path.suffix in TEXTS]
    assert len(files) > 100
    for path in files:
        text = path.read_bytes().decode()
        assert "\r" not in text, path
        assert not text or text.endswith("\n"), path
        assert not re.search(r"[ \t]$", text, re.MULTILINE), path
        assert not re.search(r"^ *\t", text, re.MULTILINE), path
