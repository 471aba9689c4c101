"""clearsessions, setupsessions, sessionstats, and the set-up after migrate."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.sessions.backends.db import SessionStore as DatabaseSession
from django.contrib.sessions.models import Session
from django.core.management import CommandError, call_command, get_commands
from django.core.management.sql import emit_post_migrate_signal
from django.utils import timezone
from freezegun import freeze_time
from pytest_django.fixtures import Settings as DjangoSettings

from django_kvsessions.engine import SessionStore
from django_kvsessions.management.base import StopSignals
from django_kvsessions.stores import stores
from django_kvsessions.stores.base import Record, Store
from django_kvsessions.stores.memory import MemoryStore
from tests.support import odd_stores
from tests.support.odd_stores import BuggyStore, DownStore, EndlessStore, FlakyStore, RecordingStore

ROOT = Path(__file__).parent.parent


def configure(settings: DjangoSettings, **backends: Any) -> None:
    settings.SESSION_STORES = {
        alias: {"BACKEND": f"{backend.__module__}.{backend.__name__}"}
        if isinstance(backend, type)
        else backend
        for alias, backend in backends.items()
    }


def fill(store: Store, *, live: int = 0, expired: int = 0) -> None:
    for number in range(live + expired):
        expires = time.time() + (100 if number < live else -100)
        store.create(number.to_bytes(32, "big"), Record(b"data", expires, 1))


def run(*command: Any, **options: Any) -> str:
    out = io.StringIO()
    call_command(*command, stdout=out, **options)
    return out.getvalue()


def recording(alias: str) -> RecordingStore:
    store = stores[alias]
    assert isinstance(store, RecordingStore)
    return store


def last_line(output: str) -> str:
    return output.rstrip("\n").rpartition("\n")[2]


# clearsessions


def test_the_command_overrides_djangos() -> None:
    assert get_commands()["clearsessions"] == "django_kvsessions"


def test_what_the_engine_saved_is_removed_when_it_has_expired() -> None:
    with freeze_time() as time_machine:
        session = SessionStore()
        session["a"] = 1
        session.save()
        time_machine.tick(timedelta(days=7))
        fresh = SessionStore()
        fresh.save()
        time_machine.tick(timedelta(days=8))
        assert "Would remove 1 expired session from 'default'." in run("clearsessions", "--dry-run")
        assert stores["default"].stats()[:2] == (1, 1)
        assert run("clearsessions", "--store=default") == (
            "Removed 1 expired session from 'default' in 0.00 s.\n"
        )
        assert stores["default"].stats()[:2] == (1, 0)
        assert fresh.exists(fresh.session_key)


def test_every_store_is_cleared_unless_one_is_named(settings: DjangoSettings) -> None:
    configure(settings, default=MemoryStore, other=MemoryStore)
    for alias in stores:
        fill(stores[alias], live=2, expired=1234)
    output = run("clearsessions", store="other")
    assert re.fullmatch(r"Removed 1,234 expired sessions from 'other' in \d+\.\d\d s\.\n", output)
    assert stores["default"].stats().expired == 1234
    output = run("clearsessions")
    assert "Removed 1,234 expired sessions from 'default'" in output
    assert "Removed 0 expired sessions from 'other'" in output
    assert [stores[alias].stats()[:2] for alias in stores] == [(2, 0), (2, 0)]


def test_the_batch_size_reaches_the_store(settings: DjangoSettings) -> None:
    configure(settings, default=RecordingStore)
    run("clearsessions")
    run("clearsessions", "--batch-size=7")
    assert recording("default").batch_sizes == [1000, 7]


@pytest.mark.parametrize(
    "wrong",
    [
        ["--batch-size=0"],
        ["--every=0"],
        ["--every=-1"],
        ["--every=nan"],
        ["--every=inf"],
        ["--every=1e18"],
        ["--every=5", "--dry-run"],
    ],
)
def test_wrong_options_are_refused_by_name(wrong: list[str]) -> None:
    with pytest.raises(CommandError, match=wrong[0].partition("=")[0]):
        run("clearsessions", *wrong)


def test_a_dry_run_removes_nothing(settings: DjangoSettings) -> None:
    configure(settings, default=MemoryStore, silent=RecordingStore)
    fill(stores["default"], live=1, expired=5)
    assert run("clearsessions", dry_run=True) == (
        "Would remove 5 expired sessions from 'default'.\n"
        "'silent' cannot tell how many sessions have expired.\n"
    )
    assert stores["default"].stats()[:2] == (1, 5)
    assert recording("silent").batch_sizes == []


def test_an_unknown_store_is_named_with_those_there_are() -> None:
    with pytest.raises(CommandError, match=r"no alias 'nope'; it has 'default', 'memory'"):
        run("clearsessions", store="nope")


def test_an_outage_of_one_store_is_an_error_and_the_others_are_cleared(
    settings: DjangoSettings,
) -> None:
    configure(settings, default=DownStore, other=MemoryStore)
    fill(stores["other"], expired=2)
    with pytest.raises(CommandError, match="'default': the server is away"):
        run("clearsessions")
    assert stores["other"].stats().expired == 0


def test_a_store_that_is_away_is_not_said_to_have_had_nothing_to_remove(
    settings: DjangoSettings,
) -> None:
    configure(settings, default=DownStore)
    out = io.StringIO()
    with pytest.raises(CommandError, match="'default': the server is away"):
        call_command("clearsessions", stdout=out, verbosity=2)
    assert out.getvalue() == ""


def test_an_error_that_a_store_does_not_declare_keeps_no_other_store_from_its_clean_up(
    settings: DjangoSettings, caplog: pytest.LogCaptureFixture
) -> None:
    configure(settings, default=BuggyStore, other=MemoryStore)
    fill(stores["other"], expired=2)
    with pytest.raises(CommandError, match="'default': ConnectionResetError: the driver's own"):
        run("clearsessions")
    assert stores["other"].stats().expired == 0
    # For whoever mends the store.
    assert "clearsessions failed on 'default'" in caplog.text
    assert "Traceback" in caplog.text


def test_what_was_removed_before_a_failure_is_told(settings: DjangoSettings) -> None:
    configure(settings, default=FlakyStore)
    out = io.StringIO()
    with pytest.raises(CommandError, match="the server restarts"):
        call_command("clearsessions", stdout=out)
    assert "Removed 3 expired sessions from 'default'" in out.getvalue()


def test_another_engine_is_cleared_as_djangos_command_does(
    settings: DjangoSettings, db: None
) -> None:
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.db"
    for days in (-1, 1):
        session = DatabaseSession()
        session.set_expiry(timezone.now() + timedelta(days=days))
        session.save()
    with pytest.raises(CommandError, match="SESSION_ENGINE"):
        run("clearsessions", dry_run=True)
    assert Session.objects.count() == 2
    assert "Cleared 'django.contrib.sessions.backends.db' in " in run("clearsessions")
    assert Session.objects.count() == 1


def test_a_store_is_cleared_by_name_under_another_engine(settings: DjangoSettings) -> None:
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
    fill(stores["memory"], expired=1)
    assert "Removed 1 expired session from 'memory'" in run("clearsessions", store="memory")


def test_a_long_clean_up_reports_every_ten_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with freeze_time() as time_machine:

        def batches(self: MemoryStore, *, batch_size: int = 1000) -> Iterator[int]:
            for _ in range(6):
                time_machine.tick(4)
                yield 1000

        monkeypatch.setattr(MemoryStore, "delete_expired", batches)
        assert run("clearsessions", store="memory") == (
            "3,000 removed from 'memory' so far.\n"
            "6,000 removed from 'memory' so far.\n"
            "Removed 6,000 expired sessions from 'memory' in 24.00 s.\n"
        )
        assert run("clearsessions", store="memory", verbosity=2).count("so far") == 6
        assert run("clearsessions", store="memory", verbosity=0) == ""


# clearsessions as a process of its own

StartCommand = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[StartCommand]:
    """Starts ``manage.py clearsessions`` on the stores given."""
    processes: list[tuple[subprocess.Popen[str], threading.Timer]] = []

    def start(stores: dict[str, Any], *arguments: str, **options: Any) -> subprocess.Popen[str]:
        (tmp_path / "own_settings.py").write_text(
            "SECRET_KEY = 'a secret key for the tests'\n"
            "INSTALLED_APPS = ['django_kvsessions', 'django.contrib.sessions']\n"
            "SESSION_ENGINE = 'django_kvsessions.engine'\n"
            f"SESSION_STORES = {stores!r}\n"
            # Sessions in memory are enough here.
            "SILENCED_SYSTEM_CHECKS = ['kvsessions.W002']\n"
        )
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
        process = subprocess.Popen(
            [sys.executable, "-m", "django", "clearsessions", *arguments],
            cwd=ROOT,
            env={
                # Output to a pipe waits in a buffer, as it would under systemd.
                **{name: os.environ[name] for name in os.environ if name != "PYTHONUNBUFFERED"},
                "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]),
                "DJANGO_SETTINGS_MODULE": "own_settings",
            },
            **options,
        )
        # Whoever waits for its output must not wait for ever.
        limit = threading.Timer(60, process.kill)
        limit.start()
        processes.append((process, limit))
        return process

    yield start
    for process, limit in processes:
        limit.cancel()
        process.kill()
        process.communicate()


def backend(store: type[Store], **options: Any) -> dict[str, Any]:
    return {"default": {"BACKEND": f"{store.__module__}.{store.__name__}", "OPTIONS": options}}


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not happen within a minute"
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_pause_at_once_and_cleanly(
    start: StartCommand, number: signal.Signals
) -> None:
    process = start(backend(FlakyStore), "--every=0.1", stderr=subprocess.STDOUT)
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        # Its second clean-up, after the one that failed.
        if sum(line.startswith("Removed") for line in lines) == 2:
            break
    process.send_signal(number)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    output = "".join(lines) + rest
    assert "clearsessions failed on 'default' and will try again" in output
    assert "Traceback" in output
    assert "StoreUnavailable: the server restarts" in output
    assert re.fullmatch(
        r"Stopped\. Removed \d+ expired sessions in \d+\.\d\d s\.", last_line(output)
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_long_pause_does_not_delay_the_end(start: StartCommand, number: signal.Signals) -> None:
    process = start(backend(RecordingStore), "--every=86400", "--verbosity=2")
    assert process.stdout is not None
    assert process.stdout.readline().startswith("Removed 0 ")
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert output.startswith("Stopped. Removed 0 expired sessions in ")


def test_a_signal_that_comes_when_a_pause_begins_ends_it() -> None:
    rounds, both = 2000, threading.Barrier(2)
    main = threading.main_thread().ident
    assert main == threading.get_ident()

    def send() -> None:
        for turn in range(rounds):
            both.wait()
            for _ in range(turn % 400):
                pass
            signal.pthread_kill(main, signal.SIGTERM)

    signals = StopSignals()
    sender = threading.Thread(target=send, daemon=True)
    with signals:
        sender.start()
        for _ in range(rounds):
            signals.received = False
            both.wait()
            assert signals.wait(20)
        sender.join()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_batch_under_way_end(
    start: StartCommand, number: signal.Signals, tmp_path: Path
) -> None:
    marks = tmp_path / "marks"
    marks.touch()
    process = start(backend(EndlessStore, marks=str(marks)), "--every=86400")
    wait_for(marks.read_text)
    process.send_signal(number)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    written = marks.read_text().split()
    assert written == ["begun", "done"] * (len(written) // 2)
    assert last_line(output).startswith(f"Stopped. Removed {written.count('done')} expired session")


def test_an_outage_exits_with_1_and_the_message(start: StartCommand) -> None:
    process = start(backend(DownStore))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors == "CommandError: 'default': the server is away\n"


def test_wrong_settings_are_told_before_anything_runs(start: StartCommand) -> None:
    process = start(backend(EndlessStore, colour="red"))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "(kvsessions.E003)" in errors
    assert "'colour'" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"BACKEND": "no.such.Store"}, "(kvsessions.E002) SESSION_STORES['wrong']['BACKEND']"),
        ({"OPTIONS": {"colour": "red"}}, "(kvsessions.E003) SESSION_STORES['wrong']['OPTIONS']"),
        ({"LOCATION": __file__}, "(kvsessions.E005) SESSION_STORES['wrong']['LOCATION']"),
        ({"PLACE": "here"}, "(kvsessions.E001) SESSION_STORES['wrong'] has 'PLACE'"),
    ],
)
def test_an_alias_that_is_configured_wrongly_is_named_after_the_others_were_cleared(
    start: StartCommand, filled: dict[str, Any], wrong: dict[str, Any], told: str, tmp_path: Path
) -> None:
    process = start({"wrong": {"LOCATION": str(tmp_path / "wrong"), **wrong}, **filled})
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert output.startswith("Removed 2,500 expired sessions from 'default' in ")
    assert told in errors
    assert "Traceback" not in errors
    assert stores["default"].stats()[:2] == (2, 0)


def test_an_alias_that_is_configured_wrongly_ends_no_repeated_clean_up(
    start: StartCommand,
) -> None:
    configured = {"wrong": {"BACKEND": "no.such.Store"}, **backend(FlakyStore)}
    process = start(configured, "--every=0.1", stderr=subprocess.STDOUT)
    assert process.stdout is not None
    removals = (line for line in process.stdout if line.startswith("Removed"))
    assert [next(removals).split()[1] for _ in range(3)] == ["3", "3", "3"]
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert last_line(rest).startswith("Stopped. Removed ")


SEMIDBM = "django_kvsessions.stores.semidbm.SemidbmStore"


@pytest.fixture
def filled(settings: DjangoSettings, tmp_path: Path) -> dict[str, Any]:
    """The settings of a store that another process finds filled."""
    configured = {"default": {"BACKEND": SEMIDBM, "LOCATION": str(tmp_path / "sessions")}}
    settings.SESSION_STORES = configured
    fill(stores["default"], live=2, expired=2500)
    return configured


def test_plain_lines_where_there_is_no_terminal(
    start: StartCommand, filled: dict[str, Any]
) -> None:
    output, errors = start(filled, "--batch-size=1000").communicate(timeout=60)
    assert errors == ""
    assert re.fullmatch(r"Removed 2,500 expired sessions from 'default' in \d\.\d\d s\.\n", output)
    assert stores["default"].stats()[:2] == (2, 0)


def test_a_progress_bar_on_a_terminal(start: StartCommand, filled: dict[str, Any]) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    try:
        process = start(
            filled, "--batch-size=1000", "--no-color", stdout=theirs, stderr=theirs, text=False
        )
        os.close(theirs)
        shown = read_terminal(ours)
        assert process.wait(timeout=60) == 0
    finally:
        os.close(ours)
    assert re.search(r"default: +\d+%\|.*/2500 \[", shown)
    assert re.search(r"Removed 2,500 expired sessions from 'default' in \d\.\d\d s\.\s*$", shown)


def read_terminal(descriptor: int) -> str:
    shown = b""
    while select.select([descriptor], [], [], 60)[0]:
        try:
            more = os.read(descriptor, 65536)
        except OSError:  # Linux's way to say that the other side is closed.
            break
        if not more:
            break
        shown += more
    return shown.decode()


# setupsessions


def test_set_up_may_be_run_again_and_again(settings: DjangoSettings) -> None:
    configure(settings, default=RecordingStore, other=RecordingStore)
    expected = "Set up 'default' (RecordingStore).\nSet up 'other' (RecordingStore).\n"
    assert run("setupsessions", stderr=io.StringIO()) == expected
    assert run("setupsessions", stderr=io.StringIO()) == expected
    run("setupsessions", store="other", stderr=io.StringIO())
    assert [recording(alias).setups for alias in stores] == [2, 3]


def test_set_up_says_what_is_wrong_with_the_server(settings: DjangoSettings) -> None:
    configure(settings, default=RecordingStore)
    errors = io.StringIO()
    run("setupsessions", stderr=errors)
    assert "(kvsessions.W999) The server of default may evict." in errors.getvalue()


def test_a_dry_run_of_the_set_up_prints_statements_and_runs_none(
    settings: DjangoSettings,
) -> None:
    configure(settings, default=RecordingStore, memory=MemoryStore)
    assert run("setupsessions", dry_run=True) == (
        "-- 'default'\n"
        "CREATE TABLE sessions (key);\n"
        "CREATE INDEX i;\n"
        "-- 'memory': MemoryStore has no statements to show.\n"
    )
    run("setupsessions", stderr=io.StringIO())
    assert (
        run("setupsessions", "--dry-run", store="default") == "-- 'default': nothing is missing.\n"
    )


def test_an_outage_of_one_store_does_not_keep_the_set_up_from_others(
    settings: DjangoSettings,
) -> None:
    configure(settings, default=DownStore, other=RecordingStore)
    with pytest.raises(CommandError, match="'default': the server is away"):
        run("setupsessions", stderr=io.StringIO())
    assert recording("other").setups == 1


def test_migrate_sets_up_the_stores_on_that_database_alone(
    settings: DjangoSettings, db: None
) -> None:
    configure(
        settings,
        here={"BACKEND": f"{odd_stores.__name__}.RecordingStore", "LOCATION": "default"},
        elsewhere={"BACKEND": f"{odd_stores.__name__}.RecordingStore", "LOCATION": "replica"},
        wrong={"BACKEND": f"{odd_stores.__name__}.NoSuchStore"},
        memory=MemoryStore,
    )
    emit_post_migrate_signal(verbosity=0, interactive=False, db="default")
    assert recording("here").setups == 1
    assert recording("elsewhere").setups == 0


# sessionstats


def test_figures_are_a_table(settings: DjangoSettings) -> None:
    configure(settings, default=MemoryStore, big=RecordingStore)
    fill(stores["default"], live=1200, expired=3)
    stores["default"].load(bytes(32))
    lines = run("sessionstats").splitlines()
    assert [line.split() for line in lines] == [
        ["store", "backend", "live", "expired", "size", "hits", "misses"],
        ["default", "MemoryStore", "1,200", "3", *lines[1].split()[4:6], "1", "0"],
        ["big", "RecordingStore", "-", "-", "2.4", "MB", "-", "-"],
    ]
    # Aligned: numbers end where their heading does.
    assert len({len(line) for line in lines}) == 1
    assert lines[1][lines[0].index("live") + 3] == "0"


def test_figures_are_json_for_machines(settings: DjangoSettings) -> None:
    configure(settings, default=MemoryStore, big=RecordingStore)
    fill(stores["default"], live=2, expired=3)
    figures = json.loads(run("sessionstats", json=True))
    assert list(figures) == ["default", "big"]
    assert figures["default"]["backend"] == "MemoryStore"
    assert (figures["default"]["live"], figures["default"]["expired"]) == (2, 3)
    assert figures["big"]["size"] == 2_500_000
    assert figures["big"]["live"] is None
    assert list(json.loads(run("sessionstats", "--json", "--store=big"))) == ["big"]


@pytest.mark.parametrize("as_json", [True, False])
def test_figures_of_the_other_stores_are_shown_when_one_is_away(
    settings: DjangoSettings, as_json: bool
) -> None:
    configure(settings, gone=DownStore, there=MemoryStore)
    out = io.StringIO()
    with pytest.raises(CommandError, match="'gone': the server is away"):
        call_command("sessionstats", json=as_json, stdout=out)
    assert "there" in out.getvalue()
    assert "MemoryStore" in out.getvalue()
