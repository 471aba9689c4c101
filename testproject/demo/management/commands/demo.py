"""``manage.py demo``: the site under real traffic, with a report."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from argparse import ArgumentTypeError
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from demo.stores import NAMES, session_stores
from demo.tally import Tally
from testservers import Missing, Server

MANAGE = [sys.executable, str(Path(__file__).resolve().parents[3] / "manage.py")]


def at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ArgumentTypeError("must be at least 1")
    return number


class Command(BaseCommand):
    help = (
        "Serves the site with gunicorn on throwaway data, sends concurrent visitors over HTTP, "
        "kills a worker, clears expired sessions, and reports what became of the sessions."
    )
    # The site runs in processes of its own, with other settings than this one.
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--store",
            choices=NAMES,
            default="semidbm",
            help="Where the sessions are kept; what server it needs is started for the demo. "
            "Default: %(default)s.",
        )
        parser.add_argument(
            "--engine",
            default="django_kvsessions.engine",
            metavar="MODULE",
            help="Another SESSION_ENGINE to compare with, such as "
            "django.contrib.sessions.backends.db. Default: %(default)s.",
        )
        parser.add_argument(
            "--move",
            choices=["db", "cached_db", "file"],
            help="Begin on that engine of Django's, move to the other one under traffic, all that "
            "is left with migratesessions, and move back.",
        )
        parser.add_argument(
            "--encryption", action="store_true", help="With SESSION_ENCRYPTION, while keys rotate."
        )
        for name, default, what in (
            ("requests", 3000, "How many HTTP requests to make, at least"),
            ("clients", 8, "How many visitors are there at a time"),
            ("workers", 2, "Processes of gunicorn"),
            ("threads", 4, "Threads in each of them"),
            ("seconds", 35, "After how long to stop even if there were fewer requests"),
        ):
            parser.add_argument(
                f"--{name}",
                type=at_least_one,
                default=default,
                metavar="N",
                help=f"{what}. Default: %(default)s.",
            )
        parser.add_argument(
            "--keep", action="store_true", help="Keep the folder with the data and gunicorn's log."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        folder = Path(tempfile.mkdtemp(prefix="kvsessions-demo-"))
        try:
            with session_stores(options["store"], folder) as configured:
                environment = {
                    "KVSESSIONS_DEMO": "1",
                    "KVSESSIONS_ENCRYPTION": "1" if options["encryption"] else "",
                    "KVSESSIONS_ENGINE": options["engine"],
                    "KVSESSIONS_STORES": json.dumps(configured),
                    "KVSESSIONS_VAR": str(folder),
                    # What this process can import, the site can.
                    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                }
                self.run_demo(folder, environment, options)
        except Missing as reason:
            raise CommandError(str(reason), returncode=os.EX_UNAVAILABLE) from reason
        finally:
            if options["keep"]:
                self.stdout.write(f"\nThe data and gunicorn.log are in {folder}")
            else:
                shutil.rmtree(folder, ignore_errors=True)

    def run_demo(self, folder: Path, environment: dict[str, str], options: dict[str, Any]) -> None:
        for name in ("gunicorn", "httpx"):
            if find_spec(name) is None:
                raise CommandError(f"{name} is not installed: pip install gunicorn httpx")
        from demo.moving import Move
        from demo.residents import MoveTally
        from demo.traffic import Traffic

        workers, threads, clients = options["workers"], options["threads"], options["clients"]
        engine = options["engine"]
        preparations = [["migrate", "--verbosity", "0"]]
        if not engine.startswith("django.contrib."):
            engine += f" on {options['store']}"
            engine += ", encrypted" if options["encryption"] else ""
            preparations.append(["setupsessions"])
        for command in preparations:
            done = subprocess.run(
                [*MANAGE, *command],
                env={**os.environ, **environment},
                check=False,
                stdout=subprocess.DEVNULL,
            )
            if done.returncode:
                raise CommandError(f"manage.py {command[0]} failed.")
        self.stdout.write(
            f"{engine}: {workers} gunicorn workers with {threads} threads each, "
            f"{clients} visitors at a time\n\n"
        )
        log = folder / "gunicorn.log"

        def gunicorn_command(_: Path, port: int) -> list[str]:
            line = [sys.executable, "-m", "gunicorn", "website.wsgi"]
            line += ["--config", "python:demo.gunicorn_config", "--error-logfile", str(log)]
            line += ["--workers", str(workers), "--threads", str(threads)]
            return [*line, "--bind", f"127.0.0.1:{port}"]

        requests, seconds = options["requests"], options["seconds"]
        tally: Tally
        if options["move"]:
            tally = MoveTally()
            former = f"django.contrib.sessions.backends.{options['move']}"
            (folder / "engine.json").write_text(json.dumps({"SESSION_ENGINE": former}))
            with Server(gunicorn_command, env=environment) as server:
                move = Move(server, tally, MANAGE, environment, log, workers)
                asyncio.run(move.move(former, options["engine"], requests, clients, seconds))
        else:
            tally = Tally()
            with Server(gunicorn_command, env=environment) as server:
                traffic = Traffic(server, tally, [*MANAGE, "clearsessions"], environment)
                asyncio.run(traffic.run(requests, clients, seconds))
        self.stdout.write(tally.report())
        if not tally.is_clean:
            self.complain(tally, log)

    def complain(self, tally: Tally, log: Path) -> None:
        findings = tally.findings()
        lines = ["The sessions are not as they should be:", *findings[:10]]
        if len(findings) > 10:
            lines.append(f"and {len(findings) - 10} more")
        lines += ["The end of gunicorn's log:", log.read_text(errors="replace")[-3000:]]
        raise CommandError("\n".join(lines))
