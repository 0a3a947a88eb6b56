"""``python -m include.laptop demo|backfill|up|down|status|airflow|job|dags-page``: what ``make`` calls."""

from __future__ import annotations

import argparse
import os
import re
import sys
from datetime import date
from pathlib import Path
from typing import get_args

from include.laptop.processes import StackError
from include.laptop.rollout_days import Scenario
from include.lifecycle.domain import Domain
from include.settings import ROOT

STATE = ROOT / ".local"
SIMULATED = "simulated"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m include.laptop", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="the main job on the local stack, which stays up")
    demo.add_argument("--domain", default="auto_claims")
    demo.add_argument("--landing", type=Path, help="a folder with your own <table>.csv or <table>.parquet files")
    demo.add_argument("--year", type=int, help="the year of your events, where their dates carry none")
    demo.add_argument(
        "--scenario",
        choices=get_args(Scenario),
        help="better_challenger (default); bad_challenger: once the retrained model has live traffic, what it is asked lacks some features",
    )
    demo.add_argument("--stop", action="store_true", help="stop the stack at the end")
    backfill = commands.add_parser("backfill", help="train history again, as it would have been, and say when retraining would have paid")
    backfill.add_argument("--domain", default="auto_claims")
    backfill.add_argument(
        "--from-date", type=date.fromisoformat, required=True, help="first day, YYYY-MM-DD, of the training schedule's instants"
    )
    backfill.add_argument("--to-date", type=date.fromisoformat, required=True, help="last day, included")
    backfill.add_argument("--at-once", type=int, default=2, help="runs at once (default: 2)")
    backfill.add_argument("--again", action="store_true", help="also what has run before: finished jobs are adopted, changed code retrains")
    commands.add_parser("up", help="start the stack again")
    commands.add_parser("down", help="stop the stack; its state stays")
    commands.add_parser("status", help="what runs, and where")
    airflow = commands.add_parser("airflow", help="an `airflow` command on the stack: `airflow -- dags list`")
    airflow.add_argument("arguments", nargs=argparse.REMAINDER)
    job = commands.add_parser("job", help="one of the jobs' commands on the stack's data: `job -- history --domain card_payments`")
    job.add_argument("arguments", nargs=argparse.REMAINDER)
    page = commands.add_parser("dags-page", help="docs/DAGs.md, written from the DAGs")
    page.add_argument("path", type=Path)
    options = parser.parse_args()
    try:
        return _COMMANDS[options.command](options)
    except StackError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. The stack is still up: `make down` stops it.", file=sys.stderr)
        return 130


def _current() -> Path:
    """The home of the stack that was used last. Simulated and own data live in stacks of their own, so that one never trains on the other."""
    pointer = STATE / "current"
    return STATE / "stacks" / (pointer.read_text().strip() if pointer.exists() else SIMULATED)


def _choose(name: str) -> Path:
    """Makes this the current stack; another one that runs is stopped first."""
    from include.laptop.stack import Stack

    home = STATE / "stacks" / name
    if _current() != home and _current().exists():
        Stack(_current()).down()
    STATE.mkdir(exist_ok=True)
    (STATE / "current").write_text(name)
    return home


def _domain(name: str) -> Domain:
    from include import domains

    try:
        return domains.get(name)
    except LookupError as error:
        raise StackError(str(error)) from error


def _demo(options: argparse.Namespace) -> int:
    from include.domains import part
    from include.laptop.demo import Demo, refuse_another_end, write_summary
    from include.laptop.live_days import Plan
    from include.laptop.rollout_days import check_scenario
    from include.laptop.stack import Stack
    from include.lifecycle.names import digest

    domain = _domain(options.domain)
    if options.landing is not None and not options.landing.is_dir():
        raise StackError(f"{options.landing} is not a folder")
    live = None if options.landing else Plan(**part(domain.name, "simulator").LIVE)
    if options.scenario:
        check_scenario(domain, live, options.scenario)
    scenario: Scenario = options.scenario or "better_challenger"
    name = SIMULATED if scenario == "better_challenger" else scenario.replace("_", "-")
    if options.landing:
        folder = options.landing.resolve()
        name = f"landing-{re.sub(r'[^A-Za-z0-9]+', '-', folder.name)[:30]}-{digest(str(folder), 8)}"
    stack = Stack(_choose(name))
    try:
        summary = Demo(stack, domain, landing=options.landing, year=options.year, live=live, scenario=scenario).run()
        write_summary(STATE / "summary.json", summary)
        refuse_another_end(summary, scenario)
    finally:
        if options.stop:
            stack.down()
    if not options.stop:
        print("The stack is up: `make down` stops it, `make up` starts it again with everything still there.")
    return 0


def _up(_: argparse.Namespace) -> int:
    from include.laptop.stack import Stack

    stack = Stack(_current())
    stack.up()
    print(f"Airflow: {stack.url('airflow')}  {stack.login}")
    return 0


def _down(_: argparse.Namespace) -> int:
    from include.laptop.stack import Stack

    stopped = Stack(_current()).down() if _current().exists() else []
    print(f"Stopped {', '.join(stopped)}." if stopped else "Nothing was running.")
    return 0


def _status(_: argparse.Namespace) -> int:
    from include.laptop.stack import Stack

    if not _current().exists():
        print("No stack yet: `make demo` makes one.")
        return 0
    stack = Stack(_current())
    for service in stack.services:
        process = stack.processes.process(service.name)
        state = "down" if process is None else f"pid {process.pid}, {'ready' if service.ready() else 'not ready'}"
        print(f"{service.name:14} {state:24} {stack.processes.log(service.name)}")
    print(f"Airflow: {stack.url('airflow')}\nGateway: {stack.url('gateway')}/docs")
    return 0


def _backfill(options: argparse.Namespace) -> int:
    from include.laptop.backfill import Backfill
    from include.laptop.stack import Stack

    stack = Stack(_current())
    stack.up()
    Backfill(stack, _domain(options.domain), options.from_date, options.to_date, options.at_once, options.again).run()
    return 0


def _airflow(options: argparse.Namespace) -> int:
    from include.laptop.stack import Stack

    return _execute("airflow", options.arguments, Stack(_current()).airflow_environment)


def _job(options: argparse.Namespace) -> int:
    from include.laptop.stack import Stack

    return _execute("include.jobs", options.arguments, Stack(_current()).job_environment)


def _execute(module: str, arguments: list[str], environment: dict[str, str]) -> int:
    arguments = arguments[1:] if arguments[:1] == ["--"] else arguments
    os.execve(sys.executable, [sys.executable, "-m", module, *arguments], environment)  # noqa: S606 - our own command


def _dags_page(options: argparse.Namespace) -> int:
    from include.laptop.dags_page import dags_page

    options.path.write_text(dags_page(ROOT / "dags"), encoding="utf-8")
    return 0


_COMMANDS = {
    "demo": _demo,
    "backfill": _backfill,
    "up": _up,
    "down": _down,
    "status": _status,
    "airflow": _airflow,
    "job": _job,
    "dags-page": _dags_page,
}

if __name__ == "__main__":
    sys.exit(main())
