"""steer: a person's hand on the rollout that is under way, and a look at it.

    python -m include.jobs steer --domain … --action show
    python -m include.jobs steer --domain … --action stop --why "the campaign begins tomorrow"
    python -m include.jobs steer --domain … --action set_share --share .1 --why "…"

stop: the challenger gets no traffic any more. roll_back: the same, as a judgement on it. promote: it is to take the traffic though it is not
proven, or not found safe; the approval before a promotion is still asked, where the domain wants it. set_share: in the ramp only; the cap follows,
and the bandit goes on from there with the next epoch.

A command is done at once, in the experiment store, where it is kept with who and why: it needs no scheduler, and gateways follow within a second or
two. The endpoint and the registry follow with ``retrain_and_rollout``, at its next look. What cannot be done as things stand is refused.
"""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from include.jobs.context import JobContext, JobError
from include.lifecycle.as_of import iso
from include.lifecycle.experiment import ACTIONS, Command, Entry, Experiment
from include.lifecycle.names import digest
from include.lifecycle.rollout import refusal
from include.stores.experiments import ExperimentStore, ExperimentStoreError, heed, open_store

STORE_VARIABLE = "FRAUD_EXPERIMENTS"
_LONGEST_REASON = 500
_SHOWN_ENTRIES = 12
_FOLLOWS = {
    "stop": "takes the challenger off the endpoint",
    "roll_back": "takes the challenger off the endpoint",
    "promote": "asks for the approval, where the domain wants one, and gives the challenger all traffic",
    "set_share": "brings the weights of the endpoint's variants there, and evidence goes on to move the share",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--action", required=True, choices=["show", *ACTIONS], help="what the rollout is to do; show only tells how it is")
    parser.add_argument("--store", help=f"URL of the experiment store (default: ${STORE_VARIABLE})")
    parser.add_argument("--share", type=float, help="for set_share: of the entities, more than 0 and less than 1")
    parser.add_argument("--why", default="", help="kept in the rollout's history; every action but show wants it")
    parser.add_argument("--who", help="kept there too (default: the login name)")


def run(options: argparse.Namespace, context: JobContext) -> dict[str, Any]:
    """Result, after the command: {"experiment", "stage", "share", "cap", "as_of", "why", "waiting": [commands not done], "given": id | null}."""
    store = _store(options.store)
    try:
        present = store.current(context.domain.name)
        if present is None:
            raise JobError(f"there never was a rollout of {context.domain.name} in this store: is it the right one (--store)?")
        given = None if options.action == "show" else _checked(present, options)
        heeded = heed(store, present.id, given, iso(datetime.now(UTC))) if given else None
        if heeded:
            present = heeded.experiment
        history, waiting = store.history(present.id), store.commands(present.id)
        print(_as_text(present, history, waiting), file=sys.stderr)
        if given and heeded:
            if heeded.refused:  # others were faster
                raise JobError(f"{present.id}: {heeded.refused}")
            print(f"Done: {heeded.entry.says if heeded.entry else given.action}", file=sys.stderr)
            print(f"Gateways follow within a second or two; retrain_and_rollout {_FOLLOWS[given.action]}.", file=sys.stderr)
    except ExperimentStoreError as error:
        raise JobError(str(error)) from error
    shown = {name: getattr(present, name) for name in ("stage", "share", "cap", "as_of", "why")}
    left = [f"{command.id}: {command.action}" for command in waiting]
    return {"experiment": present.id, **shown, "waiting": left, "given": given.id if given else None}


def _store(url: str | None) -> ExperimentStore:
    url = url or os.environ.get(STORE_VARIABLE)
    if not url:
        raise JobError(f"which experiment store? Say --store, or set {STORE_VARIABLE}")
    try:
        return open_store(url)
    except ValueError as error:
        raise JobError(str(error)) from error


def _checked(experiment: Experiment, options: argparse.Namespace) -> Command:
    """JobError where it cannot be done as things stand."""
    command = _command(experiment, options)
    if refused := refusal(experiment, command):
        raise JobError(f"{experiment.id}: {command.action} cannot be done: {refused}")
    return command


def _command(experiment: Experiment, options: argparse.Namespace) -> Command:
    why = options.why.strip()
    if not why or len(why) > _LONGEST_REASON:
        raise JobError(f"--why is kept in the rollout's history: say it, in {_LONGEST_REASON} characters at most")
    if (options.share is None) == (options.action == "set_share"):
        raise JobError("--share goes with set_share, which wants it, and with nothing else")
    who = (options.who or _login_name()).strip()
    identity = digest([experiment.id, experiment.version, options.action, options.share, who, why])
    return Command(identity, options.action, who, why, options.share)


def _login_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError) as error:  # a container's user need have no name
        raise JobError("nobody knows the login name here: say --who") from error


def _as_text(experiment: Experiment, entries: Sequence[Entry], waiting: Sequence[Command]) -> str:
    """For a terminal: where it is, what waits to be done, the last lines of its history."""
    lines = [
        f"rollout {experiment.id} of {experiment.domain}: {experiment.stage} since {experiment.stage_since or experiment.opened}",
        f"  champion    {experiment.champion.model_package}",
        f"  challenger  {experiment.challenger.model_package}",
        f"  share       {experiment.share:.1%} of the entities are the challenger's (cap {experiment.cap:.1%})",
        f"  as of       {experiment.as_of or experiment.opened}, the data's time",
        *([f"  why         {experiment.why}"] if experiment.why else []),
        *(f"  waiting     {command.action}, asked for by {command.who}: {command.why}" for command in waiting),
        "",
        f"{'as of':<21}{'stage':<13}{'share':>7}{'cap':>7}  {'who':<12}what and why",
    ]
    if len(entries) > _SHOWN_ENTRIES:
        lines.append(f"({len(entries) - _SHOWN_ENTRIES} earlier)")
    for entry in entries[-_SHOWN_ENTRIES:]:
        lines.append(f"{entry.as_of:<21}{entry.stage:<13}{entry.share:>7.1%}{entry.cap:>7.1%}  {entry.who:<12}{entry.says}")
    return "\n".join([*lines, ""])
