"""replay: a domain's events through its live endpoint as if their days passed now, and what was landed meanwhile delivered on its day.

For each event day from ``--first-day`` to ``--last-day``, in order: the day's stored features (``features/dt=<day>/``) are sent in the order of event
time, one request an event, with the event's id as inference id and ``event_time=<instant>`` as custom attribute; then, with ``--landing``, the files
of that delivery day land under ``raw/``: those of labels, or of all tables. What ingests them is the caller's business.

``--landing`` is a folder as ``simulate`` writes it: ``<table>/dt=<delivery day>/<file>``. To have features of simulated days at all, land their files
first (``--only-land --land all``) and ingest them.

Captures reach S3 seconds (on AWS: minutes) after the answers; ``--wait-for-captures`` ends the job when they are there, so that what is collected
next is whole.

``--gateway`` sends the same events through a gateway in front of the endpoint instead, which decides who answers.

A day that went through this endpoint's configuration, or through its gateways, whole is not sent again, unless its features have changed since, or
with ``--again``.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import re
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
from botocore.config import Config
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from include.jobs.context import JobContext, JobError
from include.jobs.dataset_file import DatasetFile
from include.jobs.replay_targets import EndpointTarget, Event, GatewayTarget, LiveEndpoint, MayPass, NewCaptures, Target, read_key
from include.lifecycle.as_of import Days
from include.lifecycle.domain import LABELS_TABLE
from include.lifecycle.names import endpoint_name
from include.stores.layout import Layout
from include.stores.objects import ObjectNotFoundError, ObjectStore
from include.stores.partitions import Partitions

_WAITS = (0.2, 0.5, *[1.0] * 30)
"""Seconds before an event is sent again that the endpoint could not answer."""
_MOST_CONNECTIONS = 64
_THROUGH_GATEWAYS = "gateway"
"""In the place of a configuration: gateways stay while configurations come and go."""
_INFERENCE_ID = re.compile(r"[!-~][ -~]{0,63}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--endpoint", help="(default: the domain's)")
    parser.add_argument("--first-day", required=True, type=date.fromisoformat, help="event day, UTC")
    parser.add_argument("--last-day", required=True, type=date.fromisoformat, help="last event day, UTC, included")
    parser.add_argument("--gateway", metavar="URL", help="send the events through this gateway, as http://127.0.0.1:8090")
    parser.add_argument("--api-key-file", type=Path, metavar="FILE", help="with --gateway: a file with an API key that may score")
    parser.add_argument(
        "--missing", action="append", default=[], metavar="FEATURE", help="send events without it (repeatable): a feed that broke"
    )
    parser.add_argument("--rate", type=float, help="requests a second at most (default: as many as are answered)")
    parser.add_argument("--percentage", type=int, default=100, help="of the events, always the same ones (default: 100)")
    parser.add_argument("--connections", type=int, default=4, help="requests under way at once (default: 4)")
    parser.add_argument(
        "--wait-for-captures", type=float, default=0.0, metavar="SECONDS", help="how long to wait for them (default: not at all)"
    )
    parser.add_argument("--again", action="store_true", help="send days that went through this endpoint before, too")
    parser.add_argument(
        "--landing", type=Path, help="folder of landing files, <table>/dt=<delivery day>/<file>, to be delivered as days pass"
    )
    parser.add_argument("--land", choices=("labels", "all"), default="labels", help="which of them (default: labels)")
    parser.add_argument("--only-land", action="store_true", help="deliver the files of those days, send nothing")


def run(options: argparse.Namespace, context: JobContext) -> dict[str, Any]:
    """Result: {"endpoint", "configuration" (of the endpoint; null with --only-land), "gateway" (its address or null), "events" (sent), "seconds",
    "days": [{"day", "events", "seconds", "longest_seconds" (until the slowest event was answered, tries included)}], "skipped_days" (sent before),
    "days_without_features", "landed" (URIs of files), "captured" (new lines in S3; null where they were not waited for)}.

    JobError where the endpoint is not in service, captures nothing of this domain, or refuses an event; where a day's features are not the
    model's; and for arguments that make no sense. What was sent until then stays sent, and is skipped next time."""
    days = _checked(options)
    landing = Landing(context.objects, context.layout, options.landing, _tables(context, options.land)) if options.landing else None
    result: dict[str, Any] = {
        "endpoint": None,
        "configuration": None,
        "gateway": options.gateway,
        "events": 0,
        "seconds": 0.0,
        "captured": None,
    }
    result |= {name: [] for name in ("days", "skipped_days", "days_without_features", "landed")}
    if options.only_land:
        assert landing is not None  # noqa: S101 -- for mypy: _checked refuses it
        return result | {"landed": [uri for day in days for uri in landing.deliver(day)]}
    name = options.endpoint or endpoint_name(context.domain.name)
    live = LiveEndpoint.find(context, boto3.client("sagemaker"), name, changing=options.gateway is not None)
    if unknown := sorted(set(options.missing) - set(live.features)):
        raise JobError(f"--missing {unknown[0]}: the model of {live.name} has no such feature; it has {', '.join(live.features)}")
    sender = Sender(_target(options, context, live), options.rate, options.connections)
    captured = NewCaptures(context, live) if options.wait_for_captures else None
    versions = Partitions(context.objects, context.layout.features).versions(days[0], days[-1])
    result |= {"endpoint": live.name, "configuration": live.configuration}
    with progress_of(sum(1 for day in days if day in versions)) as shown:
        for day in days:
            marker = context.layout.replayed(live.name, _THROUGH_GATEWAYS if options.gateway else live.configuration, day)
            if day not in versions:
                result["days_without_features"].append(day.isoformat())
            elif not options.again and _was_sent(context.objects, marker, versions[day], options.percentage):
                result["skipped_days"].append(day.isoformat())
                shown.say(f"{day}: went through {sender.target.name} before")
            else:
                result["days"].append(_send_day(context, day, sender, live, options, shown))
                events = result["days"][-1]["events"]
                context.objects.put_json(marker, {"features": versions[day], "percentage": options.percentage, "events": events})
            landed = landing.deliver(day) if landing else []
            if landed:
                result["landed"] += landed
                shown.say(f"{day}: {len(landed)} files landed")
        result["events"] = sum(day["events"] for day in result["days"])
        if captured is not None:
            result["captured"] = captured.wait(result["events"], options.wait_for_captures)
            shown.say(f"{result['captured']:,} requests are captured")
    result["seconds"] = round(sum(day["seconds"] for day in result["days"]), 3)
    return result


def _target(options: argparse.Namespace, context: JobContext, live: LiveEndpoint) -> Target:
    if options.gateway:
        return GatewayTarget(options.gateway, context.domain.name, live.features, options.connections, read_key(options.api_key_file))
    config = Config(max_pool_connections=options.connections, retries={"total_max_attempts": 1}, read_timeout=70)
    return EndpointTarget(boto3.client("sagemaker-runtime", config=config), live.name)


def _send_day(
    context: JobContext, day: date, sender: Sender, live: LiveEndpoint, options: argparse.Namespace, shown: _Shown
) -> dict[str, Any]:
    features = Partitions(context.objects, context.layout.features)
    rows = DatasetFile(context.objects.uri(features.key(day)), features.read(day))
    events = events_of(rows, live.features, options.percentage, options.missing)
    if options.gateway and (bare := [event.event_id for event in events if event.entity_id is None or math.isnan(event.amount)]):
        raise JobError(f"{rows.source}: {len(bare)} events have no entity or no amount, which a gateway wants to know: {bare[0]}")
    shown.begin(day, len(events))
    begun = time.monotonic()
    longest = sender.send(events, shown.advance)
    seconds = time.monotonic() - begun
    shown.say(f"{day}: {len(events):,} events in {seconds:.1f} s, {len(events) / max(seconds, 1e-9):,.0f} a second")
    return {"day": day.isoformat(), "events": len(events), "seconds": round(seconds, 3), "longest_seconds": round(longest, 3)}


def _checked(options: argparse.Namespace) -> list[date]:
    try:
        days = Days(options.first_day, options.last_day)
    except ValueError as error:
        raise JobError(f"--first-day, --last-day: {error}") from error
    if options.rate is not None and not options.rate > 0:
        raise JobError("--rate wants a number above 0")
    if not 1 <= options.percentage <= 100:
        raise JobError("--percentage wants 1 to 100")
    if not 1 <= options.connections <= _MOST_CONNECTIONS:
        raise JobError(f"--connections wants 1 to {_MOST_CONNECTIONS}")
    if options.api_key_file and not options.gateway:
        raise JobError("--api-key-file is for a --gateway")
    if options.only_land and options.landing is None:
        raise JobError("--only-land wants --landing, the folder of the files")
    if options.landing is not None and not options.landing.is_dir():
        raise JobError(f"--landing {options.landing} is not a folder")
    return [days.first + timedelta(days=number) for number in range((days.last - days.first).days + 1)]


def _tables(context: JobContext, which: str) -> tuple[str, ...]:
    return (LABELS_TABLE,) if which == "labels" else tuple(table.name for table in context.domain.landing_tables)


def _was_sent(objects: ObjectStore, marker: str, version: str, percentage: int) -> bool:
    try:
        sent = objects.get_json(marker)
        return bool(sent["features"] == version and sent["percentage"] >= percentage)
    except ObjectNotFoundError:
        return False


# ---------------------------------------------------------------------------------------------------------------------- delivering


@dataclass(frozen=True)
class Landing:
    """``folder``/<table>/dt=<delivery day>/<file>, of which the files of ``tables`` are delivered."""

    objects: ObjectStore
    layout: Layout
    folder: Path
    tables: Sequence[str]

    def deliver(self, day: date) -> list[str]:
        """Lands the files of one delivery day; their URIs. Again, it puts the same objects."""
        return [
            self.objects.upload(path, self.layout.landing(table, day, path.name))
            for table in self.tables
            for path in sorted((self.folder / table / f"dt={day.isoformat()}").glob("*"))
            if path.is_file()
        ]


# ------------------------------------------------------------------------------------------------------------------------- sending


def events_of(rows: DatasetFile, features: tuple[str, ...], percentage: int = 100, missing: Collection[str] = ()) -> list[Event]:
    """The events in the order of time, without the values of the features ``missing``. JobError where a feature is not there or infinite, or an
    event's id is no inference id."""
    rows.matrix(features)  # which says what is wrong with them
    if wrong := [event for event in rows.texts("event_id") if not _INFERENCE_ID.fullmatch(event or "")]:
        raise JobError(f"{rows.source}: {len(wrong)} event ids cannot be inference ids, 1 to 64 printable ASCII characters: {wrong[0]!r}")
    ordered = DatasetFile(rows.source, rows.table.sort_by([("event_time", "ascending"), ("event_id", "ascending")]))
    columns = [[math.nan] * ordered.rows if name in missing else ordered.numbers(name).tolist() for name in features]
    times = ordered.table["event_time"].cast(pa.timestamp("us", "UTC")).to_pylist()
    facts = zip(ordered.texts("event_id"), times, ordered.texts("entity_id"), ordered.numbers("amount").tolist(), *columns, strict=True)
    return [
        Event(event, happened, entity, amount, tuple(values))
        for event, happened, entity, amount, *values in facts
        if percentage == 100 or _in_sample(str(event), percentage)
    ]


def _in_sample(event_id: str, percentage: int) -> bool:
    return int.from_bytes(hashlib.sha256(event_id.encode()).digest()[:8], "big") % 100 < percentage


@dataclass
class Sender:
    """``rate``: requests a second at most, None: no limit."""

    target: Target
    rate: float | None = None
    connections: int = 4

    def send(self, events: Sequence[Event], advance: Callable[[], None]) -> float:
        """Sends them in this order, several under way at once; ``advance`` is called after each answer. Returns how many seconds the slowest answer
        took, tries included. JobError for the first that fails."""
        stop, taking = threading.Event(), threading.Lock()
        waiting = self._paced(events, stop)
        failures: list[Exception] = []
        longest = [0.0]

        def work() -> None:
            while not stop.is_set():
                with taking:
                    event = next(waiting, None)
                if event is None:
                    return
                asked = time.monotonic()
                try:
                    self._ask(event, stop)
                    with taking:
                        longest[0] = max(longest[0], time.monotonic() - asked)
                    advance()
                except Exception as error:
                    failures.append(error)
                    stop.set()

        threads = [threading.Thread(target=work, daemon=True) for _ in range(min(self.connections, max(len(events), 1)))]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        finally:
            stop.set()  # Ctrl-C ends the threads, too
        if failures:
            raise failures[0]
        return longest[0]

    def _paced(self, events: Iterable[Event], stop: threading.Event) -> Iterator[Event]:
        begun = time.monotonic()
        for number, event in enumerate(events):
            if self.rate is not None:
                stop.wait(max(0.0, begun + number / self.rate - time.monotonic()))
            yield event

    def _ask(self, event: Event, stop: threading.Event) -> None:
        for wait in (*_WAITS, None):
            try:
                return self.target.ask(event)
            except MayPass as error:
                if wait is None:
                    raise JobError(f"event {event.event_id}: {self.target.name} did not answer: {error}") from error
                if stop.wait(wait):
                    return None
        return None


# ------------------------------------------------------------------------------------------------------------------------ progress


@dataclass
class _Shown:
    bar: Progress
    days: int
    task: Any = None
    begun: int = 0

    def begin(self, day: date, events: int) -> None:
        self.begun += 1
        if self.task is not None:
            self.bar.remove_task(self.task)
        self.task = self.bar.add_task(f"{day} ({self.begun} of {self.days})", total=events)

    def advance(self) -> None:
        self.bar.advance(self.task)

    def say(self, text: str) -> None:
        self.bar.console.print(f"replay: {text}", highlight=False, soft_wrap=True)


class _RateColumn(TextColumn):
    def render(self, task: Any) -> Any:
        return f"{task.speed:,.0f} a second" if task.speed else ""


@contextmanager
def progress_of(days: int) -> Iterator[_Shown]:
    """On a terminal a bar for the day under way, with its rate; and, anywhere, a line for each day, beside the result on standard output."""
    console = Console(file=sys.stderr)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TaskProgressColumn(),
        _RateColumn(""),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, refresh_per_second=4, disable=not console.is_terminal) as bar:
        yield _Shown(bar, days)
