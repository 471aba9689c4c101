"""The benchmarks run, measure what they say, and judge honestly."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from benchmarks import figures
from benchmarks.__main__ import COMMANDS, main
from benchmarks.arena import ROOT, Population, environment
from benchmarks.compare import ratio
from benchmarks.contenders import CONTENDERS, LMDB, OPERATIONS, OURS, Place
from benchmarks.engines import DEFAULT, Engines
from benchmarks.http import Races
from benchmarks.report import Target
from benchmarks.sample import session_data, session_key
from tests.support.servers import missing
from testservers import Missing
from testservers.redis import redis_binary

TINY = ["--sizes=100", "--rounds=1", "--batch=20"]
LIMIT = 120  # seconds, against hangs


def benchmark(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )


class Run(NamedTuple):
    results: dict[str, Any]
    output: str
    folder: Path


def tiny_run(folder: Path, *arguments: str, **environment: str) -> Run:
    run = benchmark(
        *arguments, f"--folder={folder}", f"--json={folder / 'results.json'}", **environment
    )
    assert run.returncode == 0, run.stderr
    return Run(json.loads((folder / "results.json").read_text()), run.stdout, folder)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One run that has every part."""
    folder = tmp_path_factory.mktemp("benchmark")
    return tiny_run(
        folder,
        "engines",
        *TINY,
        "--clear-rounds=1",
        f"--engines={OURS},cache-locmem,db-sqlite",
        "--skip=db-sqlite@100",
        f"--figures={folder / 'figures.json'}",
    )


def test_every_sub_command_says_in_a_line_what_it_is_for() -> None:
    run = benchmark("--help")
    assert run.returncode == 0, run.stderr
    text = " ".join(run.stdout.split())
    for name, command in COMMANDS.items():
        assert f"{name} {(command.__doc__ or '').splitlines()[0]}" in text


def test_json_has_every_part(engines: Run) -> None:
    results = engines.results
    for part in ("operations", "clear_few", "clear_all", "footprint", "machine", "options"):
        assert results[part], part
    measured = results["operations"]["100"]
    assert set(measured[OURS]) == set(measured["cache-locmem"])
    assert set(measured[OURS]) == {*OPERATIONS, "added"} - {"aload", "asave"}
    for row in measured.values():
        (added,) = row.pop("added")
        assert added == row["read"][0] - row["plain"][0]
        assert all(len(spent) == 1 and spent[0] > 0 for spent in row.values())


def test_what_is_left_out_is_said(engines: Run) -> None:
    assert "db-sqlite" not in engines.results["operations"]["100"]
    assert "Left out: db-sqlite@100" in engines.output


def test_output_ends_with_every_target(engines: Run) -> None:
    _, table = engines.output.split("Targets\n")
    for target in Engines.targets:
        assert target.what in table
    assert "not measured" in table  # nothing is claimed of 100,000 sessions
    assert "NO" not in table


def test_nothing_is_left_behind(engines: Run) -> None:
    left = {path.name for path in engines.folder.iterdir()}
    assert left == {"results.json", "figures.json"}


def test_engine_whose_server_is_missing_is_left_out_and_named(tmp_path: Path) -> None:
    binaries = tmp_path / "bin"
    binaries.mkdir()
    run = tiny_run(tmp_path, "redis", *TINY, PATH=str(binaries))
    assert run.results["operations"] == {}
    assert "Left out: kvsessions-redis: redis-server is not installed: apt-get" in run.output


def test_all_sessions_are_moved_out_of_each_engine(tmp_path: Path) -> None:
    arguments = ["--sessions=50", "--rounds=1", "--processes=1,2"]
    run = tiny_run(tmp_path, "moving", *arguments, "--engines=file,db-sqlite-wal")
    for part in ("moved", "megabytes"):
        rows = run.results[part]
        assert rows.keys() == {"file", "db-sqlite-wal"}
        for row in rows.values():
            assert row.keys() == {"1", "2"}
            assert all(len(figures) == 1 and figures[0] > 0 for figures in row.values())
    assert "Sessions a second, 50 sessions" in run.output


def test_stopped_run_says_so_and_cleans_up(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "engines", "--engines=file", "--sizes=1000"]
    command += ["--batch=20", f"--folder={tmp_path}"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as run:
        wait_until(lambda: any(tmp_path.glob("*/file-1000/files/*")))
        run.terminate()
        output, _ = run.communicate(timeout=LIMIT)
    assert run.returncode == 130
    assert "when the run was stopped" in output
    assert not any(tmp_path.iterdir())


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# The figures of the documentation and the README


def test_figures_are_the_least_median_and_greatest_of_the_run(engines: Run) -> None:
    found = json.loads((engines.folder / "figures.json").read_text())
    (load,) = engines.results["operations"]["100"][OURS]["load"]
    assert found["sessions"] == 100
    assert found["engines"][OURS]["load"] == [round(load, 2)] * 3
    assert set(found["engines"][OURS]) == {"load", "save", "create", "delete", "added", "clear"}


def test_the_pages_have_the_table_and_the_plot_of_the_figures_that_are_kept(
    tmp_path: Path,
) -> None:
    run = benchmark("figures", f"--plot={tmp_path / 'plot.png'}")
    assert run.returncode == 0, run.stderr
    _, table, *plot = run.stdout.strip().split("\n\n")
    assert len(table.splitlines()) > 8
    assert f"<!-- table -->\n\n{table}\n\n<!-- end" in (ROOT / "docs/benchmarks.md").read_text()
    bars = "\n\n".join(plot)
    assert len(bars.splitlines()) > 8
    assert f"```text\n{bars}\n```" in (ROOT / "README.md").read_text()
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def sample_figures(*operations: str) -> dict[str, Any]:
    row = {name: [10.0, 20.0, 400.0] for name in operations}
    return {"sessions": 100, "rounds": 7, "engines": dict.fromkeys(DEFAULT, row)}


def test_plot_has_dots_and_ranges_on_one_scale_and_says_what_they_mean() -> None:
    drawn = figures.draw(sample_figures("load", "save", "delete"))
    titles = [axis.get_title(loc="left") for axis in drawn.axes]
    assert titles == ["load", "save of a changed session"]
    assert len({axis.get_xlim() for axis in drawn.axes}) == 1
    for axis in drawn.axes:
        assert axis.get_xscale() == "log"
        assert not axis.patches, "A bar's length means nothing on a logarithmic axis."
        ranges, dots = axis.lines[::2], axis.lines[1::2]
        assert {tuple(line.get_xdata()) for line in ranges} == {(10.0, 400.0)}
        assert {tuple(line.get_xdata()) for line in dots} == {(20.0,)}
        assert len(dots) == len(DEFAULT)
    (legend,) = drawn.legends
    said = " ".join(text.get_text() for text in legend.get_texts())
    for words in ("this package", "Django's", "on a server", "median of 7", "fastest", "slowest"):
        assert words in said


def test_plot_shows_what_was_measured_and_no_more() -> None:
    assert figures.draw(sample_figures("delete")) is None


def test_cached_db_and_server_stores_are_among_the_engines() -> None:
    assert {"cached_db", "kvsessions-redis", "cache-redis", "django-redis"} <= set(DEFAULT)


# The other sub-commands


@pytest.mark.servers
def test_redis_is_compared_in_both_colours(tmp_path: Path) -> None:
    try:
        redis_binary()
    except Missing as reason:
        missing(reason)
    names = ("kvsessions-redis", "kvsessions-layered-redis", "cache-redis", "django-redis")
    found = tiny_run(tmp_path, "redis", *TINY)
    rows = found.results["operations"]["100"]
    assert set(rows) == set(names)
    for row in rows.values():
        assert set(row) == {"create", "load", "save", "delete", "aload", "asave"}
    assert "times the time of kvsessions on Redis" in found.output


def test_table_of_a_database_is_compared(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, "database", "--database=sqlite-wal", *TINY)
    rows = run.results["operations"]["100"]
    assert set(rows) == {"kvsessions-sqlite-wal", "db-sqlite-wal"}
    assert set(rows["db-sqlite-wal"]) == {"create", "load", "save", "delete"}


def test_saves_are_timed_while_two_others_clean_up(tmp_path: Path) -> None:
    arguments = ("--database=sqlite-wal", "--rounds=1", "--clean-up=200")
    found = tiny_run(tmp_path, "database", *arguments).results["clean_up"]
    assert (found["sessions"], found["expired"]) == (180, 20)
    assert found["during"][0]["longest"] >= found["during"][0]["median"] > 0
    assert found["alone"][0]["count"] > 0


def test_lmdb_is_measured_among_many_and_a_tenth(tmp_path: Path) -> None:
    found = tiny_run(tmp_path, "lmdb", "--sessions=1000", "--rounds=1").results
    assert set(found["operations"]) == {"100", "1000"}
    assert set(found["clear_few"]) == {"100", "1000"}
    assert found["footprint"]["open"]["1000"][LMDB][0] > 0
    assert found["growth"][0] >= 1


def test_processes_share_sessions_and_wait_for_a_compaction(tmp_path: Path) -> None:
    arguments = ("--sessions=50", "--records=50", "--processes=1,2", "--seconds=0.1", "--rounds=1")
    run = tiny_run(tmp_path, "processes", *arguments, f"--engines={OURS}")
    rates = run.results["rates"]["50"][OURS]
    assert set(rates) == {"1", "2"}
    assert all(rate > 0 for (rate,) in rates.values())
    assert run.results["compaction"]["during"][0]["count"] > 0


def test_asgi_measures_each_view(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, "asgi", f"--engines={OURS}", "--rounds=1", "--seconds=0.1")
    rates = run.results["asgi"][OURS]
    assert set(rates) == {"plain", "read", "write"}
    assert all(rate > 0 for (rate,) in rates.values())


def test_races_count_what_is_kept(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, "races", "--engines=file", "--steps=2")
    race = run.results["races"]["file"]
    assert race["sent"] == race["acknowledged"] == 2 * 16
    assert run.results["lost"]["file"]["keys"] == [race["sent"] - race["keys"]]


def test_load_profile_times_the_whole_and_its_parts(tmp_path: Path) -> None:
    parts = tiny_run(tmp_path, "load-profile", *TINY).results["parts"]
    assert parts["kvsessions, the whole load"] > parts["its id hashed"] > 0


# Two versions of the package


def test_compare_finds_the_slower_of_a_commit_and_a_folder(tmp_path: Path) -> None:
    slow, out = tmp_path / "slow", tmp_path / "out"
    shutil.copytree(ROOT / "django_kvsessions", slow / "django_kvsessions")
    out.mkdir()
    with (slow / "django_kvsessions" / "engine.py").open("a") as engine:
        engine.write(SLOW_LOAD)
    before = "HEAD" if (ROOT / ".git").exists() else str(ROOT)
    arguments = ("--pairs=1", "--operations=load", f"--stores={OURS}", "--processor")
    run = tiny_run(out, "compare", before, str(slow), *arguments, *TINY, "--rounds=3")
    taken = run.results["compare"][OURS]
    assert [len(taken["load"][side]["0"]) for side in ("before", "after")] == [3, 3]
    assert run.results["ratios"][OURS]["load"][0] > 3
    assert f"after: {slow}" in run.output
    if before == "HEAD":
        head = ["git", "-C", str(ROOT), "log", "-1", "--format=%h %s"]
        line = subprocess.run(head, check=True, capture_output=True, text=True).stdout
        assert f"before: {line}" in run.output
    verdicts = {line.split("|")[1].strip(): line for line in run.output.splitlines() if "|" in line}
    assert "NO" in verdicts["kvsessions (the default): load"]
    assert {path.name for path in out.iterdir()} == {"results.json"}


SLOW_LOAD = """

import time

_load = SessionStore.load

def load(self):
    # Computing, not sleeping: --processor counts that alone.
    end = time.perf_counter() + 0.002
    while time.perf_counter() < end:
        pass
    return _load(self)

SessionStore.load = load
"""


def test_compared_is_the_middle_of_the_pairs_of_processes() -> None:
    # The third pair ran in a bad minute, which slowed both sides.
    before = {"0": [10.0, 10.0, 90.0], "1": [20.0], "2": [500.0]}
    after = {"0": [11.0, 11.0, 11.0], "1": [20.0], "2": [600.0]}
    assert ratio({"before": before, "after": after}) == (1.1, 1.0, 1.2)


def test_compare_names_what_is_no_version() -> None:
    run = benchmark("compare", "no-such-commit")
    assert run.returncode == 1
    assert "'no-such-commit' is neither a commit that has django_kvsessions/ nor" in run.stderr
    assert "Traceback" not in run.stderr


# What is stored, and how it is judged


def test_typical_session_is_600_bytes_of_json() -> None:
    sizes = {len(json.dumps(session_data(number))) for number in range(0, 10**6, 9973)}
    assert min(sizes) > 550
    assert max(sizes) < 680


BULK = """
import sys
from freezegun import freeze_time
from benchmarks.compare import ratio
from benchmarks.contenders import CONTENDERS
from benchmarks.sample import session_data, session_key
from benchmarks.worker import Worker

worker = Worker(CONTENDERS[sys.argv[1]])
from django.contrib.sessions.models import Session
from django.core.cache import cache

def kept():
    rows = list(Session.objects.values_list())
    cached = dict(getattr(cache, "_cache", {}))
    Session.objects.all().delete()
    cache.clear()
    return rows, cached

with freeze_time("2026-01-01"):
    worker.fill(1)
    worker.use(1)
    in_bulk = kept()
    session = worker._session(session_key(0))
    session._session_cache = session_data(0)
    session.save(must_create=True)
    assert kept() == in_bulk, in_bulk
    assert len(in_bulk[0]) == 1 and len(in_bulk[1]) == CONTENDERS[sys.argv[1]].in_process
"""


@pytest.mark.parametrize("name", ["db-sqlite", "db-sqlite-wal", "cached_db"])
def test_filling_in_bulk_stores_what_the_engine_would(name: str, tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", BULK, name],
        cwd=ROOT,
        env=os.environ | environment(CONTENDERS[name], Place(tmp_path)),
        check=False,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("name", [OURS, LMDB, "kvsessions-sqlite-wal", "db-sqlite-wal", "file"])
def test_expired_sessions_count_and_go(name: str, tmp_path: Path) -> None:
    population = Population(CONTENDERS[name], 5, tmp_path)
    with population.new_worker() as worker:
        worker.ask("fill", count=5, expired=3)
        assert worker.ask("stored") == 8
        worker.ask("clear")
        assert worker.ask("stored") == 5


def test_failing_worker_ends_the_run_with_its_error(tmp_path: Path) -> None:
    population = Population(CONTENDERS["file"], 100, tmp_path)
    message = "A session that was stored was not found"
    with closing(population), pytest.raises(RuntimeError, match=message):
        population.worker.ask("batch", operation="load", count=10)


def test_keys_are_distinct_and_valid() -> None:
    keys = {session_key(number) for number in range(1000)}
    assert len(keys) == 1000
    assert all(len(key) == 32 and key.isalnum() and key.islower() for key in keys)


def judged(targets: Sequence[Target], results: dict[str, Any], what: str) -> bool | None:
    (target,) = (target for target in targets if target.what == what)
    return target.judge(results)[1]


def test_targets_are_judged_by_the_median_of_the_rounds_ratios() -> None:
    def results(*ours: float) -> dict[str, Any]:
        rows = {OURS: {"load": ours}, "file": {"load": (100.0, 100.0, 1000.0)}}
        return {"operations": {"100000": rows}}

    what = "load, times faster than file"
    assert judged(Engines.targets, results(20.0, 20.0, 20.0), what) is True
    # 4, 2 and 10 times faster: 4 in the middle. The ratio of the medians would be 2.
    assert judged(Engines.targets, results(25.0, 50.0, 100.0), what) is True
    assert judged(Engines.targets, results(26.0, 50.0, 100.0), what) is False
    assert judged(Engines.targets, {}, what) is None


def test_one_lost_change_misses_the_target() -> None:
    results = {"lost": {OURS: {"keys": [1], "counters": [0], "common": [0]}}}
    assert judged(Races.targets, results, "parallel changes lost, keys") is False
    assert judged(Races.targets, results, "parallel changes lost, mutate") is True


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("engines --engines=paper", "not paper"),
        ("engines --operations=guess", "not guess"),
        ("engines --parts=lunch", "not lunch"),
        ("engines --skip=file@7", "file@7 is not measured anyway"),
        ("engines --sizes=20", "at least twice --batch"),
        ("breakfast", "invalid choice: 'breakfast'"),
    ],
)
def test_wrong_arguments_are_named(
    argument: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", *argument.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
