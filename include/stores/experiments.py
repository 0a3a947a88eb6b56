"""The experiment store: what state every rollout is in, and what was decided about it, and why.

Two backends keep one contract (``tests/stores/test_experiments.py``): a SQLite file on one machine, a DynamoDB table on AWS. Gateways read the
state and put what they counted; only whoever holds the current version may write the next one, so that of two writers one is told to look again.
Every write is one transaction: it is there whole, with its history, or not at all.

    open_store("sqlite:////var/lib/fraud/experiments.db")
    open_store("dynamodb://fraud-lifecycle-experiments?region=eu-west-1")
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

from include.lifecycle.experiment import LATENCY_BOUNDS_MS, SCORE_CELLS, Command, Entry, Experiment, GatewayHealth, VariantCounts
from include.lifecycle.rollout import NOT_DONE, Advance, advance

COMMANDS_AT_ONCE = 40
"""How many commands are handed out, oldest first, before those are done: with their entries they fit into one transaction (DynamoDB: 100 items)."""
_TRIES = 5
_CELLS = {"latencies": len(LATENCY_BOUNDS_MS) + 1, "scores": SCORE_CELLS}


class ExperimentStoreError(Exception):
    """What every error of a store is."""


class ExperimentStoreUnavailable(ExperimentStoreError):
    """The store does not answer, is not there, or holds what this code cannot read. Nothing is known of any experiment: the champion decides."""


class VersionConflict(ExperimentStoreError):
    """Somebody else has written a version since. Read again, and decide again."""


class ExperimentRunning(ExperimentStoreError):
    """A domain's endpoint has room for one experiment at a time. The message names the one that has not ended."""


class UnknownExperiment(ExperimentStoreError):
    """No experiment has that id."""


class ExperimentStore(Protocol):
    """Every method raises ``ExperimentStoreUnavailable`` some seconds after the store has ceased to answer: SQLite takes two at most, a request to
    DynamoDB two and a half, and some methods make several. Those that name an experiment raise ``UnknownExperiment``. Safe to share between
    threads."""

    def ensure(self) -> None:
        """Makes the file or the table where it is absent. Nothing else makes it: a wrong URL is an error, no empty store."""

    def create(self, experiment: Experiment, entries: Sequence[Entry] = ()) -> Experiment:
        """Stores version 1. The same id with the same models again: what is stored, whatever became of it. ``ExperimentRunning`` while the
        domain has another that has not ended."""

    def find(self, experiment: str) -> Experiment | None:
        """None where no experiment has that id."""

    def get(self, experiment: str) -> Experiment: ...

    def current(self, domain: str) -> Experiment | None:
        """The domain's experiment that has not ended; if all have, the last one; None where there never was one."""

    def save(self, experiment: Experiment, entries: Sequence[Entry] = (), done: Sequence[str] = ()) -> Experiment:
        """Stores the version after ``experiment.version``, its history's new lines, and that the commands of the ids ``done`` have been heeded.
        ``VersionConflict`` unless the stored version is ``experiment.version``. ``ExperimentStoreError`` for a stage after the end."""

    def history(self, experiment: str) -> list[Entry]:
        """All of it, oldest first."""

    def give(self, experiment: str, command: Command) -> None:
        """Hands a person's command to whoever advances the experiment. Of two with one id, the first counts, done or not."""

    def commands(self, experiment: str) -> list[Command]:
        """Those not yet done, in the order in which they were given, ``COMMANDS_AT_ONCE`` at most."""

    def put_health(self, experiment: str, health: GatewayHealth) -> None:
        """In the place of the same gateway's last one for the same step: its counts go on from there, so a gateway that starts anew, with counts
        of 0, must take a new name."""

    def healths(self, experiment: str, step: int) -> list[GatewayHealth]:
        """The last of each gateway for that step, by the gateways' names. Where a store forgets them, it does so after a month. What a gateway
        of other code put, with other fields or cells, is left out: nothing is known of that gateway."""

    def note_watched(self, experiment: str, at: str) -> None:
        """Notes the clock's instant ``at`` (ISO 8601, UTC), at which somebody looked at the experiment's guardrails, in the place of the last one."""

    def watched(self, experiment: str) -> str | None:
        """The last instant noted; None before the first. Gateways give a challenger no traffic that nobody watches."""


def open_store(url: str, *, client: Any = None, kms_key: str | None = None, tags: Mapping[str, str] | None = None) -> ExperimentStore:
    """The store of a URL; nothing is read yet. ValueError for what is no such URL.

    ``client``: of DynamoDB, with short timeouts, in place of the environment's. ``kms_key``, ``tags``: for a table that ``ensure`` makes.
    """
    parts = urlsplit(url)
    path = url.partition("://")[2].partition("?")[0]
    if parts.scheme == "sqlite" and path.startswith("/") and len(path) > 1 and not parts.query:
        from include.stores.experiments_sqlite import SQLiteExperiments

        return SQLiteExperiments(Path(path))
    options = parse_qs(parts.query)
    if parts.scheme == "dynamodb" and parts.netloc and parts.path in ("", "/") and set(options) <= {"region"}:
        from include.stores.experiments_dynamodb import DynamoExperiments  # boto3: what runs on SQLite starts without it

        return DynamoExperiments(parts.netloc, options.get("region", [None])[0], client, kms_key, tags or {})
    raise ValueError(f"{url!r} is no experiment store: sqlite:///<absolute path of a file> or dynamodb://<table>[?region=<region>]")


def change(store: ExperimentStore, experiment: str, decide: Callable[[Experiment], Advance], now: str) -> Experiment:
    """Stores what ``decide`` makes of the experiment, and decides anew where somebody else was faster; what is stored then is answered. Without
    entries or commands that were done, nothing is stored.

    ``now``: the clock's instant, ISO 8601, UTC: that of a new step, and of the ramp's beginning, which gateways get to know of after it.
    VersionConflict where others wrote five times in between."""
    for _ in range(_TRIES):
        present = store.get(experiment)
        after = decide(present)
        if not after.entries and not after.done:
            return present
        try:
            return store.save(_stamped(present, after.experiment, now), after.entries, after.done)
        except VersionConflict:
            continue
    raise VersionConflict(f"{experiment}: {_TRIES} times somebody else was faster")


@dataclass(frozen=True)
class Heeded:
    """``experiment``: what it has become. ``entry``: the history's line on the command that was given, whoever did it, and whenever; None without a
    command, while ``COMMANDS_AT_ONCE`` older ones are before it, and where code did it that kept no ids in the history."""

    experiment: Experiment
    entry: Entry | None

    @property
    def refused(self) -> str:
        """Why the command was not done, in the history's words; empty where nothing says that it was refused."""
        return self.entry.says if self.entry is not None and self.entry.says.startswith(NOT_DONE) else ""


def heed(store: ExperimentStore, experiment: str, command: Command | None, now: str) -> Heeded:
    """Does at once what people have asked for and nobody has done yet, so that a stop needs no scheduler.

    ``command``: one that is given before that, or None. Given again, one that was done or refused changes nothing, and the same is answered; one
    that cannot be done changes nothing but the history, which says why. VersionConflict as ``change`` has it: the command waits in the store."""
    if command:
        store.give(experiment, command)

    def asked(present: Experiment) -> Advance:
        return advance(present, as_of=present.as_of, evidence=None, readings=(), commands=store.commands(experiment))

    try:
        change(store, experiment, asked, now)
    except VersionConflict as conflict:
        waits = f"; the command {command.id} is in the store, and waits" if command else ""
        raise VersionConflict(f"{conflict}{waits}") from conflict
    # somebody else may have done it, now or long ago: so its line is looked for in all of the history, and the state is read anew
    entry = next((entry for entry in store.history(experiment) if entry.command == command.id), None) if command else None
    return Heeded(store.get(experiment), entry)


def _stamped(before: Experiment, after: Experiment, now: str) -> Experiment:
    if after.step == before.step:
        return after
    return after.but(step_began=now, ramp_began=after.ramp_began or (now if after.stage == "ramp" else ""))


def running(experiment: Experiment) -> ExperimentRunning:
    """The refusal of a second experiment beside ``experiment``."""
    where = f"it is in the stage {experiment.stage}, since {experiment.stage_since or experiment.opened}"
    return ExperimentRunning(f"{experiment.domain}: the experiment {experiment.id} has not ended ({where}): stop it, or wait for its end")


def same_experiment(stored: Experiment, experiment: Experiment) -> Experiment:
    """``stored``, which was found under the id of ``experiment``. ExperimentStoreError where it is about other models."""
    if (stored.domain, stored.champion, stored.challenger) != (experiment.domain, experiment.champion, experiment.challenger):
        raise ExperimentStoreError(f"the id {experiment.id} is taken by an experiment of {stored.domain} with other models: choose another")
    return stored


def check_successor(stored: Experiment, experiment: Experiment) -> None:
    """VersionConflict or ExperimentStoreError where ``experiment`` cannot follow ``stored``."""
    if stored.version != experiment.version:
        raise VersionConflict(f"{experiment.id}: version {stored.version} is stored, and this would follow version {experiment.version}")
    if stored.ended and (stored.stage, stored.share) != (experiment.stage, experiment.share):
        raise ExperimentStoreError(f"{experiment.id} has ended as {stored.stage}: that is final")


# ------------------------------------------------------------------------------------------------------------------- as JSON text


def experiment_text(experiment: Experiment) -> str:
    return _text(experiment.as_json())


def experiment_of(text: str) -> Experiment:
    """ExperimentStoreUnavailable for a document of other code: nothing may be decided by half of it."""
    try:
        return Experiment.of_json(json.loads(text))
    except (ValueError, KeyError, TypeError) as error:
        raise ExperimentStoreUnavailable(f"an experiment of the store was written by other code, and cannot be read ({error!r})") from error


def entry_text(entry: Entry) -> str:
    return _text(asdict(entry))


def entry_of(text: str) -> Entry:
    return Entry(**json.loads(text))


def command_text(command: Command) -> str:
    return _text(asdict(command))


def command_of(text: str) -> Command:
    return Command(**json.loads(text))


def health_text(health: GatewayHealth) -> str:
    return _text(asdict(health))


def healths_of(texts: Iterable[str]) -> list[GatewayHealth]:
    """Those that this code can read, and add: a guardrail that lacks a gateway's counts fails closed, one that raises judges nothing."""
    return [health for text in texts if (health := _health(text)) is not None]


def _health(text: str) -> GatewayHealth | None:
    try:
        content = json.loads(text)
        health = GatewayHealth(**content | {slot: _counts(content[slot]) for slot in ("champion", "challenger")})
        return health if datetime.fromisoformat(health.seen_at).tzinfo else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _counts(content: Mapping[str, Any]) -> VariantCounts:
    """What is no such thing raises a ValueError, KeyError or TypeError. No cells at all are right: nothing was counted by them."""
    typed: dict[str, Any] = {name: tuple(value) if name in _CELLS else value for name, value in content.items()}
    counts = VariantCounts(**typed)
    numbers = (counts.requests, counts.errors, counts.fallbacks, counts.reviews, *counts.latencies, *counts.scores)
    if any(type(number) is not int or number < 0 for number in numbers):
        raise ValueError("a count is a number of 0 or more")
    if any(len(typed[name]) not in (0, cells) for name, cells in _CELLS.items()):
        raise ValueError("counts by other cells do not add to these")
    return counts


def _text(content: Any) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
