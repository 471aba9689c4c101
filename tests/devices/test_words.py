"""How long ago, in words and in every language that the package speaks."""

from __future__ import annotations

import ast
import re
from datetime import datetime, timedelta, timezone
from gettext import GNUTranslations
from pathlib import Path
from typing import NamedTuple

import pytest
from django.utils import translation

import django_kvsessions
from django_kvsessions.devices.words import ago

pytestmark = pytest.mark.same

PACKAGE = Path(django_kvsessions.__file__).parent
LANGUAGES = ["de", "es", "fr", "ja"]
NOW = datetime(2026, 11, 21, 12, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("before", "words"),
    [
        (timedelta(seconds=-5), "just now"),
        (timedelta(seconds=59), "just now"),
        (timedelta(seconds=60), "1 minute ago"),
        (timedelta(minutes=59, seconds=59), "59 minutes ago"),
        (timedelta(hours=1), "1 hour ago"),
        (timedelta(hours=23, minutes=59), "23 hours ago"),
        (timedelta(days=1), "1 day ago"),
        (timedelta(days=29), "29 days ago"),
        (timedelta(days=30), "Oct. 22, 2026"),
    ],
)
def test_a_moment_is_told_in_the_largest_unit_that_fits(before: timedelta, words: str) -> None:
    assert ago(NOW - before, NOW) == words


def test_naive_moments_of_a_site_without_time_zones_are_told_too() -> None:
    assert ago(datetime(2026, 11, 21, 10), datetime(2026, 11, 21, 12)) == "2 hours ago"


@pytest.mark.parametrize(
    ("language", "one", "two"),
    [
        ("de", "vor 1 Tag", "vor 2 Tagen"),
        ("es", "hace 1 día", "hace 2 días"),
        ("fr", "il y a 1 jour", "il y a 2 jours"),
        ("ja", "1 日前", "2 日前"),
    ],
)
def test_other_languages_decline_their_days(language: str, one: str, two: str) -> None:
    with translation.override(language):
        assert [ago(NOW - timedelta(days=days), NOW) for days in (1, 2)] == [one, two]


# A catalogue has what the sources have, translated, and is compiled.

Message = tuple[str | None, str]
TAG = re.compile(r'{% translate "([^"]+)"(?: context "([^"]+)")? %}')
FIELD = re.compile(r"%\(\w+\)[sd]|%s")
BLOCK = re.compile(
    r"{% blocktranslate[^%]*%}(.*?)(?:{% plural %}(.*?))?{% endblocktranslate %}", re.DOTALL
)


def said_in_templates() -> set[Message]:
    said: set[Message] = set()
    for path in (PACKAGE / "templates").rglob("*.html"):
        text = path.read_text()
        said |= {(context or None, message) for message, context in TAG.findall(text)}
        for found in BLOCK.findall(text):
            said |= {(None, re.sub(r"{{ (\w+) }}", r"%(\1)s", form)) for form in found if form}
    return said


def said_in_code() -> set[Message]:
    said: set[Message] = set()
    for path in [PACKAGE / "models.py", *(PACKAGE / "devices").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and "gettext" in ast.unparse(node.func):
                texts = [str(each.value) for each in node.args if isinstance(each, ast.Constant)]
                context = texts.pop(0) if "pgettext" in ast.unparse(node.func) else None
                said |= {(context, text) for text in texts}
    return said


class Entry(NamedTuple):
    context: str | None
    message: str
    plural: str | None
    translated: list[str]


def entries(path: Path) -> list[Entry]:
    """What a .po file has."""
    found = []
    for text in path.read_text().split("\n\n")[1:]:
        fields = [
            (name, ast.literal_eval(quoted))
            for name, quoted in re.findall(r'^(msg\w+)(?:\[\d\])? (".*")$', text, re.MULTILINE)
        ]
        translated = [words for name, words in fields if name == "msgstr"]
        named = dict(fields)
        plural = named.get("msgid_plural")
        found.append(Entry(named.get("msgctxt"), named["msgid"], plural, translated))
    return found


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_is_translated_and_the_catalogue_compiled(language: str) -> None:
    folder = PACKAGE / "locale" / language / "LC_MESSAGES"
    source = entries(folder / "django.po")
    messages = {(entry.context, entry.message) for entry in source}
    plurals = {(entry.context, entry.plural) for entry in source if entry.plural}
    assert messages | plurals == said_in_templates() | said_in_code()
    with (folder / "django.mo").open("rb") as file:
        compiled = GNUTranslations(file)
    for context, message, plural, translated in source:
        assert all(translated), message
        if plural:
            assert len(translated) == (1 if language == "ja" else 2)
            assert compiled.ngettext(message, plural, 1) == translated[0]
            assert compiled.ngettext(message, plural, 7) == translated[-1]
        elif context:
            assert [compiled.pgettext(context, message)] == translated
        else:
            assert [compiled.gettext(message)] == translated
        # What is put in stays what it was.
        for words in translated:
            assert set(FIELD.findall(words)) <= set(FIELD.findall(plural or message)), message


def test_a_site_keeps_its_own_words() -> None:
    """The catalogues of all apps are one: a short word is not translated for the whole site."""
    for path in (PACKAGE / "locale").rglob("*.po"):
        for context, message, _, _ in entries(path):
            assert context == "sessions" or len(message.split()) > 1, message
